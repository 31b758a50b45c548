//! TCP over inner packets: sockets become packets at an agent, packets become flows at a connector.
//!
//! One smoltcp interface serves a tunnel, and each flow has its socket in a set of its own, so that a
//! packet costs the same however many flows there are.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use smoltcp::{
    iface::{Config, Interface, PollResult, SocketSet},
    time::Instant as StackInstant,
    wire::{HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint},
};

use super::{
    Mtu, Sink,
    conversation::{ACK_DELAY, Conversation, Over, Spare, Stage},
    device::{Idle, Wire},
    packet::Packet,
    recovery::REPEAT_PACKETS,
};
use crate::{
    command::End,
    context::Context,
    drops::DropReason,
    filter::{Filter, Permitted},
    input::{DialError, FlowId, Read},
    outbox::{CloseReason, FlowEvent, ResetReason},
    schedule::Schedule,
};

/// All TCP flows of one tunnel.
pub(crate) struct Stack {
    interface: Interface,
    /// The same for packets that every network carries: smoltcp keeps what its device was first.
    narrow: Interface,
    mtu: Mtu,
    nobody: SocketSet<'static>,
    spare: Spare,
    flows: BTreeMap<FlowId, Conversation>,
    names: BTreeMap<Pair, FlowId>,
    /// Flows that may have something to send, in turn.
    unflushed: VecDeque<FlowId>,
    schedule: Schedule<FlowId>,
    /// Bytes of all flows that the peer has not acknowledged.
    unacknowledged: usize,
    epoch: Instant,
    next_port: u16,
}

/// Names a conversation within a tunnel, whose two addresses are fixed but for their family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub(crate) v6: bool,
    pub(crate) own_port: u16,
    pub(crate) peer_port: u16,
}

impl Pair {
    /// The flow that a packet of the peer belongs to.
    pub(crate) const fn of_peers(packet: &Packet) -> Self {
        Self {
            v6: packet.source.is_ipv6(),
            own_port: packet.destination_port,
            peer_port: packet.source_port,
        }
    }

    /// The flow that a packet from this end would belong to.
    pub(crate) const fn of_own(packet: &Packet) -> Self {
        Self {
            v6: packet.source.is_ipv6(),
            own_port: packet.source_port,
            peer_port: packet.destination_port,
        }
    }
}

impl Stack {
    pub(crate) fn new(context: &Context<'_>, mtu: Mtu, seed: u64, next_port: u16) -> Self {
        let filter = &*context.filter;
        let epoch = context.now.instant;
        Self {
            interface: interface(filter, seed, mtu.wide),
            narrow: interface(filter, seed, mtu.narrow),
            mtu,
            nobody: SocketSet::new(Vec::new()),
            spare: Spare::default(),
            flows: BTreeMap::new(),
            names: BTreeMap::new(),
            unflushed: VecDeque::new(),
            schedule: Schedule::default(),
            unacknowledged: 0,
            epoch,
            next_port,
        }
    }

    /// Agent: begins a conversation.
    pub(crate) fn open(&mut self, context: &mut Context<'_>, flow: FlowId, to: Permitted) {
        let v6 = context.filter.opens_v6();
        let name = self.free_name(v6, to.service().port);
        let (Some(name), true) = (name, self.flows.len() < TCP_FLOWS_MAX) else {
            context.drop(DropReason::FlowLimit);
            return context.tell(FlowEvent::Reset {
                flow,
                why: ResetReason::Limit,
            });
        };
        let (own, peer) = context.filter.addresses(v6);
        self.set_now(context);
        let conversation = Conversation::connect(
            &mut self.interface,
            self.spare.take(),
            name,
            IpEndpoint::new(own.into(), name.own_port),
            IpEndpoint::new(peer.into(), name.peer_port),
        );
        context.adopt(flow);
        self.names.insert(name, flow);
        self.flows.insert(flow, conversation);
        self.queue(flow);
    }

    /// The tunnel's datagrams go another way: what the one before lost is sent again.
    pub(crate) fn rerouted(&mut self, now: Instant) {
        let flows = self.flows.iter_mut();
        let waiting: Vec<FlowId> = flows
            .filter_map(|(flow, conversation)| conversation.recovery.rerouted(now).then_some(*flow))
            .collect();
        for flow in waiting {
            self.queue(flow);
        }
    }

