//! One address at which the other end may be, from the first probe to the last.
//!
//! ```text
//!  named ─▶ Fresh ──▶ asked: 3 small probes ──answered──▶ asked with the size in use ──▶ works
//!                       │ no answer                          │ no answer                 │ no answer
//!                       ▼                                    ▼                           ▼
//!                      over                               rests 1 s, 2 s, … 60 s, then is asked
//! ```
//!
//! Nobody has proven anything at an address that no answer came from: it gets three small probes,
//! and no more than three answers to authentic probes that seem to come from there.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::probes::{Probe, Probes, ask_again};

/// One address of the other end.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) address: SocketAddr,
    pub(crate) probes: Probes,
    /// Largest datagram that came through; zero while it may not be used.
    pub(crate) carries: usize,
    round: Option<Round>,
    next: Option<Instant>,
    /// When an answer came last.
    latest: Option<Instant>,
    /// Whether an answer ever came from there.
    proven: bool,
    probed: u8,
    answered: u8,
    rest: Duration,
}

/// Probes of one size until one is answered.
#[derive(Clone, Copy, Debug)]
struct Round {
    size: usize,
    since: Instant,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send a probe of this many bytes.
    Probe(usize),
    /// It does not carry datagrams of this size, or nothing at all.
    Lost(usize),
}

impl Candidate {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            probes: Probes::default(),
            carries: 0,
            round: None,
            next: None,
            latest: None,
            proven: false,
            probed: 0,
            answered: 0,
            rest: REST_MIN,
        }
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Whether nothing will ever be sent there again by itself.
    pub(crate) const fn is_over(&self) -> bool {
        self.next.is_none() && self.carries == 0 && self.probed > 0
    }

    /// Begins to ask, unless that has been done.
    pub(crate) fn begin(&mut self, now: Instant) {
        if self.next.is_none() && (self.proven || self.probed == 0) {
            self.next = Some(now);
        }
    }

    /// Asks no later than `at`, but not again within `interval`.
    pub(crate) fn hasten(&mut self, at: Instant, interval: Duration) {
        let rested = self.latest.map_or(at, |latest| at.max(latest + interval));
        if let Some(next) = &mut self.next
            && self.round.is_none()
        {
            *next = rested.min(*next);
        }
    }

    /// Whether an answer came from there so lately that datagrams may go there at once.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.latest.is_some_and(|latest| now < latest + FRESH)
    }

    /// When the answer that is awaited takes longer than it should.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        let rtt = self.probes.rtt().unwrap_or_default();
        self.round.map(|round| round.since + rtt * 2 + OVERDUE)
    }

    /// Whether an answer is awaited for longer than it should take.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.overdue_at().is_some_and(|at| now >= at)
    }

    /// The other end may be somewhere else.
    pub(crate) const fn doubt(&mut self) {
        self.latest = None;
    }

    /// Where we are has changed, so that nothing holds that was found out from there.
    pub(crate) fn start_over(&mut self, now: Instant) {
        *self = Self {
            next: Some(now),
            ..Self::new(self.address)
        };
    }

    /// Whether an authentic probe from there may be answered.
    pub(crate) fn admits_answer(&mut self) -> bool {
        if self.proven {
            return true;
        }
        self.answered = self.answered.saturating_add(1);
        self.answered <= UNPROVEN_MAX
    }

    /// Takes what is due; `size` is the largest datagram in use.
    pub(crate) fn poll(&mut self, now: Instant, size: usize) -> Option<Due> {
        if self.next? > now {
            return None;
        }
        let round = *self.round.get_or_insert(Round {
            // An address that was proven once and fell silent is asked with little again.
            size: if self.carries == 0 { 0 } else { size },
            since: now,
        });
        let is_over = if self.proven {
            now >= round.since + self.patience()
        } else {
            self.probed >= UNPROVEN_MAX
        };
        if is_over {
            return Some(Due::Lost(self.lose(now, round)));
        }
        let wait = if self.proven {
            ask_again(self.probes.rtt())
        } else {
            UNPROVEN_WAIT * 2_u32.pow(u32::from(self.probed))
        };
        self.probed = self.probed.saturating_add(1);
        self.next = Some(now + wait);
        Some(Due::Probe(round.size))
    }

    fn lose(&mut self, now: Instant, round: Round) -> usize {
        self.give_up(now);
        round.size
    }

    /// It carries nothing, as far as is known; asked again after a rest.
    pub(crate) fn give_up(&mut self, now: Instant) {
        self.carries = 0;
        self.round = None;
        self.probes.give_up();
        self.next = self.proven.then_some(now + self.rest);
        self.rest = (self.rest * 2).min(REST_MAX);
    }

    /// An answer came from there; the next probe is due after `pause`.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        id: u32,
        size: usize,
        pause: Duration,
    ) -> Option<Probe> {
        let probe = self.probes.answered(now, id)?;
        self.proven = true;
        self.latest = Some(now);
        let is_done = self.round.is_none_or(|round| probe.size >= round.size);
        self.carries = self.carries.max(probe.size);
        if is_done {
            let is_enough = self.carries >= size;
            self.round = None;
            self.next = Some(if is_enough { now + pause } else { now });
            if is_enough {
                self.rest = REST_MIN;
            }
        }
        Some(probe)
    }

    /// How long probes may go unanswered before the path counts as lost: longer than most round
    /// trips, and short enough that the tunnel is back on the relay within two seconds.
    fn patience(&self) -> Duration {
        let rtt = self.probes.rtt().unwrap_or_default();
        (rtt * 4).clamp(PATIENCE_MIN, PATIENCE_MAX)
    }
}

