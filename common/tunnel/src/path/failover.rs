//! Whether the relay in use still carries anything, and which one takes its place.
//!
//! ```text
//!            sent, nothing came through it          standby answered, the one in use did not
//!   Quiet ─────────────────────────────▶ Trial ──────────────────────────────────────▶ turn
//!     ▲                                   │  └─ nobody answers: asks again, ever more rarely
//!     └──── something came through it ────┘
//! ```
//!
//! What counts is what the other end has sealed: a relay may answer tickets and forward nothing.
//! A trial asks the other end through all relays at the same time, so that an end that is silent
//! itself moves nobody. Who has turned stays there until that relay fails in the same way: two
//! relays that are alike never take turns.

use std::time::{Duration, Instant};

/// Judges one end's relays.
#[derive(Debug, Default)]
pub(crate) struct Failover {
    /// Since when something of ours waits for a word through the relay in use.
    unheard_since: Option<Instant>,
    trial: Option<Trial>,
    /// Until when an answer holds before silence is doubted again.
    trusted_until: Option<Instant>,
    next: Option<Instant>,
}

/// All relays have been asked.
#[derive(Debug)]
struct Trial {
    /// How often.
    rounds: u32,
    /// When the relay in use has had time enough to answer.
    decided_at: Instant,
    /// The standby through which the other end answered first.
    answered: Option<usize>,
}

/// What must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask the other end through every relay.
    Ask,
    /// Go on with this standby.
    Turn(usize),
}

impl Failover {
    /// Something was sent through the relay in use, whose round trip is `rtt` when known; says
    /// whether the deadline is another one.
    pub(crate) fn sent(&mut self, now: Instant, rtt: Option<Duration>) -> bool {
        if self.unheard_since.is_some() {
            return false;
        }
        self.unheard_since = Some(now);
        let patience = rtt.map_or(PATIENCE_MAX, |rtt| {
            (rtt * 3).clamp(PATIENCE_MIN, PATIENCE_MAX.max(rtt * 3 / 2))
        });
        let from = self.trusted_until.map_or(now, |until| until.max(now));
        self.next = Some(from + patience);
        true
    }

    /// Something authentic came through the relay in use.
    pub(crate) fn heard(&mut self, now: Instant) {
        if self.trial.take().is_some() {
            self.trusted_until = Some(now + TRUST);
        }
        self.unheard_since = None;
        self.next = None;
    }

    /// The other end answered through a standby.
    pub(crate) fn answered(&mut self, standby: usize) {
        if let Some(trial) = &mut self.trial {
            trial.answered.get_or_insert(standby);
            let soonest = trial.decided_at;
            self.next = self.next.map(|next| next.min(soonest));
        }
    }

    /// Another relay is in use, or everything is found out anew.
    pub(crate) fn begin(&mut self, now: Instant) {
        *self = Self {
            trusted_until: Some(now + TRUST),
            ..Self::default()
        };
    }

    /// Doubts the relay in use at once, which answers no tickets.
    pub(crate) fn doubt(&mut self, now: Instant) {
        if self.trial.is_none() {
            self.unheard_since.get_or_insert(now);
            let at = self.trusted_until.map_or(now, |until| until.max(now));
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// What is due.
    pub(crate) fn poll(&mut self, now: Instant, rtt: Option<Duration>) -> Option<Step> {
        if self.next.is_none_or(|next| now < next) {
            return None;
        }
        let trial = self.trial.get_or_insert_with(|| {
            let grace = rtt.map_or(GRACE_MAX, |rtt| {
                (rtt * 2).clamp(GRACE_MIN, GRACE_MAX.max(rtt * 3 / 2))
            });
            Trial {
                rounds: 0,
                decided_at: now + grace,
                answered: None,
            }
        });
        if let Some(standby) = trial.answered
            && now >= trial.decided_at
        {
            return Some(Step::Turn(standby));
        }
        let pause = ASK_AGAIN * 2_u32.pow(trial.rounds.saturating_sub(ROUNDS_SOON).min(5));
        trial.rounds = trial.rounds.saturating_add(1);
        self.next = Some(now + pause);
        Some(Step::Ask)
    }
}

/// How long the other end may be silent after something was sent: three round trips, more than one
/// of a busy network and less than half of the second within which a dead relay must be left.
const PATIENCE_MIN: Duration = Duration::from_millis(150);
const PATIENCE_MAX: Duration = Duration::from_millis(300);

/// How long the relay in use has to answer a question, however soon a standby did.
const GRACE_MIN: Duration = Duration::from_millis(100);
const GRACE_MAX: Duration = Duration::from_millis(250);

/// Pause between two questions, because each may be lost.
const ASK_AGAIN: Duration = Duration::from_millis(75);

/// Questions before the pause doubles, up to 2.4 s: nobody answers at all.
const ROUNDS_SOON: u32 = 8;

/// How long an answer holds: a flow of one direction alone has nothing to hear, and asks this often.
const TRUST: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_falls_silent_is_left_in_less_than_a_second_once_another_one_answered() {
        for rtt in [None, Some(1), Some(40), Some(200)] {
            let mut bench = Bench::new(rtt);
            bench.failover.sent(bench.now, bench.rtt);
            assert_eq!(bench.next(), Step::Ask);
            bench.failover.answered(1);
            let step = std::iter::repeat_with(|| bench.next()).find(|step| *step != Step::Ask);
            assert_eq!(step, Some(Step::Turn(1)));
            assert!(bench.passed() <= Duration::from_millis(600), "{rtt:?}");
        }
    }

    #[test]
    fn a_relay_that_answers_when_asked_stays_in_use_whoever_else_was_faster() {
        let mut bench = Bench::new(Some(40));
        for _ in 0..100 {
            bench.failover.sent(bench.now, bench.rtt);
            assert_eq!(bench.next(), Step::Ask);
            bench.failover.answered(0);
            bench.now += Duration::from_millis(60);
            bench.failover.heard(bench.now);
            assert_eq!(bench.failover.deadline(), None);
        }
        assert!(bench.passed() > TRUST * 99, "asked rarely");
    }

    #[test]
    fn an_end_that_answers_nowhere_moves_nobody_and_is_asked_ever_more_rarely() {
        let mut bench = Bench::new(None);
        bench.failover.sent(bench.now, None);
        let mut asked = 0;
        while bench.passed() < Duration::from_secs(60) {
            assert_eq!(bench.next(), Step::Ask);
            asked += 1;
        }
        assert!((20..50).contains(&asked), "{asked}");
    }

    #[test]
    fn who_sends_nothing_asks_nothing() {
        let mut bench = Bench::new(None);
        bench.failover.begin(bench.now);
        assert_eq!(bench.failover.deadline(), None);
        bench.failover.answered(0);
        assert_eq!(bench.failover.deadline(), None);
        bench.failover.sent(bench.now, None);
        bench.failover.heard(bench.now);
        assert_eq!(bench.failover.poll(bench.now + TRUST * 9, None), None);
    }

    struct Bench {
        failover: Failover,
        now: Instant,
        rtt: Option<Duration>,
    }

    impl Bench {
        fn new(rtt_ms: Option<u64>) -> Self {
            Self {
                failover: Failover::default(),
                now: start(),
                rtt: rtt_ms.map(Duration::from_millis),
            }
        }

        fn next(&mut self) -> Step {
            self.now = self.failover.deadline().unwrap();
            self.failover.poll(self.now, self.rtt).unwrap()
        }

        fn passed(&self) -> Duration {
            self.now - start()
        }
    }

    fn start() -> Instant {
        cardea_proto::time::testing::start().instant
    }
}
