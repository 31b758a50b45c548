//! Refusals for the auditor, in numbers that a stranger cannot fill a ledger with.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use cardea_proto::{
    decision::Decision,
    ledger::{Actor, Change, RefusedRecord},
    refusal::RefusalCode,
    source::Source,
};

/// Refusals of all strangers that are recorded in one window, and of all nodes and admins together
/// ten times as many.
///
/// Apart, because addresses are cheap: whoever has many of them hides other strangers and no node.
const RECORDED_MAX: usize = 30;

/// Refusals of one node, admin or source of strangers that are recorded in one window, so that none
/// hides those of others.
const RECORDED_PER_ACTOR_MAX: usize = 10;

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
    /// Those that were recorded, so that there are no more of them than records.
    by_actor: BTreeMap<Who, usize>,
    /// Those that were not, by attempt and code.
    suppressed: BTreeMap<(&'static str, RefusalCode), u64>,
}

impl Refusals {
    /// Whether to record this one: the first of its kind in the window, while there is room.
    pub(crate) fn admit(&mut self, refused: &Refused, now: Instant) -> bool {
        if self.ends.is_none_or(|ends| ends <= now) {
            let suppressed = std::mem::take(&mut self.suppressed);
            *self = Self {
                ends: Some(now + WINDOW),
                suppressed,
                ..Self::default()
            };
        }
        let who = Who::of(&refused.actor);
        let own = self.by_actor.get(&who).copied().unwrap_or(0);
        let (all, all_max) = match who {
            Who::Stranger(_) => (&mut self.strangers, RECORDED_MAX),
            Who::Known(_) => (&mut self.nodes, RECORDED_MAX * 10),
        };
        let kind = format!(
            "{} {} {} {}",
            who.name(),
            refused.attempt,
            refused.code,
            refused.subject
        );
        // The last third is for first refusals, so that some noisy actors do not hide others.
        let all_max = if own == 0 { all_max } else { all_max / 3 * 2 };
        let has_room = own < RECORDED_PER_ACTOR_MAX && *all < all_max;
        if !has_room || !self.seen.insert(kind) {
            let kind = (refused.attempt, refused.code);
            let count = self.suppressed.entry(kind).or_default();
            *count = count.saturating_add(1);
            return false;
        }
        *all += 1;
        *self.by_actor.entry(who).or_default() += 1;
        true
    }

    /// When the window ends, if something in it was not recorded.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.ends.filter(|_| !self.suppressed.is_empty())
    }

    /// The count of what was not recorded, once, for each attempt and code.
    pub(crate) fn take_suppressed(&mut self) -> impl Iterator<Item = Change> {
        let suppressed = std::mem::take(&mut self.suppressed);
        suppressed.into_iter().map(|((attempt, code), count)| {
            let more = if count == 1 { "refusal" } else { "refusals" };
            Change::Refused(RefusedRecord {
                attempt: attempt.to_owned(),
                code,
                subject: format!("{count} more {more} of this kind: not recorded one by one"),
            })
        })
    }
}

/// Whose share of the window a refusal takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// One that the domain knows.
    Known(String),
    /// All strangers of one source; `None` for those of the admin socket, which has no addresses.
    Stranger(Option<Source>),
}

impl Who {
    fn of(actor: &Actor) -> Self {
        match actor {
            Actor::Stranger(address) => {
                let socket = address.parse().map(Source::of);
                let ip = address.parse().map(Source::of_ip);
                Self::Stranger(socket.or(ip).ok())
            }
            Actor::Admin(_) | Actor::Node(_) | Actor::Controller(_) => {
                Self::Known(actor.to_string())
            }
        }
    }

    /// To strangers an address is cheap: the same of two of them is recorded once.
    fn name(&self) -> &str {
        match self {
            Self::Known(name) => name,
            Self::Stranger(_) => "",
        }
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
            .filter(|number| refusals.admit(&stranger(*number % 200, *number), now))
            .count();
        assert_eq!(recorded, RECORDED_MAX);
        assert_eq!(refusals.deadline(), Some(now + WINDOW));
        let counted =
            "enroll invite_unknown: 9970 more refusals of this kind: not recorded one by one";
        assert_eq!(suppressed(&mut refusals), [counted]);
        assert_eq!(refusals.take_suppressed().count(), 0);
        assert!(refusals.admit(&stranger(0, 0), now + WINDOW));
    }

