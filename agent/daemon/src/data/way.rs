//! Which way leads to a relay: UDP, or a detour where UDP does not pass.
//!
//! ```text
//!            silent for 300 ms: asks               silent still: opens a detour; it is up
//!   ┌─ Udp ─────────────────────▶ Doubtful ─────────────────────────────────────────▶ Detour ─┐
//!   │   ▲                          │    ▲                                              │  │   │
//!   │   └──────── UDP answers ─────┘    └────────── it is over, or silent when asked ──┘  │   │
//!   │   ▲                                                                                 │   │
//!   └───┴───────────────────────── UDP answers a question, asked now and then ────────────┴───┘
//! ```
//!
//! A relay that has nothing to forward is silent as well, so silence is no proof: a ticket that it
//! knows is sent once more, and whatever it says to that shows that UDP passes.

use std::time::{Duration, Instant};

/// How long a relay may be silent after something was sent before it is asked: longer than most
/// round trips to a relay and the other end.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long its answer may take before a detour is opened beside.
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// How long an answer holds before silence is doubted again.
const TRUST: Duration = Duration::from_secs(1);

/// How long a detour may be silent after something was sent before the relay is asked by it.
const DETOUR_PATIENCE: Duration = Duration::from_secs(2);

/// How long its answer may take before the detour is given up: TCP sends again what was lost.
const DETOUR_ANSWER_TIME: Duration = Duration::from_secs(3);

/// First pause before UDP is asked again from a detour; the next are twice as long each.
const TRIAL_MIN: Duration = Duration::from_secs(5);

/// Longest pause between two such questions.
const TRIAL_MAX: Duration = Duration::from_secs(60);

/// First pause before a detour that did not come about is tried again.
const OPEN_MIN: Duration = Duration::from_secs(1);

/// Longest pause between two tries.
const OPEN_MAX: Duration = Duration::from_secs(30);

/// The way to one relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    state: State,
    /// Since when something was sent and nothing came, on the way in use.
    unheard: Option<Instant>,
    trusted_until: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// UDP answers, as far as is known.
    Udp,
    /// It does not, and a detour is being opened from `next_open` on.
    Doubtful {
        next_open: Instant,
        pause: Duration,
        is_opening: bool,
    },
    /// By the detour; UDP is asked again at `next_trial`.
    Detour {
        next_trial: Instant,
        pause: Duration,
        asked: Option<Instant>,
    },
}

/// What must be done about a way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Must {
    /// Ask the relay by UDP.
    pub(super) ask: bool,
    /// Ask it by the detour.
    pub(super) ask_by_detour: bool,
    /// Open a detour.
    pub(super) open: bool,
    /// Drop the detour.
    pub(super) close: bool,
}

