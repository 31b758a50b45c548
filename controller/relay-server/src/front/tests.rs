//! A front with a real relay behind it, and everybody who may come.

use std::{net::Ipv4Addr, time::Duration};

use cardea_credential::{
    knock::{DoorChange, FrontKey, KnockKeys, Knocker, Stay, pass_keys, pass_label},
    ticket::TicketKey,
};
use cardea_host::{
    channel::{Caller, Gate},
    detour::{self, Frame, OpenError},
    entropy,
};
use cardea_proto::{
    codec::{Bytes, Digest, Secret32},
    id::{DeviceId, InviteId, NodeId},
    relay::{FrameKind, Handle, Side, TICKET_BYTES, Ticket},
    time::{ClockOffset, UnixMillis},
};
use cardea_relay::Settings;
use rustls::{ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};

use super::*;
use crate::{Running, Server};

const ROOT: Digest = Bytes([9; 32]);
const SEED: Secret32 = Secret32([1; 32]);

#[tokio::test]
async fn a_node_binds_at_the_relay_and_reaches_the_other_end_by_two_detours() {
    let stage = Stage::new(None);
    let mut ends = Vec::new();
    for side in [Side::Agent, Side::Connector] {
        let mut end = stage.end().await;
        let ticket = stage.ticket(side);
        end.send(&[&[FrameKind::Bind.byte()][..], &ticket].concat());
        let (handle, cookie) = Handle::of_challenge(&end.hear().await).unwrap();
        end.send(&cookie.proof(&ticket));
        assert_eq!(Handle::of_bound(&end.hear().await), Some(handle));
        ends.push((end, handle));
    }
    let [(near, here), (mut far, there)] = <[_; 2]>::try_from(ends).ok().unwrap();
    for size in [1, 1_200, 16_000] {
        near.send(&[&here.data_header()[..], &vec![7; size]].concat());
        let heard = far.hear().await;
        assert_eq!(
            Handle::split_data(&heard),
            Some((there, &vec![7; size][..]))
        );
    }
    // The port of a TCP connection is no address at which a datagram would arrive.
    let other = stage.end().await;
    other.send(&[&here.data_header()[..], &[8]].concat());
    near.send(&[&here.data_header()[..], &[9]].concat());
    let heard = far.hear().await;
    assert_eq!(Handle::split_data(&heard), Some((there, &[9][..])));
}

#[tokio::test]
async fn nobody_without_a_knock_hears_a_byte() {
    let stage = Stage::new(None);
    let others = KnockKeys::new(&Secret32([2; 32]), &ROOT);
    let wrong = others.knock(stage.now(), [1; 2]).label();
    let early = UnixMillis(stage.now().0 + 10 * 3_600_000);
    let early = keys().knock(early, [1; 2]).label();
    for first in [
        vec![],
        vec![0],
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
        vec![0x16; 100],
        // A record, and a handshake message, that are longer than any.
        [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 9_000]].concat(),
        [&[0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 9_000]].concat(),
        // An alert, and the answer to a hello.
        vec![0x15, 3, 1, 0, 2, 1, 0],
        vec![0x16, 3, 3, 0, 4, 2, 0, 0, 0],
        hello("203.0.113.1"),
        hello("www.corp.example"),
        hello("localhost"),
        hello(&format!("{wrong}.corp.example")),
        hello(&format!("{early}.corp.example")),
        hello(&format!("a{}.corp.example", stage.label())),
        hello(&format!("www.{}.corp.example", stage.label())),
    ] {
        let heard = stage.says_and_ends(&first).await;
        assert_eq!(heard, [], "{:02x?}", first.get(..40));
    }
}

#[tokio::test]
async fn a_first_flight_that_is_sent_again_is_not_answered_and_the_first_is() {
    let stage = Stage::new(None);
    let first = hello(&format!("{}.corp.example", stage.label()));
    let mut one = stage.connect().await;
    one.write_all(&first).await.unwrap();
    assert_eq!(one.read_u8().await.unwrap(), 0x16, "a handshake goes on");
    assert_eq!(stage.says_and_ends(&first).await, []);
    assert_eq!(stage.gate.knocks().replayed, 1);
}

