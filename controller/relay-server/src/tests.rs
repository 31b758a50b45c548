use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use cardea_credential::ticket::TicketKey;
use cardea_proto::{
    codec::Bytes,
    relay::{FrameKind, Handle, Side, Ticket},
};
use cardea_relay::DropReason;

use super::*;

#[test]
fn two_ends_with_tickets_reach_each_other_through_a_real_socket() {
    let bench = Bench::new((Ipv4Addr::LOCALHOST, 0).into());
    let mut agent = End::new(&bench, Side::Agent, Ipv4Addr::LOCALHOST.into());
    let mut connector = End::new(&bench, Side::Connector, Ipv4Addr::LOCALHOST.into());
    agent.bind();
    connector.bind();
    for size in [1, 1_200, 9_000, 65_499] {
        let sealed = vec![0x55; size];
        agent.send(&sealed, None);
        assert_eq!(connector.receive(1), std::slice::from_ref(&sealed));
        connector.send(&sealed, None);
        assert_eq!(agent.receive(1), [sealed]);
    }
}

#[test]
fn a_segmented_send_arrives_as_its_datagrams_at_the_other_end() {
    let bench = Bench::new((Ipv4Addr::LOCALHOST, 0).into());
    let mut agent = End::new(&bench, Side::Agent, Ipv4Addr::LOCALHOST.into());
    let mut connector = End::new(&bench, Side::Connector, Ipv4Addr::LOCALHOST.into());
    agent.bind();
    connector.bind();
    let many: Vec<Vec<u8>> = (0..40_u8)
        .map(|at| vec![at; if at == 39 { 100 } else { 1_192 }])
        .collect();
    let bytes: Vec<u8> = many.iter().flat_map(|one| agent.data(one)).collect();
    agent
        .socket
        .send(bench.address, Some(1_200), &bytes)
        .unwrap();
    assert_eq!(connector.receive(40), many);
}

#[test]
fn a_dual_stack_relay_joins_ends_of_both_families() {
    let Ok(server) = Server::bind(
        (Ipv6Addr::UNSPECIFIED, 0).into(),
        [0; 32],
        Settings::default(),
    ) else {
        return; // This machine has no IPv6.
    };
    drop(server);
    let bench = Bench::new((Ipv6Addr::UNSPECIFIED, 0).into());
    let mut agent = End::new(&bench, Side::Agent, Ipv4Addr::LOCALHOST.into());
    let mut connector = End::new(&bench, Side::Connector, Ipv6Addr::LOCALHOST.into());
    agent.bind();
    connector.bind();
    agent.send(b"over four", None);
    assert_eq!(connector.receive(1), [b"over four".to_vec()]);
    connector.send(b"over six", None);
    assert_eq!(agent.receive(1), [b"over six".to_vec()]);
}

#[test]
fn a_stranger_hears_nothing_and_datagrams_of_every_size_end_no_loop() {
    // The relay judges what passes the sieve, and everything where the kernel has none.
    for is_sieved in [true, false] {
        let bench = Bench::judging((Ipv4Addr::LOCALHOST, 0).into(), is_sieved);
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (mut sent, mut shaped) = (0, 0);
        for size in [0, 1, 7, 8, 97, 98, 99, 130, 1_200, 9_000, 65_507] {
            for first in [0x00, 0x30, 0x31, 0x32, 0x33, 0x34] {
                stranger
                    .send(bench.address, None, &vec![first; size])
                    .unwrap();
                sent += 1;
                // No ticket begins with these versions.
                shaped += u64::from(first == 0x32 && size > 8);
            }
        }
        let mut agent = End::new(&bench, Side::Agent, Ipv4Addr::LOCALHOST.into());
        agent.bind();
        assert!(stranger.receive(&mut Received::default()).is_err());
        let control = bench.running.control().clone();
        bench.running.stop().unwrap();
        let report = control.report();
        assert_eq!((report.ends, report.counters.bound), (1, 1));
        assert_eq!(report.counters.forwarded, 0);
        let judged: u64 = report.counters.dropped.values().sum();
        let expected = if is_sieved {
            (shaped, sent - shaped)
        } else {
            (sent, 0)
        };
        assert_eq!((judged, report.unheard), expected);
        let strange = report.counters.dropped(DropReason::NotOurs);
        assert_eq!(strange >= 20, !is_sieved, "{report:?}");
    }
}

#[test]
fn what_the_kernel_counts_is_added_up_when_it_begins_anew() {
    let mut unheard = Unheard::default();
    for dropped in [7, 7, u32::MAX, 0, 2] {
        unheard.note(dropped);
    }
    assert_eq!(unheard.total, u64::from(u32::MAX) + 3);
}

