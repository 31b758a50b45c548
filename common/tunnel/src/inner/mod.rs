//! Where flows become inner packets, and packets flows: one packet end for either carrier.
//!
//! A carrier hands in what its peer sent and takes what must go there, through its [`Sink`]. What an
//! honest network stack would not send is refused here, before a flow hears of it.

mod conversation;
mod device;
pub mod packet;
mod recovery;
mod stack;

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;
use cardea_proto::app::Protocol;
use rand_core::RngCore;

pub(crate) use self::stack::Pair;
use self::{
    conversation::Conversation,
    packet::{Body, Packet},
    stack::Stack,
};
use crate::{
    bundle::{self, Bundle},
    context::Context,
    drops::DropReason,
    filter::{Filter, Permitted},
    input::{DialError, FlowId, Read},
    link::Link,
    outbox::{CloseReason, FlowEvent, ResetReason},
    packets::PACKET_BYTES_MAX,
    udp::UdpFlows,
};

/// A carrier's way for inner packets to the other end.
pub(crate) trait Sink {
    /// Sends a packet of at most [`Sink::mtu`] bytes.
    fn send(&mut self, context: &mut Context<'_>, packet: &[u8]);

    /// Sends a UDP packet of any length, in parts when the path is too narrow.
    fn send_udp(&mut self, context: &mut Context<'_>, packet: &[u8]);

    /// The largest inner packet that is known to come through.
    fn mtu(&self, link: &Link) -> usize;

    /// Whether flows should hold back what they have to send.
    fn is_full(&mut self, context: &Context<'_>) -> bool;
}

/// Bytes of the largest inner packet: if the path is as wide as most, and on every path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mtu {
    pub(crate) wide: usize,
    pub(crate) narrow: usize,
}

impl Mtu {
    /// Whether what a conversation sends must fit into every network. Its first packets name what
    /// this end takes, which is more.
    fn is_narrow(
        self,
        sink: &impl Sink,
        context: &Context<'_>,
        conversation: &Conversation,
    ) -> bool {
        conversation.is_under_way() && sink.mtu(context.link) < self.wide
    }
}

/// The flows of one tunnel that travel in packets.
#[derive(Debug)]
pub(crate) struct Inner {
    stack: Stack,
    udp: UdpFlows<Pair>,
    next_port: u16,
}

/// Whether a packet of the peer may pass, in this order: well-formed, from the granted address to
/// ours, of a service or an echo.
#[inline]
pub(crate) fn check(
    filter: &Filter,
    bytes: &[u8],
) -> Result<(Packet, Option<Permitted>), DropReason> {
    let packet = Packet::parse_head(bytes)?;
    filter.check_addresses(packet.source, packet.destination)?;
    let to = filter.check_body(&packet, false)?;
    Ok((packet, to))
}

/// Whether packets of the local network stack are what the peer will ask of them.
#[inline]
pub(crate) fn check_bundle(filter: &Filter, bundle: &Bundle<'_>) -> Result<(), DropReason> {
    let packet = bundle.packet();
    if !filter.is_stacked(packet.source.is_ipv6()) {
        return Err(DropReason::NotOpen);
    }
    filter.check_own_addresses(packet.source, packet.destination)?;
    filter.check_body(packet, true)?;
    if bundle.longest() > PACKET_BYTES_MAX {
        return Err(DropReason::TooLarge);
    }
    Ok(())
}

/// Counts a packet that the local network stack gets.
#[inline]
pub(crate) fn note_read(context: &mut Context<'_>, packet: &Packet, bytes: &[u8]) {
    let len = u64::try_from(packet.payload(bytes).len()).unwrap_or(u64::MAX);
    context.traffic.read = context.traffic.read.saturating_add(len);
}

impl Inner {
    pub(crate) fn new(context: &Context<'_>, mtu: Mtu, entropy: &mut impl RngCore) -> Self {
        let mut port = || u16::try_from(entropy.next_u32() & 0x7fff).unwrap_or(0) + PORT_BASE;
        let (tcp_port, udp_port) = (port(), port());
        Self {
            stack: Stack::new(context, mtu, entropy.next_u64(), tcp_port),
            udp: UdpFlows::default(),
            next_port: udp_port,
        }
    }

    /// Whether a flow is one of these.
    pub(crate) fn contains(&self, flow: FlowId) -> bool {
        self.udp.contains(flow) || self.stack.contains(flow)
    }

    /// Whether a flow has this name.
    pub(crate) fn has(&self, name: Pair, body: Body) -> bool {
        match body {
            Body::Tcp { .. } => self.stack.has_name(name),
            Body::Udp => self.udp.has_name(name),
            Body::Echo { .. } => false,
        }
    }

    /// Agent: begins a flow.
    pub(crate) fn open_flow(&mut self, context: &mut Context<'_>, flow: FlowId, to: Permitted) {
        let service = to.service();
        match service.protocol {
            Protocol::Tcp => self.stack.open(context, flow, to),
            Protocol::Udp => match self.free_port(context.filter.opens_v6(), service.port) {
                Some(name) => self.udp.open(context, flow, name),
                None => context.tell(FlowEvent::Reset {
                    flow,
                    why: ResetReason::Limit,
                }),
            },
        }
    }

    /// Takes a packet that [`check`] let pass.
    pub(crate) fn receive(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut impl Sink,
        bytes: &[u8],
        to: Option<Permitted>,
    ) -> Result<(), DropReason> {
        // Nobody but us would look at its checksum.
        let packet = Packet::parse(bytes)?;
        let name = Pair::of_peers(&packet);
        match (packet.body, to) {
            (Body::Udp, Some(to)) => {
                let payload = Bytes::copy_from_slice(packet.payload(bytes));
                self.udp.receive(context, name, to, payload);
            }
            (Body::Tcp { begins }, Some(to)) => {
                self.stack
                    .receive(context, sink, bytes, name, begins.then_some(to));
            }
            (Body::Echo { asks: true }, _) => answer_echo(context, sink, bytes, packet),
            (Body::Echo { asks: false }, _) => return Err(DropReason::UnknownFlow),
            (Body::Tcp { .. } | Body::Udp, None) => return Err(DropReason::WrongService),
        }
        Ok(())
    }

    pub(crate) fn dialed(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut impl Sink,
        flow: FlowId,
        result: Result<(), DialError>,
    ) {
        if self.udp.contains(flow) {
            self.udp.dialed(context, flow, result);
        } else {
            self.stack.dialed(context, sink, flow, result);
        }
    }

    pub(crate) fn finish(&mut self, context: &mut Context<'_>, flow: FlowId) {
        if self.udp.contains(flow) {
            self.udp.remove(context, flow);
        } else {
            self.stack.finish(context, flow);
        }
    }

    pub(crate) fn reset(&mut self, context: &mut Context<'_>, sink: &mut impl Sink, flow: FlowId) {
        if self.udp.contains(flow) {
            self.udp.remove(context, flow);
        } else {
            self.stack.reset(context, sink, flow);
        }
    }

    /// Keeps a UDP payload until the tunnel opens.
    pub(crate) fn keep_early(&mut self, context: &mut Context<'_>, flow: FlowId, payload: &Bytes) {
        self.udp.keep_early(context, flow, payload.clone());
    }

    /// What was kept, once the tunnel is open.
    pub(crate) fn take_early(&mut self) -> VecDeque<(FlowId, Bytes)> {
        self.udp.take_early()
    }

    /// Sends a UDP payload.
    pub(crate) fn packet(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut impl Sink,
        flow: FlowId,
        payload: &Bytes,
    ) {
        let Some(name) = self.udp.send(context.now.instant, flow) else {
            return context.drop(DropReason::UnknownFlow);
        };
        let (own, peer) = context.filter.addresses(name.v6);
        let mut built = std::mem::take(&mut context.shared.built);
        let (from, to) = ((own, name.own_port), (peer, name.peer_port));
        let packet = packet::build_udp(from, to, payload, &mut built);
        match packet.and_then(|len| built.get(..len)) {
            Some(packet) => {
                sink.send_udp(context, packet);
                let len = u64::try_from(payload.len()).unwrap_or(u64::MAX);
                context.traffic.written = context.traffic.written.saturating_add(len);
            }
            None => context.drop(DropReason::TooLarge),
        }
        context.shared.built = built;
    }

    pub(crate) fn writable(&self, flow: FlowId) -> usize {
        self.stack.writable(flow)
    }

    pub(crate) fn write(&mut self, context: &mut Context<'_>, flow: FlowId, data: &[u8]) -> usize {
        self.stack.write(context, flow, data)
    }

    pub(crate) fn read(&mut self, context: &mut Context<'_>, flow: FlowId, max: usize) -> Read {
        self.stack.read(context, flow, max)
    }

    /// Does what is due.
    pub(crate) fn timeout(&mut self, context: &mut Context<'_>) {
        self.stack.timeout(context.now.instant);
        self.udp.expire(context);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.stack.deadline(), self.udp.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// The tunnel's datagrams go another way: what the one before lost is sent again.
    pub(crate) fn rerouted(&mut self, now: Instant) {
        self.stack.rerouted(now);
    }

    /// Sends what may be sent; says whether more waits for the next turn.
    pub(crate) fn flush(&mut self, context: &mut Context<'_>, sink: &mut impl Sink) -> bool {
        self.stack.flush(context, sink)
    }

    /// Ends every flow, at the peer too when there is a way to tell it.
    pub(crate) fn close(
        &mut self,
        context: &mut Context<'_>,
        sink: Option<&mut impl Sink>,
        reason: CloseReason,
    ) {
        self.stack.close(context, sink, reason);
        self.udp.close(context, reason);
    }

    fn free_port(&mut self, v6: bool, peer_port: u16) -> Option<Pair> {
        (0..=self.udp.len()).find_map(|_| {
            let own_port = self.next_port.max(PORT_BASE);
            self.next_port = own_port.wrapping_add(1);
            let name = Pair {
                v6,
                own_port,
                peer_port,
            };
            (!self.udp.has_name(name)).then_some(name)
        })
    }
}

/// A connector without a network stack answers for the app that its tunnel works.
fn answer_echo(context: &mut Context<'_>, sink: &mut impl Sink, bytes: &[u8], mut packet: Packet) {
    let mut built = std::mem::take(&mut context.shared.built);
    if let Some(answer) = built.get_mut(..bytes.len().min(PACKET_BYTES_MAX)) {
        if answer.len() == bytes.len() {
            answer.copy_from_slice(bytes);
            bundle::answer_echo(answer, &mut packet);
            sink.send(context, answer);
        } else {
            context.drop(DropReason::TooLarge);
        }
    }
    context.shared.built = built;
}

/// Where an agent's ports begin: those below are services'.
const PORT_BASE: u16 = 16_384;
