use std::{net::Ipv4Addr, time::Duration};

use cardea_credential::ticket::TicketKey;
use cardea_host::{
    clock::Clock,
    udp::{Received, UdpSocket},
};
use cardea_proto::{
    codec::Bytes,
    relay::{COOKIE_BYTES, Cookie, Handle, Side, TICKET_BYTES, Ticket},
};

use super::*;

/// The longest datagram of IPv4.
const LONGEST: usize = 65_507;

#[test]
fn the_kernel_lets_through_all_that_a_node_says_and_nothing_else() {
    let stage = Stage::new();
    let handle = Handle::from_bytes([0xff; 7]);
    let data = |length: usize| {
        let mut datagram = handle.data_header().to_vec();
        datagram.resize(length, 0xff);
        datagram
    };
    let mut passes = vec![data(9), data(1_200), data(LONGEST)];
    let mut fails = vec![vec![], data(8), data(7), data(1)];
    for side in [Side::Agent, Side::Connector] {
        for datagram in of_a_ticket(side) {
            let altered = |at: usize, byte: u8| {
                let mut datagram = datagram.clone();
                datagram[at] = byte;
                datagram
            };
            fails.push(datagram[..datagram.len() - 1].to_vec());
            // Another version, neither side, other kinds.
            fails.extend([
                altered(1, 0),
                altered(1, 2),
                altered(18, 2),
                altered(18, 255),
            ]);
            fails.extend(
                (0..=255)
                    .filter(|kind| !HEARD.contains(kind))
                    .map(|kind| altered(0, kind)),
            );
            passes.push(datagram);
        }
    }
    fails.push(handle.bound().to_vec());
    fails.push(handle.challenge(&Cookie([1; COOKIE_BYTES])).to_vec());
    fails.push(handle.seen("192.0.2.7:4711".parse().unwrap()).to_vec());
    for datagram in &passes {
        assert_eq!(
            stage.arriving(None, datagram),
            1,
            "{:x?}",
            &datagram[..20.min(datagram.len())]
        );
    }
    assert_eq!(stage.relay.dropped().unwrap(), 0);
    for datagram in &fails {
        assert_eq!(
            stage.arriving(None, datagram),
            0,
            "{:x?}",
            &datagram[..20.min(datagram.len())]
        );
    }
    let dropped = stage.relay.dropped().unwrap();
    assert_eq!(usize::try_from(dropped).unwrap(), fails.len());
}

#[test]
fn what_the_kernel_coalesced_passes_by_its_first_datagram_whatever_follows() {
    let stage = Stage::new();
    let [bind, ask, proof] = of_a_ticket(Side::Agent);
    let handle = Handle::from_bytes([0; 7]);
    let nudge = [&handle.data_header()[..], &[0]].concat();
    for first in [bind.clone(), ask.clone(), proof, nudge.clone()] {
        let size = first.len();
        let last = [&handle.data_header()[..], &vec![9; size]].concat();
        let others = first.repeat(40);
        for last in [&last[..9], &last[..size.max(9)]] {
            let bytes = [&first[..], &others, last].concat();
            assert_eq!(stage.arriving(Some(size), &bytes), 42);
        }
    }
    // Tickets of several tunnels, which have one length.
    assert_eq!(stage.arriving(Some(bind.len()), &[bind, ask].concat()), 2);
    let garbage = vec![0xc0; nudge.len()];
    assert_eq!(stage.arriving(Some(garbage.len()), &garbage.repeat(10)), 0);
    assert_eq!(stage.relay.dropped().unwrap(), 1, "they count as one");
}

/// Kinds that a relay hears.
const HEARD: [u8; 4] = [0x30, 0x32, 0x34, 0x36];

/// A bind, an ask and a proof.
fn of_a_ticket(side: Side) -> [Vec<u8>; 3] {
    let key = TicketKey::from_seed(&[1; 32]).unwrap();
    let ticket = Ticket {
        tunnel: Bytes([0xff; 16]),
        side,
        handle: Handle::from_bytes([0xff; 7]),
        not_after: Clock::system().now().unix.plus(Duration::from_secs(60)),
    };
    let ticket: [u8; TICKET_BYTES] = key.sign(&ticket).unwrap();
    let shown = |kind: FrameKind| [&[kind.byte()], &ticket[..]].concat();
    let proof = Cookie([0xff; COOKIE_BYTES]).proof(&ticket).to_vec();
    [shown(FrameKind::Bind), shown(FrameKind::Ask), proof]
}

struct Stage {
    relay: UdpSocket,
    node: UdpSocket,
}

impl Stage {
    fn new() -> Self {
        let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self {
            relay: socket().behind(&shapes()),
            node: socket(),
        }
    }

    /// How many datagrams arrive of those that are sent, each of `segment` bytes.
    fn arriving(&self, segment: Option<usize>, bytes: &[u8]) -> usize {
        let sent = self.node.send(self.relay.local_address(), segment, bytes);
        assert_eq!(sent.unwrap(), bytes.len());
        let mut received = Received::default();
        match self.relay.receive(&mut received) {
            Ok(_) => received.datagrams().count(),
            Err(_) => 0,
        }
    }
}
