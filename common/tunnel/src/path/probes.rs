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
        let probe = self.out.drain(..=at).next_back()?;
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

    /// The path may be another one from here on.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Whether one round trip is so much shorter that changing over is worth it.
pub(crate) fn is_better(than: Duration, rtt: Duration) -> bool {
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
    fn a_little_shorter_is_not_better() {
        let ms = Duration::from_millis;
        assert!(is_better(ms(50), ms(30)));
        assert!(!is_better(ms(50), ms(45)));
        assert!(!is_better(ms(5), ms(1)));
        assert!(!is_better(ms(100), ms(90)));
    }
}
