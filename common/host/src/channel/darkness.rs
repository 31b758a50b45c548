//! What a stranger can make a server or a client send: nothing, in any phase.
//!
//! Each test sends what QUIC by itself would answer, and fails when the guard against that is taken
//! out. That the server has seen it is known from its count of dropped datagrams, not from waiting.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use cardea_credential::knock::CONNECTION_ID_BYTES;
use cardea_proto::{
    codec::{Bytes, Secret32},
    message::FromNode,
    time::ClockOffset,
};
use quinn::ConnectionId;
use tokio::net::UdpSocket;

use crate::places::Places;

use super::{
    tests::{TIME, accepted, caller, client_tls, closed, connect, gate, server_tls},
    *,
};

/// Versions that are not ours: none, drafts, version 2, and one that only provokes.
const VERSIONS: [u32; 5] = [0, 2, 0xff00_001d, 0x6b33_43cf, 0x0a0a_0a0a];

#[tokio::test]
async fn garbage_of_every_size_is_dropped_in_silence() {
    let stage = Stage::new().await;
    for size in 1..=1_500 {
        for first in [0x00, 0x40, 0x80, 0xc0, 0xff] {
            let mut datagram = vec![first; size];
            if let Some(version) = datagram.get_mut(1..5) {
                version.copy_from_slice(&1_u32.to_be_bytes());
            }
            stage.say(&datagram).await;
        }
    }
    stage.stranger.send(&[]).await.unwrap();
    stage.hears_nothing().await;
}

#[tokio::test]
async fn no_version_is_negotiated() {
    let stage = Stage::new().await;
    for version in VERSIONS {
        for id in [8, 16, 20] {
            stage.say(&long(0xc0, version, &vec![7; id], &[])).await;
        }
    }
    stage.hears_nothing().await;
}

#[tokio::test]
async fn no_first_packet_is_closed_for_the_length_of_its_id_or_for_its_token() {
    let stage = Stage::new().await;
    for id in 0..=20 {
        for token in [&[][..], &[7], &[7; 16], &[7; 63]] {
            stage.say(&long(0xc0, 1, &vec![7; id], token)).await;
        }
    }
    for kind in [0xd0, 0xe0, 0xf0] {
        stage.say(&long(kind, 1, &[7; 16], &[])).await;
        stage.say(&long(kind, 1, &[7; 20], &[])).await;
    }
    stage.hears_nothing().await;
}

#[tokio::test]
async fn a_whole_handshake_that_begins_without_a_knock_is_dropped_in_silence() {
    let stage = Stage::new().await;
    let other_seed = Caller::new(&Secret32([2; 32]), &Bytes([9; 32]), ClockOffset::default());
    let other_domain = Caller::new(&Secret32([1; 32]), &Bytes([8; 32]), ClockOffset::default());
    let ids: [ConnectionId; 4] = [
        other_seed.knock(),
        other_domain.knock(),
        ConnectionId::new(&[7; 8]),
        ConnectionId::new(&[7; 16]),
    ];
    let mut kept = Vec::new();
    for id in ids {
        let tap = Tap::new(stage.server.local_address(), false).await;
        let before = stage.server.dropped();
        // Whoever gives up says so, which would count as well.
        kept.push(begin(tap.address, id));
        stage.dropped(before + 2).await;
        assert_eq!(tap.answers(), 0);
    }
    assert_eq!(stage.gate.knocks().unknown, 4);
}

#[tokio::test]
async fn whoever_knocks_rightly_and_finds_no_place_hears_nothing() {
    let gate = gate();
    let places = Places::new(4, 1);
    let here = (Ipv4Addr::LOCALHOST, 0).into();
    let server = Server::bind_with(here, server_tls(), gate.clone(), places.clone()).unwrap();
    let held = places.take(here).unwrap();
    let tap = Tap::new(server.local_address(), false).await;
    let (_waits, mut waiting) = begin(tap.address, caller().knock());
    while gate.knocks().opened == 0 {
        tokio::task::yield_now().await;
    }
    // Who comes from elsewhere is served, and by then it was the other one's turn.
    let from = Ipv4Addr::new(127, 0, 0, 2);
    let (_other, other) = begin_at(from, server.local_address(), caller().knock());
    assert!(other.await.is_ok());
    assert_eq!(tap.answers(), 0);
    // It was not refused either: with a place it is let in.
    drop(held);
    assert!((&mut waiting).await.is_ok());
}

