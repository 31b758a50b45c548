//! One function for each of the decoders that a stranger, a peer or a disk can reach (which have none,
//! the README of `tests/fuzz` says): it takes any bytes, and panics when a promise does not hold.
//!
//! The fuzzers of `tests/fuzz` call them with what they make up, and `cargo test` with the corpus
//! that they left behind.
#![forbid(unsafe_code)]

mod certificates;
mod datagrams;
mod journal;
mod passes;

use std::{
    fmt::Debug,
    net::Ipv4Addr,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use cardea_credential::{knock::Knock, pem, ticket::TicketKey};
use cardea_daemon::data::socks::{self, Heard, Stage};
use cardea_host::{
    channel::{Filter, Gate},
    clock::Clock,
    detour::Proxy,
    frame,
    resolv_conf::{self, Said},
};
use cardea_ledger::{
    checkpoint::Verifier,
    seal::{DataKey, Wrapped},
    segment::{self, HEADER_BYTES, Next, Reader},
    wide,
};
use cardea_node::names::{self, AppAddresses, Names};
use cardea_proto::{
    admin::{AdminAnswer, AdminHello, AdminRequest, ChangeOrder},
    app::Protocol,
    codec::{self, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX_ADMIN, MESSAGE_BYTES_MAX_STRANGER},
    detour::{Aim, DATAGRAM_BYTES_MAX, FrameError, Frames},
    enroll::{EnrollAnswer, EnrollRequest},
    invite::InviteCode,
    local::{LocalAnswer, LocalRequest},
    message::{FromNode, ToNode},
    path::{CANDIDATES_MAX, PathFrame},
    relay::{CHALLENGE_BYTES, Handle},
};
use cardea_relay::{Relay, Settings, Verdict};
use cardea_store::Snapshot;
use cardea_tunnel::{
    Bundle, bundle,
    fragments::{Fragment, Fragments},
    packet::Packet,
    wire,
};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// Takes any bytes, and panics when a promise does not hold.
pub type Feed = fn(&[u8]);

/// Every target, by its name: the folder of its corpus has the same.
pub const TARGETS: &[(&str, Feed)] = &[
    ("messages", messages),
    ("admin", admin),
    ("invites", invites),
    ("journal", journal::journal),
    ("checkpoints", checkpoints),
    ("certificates", certificates::certificates),
    ("packets", packets),
    ("fragments", fragments),
    ("bundles", bundles),
    ("relay", relay),
    ("paths", paths),
    ("local", local),
    ("socks", socks),
    ("names", names),
    ("quic", quic),
    ("knocks", knocks),
    ("sealed", sealed),
    ("snapshots", snapshots),
    ("detours", detours),
    ("passes", passes::passes),
    ("datagrams", datagrams::datagrams),
];

/// Messages between nodes and controllers.
pub fn messages(bytes: &[u8]) {
    same::<FromNode>(bytes, MESSAGE_BYTES_MAX);
    same::<ToNode>(bytes, MESSAGE_BYTES_MAX);
    // They hold secrets, which cannot be compared or shown: what matters is that decoding ends.
    drop(codec::decode::<EnrollRequest>(
        bytes,
        MESSAGE_BYTES_MAX_STRANGER,
    ));
    drop(codec::decode::<EnrollAnswer>(bytes, MESSAGE_BYTES_MAX));
}

/// The admin API.
pub fn admin(bytes: &[u8]) {
    same::<AdminHello>(bytes, MESSAGE_BYTES_MAX_ADMIN);
    same::<AdminRequest>(bytes, MESSAGE_BYTES_MAX_ADMIN);
    same::<AdminAnswer>(bytes, MESSAGE_BYTES_MAX_ADMIN);
    same::<ChangeOrder>(bytes, MESSAGE_BYTES_MAX_ADMIN);
}

/// Invite codes as they are typed.
pub fn invites(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(code) = text.parse::<InviteCode>() {
        let again = code.reveal().parse::<InviteCode>();
        let same = again.is_ok_and(|again| again.reveal() == code.reveal());
        assert!(same, "a code does not read back as itself");
    }
}

/// Signed notes and the keys that check them.
pub fn checkpoints(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(verifier) = text.parse::<Verifier>() {
        assert_eq!(verifier.to_string().parse(), Ok(verifier));
    }
    let verifier = Verifier::new("corp.example/ledger".to_owned(), [7; 32]);
    assert!(verifier.verify(text).is_err(), "nobody has that key");
}

/// Inner packets: whatever passes lies within its bytes and has ports.
pub fn packets(bytes: &[u8]) {
    let Ok(packet) = Packet::parse(bytes) else {
        return;
    };
    let has_ports = packet.source_port != 0 && packet.destination_port != 0;
    assert_eq!(has_ports, packet.body.protocol().is_some());
    assert_eq!(packet.source.is_ipv6(), packet.destination.is_ipv6());
    assert!(packet.ip_len < packet.head_len && packet.head_len <= bytes.len());
}

/// Fragments of inner packets, each behind its length in two bytes: what comes together is no longer than
/// a packet may be, and comes together again where it is cut anew.
pub fn fragments(bytes: &[u8]) {
    let now = Clock::system().now().instant;
    let (mut waiting, mut rest) = (Fragments::default(), bytes);
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(behind.len());
        let (packet, behind) = behind.split_at(len);
        rest = behind;
        let Some(fragment) = Fragment::parse(packet) else {
            continue;
        };
        let Ok(Some(whole)) = waiting.take(now, &fragment) else {
            continue;
        };
        assert!(whole.len() <= FRAGMENTED_BYTES_MAX && Fragment::parse(&whole).is_none());
        let (mut again, mut joined) = (Fragments::default(), None);
        Fragments::default().cut(&whole, FRAGMENT_MTU, |part| {
            let part = Fragment::parse(part);
            joined = part.and_then(|part| again.take(now, &part).ok().flatten());
        });
        assert!(whole.len() <= FRAGMENT_MTU || joined.as_ref() == Some(&whole));
    }
}

