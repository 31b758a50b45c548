//! Whether the other end answers, so that no tunnel reads open that carries nothing.
//!
//! Who has sent something and hears nothing asks after half a second, and knows within two. Who has
//! nothing to send does not ask, unless somebody wants to know how the tunnel is.

use std::time::{Duration, Instant};

/// Signs of life of one tunnel's other end.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// Since when something of ours waits for any sign of life.
    unheard_since: Option<Instant>,
    /// Since when somebody waits to know whether bytes pass both ways.
    wanted_since: Option<Instant>,
    next: Option<Instant>,
    is_silent: bool,
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
        self.unheard_since = None;
        self.is_silent = false;
        if self.wanted_since.is_none() {
            self.next = None;
        }
    }

    /// An answer to one of our probes came: bytes pass both ways.
    pub(crate) const fn answered(&mut self) {
        self.wanted_since = None;
        self.heard();
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

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Whether to probe now.
    pub(crate) fn poll(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
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
        self.next = if self.is_silent {
            Some(now + SILENT_PAUSE)
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
const ASK_AFTER: Duration = Duration::from_millis(500);

/// Wait for an answer before it is asked again: five times within the limit, so that loss alone does
/// not make a tunnel look dead.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// How long something of ours may go unheard before the other end counts as silent.
const UNHEARD_MAX: Duration = Duration::from_secs(2);

/// How long somebody waits who asks how a tunnel is.
const CHECK_MAX: Duration = Duration::from_millis(1_500);

/// How often a silent end is asked. The carrier gives it up in the end.
const SILENT_PAUSE: Duration = Duration::from_secs(2);

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
