use std::cell::RefCell;

use cardea_credential::ticket::TicketKey;
use cardea_proto::{
    codec::Bytes,
    relay::{BOUND_BYTES, CHALLENGE_BYTES, FrameKind, Handle, Side, Ticket},
    time::testing::start,
};
use cardea_relay::Settings;

use super::*;

#[test]
fn a_coalesced_receive_goes_out_in_one_send() {
    let mut bench = Bench::new();
    let bytes = bench.data(1, &[100, 100, 100, 40]);
    assert_eq!(bench.take(1, 108, bytes), [(11, Some(108), 3 * 108 + 48)]);
}

#[test]
fn a_run_is_cut_where_the_destination_changes_or_a_datagram_is_dropped() {
    let mut bench = Bench::new();
    // Tunnel 1, tunnel 1, tunnel 2, tunnel 2, nothing of ours, tunnel 2, tunnel 2; one socket.
    bench.bind(2, Side::Agent, 1);
    let mut bytes = [bench.data(1, &[92; 2]), bench.data(2, &[92; 2])].concat();
    bytes.extend([0xff; 100]);
    bytes.extend(bench.data(2, &[92; 2]));
    assert_eq!(
        bench.take(1, 100, bytes),
        [
            (11, Some(100), 200),
            (12, Some(100), 200),
            (12, Some(100), 200)
        ]
    );
}

#[test]
fn datagrams_that_came_alone_are_gathered_for_each_destination() {
    let mut bench = Bench::new();
    for (tunnel, size) in [(1, 92), (2, 92), (1, 92), (2, 52), (1, 92)] {
        let bytes = bench.data(tunnel, &[size]);
        let length = bytes.len();
        assert_eq!(bench.take_without_flush(tunnel, length, bytes), []);
    }
    assert_eq!(bench.flush(), [(11, Some(100), 300), (12, Some(100), 160)]);
    assert_eq!(bench.flush(), []);
}

#[test]
fn order_is_kept_when_one_that_came_alone_precedes_a_run_or_a_longer_one() {
    let mut bench = Bench::new();
    let alone = bench.data(1, &[12]);
    bench.take_without_flush(1, 20, alone);
    let run = bench.data(1, &[92, 92]);
    assert_eq!(
        bench.take(1, 100, run),
        [(11, None, 20), (11, Some(100), 200)]
    );
    let short = bench.data(1, &[12]);
    bench.take_without_flush(1, 20, short);
    let long = bench.data(1, &[92]);
    assert_eq!(bench.take(1, 100, long), [(11, None, 20), (11, None, 100)]);
}

#[test]
fn more_destinations_than_places_lose_nothing() {
    let mut bench = Bench::new();
    for tunnel in 3..20 {
        bench.join(tunnel);
    }
    let mut sent = Vec::new();
    for tunnel in 1..20 {
        let bytes = bench.data(tunnel, &[92]);
        sent.extend(bench.take_without_flush(tunnel, 100, bytes));
    }
    sent.extend(bench.flush());
    sent.sort_unstable();
    let expected: Vec<_> = (11..30).map(|port| (port, None, 100)).collect();
    assert_eq!(sent, expected);
}

#[test]
fn a_bind_among_data_is_answered_and_cuts_the_run() {
    let mut bench = Bench::new();
    let bind = bench.ticket(1, Side::Agent);
    let size = bind.len();
    let mut bytes = bench.data(1, &[size - 8, size - 8]);
    bytes.extend(&bind);
    let sent = bench.take(1, size, bytes);
    assert_eq!(sent.len(), 2);
    assert!(sent.contains(&(1, None, 8)));
    assert!(sent.contains(&(11, Some(size), 2 * size)));
}

#[test]
fn what_the_network_does_not_take_is_counted() {
    let mut bench = Bench::new();
    bench.sink.accepts.replace(150);
    let bytes = bench.data(1, &[92, 92, 92]);
    bench.take(1, 100, bytes);
    assert_eq!(bench.forwarder.unsent(), 2);
}

