//! Which of many things is due next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// One deadline for each key, and the earliest of them at hand.
#[derive(Debug)]
pub(crate) struct Schedule<K> {
    due: BTreeSet<(Instant, K)>,
    of: BTreeMap<K, Instant>,
}

impl<K> Default for Schedule<K> {
    fn default() -> Self {
        Self {
            due: BTreeSet::new(),
            of: BTreeMap::new(),
        }
    }
}

impl<K: Copy + Ord> Schedule<K> {
    /// Replaces the deadline of `key`.
    pub(crate) fn set(&mut self, key: K, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.of.insert(key, at),
            None => self.of.remove(&key),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, key));
        }
        if let Some(at) = at {
            self.due.insert((at, key));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes one key whose deadline has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, key) = self.due.first().copied()?;
        if at > now {
            return None;
        }
        self.due.remove(&(at, key));
        self.of.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn keys_come_due_in_order_and_a_replaced_deadline_is_forgotten() {
        let start = cardea_proto::time::testing::start().instant;
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::default();
        schedule.set(1, Some(at(5)));
        schedule.set(2, Some(at(3)));
        schedule.set(1, Some(at(1)));
        schedule.set(3, Some(at(2)));
        schedule.set(3, None);
        assert_eq!(schedule.next(), Some(at(1)));
        assert_eq!(schedule.pop_due(start), None);
        assert_eq!(schedule.pop_due(at(9)), Some(1));
        assert_eq!(schedule.pop_due(at(9)), Some(2));
        assert_eq!(schedule.pop_due(at(9)), None);
    }
}
