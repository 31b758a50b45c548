//! When a WireGuard tunnel shakes hands, and shows that it lives.
//!
//! ```text
//!            begin                    answered
//!   Idle ───────────▶ Attempting ───────────────▶ Established ──120 s, or 5 s unheard──▶ Attempting
//!  (connector)        │ 0.25 s, 0.5 s, 1 s …            ▲                               │ … 1 s … 15 s
//!                     ▼ 15 s                            └───────────answered────────────┘
//!                    Lost
//! ```
//!
//! The protocol's own timers would wait 5 s for the answer to a lost first message, and one lost
//! datagram must not cost a person that. A tunnel that was open is never lost by silence: its peer
//! may be asleep, and ends with its grant.

use std::time::{Duration, Instant};

use crate::command::End;

/// The timers of one end.
#[derive(Debug)]
pub(crate) struct Session {
    end: End,
    established: Option<Instant>,
    attempt: Option<Attempt>,
    /// Since when a packet of ours waits for any sign of life.
    unheard_since: Option<Instant>,
    /// Since when a packet of the peer waits for one.
    owed_since: Option<Instant>,
    tick: Instant,
    rtt: Option<Duration>,
    flood_since: Instant,
    flood_count: u32,
}

#[derive(Debug)]
struct Attempt {
    began: Instant,
    latest: Instant,
    next: Instant,
    backoff: Duration,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Begin a handshake, or begin it again.
    Initiate,
    /// Send an empty packet.
    KeepAlive,
    /// Let old keys go.
    Tick,
    /// The peer never came.
    Lost,
}

impl Session {
    /// An agent begins at once; a connector waits.
    pub(crate) fn new(now: Instant, end: End) -> Self {
        let mut session = Self {
            end,
            established: None,
            attempt: None,
            unheard_since: None,
            owed_since: None,
            tick: now + TICK,
            rtt: None,
            flood_since: now,
            flood_count: 0,
        };
        if end == End::Agent {
            session.begin(now);
        }
        session
    }

    pub(crate) const fn is_established(&self) -> bool {
        self.established.is_some()
    }

    pub(crate) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The peer proved to have the keys of a new session.
    pub(crate) fn established(&mut self, now: Instant) {
        self.established = Some(now);
        if let Some(attempt) = self.attempt.take() {
            self.rtt = Some(now.saturating_duration_since(attempt.latest));
        }
        self.heard();
    }

    /// Something authentic came.
    pub(crate) const fn heard(&mut self) {
        self.unheard_since = None;
    }

    /// A way leads to the peer again: a handshake that waits begins anew.
    pub(crate) const fn hurry(&mut self, now: Instant) {
        if let Some(attempt) = &mut self.attempt {
            attempt.began = now;
            attempt.next = now;
            attempt.backoff = RETRY_MIN;
        }
    }

    /// A packet came, so that the peer should hear from us.
    pub(crate) fn heard_packet(&mut self, now: Instant) {
        self.heard();
        self.owed_since.get_or_insert(now);
    }

    /// A packet was sent.
    pub(crate) fn sent_packet(&mut self, now: Instant) {
        self.owed_since = None;
        self.unheard_since.get_or_insert(now);
    }

    /// Whether the peer may begin another handshake in this second.
    pub(crate) fn admits_handshake(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.flood_since) >= Duration::from_secs(1) {
            self.flood_since = now;
            self.flood_count = 0;
        }
        self.flood_count = self.flood_count.saturating_add(1);
        self.flood_count <= HANDSHAKES_PER_SECOND_MAX
    }

    pub(crate) fn deadline(&self) -> Instant {
        let attempt = self.attempt.as_ref();
        [
            attempt.map(|attempt| attempt.next),
            self.end_of_opening(),
            self.owed_since.map(|since| since + KEEP_ALIVE),
            self.renewal(),
            self.silence(),
        ]
        .into_iter()
        .flatten()
        .fold(self.tick, Instant::min)
    }

    /// Takes one thing that is due; called until there is none.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Due> {
        if self.end_of_opening().is_some_and(|at| now >= at) {
            return Some(Due::Lost);
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if is_due(self.renewal()) || is_due(self.silence()) {
            self.begin(now);
        }
        if let Some(attempt) = &mut self.attempt
            && now >= attempt.next
        {
            attempt.latest = now;
            attempt.next = now + attempt.backoff;
            let longest = if now < attempt.began + RETRY_LATER_AFTER {
                RETRY_MAX
            } else {
                RETRY_LATER_MAX
            };
            attempt.backoff = (attempt.backoff * 2).min(longest);
            return Some(Due::Initiate);
        }
        if self
            .owed_since
            .is_some_and(|since| now >= since + KEEP_ALIVE)
        {
            self.owed_since = None;
            return Some(Due::KeepAlive);
        }
        if now >= self.tick {
            self.tick = now + TICK;
            return Some(Due::Tick);
        }
        None
    }

    fn begin(&mut self, now: Instant) {
        self.attempt.get_or_insert(Attempt {
            began: now,
            latest: now,
            next: now,
            backoff: RETRY_MIN,
        });
    }

    /// When the agent stops waiting for a peer that never came.
    fn end_of_opening(&self) -> Option<Instant> {
        let attempt = self.attempt.as_ref()?;
        (!self.is_established()).then_some(attempt.began + OPEN_TIMEOUT)
    }

    /// When the agent makes new keys.
    fn renewal(&self) -> Option<Instant> {
        let since = self.established?;
        (self.end == End::Agent && self.attempt.is_none()).then_some(since + REKEY_AFTER)
    }

    /// When the agent asks a peer that has not been heard for too long.
    fn silence(&self) -> Option<Instant> {
        let is_idle = self.attempt.is_none() && self.is_established();
        let since = self.unheard_since.filter(|_| is_idle)?;
        (self.end == End::Agent).then_some(since + UNHEARD_MAX)
    }
}