/// Bytes of the longest packet: IPv6 counts its header apart.
const FRAGMENTED_BYTES_MAX: usize = 40 + 65_535;

/// Where packets are cut.
const FRAGMENT_MTU: usize = 1_280;

/// What a kernel hands over, with a header that may lie: every part is a packet no longer than was said,
/// and together they hold the payload.
pub fn bundles(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let Ok(whole) = Bundle::read(&mut bytes) else {
        return;
    };
    let mut parts = Vec::new();
    for index in 0..whole.count() {
        let mut part = vec![0; whole.longest()];
        let len = whole.write_part(index, &mut part);
        assert_eq!(len, Some(whole.part_len(index)));
        part.truncate(len.unwrap_or(0));
        parts.push(part);
    }
    let seen: Vec<(&[u8], Packet)> = parts
        .iter()
        .filter_map(|part| Some((part.as_slice(), Packet::parse_head(part).ok()?)))
        .collect();
    assert_eq!(seen.len(), parts.len(), "a part that is no packet");
    let payload: usize = seen
        .iter()
        .map(|(bytes, packet)| packet.payload(bytes).len())
        .sum();
    assert_eq!(payload, whole.payload_len());
    let mut rest = seen.as_slice();
    while let Some((count, _)) = bundle::join(rest, true) {
        rest = rest.get(count..).unwrap_or_default();
    }
    assert!(rest.is_empty(), "a part that no kernel gets");
}

/// What a relay takes from anybody: it answers with no more than came, forwards for nobody, and
/// binds nobody who has not shown that he receives where he says.
pub fn relay(bytes: &[u8]) {
    let now = Clock::system().now();
    // Tickets of this key are in the corpus.
    let Ok(key) = TicketKey::from_seed(&[7; 32]) else {
        return;
    };
    let mut relay = Relay::new(key.public(), [8; 32], Settings::default());
    let (here, elsewhere) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let mut datagram = bytes.to_vec();
    let verdict = relay.handle(now, (here, 7).into(), &mut datagram);
    assert_eq!(datagram.len(), bytes.len());
    assert_eq!(relay.ends(), 0, "bound before the proof");
    let Verdict::Answer { len } = verdict else {
        assert!(matches!(verdict, Verdict::Drop(_)), "forwarded for nobody");
        return;
    };
    assert!(len <= bytes.len(), "amplified");
    let challenge = datagram.get(..CHALLENGE_BYTES);
    let ticket = bytes.get(1..).and_then(|rest| rest.first_chunk());
    let (Some((_, cookie)), Some(ticket)) = (challenge.and_then(Handle::of_challenge), ticket)
    else {
        return;
    };
    for (from, ends) in [(elsewhere, 0), (here, 1), (elsewhere, 1)] {
        let mut proof = cookie.proof(ticket);
        assert!(matches!(
            relay.handle(now, (from, 7).into(), &mut proof),
            Verdict::Answer { len } if len <= proof.len()
        ));
        assert_eq!(relay.ends(), ends);
    }
}

