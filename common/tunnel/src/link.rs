//! Every way of a tunnel to its other end: through the relay, which is always kept open, and
//! directly, where a probe has shown that datagrams pass.
//!
//! ```text
//!                    ┌─ Paths: candidates, probes ──▶ direct path in use, what it carries
//!  carrier ── send ──┤
//!                    └─ RelayPath: ticket, binding ─▶ everything else
//! ```
//!
//! It lies below the carriers, to which a tunnel's peer has one address for ever. Which way each
//! datagram goes is one comparison; probes, lists of addresses and signs of life are sent beside.

mod asks;
mod heard;
mod pace;
mod rerouted;
mod sizes;

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use cardea_proto::{
    access::{InnerAddresses, STANDBY_MAX, Standby},
    codec::{Blob, Secret32},
    path::PathFrame,
    relay::{Cookie, DATA_HEADER_BYTES, Handle},
};

pub(crate) use self::rerouted::Rerouted;
use self::{
    asks::Asks,
    pace::Pace,
    sizes::{Measure, Sizes, Step as SizeStep},
};
use crate::{
    command::End,
    life::Life,
    outbox::{Outbox, Room, Silence, Via},
    path::{
        PROBE_DATAGRAM_BYTES, Path, PathReason, Paths, Traffic,
        exchange::Exchange,
        failover::Step,
        key::PathKey,
        permit::{Permit, is_reachable},
        probes::{Probe, ask_again},
        relays::{Relays, Which},
    },
};

/// What two ends need to know of each other to find a direct path.
#[derive(Clone, Debug)]
pub struct Meeting {
    /// What the ML-KEM exchange of offer and answer agreed on; seals what is said about paths.
    pub secret: Secret32,
    /// Where the other end says that it may be reached.
    pub peer: Vec<SocketAddr>,
    /// Addresses that are never probed: controllers and relays.
    pub never: Vec<IpAddr>,
}

/// The ways of one tunnel.
#[derive(Debug)]
pub(crate) struct Link {
    end: End,
    relays: Relays,
    /// Whether a detour to the relay in use was taken or left since the carrier was told.
    is_detour_new: bool,
    /// How often the path had changed when the relay did.
    turned_after: u32,
    relay_size: Measure,
    key: PathKey,
    paths: Paths,
    exchange: Exchange,
    life: Life,
    sizes: Sizes,
    /// Whether there is a socket for direct paths.
    own: Option<Vec<SocketAddr>>,
    /// Where the relay sees that socket.
    seen: Option<SocketAddr>,
    asks: Asks,
    is_peer_there: bool,
    /// Whether something was sent since the path in use was probed.
    is_flowing: bool,
    /// When the relay's round trip was last asked for, to compare it with a direct one.
    compared: Option<Instant>,
    /// How many changes of the path the carrier has heard of.
    followed: u32,
    /// Why what was sent lately went nowhere, while the carrier has not heard of it.
    lost: Option<Rerouted>,
    /// How fast the other end is taken at its word that something is lost.
    pace: Pace,
    /// Whether the local network changed and no way from here has been shown since.
    is_stranded: bool,
    /// Of everything but the relay's path.
    due: Option<Instant>,
}

impl Link {
    /// The ways of a tunnel whose ends meet at `relay`, or at one that stands by; `None` when ticket or secret are none.
    pub(crate) fn new(
        now: Instant,
        end: End,
        ((relay, ticket), standby): ((&[SocketAddr], &[u8]), &[Standby]),
        meeting: Meeting,
        inner: InnerAddresses,
    ) -> Option<Self> {
        let Meeting {
            secret,
            peer,
            mut never,
        } = meeting;
        let all = standby.iter().flat_map(|standby| &standby.relay);
        never.extend(relay.iter().chain(all).map(SocketAddr::ip));
        let mut paths = Paths::new(now, Permit::new(inner, never));
        paths.named(now, &peer);
        Some(Self {
            end,
            relays: Relays::new(now, (relay, ticket), standby)?,
            is_detour_new: false,
            turned_after: 0,
            relay_size: Measure::default(),
            key: PathKey::new(end, &secret)?,
            paths,
            exchange: Exchange::new(),
            life: Life::default(),
            sizes: Sizes::new(now),
            own: None,
            seen: None,
            asks: Asks::default(),
            is_peer_there: false,
            is_flowing: false,
            compared: None,
            followed: 0,
            lost: None,
            pace: Pace::new(now),
            is_stranded: false,
            due: None,
        })
    }

