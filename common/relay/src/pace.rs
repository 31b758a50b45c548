//! How much one end may send.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

/// A rate with a burst, which costs an end one instant: until when it has used what it may send.
///
/// Source: ITU-T I.371, the generic cell rate algorithm in its form of virtual scheduling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    bytes_per_second: NonZeroU64,
    burst: Duration,
}

impl Pace {
    /// So many bytes in a second, and of them what a quarter of a second holds at once.
    pub(crate) fn new(bytes_per_second: NonZeroU64) -> Self {
        let mut pace = Self {
            bytes_per_second,
            burst: BURST,
        };
        pace.burst = pace.burst.max(pace.time_of(BURST_BYTES_MIN));
        pace
    }

    /// Until when an end has used its share with `bytes` more; `None` when it may not send them now.
    pub(crate) fn after(self, now: Instant, used_until: Instant, bytes: usize) -> Option<Instant> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let used_until = used_until.max(now) + self.time_of(bytes);
        (used_until <= now + self.burst).then_some(used_until)
    }

    fn time_of(self, bytes: u64) -> Duration {
        Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.bytes_per_second)
    }
}

/// What may be sent at once, as a time: the queue of a router that is not bloated.
const BURST: Duration = Duration::from_millis(250);

/// The same in bytes for a rate so low that it would not hold a window of TCP.
const BURST_BYTES_MIN: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use cardea_proto::time::testing::start;

    use super::*;

    const RATE: NonZeroU64 = NonZeroU64::new(1_000_000).unwrap();

    #[test]
    fn who_sends_all_the_time_gets_the_rate_and_one_burst() {
        let pace = Pace::new(RATE);
        let (mut used, mut sent) = (start().instant, 0);
        for ms in 0..10_000 {
            let now = start().instant + Duration::from_millis(ms);
            while let Some(until) = pace.after(now, used, 1_200) {
                (used, sent) = (until, sent + 1_200);
            }
        }
        assert!((10_240_000..10_252_000).contains(&sent), "{sent}");
    }

    #[test]
    fn silence_earns_one_burst_and_no_more() {
        let pace = Pace::new(RATE);
        let mut used = start().instant;
        let now = used + Duration::from_secs(3_600);
        let burst = std::iter::from_fn(|| {
            used = pace.after(now, used, 1_000)?;
            Some(1_000)
        });
        assert_eq!(burst.sum::<u64>(), 250_000);
    }

    #[test]
    fn the_lowest_rate_lets_a_window_pass() {
        let pace = Pace::new(NonZeroU64::MIN);
        let now = start().instant;
        let used = pace.after(now, now, 64 * 1024).unwrap();
        assert!(pace.after(now, used, 1).is_none());
        assert!(pace.after(now, now, usize::MAX).is_none());
    }
}