    /// Takes a checked packet; one that begins a conversation at a connector asks to dial.
    pub(crate) fn receive<S: Sink>(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut S,
        packet: &[u8],
        name: Pair,
        begins: Option<Permitted>,
    ) {
        let flow = match (self.names.get(&name).copied(), begins) {
            (Some(flow), _) => flow,
            (None, Some(to)) if context.filter.end() == End::Connector => {
                match self.park(context, name, to) {
                    Ok(flow) => flow,
                    Err(reason) => {
                        context.drop(reason);
                        return self.refuse(context, sink, packet);
                    }
                }
            }
            (None, _) => {
                context.drop(DropReason::UnknownFlow);
                return self.refuse(context, sink, packet);
            }
        };
        let at = self.set_now(context);
        let mut built = std::mem::take(&mut context.shared.built);
        if let Some(conversation) = self.flows.get_mut(&flow) {
            let before = conversation.unacknowledged();
            let Conversation {
                recovery, sockets, ..
            } = conversation;
            conversation.quiet = false;
            recovery.came(context.now.instant, packet);
            let mut wire = Wire::new(context, sink, &mut built, Some(packet));
            wire.recovery = Some(recovery);
            self.interface.poll_ingress_single(at, &mut wire, sockets);
            conversation.notice();
            let acknowledged = before.saturating_sub(conversation.unacknowledged());
            self.unacknowledged = self.unacknowledged.saturating_sub(acknowledged);
        }
        context.shared.built = built;
        self.queue(flow);
        self.settle(context, flow);
    }

    /// Connector: lets a parked conversation begin, or refuses it.
    pub(crate) fn dialed<S: Sink>(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut S,
        flow: FlowId,
        result: Result<(), DialError>,
    ) {
        let Some(conversation) = self.flows.get_mut(&flow) else {
            return;
        };
        match result {
            Ok(()) => {
                conversation.accept();
                self.queue(flow);
                self.settle(context, flow);
            }
            Err(_) => self.reset(context, sink, flow),
        }
    }

    pub(crate) fn finish(&mut self, context: &mut Context<'_>, flow: FlowId) {
        if let Some(conversation) = self.flows.get_mut(&flow) {
            conversation.finish();
            self.queue(flow);
            self.settle(context, flow);
        }
    }

    /// Ends a conversation at once and tells the peer; the shell knows.
    pub(crate) fn reset<S: Sink>(&mut self, context: &mut Context<'_>, sink: &mut S, flow: FlowId) {
        if self.flows.contains_key(&flow) {
            self.abort(context, sink, flow);
            self.remove(flow);
            context.forget(flow);
        }
    }

    pub(crate) fn contains(&self, flow: FlowId) -> bool {
        self.flows.contains_key(&flow)
    }

    pub(crate) fn has_name(&self, name: Pair) -> bool {
        self.names.contains_key(&name)
    }

    pub(crate) fn writable(&self, flow: FlowId) -> usize {
        let flow = self.flows.get(&flow);
        flow.map_or(0, |conversation| conversation.writable(self.budget()))
    }

    pub(crate) fn write(&mut self, context: &mut Context<'_>, flow: FlowId, data: &[u8]) -> usize {
        let budget = self.budget();
        let Some(conversation) = self.flows.get_mut(&flow) else {
            return 0;
        };
        let taken = conversation.write(data, budget);
        self.unacknowledged += taken;
        let count = u64::try_from(taken).unwrap_or(u64::MAX);
        context.traffic.written = context.traffic.written.saturating_add(count);
        if taken > 0 {
            self.queue(flow);
        }
        taken
    }

    pub(crate) fn read(&mut self, context: &mut Context<'_>, flow: FlowId, max: usize) -> Read {
        let Some(conversation) = self.flows.get_mut(&flow) else {
            return Read::Reset;
        };
        let read = conversation.read(max);
        if let Read::Data(bytes) = &read {
            let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            context.traffic.read = context.traffic.read.saturating_add(count);
            self.queue(flow);
        } else {
            self.settle(context, flow);
        }
        read
    }

    /// Sends what may be sent; says whether more waits for the next turn.
    pub(crate) fn flush<S: Sink>(&mut self, context: &mut Context<'_>, sink: &mut S) -> bool {
        while let Some(flow) = self.unflushed.pop_front() {
            let Some(conversation) = self.flows.get_mut(&flow) else {
                continue;
            };
            conversation.queued = false;
            if self.flush_one(context, sink, flow) {
                self.queue(flow);
            } else {
                self.settle(context, flow);
            }
            if sink.is_full(context) {
                return !self.unflushed.is_empty();
            }
        }
        false
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.schedule.next()
    }

    /// Lets due conversations take part in the next flush.
    pub(crate) fn timeout(&mut self, now: Instant) {
        while let Some(flow) = self.schedule.pop_due(now) {
            self.queue(flow);
        }
    }

