//! The WireGuard carrier: flows become TCP and UDP packets, and each packet a sealed datagram.

mod conversation;
mod fragments;
mod noise;
pub mod packet;
mod recovery;
mod sealer;
mod session;
mod stack;

use std::time::{Duration, Instant};

use bytes::Bytes;
use cardea_proto::{
    app::Protocol,
    codec::{Bytes as Array, Secret32},
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

pub(crate) use self::sealer::INNER_MTU;
use self::{
    fragments::{Fragment, Fragments},
    noise::{Noise, Opened},
    packet::{Body, Packet},
    sealer::{FULL_DATAGRAM_BYTES, Seal, Sealer, inner_mtu},
    session::{Due, Session},
    stack::{Pair, Stack},
};
use crate::{
    bundle::{self, Bundle},
    carrier::Phase,
    command::End,
    context::Context,
    drops::DropReason,
    filter::Permitted,
    input::{DialError, FlowId, Read},
    outbox::{CloseReason, FlowEvent, ResetReason},
    udp::UdpFlows,
};

/// One WireGuard tunnel.
#[derive(Debug)]
pub(crate) struct WireGuard {
    phase: Phase,
    noise: Noise,
    session: Session,
    stack: Stack,
    udp: UdpFlows<Pair>,
    fragments: Fragments,
    next_port: u16,
}

impl WireGuard {
    pub(crate) fn new(
        context: &mut Context<'_>,
        private: &Secret32,
        peer: Array<32>,
        psk: &Secret32,
        seed: [u8; 32],
    ) -> Self {
        let now = context.now.instant;
        context.link.measure(FULL_DATAGRAM_BYTES);
        let mut entropy = ChaCha20Rng::from_seed(seed);
        let mut port = || u16::try_from(entropy.next_u32() & 0x7fff).unwrap_or(0) + PORT_BASE;
        let (tcp_port, udp_port) = (port(), port());
        // The lower eight bits of what it becomes count handshakes.
        let index = entropy.next_u32() >> 8;
        let mut seed = [0; 32];
        entropy.fill_bytes(&mut seed);
        let mut tunnel = Self {
            phase: Phase::Opening,
            noise: Noise::new(private, peer, psk, index, seed),
            session: Session::new(now, context.filter.end()),
            stack: Stack::new(context, entropy.next_u64(), tcp_port),
            udp: UdpFlows::default(),
            fragments: Fragments::default(),
            next_port: udp_port,
        };
        tunnel.timeout(context);
        tunnel
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) const fn rtt(&self) -> Option<Duration> {
        self.session.rtt()
    }

    /// Opens one datagram; says whether it was authentic.
    pub(crate) fn datagram(&mut self, context: &mut Context<'_>, sealed: &[u8]) -> bool {
        let now = context.now.instant;
        if Noise::is_handshake(sealed) && !self.session.admits_handshake(now) {
            context.drop(DropReason::HandshakeFlood);
            return false;
        }
        let mut packets = std::mem::take(&mut context.out.packets);
        let opened = self.noise.open(context.now, sealed, packets.room());
        let (mut kept, mut whole) = (None, None);
        let authentic = opened != Opened::Nothing;
        match opened {
            Opened::Nothing => context.drop(DropReason::NotAuthentic),
            Opened::KeepAlive => self.heard(context),
            Opened::Handshake { answer } => {
                self.session.heard(now);
                self.sealer(context).send_bare(answer);
            }
            Opened::Answered { confirm } => {
                self.session.established(now);
                self.sealer(context).send_bare(confirm);
                self.opened(context);
            }
            Opened::Packet(packet) => {
                self.heard(context);
                self.session.heard_packet(now);
                match Fragment::parse(packet) {
                    Some(fragment) => whole = self.join(context, &fragment),
                    None => kept = self.take(context, packet),
                }
            }
        }
        if let Some(whole) = whole {
            kept = self.take(context, &whole).and_then(|(head, len)| {
                let room = packets.room().get_mut(..len);
                if room.is_none() {
                    context.drop(DropReason::QueueFull);
                }
                room?.copy_from_slice(&whole);
                Some((head, len))
            });
        }
        if let Some((head, len)) = kept {
            packets.keep(context.grant, head, len);
        }
        context.out.packets = packets;
        authentic
    }

    /// Does what is due: handshakes, signs of life, and the stack's timers.
    pub(crate) fn timeout(&mut self, context: &mut Context<'_>) {
        let now = context.now.instant;
        while let Some(due) = self.session.poll(now) {
            match due {
                Due::Lost => {
                    self.phase = Phase::Dead(CloseReason::Lost);
                    return;
                }
                Due::Initiate => {
                    let at = context.now;
                    self.sealer(context)
                        .send_with(noise::ROOM_MIN, |noise, room| noise.initiate(at, room));
                }
                Due::Tick => self.noise.tick(now),
                Due::KeepAlive => self.sealer(context).send(&[]),
            }
        }
        self.stack.timeout(now);
        self.udp.expire(context);
    }

    /// The tunnel's datagrams go another way, because the one before carries nothing.
    pub(crate) fn rerouted(&mut self, context: &Context<'_>) {
        self.stack.rerouted(context.now.instant);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.stack.deadline(), self.udp.deadline()]
            .into_iter()
            .flatten()
            .chain([self.session.deadline()])
            .min()
    }

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

    pub(crate) fn dialed(
        &mut self,
        context: &mut Context<'_>,
        flow: FlowId,
        result: Result<(), DialError>,
    ) {
        if self.udp.contains(flow) {
            self.udp.dialed(context, flow, result);
        } else {
            let Self {
                stack,
                noise,
                session,
                ..
            } = self;
            stack.dialed(context, Seal { noise, session }, flow, result);
        }
    }

    pub(crate) fn finish(&mut self, context: &mut Context<'_>, flow: FlowId) {
        if self.udp.contains(flow) {
            self.udp.remove(context, flow);
        } else {
            self.stack.finish(context, flow);
        }
    }

    pub(crate) fn reset(&mut self, context: &mut Context<'_>, flow: FlowId) {
        if self.udp.contains(flow) {
            self.udp.remove(context, flow);
        } else {
            let Self {
                stack,
                noise,
                session,
                ..
            } = self;
            stack.reset(context, Seal { noise, session }, flow);
        }
    }

    /// Sends a UDP payload, or keeps it while the tunnel opens.
    pub(crate) fn packet(&mut self, context: &mut Context<'_>, flow: FlowId, payload: &Bytes) {
        if self.phase == Phase::Opening {
            return self.udp.keep_early(context, flow, payload.clone());
        }
        let Some(name) = self.udp.send(context.now.instant, flow) else {
            return context.drop(DropReason::UnknownFlow);
        };
        let (own, peer) = context.filter.addresses(name.v6);
        let mut built = std::mem::take(&mut context.shared.built);
        let (from, to) = ((own, name.own_port), (peer, name.peer_port));
        let packet = packet::build_udp(from, to, payload, &mut built);
        match packet.and_then(|len| built.get(..len)) {
            Some(packet) => {
                self.send_udp(context, packet);
                let len = u64::try_from(payload.len()).unwrap_or(u64::MAX);
                context.traffic.written = context.traffic.written.saturating_add(len);
            }
            None => context.drop(DropReason::TooLarge),
        }
        context.shared.built = built;
    }

    /// Sends a packet whole where the path is known to carry it, else in fragments.
    fn send_udp(&mut self, context: &mut Context<'_>, packet: &[u8]) {
        let mtu = inner_mtu(context.link);
        let mut sealer = Sealer {
            noise: &mut self.noise,
            session: &mut self.session,
            context,
        };
        if packet.len() <= mtu {
            sealer.send(packet);
        } else {
            self.fragments
                .cut(packet, mtu, |fragment| sealer.send(fragment));
        }
    }

    /// Seals a packet of the local network stack, or each of those that it stands for.
    pub(crate) fn bundle(&mut self, context: &mut Context<'_>, bundle: &Bundle<'_>) {
        if let Err(reason) = self.check_bundle(context, bundle) {
            return context.drop(reason);
        }
        let mut sealer = self.sealer(context);
        for index in 0..bundle.count() {
            sealer.send_written(bundle.part_len(index), |room| {
                bundle.write_part(index, room)
            });
        }
        let len = u64::try_from(bundle.payload_len()).unwrap_or(u64::MAX);
        context.traffic.written = context.traffic.written.saturating_add(len);
    }

    fn check_bundle(&self, context: &Context<'_>, bundle: &Bundle<'_>) -> Result<(), DropReason> {
        let packet = bundle.packet();
        let v6 = packet.source.is_ipv6();
        if self.phase != Phase::Open || !context.filter.is_stacked(v6) {
            return Err(DropReason::NotOpen);
        }
        let filter = &*context.filter;
        filter.check_own_addresses(packet.source, packet.destination)?;
        filter.check_body(packet, true)?;
        if bundle.longest() > INNER_MTU {
            return Err(DropReason::TooLarge);
        }
        let name = Pair {
            v6,
            own_port: packet.source_port,
            peer_port: packet.destination_port,
        };
        let is_taken = match packet.body {
            Body::Tcp { .. } => self.stack.has_name(name),
            Body::Udp => self.udp.has_name(name),
            Body::Echo { .. } => false,
        };
        if is_taken {
            return Err(DropReason::PortTaken);
        }
        Ok(())
    }

    pub(crate) fn writable(&self, flow: FlowId) -> usize {
        self.stack.writable(flow)
    }

    pub(crate) fn write(&mut self, context: &mut Context<'_>, flow: FlowId, data: Bytes) -> usize {
        self.stack.write(context, flow, &data)
    }

    pub(crate) fn read(&mut self, context: &mut Context<'_>, flow: FlowId, max: usize) -> Read {
        self.stack.read(context, flow, max)
    }

    /// Lets the stack send; says whether more waits for the next turn.
    pub(crate) fn flush(&mut self, context: &mut Context<'_>) -> bool {
        let Self {
            stack,
            noise,
            session,
            phase,
            ..
        } = self;
        *phase == Phase::Open && stack.flush(context, Seal { noise, session })
    }

    /// Ends every flow, and lets the peer know of its conversations while there are keys.
    pub(crate) fn close(&mut self, context: &mut Context<'_>, reason: CloseReason) {
        let Self {
            stack,
            noise,
            session,
            ..
        } = self;
        let seal = (self.phase == Phase::Open).then_some(Seal { noise, session });
        stack.close(context, seal, reason);
        self.udp.close(context, reason);
    }

    /// Takes a fragment from the granted address to ours; gives the packet when it is whole.
    fn join(&mut self, context: &mut Context<'_>, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        let (source, destination) = (fragment.source, fragment.destination);
        let now = context.now.instant;
        let checked = context.filter.check_addresses(source, destination);
        match checked.and_then(|()| self.fragments.take(now, fragment)) {
            Ok(whole) => whole,
            Err(reason) => {
                context.drop(reason);
                None
            }
        }
    }

    /// Has a whole packet received; gives what the local network stack should have of it.
    fn take(&mut self, context: &mut Context<'_>, packet: &[u8]) -> Option<(Packet, usize)> {
        match self.receive(context, packet) {
            Ok(To::Us) => None,
            Ok(To::Stack(head)) => Some((head, packet.len())),
            Err(reason) => {
                context.drop(reason);
                None
            }
        }
    }

    /// Checks a packet that was opened, in this order: well-formed, from the granted address to
    /// ours, of a service or a known flow. Only then does a stack see it.
    fn receive(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Result<To, DropReason> {
        let packet = Packet::parse_head(bytes)?;
        context
            .filter
            .check_addresses(packet.source, packet.destination)?;
        let to = context.filter.check_body(&packet, false)?;
        let name = Pair {
            v6: packet.source.is_ipv6(),
            own_port: packet.destination_port,
            peer_port: packet.source_port,
        };
        if context.filter.is_stacked(name.v6) && !self.is_flow(context, &packet, name) {
            let len = u64::try_from(packet.payload(bytes).len()).unwrap_or(u64::MAX);
            context.traffic.read = context.traffic.read.saturating_add(len);
            return Ok(To::Stack(packet));
        }
        // Nobody but us would look at its checksum.
        let packet = Packet::parse(bytes)?;
        match (packet.body, to) {
            (Body::Udp, Some(to)) => {
                let payload = Bytes::copy_from_slice(packet.payload(bytes));
                self.udp.receive(context, name, to, payload);
            }
            (Body::Tcp { begins }, Some(to)) => {
                let Self {
                    stack,
                    noise,
                    session,
                    ..
                } = self;
                let seal = Seal { noise, session };
                stack.receive(context, seal, bytes, name, begins.then_some(to));
            }
            (Body::Echo { asks: true }, _) => self.answer_echo(context, bytes, packet),
            (Body::Echo { asks: false }, _) => return Err(DropReason::UnknownFlow),
            (Body::Tcp { .. } | Body::Udp, None) => return Err(DropReason::WrongService),
        }
        Ok(To::Us)
    }

    /// Whether a packet belongs to a flow of ours; beside a network stack, only an agent has any.
    fn is_flow(&self, context: &Context<'_>, packet: &Packet, name: Pair) -> bool {
        context.filter.end() == End::Agent
            && match packet.body {
                Body::Tcp { .. } => self.stack.has_name(name),
                Body::Udp => self.udp.has_name(name),
                Body::Echo { .. } => false,
            }
    }

    /// A connector without a network stack answers for the app that its tunnel works.
    fn answer_echo(&mut self, context: &mut Context<'_>, bytes: &[u8], mut packet: Packet) {
        let mut built = std::mem::take(&mut context.shared.built);
        if let Some(answer) = built.get_mut(..bytes.len().min(INNER_MTU)) {
            if answer.len() == bytes.len() {
                answer.copy_from_slice(bytes);
                bundle::answer_echo(answer, &mut packet);
                self.sealer(context).send(answer);
            } else {
                context.drop(DropReason::TooLarge);
            }
        }
        context.shared.built = built;
    }

    /// Something came under the keys of a session: it is proven now.
    fn heard(&mut self, context: &mut Context<'_>) {
        let now = context.now.instant;
        if context.filter.end() == End::Connector && !self.session.is_established() {
            self.session.established(now);
            self.opened(context);
        }
        self.session.heard(now);
    }

    fn opened(&mut self, context: &mut Context<'_>) {
        if self.phase == Phase::Opening {
            self.phase = Phase::Open;
            for (flow, payload) in self.udp.take_early() {
                self.packet(context, flow, &payload);
            }
        }
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

    fn sealer<'a, 'b>(&'a mut self, context: &'a mut Context<'b>) -> Sealer<'a, 'b> {
        Sealer {
            noise: &mut self.noise,
            session: &mut self.session,
            context,
        }
    }
}

/// Whom a packet is for that has passed.
enum To {
    /// Our own flows have it.
    Us,
    /// The local network stack.
    Stack(Packet),
}

/// Where an agent's ports begin: those below are services'.
const PORT_BASE: u16 = 16_384;

#[cfg(test)]
mod tests;
