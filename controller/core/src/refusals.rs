//! Refusals for the auditor, in numbers that a stranger cannot fill a ledger with.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use cardea_proto::{
    decision::Decision,
    ledger::{Actor, Change, RefusedRecord},
    refusal::RefusalCode,
};

/// Refusals of strangers that are recorded in one window, and of all nodes together ten times as many.
const RECORDED_MAX: usize = 30;

/// Refusals of one node that are recorded in one window, so that none hides those of others.
const RECORDED_PER_NODE_MAX: usize = 10;

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
    by_node: BTreeMap<String, usize>,
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
        // Addresses are cheap to a stranger: all strangers are one.
        let who = match &refused.actor {
            Actor::Stranger(_) => String::new(),
            actor @ (Actor::Admin(_) | Actor::Node(_) | Actor::Controller(_)) => actor.to_string(),
        };
        let kind = format!(
            "{who} {} {} {}",
            refused.attempt, refused.code, refused.subject
        );
        let has_room = if who.is_empty() {
            self.strangers < RECORDED_MAX
        } else {
            let own = self.by_node.get(&who).copied().unwrap_or(0);
            own < RECORDED_PER_NODE_MAX && self.nodes < RECORDED_MAX * 10
        };
        if !has_room || !self.seen.insert(kind) {
            self.suppressed = self.suppressed.saturating_add(1);
            return false;
        }
        if who.is_empty() {
            self.strangers += 1;
        } else {
            self.nodes += 1;
            *self.by_node.entry(who).or_default() += 1;
        }
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
    use cardea_proto::{
        id::{DeviceId, NodeId},
        time::testing::start,
    };

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
    fn one_node_does_not_hide_the_refusals_of_another() {
        let now = start().instant;
        let mut refusals = Refusals::default();
        let node = |id: u8, number: u32| Refused {
            actor: Actor::Node(NodeId::Device(DeviceId::from_bytes([id; 10]))),
            ..stranger(number)
        };
        let recorded = |refusals: &mut Refusals, id| {
            let numbers = 0..100;
            numbers
                .filter(|number| refusals.admit(&node(id, *number), now))
                .count()
        };
        assert_eq!(recorded(&mut refusals, 1), RECORDED_PER_NODE_MAX);
        assert_eq!(recorded(&mut refusals, 2), RECORDED_PER_NODE_MAX);
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
