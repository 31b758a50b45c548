//! Whether the other end answers, so that no tunnel reads open that carries nothing.
//!
//! Who has sent something and hears nothing asks soon, and knows after a second and a half. So does
//! who was hearing a lot and hears no more: what comes may be lost behind a NAT that maps anew, which
//! only the end behind it can mend. Who has nothing to send does not ask otherwise, unless somebody
//! wants to know how the tunnel is.

use std::time::{Duration, Instant};

/// Signs of life of one tunnel's other end.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// Since when something of ours waits for any sign of life.
    unheard_since: Option<Instant>,
    /// Since when somebody waits to know whether bytes pass both ways.
    wanted_since: Option<Instant>,
    next: Option<Instant>,
    /// Datagrams of the carrier that came since it was asked last.
    burst: u32,
    /// How often it was asked since anything was heard.
    asked: u32,
    /// How often since the relay answered meanwhile: this end's own network is well.
    asked_beside: Option<u32>,
    is_silent: bool,
    /// Whether it was, since somebody asked.
    has_returned: bool,
}

impl Life {
    /// Something was sent; says whether the deadline is another one.
    pub(crate) fn sent(&mut self, now: Instant) -> bool {
        if self.unheard_since.is_some() {
            return false;
        }
        self.unheard_since = Some(now);
        self.hasten(now + ASK_AFTER);
        true
    }

    /// Something authentic came.
    pub(crate) const fn heard(&mut self) {
        self.has_returned |= self.is_silent;
        self.unheard_since = None;
        self.asked = 0;
        self.asked_beside = None;
        self.is_silent = false;
        if self.wanted_since.is_none() {
            self.next = None;
        }
    }

    /// A datagram of the carrier came, after which more may be missed.
    pub(crate) fn came(&mut self, now: Instant) {
        self.heard();
        self.burst = self.burst.saturating_add(1);
        if self.burst >= BURST {
            self.hasten(now + QUIET);
        }
    }

    /// An answer to one of our probes came: bytes pass both ways.
    pub(crate) const fn answered(&mut self) {
        self.wanted_since = None;
        self.heard();
    }

    /// The relay answered, whatever the other end does.
    pub(crate) fn heard_beside(&mut self, now: Instant) {
        if self.asked > 0 && self.asked_beside.is_none() {
            self.asked_beside = Some(0);
            if self.is_silent {
                self.hasten(now);
            }
        }
    }

    /// This end was asleep: what it did not hear meanwhile says nothing.
    pub(crate) fn woke(&mut self) {
        *self = Self::default();
    }