#[test]
fn a_ticket_that_is_over_or_of_another_domain_is_not_answered() {
    let bench = Bench::new((Ipv4Addr::LOCALHOST, 0).into());
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let ticket = |not_after| Ticket {
        tunnel: Bytes([9; 16]),
        side: Side::Agent,
        handle: Handle::from_bytes([7; 7]),
        not_after,
    };
    let now = Clock::system().now().unix;
    let over = bench.key.sign(&ticket(now)).unwrap();
    let other = TicketKey::from_seed(&[2; 32]).unwrap();
    let foreign = other.sign(&ticket(now.plus(Duration::from_secs(60))));
    for ticket in [over, foreign.unwrap()] {
        for kind in [FrameKind::Bind, FrameKind::Ask, FrameKind::Proof] {
            let mut datagram = [&[kind.byte()], &ticket[..]].concat();
            if kind == FrameKind::Proof {
                datagram.extend([0; 32]);
            }
            stranger.send(bench.address, None, &datagram).unwrap();
        }
    }
    // Whoever comes behind them is answered.
    let mut agent = End::new(&bench, Side::Agent, Ipv4Addr::LOCALHOST.into());
    agent.bind();
    assert!(stranger.receive(&mut Received::default()).is_err());
    let control = bench.running.control().clone();
    bench.running.stop().unwrap();
    let counters = control.report().counters;
    assert_eq!(counters.dropped(DropReason::Expired), 3);
    assert_eq!(counters.dropped(DropReason::Forged), 3);
}

#[test]
fn a_port_in_use_is_an_error_and_a_stopped_server_gives_its_port_back() {
    let bench = Bench::new((Ipv4Addr::LOCALHOST, 0).into());
    let again = || Server::bind(bench.address, [0; 32], Settings::default());
    assert_eq!(again().unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let address = bench.address;
    bench.running.stop().unwrap();
    assert!(Server::bind(address, [0; 32], Settings::default()).is_ok());
}

struct Bench {
    key: TicketKey,
    running: Running,
    /// Where the relay listens, as IPv4 loopback sees it.
    address: SocketAddr,
    port: u16,
}

impl Bench {
    fn new(listen: SocketAddr) -> Self {
        Self::judging(listen, true)
    }

    /// A relay to which the kernel leaves all that it need not hear, or not.
    fn judging(listen: SocketAddr, is_sieved: bool) -> Self {
        let key = TicketKey::from_seed(&[1; 32]).unwrap();
        let server = Server::bind(listen, key.public(), Settings::default()).unwrap();
        if !is_sieved {
            server.without_sieve().unwrap();
        }
        let port = server.local_address().port();
        Self {
            key,
            running: server.spawn(()).unwrap(),
            address: (Ipv4Addr::LOCALHOST, port).into(),
            port,
        }
    }
}

struct End {
    socket: UdpSocket,
    poll: Poll,
    relay: SocketAddr,
    ticket: Vec<u8>,
    handle: Handle,
}

impl End {
    fn new(bench: &Bench, side: Side, local: std::net::IpAddr) -> Self {
        let mut socket = UdpSocket::bind((local, 0).into()).unwrap();
        let poll = Poll::new().unwrap();
        poll.registry()
            .register(&mut socket, SOCKET, Interest::READABLE)
            .unwrap();
        let handle = Handle::from_bytes([if side == Side::Agent { 1 } else { 2 }; 7]);
        let ticket = Ticket {
            tunnel: Bytes([9; 16]),
            side,
            handle,
            not_after: Clock::system().now().unix.plus(Duration::from_secs(60)),
        };
        let ticket = bench.key.sign(&ticket).unwrap();
        Self {
            socket,
            poll,
            relay: (local, bench.port).into(),
            ticket: [&[FrameKind::Bind.byte()], &ticket[..]].concat(),
            handle,
        }
    }

    fn bind(&mut self) {
        self.socket.send(self.relay, None, &self.ticket).unwrap();
        let [challenge] = <[Vec<u8>; 1]>::try_from(self.datagrams(1)).unwrap();
        let (handle, cookie) = Handle::of_challenge(&challenge).unwrap();
        assert_eq!(handle, self.handle);
        let proof = cookie.proof(self.ticket[1..].try_into().unwrap());
        self.socket.send(self.relay, None, &proof).unwrap();
        let [bound] = <[Vec<u8>; 1]>::try_from(self.datagrams(1)).unwrap();
        assert_eq!(Handle::of_bound(&bound), Some(self.handle));
    }

    fn data(&self, sealed: &[u8]) -> Vec<u8> {
        [&self.handle.data_header(), sealed].concat()
    }

    fn send(&self, sealed: &[u8], segment: Option<usize>) {
        let bytes = self.data(sealed);
        self.socket.send(self.relay, segment, &bytes).unwrap();
    }

    /// The sealed parts of the next `count` datagrams, each under this end's own handle.
    fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        self.datagrams(count)
            .iter()
            .map(|datagram| {
                let (handle, sealed) = Handle::split_data(datagram).unwrap();
                assert_eq!(handle, self.handle);
                sealed.to_vec()
            })
            .collect()
    }

    fn datagrams(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut events = Events::with_capacity(1);
        let mut batch = Received::default();
        let mut got = Vec::new();
        loop {
            while self.socket.receive(&mut batch).is_ok() {
                got.extend(batch.datagrams().map(|(_, bytes)| bytes.to_vec()));
            }
            if got.len() >= count {
                return got;
            }
            self.poll
                .poll(&mut events, Some(Duration::from_secs(5)))
                .unwrap();
            assert!(!events.is_empty(), "{} of {count} arrived", got.len());
        }
    }
}

#[test]
fn whoever_waits_learns_that_the_thread_has_ended() {
    let settings = Settings::default();
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), [0; 32], settings).unwrap();
    let (held, ended) = std::sync::mpsc::channel::<()>();
    let running = server.spawn(held).unwrap();
    assert_eq!(ended.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
    running.stop().unwrap();
    assert_eq!(ended.recv(), Err(std::sync::mpsc::RecvError));
}
