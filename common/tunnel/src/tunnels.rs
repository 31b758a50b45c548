//! All tunnels of one end.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cardea_proto::{
    app::Service,
    id::GrantId,
    relay::{Cookie, FrameKind, Handle},
    time::Now,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::{
    bundle::Bundle,
    carrier::Carrier,
    command::{Command, Edge, End, Family, Install},
    context::{Context, FlowTable, Shared, TRANSMITS_MAX},
    drops::{DropReason, Drops},
    input::{Datagrams, FlowId, Input, Read},
    outbox::{CloseReason, Event, FlowEvent, Outbox, ResetReason, Via},
    path::relay::NUDGE,
    schedule::Schedule,
    tunnel::{Tunnel, TunnelStats},
};

/// The data half of a node.
///
/// Commands take effect before the call returns: after `Remove`, or once a ttl has passed, nothing
/// of that tunnel is left to deliver. Datagrams, packets, reads and writes only queue what must be
/// sent; [`Tunnels::flush`] produces it, once a turn, in batches.
pub struct Tunnels {
    end: End,
    family: Family,
    entropy: ChaCha20Rng,
    tunnels: BTreeMap<GrantId, Tunnel>,
    handles: BTreeMap<Handle, GrantId>,
    /// The same for what comes directly.
    direct: BTreeMap<Handle, GrantId>,
    schedule: Schedule<GrantId>,
    /// Tunnels that may have something to send, in turn.
    unflushed: VecDeque<GrantId>,
    shared: Shared,
    /// Relays that a detour leads to.
    detours: BTreeSet<SocketAddr>,
    latest: Option<Instant>,
    /// The tunnel that the last datagram was for: the next one usually is as well.
    last: Option<(Handle, Via, GrantId)>,
}

/// Sizes of one end's tables and queues: none but the flows may outgrow the tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Tunnels.
    pub tunnels: usize,
    /// Handles under which datagrams come, through the relay or directly, whichever are more.
    pub handles: usize,
    /// Tunnels that may have something to send.
    pub unflushed: usize,
    /// Flows that not both ends have finished.
    pub flows: usize,
}

impl Tunnels {
    /// No tunnels yet; `entropy` makes ports, indexes and connection ids that nobody can guess.
    #[must_use]
    pub fn new(end: End, entropy: [u8; 32]) -> Self {
        Self {
            end,
            family: Family::default(),
            entropy: ChaCha20Rng::from_seed(entropy),
            tunnels: BTreeMap::new(),
            handles: BTreeMap::new(),
            direct: BTreeMap::new(),
            schedule: Schedule::default(),
            unflushed: VecDeque::new(),
            shared: Shared {
                flows: FlowTable::default(),
                drops: Drops::default(),
                addresses: None,
                controllers: VecDeque::new(),
                edge: Edge::default(),
                built: vec![0; PACKET_BYTES],
            },
            detours: BTreeSet::new(),
            latest: None,
            last: None,
        }
    }

    /// Chooses the inner addresses that tunnels installed from here on open their flows with.
    pub const fn prefer(&mut self, family: Family) {
        self.family = family;
    }

    /// Connector: chooses whether the packets of a tunnel, by their family, go to the local network
    /// stack; those of the others become flows.
    pub fn set_stacked(&mut self, grant: GrantId, v4: bool, v6: bool) {
        if let Some(tunnel) = self.tunnels.get_mut(&grant) {
            tunnel.set_stacked(v4, v6);
        }
    }

    /// Agent: chooses what stands at the local side of tunnels installed from here on.
    pub const fn set_edge(&mut self, edge: Edge) {
        self.shared.edge = edge;
    }