#[tokio::test]
async fn no_packet_to_an_id_that_was_never_issued_is_reset() {
    let stage = Stage::new().await;
    for fill in 0..=255 {
        let mut datagram = [fill; 60];
        datagram[0] = 0x40;
        stage.say(&datagram).await;
    }
    stage.hears_nothing().await;
}

#[tokio::test]
async fn a_first_flight_that_is_sent_again_from_elsewhere_is_dropped_and_harms_nobody() {
    let mut stage = Stage::new().await;
    let tap = Tap::new(stage.server.local_address(), false).await;
    let tls = client_tls(cardea_proto::ALPN_CHANNEL);
    let mut client = Client::connect(tap.address, tls, &caller(), TIME)
        .await
        .unwrap();
    let flight: Vec<Vec<u8>> = tap.seen().into_iter().filter(|one| is_first(one)).collect();
    assert!(
        flight.len() >= 2,
        "a hybrid ClientHello spans two datagrams"
    );
    for datagram in &flight {
        stage.say(datagram).await;
    }
    assert!(stage.gate.knocks().replayed >= 2);
    client.link.sender.send(&closed(1)).unwrap();
    let mut far = accepted(&mut stage.server).await.link;
    assert_eq!(far.receiver.receive().await.unwrap(), Some(closed(1)));
    far.sender.send(&closed(2)).unwrap();
    assert_eq!(
        client.link.receiver.receive().await.unwrap(),
        Some(closed(2))
    );
    stage.hears_nothing().await;
}

#[tokio::test]
async fn ids_that_were_seen_on_the_wire_earn_no_answer_in_any_phase() {
    let mut stage = Stage::new().await;
    let tap = Tap::new(stage.server.local_address(), false).await;
    let tls = client_tls(cardea_proto::ALPN_CHANNEL);
    let client = Client::connect(tap.address, tls, &caller(), TIME)
        .await
        .unwrap();
    client.link.sender.send(&closed(1)).unwrap();
    let mut far = accepted(&mut stage.server).await.link;
    assert_eq!(far.receiver.receive().await.unwrap(), Some(closed(1)));
    let seen: Vec<Vec<u8>> = tap
        .seen()
        .into_iter()
        .filter(|one| !is_first(one))
        .collect();
    let short: Vec<&Vec<u8>> = seen.iter().filter(|one| one[0] & 0x80 == 0).collect();
    let id = ConnectionId::new(&short[0][1..=CONNECTION_ID_BYTES]);
    for phase in ["up", "closing", "over"] {
        match phase {
            "up" => {}
            "closing" => client.link.sender.close(CloseCode::Done, ""),
            _ => {
                drop(far.receiver.receive::<FromNode>().await);
                stage.server.idle().await;
            }
        }
        for datagram in &seen {
            stage.stranger.send(datagram).await.unwrap();
        }
        // As a new connection's first id, in a handshake that is right in every other way.
        let other = Tap::new(stage.server.local_address(), false).await;
        let before = stage.server.dropped();
        let (_endpoint, connecting) = begin(other.address, id);
        stage.dropped(before + 2).await;
        assert_eq!(other.answers(), 0, "{phase}");
        drop(connecting);
        stage.hears_nothing().await;
    }
}

