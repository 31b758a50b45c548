//! The QUIC carrier: TCP flows in streams, UDP payloads and whole packets in DATAGRAM frames.

mod config;
mod congestion;
mod datagrams;
mod flow;
mod flows;
mod parts;
mod pings;
pub mod wire;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use cardea_proto::app::Protocol;
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, DatagramEvent, Endpoint, EndpointEvent, Event,
    StreamEvent, VarInt,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use self::{
    congestion::Packets,
    datagrams::Datagrams,
    flows::Flows,
    parts::Parts,
    pings::Pings,
    wire::{PACKETS, Part, UdpName},
};
use crate::{
    bundle::Bundle,
    carrier::Phase,
    command::End,
    context::Context,
    drops::DropReason,
    filter::Permitted,
    inner::{self, Inner, Sink as _},
    input::{DialError, FlowId, Read},
    link::Rerouted,
    outbox::{CloseReason, Room, TRANSMIT_BYTES_MAX, TRANSMIT_SEGMENTS_MAX},
    udp::UdpFlows,
};

/// One QUIC tunnel: an endpoint that knows one connection.
pub(crate) struct Quic {
    phase: Phase,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    since: Instant,
    /// Pings on a way that is new, until one is answered.
    ping: Option<Pings>,
    flows: Flows,
    udp: UdpFlows<UdpName>,
    /// Connector: flows of an agent that sends packets, from the first of them on.
    inner: Option<Box<Inner>>,
    parts: Parts,
    packets_travel: Packets,
    next_udp: u32,
    next_datagram: u16,
    entropy: ChaCha20Rng,
    /// Where quinn puts packets before they get the relay's header.
    packets: Vec<u8>,
}

impl Quic {
    /// Agent: begins the handshake.
    pub(crate) fn connect(
        context: &mut Context<'_>,
        config: Arc<rustls::ClientConfig>,
        seed: [u8; 32],
    ) -> Option<Self> {
        let (seed, entropy) = divide(seed);
        let packets = Packets::default();
        let (mut endpoint, config) = config::client(config, (context.link, &packets), seed)?;
        let now = context.now.instant;
        let connection = endpoint.connect(now, config, PEER, SERVER_NAME).ok()?;
        Some(Self::with(
            now,
            endpoint,
            Some(connection),
            (packets, entropy),
        ))
    }

    /// Connector: waits for the handshake.
    pub(crate) fn listen(
        context: &mut Context<'_>,
        config: Arc<rustls::ServerConfig>,
        seed: [u8; 32],
    ) -> Option<Self> {
        let (seed, entropy) = divide(seed);
        let packets = Packets::default();
        let endpoint = config::server(config, (context.link, &packets), seed)?;
        let now = context.now.instant;
        Some(Self::with(now, endpoint, None, (packets, entropy)))
    }

    fn with(
        now: Instant,
        endpoint: Endpoint,
        connection: Option<(ConnectionHandle, Connection)>,
        (packets_travel, entropy): (Packets, ChaCha20Rng),
    ) -> Self {
        Self {
            phase: Phase::Opening,
            endpoint,
            connection,
            since: now,
            ping: None,
            flows: Flows::default(),
            udp: UdpFlows::default(),
            inner: None,
            parts: Parts::default(),
            packets_travel,
            next_udp: 0,
            next_datagram: 0,
            entropy,
            packets: Vec::new(),
        }
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        let (_, connection) = self.connection.as_ref()?;
        (self.phase == Phase::Open).then(|| connection.rtt())
    }