#[tokio::test]
async fn a_pass_that_is_sent_again_is_not_answered_and_counted_where_all_knocks_are() {
    let node = NodeId::Device(DeviceId::from_bytes([1; 10]));
    for is_beside in [true, false] {
        let stage = match is_beside {
            true => Stage::new(None),
            false => Stage::elsewhere(),
        };
        let pass = front_key().pass(node, &[1], stage.now());
        let knock = pass_keys(&pass).knock(stage.now(), entropy::bytes());
        let first = hello(&format!("{}.corp.example", pass_label(&pass, &knock)));
        let mut one = stage.connect().await;
        one.write_all(&first).await.unwrap();
        assert_eq!(one.read_u8().await.unwrap(), 0x16, "a handshake goes on");
        for _ in 0..2 {
            assert_eq!(stage.says_and_ends(&first).await, []);
        }
        let knocks = stage.keeper.knocks();
        assert_eq!((knocks.opened, knocks.replayed), (1, 2), "{is_beside}");
        assert_eq!(stage.gate.knocks().replayed, if is_beside { 2 } else { 0 });
    }
}

#[tokio::test]
async fn half_a_hello_and_a_slow_one_hear_nothing_and_end_in_time() {
    let stage = Stage::new(None);
    let whole = hello(&format!("{}.corp.example", stage.label()));
    let begun = tokio::time::Instant::now();
    let mut silent = stage.connect().await;
    let mut half = stage.connect().await;
    half.write_all(&whole[..whole.len() / 2]).await.unwrap();
    let mut slow = stage.connect().await;
    let (mut reading, mut writing) = slow.split();
    let dripping = async {
        let mut drops = tokio::time::interval(Duration::from_millis(50));
        for byte in &whole {
            drops.tick().await;
            if writing.write_all(&[*byte]).await.is_err() {
                // It is over; who reads says what came of it.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        heard = rest(&mut reading) => assert_eq!(heard, []),
        () = dripping => panic!("the whole hello was waited for"),
    }
    assert_eq!(rest(&mut silent).await, []);
    assert_eq!(rest(&mut half).await, []);
    let took = begun.elapsed();
    assert!(
        took < TIME_BEFORE_TRUST + Duration::from_secs(2),
        "{took:?}"
    );
}

#[tokio::test]
async fn who_waits_for_a_front_hears_that_it_ended() {
    let local = (Ipv4Addr::LOCALHOST, 0).into();
    let tickets = TicketKey::from_seed(&[7; 32]).unwrap();
    let mut relay = Server::bind(local, tickets.public(), Settings::default()).unwrap();
    let detours = Detours::default();
    let targets = Targets {
        relay: relay.serve_behind(detours.clone()),
        controller: None,
    };
    let keeper = Keeper::new(front_key(), None);
    let mut front = Front::bind(local, keeper, None, (detours, targets)).unwrap();
    // No system lets anybody wait for a file.
    let file = tempfile::tempfile().unwrap();
    front.listener = std::os::fd::OwnedFd::from(file).into();
    let (ends, ended) = oneshot::channel::<()>();
    let running = front.spawn(ends).unwrap();
    assert!(
        ended.await.is_err(),
        "it ends of itself, and says nothing else"
    );
    drop(running);
}

#[tokio::test]
async fn one_address_that_holds_connections_open_keeps_nobody_else_out() {
    let stage = Stage::new(None);
    let mut held = Vec::new();
    for _ in 0..STRANGERS_PER_SOURCE_MAX {
        held.push(stage.connect_from([127, 0, 0, 2]).await);
    }
    let mut more = stage.connect_from([127, 0, 0, 2]).await;
    assert_eq!(rest(&mut more).await, [], "at once, not after five seconds");
    let mut end = stage.end().await;
    end.send(&[&[FrameKind::Bind.byte()][..], &stage.ticket(Side::Agent)].concat());
    assert!(Handle::of_challenge(&end.hear().await).is_some());
}

#[tokio::test]
async fn who_has_a_pass_reaches_the_one_controller_that_the_front_was_told_and_hears_it() {
    let controller = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let stage = Stage::before(Some(controller.local_addr().unwrap().to_string()), None);
    let node = NodeId::Device(DeviceId::from_bytes([1; 10]));
    let seed = Secret32([5; 32]);
    let with = |key: FrontKey| {
        let pass = key.pass(node, &[1], stage.now());
        Caller::new(&seed, &ROOT, ClockOffset::default()).with_pass(Some(pass))
    };
    let mut streams = Vec::new();
    for _ in 0..2 {
        let caller = with(front_key());
        streams.push(detour::open(&stage.address(), &caller, None).await.unwrap());
    }
    let mut sources = Vec::new();
    for (number, stream) in (0_u8..).zip(&mut streams) {
        let header = Aim::Controller.header(1).unwrap();
        stream
            .write(&[&header[..], &[number]].concat())
            .await
            .unwrap();
        let mut buffer = [0; 16];
        let (length, from) = controller.recv_from(&mut buffer).await.unwrap();
        assert_eq!(buffer[..length], [number]);
        sources.push(from);
    }
    for (from, stream) in sources.iter().zip(&mut streams) {
        controller.send_to(&[7, 8], from).await.unwrap();
        let heard: [u8; 5] = stream.read_exact().await.unwrap();
        let header = Aim::Controller.header(2).unwrap();
        assert_eq!(heard, *[&header[..], &[7, 8]].concat());
    }
    let other = with(FrontKey::new(Secret32([6; 32])));
    assert!(detour::open(&stage.address(), &other, None).await.is_err());
}

#[tokio::test]
async fn a_peer_that_stops_speaking_in_frames_is_cut_off_and_forgotten() {
    let stage = Stage::new(None);
    let mut stream = detour::open(&stage.address(), &caller(), None)
        .await
        .unwrap();
    stream.write(&[0, 1, 9, 0]).await.unwrap();
    let mut buffer = [0; 16];
    assert!(!matches!(stream.read(&mut buffer).await, Ok(1..)));
    while !stage.detours.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn somebody_between_who_takes_the_knock_and_passes_the_proof_on_is_found_out() {
    let stage = Stage::new(None);
    let pretender = Pretender::new(stage.front).await;
    let opened = detour::open(&pretender.0, &caller(), None).await;
    assert!(matches!(opened, Err(OpenError::Impostor)), "{opened:?}");
}

#[tokio::test]
async fn a_decoy_shows_strangers_its_page_and_friends_the_way() {
    let made = rcgen::generate_simple_self_signed(vec!["www.corp.example".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let page = Some("<p>bakery</p>".to_owned());
    let stage = Stage::new(Some(Decoy::new(&certificate, &key, page).unwrap()));
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
        (
            "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\n",
        ),
    ] {
        let mut stream = stage.browse("www.corp.example").await;
        stream.write(request.as_bytes()).await.unwrap();
        let mut page = Vec::new();
        let mut buffer = [0; 1_024];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            page.extend_from_slice(&buffer[..count]);
        }
        let page = String::from_utf8(page).unwrap();
        assert!(page.starts_with(expected), "{page}");
        assert_eq!(page.ends_with("<p>bakery</p>"), expected.contains("200"));
    }
    let mut long = stage.browse("www.corp.example").await;
    drop(long.write(&[b'a'; 20_000]).await);
    assert!(!matches!(long.read(&mut [0; 16]).await, Ok(1..)));
    assert_eq!(stage.says_and_ends(b"GET / HTTP/1.1\r\n\r\n").await, []);
    stage.end().await;
    assert!(Decoy::new(&certificate, &certificate, None).is_err());
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    assert!(Decoy::new(&certificate, &other, None).is_err());
}

/// A front, its relay, and who may knock.
struct Stage {
    front: SocketAddr,
    gate: Gate,
    keeper: Keeper,
    detours: Detours,
    tickets: TicketKey,
    _front: RunningFront,
    _relay: Running,
}

impl Stage {
    fn new(decoy: Option<Decoy>) -> Self {
        Self::before(None, decoy)
    }

    /// A front that leads to a controller elsewhere.
    fn before(controller: Option<String>, decoy: Option<Decoy>) -> Self {
        Self::kept(true, controller, decoy)
    }

    /// A front with no controller's door beside it.
    fn elsewhere() -> Self {
        Self::kept(false, None, None)
    }

    fn kept(has_gate: bool, controller: Option<String>, decoy: Option<Decoy>) -> Self {
        let tickets = TicketKey::from_seed(&[7; 32]).unwrap();
        let local = (Ipv4Addr::LOCALHOST, 0).into();
        let mut relay = Server::bind(local, tickets.public(), Settings::default()).unwrap();
        let detours = Detours::default();
        let targets = Targets {
            relay: relay.serve_behind(detours.clone()),
            controller: controller.map(Controller::At),
        };
        let gate = Gate::new(ROOT);
        gate.change([admit(SEED)]);
        let keeper = Keeper::new(front_key(), has_gate.then(|| gate.clone()));
        let front = Front::bind(local, keeper.clone(), decoy, (detours.clone(), targets)).unwrap();
        Self {
            front: front.local_address(),
            gate,
            keeper,
            detours,
            tickets,
            _front: front.spawn(()).unwrap(),
            _relay: relay.spawn(()).unwrap(),
        }
    }

    fn address(&self) -> String {
        self.front.to_string()
    }

    fn now(&self) -> UnixMillis {
        Clock::system().now().unix
    }

    /// A knock of this moment.
    fn label(&self) -> String {
        keys().knock(self.now(), entropy::bytes()).label()
    }

    fn ticket(&self, side: Side) -> [u8; TICKET_BYTES] {
        let handle = match side {
            Side::Agent => [1; 7],
            Side::Connector => [2; 7],
        };
        let ticket = Ticket {
            tunnel: Bytes([3; 16]),
            side,
            handle: Handle::from_bytes(handle),
            not_after: UnixMillis(self.now().0 + 60_000),
        };
        self.tickets.sign(&ticket).unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.front).await.unwrap()
    }

    async fn connect_from(&self, ip: [u8; 4]) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::from(ip), 0).into()).unwrap();
        socket.connect(self.front).await.unwrap()
    }

    /// All that is heard after these bytes, and nothing more.
    async fn says_and_ends(&self, bytes: &[u8]) -> Vec<u8> {
        let mut tcp = self.connect().await;
        // It may have been cut off before all was said.
        drop(tcp.write_all(bytes).await);
        drop(tcp.shutdown().await);
        rest(&mut tcp).await
    }

    /// A node's detour.
    async fn end(&self) -> End {
        let stream = detour::open(&self.address(), &caller(), None)
            .await
            .unwrap();
        let (sender, outgoing) = mpsc::channel(16);
        let (deliver, heard) = mpsc::channel(16);
        tokio::spawn(stream.carry(outgoing, IDLE, move |aim, datagram| {
            assert_eq!(aim, Aim::Relay);
            deliver.try_send(datagram.to_vec()).unwrap();
        }));
        End { sender, heard }
    }

    /// What a browser has.
    async fn browse(&self, name: &'static str) -> TlsStream {
        let tls = ClientConnection::new(
            Arc::new(tls::front_client(Arc::new(Clock::system()))),
            ServerName::try_from(name).unwrap(),
        );
        let mut stream = TlsStream::new(self.connect().await, tls.unwrap());
        stream.shake_hands().await.unwrap();
        stream
    }
}

