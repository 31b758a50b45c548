//! Errors that cross a wire: what happened, why, and what to type next.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of refusal this is; scripts may rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The code was used before.
    InviteUsed,
    /// The code is past its time.
    InviteExpired,
    /// No such code was ever made here, or it was removed.
    InviteUnknown,
    /// The code admits another role.
    InviteWrongRole,
    /// Posture does not pass.
    PostureFailed,
    /// Simulated facts, and the controller accepts none.
    SimulatedPosture,
    /// Policy does not permit it.
    NotPermitted,
    /// No connector of the app's site is connected, or none answered in time.
    NoConnector,
    /// The device, user, or certificate is blocked.
    Blocked,
    /// The certificate has expired.
    CertificateExpired,
    /// The clocks differ by more than is safe.
    ClockSkew,
    /// Proof of possession, signature, or identity did not hold.
    NotProven,
    /// The store accepts nothing at the moment.
    StorageRefused,
    /// The store is full.
    StorageFull,
    /// The two ends speak no common version.
    Version,
    /// The ledger was rolled back, and no admin has acknowledged it.
    SafeMode,
    /// What was named does not exist.
    NotFound,
    /// It exists already.
    Exists,
    /// The request is not valid as written.
    Invalid,
    /// A policy test failed.
    PolicyTestFailed,
    /// The caller may not ask this here.
    Unauthorized,
    /// Too much at once.
    Busy,
    /// A message that has no place here.
    Protocol,
    /// Not connected to the controller.
    Unreachable,
    /// The app's target refused the connection or did not answer.
    TargetUnreachable,
    /// Our own mistake.
    Internal,
}

impl RefusalCode {
    /// The exit code with which a command ends that met this refusal.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Invalid
            | Self::NotFound
            | Self::Exists
            | Self::PolicyTestFailed
            | Self::Protocol
            | Self::Internal
            | Self::Busy
            | Self::Unauthorized => 1,
            Self::NotPermitted | Self::Blocked => 3,
            Self::InviteUsed
            | Self::InviteExpired
            | Self::InviteUnknown
            | Self::InviteWrongRole
            | Self::CertificateExpired
            | Self::NotProven => 4,
            Self::NoConnector
            | Self::Unreachable
            | Self::Version
            | Self::ClockSkew
            | Self::TargetUnreachable => 5,
            Self::PostureFailed | Self::SimulatedPosture => 6,
            Self::StorageRefused | Self::StorageFull | Self::SafeMode => 7,
        }
    }
}

impl RefusalCode {
    /// What to do about a refusal of this kind, where whoever refused did not say.
    #[must_use]
    pub const fn usual_advice(self) -> &'static str {
        match self {
            Self::InviteUsed
            | Self::InviteExpired
            | Self::InviteUnknown
            | Self::InviteWrongRole => "Ask an admin for a new code: cardeactl invite",
            Self::PostureFailed | Self::SimulatedPosture => "Look at: cardea posture",
            Self::NotPermitted => "Ask an admin to look at: cardeactl policy show",
            Self::NoConnector => "Ask an admin to look at: cardeactl connector ls",
            Self::Blocked => "Ask an admin to unblock it: cardeactl device ls",
            Self::CertificateExpired => "Look at: cardea status",
            Self::ClockSkew => "Set the clock of this machine, then try again",
            Self::NotProven => "Check the key, the code and the clock, then try again",
            Self::StorageRefused | Self::SafeMode => "Ask an admin to look at: cardeactl status",
            Self::StorageFull => "Free space on the controller's disk; it recovers alone",
            Self::Version => "Install the same version of Cardea at both ends",
            Self::NotFound => "Look for its name with ls, then try again",
            Self::Exists => "Take another name, or look at what is there with show",
            Self::Invalid => "See what may be given: --help",
            Self::PolicyTestFailed => "Look at all: cardeactl policy test DIR",
            Self::Unauthorized => "Run it as root, or as the user whose program this is",
            Self::Busy => "Try again in a moment",
            Self::Protocol | Self::Internal => {
                "Look at the logs of both ends; please report it as a fault of Cardea"
            }
            Self::Unreachable => "Look at: cardea status",
            Self::TargetUnreachable => "Ask an admin to look at the app's target: cardeactl app ls",
        }
    }
}

impl fmt::Display for RefusalCode {
    /// The code as it stands in JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A refusal, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}", next.as_ref().map(|next| format!(". {next}")).unwrap_or_default())]
pub struct Refusal {
    /// The kind.
    pub code: RefusalCode,
    /// What happened and why, without a full stop.
    pub message: String,
    /// What to type or do next.
    pub next: Option<String>,
}

impl Refusal {
    /// A refusal without advice.
    #[must_use]
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            next: None,
        }
    }

    /// The same, with the usual advice where there is none.
    #[must_use]
    pub fn advised(mut self) -> Self {
        let code = self.code;
        self.next
            .get_or_insert_with(|| code.usual_advice().to_owned());
        self
    }

    /// The same with what to do next.
    #[must_use]
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}