    /// Opens one datagram; says whether it was authentic.
    pub(crate) fn datagram(&mut self, context: &mut Context<'_>, sealed: &[u8]) -> bool {
        if is_unasked(sealed) {
            context.drop(DropReason::NotAuthentic);
            return false;
        }
        let now = context.now.instant;
        self.packets.clear();
        let event = self.endpoint.handle(
            now,
            PEER,
            None,
            None,
            BytesMut::from(sealed),
            &mut self.packets,
        );
        let before = self.authentic_packets();
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => match &mut self.connection {
                Some((own, connection)) if *own == handle => connection.handle_event(event),
                Some(_) | None => {}
            },
            Some(DatagramEvent::NewConnection(incoming)) => self.accept(now, incoming),
            // A stranger gets no answer: no version list, no reset, no refusal.
            Some(DatagramEvent::Response(_)) | None => {}
        }
        let authentic = self.authentic_packets() > before;
        if !authentic {
            context.drop(DropReason::NotAuthentic);
        }
        self.turn(context);
        authentic
    }

    pub(crate) fn timeout(&mut self, context: &mut Context<'_>) {
        let now = context.now.instant;
        if let Some((_, connection)) = &mut self.connection {
            connection.handle_timeout(now);
            let acks = connection.stats().frame_rx.acks;
            if Pings::poll(&mut self.ping, now, acks) {
                connection.ping();
            }
        }
        if self.end_of_opening().is_some_and(|at| now >= at) {
            self.phase = Phase::Dead(CloseReason::Lost);
        }
        self.udp.expire(context);
        if let Some(inner) = &mut self.inner {
            inner.timeout(context);
        }
        self.turn(context);
    }

    /// The tunnel's datagrams go another way, because the one before carries nothing: what answers a
    /// ping tells quinn which of them are lost (RFC 9002 §6.1), long before its doubled timer would.
    /// What it knew of the way before holds no more (RFC 9000 §9.4), the largest packet least of all: over
    /// IPv6 it is 20 bytes shorter, and quinn would lose several before it found that out. But by another
    /// relay it is the same way in all that counts, and a round trip that is unknown again would make the
    /// doubled timer a matter of seconds where so much is on its way that no ping may be sent.
    pub(crate) fn rerouted(&mut self, context: &Context<'_>, how: Rerouted) {
        if let Some((_, connection)) = &mut self.connection {
            if how == Rerouted::ByAnotherWay {
                connection.path_changed(context.now.instant);
            }
            connection.ping();
            let acks = connection.stats().frame_rx.acks;
            self.ping = Some(Pings::begin(context.now.instant, acks));
        }
        if let Some(inner) = &mut self.inner {
            inner.rerouted(context.now.instant);
        }
    }

    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        let connection = self.connection.as_mut();
        let timer = connection.and_then(|(_, connection)| connection.poll_timeout());
        let inner = self.inner.as_ref().and_then(|inner| inner.deadline());
        let ping = self.ping.as_ref().map(|pings| pings.at);
        [
            timer,
            self.udp.deadline(),
            inner,
            self.end_of_opening(),
            ping,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(crate) fn open_flow(&mut self, context: &mut Context<'_>, flow: FlowId, to: Permitted) {
        let service = to.service();
        match service.protocol {
            Protocol::Udp => {
                self.next_udp = self.next_udp.wrapping_add(1);
                let name = UdpName {
                    flow: self.next_udp,
                    port: service.port,
                };
                self.udp.open(context, flow, name);
            }
            Protocol::Tcp => {
                let connection = self.connection.as_mut();
                let connection = connection.map(|(_, connection)| connection);
                self.flows.open(context, connection, flow, service);
            }
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
        } else if let Some((inner, mut datagrams)) = self.inner_of(flow) {
            inner.dialed(context, &mut datagrams, flow, result);
        } else if let Some((_, connection)) = &mut self.connection {
            self.flows.dialed(context, connection, flow, result);
        }
    }

    pub(crate) fn finish(&mut self, context: &mut Context<'_>, flow: FlowId) {
        if self.udp.contains(flow) {
            self.udp.remove(context, flow);
        } else if let Some((inner, _)) = self.inner_of(flow) {
            inner.finish(context, flow);
        } else if let Some((_, connection)) = &mut self.connection {
            self.flows.finish(context, connection, flow);
        }
    }

    pub(crate) fn reset(&mut self, context: &mut Context<'_>, flow: FlowId) {
        if self.udp.contains(flow) {
            self.udp.remove(context, flow);
        } else if let Some((inner, mut datagrams)) = self.inner_of(flow) {
            inner.reset(context, &mut datagrams, flow);
        } else if let Some((_, connection)) = &mut self.connection {
            self.flows.reset(context, connection, flow);
        }
    }

    /// Sends a UDP payload, in parts when the path is too narrow; or keeps it while the tunnel opens.
    pub(crate) fn packet(&mut self, context: &mut Context<'_>, flow: FlowId, payload: &Bytes) {
        if self.phase == Phase::Opening {
            return self.udp.keep_early(context, flow, payload.clone());
        }
        if let Some((inner, mut datagrams)) = self.inner_of(flow) {
            return inner.packet(context, &mut datagrams, flow, payload);
        }
        let Some(name) = self.udp.send(context.now.instant, flow) else {
            return context.drop(DropReason::UnknownFlow);
        };
        let Some(mut datagrams) = self.datagrams() else {
            return;
        };
        if let Err(reason) = datagrams.queue(name, payload) {
            return context.drop(reason);
        }
        let len = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        context.traffic.written = context.traffic.written.saturating_add(len);
    }

    /// Sends a packet of the local network stack, or each of those that it stands for.
    pub(crate) fn bundle(&mut self, context: &mut Context<'_>, bundle: &mut Bundle<'_>) {
        let mut built = std::mem::take(&mut context.shared.built);
        if let Err(reason) = self.queue_bundle(context, bundle, &mut built) {
            context.drop(reason);
        }
        context.shared.built = built;
        // The local network stack has more at hand in one turn than may wait here.
        while self.datagrams().is_some_and(|mut way| way.is_full(context))
            && !context.is_full()
            && self.transmit(context)
        {}
    }

    fn queue_bundle(
        &mut self,
        context: &mut Context<'_>,
        bundle: &mut Bundle<'_>,
        built: &mut [u8],
    ) -> Result<(), DropReason> {
        if self.phase != Phase::Open {
            return Err(DropReason::NotOpen);
        }
        inner::check_bundle(context.filter, bundle)?;
        self.packets_travel.travel();
        let mut datagrams = self.datagrams().ok_or(DropReason::NotOpen)?;
        if bundle.longest() > datagrams::MTU.narrow {
            // What is longer goes in two parts, of which a path loses one as easily as the other.
            bundle.narrow(datagrams.mtu(context.link));
        }
        for index in 0..bundle.count() {
            let len = bundle.write_part(index, built);
            let packet = len.and_then(|len| built.get(..len));
            // When the queue is full, nothing leaves: the network stack beyond notices, and sends more slowly.
            datagrams.queue(PACKETS, packet.ok_or(DropReason::Malformed)?)?;
        }
        let len = u64::try_from(bundle.payload_len()).unwrap_or(u64::MAX);
        context.traffic.written = context.traffic.written.saturating_add(len);
        Ok(())
    }

    pub(crate) fn writable(&self, flow: FlowId) -> usize {
        match &self.inner {
            Some(inner) if inner.contains(flow) => inner.writable(flow),
            Some(_) | None => self.flows.writable(flow),
        }
    }

    pub(crate) fn write(&mut self, context: &mut Context<'_>, flow: FlowId, data: Bytes) -> usize {
        if let Some((inner, _)) = self.inner_of(flow) {
            return inner.write(context, flow, &data);
        }
        match &mut self.connection {
            Some((_, connection)) => self.flows.write(context, connection, flow, data),
            None => 0,
        }
    }

    pub(crate) fn read(&mut self, context: &mut Context<'_>, flow: FlowId, max: usize) -> Read {
        if let Some((inner, _)) = self.inner_of(flow) {
            return inner.read(context, flow, max);
        }
        match &mut self.connection {
            Some((_, connection)) => self.flows.read(context, connection, flow, max),
            None => Read::Blocked,
        }
    }

    /// Lets quinn send; says whether more waits for the next turn.
    pub(crate) fn flush(&mut self, context: &mut Context<'_>) -> bool {
        self.turn(context);
        loop {
            let more = self.flush_inner(context);
            while self.transmit(context) {
                if context.is_full() {
                    return true;
                }
            }
            // Else what is acknowledged makes room, and comes with a turn of its own.
            let goes_on = more
                && self
                    .datagrams()
                    .is_some_and(|mut way| !way.is_full(context));
            if !goes_on {
                break;
            }
        }
        self.endpoint_events();
        false
    }

    /// Lets flows that travel in packets send; says whether more waits.
    fn flush_inner(&mut self, context: &mut Context<'_>) -> bool {
        let Self {
            inner: Some(inner),
            connection: Some((_, connection)),
            next_datagram,
            ..
        } = self
        else {
            return false;
        };
        let mut datagrams = Datagrams {
            connection,
            sent: next_datagram,
        };
        datagrams.is_full(context) || inner.flush(context, &mut datagrams)
    }

    /// Ends every flow, and tells the peer once.
    pub(crate) fn close(&mut self, context: &mut Context<'_>, reason: CloseReason) {
        if let Some((_, connection)) = &mut self.connection {
            connection.close(context.now.instant, VarInt::from_u32(0), Bytes::new());
            self.transmit(context);
        }
        self.flows.close(context, reason);
        self.udp.close(context, reason);
        if let Some(inner) = &mut self.inner {
            // A reset would go behind what waits, and that must not leave any more.
            inner.close(context, None::<&mut Datagrams<'_>>, reason);
        }
    }

    fn datagrams(&mut self) -> Option<Datagrams<'_>> {
        let (_, connection) = self.connection.as_mut()?;
        Some(Datagrams {
            connection,
            sent: &mut self.next_datagram,
        })
    }

    /// The packet end with what it sends through, when a flow is one of its.
    fn inner_of(&mut self, flow: FlowId) -> Option<(&mut Inner, Datagrams<'_>)> {
        let inner = self.inner.as_deref_mut()?;
        let (_, connection) = self.connection.as_mut()?;
        let sent = &mut self.next_datagram;
        inner
            .contains(flow)
            .then_some((inner, Datagrams { connection, sent }))
    }

    /// Takes the peer's connection. Another takes its place only while nobody has proved anything.
    fn accept(&mut self, now: Instant, incoming: quinn_proto::Incoming) {
        let replaceable = match &self.connection {
            None => true,
            Some((_, connection)) => {
                let alone = now < self.since + HANDSHAKE_ALONE;
                connection.is_closed() || (connection.is_handshaking() && !alone)
            }
        };
        if !replaceable {
            return self.endpoint.ignore(incoming);
        }
        self.packets.clear();
        // What it would answer a connection that it refuses stays unsaid.
        if let Ok(connection) = self.endpoint.accept(incoming, now, &mut self.packets, None) {
            self.since = now;
            if let Some((handle, _)) = self.connection.replace(connection) {
                self.endpoint.handle_event(handle, EndpointEvent::drained());
            }
        }
    }

    /// Packets that opened under the connection's keys.
    fn authentic_packets(&self) -> u64 {
        self.connection.as_ref().map_or(0, |(_, connection)| {
            // Anything that carried a frame was opened first.
            let frames = connection.stats().frame_rx;
            let often = frames.acks + frames.stream + frames.datagram + frames.max_data;
            let seldom = frames.crypto + frames.ping + frames.max_stream_data;
            often + seldom + frames.reset_stream + frames.stop_sending + frames.connection_close
        })
    }

    /// Takes everything that quinn wants to tell.
    fn turn(&mut self, context: &mut Context<'_>) {
        self.endpoint_events();
        loop {
            let event = match &mut self.connection {
                Some((_, connection)) => connection.poll(),
                None => None,
            };
            match event {
                Some(event) => self.event(context, event),
                None => break,
            }
        }
        self.confirm(context);
    }

    fn event(&mut self, context: &mut Context<'_>, event: Event) {
        let Some((_, connection)) = &mut self.connection else {
            return;
        };
        match event {
            Event::HandshakeDataReady | Event::DatagramsUnblocked => {}
            Event::Connected => self.flows.open_waiting(context, connection),
            Event::ConnectionLost { reason } => self.lost(&reason),
            Event::DatagramReceived => self.receive(context),
            Event::Stream(StreamEvent::Available { .. }) => {
                self.flows.open_waiting(context, connection);
            }
            Event::Stream(StreamEvent::Opened { .. }) => self.flows.accept(context, connection),
            Event::Stream(StreamEvent::Readable { id }) => {
                self.flows.readable(context, connection, id);
            }
            Event::Stream(StreamEvent::Writable { id }) => {
                self.flows.writable_again(context, connection, id);
            }
            Event::Stream(StreamEvent::Finished { id }) => self.flows.delivered(context, id),
            Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                self.flows.stopped(context, connection, id, error_code);
            }
        }
    }

    /// Counts the tunnel as open once both ends have proved themselves.
    ///
    /// An agent's handshake is done before the connector has looked at its certificate: only what the
    /// connector sends after that, HANDSHAKE_DONE, shows that it accepts it (RFC 9001 §4.1.2).
    fn confirm(&mut self, context: &mut Context<'_>) {
        let Some((_, connection)) = &self.connection else {
            return;
        };
        if self.phase != Phase::Opening || connection.is_handshaking() || connection.is_closed() {
            return;
        }
        let confirmed = match context.filter.end() {
            End::Connector => true,
            End::Agent => connection.stats().frame_rx.handshake_done > 0,
        };
        if confirmed {
            self.phase = Phase::Open;
            for (flow, payload) in self.udp.take_early() {
                self.packet(context, flow, &payload);
            }
        }
    }

    fn lost(&mut self, reason: &ConnectionError) {
        tracing::debug!(%reason, "tunnel's connection is lost");
        let reason = match reason {
            ConnectionError::ApplicationClosed(_) => CloseReason::PeerClosed,
            ConnectionError::TransportError(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::VersionMismatch => CloseReason::PeerRefused,
            ConnectionError::TimedOut
            | ConnectionError::Reset
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => CloseReason::Lost,
        };
        // Somebody who could not prove himself to a connector does not end the tunnel of who can: his
        // connection stays until it has told him so, or another comes.
        if self.phase != Phase::Opening || !self.is_server() {
            self.phase = Phase::Dead(reason);
        }
    }

    fn is_server(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|(_, connection)| connection.side().is_server())
    }

    /// Takes DATAGRAM frames: whole, of a permitted service, then to their flow.
    fn receive(&mut self, context: &mut Context<'_>) {
        while let Some(frame) = self.frame() {
            let Some(part) = Part::parse(frame) else {
                context.drop(DropReason::Malformed);
                continue;
            };
            let name = part.name;
            if name == PACKETS {
                let whole = self.parts.join(part);
                let took = whole.map(|packet| self.receive_packet(context, &packet));
                if let Some(Err(reason)) = took {
                    context.drop(reason);
                }
                continue;
            }
            match context.filter.check(Protocol::Udp, name.port) {
                Ok(to) => {
                    if let Some(payload) = self.parts.join(part) {
                        self.udp.receive(context, name, to, payload);
                    }
                }
                Err(reason) => context.drop(reason),
            }
        }
    }

    fn frame(&mut self) -> Option<Bytes> {
        let (_, connection) = self.connection.as_mut()?;
        connection.datagrams().recv()
    }

    /// Checks a whole inner packet; only then does a stack see it.
    fn receive_packet(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let (packet, to) = inner::check(context.filter, bytes)?;
        self.packets_travel.travel();
        if context.filter.is_stacked(packet.source.is_ipv6()) {
            let room = context.out.packets.room().get_mut(..bytes.len());
            room.ok_or(DropReason::QueueFull)?.copy_from_slice(bytes);
            context
                .out
                .packets
                .keep(context.grant, packet, 0..bytes.len());
            context.out.packets.close_room();
            inner::note_read(context, &packet, bytes);
            return Ok(());
        }
        // An agent's own flows are streams.
        if context.filter.end() == End::Agent {
            return Err(DropReason::UnknownFlow);
        }
        let Some((_, connection)) = &mut self.connection else {
            return Ok(());
        };
        let entropy = &mut self.entropy;
        let inner = self
            .inner
            .get_or_insert_with(|| Box::new(Inner::new(context, datagrams::MTU, entropy)));
        let mut datagrams = Datagrams {
            connection,
            sent: &mut self.next_datagram,
        };
        inner.receive(context, &mut datagrams, bytes, to)
    }

    fn endpoint_events(&mut self) {
        let Some((handle, connection)) = &mut self.connection else {
            return;
        };
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
    }

    /// Produces one batch of datagrams; says whether there was one.
    fn transmit(&mut self, context: &mut Context<'_>) -> bool {
        let Some((_, connection)) = &mut self.connection else {
            return false;
        };
        let now = context.now.instant;
        let mtu = usize::from(connection.current_mtu());
        let count = (TRANSMIT_BYTES_MAX / (mtu + cardea_proto::relay::DATA_HEADER_BYTES))
            .clamp(1, TRANSMIT_SEGMENTS_MAX);
        self.packets.clear();
        let Some(transmit) = connection.poll_transmit(now, count, &mut self.packets) else {
            return false;
        };
        let packets = self.packets.get(..transmit.size).unwrap_or_default();
        for packet in packets.chunks(transmit.segment_size.unwrap_or(transmit.size).max(1)) {
            let room = Room::exact(packet.len());
            context.link.send(now, context.out, room, |room| {
                room.copy_from_slice(packet);
                Some(packet.len())
            });
        }
        true
    }

    /// When an agent stops waiting for its peer.
    fn end_of_opening(&self) -> Option<Instant> {
        let is_agent = self
            .connection
            .as_ref()
            .is_some_and(|(_, connection)| connection.side().is_client());
        (is_agent && self.phase == Phase::Opening).then_some(self.since + OPEN_TIMEOUT)
    }
}

