#![expect(
    clippy::disallowed_types,
    reason = "the programs at both ends use plain sockets, as any program does"
)]

mod world;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::mpsc,
    time::Duration,
};

use cardea_e2e::needs;
use cardea_proto::{
    app::{Carrier, Protocol, Target, Transport},
    message::AppView,
    refusal::{Refusal, RefusalCode},
};
use cardea_tunnel::{Command, Event};

use self::world::{LOOPBACK, PATIENCE, World, connect, echo, target, tcp_app, told, udp_app};
use super::{FromData, ListenerId, Serves, ToData, shapes};

/// Far more than it takes, far less than a flow that is forgotten would stay.
const AT_ONCE: Duration = Duration::from_secs(5);

const BOTH: [Carrier; 2] = [Carrier::Quic, Carrier::WireGuard];

#[test]
fn bytes_pass_both_ways_and_an_end_reaches_the_other_side() {
    for carrier in BOTH {
        let mut world = World::new();
        let app = tcp_app(echo);
        world.open("wiki", vec![app.clone()], carrier);
        let at = world.forward(1, "wiki", &app);
        for size in [1, 1_000, 3_000_000] {
            let sent: Vec<u8> = (0..size)
                .map(|at: usize| (at % 251).to_le_bytes()[0])
                .collect();
            assert!(exchange(at, &sent) == sent, "{carrier:?} {size}");
        }
    }
}

#[test]
fn all_that_tunnels_say_passes_the_sieve() {
    for (carrier, kinds) in [
        (Carrier::Quic, &[0x31, 0x40, 0xc0, 0xe0][..]),
        (Carrier::WireGuard, &[0x31, 1, 2, 4][..]),
    ] {
        let mut world = World::new();
        let app = tcp_app(echo);
        world.open("wiki", vec![app.clone()], carrier);
        let sent = vec![7; 300_000];
        assert!(exchange(world.forward(1, "wiki", &app), &sent) == sent);
        let mut said = world.said();
        said.retain(|datagram| !datagram.is_empty());
        shapes::tests::all_pass(&said);
        for kind in kinds {
            let is_kind = |datagram: &Vec<u8>| match datagram[..] {
                [0x32, _, _, _, _, _, _, _, first, ..] if carrier == Carrier::Quic => {
                    // A short header has random bits behind the first two, a long one behind four.
                    let bits = if first & 0x80 == 0 { 0xc0 } else { 0xf0 };
                    first & bits == *kind
                }
                [0x32, _, _, _, _, _, _, _, first, ..] => first == *kind,
                [first, ..] => first == *kind,
                [] => false,
            };
            assert!(said.iter().any(is_kind), "{carrier:?}: no {kind:x}");
        }
    }
}

#[test]
fn many_connections_at_once_do_not_mix() {
    for carrier in BOTH {
        let mut world = World::new();
        let app = tcp_app(echo);
        world.open("wiki", vec![app.clone()], carrier);
        let at = world.forward(1, "wiki", &app);
        let clients: Vec<_> = (0..50_u8)
            .map(|number| {
                std::thread::spawn(move || exchange(at, &[number; 10_000]) == [number; 10_000])
            })
            .collect();
        for client in clients {
            assert!(client.join().unwrap(), "{carrier:?}");
        }
    }
}

#[test]
fn datagrams_pass_both_ways_for_every_client_of_its_own() {
    for carrier in BOTH {
        datagrams_pass(carrier, LOOPBACK);
    }
}

#[test]
fn datagrams_pass_both_ways_to_an_app_of_ipv6() {
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return needs::leave_out("it needs IPv6");
    }
    for carrier in BOTH {
        datagrams_pass(carrier, Ipv6Addr::LOCALHOST.into());
    }
}

fn datagrams_pass(carrier: Carrier, host: IpAddr) {
    let mut world = World::new();
    let app = udp_app(host);
    world.open("dns", vec![app.clone()], carrier);
    let at = world.forward(1, "dns", &app);
    for text in [&b"first"[..], b"second", &[7; 1_100]] {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(at).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let mut got = [0; 2_048];
        let answered = (0..10).any(|_| {
            client.send(text).unwrap();
            client
                .recv(&mut got)
                .is_ok_and(|count| got[..count] == *text)
        });
        assert!(answered, "{carrier:?} {host}");
    }
}

#[test]
fn a_removed_tunnel_resets_its_flows_at_both_ends_at_once() {
    for carrier in BOTH {
        let mut world = World::new();
        let (app, ends) = streaming_app();
        let grant = world.open("wiki", vec![app.clone()], carrier);
        let at = world.forward(1, "wiki", &app);
        let mut client = connect(at);
        client.read_exact(&mut [0; 100_000]).unwrap();
        world
            .connector
            .send(ToData::Tunnel(Command::Remove { grant }));
        world.agent.send(ToData::Tunnel(Command::Remove { grant }));
        let error = read_to_error(&mut client);
        assert_eq!(error, ErrorKind::ConnectionReset, "{carrier:?}");
        let error = ends.recv_timeout(AT_ONCE);
        assert_eq!(error, Ok(ErrorKind::ConnectionReset), "{carrier:?}");
    }
}

