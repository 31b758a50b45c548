use std::net::Ipv4Addr;

use cardea_host::udp::{Received, UdpSocket};
use cardea_proto::{
    path::PathFrame,
    relay::{COOKIE_BYTES, Cookie, Handle},
};

use super::*;

/// The longest datagram of IPv4.
const LONGEST: usize = 65_507;

const HANDLE: Handle = Handle::from_bytes([0xff; 7]);

#[test]
fn the_kernel_lets_through_what_belongs_to_a_socket_and_nothing_else() {
    let bound = HANDLE.bound().to_vec();
    let challenge = HANDLE.challenge(&Cookie([0xff; COOKIE_BYTES])).to_vec();
    let nudge = data(&[0], 1);
    let seen =
        ["192.0.2.7:4711", "[2001:db8::7]:1"].map(|at| HANDLE.seen(at.parse().unwrap()).to_vec());
    let told = [bound, challenge, nudge];
    for (stage, own, foreign) in [
        (Stage::new(&direct()), &seen[..], &told[..]),
        (Stage::new(&from_relay()), &told[..], &seen[..]),
    ] {
        for datagram in tunnelled().iter().chain(own) {
            assert_eq!(stage.arriving(None, datagram), 1, "{:x?}", begin(datagram));
        }
        assert_eq!(stage.node.dropped().unwrap(), 0);
        let short = own.iter().filter(|datagram| datagram.len() != 9);
        let short = short.map(|datagram| datagram[..datagram.len() - 1].to_vec());
        let fails: Vec<Vec<u8>> = foreign
            .iter()
            .cloned()
            .chain(short)
            .chain(garbage())
            .collect();
        for datagram in &fails {
            assert_eq!(stage.arriving(None, datagram), 0, "{:x?}", begin(datagram));
        }
        let dropped = stage.node.dropped().unwrap();
        assert_eq!(usize::try_from(dropped).unwrap(), fails.len());
    }
}

#[test]
fn what_the_kernel_coalesced_passes_by_its_first_datagram_whatever_follows() {
    let stage = Stage::new(&from_relay());
    let others = [HANDLE.bound().to_vec(), data(&[0], 1)];
    let mut firsts = [tunnelled(), others.to_vec()].concat();
    firsts.retain(|first| first.len() * 2 <= LONGEST);
    for first in firsts {
        let size = first.len();
        let count = (LONGEST / size).min(40);
        let all = [&first.repeat(count - 1)[..], &first[..size.min(8)]].concat();
        assert_eq!(
            stage.arriving(Some(size), &all),
            count,
            "{:x?}",
            begin(&first)
        );
    }
    assert_eq!(stage.node.dropped().unwrap(), 0);
    assert_eq!(stage.arriving(Some(100), &vec![0xc0; 1_000]), 0);
    assert_eq!(stage.node.dropped().unwrap(), 1, "they count as one");
}

/// What ends seal, each kind as short and as long as it gets.
fn tunnelled() -> Vec<Vec<u8>> {
    let frame = |frame: &PathFrame, padding: usize| {
        let bytes = [&[PATH_FRAME][..], &[0xff; 8], &frame.encode(), &[0xff; 16]].concat();
        data(&bytes, bytes.len() + padding)
    };
    let candidates = |addresses| PathFrame::Candidates {
        version: 1,
        heard: 1,
        asks: true,
        addresses,
    };
    let address = "[2001:db8::7]:65535".parse().unwrap();
    vec![
        data(&[1, 0, 0, 0], 148),
        data(&[2, 0, 0, 0], 92),
        data(&[4, 0, 0, 0], 32),
        data(&[4, 0, 0, 0], 1_460),
        data(&[4, 0, 0, 0], LONGEST - 8),
        data(&[0x40], 21),
        data(&[0x7f], 1_452),
        data(&[0xc0, 0, 0, 0, 1], 1_200),
        data(&[0xcf, 0, 0, 0, 1], 1_452),
        data(&[0xe3, 0, 0, 0, 1], 60),
        frame(&PathFrame::Probe { id: 1 }, 0),
        frame(&PathFrame::Probe { id: 1 }, 1_400),
        frame(&PathFrame::Answer { of: 1, id: None }, 0),
        frame(&PathFrame::Lost { size: 1 }, 0),
        frame(&PathFrame::Turned, 0),
        frame(&candidates(Vec::new()), 0),
        frame(&candidates(vec![address; 8]), 0),
    ]
}

/// What neither socket hears.
fn garbage() -> Vec<Vec<u8>> {
    let ticket = |kind: u8, length: usize| [&[kind][..], &vec![1; length - 1]].concat();
    let others = (0..=255).filter(|kind| !matches!(kind, 0x31..=0x33 | 0x37));
    let mut garbage: Vec<Vec<u8>> = others.map(|kind| ticket(kind, 300)).collect();
    garbage.extend([
        vec![],
        data(&[], 0),
        // Shorter than they get, a message that is never sent, and other bytes behind the first.
        data(&[1, 0, 0, 0], 147),
        data(&[2, 0, 0, 0], 91),
        data(&[4, 0, 0, 0], 31),
        data(&[3, 0, 0, 0], 64),
        data(&[1, 0, 0, 1], 148),
        data(&[4, 0, 1, 0], 1_000),
        data(&[0x40], 20),
        data(&[0xc0, 0, 0, 0, 0], 1_200),
        data(&[0xc0, 0x6b, 0x33, 0x43, 0xcf], 1_200),
        data(&[0x80, 0, 0, 0, 1], 1_200),
        data(&[PATH_FRAME], 33),
        data(&[0x3f], 1_200),
    ]);
    garbage
}

/// A datagram of data, with so many bytes sealed, which begin so.
fn data(begin: &[u8], length: usize) -> Vec<u8> {
    let mut datagram = [&HANDLE.data_header()[..], begin].concat();
    datagram.resize(DATA_HEADER_BYTES + length, 0xff);
    datagram
}

fn begin(datagram: &[u8]) -> (&[u8], usize) {
    (&datagram[..datagram.len().min(16)], datagram.len())
}

struct Stage {
    node: UdpSocket,
    other: UdpSocket,
}

impl Stage {
    fn new(shapes: &[Step]) -> Self {
        let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self {
            node: socket().behind(shapes),
            other: socket(),
        }
    }

    /// How many datagrams arrive of those that are sent, each of `segment` bytes.
    fn arriving(&self, segment: Option<usize>, bytes: &[u8]) -> usize {
        let sent = self.other.send(self.node.local_address(), segment, bytes);
        assert_eq!(sent.unwrap(), bytes.len());
        let mut received = Received::default();
        match self.node.receive(&mut received) {
            Ok(_) => received.datagrams().count(),
            Err(_) => 0,
        }
    }
}

/// What tunnels really say passes as well; `said` is what one heard from its relay.
pub(in crate::data) fn all_pass(said: &[Vec<u8>]) {
    let (relayed, direct) = (Stage::new(&from_relay()), Stage::new(&direct()));
    for datagram in said {
        assert_eq!(
            relayed.arriving(None, datagram),
            1,
            "{:x?}",
            begin(datagram)
        );
        let is_sealed = datagram[0] == FrameKind::Data.byte() && datagram.len() > 9;
        let arriving = direct.arriving(None, datagram);
        assert!(arriving == 1 || !is_sealed, "{:x?}", begin(datagram));
    }
}
