//! Refusals for the auditor, in numbers that a stranger cannot fill a ledger with.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use cardea_proto::{
    decision::Decision,
    ledger::{Actor, Change, RefusedRecord},
    refusal::RefusalCode,
};

/// Refusals recorded in one window, of strangers and of nodes each.
const RECORDED_MAX: usize = 30;

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(60);

/// Longest subject of a record, in bytes.
const SUBJECT_BYTES_MAX: usize = 256;

/// One refusal.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// Who was refused.
    pub(crate) actor: Actor,
    /// What they attempted: `enroll`, `connect`, `certify`, `administer`, `authenticate`.
    pub(crate) attempt: &'static str,
    /// Why.
    pub(crate) code: RefusalCode,
    /// About what; never a secret.
    pub(crate) subject: String,
    /// The decision, where there was one.
    pub(crate) decision: Option<Decision>,
}

/// What was recorded in the window that runs.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    ends: Option<Instant>,
    seen: BTreeSet<String>,
    strangers: usize,
    nodes: usize,
    suppressed: u64,
}

impl Refusals {
    /// Whether to record this one: the first of its kind in the window, while there is room.
    pub(crate) fn admit(&mut self, refused: &Refused, now: Instant) -> bool {
        if self.ends.is_none_or(|ends| ends <= now) {
            let suppressed = self.suppressed;
            *self = Self {
                ends: Some(now + WINDOW),
                suppressed,
                ..Self::default()
            };
        }
        let stranger = matches!(refused.actor, Actor::Stranger(_));
        let count = if stranger {
            &mut self.strangers
        } else {
            &mut self.nodes
        };
        // Addresses are cheap to a stranger: all strangers are one.
        let who = if stranger {
            String::new()
        } else {
            refused.actor.to_string()
        };
        let kind = format!(
            "{who} {} {} {}",
            refused.attempt, refused.code, refused.subject
        );
        if *count >= RECORDED_MAX || !self.seen.insert(kind) {
            self.suppressed = self.suppressed.saturating_add(1);
            return false;
        }
        *count += 1;
        true
    }

    /// When the window ends, if something in it was not recorded.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.ends.filter(|_| self.suppressed > 0)
    }

    /// The count of what was not recorded, once.
    pub(crate) fn take_suppressed(&mut self) -> Option<Change> {
        let count = std::mem::take(&mut self.suppressed);
        (count > 0).then(|| {
            Change::Refused(RefusedRecord {
                attempt: "authenticate".to_owned(),
                code: RefusalCode::Busy,
                subject: format!("{count} more refusals like those before were not recorded"),
            })
        })
    }
}

impl Refused {
    /// The record, its subject escaped and cut.
    pub(crate) fn record(&self) -> RefusedRecord {
        let mut subject: String = self.subject.escape_default().to_string();
        subject.truncate(SUBJECT_BYTES_MAX);
        RefusedRecord {
            attempt: self.attempt.to_owned(),
            code: self.code,
            subject,
        }
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::time::testing::start;

    use super::*;

    #[test]
    fn strangers_fill_one_window_and_no_more_and_the_rest_is_counted() {
        let now = start().instant;
        let mut refusals = Refusals::default();
        let recorded = (0..10_000)
            .filter(|number| refusals.admit(&stranger(*number), now))
            .count();
        assert_eq!(recorded, RECORDED_MAX);
        assert_eq!(refusals.deadline(), Some(now + WINDOW));
        let Some(Change::Refused(record)) = refusals.take_suppressed() else {
            panic!("nothing was counted");
        };
        assert!(record.subject.starts_with("9970 more"), "{record:?}");
        assert!(refusals.take_suppressed().is_none());
        assert!(refusals.admit(&stranger(0), now + WINDOW));
    }

    #[test]
    fn the_same_refusal_is_recorded_once_in_a_window() {
        let now = start().instant;
        let mut refusals = Refusals::default();
        assert!(refusals.admit(&stranger(1), now));
        assert!(!refusals.admit(&stranger(1), now));
    }

    #[test]
    fn what_a_stranger_sends_is_escaped_and_cut() {
        let mut refused = stranger(1);
        refused.subject = "\u{1b}[2J".repeat(100);
        let record = refused.record();
        assert!(record.subject.len() <= SUBJECT_BYTES_MAX);
        assert!(record.subject.is_ascii());
        assert!(!record.subject.contains('\u{1b}'));
    }

    fn stranger(number: u32) -> Refused {
        Refused {
            actor: Actor::Stranger("192.0.2.1:5".to_owned()),
            attempt: "enroll",
            code: RefusalCode::InviteUnknown,
            subject: format!("code {number}"),
            decision: None,
        }
    }
}
