//! Pings on a way that is new, in case one is lost.

use std::time::{Duration, Instant};

/// When to ping again, unless something is acknowledged before.
#[derive(Debug)]
pub(super) struct Pings {
    pub(super) at: Instant,
    /// How long after that once more.
    pause: Duration,
    /// Acknowledgments that had come before the way was new.
    pub(super) acks: u64,
}

impl Pings {
    /// The first ping was just sent.
    pub(super) fn begin(now: Instant, acks: u64) -> Self {
        Self {
            at: now + PING_AGAIN,
            pause: PING_AGAIN * 2,
            acks,
        }
    }

    /// One more was sent.
    pub(super) fn next(self, now: Instant) -> Option<Self> {
        (self.pause <= PING_AGAIN_MAX).then_some(Self {
            at: now + self.pause,
            pause: self.pause * 2,
            ..self
        })
    }
}

/// How long after a way is new it is pinged again, in case that was lost: quinn takes the round trip there for
/// unknown, and would wait for three of [`super::config`]'s. Doubles.
const PING_AGAIN: Duration = Duration::from_millis(40);

/// The last pause between two: three pings in all, after which quinn's timer has come.
const PING_AGAIN_MAX: Duration = Duration::from_millis(160);
