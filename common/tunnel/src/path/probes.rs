//! The probes of one path that are out, and the round trip that their answers showed.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Probes of one path.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    /// Not answered, the oldest first.
    out: VecDeque<Probe>,
    rtt: Option<Duration>,
    sampled: Option<Instant>,
    /// How the last ones went, the latest at the lowest bit: set where there was no answer.
    lost: u32,
    /// How many of those there are.
    counted: u32,
}

/// One probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) id: u32,
    pub(crate) at: Instant,
    /// Bytes of the whole datagram.
    pub(crate) size: usize,
}

impl Probes {
    pub(crate) fn sent(&mut self, probe: Probe) {
        if self.out.len() >= OUT_MAX {
            self.out.pop_front();
        }
        self.out.push_back(probe);
    }

    /// The probe that an answer names. Those before it are forgotten, because it says more.
    pub(crate) fn answered(&mut self, now: Instant, id: u32) -> Option<Probe> {
        let at = self.out.iter().position(|probe| probe.id == id)?;
        let probe = *self.out.get(at)?;
        // Of a larger one it may have been the size.
        let earlier = self.out.drain(..=at).take(at);
        let lost = earlier.filter(|earlier| earlier.size <= probe.size).count();
        for _ in 0..lost.min(IN_A_ROW_MAX) {
            self.note(true);
        }
        self.note(false);
        let sample = now.saturating_duration_since(probe.at);
        let is_old = self.sampled.is_none_or(|at| now >= at + SMOOTHED_OVER);
        self.rtt = match self.rtt {
            Some(rtt) if !is_old => Some((rtt * 7 + sample) / 8),
            Some(_) | None => Some(sample),
        };
        self.sampled = Some(now);
        Some(probe)
    }

    /// Round trip, smoothed as RFC 6298 §2 does while probes follow each other.
    pub(crate) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Round trip and loss, when there is a round trip.
    pub(crate) fn quality(&self) -> Option<Quality> {
        let is_known = self.counted >= COUNTED_MIN;
        let lost = self.lost.count_ones() * 1_000;
        Some(Quality {
            rtt: self.rtt?,
            loss: is_known.then(|| lost / self.counted.max(1)),
        })
    }

    /// The path carries nothing: that is no loss, and its round trip is unknown when it is back.
    pub(crate) fn give_up(&mut self) {
        self.out.clear();
        (self.rtt, self.sampled) = (None, None);
    }

    fn note(&mut self, is_lost: bool) {
        self.lost = self.lost << 1 | u32::from(is_lost);
        self.counted = (self.counted + 1).min(u32::BITS);
    }

    /// The path may be another one from here on.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// What is known of a way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    pub(crate) rtt: Duration,
    /// Probes of a thousand without an answer; `None` while too few were sent.
    pub(crate) loss: Option<u32>,
}

impl Quality {
    /// Whether changing over from the other one to this is worth it.
    pub(crate) fn is_better_than(self, other: Self) -> bool {
        if self.loses_less(other, CLEANER_BY) {
            return true;
        }
        !other.loses_less(self, ALIKE) && is_better(other.rtt, self.rtt)
    }

    /// Whether to go this way while the other one is in use for want of a better: it may not lose as much as
    /// would make it be left, by far.
    pub(crate) fn is_worth_taking(self, other: Self) -> bool {
        !other.is_better_than(self) && !other.loses_less(self, ALIKE)
    }

    /// Whether this one loses less by so much of a thousand.
    pub(crate) fn loses_less(self, other: Self, by: u32) -> bool {
        let both = self.loss.zip(other.loss);
        both.is_some_and(|(loss, other)| loss + by <= other)
    }

    /// Whether it loses so much that any other way may be better.
    pub(crate) fn is_lossy(self) -> bool {
        self.loss.is_some_and(|loss| loss >= CLEANER_BY)
    }
}

/// Whether one round trip is so much shorter that changing over is worth it.
fn is_better(than: Duration, rtt: Duration) -> bool {
    rtt + BETTER_BY <= than && rtt * 5 <= than * 4
}

/// How long an answer is waited for until the same is asked again: a little longer than the last ones
/// took. A busy machine answers late, and later still when it is asked more often for that.
pub(crate) fn ask_again(rtt: Option<Duration>) -> Duration {
    let rtt = rtt.unwrap_or_default();
    ASK_AGAIN_MIN.max(rtt + rtt / 4)
}

/// Four get lost together where a fifth is lost each way once in sixty times.
const ASK_AGAIN_MIN: Duration = Duration::from_millis(150);

/// Probes that an answer is awaited for; a round sends fewer.
const OUT_MAX: usize = 16;

/// What was measured longer ago says nothing of how the path is.
const SMOOTHED_OVER: Duration = Duration::from_secs(10);

/// Most losses that count in a row: more are a path that was away, which is no reason to leave it once it is back.
const IN_A_ROW_MAX: usize = 3;

