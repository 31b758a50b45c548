//! How much of the ledger one device may fill by changing its posture.

use std::time::{Duration, Instant};

/// What a device may have recorded at once, in bytes: some fifty changes of its appraisal.
const BURST_BYTES: u64 = 64 * 1024;

/// What a device may have recorded in an hour beyond that, in bytes.
const BYTES_PER_HOUR: u64 = 64 * 1024;

/// Room that a pass needs, in bytes: its entry, and the one of the failure that follows it.
const PASS_BYTES: u64 = 4 * 1024;

/// What a note that there is no room takes, in bytes.
const NOTE_BYTES: u64 = 256;

const HOUR_MS: u64 = 3_600_000;

/// A leaky bucket: what was recorded for a device and has not drained yet.
///
/// A failure is always recorded, because access ends with its entry; it may overfill the bucket. What
/// waits for room is the pass after it, and there is no second failure without a pass between.
#[derive(Debug)]
pub(crate) struct Allowance {
    spent: u64,
    at: Instant,
    noted: bool,
}

impl Allowance {
    pub(crate) const fn full(now: Instant) -> Self {
        Self {
            spent: 0,
            at: now,
            noted: false,
        }
    }

    /// How long a pass has to wait for room; zero when it has some.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let spent = self.spent.saturating_sub(self.drained(now));
        let over = (spent + PASS_BYTES).saturating_sub(BURST_BYTES);
        Duration::from_millis(over.saturating_mul(HOUR_MS).div_ceil(BYTES_PER_HOUR))
    }

    /// Takes what an entry measures.
    pub(crate) fn spend(&mut self, bytes: u64, now: Instant) {
        let drained = self.drained(now);
        self.spent = self.spent.saturating_sub(drained);
        // What is less than a byte goes on draining.
        self.at = if self.spent == 0 {
            now
        } else {
            self.at + Duration::from_millis(drained.saturating_mul(HOUR_MS) / BYTES_PER_HOUR)
        };
        self.spent = self.spent.saturating_add(bytes);
    }

    /// Whether to record that there is no room: once, until a pass has found some.
    pub(crate) fn note(&mut self, now: Instant) -> bool {
        let first = !std::mem::replace(&mut self.noted, true);
        if first {
            self.spend(NOTE_BYTES, now);
        }
        first
    }

    /// A pass has found room.
    pub(crate) const fn clear_note(&mut self) {
        self.noted = false;
    }

    fn drained(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.at).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        passed.saturating_mul(BYTES_PER_HOUR) / HOUR_MS
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::time::testing::start;

    use super::*;

    #[test]
    fn an_allowance_is_spent_at_once_and_earned_over_time() {
        let now = start().instant;
        let mut allowance = Allowance::full(now);
        let mut passes = 0;
        while allowance.wait(now).is_zero() {
            allowance.spend(2 * 1_024, now);
            passes += 1;
        }
        assert_eq!(passes, 31, "of two entries of a KiB each");
        let wait = allowance.wait(now);
        assert_eq!(wait, Duration::from_millis(2 * HOUR_MS / 64));
        assert!(
            !allowance
                .wait(now + wait - Duration::from_millis(1))
                .is_zero()
        );
        assert!(allowance.wait(now + wait).is_zero());
    }

    #[test]
    fn what_drains_in_small_steps_is_not_lost() {
        let mut now = start().instant;
        let mut allowance = Allowance::full(now);
        allowance.spend(BURST_BYTES, now);
        for _ in 0..HOUR_MS / 10 {
            now += Duration::from_millis(10);
            allowance.spend(0, now);
        }
        let whole = Allowance::full(now);
        assert_eq!(allowance.wait(now), whole.wait(now));
        assert!(allowance.spent <= 1, "{}", allowance.spent);
    }

    #[test]
    fn no_room_is_noted_once_until_there_is_some() {
        let now = start().instant;
        let mut allowance = Allowance::full(now);
        assert!(allowance.note(now));
        assert!(!allowance.note(now));
        allowance.clear_note();
        assert!(allowance.note(now));
    }
}