    /// Takes tickets for a longer time; malformed ones change nothing.
    pub(crate) fn renew(&mut self, now: Instant, ticket: &[u8], standby: &[Blob]) {
        self.relays.renew(now, ticket, standby);
    }

    /// The address of the relay where this end has `handle`.
    pub(crate) fn relay_with(&self, handle: Handle) -> Option<SocketAddr> {
        let mut all = self.relays.all();
        all.find(|leg| leg.path.handle() == handle)
            .map(|leg| leg.path.relay())
    }

    /// Whether the relay is on this machine, so that datagrams of any size arrive there whole.
    pub(crate) const fn is_local(&self) -> bool {
        self.relays.used.path.is_local()
    }

    /// Whether nothing that is sent waits for the relay.
    pub(crate) const fn is_ready(&self) -> bool {
        self.relays.used.path.is_ready()
    }

    /// The handles in datagrams that come through relays.
    pub(crate) fn handles(&self) -> impl Iterator<Item = Handle> + '_ {
        self.relays.all().map(|leg| leg.path.handle())
    }

    /// The handle in datagrams that come directly.
    pub(crate) const fn direct_handle(&self) -> Handle {
        self.key.inbound()
    }

    /// The way of what is sent at the moment, and why.
    pub(crate) fn path(&self) -> (Path, PathReason) {
        let used = &self.relays.used;
        let relay = used.path.relay();
        match self.paths.direct() {
            Some(direct) => (Path::Direct(direct.to), self.paths.why()),
            None if used.is_detoured => (Path::RelayTls(relay), PathReason::UdpBlocked),
            None => {
                let turned = self.relays.why().filter(|_| self.is_turn_last());
                (Path::Relay(relay), turned.unwrap_or(self.paths.why()))
            }
        }
    }

    /// Whether another relay was the last change of the path.
    const fn is_turn_last(&self) -> bool {
        self.turned_after == self.paths.changes()
    }

    /// Why what was sent lately went a way that carries nothing, when it did; says so once.
    pub(crate) fn rerouted(&mut self) -> Option<Rerouted> {
        let is_new = self.paths.changes() != self.followed;
        self.followed = self.paths.changes();
        let is_left = is_new
            && matches!(
                self.paths.why(),
                PathReason::Lost(_) | PathReason::PeerRoamed
            );
        let is_returned = self.life.take_returned();
        let is_other = std::mem::take(&mut self.is_detour_new) || is_returned || is_left;
        let lost = self.lost.take();
        lost.or_else(|| is_other.then_some(Rerouted::ByAnotherWay))
    }

    /// Counts changes of [`Link::path`].
    pub(crate) const fn changes(&self) -> u32 {
        self.paths.changes().wrapping_add(self.relays.turns)
    }

    /// Which relays stand by and have shown that they carry, as bits to compare.
    pub(crate) fn standby(&self) -> u32 {
        self.relays.proven()
    }

    /// The same as addresses.
    pub(crate) fn standby_relays(&self) -> [Option<SocketAddr>; STANDBY_MAX] {
        self.relays.proven_relays()
    }

    /// Round trip of the path in use, when a probe has shown it.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.paths.direct() {
            Some(_) => self.paths.rtt(),
            None => self.relays.used.probes.rtt(),
        }
    }

    /// Whether the other end does not answer.
    pub(crate) fn silence(&self) -> Option<Silence> {
        let alone = self.life.is_alone();
        self.life.is_silent().then_some(Silence { alone })
    }

    /// Finds out whether bytes pass.
    pub(crate) fn check(&mut self, now: Instant) {
        self.life.check(now);
        self.schedule();
    }

    pub(crate) const fn is_checking(&self) -> bool {
        self.life.is_checking()
    }

    /// The addresses of this end's socket for direct paths, from now on.
    pub(crate) fn set_own(&mut self, now: Instant, own: &[SocketAddr]) {
        let is_first = self.own.is_none();
        self.own = Some(own.to_vec());
        if is_first {
            self.asks.begin(now);
            // An agent knows that the other end is there: it was installed before its answer.
            if self.end == End::Agent || self.is_peer_there {
                self.paths.begin(now);
            }
        }
        self.tell(now);
    }

    /// Finds out, as soon as the other end is there, whether datagrams of `size` come through the
    /// relay.
    pub(crate) const fn measure(&mut self, size: usize) {
        self.relay_size.size = size;
    }

    /// Whether a datagram of `size` comes through on the way that it would take.
    pub(crate) fn carries(&self, size: usize) -> bool {
        let directly = self.paths.direct().map_or(0, |direct| direct.carries);
        directly >= size || self.relay_size.carries >= size
    }

    /// Our address may be another one: everything is found out anew.
    pub(crate) fn roamed(&mut self, now: Instant) {
        self.relay_size.begin(now);
        self.relays
            .roamed(now, self.own.as_deref().unwrap_or_default());
        self.is_stranded = true;
        if self.own.is_some() {
            self.seen = None;
            self.asks.begin(now);
            self.paths.roamed(now);
            self.tell(now);
        }
        self.schedule();
    }

    /// This end was asleep: NATs and relays may have forgotten it, and its carrier's timers stood still.
    pub(crate) fn woke(&mut self, now: Instant) {
        self.life.woke();
        self.roamed(now);
        self.lost = Some(Rerouted::ByAnotherWay);
    }

    /// A detour leads to a relay from now on, or UDP again: it must learn where we are, and what was
    /// sent the other way is lost perhaps.
    pub(crate) fn detoured(&mut self, now: Instant, relay: SocketAddr, is_used: bool) {
        let Some(which) = self.relays.at(relay) else {
            return;
        };
        let Some(leg) = self.relays.get_mut(which) else {
            return;
        };
        if leg.is_detoured == is_used {
            return;
        }
        leg.is_detoured = is_used;
        leg.path
            .roamed(now, self.own.as_deref().unwrap_or_default());
        leg.probes.forget();
        if which == Which::Used {
            self.is_detour_new = true;
            self.relays.turns = self.relays.turns.wrapping_add(1);
            self.relays.failover.begin(now);
        }
        self.schedule();
    }

    /// A relay does not know us at this address.
    pub(crate) fn challenged(
        &mut self,
        now: Instant,
        handle: Handle,
        cookie: &Cookie,
        out: &mut Outbox,
    ) {
        let which = self.relays.with_handle(handle);
        let leg = which.and_then(|which| self.relays.get_mut(which));
        let is_answered = leg.is_some_and(|leg| leg.path.challenged(now, cookie, out));
        if is_answered {
            self.life.heard_beside(now);
        }
        if is_answered && which == Some(Which::Used) {
            self.relay_returned(out);
        }
        self.schedule();
    }

    /// A way leads to the other end again, after none did: what was sent meanwhile is lost, both ways,
    /// and both ends' timers have doubled.
    fn returned(&mut self, out: &mut Outbox) {
        self.is_stranded = false;
        if self.is_peer_there {
            self.lost = Some(Rerouted::ByAnotherWay);
            let lost = PathFrame::Lost { size: 0 };
            match self.paths.direct() {
                Some(direct) => self.say_to(direct.to, &lost, 0, out),
                None => self.say(&lost, out),
            }
        }
    }

    /// The relay knows us again, after it did not.
    fn relay_returned(&mut self, out: &mut Outbox) {
        if self.paths.direct().is_none() {
            self.returned(out);
        }
    }

    pub(crate) fn nudged(&mut self, now: Instant, handle: Handle, out: &mut Outbox) {
        let which = self.relays.with_handle(handle);
        if let Some(leg) = which.and_then(|which| self.relays.get_mut(which)) {
            leg.path.nudged(now, out);
        }
    }

    pub(crate) fn bound(&mut self, now: Instant, handle: Handle, out: &mut Outbox) {
        let which = self.relays.with_handle(handle);
        let Some(leg) = which.and_then(|which| self.relays.get_mut(which)) else {
            return;
        };
        let is_back = !leg.path.is_ready();
        leg.path.bound(now, out);
        self.life.heard_beside(now);
        if which != Some(Which::Used) {
            leg.bound(now);
        }
        if is_back && which == Some(Which::Used) {
            self.relay_returned(out);
        }
        self.schedule();
    }

    /// The relay says where it saw the socket for direct paths.
    pub(crate) fn seen(&mut self, now: Instant, at: SocketAddr) {
        if self.asks.answered() {
            self.seen = Some(at);
            self.tell(now);
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        let relay = self.relays.deadline();
        self.due.map_or(relay, |due| due.min(relay))
    }

    /// Does what is due.
    pub(crate) fn timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.relays.timeout(now, out);
        while let Some(which) = self.relays.next_check(now) {
            self.probe_by(now, which, PROBE_DATAGRAM_BYTES, out);
        }
        self.hasten(self.relays.failover.deadline());
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.try_relays(now, out);
        self.sizes.turn(now);
        if self.asks.poll(now) {
            self.relays.used.path.ask(out);
        }
        if self.relays.used.path.is_ready() {
            self.watch_size(now, out);
        }
        if self.relays.used.path.is_ready()
            && let Some(list) = self.exchange.poll(now)
        {
            self.say(&list, out);
        }
        if self.life.poll(now) {
            self.probe_relay(now, PROBE_DATAGRAM_BYTES, out);
            self.paths.ask(now);
            let is_relayed = self.paths.direct().is_none();
            if self.life.is_doubtful(is_relayed) {
                self.relays.used.path.rebind(now);
            }
        }
        if self.own.is_some() {
            let before = self.paths.changes();
            self.probe_directly(now, out);
            if self.paths.changes() != before
                && let PathReason::Lost(size) = self.paths.why()
            {
                let size = u32::try_from(size).unwrap_or(u32::MAX);
                self.say(&PathFrame::Lost { size }, out);
            }
        }
        self.schedule();
    }

    fn watch_size(&mut self, now: Instant, out: &mut Outbox) {
        let pause = ask_again(self.relays.used.probes.rtt());
        let is_silent = self.life.is_silent();
        match self.relay_size.poll(now, pause, is_silent) {
            Some(SizeStep::Ask) => self.probe_relay(now, self.relay_size.size, out),
            Some(SizeStep::Lost) => self.lost = Some(Rerouted::ByAnotherWay),
            None => {}
        }
    }

    /// Sends one sealed datagram that `seal` writes, the way that carries its size.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        out: &mut Outbox,
        room: Room,
        seal: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        let size = DATA_HEADER_BYTES + room.expected;
        self.sizes.note(size);
        if self.life.sent(now) {
            self.hasten(self.life.deadline());
        }
        let Some(direct) = self.paths.direct() else {
            return self.send_by_relay((now, size), out, room, seal);
        };
        if size > direct.carries {
            self.paths.ask(now);
            self.hasten(self.paths.deadline());
            return self.send_by_relay((now, size), out, room, seal);
        }
        if !self.is_flowing {
            self.is_flowing = true;
            self.paths.flows(now);
            self.hasten(self.paths.deadline());
        }
        let header = self.key.outbound_header();
        out.datagram((direct.to, Via::Direct), room.behind_header(), |buffer| {
            let (front, sealed) = buffer.split_at_mut_checked(DATA_HEADER_BYTES)?;
            let len = seal(sealed)?;
            front.copy_from_slice(&header);
            Some(DATA_HEADER_BYTES + len)
        });
    }

    fn send_by_relay(
        &mut self,
        (now, size): (Instant, usize),
        out: &mut Outbox,
        room: Room,
        seal: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        if self.relay_size.sent(now, size) {
            self.hasten(self.relay_size.next);
        }
        let relays = &mut self.relays;
        if relays.has_standby() && relays.failover.sent(now, relays.used.probes.rtt()) {
            let due = relays.failover.deadline();
            self.hasten(due);
        }
        self.relays.used.path.send(now, out, room, seal);
    }

    /// Asks through all relays whether the other end is there, or goes on with one that showed it.
    fn try_relays(&mut self, now: Instant, out: &mut Outbox) {
        let rtt = self.relays.used.probes.rtt();
        match self.relays.failover.poll(now, rtt) {
            None => {}
            Some(Step::Ask) => {
                let standby = (0..self.relays.standby_count()).map(Which::Standby);
                for which in std::iter::once(Which::Used).chain(standby) {
                    self.probe_by(now, which, PROBE_DATAGRAM_BYTES, out);
                }
            }
            Some(Step::Turn(standby)) => self.turn(now, standby, false, out),
        }
    }

    fn probe_directly(&mut self, now: Instant, out: &mut Outbox) {
        while let Some((to, Probe { id, size, .. })) = self.paths.poll(now, self.traffic()) {
            let is_current = self.paths.direct().is_some_and(|direct| direct.to == to);
            if is_current {
                self.is_flowing = false;
            }
            let pause = if is_current && !self.paths.is_lossy() {
                COMPARE_EVERY
            } else {
                ask_again(self.relays.used.probes.rtt())
            };
            let is_known = self.compared.is_some_and(|at| now < at + pause);
            if !is_known {
                self.compared = Some(now);
                self.probe_relay(now, PROBE_DATAGRAM_BYTES, out);
            }
            self.say_to(to, &PathFrame::Probe { id }, size, out);
        }
    }

    fn probe_relay(&mut self, now: Instant, size: usize, out: &mut Outbox) {
        self.probe_by(now, Which::Used, size, out);
    }

    fn probe_by(&mut self, now: Instant, which: Which, size: usize, out: &mut Outbox) {
        let id = self.paths.new_id();
        if let Some(leg) = self.relays.get_mut(which) {
            leg.probes.sent(Probe { id, at: now, size });
        }
        self.say_by(which, &PathFrame::Probe { id }, size, out);
    }

    /// Says something through the relay in use, if the relay hears us.
    fn say(&mut self, frame: &PathFrame, out: &mut Outbox) {
        self.say_by(Which::Used, frame, 0, out);
    }

    /// Says something through a relay, if that hears us, in a datagram of at least `size` bytes.
    fn say_by(&mut self, which: Which, frame: &PathFrame, size: usize, out: &mut Outbox) {
        let Some(leg) = self.relays.get_mut(which).filter(|leg| leg.path.is_ready()) else {
            return;
        };
        let header = leg.path.handle().data_header();
        if let Some(datagram) = self.key.write(header, Via::Relay, frame, size) {
            leg.path.send_whole(&datagram, out);
        }
    }

    /// Says something directly, in a datagram of at least `size` bytes.
    fn say_to(&mut self, to: SocketAddr, frame: &PathFrame, size: usize, out: &mut Outbox) {
        let header = self.key.outbound_header();
        let Some(datagram) = self.key.write(header, Via::Direct, frame, size) else {
            return;
        };
        let room = Room::exact(datagram.len());
        out.datagram((to, Via::Direct), room, |buffer| {
            buffer.copy_from_slice(&datagram);
            Some(datagram.len())
        });
    }

    /// Lets the other end know where this one is.
    fn tell(&mut self, now: Instant) {
        let seen = self.seen.filter(|seen| is_reachable(seen.ip()));
        let own = self.own.iter().flatten().copied();
        // What the relay sees first: where a NAT is between, nothing else is of use.
        let mut all: Vec<SocketAddr> = seen.into_iter().collect();
        all.extend(own.filter(|own| Some(*own) != seen && is_reachable(own.ip())));
        self.exchange.set(now, all);
        self.schedule();
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            size: self.sizes.largest(),
            is_flowing: self.is_flowing,
            relay: self.relays.used.probes.quality(),
        }
    }

    fn hasten(&mut self, at: Option<Instant>) {
        self.due = [self.due, at].into_iter().flatten().min();
    }

    fn schedule(&mut self) {
        let told = self.exchange.deadline();
        let paths = self.own.as_ref().and_then(|_| self.paths.deadline());
        self.due = [
            self.life.deadline(),
            self.asks.next,
            self.relays.failover.deadline(),
            told.filter(|_| self.relays.used.path.is_ready()),
            self.relay_size
                .next
                .filter(|_| self.relays.used.path.is_ready()),
            paths,
        ]
        .into_iter()
        .flatten()
        .min();
    }
}

/// How often the relay's round trip is measured while another path is in use.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