    /// Resets every conversation, at the peer too when there is a way to tell it.
    pub(crate) fn close<S: Sink>(
        &mut self,
        context: &mut Context<'_>,
        sink: Option<&mut S>,
        reason: CloseReason,
    ) {
        let flows: Vec<FlowId> = self.flows.keys().copied().collect();
        if let Some(sink) = sink {
            for flow in &flows {
                self.abort(context, sink, *flow);
            }
        }
        for flow in flows {
            self.remove(flow);
            context.reset_flow(flow, ResetReason::TunnelClosed(reason));
        }
    }

    /// Makes the flow of a conversation that the peer begins; its answer waits for the dial.
    fn park(
        &mut self,
        context: &mut Context<'_>,
        name: Pair,
        to: Permitted,
    ) -> Result<FlowId, DropReason> {
        if self.flows.len() >= TCP_FLOWS_MAX {
            return Err(DropReason::FlowLimit);
        }
        let target = context.filter.target(to).ok_or(DropReason::WrongService)?;
        let (own, _) = context.filter.addresses(name.v6);
        let at = IpListenEndpoint {
            addr: Some(own.into()),
            port: name.own_port,
        };
        let flow = context.new_flow();
        self.flows
            .insert(flow, Conversation::park(self.spare.take(), name, at));
        self.names.insert(name, flow);
        context.tell(FlowEvent::Dial {
            flow,
            grant: context.grant,
            target,
        });
        Ok(flow)
    }

    /// Answers a packet that belongs to nothing with a reset.
    fn refuse<S: Sink>(&mut self, context: &mut Context<'_>, sink: &mut S, packet: &[u8]) {
        let at = self.set_now(context);
        let mut built = std::mem::take(&mut context.shared.built);
        let mut wire = Wire::new(context, sink, &mut built, Some(packet));
        self.interface
            .poll_ingress_single(at, &mut wire, &mut self.nobody);
        context.shared.built = built;
    }

    fn abort<S: Sink>(&mut self, context: &mut Context<'_>, sink: &mut S, flow: FlowId) {
        if let Some(conversation) = self.flows.get_mut(&flow) {
            conversation.abort();
            self.emit(context, sink, flow, 1);
        }
    }

    /// Sends some packets of one flow; says whether more wait.
    fn flush_one<S: Sink>(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut S,
        flow: FlowId,
    ) -> bool {
        self.repeat_lost(context, sink, flow);
        let more = self.emit(context, sink, flow, PACKETS_PER_TURN);
        let now = context.now.instant;
        let at = self.set_now(context);
        let Some(conversation) = self.flows.get_mut(&flow) else {
            return false;
        };
        let parked = conversation.stage == Stage::Parked;
        let interface = match self.mtu.is_narrow(sink, context, conversation) {
            true => &mut self.narrow,
            false => &mut self.interface,
        };
        let due = interface.poll_at(at, &conversation.sockets);
        conversation.quiet = !more && due.is_none_or(|due| due > at + ACK_DELAY);
        let due = due.filter(|_| !parked && !more).map(|due| {
            let micros = u64::try_from(due.total_micros()).unwrap_or(0);
            let due = self.epoch + Duration::from_micros(micros);
            // Rounded up, so that it has come when we come back.
            due.max(now + STACK_TICK)
        });
        let repeat = conversation.recovery.deadline();
        self.schedule.set(flow, due.into_iter().chain(repeat).min());
        more
    }

    /// Sends again what the path has lost.
    fn repeat_lost<S: Sink>(&mut self, context: &mut Context<'_>, sink: &mut S, flow: FlowId) {
        let now = context.now.instant;
        let at = self.set_now(context);
        let Some(conversation) = self.flows.get_mut(&flow) else {
            return;
        };
        let mut built = std::mem::take(&mut context.shared.built);
        let name = conversation.name;
        let (own, peer) = context.filter.addresses(name.v6);
        let is_away = context.link.silence().is_some();
        let mut wire = Wire::new(context, sink, &mut built, None);
        if let Some(packet) = conversation.recovery.handshake_due(now) {
            wire.send(packet);
        }
        if conversation.recovery.is_hopeless(now, is_away) {
            conversation.abort();
        } else if conversation.recovery.repeat_due(now) {
            if conversation.can_repeat() {
                let (own, peer) = ((own, name.own_port), (peer, name.peer_port));
                let plea = conversation.recovery.plea(own, peer);
                for _ in 0..REPEAT_PACKETS {
                    wire.incoming = Some(&plea);
                    self.interface
                        .poll_ingress_single(at, &mut wire, &mut conversation.sockets);
                }
            } else if let Some(packet) = conversation.recovery.lone_fin() {
                wire.send(packet);
            }
        }
        context.shared.built = built;
    }

