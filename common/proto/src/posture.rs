//! Facts about a device, how far each can be believed, and the controller's verdict on them.

use std::{collections::BTreeMap, fmt, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{codec::Bytes, decision::Check, time::UnixMillis};

/// Most facts in one report.
pub const FACTS_MAX: usize = 256;

/// Longest text of a fact's value, in bytes.
pub const FACT_TEXT_BYTES_MAX: usize = 1_024;

/// Most elements of a list value.
pub const FACT_LIST_MAX: usize = 4_096;

/// How good the evidence for a fact is, from the weakest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Read from a file for a test or a demo; refused unless the controller was told to accept it.
    Simulated,
    /// Said by an unprivileged process.
    #[serde(rename = "self")]
    Own,
    /// Read from the operating system by a privileged service.
    Os,
    /// Said by the organization's device management.
    Mdm,
    /// Signed by hardware.
    Hardware,
}

impl Grade {
    /// The grade as policies and people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Own => "self",
            Self::Os => "os",
            Self::Mdm => "mdm",
            Self::Hardware => "hardware",
        }
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A fact's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// A number: a count, seconds, or days, as the fact's name says.
    Integer(i64),
    /// Text.
    Text(String),
    /// A set of texts.
    List(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Text(value) => value.escape_default().fmt(f),
            Self::List(values) => {
                let shown: Vec<String> = values
                    .iter()
                    .map(|value| value.escape_default().to_string())
                    .collect();
                write!(f, "[{}]", shown.join(", "))
            }
        }
    }
}

/// What reading a fact came to. Only the controller decides what may be unsupported where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// The value.
    Value(Value),
    /// The thing asked about is not there.
    Absent,
    /// This system has no such thing.
    Unsupported,
    /// The process may not ask.
    Denied,
    /// Asking failed; a short reason.
    Error(String),
}

/// One fact as read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The value, or why there is none.
    pub reading: Reading,
    /// How good the evidence is.
    pub grade: Grade,
    /// How long before the report was sent this was read, in milliseconds.
    pub age_ms: u64,
}

/// One fact as a device holds it before it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// Its name.
    pub name: FactName,
    /// The value, or why there is none.
    pub reading: Reading,
    /// How good the evidence is.
    pub grade: Grade,
    /// When it was read, on the device's monotonic clock.
    pub at: Instant,
}

impl Collected {
    /// The fact as it stands in a report that is sent at `now`.
    #[must_use]
    pub fn fact(&self, now: Instant) -> Fact {
        let age = now.saturating_duration_since(self.at);
        Fact {
            reading: self.reading.clone(),
            grade: self.grade,
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Name of a fact, such as `disk.encrypted`.
pub type FactName = String;

/// All facts of a device at one time, as collected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Grows with every report of a channel; an older one is ignored.
    pub counter: u64,
    /// The nonce that the controller gave in `Welcome`; zeros during enrollment.
    pub nonce: Bytes<16>,
    /// The device's wall clock when it sent the report.
    pub clock: UnixMillis,
    /// The facts, by name.
    pub facts: BTreeMap<FactName, Fact>,
}

/// What the controller tells a device about its latest appraisal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostureVerdict {
    /// Whether the device may hold a certificate.
    pub compliant: bool,
    /// When the facts behind it were received.
    pub checked_at: UnixMillis,
    /// The checks that failed.
    pub failed: Vec<Check>,
    /// What to do about them.
    pub remedy: Option<String>,
    /// Counter of the report behind it; `None` when that came over an earlier channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<u64>,
    /// Why it does not pass, where no check says it: no rule, or one that cannot be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How far the device's clock was ahead of the controller's, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew_s: Option<i64>,
    /// Whether an admin has blocked the device, which opens nothing then, whatever its posture.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blocked: bool,
}

impl PostureVerdict {
    /// Why it does not pass: at least one text when it does not, and none when it does.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        if self.compliant {
            return Vec::new();
        }
        reasons(&self.failed, self.why.as_ref())
    }
}

/// Why a posture does not pass, from what is known of it: at least one text.
#[must_use]
pub fn reasons(failed: &[Check], why: Option<&String>) -> Vec<String> {
    if !failed.is_empty() {
        return failed.iter().map(ToString::to_string).collect();
    }
    let why = why.map_or("the controller did not say why", String::as_str);
    vec![why.to_owned()]
}