    /// Takes one input and puts everything that must follow from it into `out`, in order.
    ///
    /// After `Datagram`, `Datagrams`, `Packet` and `Bundle` the shell calls [`Tunnels::flush`] when it has handed over all
    /// that was ready; every other input flushes by itself.
    pub fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Outbox) {
        self.enter(now, out);
        match input {
            Input::Datagram { from, via, bytes } => {
                return self.datagram(now, (from, via), bytes, out);
            }
            Input::Datagrams {
                from,
                via,
                stride,
                bytes,
            } => return self.datagrams(now, (from, via), Datagrams::new(bytes, stride), out),
            Input::Packet { flow, bytes } => {
                self.with_flow(now, flow, out, |carrier, context| {
                    carrier.packet(context, flow, &bytes);
                });
                return;
            }
            Input::Bundle { grant, mut bundle } => {
                return self.bundle(now, grant, &mut bundle, out);
            }
            Input::Command(command) => self.command(now, command, out),
            Input::Timeout => self.timeout(now, out),
            Input::Addresses(addresses) => self.addressed(now, addresses, out),
            Input::Controller(at) => self.note_controller(at),
            Input::Check => self.check(now, out),
            Input::Roamed => self.roamed(now, out),
            Input::Detoured { relay, is_used } => self.detoured(now, relay, is_used, out),
            Input::OpenFlow {
                flow,
                grant,
                service,
            } => self.open_flow(now, flow, grant, service, out),
            Input::Dialed { flow, result } => {
                self.with_flow(now, flow, out, |carrier, context| {
                    carrier.dialed(context, flow, result);
                });
            }
            Input::Finish { flow } => {
                self.with_flow(now, flow, out, |carrier, context| {
                    carrier.finish(context, flow)
                });
            }
            Input::Reset { flow } => {
                self.with_flow(now, flow, out, |carrier, context| {
                    carrier.reset(context, flow)
                });
            }
        }
        self.flush(now, out);
    }

    /// When [`Input::Timeout`] is next due; `None` while there are no tunnels.
    ///
    /// A moment that has passed means that there is more to flush: the shell comes back as soon as
    /// the network has taken what stands in the outbox.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.unflushed.is_empty() {
            self.schedule.next()
        } else {
            self.latest
        }
    }

    /// Takes bytes from the local side of a TCP flow; returns how many it took from the front.
    ///
    /// Zero means that the peer does not read: [`FlowEvent::Writable`] tells when to try again.
    pub fn write(&mut self, now: Now, flow: FlowId, data: Bytes, out: &mut Outbox) -> usize {
        self.enter(now, out);
        self.with_flow(now, flow, out, |carrier, context| {
            carrier.write(context, flow, data)
        })
        .unwrap_or(0)
    }

    /// How many bytes [`Tunnels::write`] would take, at least.
    #[must_use]
    pub fn writable(&self, flow: FlowId) -> usize {
        self.shared
            .flows
            .owner(flow)
            .and_then(|grant| self.tunnels.get(&grant))
            .map_or(0, |tunnel| tunnel.writable(flow))
    }

    /// Gives up to `max` bytes of a TCP flow to the local side, and the peer credit for more.
    pub fn read(&mut self, now: Now, flow: FlowId, max: usize, out: &mut Outbox) -> Read {
        self.enter(now, out);
        self.with_flow(now, flow, out, |carrier, context| {
            carrier.read(context, flow, max)
        })
        .unwrap_or(Read::Reset)
    }

    /// Produces the datagrams that reads, writes, datagrams and packets made necessary.
    ///
    /// Stops when the outbox has enough for one turn; [`Tunnels::deadline`] then asks to come back.
    pub fn flush(&mut self, now: Now, out: &mut Outbox) {
        for _ in 0..self.unflushed.len() {
            if out.transmits.len() >= TRANSMITS_MAX {
                return;
            }
            let Some(grant) = self.unflushed.pop_front() else {
                return;
            };
            let Some(tunnel) = self.tunnels.get_mut(&grant) else {
                continue;
            };
            tunnel.queued = false;
            if tunnel.over(now).is_none() {
                tunnel.queued = tunnel.with(now, &mut self.shared, out, Carrier::flush);
            }
            if tunnel.queued {
                self.unflushed.push_back(grant);
            }
            self.settle(now, grant, out);
        }
    }

    /// Whether [`Tunnels::flush`] has something to do.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        !self.unflushed.is_empty()
    }

    /// Whether an [`Input::Check`] has not found out yet which tunnels carry anything. What it
    /// finds stands in the events: a tunnel that does not is [`Event::Silent`].
    #[must_use]
    pub fn is_checking(&self) -> bool {
        self.tunnels
            .values()
            .any(|tunnel| tunnel.link().is_checking())
    }

    /// Figures of one tunnel.
    #[must_use]
    pub fn stats(&self, grant: GrantId) -> Option<TunnelStats> {
        self.tunnels.get(&grant).map(Tunnel::stats)
    }

    /// The grants that have a tunnel.
    pub fn grants(&self) -> impl Iterator<Item = GrantId> + '_ {
        self.tunnels.keys().copied()
    }

    /// How much this end holds.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            tunnels: self.tunnels.len(),
            handles: self.handles.len().max(self.direct.len()),
            unflushed: self.unflushed.len(),
            flows: self.shared.flows.count(),
        }
    }

    /// What was dropped, and why.
    #[must_use]
    pub const fn drops(&self) -> &Drops {
        &self.shared.drops
    }

    /// Counts a drop that the shell decided, by [`crate::egress::Egress::permit`].
    pub fn note_drop(&mut self, reason: DropReason) {
        self.shared.drops.note(reason);
    }

    fn datagram(
        &mut self,
        now: Now,
        (from, via): (SocketAddr, Via),
        bytes: &[u8],
        out: &mut Outbox,
    ) {
        let Some((handle, frame)) = Frame::of(bytes) else {
            return self.shared.drops.note(DropReason::NotAFrame);
        };
        let is_data = matches!(frame, Frame::Data(_));
        let grant = match self.route(handle, is_data, (from, via)) {
            Ok(grant) => grant,
            Err(reason) => return self.shared.drops.note(reason),
        };
        let Some(tunnel) = self.tunnels.get_mut(&grant) else {
            return;
        };
        if tunnel.over(now).is_none() {
            let at = now.instant;
            match (frame, via) {
                (Frame::Data(NUDGE), Via::Relay) => tunnel.link_mut().nudged(at, handle, out),
                (Frame::Data(sealed), _) => {
                    let from = (unmapped(from), via);
                    tunnel.datagram(now, from, sealed, &mut self.shared, out);
                }
                (Frame::Bound, Via::Relay) => {
                    tunnel.hear_relay(now, &mut self.shared, out, |link, out| {
                        link.bound(at, handle, out);
                    });
                }
                (Frame::Challenge(cookie), Via::Relay) => {
                    tunnel.hear_relay(now, &mut self.shared, out, |link, out| {
                        link.challenged(at, handle, &cookie, out);
                    });
                }
                (Frame::Seen(at_relay), Via::Direct) => tunnel.link_mut().seen(at, at_relay),
                (Frame::Bound | Frame::Challenge(_), Via::Direct)
                | (Frame::Seen(_), Via::Relay) => {
                    self.shared.drops.note(DropReason::NotAFrame);
                }
            }
        }
        // The flush settles it, once for all datagrams of a turn.
        self.queue(grant);
    }

    fn datagrams(
        &mut self,
        now: Now,
        (from, via): (SocketAddr, Via),
        mut rest: Datagrams<'_>,
        out: &mut Outbox,
    ) {
        if rest.is_empty() {
            return self.datagram(now, (from, via), &[], out);
        }
        while let Some((run, front)) = rest.next_run() {
            let handle = front.and_then(Handle::split_data).map(|(handle, _)| handle);
            match handle {
                Some(handle) if !run.is_one() => self.run(now, (from, via), handle, run, out),
                Some(_) | None => self.datagram(now, (from, via), run.bytes(), out),
            }
        }
    }

    /// Takes sealed datagrams that begin alike, so that all of them are of one tunnel.
    fn run(
        &mut self,
        now: Now,
        (from, via): (SocketAddr, Via),
        handle: Handle,
        run: Datagrams<'_>,
        out: &mut Outbox,
    ) {
        let grant = match self.route(handle, true, (from, via)) {
            Ok(grant) => grant,
            Err(reason) => return run.iter().for_each(|_| self.shared.drops.note(reason)),
        };
        if let Some(tunnel) = self.tunnels.get_mut(&grant)
            && tunnel.over(now).is_none()
        {
            let from = (unmapped(from), via);
            tunnel.datagrams(now, from, run, &mut self.shared, out);
        }
        self.queue(grant);
    }

    /// The tunnel that a datagram with `handle` is for, if whoever sent it may.
    fn route(
        &mut self,
        handle: Handle,
        is_data: bool,
        (from, via): (SocketAddr, Via),
    ) -> Result<GrantId, DropReason> {
        let handles = match via {
            Via::Direct if is_data => &self.direct,
            Via::Direct | Via::Relay => &self.handles,
        };
        let known = match self.last {
            Some((last, way, grant)) if is_data && last == handle && way == via => Some(grant),
            Some(_) | None => handles.get(&handle).copied(),
        };
        let grant = known.ok_or(DropReason::UnknownTunnel)?;
        if is_data {
            self.last = Some((handle, via, grant));
        }
        let tunnel = self.tunnels.get(&grant).ok_or(DropReason::UnknownTunnel)?;
        let relay = tunnel.link().relay_with(handle);
        let is_relay = relay.is_some_and(|relay| is_same(relay, from));
        if is_relay || (is_data && via == Via::Direct) {
            Ok(grant)
        } else {
            Err(DropReason::NotFromRelay)
        }
    }

    fn bundle(&mut self, now: Now, grant: GrantId, bundle: &mut Bundle<'_>, out: &mut Outbox) {
        match self.tunnels.get_mut(&grant) {
            Some(tunnel) if tunnel.over(now).is_none() => {
                tunnel.with(now, &mut self.shared, out, |carrier, context| {
                    carrier.bundle(context, bundle);
                });
                self.queue(grant);
            }
            Some(_) | None => self.shared.drops.note(DropReason::NotOpen),
        }
    }

    fn command(&mut self, now: Now, command: Command, out: &mut Outbox) {
        match command {
            Command::Install(install) => self.install(now, *install, out),
            Command::Extend {
                grant,
                ttl,
                ticket,
                standby,
            } => {
                let Some(tunnel) = self.tunnels.get_mut(&grant) else {
                    return;
                };
                // A tunnel whose time has passed is gone, however late the sweep comes.
                if tunnel.over(now).is_none() {
                    for before in tunnel.handles() {
                        self.handles.remove(&before);
                    }
                    tunnel.extend(now, ttl, &ticket.0, &standby);
                    self.last = None;
                    let after = tunnel.handles().map(|handle| (handle, grant));
                    self.handles.extend(after);
                    tunnel.timeout(now, &mut self.shared, out);
                }
                self.settle(now, grant, out);
            }
            Command::Remove { grant } => self.close(now, grant, CloseReason::Removed, out),
        }
    }

    fn install(&mut self, now: Now, install: Install, out: &mut Outbox) {
        let grant = install.grant;
        self.close(now, grant, CloseReason::Replaced, out);
        let mut seed = [0; 32];
        self.entropy.fill_bytes(&mut seed);
        let has_room = self.tunnels.len() < TUNNELS_MAX;
        let tunnel = has_room
            .then(|| {
                Tunnel::new(
                    now,
                    (self.end, self.family),
                    install,
                    seed,
                    &mut self.shared,
                    out,
                )
            })
            .flatten()
            .filter(|tunnel| !tunnel.handles().any(|own| self.handles.contains_key(&own)))
            .filter(|tunnel| !self.direct.contains_key(&tunnel.link().direct_handle()));
        let Some(mut tunnel) = tunnel else {
            out.events.push_back(Event::Closed {
                grant,
                reason: CloseReason::Invalid,
            });
            return;
        };
        let handles = tunnel.handles().map(|handle| (handle, grant));
        self.handles.extend(handles);
        self.direct.insert(tunnel.link().direct_handle(), grant);
        for relay in &self.detours {
            tunnel.link_mut().detoured(now.instant, *relay, true);
        }
        self.tunnels.insert(grant, tunnel);
        self.queue(grant);
        self.settle(now, grant, out);
    }

    fn timeout(&mut self, now: Now, out: &mut Outbox) {
        while let Some(grant) = self.schedule.pop_due(now.instant) {
            let Some(tunnel) = self.tunnels.get_mut(&grant) else {
                continue;
            };
            if tunnel.over(now).is_none() {
                tunnel.timeout(now, &mut self.shared, out);
                self.queue(grant);
            }
            self.settle(now, grant, out);
        }
    }

    /// Comes before everything else: a machine that was suspended finds its timers long past.
    fn enter(&mut self, now: Now, out: &mut Outbox) {
        let before = self.latest.replace(now.instant);
        let is_long = before.is_some_and(|before| now.instant > before + ASLEEP_MIN);
        if is_long
            && self
                .schedule
                .next()
                .is_some_and(|due| now.instant > due + ASLEEP_MIN)
        {
            tracing::debug!(?before, "the machine was asleep");
            for tunnel in self.tunnels.values_mut() {
                tunnel.link_mut().woke(now.instant);
            }
            self.settle_all(now, out);
        }
    }

    fn roamed(&mut self, now: Now, out: &mut Outbox) {
        let grants: Vec<GrantId> = self.tunnels.keys().copied().collect();
        for grant in grants {
            if let Some(tunnel) = self.tunnels.get_mut(&grant) {
                tunnel.link_mut().roamed(now.instant);
                tunnel.link_mut().timeout(now.instant, out);
            }
            self.settle(now, grant, out);
        }
    }

    fn detoured(&mut self, now: Now, relay: SocketAddr, is_used: bool, out: &mut Outbox) {
        if is_used {
            self.detours.insert(relay);
        } else {
            self.detours.remove(&relay);
        }
        for tunnel in self.tunnels.values_mut() {
            tunnel.link_mut().detoured(now.instant, relay, is_used);
        }
        self.settle_all(now, out);
    }

    /// Every tunnel's other end learns where this one may be reached.
    fn addressed(&mut self, now: Now, addresses: Vec<SocketAddr>, out: &mut Outbox) {
        for tunnel in self.tunnels.values_mut() {
            tunnel.link_mut().set_own(now.instant, &addresses);
        }
        self.shared.addresses = Some(addresses);
        self.settle_all(now, out);
    }

    fn note_controller(&mut self, at: IpAddr) {
        let controllers = &mut self.shared.controllers;
        if controllers.contains(&at) {
            return;
        }
        if controllers.len() >= CONTROLLERS_MAX {
            controllers.pop_front();
        }
        controllers.push_back(at);
    }

    fn check(&mut self, now: Now, out: &mut Outbox) {
        for tunnel in self.tunnels.values_mut() {
            tunnel.find_out(now);
        }
        self.settle_all(now, out);
    }

    fn settle_all(&mut self, now: Now, out: &mut Outbox) {
        let grants: Vec<GrantId> = self.grants().collect();
        for grant in grants {
            self.settle(now, grant, out);
        }
        self.timeout(now, out);
    }

    fn open_flow(
        &mut self,
        now: Now,
        flow: FlowId,
        grant: GrantId,
        service: Service,
        out: &mut Outbox,
    ) {
        let refuse = |why, out: &mut Outbox| out.flows.push_back(FlowEvent::Reset { flow, why });
        let Some(tunnel) = self.tunnels.get_mut(&grant) else {
            return refuse(ResetReason::NotGranted, out);
        };
        let taken = self.shared.flows.owner(flow).is_some();
        match tunnel.check(service) {
            Some(to) if !taken && self.end == End::Agent && tunnel.over(now).is_none() => {
                tunnel.with(now, &mut self.shared, out, |carrier, context| {
                    carrier.open_flow(context, flow, to);
                });
                self.queue(grant);
            }
            Some(_) | None => refuse(ResetReason::NotGranted, out),
        }
        self.settle(now, grant, out);
    }

    /// Calls the carrier of the tunnel that has `flow`; `None` when there is none any more.
    fn with_flow<R>(
        &mut self,
        now: Now,
        flow: FlowId,
        out: &mut Outbox,
        call: impl FnOnce(&mut Carrier, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let grant = self.shared.flows.owner(flow)?;
        let tunnel = self.tunnels.get_mut(&grant)?;
        let result = tunnel
            .over(now)
            .is_none()
            .then(|| tunnel.with(now, &mut self.shared, out, call));
        self.queue(grant);
        self.settle(now, grant, out);
        result
    }

    /// Lets a tunnel take part in the next flush.
    fn queue(&mut self, grant: GrantId) {
        if let Some(tunnel) = self.tunnels.get_mut(&grant)
            && !tunnel.queued
        {
            tunnel.queued = true;
            self.unflushed.push_back(grant);
        }
    }

    /// After any call on a tunnel: it ends when it is over, and its next deadline is noted.
    fn settle(&mut self, now: Now, grant: GrantId, out: &mut Outbox) {
        let Some(tunnel) = self.tunnels.get_mut(&grant) else {
            return;
        };
        tunnel.settle(now, out);
        match tunnel.over(now) {
            Some(reason) => self.close(now, grant, reason, out),
            None => {
                let deadline = tunnel.deadline();
                self.schedule.set(grant, Some(deadline));
            }
        }
    }

    fn close(&mut self, now: Now, grant: GrantId, reason: CloseReason, out: &mut Outbox) {
        let Some(tunnel) = self.tunnels.remove(&grant) else {
            return;
        };
        self.schedule.set(grant, None);
        for handle in tunnel.handles() {
            self.handles.remove(&handle);
        }
        self.direct.remove(&tunnel.link().direct_handle());
        self.last = None;
        out.packets.forget(grant);
        tunnel.close(now, reason, &mut self.shared, out);
    }
}