#[test]
fn an_empty_datagram_and_every_size_are_survived() {
    let mut bench = Bench::new();
    for size in [0, 1, 7, 8, 9, 97, 98, 99, 1_500, 65_507] {
        assert_eq!(bench.take(1, size, vec![0x32; size]), []);
        assert_eq!(bench.take(1, 0, vec![0x30; size]), []);
    }
}

type Sent = (u16, Option<usize>, usize);

struct Recorder {
    sent: RefCell<Vec<Sent>>,
    accepts: RefCell<usize>,
}

impl Sink for Recorder {
    fn send(&self, to: SocketAddr, segment: Option<usize>, bytes: &[u8]) -> usize {
        self.sent
            .borrow_mut()
            .push((to.port(), segment, bytes.len()));
        bytes.len().min(*self.accepts.borrow())
    }
}

/// Tunnels 1 and 2, whose agents are at ports 1 and 2 and whose connectors are at 11 and 12.
struct Bench {
    relay: Relay,
    key: TicketKey,
    now: Now,
    forwarder: Forwarder,
    sink: Recorder,
}

impl Bench {
    fn new() -> Self {
        let key = TicketKey::from_seed(&[1; 32]).unwrap();
        let mut bench = Self {
            relay: Relay::new(key.public(), [2; 32], Settings::default()),
            key,
            now: start(),
            forwarder: Forwarder::default(),
            sink: Recorder {
                sent: RefCell::default(),
                accepts: RefCell::new(usize::MAX),
            },
        };
        bench.join(1);
        bench.join(2);
        bench
    }

    fn join(&mut self, tunnel: u8) {
        self.bind(tunnel, Side::Agent, u16::from(tunnel));
        self.bind(tunnel, Side::Connector, u16::from(tunnel) + 10);
    }

    fn bind(&mut self, tunnel: u8, side: Side, port: u16) {
        let mut bind = self.ticket(tunnel, side);
        let verdict = self.relay.handle(self.now, address(port), &mut bind);
        let len = CHALLENGE_BYTES;
        assert_eq!(verdict, Verdict::Answer { len });
        let (_, cookie) = Handle::of_challenge(&bind[..len]).unwrap();
        let ticket = self.ticket(tunnel, side)[1..].try_into().unwrap();
        let mut proof = cookie.proof(&ticket);
        let verdict = self.relay.handle(self.now, address(port), &mut proof);
        assert_eq!(verdict, Verdict::Answer { len: BOUND_BYTES });
    }

    fn ticket(&self, tunnel: u8, side: Side) -> Vec<u8> {
        let ticket = Ticket {
            tunnel: Bytes([tunnel; 16]),
            side,
            handle: handle(tunnel, side),
            not_after: self.now.unix.plus(std::time::Duration::from_secs(60)),
        };
        let ticket = self.key.sign(&ticket).unwrap();
        [&[FrameKind::Bind.byte()], &ticket[..]].concat()
    }

    /// Datagrams of an agent, with so many sealed bytes each.
    fn data(&self, tunnel: u8, sizes: &[usize]) -> Vec<u8> {
        sizes
            .iter()
            .flat_map(|size| {
                let header = handle(tunnel, Side::Agent).data_header();
                [&header[..], &vec![0xee; *size]].concat()
            })
            .collect()
    }

    fn take(&mut self, port: u8, stride: usize, bytes: Vec<u8>) -> Vec<Sent> {
        let mut sent = self.take_without_flush(port, stride, bytes);
        sent.extend(self.flush());
        sent
    }

    fn take_without_flush(&mut self, port: u8, stride: usize, mut bytes: Vec<u8>) -> Vec<Sent> {
        let from = address(u16::from(port));
        self.forwarder.take(
            &mut self.relay,
            self.now,
            from,
            stride,
            &mut bytes,
            &self.sink,
        );
        self.sink.sent.take()
    }

    fn flush(&mut self) -> Vec<Sent> {
        self.forwarder.flush(&self.sink);
        self.sink.sent.take()
    }
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn handle(tunnel: u8, side: Side) -> Handle {
    let side = match side {
        Side::Agent => 0,
        Side::Connector => 1,
    };
    Handle::from_bytes([tunnel, side, 0, 0, 0, 0, 0])
}
