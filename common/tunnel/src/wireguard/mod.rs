//! The WireGuard carrier: flows become TCP and UDP packets, and each packet a sealed datagram.

pub mod fragments;
mod noise;
mod padding;
mod sealer;
mod session;

use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cardea_proto::{
    codec::{Bytes as Array, Secret32},
    relay::{DATA_HEADER_BYTES, Handle},
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

pub(crate) use self::sealer::INNER_MTU;
use self::{
    fragments::{Fragment, Fragments},
    noise::{Noise, Opened},
    sealer::{FULL_DATAGRAM_BYTES, INNER_MTU_MIN, Seal, Sealer},
    session::{Due, Session},
};
use crate::{
    bundle::Bundle,
    carrier::Phase,
    command::End,
    context::Context,
    drops::DropReason,
    filter::Permitted,
    inner::{
        self, Inner, Pair, Sink as _,
        packet::{Body, Packet},
    },
    input::{Datagrams, DialError, FlowId, Read},
    link::Rerouted,
    outbox::{CloseReason, Via},
    packets::Packets,
};

/// One WireGuard tunnel.
#[derive(Debug)]
pub(crate) struct WireGuard {
    phase: Phase,
    noise: Noise,
    session: Session,
    inner: Inner,
    fragments: Fragments,
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
        let inner = Inner::new(context, sealer::mtu(context.link), &mut entropy);
        let index = entropy.next_u32();
        let mut seed = [0; 32];
        entropy.fill_bytes(&mut seed);
        let mut tunnel = Self {
            phase: Phase::Opening,
            noise: Noise::new(private, peer, psk, index, seed),
            session: Session::new(now, context.filter.end()),
            inner,
            fragments: Fragments::default(),
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
        if Noise::is_handshake(sealed)
            && let Err(reason) = self.admit_handshake(now, sealed)
        {
            context.drop(reason);
            return false;
        }
        let mut packets = std::mem::take(&mut context.out.packets);
        let opened = self.noise.open(context.now, sealed, packets.room());
        let mut packet = None;
        let authentic = opened != Opened::Nothing;
        match opened {
            Opened::Nothing => context.drop(DropReason::NotAuthentic),
            Opened::KeepAlive => self.heard(context),
            Opened::Handshake { answer } => {
                self.session.heard();
                self.sealer(context).send_bare(answer);
            }
            Opened::Answered { confirm } => {
                self.session.established(now);
                self.sealer(context).send_bare(confirm);
                self.opened(context);
                self.repeat_unsealed(now);
            }
            Opened::Packet(opened) => packet = Some(0..opened.len()),
        }
        if let Some(at) = packet {
            let mut end = at.end;
            self.packet_at(context, &mut packets, at, &mut end);
            packets.close_room();
        }
        context.out.packets = packets;
        authentic
    }

    /// Opens datagrams of one session, all of them together; then each is had as if it had come alone.
    pub(crate) fn datagrams(
        &mut self,
        context: &mut Context<'_>,
        from: (SocketAddr, Via),
        datagrams: Datagrams<'_>,
    ) {
        let now = context.now.instant;
        let mut packets = std::mem::take(&mut context.out.packets);
        let opened = self.noise.open_all(now, datagrams.iter(), packets.room());
        let mut end = opened.iter().flatten().map(|at| at.end).max().unwrap_or(0);
        for at in opened {
            match at {
                None => {
                    context.drop(DropReason::NotAuthentic);
                    continue;
                }
                Some(at) if at.is_empty() => self.heard(context),
                Some(at) => self.packet_at(context, &mut packets, at, &mut end),
            }
            context.link.came(now, from);
        }
        packets.close_room();
        context.out.packets = packets;
    }

    /// Has the packet that stands at `at` in the room; one that it makes whole goes to `end`.
    fn packet_at(
        &mut self,
        context: &mut Context<'_>,
        packets: &mut Packets,
        at: Range<usize>,
        end: &mut usize,
    ) {
        self.heard(context);
        self.session.heard_packet(context.now.instant);
        let packet = padding::without(packets.opened(at.clone()).unwrap_or_default());
        let at = at.start..at.start + packet.len();
        let Some(fragment) = Fragment::parse(packet) else {
            if let Some(head) = self.take(context, packet) {
                packets.keep(context.grant, head, at);
            }
            return;
        };
        let Some(whole) = self.join(context, &fragment) else {
            return;
        };
        if let Some(head) = self.take(context, &whole) {
            let at = *end..*end + whole.len();
            let Some(room) = packets.room().get_mut(at.clone()) else {
                return context.drop(DropReason::QueueFull);
            };
            room.copy_from_slice(&whole);
            *end = at.end;
            packets.keep(context.grant, head, at);
        }
    }

    /// Counts a first message that is the peer's, before it costs more; one that is not costs it no
    /// place.
    fn admit_handshake(&mut self, now: Instant, sealed: &[u8]) -> Result<(), DropReason> {
        if !self.noise.is_new_handshake(sealed) {
            return Err(DropReason::NotAuthentic);
        }
        if !self.session.admits_handshake(now) {
            return Err(DropReason::HandshakeFlood);
        }
        Ok(())
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
        self.inner.timeout(context);
    }

    /// The tunnel's datagrams go another way, because the one before carries nothing.
    pub(crate) fn rerouted(&mut self, context: &Context<'_>, _: Rerouted) {
        self.session.hurry(context.now.instant);
        self.inner.rerouted(context.now.instant);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let inner = self.inner.deadline();
        inner.into_iter().chain([self.session.deadline()]).min()
    }

    pub(crate) fn open_flow(&mut self, context: &mut Context<'_>, flow: FlowId, to: Permitted) {
        self.inner.open_flow(context, flow, to);
    }

    pub(crate) fn dialed(
        &mut self,
        context: &mut Context<'_>,
        flow: FlowId,
        result: Result<(), DialError>,
    ) {
        let (inner, mut seal) = self.inner();
        inner.dialed(context, &mut seal, flow, result);
    }

    pub(crate) fn finish(&mut self, context: &mut Context<'_>, flow: FlowId) {
        self.inner.finish(context, flow);
    }

    pub(crate) fn reset(&mut self, context: &mut Context<'_>, flow: FlowId) {
        let (inner, mut seal) = self.inner();
        inner.reset(context, &mut seal, flow);
    }

    /// Sends a UDP payload, or keeps it while the tunnel opens.
    pub(crate) fn packet(&mut self, context: &mut Context<'_>, flow: FlowId, payload: &Bytes) {
        if self.phase == Phase::Opening {
            return self.inner.keep_early(context, flow, payload);
        }
        let (inner, mut seal) = self.inner();
        inner.packet(context, &mut seal, flow, payload);
    }

    /// Seals a packet of the local network stack, or each of those that it stands for.
    pub(crate) fn bundle(&mut self, context: &mut Context<'_>, bundle: &mut Bundle<'_>) {
        if let Err(reason) = self.check_bundle(context, bundle) {
            return context.drop(reason);
        }
        if bundle.longest() > INNER_MTU_MIN && !sealer::is_wide(context.link) {
            bundle.narrow(INNER_MTU_MIN);
            if bundle.longest() > INNER_MTU_MIN {
                return self.bundle_in_fragments(context, bundle);
            }
        }
        self.sealer(context).send_bundle(bundle);
        let len = u64::try_from(bundle.payload_len()).unwrap_or(u64::MAX);
        context.traffic.written = context.traffic.written.saturating_add(len);
    }

    /// Seals what cannot be cut into shorter packets on a path that does not carry it whole.
    fn bundle_in_fragments(&mut self, context: &mut Context<'_>, bundle: &Bundle<'_>) {
        if bundle.packet().body != Body::Udp {
            return context.drop(DropReason::TooLarge);
        }
        let mut built = std::mem::take(&mut context.shared.built);
        let (_, mut seal) = self.inner();
        for index in 0..bundle.count() {
            let len = bundle.write_part(index, &mut built);
            match len.and_then(|len| built.get(..len)) {
                Some(packet) => seal.send_udp(context, packet),
                None => context.drop(DropReason::TooLarge),
            }
        }
        context.shared.built = built;
        let len = u64::try_from(bundle.payload_len()).unwrap_or(u64::MAX);
        context.traffic.written = context.traffic.written.saturating_add(len);
    }

    fn check_bundle(&self, context: &Context<'_>, bundle: &Bundle<'_>) -> Result<(), DropReason> {
        if self.phase != Phase::Open {
            return Err(DropReason::NotOpen);
        }
        inner::check_bundle(context.filter, bundle)?;
        if self
            .inner
            .has(Pair::of_own(bundle.packet()), bundle.packet().body)
        {
            return Err(DropReason::PortTaken);
        }
        Ok(())
    }

    pub(crate) fn writable(&self, flow: FlowId) -> usize {
        self.inner.writable(flow)
    }

    pub(crate) fn write(&mut self, context: &mut Context<'_>, flow: FlowId, data: Bytes) -> usize {
        self.inner.write(context, flow, &data)
    }

    pub(crate) fn read(&mut self, context: &mut Context<'_>, flow: FlowId, max: usize) -> Read {
        self.inner.read(context, flow, max)
    }

    /// Lets the stack send; says whether more waits for the next turn.
    pub(crate) fn flush(&mut self, context: &mut Context<'_>) -> bool {
        let is_open = self.phase == Phase::Open;
        let (inner, mut seal) = self.inner();
        is_open && inner.flush(context, &mut seal)
    }

    /// Ends every flow, and lets the peer know of its conversations while there are keys.
    pub(crate) fn close(&mut self, context: &mut Context<'_>, reason: CloseReason) {
        let is_open = self.phase == Phase::Open;
        let (inner, mut seal) = self.inner();
        inner.close(context, is_open.then_some(&mut seal), reason);
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
    fn take(&mut self, context: &mut Context<'_>, packet: &[u8]) -> Option<Packet> {
        match self.receive(context, packet) {
            Ok(To::Us) => None,
            Ok(To::Stack(head)) => Some(head),
            Err(reason) => {
                context.drop(reason);
                None
            }
        }
    }

    /// Checks a packet that was opened; only then does a stack see it.
    fn receive(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Result<To, DropReason> {
        let (packet, to) = inner::check(context.filter, bytes)?;
        let is_stacked = context.filter.is_stacked(packet.source.is_ipv6());
        if is_stacked && !self.is_flow(context, &packet) {
            inner::note_read(context, &packet, bytes);
            return Ok(To::Stack(packet));
        }
        let (inner, mut seal) = self.inner();
        inner.receive(context, &mut seal, bytes, to)?;
        Ok(To::Us)
    }

    /// Whether a packet belongs to a flow of ours; beside a network stack, only an agent has any.
    fn is_flow(&self, context: &Context<'_>, packet: &Packet) -> bool {
        context.filter.end() == End::Agent && self.inner.has(Pair::of_peers(packet), packet.body)
    }

    /// Something came under the keys of a session: it is proven now.
    fn heard(&mut self, context: &mut Context<'_>) {
        let now = context.now.instant;
        if context.filter.end() == End::Connector && !self.session.is_established() {
            self.session.established(now);
            self.opened(context);
        }
        self.session.heard();
        self.repeat_unsealed(now);
    }

    /// There are keys: what was lost for want of them is sent again, without waiting for timers.
    fn repeat_unsealed(&mut self, now: Instant) {
        if self.noise.take_mute() {
            self.inner.rerouted(now);
        }
    }

    fn opened(&mut self, context: &mut Context<'_>) {
        if self.phase == Phase::Opening {
            self.phase = Phase::Open;
            for (flow, payload) in self.inner.take_early() {
                self.packet(context, flow, &payload);
            }
        }
    }

    /// The packet end, and what it sends through.
    const fn inner(&mut self) -> (&mut Inner, Seal<'_>) {
        let seal = Seal {
            noise: &mut self.noise,
            session: &mut self.session,
            fragments: &mut self.fragments,
        };
        (&mut self.inner, seal)
    }

    fn sealer<'a, 'b>(&'a mut self, context: &'a mut Context<'b>) -> Sealer<'a, 'b> {
        Sealer {
            noise: &mut self.noise,
            session: &mut self.session,
            context,
        }
    }
}

/// What datagrams begin with, relay's header and all, that [`WireGuard::datagrams`] takes together; `None`
/// where one is nothing that it takes.
pub(crate) fn session_front(datagram: &[u8]) -> Option<&[u8]> {
    let (_, sealed) = Handle::split_data(datagram)?;
    Noise::session_of(sealed)?;
    datagram.get(..DATA_HEADER_BYTES + noise::SESSION_BYTES)
}

/// Whom a packet is for that has passed.
enum To {
    /// Our own flows have it.
    Us,
    /// The local network stack.
    Stack(Packet),
}

#[cfg(test)]
mod tests;
