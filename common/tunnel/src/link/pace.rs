//! How fast the other end is taken at its word that something is lost.
//!
//! Each such word makes this end send again what waits for an answer, ask anew what a path carries, or go on
//! with another relay. Who has reason to say it has learnt something of a path, for which a round trip
//! went by; who says it more often than that is not believed until it has.

use std::time::{Duration, Instant};

/// Words that are believed at the moment.
#[derive(Debug)]
pub(super) struct Pace {
    left: u32,
    /// Since when the next one is due.
    since: Instant,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Whether one more is believed, where a round trip takes `rtt` as far as is known.
    pub(super) fn admits(&mut self, now: Instant, rtt: Option<Duration>) -> bool {
        let each = rtt.unwrap_or(EACH_MIN).clamp(EACH_MIN, EACH_MAX);
        while self.left < BURST && now >= self.since + each {
            self.left += 1;
            self.since += each;
        }
        if self.left == BURST {
            self.since = now;
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

/// Several at once: a failover, a way that is found meanwhile, and one that stops again.
const BURST: u32 = 4;

/// The time for each after that is a round trip, which the other end stretches and shortens as it likes.
const EACH_MIN: Duration = Duration::from_millis(100);
const EACH_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_believed_at_once_and_then_one_each_round_trip() {
        for (rtt, each) in [
            (None, 100),
            (Some(1), 100),
            (Some(300), 300),
            (Some(60_000), 1_000),
        ] {
            let (mut pace, start) = bench();
            let rtt = rtt.map(Duration::from_millis);
            let burst = (0..1_000).filter(|_| pace.admits(start, rtt)).count();
            assert_eq!(burst, 4, "{rtt:?}");
            let later =
                (1..=60_000).filter(|ms| pace.admits(start + Duration::from_millis(*ms), rtt));
            assert_eq!(later.count(), 60_000 / each, "{rtt:?}");
        }
    }

    #[test]
    fn who_was_silent_has_no_more_than_a_few() {
        let (mut pace, start) = bench();
        for hour in 1..10 {
            let now = start + Duration::from_secs(3_600 * hour);
            assert_eq!((0..1_000).filter(|_| pace.admits(now, None)).count(), 4);
        }
    }

    #[test]
    fn who_says_it_each_round_trip_is_always_believed() {
        let (mut pace, start) = bench();
        let each = Duration::from_millis(150);
        assert!((0..1_000).all(|round| pace.admits(start + each * round, Some(each))));
    }

    fn bench() -> (Pace, Instant) {
        let start = cardea_proto::time::testing::start().instant;
        (Pace::new(start), start)
    }
}
