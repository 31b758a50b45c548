//! What is due when: one moment for each thing that waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use cardea_proto::id::{DeviceId, GrantId};

/// Something that is looked at again at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A grant: its admission, its extension, its end, or another try at recording its end.
    Grant(GrantId),
    /// A device's report becomes stale, or its appraisal must be recorded again.
    Posture(DeviceId),
    /// A device's certificate ends.
    Certificate(DeviceId),
    /// Refusals that were not recorded are counted into one entry.
    Refusals,
    /// Nodes are shown the ledger.
    Witnesses,
    /// Devices wait to be looked at again after a change that may concern them.
    Reviews,
}

/// The moments, each thing at most once.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    at: BTreeMap<Timer, Instant>,
    order: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Sets the moment of `timer`, in place of any it had.
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        if let Some(before) = self.at.insert(timer, at) {
            self.order.remove(&(before, timer));
        }
        self.order.insert((at, timer));
    }

    /// The same, unless it is due earlier already.
    pub(crate) fn set_no_later(&mut self, timer: Timer, at: Instant) {
        if self.at.get(&timer).is_none_or(|before| *before > at) {
            self.set(timer, at);
        }
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        if let Some(before) = self.at.remove(&timer) {
            self.order.remove(&(before, timer));
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes one that is due at `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.clear(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cardea_proto::time::testing::start;

    use super::*;

    #[test]
    fn each_timer_is_due_once_in_order_and_the_last_setting_counts() {
        let now = start().instant;
        let after = |seconds| now + Duration::from_secs(seconds);
        let grant = Timer::Grant(GrantId::from_bytes([1; 10]));
        let mut timers = Timers::default();
        timers.set(grant, after(5));
        timers.set(Timer::Refusals, after(2));
        timers.set(grant, after(1));
        timers.set_no_later(grant, after(4));
        assert_eq!(timers.next(), Some(after(1)));
        assert_eq!(timers.pop(now), None);
        assert_eq!(timers.pop(after(9)), Some(grant));
        assert_eq!(timers.pop(after(9)), Some(Timer::Refusals));
        assert_eq!(timers.pop(after(9)), None);
        assert_eq!(timers.next(), None);
    }
}