/// First wait for the answer to a handshake; doubles up to [`RETRY_MAX`].
///
/// Longer than most round trips; at 20 % loss each way, five tries in 4 s fail together once in 170.
const RETRY_MIN: Duration = Duration::from_millis(250);

/// Longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// When tries become rare: by then the peer is away, and what shows that it is back hurries them.
const RETRY_LATER_AFTER: Duration = Duration::from_secs(15);

/// Longest wait between two of those.
const RETRY_LATER_MAX: Duration = Duration::from_secs(15);

/// How long an opening tunnel may take before it is called lost.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// Source: the WireGuard paper, §6.1, `Rekey-After-Time`.
const REKEY_AFTER: Duration = Duration::from_secs(120);

/// How long after a packet the peer hears of us at the latest, so that silence means something.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// How long a packet may go unanswered before the peer is asked: longer than its [`KEEP_ALIVE`].
const UNHEARD_MAX: Duration = Duration::from_secs(5);

/// How often old keys are let go.
const TICK: Duration = Duration::from_secs(30);

/// Handshakes of a peer in one second: its retries make three, at 0 s, 0.25 s and 0.75 s.
///
/// One costs us about 0.2 ms, so a device that does nothing else takes 0.1 % of a core with each of
/// its tunnels.
const HANDSHAKES_PER_SECOND_MAX: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_tries_again_soon_and_gives_up_in_time() {
        let now = start();
        let mut session = Session::new(now, End::Agent);
        let mut tries = Vec::new();
        let mut at = now;
        loop {
            match session.poll(at) {
                Some(Due::Initiate) => tries.push((at - now).as_millis()),
                Some(Due::Lost) => break,
                Some(Due::KeepAlive | Due::Tick) => {}
                None => at = session.deadline(),
            }
        }
        assert_eq!(tries.get(..5), Some(&[0, 250, 750, 1_750, 2_750][..]));
        assert_eq!(at - now, OPEN_TIMEOUT);
    }

    #[test]
    fn keys_are_renewed_and_a_silent_peer_is_asked_ever_more_rarely_and_never_lost() {
        let now = start();
        let mut session = Session::new(now, End::Agent);
        assert_eq!(session.poll(now), Some(Due::Initiate));
        session.established(now);
        assert_eq!(session.poll(now + REKEY_AFTER), Some(Due::Initiate));
        let later = now + REKEY_AFTER;
        session.established(later);
        session.sent_packet(later);
        while session.poll(later).is_some() {}
        assert_eq!(session.poll(later + UNHEARD_MAX), Some(Due::Initiate));
        let (mut tries, mut at) = (0, later + UNHEARD_MAX);
        while at < later + Duration::from_secs(600) {
            match session.poll(at) {
                Some(Due::Initiate) => tries += 1,
                Some(Due::Lost) => panic!("lost after {:?}", at - later),
                Some(Due::KeepAlive | Due::Tick) => {}
                None => at = session.deadline(),
            }
        }
        assert!((50..60).contains(&tries), "{tries}");
        session.hurry(at);
        assert_eq!(session.poll(at), Some(Due::Initiate));
        assert!(session.deadline() <= at + RETRY_MIN);
    }

    #[test]
    fn a_connector_waits_and_answers_and_gives_nobody_up() {
        let now = start();
        let mut session = Session::new(now, End::Connector);
        assert_eq!(
            session.poll(now + Duration::from_secs(3_600)),
            Some(Due::Tick)
        );
        session.established(now);
        session.heard_packet(now);
        assert_eq!(session.deadline(), now + KEEP_ALIVE);
        assert_eq!(session.poll(now + KEEP_ALIVE), Some(Due::KeepAlive));
        assert_eq!(session.poll(now + KEEP_ALIVE), None);
        session.sent_packet(now);
        let later = now + Duration::from_secs(7_200);
        assert_eq!(session.poll(later), Some(Due::Tick));
        assert_eq!(session.deadline(), later + TICK);
    }

    fn start() -> Instant {
        cardea_proto::time::testing::start().instant
    }
}