impl fmt::Debug for Quic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quic")
            .field("phase", &self.phase)
            .field("flows", &self.flows)
            .finish_non_exhaustive()
    }
}

/// Whether a packet is one of those that prove nobody and that neither end of ours sends, but after which an
/// agent would give up or begin anew: a version negotiation or a retry.
///
/// Source: RFC 9000 §17.2.1, §17.2.5.
fn is_unasked(sealed: &[u8]) -> bool {
    match *sealed {
        [first, v0, v1, v2, v3, ..] if first & 0x80 != 0 => {
            [v0, v1, v2, v3] == [0; 4] || first & 0x30 == 0x30
        }
        _ => false,
    }
}

/// A seed for quinn, and entropy for what is ours.
fn divide(seed: [u8; 32]) -> ([u8; 32], ChaCha20Rng) {
    let mut entropy = ChaCha20Rng::from_seed(seed);
    let mut first = [0; 32];
    entropy.fill_bytes(&mut first);
    (first, entropy)
}

/// What a ClientHello names: the same for all, because it can be read on the way.
const SERVER_NAME: &str = "cardea.invalid";

/// Where quinn sees the other end, whichever way datagrams go: it would take another address for a
/// stranger or for a migration. Source: RFC 5737 keeps this one for documentation.
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);

/// How long an opening tunnel may take before it is called lost.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a handshake has a tunnel for itself before another may replace it.
const HANDSHAKE_ALONE: Duration = Duration::from_secs(1);