/// Outcomes before they say anything.
const COUNTED_MIN: u32 = 12;

/// A path must lose less by this, of a thousand probes there and back, whatever its round trip is: TCP gains more
/// from a path without loss than from a short one. By chance two that both lose a tenth each way are as far
/// apart once in two hundred windows of 32.
const CLEANER_BY: u32 = 250;

/// How far apart two may be and count as alike: a path that was left for its loss is taken again below this.
pub(crate) const ALIKE: u32 = 125;

/// A path must be shorter by this and by a fifth, so that two that are alike do not take turns.
const BETTER_BY: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_once_and_forgets_what_was_asked_before() {
        let now = cardea_proto::time::testing::start().instant;
        let at = |ms| now + Duration::from_millis(ms);
        let mut probes = Probes::default();
        for (id, ms) in [(1, 0), (2, 100), (3, 200)] {
            let at = at(ms);
            probes.sent(Probe { id, at, size: 42 });
        }
        assert!(probes.answered(at(120), 2).is_some());
        assert_eq!(probes.rtt(), Some(Duration::from_millis(20)));
        assert!(probes.answered(at(120), 2).is_none());
        assert!(probes.answered(at(120), 1).is_none());
        assert!(probes.answered(at(300), 3).is_some());
        assert_eq!(probes.rtt(), Some(Duration::from_millis(30)));
    }

    #[test]
    fn loss_counts_more_than_a_round_trip_once_it_is_known() {
        let now = cardea_proto::time::testing::start().instant;
        let (mut clean, mut lossy) = (Probes::default(), Probes::default());
        for id in 0..24 {
            for (probes, is_answered) in [(&mut clean, true), (&mut lossy, id % 2 == 1)] {
                let (at, size) = (now, 42);
                probes.sent(Probe { id, at, size });
                if is_answered {
                    let rtt = Duration::from_millis(if id % 2 == 1 { 10 } else { 80 });
                    probes.answered(now + rtt, id);
                }
            }
            let both = clean.quality().zip(lossy.quality());
            let is_cleaner = both.is_some_and(|(clean, lossy)| clean.is_better_than(lossy));
            assert_eq!(is_cleaner, id >= COUNTED_MIN - 1, "{id}");
        }
        let (clean, lossy) = clean.quality().zip(lossy.quality()).unwrap();
        assert_eq!((clean.loss, lossy.loss), (Some(0), Some(500)));
        assert!(!lossy.is_better_than(clean) && lossy.is_lossy());
    }

    #[test]
    fn a_path_is_left_for_more_loss_than_it_is_taken_again_with() {
        let quality = |loss| Quality {
            rtt: Duration::from_millis(10),
            loss: Some(loss),
        };
        let relay = Quality {
            rtt: Duration::from_millis(20),
            loss: Some(0),
        };
        // How much it loses, whether it is left for the relay, and whether it is taken.
        for (loss, is_left, is_taken) in [
            (0, false, true),
            (120, false, true),
            (125, false, false),
            (240, false, false),
            (250, true, false),
        ] {
            let is = (
                relay.is_better_than(quality(loss)),
                quality(loss).is_worth_taking(relay),
            );
            assert_eq!(is, (is_left, is_taken), "{loss}");
        }
    }

    #[test]
    fn what_was_too_large_is_no_loss() {
        let now = cardea_proto::time::testing::start().instant;
        let mut probes = Probes::default();
        for id in 0..40 {
            let size = if id % 2 == 0 { 1_400 } else { 42 };
            probes.sent(Probe { id, at: now, size });
            if size == 42 {
                assert!(probes.answered(now, id).is_some());
            }
        }
        assert_eq!(probes.quality().unwrap().loss, Some(0));
        probes.give_up();
        assert!(probes.quality().is_none());
    }

    #[test]
    fn a_path_that_was_away_has_lost_little() {
        let now = cardea_proto::time::testing::start().instant;
        let mut probes = Probes::default();
        for id in 0..40 {
            let (at, size) = (now, 42);
            probes.sent(Probe { id, at, size });
            if !(20..35).contains(&id) {
                assert!(probes.answered(now, id).is_some());
            }
        }
        // Three of the last 28 that count.
        assert_eq!(probes.quality().unwrap().loss, Some(3_000 / 28));
        for id in 40..50 {
            let (at, size) = (now, 42);
            probes.sent(Probe { id, at, size });
        }
        probes.give_up();
        probes.sent(Probe {
            id: 50,
            at: now,
            size: 42,
        });
        assert!(probes.answered(now, 50).is_some());
        assert_eq!(probes.quality().unwrap().loss, Some(3_000 / 29));
    }

    #[test]
    fn a_little_shorter_is_not_better() {
        let ms = Duration::from_millis;
        assert!(is_better(ms(50), ms(30)));
        assert!(!is_better(ms(50), ms(45)));
        assert!(!is_better(ms(5), ms(1)));
        assert!(!is_better(ms(100), ms(90)));
    }
}
