//! The relays of one tunnel: the one in use, and those that stand by.
//!
//! All of them know this end's address, so that changing over costs no round trip.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_proto::{
    access::{STANDBY_MAX, Standby},
    codec::Blob,
    relay::Handle,
};

use super::{PathReason, failover::Failover, probes::Probes, relay::RelayPath};
use crate::outbox::Outbox;

/// The way through one relay, and what is known of it.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) path: RelayPath,
    pub(crate) probes: Probes,
    /// Whether a detour leads to the relay.
    pub(crate) is_detoured: bool,
    /// Its place in the grant, which both ends share.
    rank: usize,
    /// Whether the other end answered through it when it was asked last.
    is_proven: bool,
    /// When to ask next, of one that stands by, and how often it was asked since it was bound.
    check: Option<(Instant, u32)>,
}

impl Leg {
    /// The relay knows this end, for the first time or still.
    pub(crate) fn bound(&mut self, now: Instant) {
        self.check = Some((now, 0));
    }

    /// The other end answered.
    pub(crate) fn answered(&mut self) {
        self.is_proven = true;
        self.check = None;
    }

    /// Whether to ask the other end now.
    fn poll(&mut self, now: Instant) -> bool {
        let Some((_, asked)) = self.check.filter(|(at, _)| *at <= now) else {
            return false;
        };
        if asked >= CHECKS_MAX {
            self.is_proven = false;
            self.check = None;
            return false;
        }
        self.check = Some((now + CHECK_AGAIN * 2_u32.pow(asked), asked + 1));
        self.path.is_ready()
    }
}

/// Which of the relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// The one in use.
    Used,
    /// One that stands by.
    Standby(usize),
}

/// All relays of a tunnel.
#[derive(Debug)]
pub(crate) struct Relays {
    pub(crate) used: Leg,
    standby: Vec<Leg>,
    pub(crate) failover: Failover,
    /// Counts what [`crate::Event::Path`] should know of: other relays, detours taken and left.
    pub(crate) turns: u32,
    /// Why the relay in use is not the first one, and when this end found that out by itself.
    turned: Option<(PathReason, Option<Instant>)>,
}

impl Relays {
    /// The ways through the relays of a grant; `None` when the first one is none.
    pub(crate) fn new(
        now: Instant,
        (relay, ticket): (&[SocketAddr], &[u8]),
        standby: &[Standby],
    ) -> Option<Self> {
        let leg = |rank, at, relay: &[SocketAddr], ticket: &[u8]| {
            Some(Leg {
                path: RelayPath::new(at, relay, ticket)?,
                probes: Probes::default(),
                is_detoured: false,
                rank,
                is_proven: false,
                check: None,
            })
        };
        let used = leg(0, now, relay, ticket)?;
        let begin = now + STANDBY_AFTER;
        let standby = standby
            .iter()
            .zip(1..)
            .filter_map(|(standby, rank)| leg(rank, begin, &standby.relay, &standby.ticket.0));
        let standby = standby
            .filter(|leg| leg.path.handle() != used.path.handle())
            .collect();
        Some(Self {
            used,
            standby,
            failover: Failover::default(),
            turns: 0,
            turned: None,
        })
    }

    /// Whether there is another relay to go on with.
    pub(crate) const fn has_standby(&self) -> bool {
        !self.standby.is_empty()
    }

    /// Every relay, the one in use first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Leg> {
        std::iter::once(&self.used).chain(&self.standby)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Leg> {
        std::iter::once(&mut self.used).chain(&mut self.standby)
    }

    /// How many stand by.
    pub(crate) const fn standby_count(&self) -> usize {
        self.standby.len()
    }

    pub(crate) fn get_mut(&mut self, which: Which) -> Option<&mut Leg> {
        match which {
            Which::Used => Some(&mut self.used),
            Which::Standby(index) => self.standby.get_mut(index),
        }
    }

    /// The relay where this end has `handle`.
    pub(crate) fn with_handle(&self, handle: Handle) -> Option<Which> {
        self.find(|leg| leg.path.handle() == handle)
    }

    /// The relay with this address.
    pub(crate) fn at(&self, relay: SocketAddr) -> Option<Which> {
        let is_same = |own: SocketAddr| {
            own == relay || (own.ip().to_canonical(), own.port()) == (relay.ip(), relay.port())
        };
        self.find(|leg| is_same(leg.path.relay()))
    }