#[test]
fn a_reset_by_the_app_is_a_reset_for_the_client() {
    for carrier in BOTH {
        let mut world = World::new();
        let app = tcp_app(reset);
        world.open("wiki", vec![app.clone()], carrier);
        let mut client = connect(world.forward(1, "wiki", &app));
        client.write_all(b"ab").unwrap();
        let error = read_to_error(&mut client);
        assert_eq!(error, ErrorKind::ConnectionReset, "{carrier:?}");
    }
}

#[test]
fn a_reset_by_the_client_is_a_reset_for_the_app() {
    for carrier in BOTH {
        let mut world = World::new();
        let (tell, ends) = mpsc::channel();
        let app = tcp_app(move |mut stream| {
            stream.write_all(b"ab").unwrap();
            tell.send(read_to_error(&mut stream)).unwrap();
        });
        world.open("wiki", vec![app.clone()], carrier);
        reset(connect(world.forward(1, "wiki", &app)));
        let error = ends.recv_timeout(AT_ONCE);
        assert_eq!(error, Ok(ErrorKind::ConnectionReset), "{carrier:?}");
    }
}

/// Closes a stream of which a byte has come that nobody reads: the system makes a reset of that.
fn reset(mut stream: TcpStream) {
    stream.read_exact(&mut [0; 1]).unwrap();
    stream.peek(&mut [0; 1]).unwrap();
}

/// An app that writes without end, and tells what its stream ended with.
fn streaming_app() -> (Target, mpsc::Receiver<ErrorKind>) {
    let (tell, ends) = mpsc::channel();
    let app = tcp_app(move |mut stream| {
        let error = loop {
            if let Err(error) = stream.write_all(&[b'.'; 16_384]) {
                break error;
            }
        };
        tell.send(error.kind()).unwrap();
    });
    (app, ends)
}

#[test]
fn an_app_that_does_not_read_holds_its_client_up_and_costs_no_more_memory() {
    for carrier in BOTH {
        let mut world = World::new();
        let app = tcp_app(|stream| {
            std::thread::park_timeout(PATIENCE);
            drop(stream);
        });
        world.open("wiki", vec![app.clone()], carrier);
        let mut client = connect(world.forward(1, "wiki", &app));
        client
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let mut written = 0;
        while let Ok(count) = client.write(&[0; 65_536]) {
            written += count;
            assert!(
                written < 64 << 20,
                "{carrier:?}: nobody reads and all is taken"
            );
        }
    }
}

#[test]
fn who_comes_before_the_tunnel_waits_for_it() {
    let mut world = World::new();
    let app = tcp_app(echo);
    let at = world.forward(1, "wiki", &app);
    let client = std::thread::spawn(move || exchange(at, b"early"));
    let wanted = told(&mut world.agent_told);
    assert!(matches!(wanted, FromData::Wanted(name) if name.as_str() == "wiki"));
    world.open("wiki", vec![app], Carrier::Quic);
    assert_eq!(client.join().unwrap(), b"early");
}

#[test]
fn who_is_denied_is_cut_off_and_the_listener_is_told_why() {
    let mut world = World::new();
    let at = world.forward(7, "db", &target(5_432, Protocol::Tcp));
    let mut client = connect(at);
    assert!(matches!(told(&mut world.agent_told), FromData::Wanted(_)));
    let why = Refusal::new(RefusalCode::NotPermitted, "db: denied: no rule");
    world.agent.send(ToData::Denied {
        app: "db".parse().unwrap(),
        refusal: why.clone(),
    });
    assert_eq!(read_to_error(&mut client), ErrorKind::ConnectionReset);
    let event = told(&mut world.agent_told);
    assert!(
        matches!(event, FromData::Refused { listener: ListenerId(7), refusal } if refusal == why)
    );
}

#[test]
fn a_connector_does_not_dial_its_own_host_unless_that_is_meant() {
    for carrier in BOTH {
        let mut world = World::new();
        let app = tcp_app(echo);
        let grant = world.install("wiki", vec![app.clone()], carrier, false);
        world.wait_open(grant);
        let mut client = connect(world.forward(1, "wiki", &app));
        assert_eq!(read_to_error(&mut client), ErrorKind::ConnectionReset);
        loop {
            if let FromData::Refused { refusal, .. } = told(&mut world.agent_told) {
                assert_eq!(refusal.code, RefusalCode::TargetUnreachable);
                break;
            }
        }
    }
}

#[test]
fn a_target_that_refuses_is_a_reset_with_its_reason() {
    let mut world = World::new();
    let free = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let app = target(free.port(), Protocol::Tcp);
    world.open("wiki", vec![app.clone()], Carrier::Quic);
    let mut client = connect(world.forward(1, "wiki", &app));
    assert_eq!(read_to_error(&mut client), ErrorKind::ConnectionReset);
    loop {
        if let FromData::Refused { refusal, .. } = told(&mut world.agent_told) {
            assert!(refusal.message.contains("refused"), "{refusal}");
            break;
        }
    }
}

