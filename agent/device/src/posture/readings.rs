//! What each probe said last, and which are being asked: the times of it, without threads or clocks.
//!
//! ```text
//!          ask                     its time is up
//!   idle ───────▶ asked ─────────────────────────▶ late
//!    ▲             │ it answers: that is its reading │ it answers: too old to be a fact
//!    └─────────────┴─────────────────────────────────┘
//! ```
//!
//! One that is asked again while it is busy is started again when it has answered. Until then what it
//! said last stands, with the age that it has; once it is late, there is no reading.

use std::time::{Duration, Instant};

use crate::probe::Observed;

/// All probes, by their place in the list of them.
#[derive(Debug)]
pub(super) struct Readings {
    probes: Vec<State>,
    timeout: Duration,
}

#[derive(Debug)]
struct State {
    last: Option<Last>,
    turn: Turn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Idle,
    /// Since when, and whether to ask again afterwards.
    Asked(Instant, Again),
    Late(Again),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    No,
    Yes,
}

/// What a probe came to, and when it began to read: no fact looks younger than it is.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) found: Result<Vec<Observed>, &'static str>,
    pub(super) at: Instant,
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct After {
    /// Facts may have changed.
    pub(super) is_news: bool,
    /// The probe must be started again.
    pub(super) is_asked: bool,
}

impl Readings {
    /// Nothing is known and nothing asked.
    pub(super) fn new(probes: usize, timeout: Duration) -> Self {
        let state = || State {
            last: None,
            turn: Turn::Idle,
        };
        Self {
            probes: std::iter::repeat_with(state).take(probes).collect(),
            timeout,
        }
    }

    /// Asks all; gives those to be started, which are all that are not busy.
    pub(super) fn ask(&mut self, now: Instant) -> Vec<usize> {
        let mut idle = Vec::new();
        for (index, probe) in self.probes.iter_mut().enumerate() {
            probe.turn = match probe.turn {
                Turn::Idle => {
                    idle.push(index);
                    Turn::Asked(now, Again::No)
                }
                Turn::Asked(since, _) => Turn::Asked(since, Again::Yes),
                Turn::Late(_) => Turn::Late(Again::Yes),
            };
        }
        idle
    }

    /// A probe answered, or failed.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        index: usize,
        found: Option<Vec<Observed>>,
    ) -> After {
        self.expire(now);
        let Some(probe) = self.probes.get_mut(index) else {
            return After {
                is_news: false,
                is_asked: false,
            };
        };
        let (is_news, again) = match probe.turn {
            Turn::Idle => (false, Again::No),
            Turn::Late(again) => (false, again),
            Turn::Asked(at, again) => {
                let found = found.ok_or(FAILED);
                probe.last = Some(Last { found, at });
                (true, again)
            }
        };
        probe.turn = match again {
            Again::No => Turn::Idle,
            Again::Yes => Turn::Asked(now, Again::No),
        };
        After {
            is_news,
            is_asked: again == Again::Yes,
        }
    }

    /// Gives up those whose time is up; whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        for probe in &mut self.probes {
            if let Turn::Asked(at, again) = probe.turn
                && at + self.timeout <= now
            {
                probe.turn = Turn::Late(again);
                probe.last = Some(Last {
                    found: Err(TOO_LONG),
                    at,
                });
                any = true;
            }
        }
        any
    }

    /// When the first of the busy ones is late.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let asked = self.probes.iter().filter_map(|probe| match probe.turn {
            Turn::Asked(at, _) => Some(at + self.timeout),
            Turn::Idle | Turn::Late(_) => None,
        });
        asked.min()
    }

    /// What each said last; nothing for one that never answered and is not late.
    pub(super) fn last(&self) -> impl Iterator<Item = (usize, &Last)> {
        let last = self.probes.iter().map(|probe| probe.last.as_ref());
        last.enumerate()
            .filter_map(|(index, last)| Some((index, last?)))
    }
}

/// Why there is no reading of a probe that did not answer in time.
pub(super) const TOO_LONG: &str = "reading it took too long";

/// Why there is none of a probe that ended without an answer.
const FAILED: &str = "it could not be read";