    fn find(&self, is_it: impl Fn(&Leg) -> bool) -> Option<Which> {
        if is_it(&self.used) {
            return Some(Which::Used);
        }
        self.standby.iter().position(is_it).map(Which::Standby)
    }

    /// Takes tickets for a longer time; malformed ones change nothing.
    pub(crate) fn renew(&mut self, now: Instant, ticket: &[u8], standby: &[Blob]) {
        for leg in self.all_mut() {
            let ticket = match leg.rank.checked_sub(1) {
                None => Some(ticket),
                Some(place) => standby.get(place).map(|ticket| ticket.0.as_slice()),
            };
            if let Some(ticket) = ticket {
                leg.path.renew(now, ticket);
            }
        }
    }

    /// Our address may be another one.
    pub(crate) fn roamed(&mut self, now: Instant, own: &[SocketAddr]) {
        for leg in self.all_mut() {
            leg.path.roamed(now, own);
            leg.probes.forget();
        }
        self.failover.begin(now);
    }

    /// When something is due, apart from what the failover waits for.
    pub(crate) fn deadline(&self) -> Instant {
        let standby = self.standby.iter().map(|leg| {
            let check = leg.check.map(|(at, _)| at);
            check.map_or(leg.path.deadline(), |at| at.min(leg.path.deadline()))
        });
        standby.fold(self.used.path.deadline(), Instant::min)
    }

    /// A relay that stands by and through which the other end should be asked now.
    pub(crate) fn next_check(&mut self, now: Instant) -> Option<Which> {
        let mut standby = self.standby.iter_mut();
        standby.position(|leg| leg.poll(now)).map(Which::Standby)
    }

    /// Which relays stand by and have shown it, as bits.
    pub(crate) fn proven(&self) -> u32 {
        let ranks = self.standby.iter().filter(|leg| leg.is_proven);
        ranks.fold(0, |bits, leg| bits | 1 << leg.rank.min(31))
    }

    /// The same as addresses.
    pub(crate) fn proven_relays(&self) -> [Option<SocketAddr>; STANDBY_MAX] {
        let mut proven = self.standby.iter().filter(|leg| leg.is_proven);
        std::array::from_fn(|_| proven.next().map(|leg| leg.path.relay()))
    }

    /// Keeps every relay's knowledge of this end alive.
    pub(crate) fn timeout(&mut self, now: Instant, out: &mut Outbox) {
        for leg in self.all_mut() {
            leg.path.timeout(now, out);
        }
        if self.has_standby() && self.used.path.is_unanswered() {
            self.failover.doubt(now);
        }
    }

    /// Goes on with a standby, through which goes what waited for the relay before; `None` when there
    /// is none such.
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        standby: usize,
        is_told: bool,
        out: &mut Outbox,
    ) -> Option<()> {
        let other = self.standby.get_mut(standby)?;
        std::mem::swap(&mut self.used, other);
        other.is_proven = false;
        (other.check, self.used.check) = (None, None);
        let left = other.path.relay();
        let held = other.path.take_held();
        self.used.path.take_over(now, held, out);
        self.failover.begin(now);
        self.turns = self.turns.wrapping_add(1);
        self.turned = Some(if is_told {
            (PathReason::PeerTurned(left), None)
        } else {
            (PathReason::RelaySilent(left), Some(now))
        });
        Some(())
    }

    /// Why the relay in use is another one than before.
    pub(crate) fn why(&self) -> Option<PathReason> {
        self.turned.map(|(why, _)| why)
    }

    /// Whether this end has just found out by itself which relay works.
    pub(crate) fn has_just_turned(&self, now: Instant) -> bool {
        self.turned
            .and_then(|(_, at)| at)
            .is_some_and(|at| now < at + SETTLED_AFTER)
    }
}

/// How long after the first relay the others are told of this end: behind the first words, and soon
/// enough to take the place of one that was dead from the beginning.
const STANDBY_AFTER: Duration = Duration::from_millis(300);

/// First pause before the other end is asked again through a relay that stands by; doubles. It may
/// not be bound there yet.
const CHECK_AGAIN: Duration = Duration::from_millis(250);

/// How often it is asked after each keepalive.
const CHECKS_MAX: u32 = 3;

/// How long after an end has turned by itself it does not follow another choice.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