struct End {
    sender: mpsc::Sender<Frame>,
    heard: mpsc::Receiver<Vec<u8>>,
}

impl End {
    fn send(&self, datagram: &[u8]) {
        self.sender
            .try_send(Frame::new(Aim::Relay, datagram))
            .unwrap();
    }

    async fn hear(&mut self) -> Vec<u8> {
        self.heard.recv().await.unwrap()
    }
}

/// Somebody in between: TLS to both sides, and every byte passed on.
struct Pretender(String);

impl Pretender {
    async fn new(front: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let hello = hello::read(&tcp).await.unwrap().unwrap();
            let name = hello.client_hello().server_name().unwrap().to_owned();
            let ours = tls::front_server(Arc::new(Clock::system())).unwrap();
            let mut near = begin(hello, tcp, &ours).unwrap();
            near.shake_hands().await.unwrap();
            let tls = Arc::new(tls::front_client(Arc::new(Clock::system())));
            let name = ServerName::try_from(name).unwrap();
            let tcp = TcpStream::connect(front).await.unwrap();
            let mut far = TlsStream::new(tcp, ClientConnection::new(tls, name).unwrap());
            far.shake_hands().await.unwrap();
            let proof: [u8; 32] = far.read_exact().await.unwrap();
            near.write(&proof).await.unwrap();
            near.read(&mut [0; 1]).await
        });
        Self(address)
    }
}

fn keys() -> KnockKeys {
    KnockKeys::new(&SEED, &ROOT)
}

fn front_key() -> FrontKey {
    FrontKey::new(Secret32([4; 32]))
}

fn caller() -> Caller {
    Caller::new(&SEED, &ROOT, ClockOffset::default())
}

fn admit(seed: Secret32) -> DoorChange {
    DoorChange::Admit {
        who: Knocker::Invite(InviteId::from_bytes([1; 10])),
        seeds: vec![seed],
        stay: Stay::Until(UnixMillis(u64::MAX)),
    }
}

/// The first flight of a client that asks for this server.
fn hello(name: &str) -> Vec<u8> {
    let tls = Arc::new(tls::front_client(Arc::new(Clock::system())));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut bytes = Vec::new();
    ClientConnection::new(tls, name)
        .unwrap()
        .write_tls(&mut bytes)
        .unwrap();
    bytes
}

/// All bytes until the end, which may be a reset.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes).await);
    bytes
}