/// What a relay sends to an end, apart from the end's handle.
enum Frame<'a> {
    Data(&'a [u8]),
    Bound,
    Challenge(Cookie),
    Seen(SocketAddr),
}

impl<'a> Frame<'a> {
    fn of(bytes: &'a [u8]) -> Option<(Handle, Self)> {
        match FrameKind::of(*bytes.first()?)? {
            FrameKind::Data => {
                Handle::split_data(bytes).map(|(handle, sealed)| (handle, Self::Data(sealed)))
            }
            FrameKind::Bound => Handle::of_bound(bytes).map(|handle| (handle, Self::Bound)),
            FrameKind::Challenge => Handle::of_challenge(bytes)
                .map(|(handle, cookie)| (handle, Self::Challenge(cookie))),
            FrameKind::Seen => Handle::of_seen(bytes).map(|(handle, at)| (handle, Self::Seen(at))),
            FrameKind::Bind | FrameKind::Proof | FrameKind::Ask => None,
        }
    }
}

/// Whether two addresses are one, also when a socket for both families shows IPv4 within IPv6.
fn is_same(a: SocketAddr, b: SocketAddr) -> bool {
    unmapped(a) == unmapped(b)
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels")
            .field("end", &self.end)
            .field("tunnels", &self.tunnels.len())
            .field("drops", &self.shared.drops)
            .finish_non_exhaustive()
    }
}

/// Most tunnels of one end: six times the 10,000 that a revocation must end within a second.
pub const TUNNELS_MAX: usize = 65_536;

/// How late a timer must be before this machine counts as having been suspended: longer than a busy one
/// keeps us waiting, and shorter than a NAT forgets (RFC 4787 §4.3 has two minutes, many have 30 s).
const ASLEEP_MIN: Duration = Duration::from_secs(10);

/// Most addresses of controllers that are kept, the latest ones.
const CONTROLLERS_MAX: usize = 16;

/// Room for the largest packet, IPv6's header and 65,535 bytes: what is longer than the path carries is
/// cut from here.
const PACKET_BYTES: usize = 40 + 65_535;
