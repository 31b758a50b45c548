//! How our two ends speak QUIC: limits, windows and timers.

use std::{sync::Arc, time::Duration};

use quinn_proto::{
    ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig,
    VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use super::congestion::Packets;
use crate::link::Link;

/// An endpoint for one tunnel, and how to connect with it.
pub(super) fn client(
    config: Arc<rustls::ClientConfig>,
    (link, packets): (&Link, &Packets),
    seed: [u8; 32],
) -> Option<(Endpoint, ClientConfig)> {
    let crypto = QuicClientConfig::try_from(config).ok()?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(transport(0, link, packets)));
    Some((
        Endpoint::new(Arc::new(endpoint(seed)?), None, true, None),
        client,
    ))
}

/// An endpoint for one tunnel that waits for its peer.
pub(super) fn server(
    config: Arc<rustls::ServerConfig>,
    (link, packets): (&Link, &Packets),
    seed: [u8; 32],
) -> Option<Endpoint> {
    let crypto = QuicServerConfig::try_from(config).ok()?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::new(transport(STREAMS_MIN, link, packets)))
        .migration(false)
        .max_incoming(1)
        .incoming_buffer_size(u64::from(INCOMING_BYTES_MAX))
        .incoming_buffer_size_total(u64::from(INCOMING_BYTES_MAX));
    let endpoint = Arc::new(endpoint(seed)?);
    Some(Endpoint::new(endpoint, Some(Arc::new(server)), true, None))
}

fn endpoint(seed: [u8; 32]) -> Option<EndpointConfig> {
    let mut endpoint = EndpointConfig::default();
    endpoint.rng_seed(Some(seed));
    endpoint.max_udp_payload_size(MTU_MAX).ok()?;
    // Statements about paths begin with a byte without the fixed bit (RFC 9287 would clear it).
    endpoint.grease_quic_bit(false);
    Some(endpoint)
}

fn transport(streams: u32, link: &Link, packets: &Packets) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    let (upper, step) = if link.is_local() {
        (MTU_MAX, MTU_STEP_LOCAL)
    } else {
        (MTU_MAX_PATH, MTU_STEP_MIN)
    };
    discovery.minimum_change(step).upper_bound(upper);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(TUNNEL_WINDOW))
        .send_window(u64::from(SEND_WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .max_idle_timeout(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .packet_threshold(REORDERED_PACKETS)
        .time_threshold(REORDERED_TIME)
        .congestion_controller_factory(Arc::new(packets.clone()))
        .mtu_discovery_config(Some(discovery));
    transport
}

/// Streams that an agent may open at first. quinn allocates each allowed stream, so that idle
/// tunnels would pay for more; the connector allows more as they are used.
pub(super) const STREAMS_MIN: u32 = 16;

/// Streams that an agent may have open at once.
pub(super) const STREAMS_MAX: u32 = 1_024;

/// Unread bytes of one flow: what may be on its way, and what a stopped reader costs.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// Unread bytes of one tunnel, so that many stopped readers cost no more than this.
const TUNNEL_WINDOW: u32 = 64 * 1024 * 1024;

/// Bytes that one tunnel keeps until its peer has them.
const SEND_WINDOW: u32 = 8 * 1024 * 1024;

/// UDP payloads of one tunnel that wait either way, in bytes.
pub(super) const DATAGRAM_BUFFER: usize = 1024 * 1024;

/// How often an idle tunnel shows that it lives.
///
/// That nothing answers ends no tunnel before its grant does, because the peer may be asleep: there is no
/// idle timeout (RFC 9000 §10.1), and what is sent shows within two seconds that the other end is silent.
const KEEP_ALIVE: Duration = Duration::from_secs(9);

/// What the round trip is taken for until it is known.
///
/// A lost first datagram is repeated after three of these; RFC 9002's 333 ms would cost a person a
/// second for each one lost.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Largest QUIC packet, tried when the relay is on this machine, whose loopback carries more.
///
/// Bulk gains little beyond this, while each tunnel tries sizes up to it when it opens: with the
/// 65,507 bytes that loopback carries, a thousand tunnels that open at once filled every socket
/// buffer on their way with 600 MB of probes, and each handshake that lost a datagram to them waited
/// for its timer.
const MTU_MAX: u16 = 16 * 1024 - 8;

/// The search for the largest packet ends when it could gain less than this, in bytes.
const MTU_STEP_MIN: u16 = 128;

/// The same up to [`MTU_MAX`]: the last steps cost more than they gain.
const MTU_STEP_LOCAL: u16 = 2_048;

/// Largest QUIC packet that is tried on any other path: it fills Ethernet's 1,500 bytes over IPv4.
///
/// A larger bound makes larger probes, and one that is lost fills the first congestion window: it then
/// holds back for 25 ms what a person waits for.
const MTU_MAX_PATH: u16 = 1_500 - 20 - 8 - 8;

/// How many later packets may overtake one before it counts as lost.
///
/// RFC 9002 §6.1.1 recommends three, which turns a path that reorders a little (a second queue in a
/// network card, a wireless link) into one that seems to lose a tenth: with 5 ms of jitter, 1 MB takes 5.5 s instead of 0.9 s. Fewer acknowledgments (the
/// ACK_FREQUENCY extension) have the same effect and are not asked for.
const REORDERED_PACKETS: u32 = 24;

/// The same in round trips (RFC 9002 §6.1.2 recommends 9/8).
const REORDERED_TIME: f32 = 1.25;

/// Bytes of a handshake that may wait: its first flight has two datagrams.
const INCOMING_BYTES_MAX: u32 = 16 * 1024;