#[tokio::test]
async fn a_server_that_has_closed_refuses_nobody() {
    let stage = Stage::new().await;
    stage.server.close("leaving").await;
    let tls = client_tls(cardea_proto::ALPN_CHANNEL);
    let time = Duration::from_millis(200);
    let result = Client::connect(stage.server.local_address(), tls, &caller(), time).await;
    assert!(
        matches!(result, Err(ChannelError::NoAnswer(_))),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_client_resets_nothing() {
    let fake = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let to = fake.local_addr().unwrap();
    let tls = client_tls(cardea_proto::ALPN_CHANNEL);
    let connecting = tokio::spawn(async move { Client::connect(to, tls, &caller(), TIME).await });
    let mut buffer = [0; 2_048];
    let (_, client) = fake.recv_from(&mut buffer).await.unwrap();
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for socket in [&fake, &stranger] {
        for datagram in [
            long(0xc0, 1, &[7; 20], &[]),
            long(0xc0, 1, &[7; 16], &[]),
            long(0xc0, 2, &[7; 16], &[]),
            vec![0x40; 1_200],
        ] {
            // The kernel may say that nobody listens, which is what it says of any port.
            drop(socket.send_to(&datagram, client).await);
        }
    }
    // The rest of its flight, and all of it again a second later: what came in between was read.
    for _ in 0..3 {
        let (length, from) = fake.recv_from(&mut buffer).await.unwrap();
        assert_eq!(from, client);
        assert!(is_first(&buffer[..length]), "{:02x?}", &buffer[..20]);
    }
    assert!(stranger.try_recv(&mut buffer).is_err());
    connecting.abort();
}

#[tokio::test]
async fn a_client_connects_whatever_the_order_of_its_first_two_datagrams() {
    let mut stage = Stage::new().await;
    let tap = Tap::new(stage.server.local_address(), true).await;
    let tls = client_tls(cardea_proto::ALPN_CHANNEL);
    let client = Client::connect(tap.address, tls, &caller(), TIME)
        .await
        .unwrap();
    client.link.sender.send(&closed(1)).unwrap();
    let mut far = accepted(&mut stage.server).await.link;
    assert_eq!(far.receiver.receive().await.unwrap(), Some(closed(1)));
    let knocks = stage.gate.knocks();
    assert_eq!((knocks.opened, knocks.replayed), (1, 0));
}

#[tokio::test]
async fn a_caller_whose_clock_is_an_hour_off_connects_and_one_of_hours_does_once_it_knows() {
    let stage = Stage::new().await;
    let (root, seed) = (Bytes([9; 32]), Secret32([1; 32]));
    let ours = crate::clock::Clock::system().now().unix;
    let to = stage.server.local_address();
    let connect = |minutes: u64| {
        let theirs = ours.plus(Duration::from_secs(minutes * 60));
        let caller = Caller::new(&seed, &root, ClockOffset::between(ours, theirs));
        let tls = client_tls(cardea_proto::ALPN_CHANNEL);
        async move { Client::connect(to, tls, &caller, TIME).await }
    };
    assert!(connect(60).await.is_ok());
    assert_eq!(stage.gate.knocks().early, 0);
    let connecting = tokio::spawn(connect(120));
    // Both datagrams of its first flight; what follows a second later is no answer either.
    while stage.gate.knocks().early < 2 {
        assert!(!connecting.is_finished());
        tokio::task::yield_now().await;
    }
    assert!(!connecting.is_finished());
    connecting.abort();
}

/// A server, and a stranger to it.
struct Stage {
    server: Server,
    gate: Gate,
    stranger: UdpSocket,
}

impl Stage {
    async fn new() -> Self {
        let gate = gate();
        let server =
            Server::bind((Ipv4Addr::LOCALHOST, 0).into(), server_tls(), gate.clone()).unwrap();
        server.without_sieve().unwrap();
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        stranger.connect(server.local_address()).await.unwrap();
        Self {
            server,
            gate,
            stranger,
        }
    }

    /// The stranger sends what must be dropped; returns when it was.
    async fn say(&self, datagram: &[u8]) {
        let before = self.server.dropped();
        self.stranger.send(datagram).await.unwrap();
        self.dropped(before + 1).await;
    }

    /// Waits until so many datagrams were dropped.
    async fn dropped(&self, count: u64) {
        let wait = async {
            while self.server.dropped() < count {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(TIME, wait).await;
        assert!(
            waited.is_ok(),
            "{} of {count} dropped",
            self.server.dropped()
        );
    }

    /// Nothing came back, although the server goes on serving.
    async fn hears_nothing(&self) {
        let connected = connect(&self.server, client_tls(cardea_proto::ALPN_CHANNEL)).await;
        assert!(connected.is_ok(), "{connected:?}");
        let mut buffer = [0; 2_048];
        let heard = self.stranger.try_recv(&mut buffer);
        assert!(heard.is_err(), "{:02x?}", &buffer[..heard.unwrap_or(0)]);
    }
}

/// Somebody on the path: forwards both ways and keeps what the client says.
struct Tap {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    answers: Arc<AtomicUsize>,
}

impl Tap {
    /// `swaps` the first two datagrams.
    async fn new(server: SocketAddr, swaps: bool) -> Self {
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        far.connect(server).await.unwrap();
        let this = Self {
            address: near.local_addr().unwrap(),
            seen: Arc::default(),
            answers: Arc::default(),
        };
        let (seen, answers) = (Arc::clone(&this.seen), Arc::clone(&this.answers));
        tokio::spawn(forward(near, far, swaps, seen, answers));
        this
    }

    fn seen(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().clone()
    }

    fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }
}

async fn forward(
    near: UdpSocket,
    far: UdpSocket,
    swaps: bool,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    answers: Arc<AtomicUsize>,
) {
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut client = None;
    let mut held = None;
    loop {
        tokio::select! {
            received = near.recv_from(&mut up) => {
                let Ok((length, from)) = received else { return };
                client = Some(from);
                let datagram = up[..length].to_vec();
                let count = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(datagram.clone());
                    seen.len()
                };
                if swaps && count == 1 {
                    held = Some(datagram);
                    continue;
                }
                drop(far.send(&datagram).await);
                if let Some(held) = held.take() {
                    drop(far.send(&held).await);
                }
            }
            received = far.recv(&mut down) => {
                let Ok(length) = received else { continue };
                answers.fetch_add(1, Ordering::Relaxed);
                if let Some(client) = client {
                    drop(near.send_to(&down[..length], client).await);
                }
            }
        }
    }
}

/// A QUIC client as anybody has one, that begins with this id.
fn begin(to: SocketAddr, id: ConnectionId) -> (quinn::Endpoint, quinn::Connecting) {
    begin_at(Ipv4Addr::LOCALHOST, to, id)
}

/// The same from this address.
fn begin_at(
    from: Ipv4Addr,
    to: SocketAddr,
    id: ConnectionId,
) -> (quinn::Endpoint, quinn::Connecting) {
    let tls = client_tls(cardea_proto::ALPN_CHANNEL);
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.initial_dst_cid_provider(Arc::new(move || id));
    let endpoint = quinn::Endpoint::client((from, 0).into()).unwrap();
    let connecting = endpoint.connect_with(config, to, "test").unwrap();
    (endpoint, connecting)
}

/// A packet with a long header, as large as a first one must be.
fn long(first: u8, version: u32, id: &[u8], token: &[u8]) -> Vec<u8> {
    let version = version.to_be_bytes();
    let length = |bytes: &[u8]| [u8::try_from(bytes.len()).unwrap()];
    // The rest of the datagram is the packet: 1,150 bytes, as a variable-length integer.
    let head = [
        &[first][..],
        &version,
        &length(id),
        id,
        &[0],
        &length(token),
        token,
        &[0x44, 0x7e],
    ]
    .concat();
    [&head[..], &[0x5a; 1_150]].concat()
}

/// Whether a datagram goes to a knock.
fn is_first(datagram: &[u8]) -> bool {
    datagram[0] & 0xb0 == 0x80 && datagram[5] == 20
}