/// Probes to an address from which nobody has answered, and answers to probes from there.
pub(crate) const UNPROVEN_MAX: u8 = 3;

/// First wait for the answer of an address that is not proven; doubles.
const UNPROVEN_WAIT: Duration = Duration::from_millis(200);

/// How much later than after two round trips an answer is overdue.
const OVERDUE: Duration = Duration::from_millis(20);

/// How long an answer stands for the next datagram: longer than a path in use waits between two.
const FRESH: Duration = Duration::from_secs(1);

const PATIENCE_MIN: Duration = Duration::from_millis(600);
const PATIENCE_MAX: Duration = Duration::from_millis(1_200);

/// How long a path that was lost is left alone; doubles.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_where_nobody_answers_gets_three_small_probes_and_no_more() {
        let mut bench = Bench::new();
        let mut sizes = Vec::new();
        while let Some(at) = bench.candidate.deadline() {
            bench.now = at;
            match bench.poll() {
                Some(Due::Probe(size)) => sizes.push(size),
                Some(Due::Lost(_)) => break,
                None => {}
            }
        }
        assert_eq!(sizes, [0; 3]);
        assert!(bench.candidate.is_over());
        bench.candidate.begin(bench.now);
        assert_eq!(bench.candidate.deadline(), None);
        let answers = (0..9).filter(|_| bench.candidate.admits_answer()).count();
        assert_eq!(answers, usize::from(UNPROVEN_MAX));
    }

    #[test]
    fn what_has_answered_is_asked_with_the_size_in_use_and_then_left_alone() {
        let mut bench = Bench::new();
        assert_eq!(bench.poll(), Some(Due::Probe(0)));
        bench.answer(42);
        assert_eq!(bench.candidate.carries, 42);
        assert_eq!(bench.poll(), Some(Due::Probe(SIZE)));
        bench.answer(SIZE);
        assert_eq!(bench.candidate.carries, SIZE);
        assert_eq!(bench.candidate.deadline(), Some(bench.now + PAUSE));
    }

    #[test]
    fn a_path_that_carries_only_little_is_lost_and_tried_again_after_a_rest() {
        let mut bench = Bench::new();
        bench.poll();
        bench.answer(42);
        let began = bench.now;
        let lost = loop {
            bench.now = bench.candidate.deadline().unwrap();
            if let Some(Due::Lost(size)) = bench.poll() {
                break size;
            }
        };
        assert_eq!(lost, SIZE);
        assert!(bench.now - began <= PATIENCE_MIN);
        assert_eq!(bench.candidate.carries, 0);
        assert_eq!(bench.candidate.deadline(), Some(bench.now + REST_MIN));
        bench.now += REST_MIN;
        assert_eq!(bench.poll(), Some(Due::Probe(0)));
    }

    struct Bench {
        candidate: Candidate,
        now: Instant,
        next: u32,
    }

    impl Bench {
        fn new() -> Self {
            let now = cardea_proto::time::testing::start().instant;
            let mut candidate = Candidate::new("192.0.2.7:4711".parse().unwrap());
            candidate.begin(now);
            Self {
                candidate,
                now,
                next: 0,
            }
        }

        fn poll(&mut self) -> Option<Due> {
            self.candidate.poll(self.now, SIZE)
        }

        /// An answer to a probe of `size` bytes.
        fn answer(&mut self, size: usize) {
            self.next += 1;
            let (id, at) = (self.next, self.now);
            self.candidate.probes.sent(Probe { id, at, size });
            self.now += Duration::from_millis(20);
            let found = self.candidate.answered(self.now, id, SIZE, PAUSE);
            assert!(found.is_some());
        }
    }

    const SIZE: usize = 1_208;
    const PAUSE: Duration = Duration::from_secs(20);
}
