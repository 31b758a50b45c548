//! When the relay is asked where it sees the socket for direct paths.

use std::time::{Duration, Instant};

/// Questions where the relay sees the socket for direct paths.
#[derive(Debug, Default)]
pub(super) struct Asks {
    pub(super) next: Option<Instant>,
    tries: u32,
}

impl Asks {
    pub(super) const fn begin(&mut self, now: Instant) {
        self.next = Some(now);
        self.tries = 0;
    }

    pub(super) fn poll(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
        }
        let wait = ASK_AGAIN * 2_u32.pow(self.tries);
        self.tries += 1;
        self.next = (self.tries <= ASKS_MAX).then_some(now + wait);
        true
    }

    /// Whether an answer was awaited.
    pub(super) fn answered(&mut self) -> bool {
        self.next.take().is_some()
    }
}

/// First wait for the relay's word on where we are; doubles.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// How often that question is repeated: over four seconds.
const ASKS_MAX: u32 = 4;