    /// Lets the stack send at most `limit` packets of one flow; says whether it stopped for that.
    fn emit<S: Sink>(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut S,
        flow: FlowId,
        limit: usize,
    ) -> bool {
        let at = self.set_now(context);
        let Some(conversation) = self.flows.get_mut(&flow) else {
            return false;
        };
        let interface = match self.mtu.is_narrow(sink, context, conversation) {
            true => &mut self.narrow,
            false => &mut self.interface,
        };
        let mut built = std::mem::take(&mut context.shared.built);
        let Conversation {
            recovery, sockets, ..
        } = conversation;
        let mut wire = Wire::new(context, sink, &mut built, None);
        wire.recovery = Some(recovery);
        let mut more = true;
        for _ in 0..limit {
            more = match interface.poll_egress(at, &mut wire, sockets) {
                PollResult::None => false,
                PollResult::SocketStateChanged => true,
            };
            if !more {
                break;
            }
        }
        context.shared.built = built;
        conversation.notice();
        more
    }

    /// Tells the shell what changed, and forgets a conversation that is over.
    fn settle(&mut self, context: &mut Context<'_>, flow: FlowId) {
        let Some(conversation) = self.flows.get_mut(&flow) else {
            return;
        };
        conversation.tell(flow, context.out);
        match conversation.over() {
            None => {}
            Some(Over::Orderly) => {
                self.remove(flow);
                context.close_flow(flow);
            }
            Some(Over::Refused) => {
                self.remove(flow);
                context.reset_flow(flow, ResetReason::Refused(DialError::Unsaid));
            }
            Some(Over::Reset) => {
                self.remove(flow);
                context.reset_flow(flow, ResetReason::Peer);
            }
        }
    }

    fn remove(&mut self, flow: FlowId) {
        if let Some(conversation) = self.flows.remove(&flow) {
            self.names.remove(&conversation.name);
            let left = conversation.unacknowledged();
            self.unacknowledged = self.unacknowledged.saturating_sub(left);
            self.spare.keep(conversation);
        }
        self.schedule.set(flow, None);
    }

    /// Bytes that all flows together may still have on their way.
    const fn budget(&self) -> usize {
        TUNNEL_BYTES_MAX.saturating_sub(self.unacknowledged)
    }

    fn queue(&mut self, flow: FlowId) {
        if let Some(conversation) = self.flows.get_mut(&flow)
            && !conversation.queued
        {
            conversation.queued = true;
            self.unflushed.push_back(flow);
        }
    }

    fn free_name(&mut self, v6: bool, peer_port: u16) -> Option<Pair> {
        (0..=TCP_FLOWS_MAX).find_map(|_| {
            let own_port = self.next_port.max(PORT_MIN);
            self.next_port = own_port.checked_add(1).unwrap_or(PORT_MIN);
            let name = Pair {
                v6,
                own_port,
                peer_port,
            };
            (!self.names.contains_key(&name)).then_some(name)
        })
    }

    fn set_now(&self, context: &Context<'_>) -> StackInstant {
        let since = context.now.instant.saturating_duration_since(self.epoch);
        StackInstant::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A network stack with both addresses of this end, whose packets have at most `mtu` bytes.
fn interface(filter: &Filter, seed: u64, mtu: usize) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, &mut Idle(mtu), StackInstant::ZERO);
    for v6 in [false, true] {
        let (own, peer) = filter.addresses(v6);
        // Both lists have room for two entries, which is what they get.
        interface.update_ip_addrs(|addresses| {
            let _fits = addresses.push(IpCidr::new(own.into(), if v6 { 128 } else { 32 }));
        });
        let _fits = match peer {
            IpAddr::V4(peer) => interface.routes_mut().add_default_ipv4_route(peer),
            IpAddr::V6(peer) => interface.routes_mut().add_default_ipv6_route(peer),
        };
    }
    interface
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("flows", &self.flows.len())
            .finish_non_exhaustive()
    }
}

/// Most TCP flows of one tunnel: a browser's worth several times over.
///
/// What a peer sends and nobody reads is 512 KiB of each at most.
pub(crate) const TCP_FLOWS_MAX: usize = 512;

/// Bytes of one tunnel that its peer may leave unacknowledged: beyond that each flow gets little.
///
/// Without it, 512 downloads that a device stops reading would cost a connector 256 MiB.
const TUNNEL_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Packets of one flow before the next one has its turn: one full GSO batch.
const PACKETS_PER_TURN: usize = 44;

/// The stack counts microseconds: the least wait that it can see pass.
const STACK_TICK: Duration = Duration::from_micros(100);

/// Lowest port of an agent's end: those below are services'.
const PORT_MIN: u16 = 1_024;
