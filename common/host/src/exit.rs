//! How programs end: what happened, why, what to type next, and a number that scripts rely on.

use std::{io, process::ExitCode};

use cardea_proto::refusal::Refusal;

/// Exit codes of every program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Failed for a reason that has no code of its own.
    Failed,
    /// The command line is wrong.
    Usage,
    /// Policy does not permit it.
    Denied,
    /// Not enrolled or not signed in.
    NotEnrolled,
    /// Not reachable.
    NotReachable,
    /// Posture failed.
    Posture,
    /// Storage refused.
    Storage,
}

impl Code {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::NotEnrolled => 4,
            Self::NotReachable => 5,
            Self::Posture => 6,
            Self::Storage => 7,
        }
    }
}

/// Why a command failed, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// One line or more: `what: why. next`.
    pub message: String,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    /// A failure with one of the known codes.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: code.number(),
        }
    }

    /// A failure about `what`, with its reason and the next command to type.
    #[must_use]
    pub fn of(code: Code, what: &str, why: impl std::fmt::Display, next: &str) -> Self {
        let next = if next.is_empty() {
            String::new()
        } else {
            format!(". {next}")
        };
        Self::new(code, format!("{what}: {why}{next}"))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code.exit_code(),
            message: refusal.advised().to_string(),
        }
    }
}

/// What a person can do about an error of the system.
#[must_use]
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds are the system's and many; these are those that a person can do something about"
)]
pub fn io_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "Check the path",
        io::ErrorKind::PermissionDenied => "Run it as the owner, or as root",
        io::ErrorKind::AlreadyExists => "Name another, or move that away",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "Free some space, then try again"
        }
        io::ErrorKind::ReadOnlyFilesystem => "Name a place that can be written",
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            "Check that it is the path that you meant"
        }
        _ => "Try again; if it stays, look at the system's log: journalctl",
    }
}

/// Ends a program: nothing is said on success, the reason on stderr otherwise.
#[expect(
    clippy::print_stderr,
    reason = "the one place where a program says why it failed"
)]
pub fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", printable(&failure.message));
            ExitCode::from(failure.code)
        }
    }
}

/// `text` with control characters escaped, so that what a peer said cannot drive a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let keep = c == '\n' || c == '\t' || !c.is_control();
            let kept = keep.then_some(c);
            let escaped = (!keep).then(|| c.escape_unicode());
            kept.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use cardea_proto::refusal::RefusalCode;

    use super::*;

    #[test]
    fn a_refusal_keeps_its_text_and_its_code() {
        let refusal =
            Refusal::new(RefusalCode::NotPermitted, "db: denied: no rule").with_next("Ask");
        let failure = Failure::from(refusal);
        assert_eq!(failure.message, "db: denied: no rule. Ask");
        assert_eq!(failure.code, 3);
    }

    #[test]
    fn what_a_peer_says_cannot_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\nc");
    }

    #[test]
    fn every_refusal_that_a_program_ends_with_says_what_to_do() {
        let code = |word: &str| serde_json::from_value::<RefusalCode>(word.into()).unwrap();
        for word in [
            "invite_used",
            "invite_expired",
            "invite_unknown",
            "invite_wrong_role",
            "posture_failed",
            "simulated_posture",
            "not_permitted",
            "no_connector",
            "blocked",
            "certificate_expired",
            "clock_skew",
            "not_proven",
            "storage_refused",
            "storage_full",
            "version",
            "safe_mode",
            "not_found",
            "exists",
            "invalid",
            "policy_test_failed",
            "unauthorized",
            "busy",
            "protocol",
            "unreachable",
            "target_unreachable",
            "internal",
        ] {
            let failure = Failure::from(Refusal::new(code(word), "wiki: no"));
            let next = failure.message.strip_prefix("wiki: no. ").unwrap();
            assert!(next.len() > 10 && !next.ends_with('.'), "{next}");
        }
    }
}