#[cfg(test)]
mod tests {
    use cardea_proto::{
        posture::{Grade, Reading, Value},
        time::testing,
    };

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);
    const NEWS: After = After {
        is_news: true,
        is_asked: false,
    };

    #[test]
    fn a_slow_probe_keeps_its_last_reading_and_holds_no_other_up() {
        let (mut readings, start) = two();
        let later = start + Duration::from_secs(60);
        assert_eq!(readings.ask(later), [0, 1]);
        let soon = later + Duration::from_millis(100);
        assert_eq!(readings.answered(soon, 0, said(2)), NEWS);
        assert_eq!(shown(&readings), [(0, Ok(2), later), (1, Ok(1), start)]);
        assert_eq!(readings.deadline(), Some(later + TIMEOUT));

        let end = later + Duration::from_secs(4);
        assert_eq!(readings.answered(end, 1, said(2)), NEWS);
        assert_eq!(shown(&readings), [(0, Ok(2), later), (1, Ok(2), later)]);
        assert_eq!(readings.deadline(), None);
    }

    #[test]
    fn a_change_while_a_probe_is_busy_has_it_asked_again() {
        let (mut readings, start) = two();
        let first = start + Duration::from_secs(1);
        readings.ask(first);
        readings.answered(first, 0, said(2));
        let second = first + Duration::from_secs(1);
        assert_eq!(readings.ask(second), [0]);
        let end = second + Duration::from_secs(1);
        let after = readings.answered(end, 1, said(2));
        assert!(after.is_news && after.is_asked);
        assert_eq!(readings.deadline(), Some(second + TIMEOUT));
        readings.answered(end, 0, said(3));
        assert_eq!(readings.deadline(), Some(end + TIMEOUT));
        assert_eq!(readings.answered(end, 1, said(3)), NEWS);
        assert_eq!(shown(&readings), [(0, Ok(3), second), (1, Ok(3), end)]);
    }

    #[test]
    fn a_probe_that_is_late_has_no_reading_and_its_answer_is_too_old() {
        let (mut readings, start) = two();
        let asked = start + Duration::from_secs(1);
        readings.ask(asked);
        readings.answered(asked, 0, said(2));
        assert!(!readings.expire(asked + TIMEOUT - Duration::from_millis(1)));
        assert!(readings.expire(asked + TIMEOUT));
        assert!(!readings.expire(asked + TIMEOUT));
        let gone = [(0, Ok(2), asked), (1, Err(TOO_LONG), asked)];
        assert_eq!(shown(&readings), gone);
        assert_eq!(readings.deadline(), None);

        let end = asked + TIMEOUT * 2;
        assert_eq!(readings.ask(end), [0]);
        readings.answered(end, 0, said(2));
        let after = readings.answered(end, 1, said(9));
        assert!(!after.is_news && after.is_asked);
        assert_eq!(shown(&readings)[1], gone[1]);
        assert_eq!(readings.answered(end, 1, said(4)), NEWS);
        assert_eq!(shown(&readings)[1], (1, Ok(4), end));
    }

    #[test]
    fn an_answer_after_its_time_is_late_even_when_nobody_looked() {
        let (mut readings, start) = two();
        readings.ask(start);
        let after = readings.answered(start + TIMEOUT, 1, said(9));
        assert!(!after.is_news && !after.is_asked);
        assert_eq!(shown(&readings)[1], (1, Err(TOO_LONG), start));
    }

    #[test]
    fn a_probe_that_ends_without_an_answer_has_no_reading() {
        let (mut readings, start) = two();
        readings.ask(start);
        assert_eq!(readings.answered(start, 1, None), NEWS);
        assert_eq!(shown(&readings)[1], (1, Err(FAILED), start));
        assert_eq!(readings.ask(start), [1]);
    }

    /// Two probes that have both said 1 when they were first asked.
    fn two() -> (Readings, Instant) {
        let start = testing::start().instant;
        let mut readings = Readings::new(2, TIMEOUT);
        assert_eq!(readings.ask(start), [0, 1]);
        assert_eq!(shown(&readings), []);
        for index in 0..2 {
            assert_eq!(readings.answered(start, index, said(1)), NEWS);
        }
        (readings, start)
    }

    #[expect(clippy::unnecessary_wraps, reason = "as it is passed on")]
    fn said(value: i64) -> Option<Vec<Observed>> {
        Some(vec![Observed {
            name: "uptime_s",
            reading: Reading::Value(Value::Integer(value)),
            at_most: Grade::Os,
        }])
    }

    fn shown(readings: &Readings) -> Vec<(usize, Result<i64, &'static str>, Instant)> {
        let value = |found: &Vec<Observed>| {
            let Reading::Value(Value::Integer(value)) = found[0].reading else {
                panic!("{found:?}");
            };
            value
        };
        readings
            .last()
            .map(|(index, last)| {
                (
                    index,
                    last.found.as_ref().map(value).map_err(|why| *why),
                    last.at,
                )
            })
            .collect()
    }
}
