//! What is due when.

use std::{collections::BTreeSet, time::Instant};

/// A set of deadlines.
#[derive(Debug)]
pub(super) struct Timers<K>(BTreeSet<(Instant, K)>);

impl<K: Copy + Ord> Timers<K> {
    pub(super) const fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// `what` is due at `at`. Whoever no longer cares ignores it then.
    pub(super) fn set(&mut self, at: Instant, what: K) {
        self.0.insert((at, what));
    }

    /// The next one that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, what) = *self.0.first()?;
        (at <= now).then(|| {
            self.0.pop_first();
            what
        })
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }
}