    /// Whether the silence is the other end's alone: the relay answers, and questions that were sent
    /// since then were not answered.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_silent && self.asked_beside >= Some(ASKED_BESIDE)
    }

    /// Somebody wants to know.
    pub(crate) fn check(&mut self, now: Instant) {
        if !self.is_silent && self.wanted_since.is_none() {
            self.wanted_since = Some(now);
            self.hasten(now);
        }
    }

    /// Whether it is not known yet what [`Life::check`] asked for.
    pub(crate) const fn is_checking(&self) -> bool {
        self.wanted_since.is_some()
    }

    pub(crate) const fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// Whether the other end is back after a silence in which what was said went nowhere.
    pub(crate) const fn has_returned(&self) -> bool {
        self.has_returned
    }

    /// The same, once.
    pub(crate) const fn take_returned(&mut self) -> bool {
        std::mem::replace(&mut self.has_returned, false)
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Whether what asked last may have come from an address that is not ours any more: at once where
    /// nothing else is known of the way, and otherwise when the first question was not answered.
    pub(crate) const fn is_doubtful(&self, is_relayed: bool) -> bool {
        self.asked == 2 || (is_relayed && self.asked == 1)
    }

    /// Whether to probe now.
    pub(crate) fn poll(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
        }
        if std::mem::take(&mut self.burst) >= BURST {
            self.unheard_since.get_or_insert(now);
        }
        self.asked = self.asked.saturating_add(1);
        if let Some(asked) = &mut self.asked_beside {
            *asked = asked.saturating_add(1);
        }
        let since = [self.unheard_since, self.wanted_since];
        let limits = since.into_iter().zip([UNHEARD_MAX, CHECK_MAX]);
        if limits
            .into_iter()
            .any(|(since, limit)| since.is_some_and(|since| now >= since + limit))
        {
            self.is_silent = true;
            self.wanted_since = None;
        }
        let is_finding_out = self.asked_beside.is_some_and(|asked| asked < ASKED_BESIDE);
        self.next = if self.is_silent && is_finding_out {
            Some(now + ASK_AGAIN)
        } else if self.is_silent {
            Some(
                now + if self.asked < ASKED_SOON {
                    SILENT_PAUSE
                } else {
                    SILENT_PAUSE_LATER
                },
            )
        } else {
            // At the limit itself, so that it is not known later than it could be.
            let limit = since
                .into_iter()
                .zip([UNHEARD_MAX, CHECK_MAX])
                .filter_map(|(since, limit)| Some(since? + limit));
            limit.chain([now + ASK_AGAIN]).min()
        };
        true
    }

    fn hasten(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

/// How long what was sent may go without any sign of life before the other end is asked.
const ASK_AFTER: Duration = Duration::from_millis(400);

/// Datagrams after which a pause is worth a question: less than a page of the web.
const BURST: u32 = 8;

/// How long such a pause is.
const QUIET: Duration = Duration::from_millis(150);

/// Wait for an answer before it is asked again: five times within the limit, so that loss alone does
/// not make a tunnel look dead.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Questions after the relay's answer: the other end had time for two of them.
const ASKED_BESIDE: u32 = 3;

/// How long something of ours may go unheard before the other end counts as silent.
const UNHEARD_MAX: Duration = Duration::from_millis(1_500);

/// How long somebody waits who asks how a tunnel is.
const CHECK_MAX: Duration = Duration::from_millis(1_500);

/// How often a silent end is asked at first.
const SILENT_PAUSE: Duration = Duration::from_secs(2);

/// Questions after which a silent end counts as away: half a minute of them.
const ASKED_SOON: u32 = 20;

/// How often it is asked from then on, until its grant ends. Who was asleep or elsewhere says by itself that
/// it is back; this is for a network that mends between the two ends.
const SILENT_PAUSE_LATER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_nothing_asks_and_knows_within_two_seconds() {
        let (mut life, now) = (Life::default(), start());
        assert!(life.sent(now));
        assert!(!life.sent(now + ASK_AFTER / 2));
        let (asked, at) = until_silent(&mut life);
        assert_eq!(at - now, UNHEARD_MAX);
        assert!(asked >= 5);
        life.heard();
        assert!(!life.is_silent() && life.deadline().is_none());
    }

    #[test]
    fn who_heard_a_lot_and_hears_no_more_asks_once_if_it_is_answered() {
        let (mut life, now) = (Life::default(), start());
        for _ in 1..BURST {
            life.came(now);
        }
        assert_eq!(life.deadline(), None, "a little");
        life.came(now);
        assert_eq!(life.deadline(), Some(now + QUIET));
        assert!(!life.poll(now + QUIET / 2));
        assert!(life.poll(now + QUIET) && !life.is_doubtful(false));
        assert!(life.is_doubtful(true), "the relay may not know us any more");
        life.answered();
        assert_eq!(life.deadline(), None);
        for _ in 0..BURST {
            life.came(now);
        }
        assert!(life.poll(now + QUIET));
        assert!(life.poll(now + QUIET + ASK_AGAIN) && life.is_doubtful(false));
        let (_, at) = until_silent(&mut life);
        assert_eq!(at - now, QUIET + UNHEARD_MAX);
    }

    #[test]
    fn who_hears_something_asks_nothing() {
        let (mut life, now) = (Life::default(), start());
        life.sent(now);
        life.heard();
        assert_eq!(life.deadline(), None);
    }

    #[test]
    fn a_check_rests_on_an_answer_and_is_bounded() {
        let (mut life, now) = (Life::default(), start());
        life.check(now);
        life.heard();
        assert!(life.is_checking(), "that the peer is heard shows one way");
        life.answered();
        assert!(!life.is_checking());
        life.check(now);
        let (_, at) = until_silent(&mut life);
        assert_eq!(at - now, CHECK_MAX);
        assert!(!life.is_checking());
    }

    #[test]
    fn the_silence_is_the_other_ends_alone_when_the_relay_answers_meanwhile() {
        let (mut life, now) = (Life::default(), start());
        life.sent(now);
        let (_, at) = until_silent(&mut life);
        assert!(!life.is_alone(), "this end's network may be down");
        life.heard_beside(at);
        for asked in 0..ASKED_BESIDE {
            assert!(!life.is_alone(), "{asked}");
            let at = life.deadline().unwrap();
            assert!(life.poll(at));
        }
        assert!(life.is_alone());
        life.heard();
        assert!(!life.is_alone());
    }

    fn until_silent(life: &mut Life) -> (u32, Instant) {
        let mut asked = 0;
        loop {
            let at = life.deadline().unwrap();
            asked += u32::from(life.poll(at));
            if life.is_silent() {
                return (asked, at);
            }
        }
    }

    fn start() -> Instant {
        cardea_proto::time::testing::start().instant
    }
}
