//! Pings on a way that is new, in case one is lost.

use std::time::{Duration, Instant};

/// When to ping again, unless something is acknowledged before.
#[derive(Debug)]
pub(super) struct Pings {
    pub(super) at: Instant,
    /// How long after that once more.
    pause: Duration,
    /// Acknowledgments that had come before the way was new.
    acks: u64,
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

    /// Whether to ping now, when so many acknowledgments have come; `pings` are over once one has.
    pub(super) fn poll(pings: &mut Option<Self>, now: Instant, acks: u64) -> bool {
        let Some(due) = pings.take_if(|pings| now >= pings.at) else {
            return false;
        };
        if acks > due.acks {
            return false;
        }
        *pings = (due.pause <= PING_AGAIN_MAX).then_some(Self {
            at: now + due.pause,
            pause: due.pause * 2,
            ..due
        });
        true
    }
}

/// How long after a way is new it is pinged again, in case that was lost: quinn takes the round trip there for
/// unknown, and would wait for three of [`super::config`]'s. Doubles.
const PING_AGAIN: Duration = Duration::from_millis(40);

/// The last pause between two: three pings beside the first, after which quinn's timer has come.
const PING_AGAIN_MAX: Duration = Duration::from_millis(160);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_nothing_is_pinged_three_times_and_who_answers_no_more() {
        for (answers_from, expected) in [(None, 3), (Some(0), 0), (Some(1), 1), (Some(2), 2)] {
            let start = cardea_proto::time::testing::start().instant;
            let mut pings = Some(Pings::begin(start, 7));
            let mut sent = 0;
            while let Some(at) = pings.as_ref().map(|pings| pings.at) {
                let acks = 7 + u64::from(answers_from.is_some_and(|from| sent >= from));
                assert!(!Pings::poll(&mut pings, at - Duration::from_nanos(1), acks));
                sent += u32::from(Pings::poll(&mut pings, at, acks));
            }
            assert_eq!(sent, expected, "{answers_from:?}");
        }
    }
}