#[test]
fn socks_leads_to_an_app_by_its_names_and_nowhere_else() {
    let mut world = World::new();
    let app = tcp_app(echo);
    world.open("wiki", vec![app.clone()], Carrier::Quic);
    world.agent.send(ToData::Apps(vec![AppView {
        name: "wiki".parse().unwrap(),
        names: vec!["wiki.corp.example".parse().unwrap()],
        services: vec![app.service],
        transport: Transport::Quic,
        allowed: true,
        why: None,
    }]));
    let at = world.listen(1, Serves::Socks);
    for host in ["wiki", "WIKI.corp.example"] {
        let (mut client, code) = socks(at, host, app.service.port);
        assert_eq!(code, 0, "{host}");
        client.write_all(b"hello").unwrap();
        let mut got = [0; 5];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
    }
    let (_, code) = socks(at, "wiki", app.service.port ^ 1);
    assert_eq!(code, 2);
}

#[test]
fn socks_carries_datagrams_to_an_app_by_its_name() {
    let mut world = World::new();
    let app = udp_app(LOOPBACK);
    world.open("dns", vec![app.clone()], Carrier::WireGuard);
    let at = world.listen(1, Serves::Socks);
    let mut tether = connect(at);
    tether.write_all(&[5, 1, 0]).unwrap();
    tether.read_exact(&mut [0; 2]).unwrap();
    tether.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut reply = [0; 10];
    tether.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], [5, 0, 0, 1]);
    let port = u16::from_be_bytes([reply[8], reply[9]]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let [high, low] = app.service.port.to_be_bytes();
    let sent = [&[0, 0, 0, 3, 3][..], b"dns", &[high, low], b"question"].concat();
    let mut got = [0; 64];
    let answered = (0..10).any(|_| {
        client.send(&sent).unwrap();
        client
            .recv(&mut got)
            .is_ok_and(|count| got[..count] == sent)
    });
    assert!(answered);
    drop(tether);
    let closed = (0..100).any(|_| client.send(&sent).is_err() || client.recv(&mut got).is_err());
    assert!(closed);
}

#[test]
fn a_closed_listener_takes_its_connections_with_it() {
    let mut world = World::new();
    let app = tcp_app(echo);
    world.open("wiki", vec![app.clone()], Carrier::Quic);
    let at = world.forward(3, "wiki", &app);
    let mut client = connect(at);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    world.agent.send(ToData::Unlisten(ListenerId(3)));
    assert_eq!(read_to_error(&mut client), ErrorKind::ConnectionReset);
    assert!(TcpStream::connect(at).is_err());
}

#[test]
fn datagrams_of_every_size_do_not_end_the_loop() {
    let mut world = World::new();
    let (tcp, udp) = (tcp_app(echo), udp_app(LOOPBACK));
    world.open("wiki", vec![tcp.clone(), udp.clone()], Carrier::WireGuard);
    let local = world.forward(1, "wiki", &udp);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for size in (0..64).chain([1_199, 1_200, 1_400, 9_000, 65_506, 65_507]) {
        client.send_to(&vec![0x32; size], local).unwrap();
    }
    let at = world.forward(2, "wiki", &tcp);
    assert_eq!(exchange(at, b"still here"), b"still here");
}

#[test]
fn the_connector_tells_what_ended_a_tunnel() {
    let mut world = World::new();
    let grant = world.open("wiki", vec![tcp_app(echo)], Carrier::Quic);
    world
        .connector
        .send(ToData::Tunnel(Command::Remove { grant }));
    loop {
        if let FromData::Tunnel(Event::Closed { grant: closed, .. }) =
            told(&mut world.connector_told)
        {
            assert_eq!(closed, grant);
            break;
        }
    }
}

/// Sends all of `bytes`, ends, and reads until the other side has ended.
fn exchange(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let stream = connect(at);
    let mut writer = stream.try_clone().unwrap();
    let mut reader = stream;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        got
    })
}

fn read_to_error(stream: &mut TcpStream) -> ErrorKind {
    let mut buffer = vec![0; 65_536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return ErrorKind::UnexpectedEof,
            Ok(_) => {}
            Err(error) => return error.kind(),
        }
    }
}

fn socks(at: SocketAddr, host: &str, port: u16) -> (TcpStream, u8) {
    let mut stream = connect(at);
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut method = [0; 2];
    stream.read_exact(&mut method).unwrap();
    assert_eq!(method, [5, 0]);
    let length = u8::try_from(host.len()).unwrap();
    let request = [
        &[5, 1, 0, 3, length][..],
        host.as_bytes(),
        &port.to_be_bytes(),
    ]
    .concat();
    stream.write_all(&request).unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    (stream, reply[1])
}