impl Way {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Udp,
            unheard: None,
            trusted_until: None,
        }
    }

    /// Whether what is sent goes by the detour.
    pub(super) const fn is_detour(&self) -> bool {
        matches!(self.state, State::Detour { .. })
    }

    /// Whether a detour is in use, or would be.
    pub(super) fn wants_detour(&self) -> bool {
        self.state != State::Udp
    }

    /// Something is sent to the relay.
    pub(super) fn sent(&mut self, now: Instant) {
        let trusted = self.trusted_until.unwrap_or(now);
        self.unheard.get_or_insert(now.max(trusted));
    }

    /// UDP has brought something from the relay.
    pub(super) fn heard_udp(&mut self, now: Instant) {
        if self.state != State::Udp {
            self.state = State::Udp;
            self.trusted_until = Some(now + TRUST);
        }
        self.unheard = None;
    }

    /// The detour has brought something.
    pub(super) fn heard_detour(&mut self) {
        if let State::Detour { asked, .. } = &mut self.state {
            *asked = None;
            self.unheard = None;
        }
    }

    /// The detour is up.
    pub(super) fn opened(&mut self, now: Instant) {
        if matches!(self.state, State::Doubtful { .. }) {
            self.state = State::Detour {
                next_trial: now + TRIAL_MIN,
                pause: TRIAL_MIN,
                asked: None,
            };
            self.unheard = None;
        }
    }

    /// The detour is over, or did not come about.
    pub(super) fn ended(&mut self, now: Instant) {
        match &mut self.state {
            State::Udp => {}
            State::Doubtful {
                next_open,
                pause,
                is_opening,
            } => {
                *next_open = now + *pause;
                *pause = (*pause * 2).min(OPEN_MAX);
                *is_opening = false;
            }
            State::Detour { .. } => self.doubt(now + OPEN_MIN),
        }
    }

    /// When [`Self::look`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Udp => self.unheard.map(|since| since + PATIENCE),
            State::Doubtful {
                next_open,
                is_opening,
                ..
            } => (!is_opening).then_some(next_open),
            State::Detour {
                next_trial, asked, ..
            } => {
                let silent = match asked {
                    Some(asked) => Some(asked + DETOUR_ANSWER_TIME),
                    None => self.unheard.map(|since| since + DETOUR_PATIENCE),
                };
                Some(silent.map_or(next_trial, |silent| silent.min(next_trial)))
            }
        }
    }

    /// Does what is due.
    pub(super) fn look(&mut self, now: Instant) -> Must {
        let mut must = Must::default();
        if self.deadline().is_none_or(|due| now < due) {
            return must;
        }
        match &mut self.state {
            State::Udp => {
                must.ask = true;
                self.doubt(now + ANSWER_TIME);
            }
            State::Doubtful { is_opening, .. } => {
                *is_opening = true;
                must.ask = true;
                must.open = true;
            }
            State::Detour {
                next_trial, pause, ..
            } if now >= *next_trial => {
                *next_trial = now + *pause;
                *pause = (*pause * 2).min(TRIAL_MAX);
                must.ask = true;
            }
            State::Detour { asked, .. } if asked.is_none() => {
                *asked = Some(now);
                must.ask_by_detour = true;
            }
            State::Detour { .. } => {
                must.close = true;
                self.doubt(now);
            }
        }
        must
    }

    const fn doubt(&mut self, next_open: Instant) {
        self.state = State::Doubtful {
            next_open,
            pause: OPEN_MIN,
            is_opening: false,
        };
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::time::testing::start;

    use super::*;

    const NOTHING: Must = Must {
        ask: false,
        ask_by_detour: false,
        open: false,
        close: false,
    };
    const ASK: Must = Must {
        ask: true,
        ..NOTHING
    };
    const OPEN: Must = Must {
        ask: true,
        open: true,
        ..NOTHING
    };

    #[test]
    fn a_relay_that_answers_nothing_is_reached_by_a_detour_within_a_second() {
        let mut bench = Bench::new();
        assert_eq!(bench.after(10_000), NOTHING, "nobody has sent anything");
        bench.way.sent(bench.now);
        assert_eq!(bench.after(299), NOTHING);
        bench.way.sent(bench.now);
        assert_eq!(bench.after(1), ASK);
        assert_eq!(bench.after(199), NOTHING);
        assert_eq!(bench.after(1), OPEN);
        assert_eq!(bench.after(60_000), NOTHING, "it is being opened");
        assert!(!bench.way.is_detour());
        bench.way.opened(bench.now);
        assert!(bench.way.is_detour());
    }

    #[test]
    fn a_relay_that_only_has_nothing_to_say_is_asked_once_a_second_at_most() {
        let mut bench = Bench::new();
        let mut asked = 0;
        for _ in 0..1_000 {
            bench.way.sent(bench.now);
            match bench.after(10) {
                ASK => {
                    asked += 1;
                    bench.way.heard_udp(bench.now);
                }
                must => assert_eq!(must, NOTHING),
            }
        }
        assert!((5..=10).contains(&asked), "{asked} times in 10 s");
    }

    #[test]
    fn a_detour_that_does_not_come_about_is_tried_again_ever_more_rarely() {
        let mut bench = Bench::new();
        bench.doubt();
        for pause in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            bench.way.ended(bench.now);
            assert_eq!(bench.after(pause - 1), NOTHING);
            assert_eq!(bench.after(1), OPEN);
        }
        bench.way.heard_udp(bench.now);
        bench.way.opened(bench.now);
        assert!(!bench.way.is_detour(), "UDP was faster");
    }

    #[test]
    fn udp_is_asked_from_a_detour_and_taken_back_when_it_answers() {
        let mut bench = Bench::new();
        bench.detour();
        for pause in [5_000, 5_000, 10_000, 20_000, 40_000, 60_000, 60_000] {
            assert_eq!(bench.after(pause - 1), NOTHING);
            assert_eq!(bench.after(1), ASK);
        }
        assert!(bench.way.is_detour());
        bench.way.heard_udp(bench.now);
        assert!(!bench.way.is_detour());
    }

    #[test]
    fn a_detour_that_is_silent_or_over_is_given_up_and_opened_anew() {
        let mut bench = Bench::new();
        bench.detour();
        bench.way.sent(bench.now);
        bench.way.heard_detour();
        bench.way.sent(bench.now);
        assert_eq!(bench.after(1_999), NOTHING);
        let ask_by_detour = Must {
            ask_by_detour: true,
            ..NOTHING
        };
        assert_eq!(bench.after(1), ask_by_detour, "it may have nothing to say");
        bench.way.heard_detour();
        bench.way.sent(bench.now);
        assert_eq!(bench.after(2_000), ask_by_detour);
        assert_eq!(bench.after(1_000), ASK, "UDP, as ever");
        assert_eq!(bench.after(1_999), NOTHING);
        let close = Must {
            close: true,
            ..NOTHING
        };
        assert_eq!(bench.after(1), close);
        assert_eq!(bench.after(0), OPEN);
        bench.way.opened(bench.now);
        bench.way.ended(bench.now);
        assert!(!bench.way.is_detour());
        assert_eq!(bench.after(999), NOTHING);
        assert_eq!(bench.after(1), OPEN);
    }

    struct Bench {
        way: Way,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                way: Way::new(),
                now: start().instant,
            }
        }

        fn after(&mut self, millis: u64) -> Must {
            self.now += Duration::from_millis(millis);
            self.way.look(self.now)
        }

        fn doubt(&mut self) {
            self.way.sent(self.now);
            assert_eq!(self.after(300), ASK);
            assert_eq!(self.after(200), OPEN);
        }

        fn detour(&mut self) {
            self.doubt();
            self.way.opened(self.now);
        }
    }
}