/// What an end of a tunnel says about paths, once its seal was opened.
pub fn paths(bytes: &[u8]) {
    let Some(frame) = PathFrame::decode(bytes) else {
        return;
    };
    if let PathFrame::Candidates { addresses, .. } = &frame {
        assert!(
            addresses.len() <= CANDIDATES_MAX,
            "more than an end may name"
        );
    }
    assert_eq!(PathFrame::decode(&frame.encode()), Some(frame));
}

/// Messages of the agent's local socket, and how they stand on its stream.
pub fn local(bytes: &[u8]) {
    same::<LocalRequest>(bytes, MESSAGE_BYTES_MAX);
    same::<LocalAnswer>(bytes, MESSAGE_BYTES_MAX);
    let mut stream = bytes;
    if let Ok(request) = frame::read_sync::<LocalRequest>(&mut stream, MESSAGE_BYTES_MAX) {
        let framed = codec::encode_framed(&request);
        let again = frame::read_sync::<LocalRequest>(&mut framed.as_slice(), usize::MAX);
        assert_eq!(again.ok(), Some(request));
    }
}

/// What programs ask the stub resolver, what servers answer it, and the system's file.
pub fn names(bytes: &[u8]) {
    let domain = "corp.example".parse();
    let app = "wiki".parse();
    let wildcard = "*.dev.corp.example".parse();
    let (Ok(domain), Ok(app), Ok(wildcard)) = (domain, app, wildcard) else {
        return;
    };
    let v4 = Ipv4Addr::new(100, 64, 0, 7);
    let mut known = Names::new(&domain, [(v4.into(), 10)]);
    known.pass_on(true);
    known.set_apps([(&app, &[wildcard][..], AppAddresses { v4, v6: None })], []);
    match known.judge(bytes) {
        names::Verdict::Answer(answer)
        | names::Verdict::PassOn { failed: answer }
        | names::Verdict::Give { failed: answer, .. } => {
            assert!(answer.len() <= 512, "an answer may be cut short");
            assert_eq!(names::id(&answer), names::id(bytes));
            assert_eq!(
                known.judge(&answer),
                names::Verdict::Ignore,
                "an answer is asked"
            );
            drop(names::found(&answer));
        }
        names::Verdict::Ignore => {}
    }
    drop(names::found(bytes));
    assert!(!names::is_answer(bytes, bytes) || known.judge(bytes) == names::Verdict::Ignore);
    let text = String::from_utf8_lossy(bytes);
    let said = Said::parse(&text);
    let ours = resolv_conf::render(&[v4.into()], bytes, &said);
    assert_eq!(Said::parse(&ours).others, said.others);
}

/// What a local program says over SOCKS: nothing is taken that has not come, and a header that is
/// read is the header that is written.
pub fn socks(bytes: &[u8]) {
    for stage in [Stage::Methods, Stage::Request] {
        match socks::hear(stage, bytes) {
            Heard::Methods { used } => assert!(used <= bytes.len()),
            Heard::Connect {
                host,
                service,
                used,
            } => {
                assert!(used <= bytes.len() && service.port != 0);
                assert!(host.len() <= usize::from(u8::MAX));
            }
            Heard::Refuse(answer) => assert_eq!(answer.first(), Some(&5)),
            Heard::More => assert!(bytes.len() < socks::BYTES_MAX, "it waits for ever"),
            Heard::Associate | Heard::Garbage => {}
        }
    }
    if let Some((host, port, used)) = socks::datagram(bytes) {
        let header = socks::datagram_header(host, port);
        assert_eq!(bytes.get(..used), Some(header.as_slice()));
    }
}

