//! The relays: which of them a grant names, in which order.
//!
//! What a grant was offered with stays: both ends must know the relays in the same order. Relays that
//! do not answer come last, and are never left out, because it may be this controller alone that they
//! do not answer.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_proto::access::STANDBY_MAX;

use crate::Settings;

/// The relays of one grant: the addresses of each, in order.
pub(crate) type Chosen = Vec<Vec<SocketAddr>>;

/// Which relays answer.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    silent: BTreeSet<usize>,
}

impl Relays {
    /// What a [`Watch`] found of the relay at this place of the settings.
    pub(crate) fn heard(&mut self, place: usize, is_silent: bool) {
        if is_silent {
            self.silent.insert(place);
        } else {
            self.silent.remove(&place);
        }
    }

    /// Whether the relay at this place of the settings is silent.
    pub(crate) fn is_silent(&self, place: usize) -> bool {
        self.silent.contains(&place)
    }

    /// The relays for a grant that is offered at this moment.
    pub(crate) fn choose(&self, settings: &Settings) -> Chosen {
        let mut places: Vec<_> = settings.relays.iter().enumerate().collect();
        places.sort_by_key(|(place, _)| self.is_silent(*place));
        let chosen = places.into_iter().map(|(_, relay)| relay.clone());
        chosen.take(1 + STANDBY_MAX).collect()
    }
}

/// Watches one relay by asking it, with a ticket that it always answers, and says whether it is silent.
///
/// ```text
///   answers ── no answer to three questions in a row ──▶ silent ── two answers in a row ──▶ answers
/// ```
#[derive(Debug)]
pub struct Watch {
    is_silent: bool,
    unanswered: u32,
    answered: u32,
    is_asked: bool,
    asked: Instant,
    next: Instant,
}

impl Watch {
    /// A relay that is taken to answer until it does not.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            is_silent: false,
            unanswered: 0,
            answered: 0,
            is_asked: false,
            asked: now,
            next: now,
        }
    }

    /// When [`Watch::poll`] is next due.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.next
    }

    /// Whether to ask now.
    pub fn poll(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        if self.is_asked {
            self.answered = 0;
            self.unanswered = self.unanswered.saturating_add(1);
            self.is_silent |= self.unanswered >= UNANSWERED_MAX;
        }
        self.is_asked = true;
        self.asked = now;
        // An answer puts the next question off. Of one that is silent there is no doubt to settle.
        self.next = now + if self.is_silent { ASK_EVERY } else { ASK_SOON };
        true
    }

    /// The relay has answered.
    pub fn answered(&mut self) {
        if !std::mem::take(&mut self.is_asked) {
            return;
        }
        self.unanswered = 0;
        self.answered = self.answered.saturating_add(1);
        self.is_silent &= self.answered < ANSWERED_MIN;
        self.next = self.asked + ASK_EVERY;
    }

    /// Whether new grants should avoid the relay.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.is_silent
    }
}

/// Pause between two questions: one datagram each, to some relays.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Pause after a question that was not answered: longer than round trips between hosts that serve.
const ASK_SOON: Duration = Duration::from_millis(300);

/// Questions that may be lost before a relay counts as silent.
const UNANSWERED_MAX: u32 = 3;

/// Answers in a row that a silent relay must give.
const ANSWERED_MIN: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_falls_silent_is_known_within_two_seconds_and_one_lost_answer_is_nothing() {
        let mut watch = Watch::new(start());
        let mut now = start();
        for round in 0..20 {
            now = watch.deadline();
            assert!(watch.poll(now), "{round}");
            if round % 2 == 0 {
                watch.answered();
            }
            assert!(!watch.is_silent());
        }
        watch.poll(watch.deadline());
        watch.answered();
        let since = watch.asked;
        while !watch.is_silent() {
            now = watch.deadline();
            watch.poll(now);
        }
        assert!(now - since <= Duration::from_secs(2), "{:?}", now - since);
        watch.answered();
        assert!(watch.is_silent(), "one answer may be a chance");
        watch.answered();
        assert!(watch.is_silent(), "nobody has asked");
        watch.poll(watch.deadline());
        watch.answered();
        assert!(!watch.is_silent());
    }

    #[test]
    fn relays_that_are_silent_come_last_and_no_more_stand_by_than_an_end_takes() {
        let relay = |last| vec![SocketAddr::from(([192, 0, 2, last], 7444))];
        let settings = Settings {
            relays: (1..=5).map(relay).collect(),
            ..Settings::default()
        };
        let mut relays = Relays::default();
        assert_eq!(relays.choose(&settings), [relay(1), relay(2), relay(3)]);
        relays.heard(0, true);
        relays.heard(4, true);
        assert_eq!(relays.choose(&settings), [relay(2), relay(3), relay(4)]);
        for place in 1..4 {
            relays.heard(place, true);
        }
        assert_eq!(relays.choose(&settings), [relay(1), relay(2), relay(3)]);
        relays.heard(4, false);
        assert_eq!(relays.choose(&settings), [relay(5), relay(1), relay(2)]);
    }

    fn start() -> Instant {
        cardea_proto::time::testing::start().instant
    }
}