    #[test]
    fn what_is_not_recorded_is_counted_under_its_own_attempt_and_code() {
        let now = start().instant;
        let mut refusals = Refusals::default();
        let denied = Refused {
            attempt: "connect",
            code: RefusalCode::PostureFailed,
            ..stranger(1, 1)
        };
        for _ in 0..3 {
            refusals.admit(&denied, now);
            refusals.admit(&stranger(1, 1), now);
        }
        refusals.admit(&denied, now + WINDOW);
        refusals.admit(&denied, now + WINDOW);
        let kind =
            |attempt, more| format!("{attempt}: {more} of this kind: not recorded one by one");
        assert_eq!(
            suppressed(&mut refusals),
            [
                kind("connect posture_failed", "3 more refusals"),
                kind("enroll invite_unknown", "2 more refusals"),
            ]
        );
    }

    fn suppressed(refusals: &mut Refusals) -> Vec<String> {
        let changes = refusals.take_suppressed();
        changes
            .map(|change| {
                let Change::Refused(record) = change else {
                    panic!("no refusal");
                };
                format!("{} {}: {}", record.attempt, record.code, record.subject)
            })
            .collect()
    }

    #[test]
    fn one_node_does_not_hide_the_refusals_of_another() {
        let now = start().instant;
        let mut refusals = Refusals::default();
        let node = |id: u8, number: u32| Refused {
            actor: Actor::Node(NodeId::Device(DeviceId::from_bytes([id; 10]))),
            ..stranger(1, number)
        };
        let recorded = |refusals: &mut Refusals, id| {
            let numbers = 0..100;
            numbers
                .filter(|number| refusals.admit(&node(id, *number), now))
                .count()
        };
        assert_eq!(recorded(&mut refusals, 1), RECORDED_PER_ACTOR_MAX);
        assert_eq!(recorded(&mut refusals, 2), RECORDED_PER_ACTOR_MAX);
    }

    #[test]
    fn one_source_does_not_hide_other_strangers_and_all_of_them_no_node() {
        let now = start().instant;
        let mut refusals = Refusals::default();
        let mut recorded = |source| {
            let numbers = 0..100;
            numbers
                .filter(|number| refusals.admit(&stranger(source, source * 100 + number), now))
                .count()
        };
        for source in 0..2 {
            assert_eq!(recorded(source), RECORDED_PER_ACTOR_MAX);
        }
        for source in 2..12 {
            assert_eq!(recorded(source), 1, "the first of each");
        }
        assert_eq!(recorded(12), 0, "all strangers together");
        let node = Refused {
            actor: Actor::Node(NodeId::Device(DeviceId::from_bytes([1; 10]))),
            ..stranger(0, 0)
        };
        assert!(refusals.admit(&node, now));
    }

    #[test]
    fn all_nodes_together_have_a_bound_and_so_has_what_is_kept_of_them() {
        let now = start().instant;
        let mut refusals = Refusals::default();
        for id in 0..=u8::MAX {
            for number in 0..20 {
                let refused = Refused {
                    actor: Actor::Node(NodeId::Device(DeviceId::from_bytes([id; 10]))),
                    ..stranger(0, number)
                };
                refusals.admit(&refused, now);
            }
        }
        assert_eq!(refusals.nodes, RECORDED_MAX * 10);
        assert_eq!(refusals.seen.len(), RECORDED_MAX * 10);
        assert!(refusals.by_actor.len() <= RECORDED_MAX * 10);
    }

    #[test]
    fn a_stranger_is_its_network_however_its_address_is_written() {
        let who = |address: &str| Who::of(&Actor::Stranger(address.to_owned()));
        assert_eq!(who("192.0.2.1:5"), who("192.0.2.1"));
        assert_eq!(who("[2001:db8::1]:5"), who("2001:db8::2"));
        assert_ne!(who("192.0.2.1"), who("192.0.2.2"));
        assert_eq!(who("admin socket"), Who::Stranger(None));
    }

    #[test]
    fn the_same_refusal_is_recorded_once_in_a_window() {
        let now = start().instant;
        let mut refusals = Refusals::default();
        assert!(refusals.admit(&stranger(1, 1), now));
        assert!(!refusals.admit(&stranger(1, 1), now));
    }

    #[test]
    fn what_a_stranger_sends_is_escaped_and_cut() {
        let mut refused = stranger(1, 1);
        refused.subject = "\u{1b}[2J".repeat(100);
        let record = refused.record();
        assert!(record.subject.len() <= SUBJECT_BYTES_MAX);
        assert!(record.subject.is_ascii());
        assert!(!record.subject.contains('\u{1b}'));
    }

    fn stranger(source: u32, number: u32) -> Refused {
        Refused {
            actor: Actor::Stranger(format!("192.0.2.{source}:5")),
            attempt: "enroll",
            code: RefusalCode::InviteUnknown,
            subject: format!("code {number}"),
            decision: None,
        }
    }
}