/// What the other end of a QUIC tunnel begins its streams with and puts into its datagrams.
pub fn quic(bytes: &[u8]) {
    if let Some(header) = bytes.first_chunk::<{ wire::HEADER_BYTES }>()
        && let Some(service) = wire::parse_header(*header)
    {
        assert_eq!(service.protocol, Protocol::Tcp);
    }
    if let Some(part) = wire::Part::parse(Bytes::copy_from_slice(bytes)) {
        assert_eq!(part.encode(), bytes);
    }
}

/// Datagrams of a stranger at a controller's port: none passes.
pub fn knocks(bytes: &[u8]) {
    static FILTER: LazyLock<Arc<Filter>> =
        LazyLock::new(|| Filter::new(Some(Gate::new(codec::Bytes([7; 32])))));
    let source = ([192, 0, 2, 1], 7).into();
    assert!(!FILTER.passes(bytes, source), "a stranger is heard");
}

/// What is sealed at rest, none of it with the key that it is opened with.
pub fn sealed(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(wrapped) = Wrapped::parse(text) {
            assert_eq!(Wrapped::parse(&wrapped.to_string()), Ok(wrapped));
        }
        if let Ok(block) = pem::decode(LABEL, text) {
            let again = pem::decode(LABEL, &pem::encode(LABEL, &block));
            assert_eq!(again.ok(), Some(block));
        }
    }
    let key = DataKey::new(Zeroizing::new([7; 32]));
    assert!(key.open("snapshot", bytes).is_err(), "nobody has that key");
    assert!(Snapshot::parse(bytes, Some(&key)).is_none());
    let header = segment::Header::parse(bytes);
    let Some(Ok(key)) = header.map(|header| key.segment(&header)) else {
        return;
    };
    let Ok(reader) = Reader::at(&bytes, wide(HEADER_BYTES)) else {
        return;
    };
    let next = reader
        .sealed_with(Some(&key))
        .advance()
        .map(|next| match next {
            Next::Frame { .. } => false,
            Next::End { .. } | Next::Bad { .. } => true,
        });
    assert!(next.unwrap_or(true), "nobody has that key");
}

/// A snapshot whose checksum holds: what a disk can make of one is refused by that.
pub fn snapshots(bytes: &[u8]) {
    let whole = |body: &[u8]| [&crc32c::crc32c(body).to_be_bytes(), body].concat();
    if let Some(snapshot) = Snapshot::parse(&whole(bytes), None) {
        let again = Snapshot::parse(&whole(&snapshot.body()), None);
        assert_eq!(again, Some(snapshot));
    }
    drop(Snapshot::parse(bytes, None));
}

/// The label of a sealed file's PEM block.
const LABEL: &str = "CARDEA SEALED SECRET";

/// What comes on a detour, however the stream is cut, and what its beginning may be: a knock in a name,
/// a proxy's URL.
pub fn detours(bytes: &[u8]) {
    let at_once = frames([bytes, &[]]);
    let (first, second) = bytes.split_at(bytes.len() / 3);
    assert_eq!(frames([first, second]), at_once, "cut elsewhere");
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(knock) = Knock::from_label(text) {
        assert_eq!(Knock::from_label(&knock.label()), Some(knock));
    }
    if let Ok(proxy) = text.parse::<Proxy>() {
        assert_eq!(proxy.reveal(), text);
    }
}

/// All frames of a stream, and what is wrong with the rest of it.
fn frames(pieces: [&[u8]; 2]) -> (Vec<(Aim, Vec<u8>)>, Option<FrameError>) {
    let mut frames = Frames::default();
    let mut found = Vec::new();
    for piece in pieces {
        frames.push(piece);
        loop {
            match frames.pop() {
                Ok(Some((aim, datagram))) => {
                    assert!((1..=DATAGRAM_BYTES_MAX).contains(&datagram.len()));
                    found.push((aim, datagram.to_vec()));
                }
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

/// What decodes encodes to something that decodes to the same.
fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8], max: usize) {
    if let Ok(value) = codec::decode::<T>(bytes, max) {
        let encoded = codec::encode(&value);
        let again = codec::decode::<T>(&encoded, usize::MAX);
        assert_eq!(again.as_ref(), Ok(&value));
    }
}
