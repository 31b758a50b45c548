//! Datagrams of every size at every UDP socket that any of our programs has, also in the name of the
//! only one whom a connected socket hears.
#![expect(
    clippy::disallowed_types,
    reason = "a stranger uses sockets as he likes"
)]

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    needs,
    program::free_port,
    sockets::{Forger, UdpOf},
    traffic::{WebServer, fetch, udp_echo, udp_round_trip},
};

const PAGE: &str = "served under a flood\n";

/// The largest datagram that IPv4 carries.
const LARGEST: usize = 65_507;

/// Bytes that the kernel counts beside those of a datagram, at most: what it keeps of it, and pages.
const OVERHEAD: usize = 4_096;

/// Bytes that fit into a socket whose buffer nobody has made larger, with as much to spare.
const ROOM: usize = 100_000;

/// How they begin: the frames of a relay, WireGuard's messages, QUIC's long and short headers, our own; then
/// tickets, and data behind a handle, that the kernel cannot tell from real ones.
const BEGIN: [&[u8]; 20] = [
    &[0x30],
    &[0x31],
    &[0x32],
    &[0x33],
    &[0x34],
    &[0x35],
    &[0x36],
    &[0x37],
    &[0x01],
    &[0x04],
    &[0x50],
    &[0xc3],
    &[0x40],
    &[0x30, 1],
    &[0x34, 1],
    &[0x36, 1],
    &[0x32, 7, 7, 7, 7, 7, 7, 7, 1, 0, 0, 0],
    &[0x32, 7, 7, 7, 7, 7, 7, 7, 4, 0, 0, 0],
    &[0x32, 7, 7, 7, 7, 7, 7, 7, 0x40],
    &[0x32, 7, 7, 7, 7, 7, 7, 7, 0x35],
];

/// What a socket hears, by which the kernel drops the rest.
#[derive(Clone, Copy, Debug)]
enum Hears {
    Channel,
    /// A relay's own.
    Nodes,
    /// One for direct paths.
    Ends,
    /// A node's for a relay.
    Relay,
    /// One for an app, or for those who use one; that of a controller who asks whether a relay is there.
    Anything,
}

impl Hears {
    fn of((is_node, socket): &(bool, UdpOf), (channels, relay): (u16, u16)) -> Self {
        let port = socket.local.port();
        match socket.peer.map(|peer| peer.port()) {
            Some(peer) if peer == channels => Self::Channel,
            Some(peer) if peer == relay && *is_node => Self::Relay,
            None if port == channels => Self::Channel,
            None if port == relay => Self::Nodes,
            None if socket.local.ip().is_unspecified() => Self::Ends,
            Some(_) | None => Self::Anything,
        }
    }

    /// Whether the shape of what begins so, with zeros behind, is that of what it hears: as long as such a
    /// datagram is, or longer.
    const fn passes(self, begin: &[u8], size: usize) -> bool {
        let least = match (self, begin) {
            (Self::Anything, _) => 0,
            (Self::Channel, [0x40 | 0x50]) => 17,
            (Self::Nodes, [0x32, ..]) => 9,
            (Self::Nodes, [0x30 | 0x36, 1]) => 98,
            (Self::Nodes, [0x34, 1]) => 130,
            (Self::Ends, [0x37]) => 26,
            (Self::Relay, [0x31]) => 8,
            (Self::Relay, [0x32]) => 9,
            (Self::Relay, [0x33]) => 40,
            (Self::Ends | Self::Relay, [0x32, .., 1, 0, 0, 0]) => 156,
            (Self::Ends | Self::Relay, [0x32, .., 4, 0, 0, 0]) => 40,
            (Self::Ends | Self::Relay, [0x32, .., 0x40]) => 29,
            (Self::Ends | Self::Relay, [0x32, .., 0x35]) => 42,
            _ => return false,
        };
        size >= least
    }
}

#[test]
fn datagrams_of_every_size_end_no_socket() {
    flood().unwrap();
}

fn flood() -> Result<()> {
    let mut world = Deployment::new()?;
    let channels = free_port()?;
    let relay_port = free_port()?;
    let relay_address = format!("127.0.0.1:{relay_port}");
    world.start_controller(&ControllerOptions {
        port: channels,
        more: &[
            "--allow-simulated-posture",
            "--relay=false",
            "--relay-address",
            &relay_address,
        ],
        ..Default::default()
    })?;
    let relay = world.start_relay(None, &relay_address, &[])?;
    let web = WebServer::start("127.0.0.1:0", PAGE)?.address;
    let echo = udp_echo("127.0.0.1:0")?;
    for (app, target) in [("wiki", web.to_string()), ("echo", format!("{echo}/udp"))] {
        world.ctl(&format!(
            "app add {app} --target {target} --allow-host-scoped --allow everyone"
        ))?;
    }
    let connector = world.start_connector(None, "connector", "default")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let laptop = world.start_device(None, "laptop", "alice", "staff", Some(&facts))?;
    let (_wiki, page) = world.forward(None, "laptop", "wiki")?;
    let (_echo, echo) = world.forward(None, "laptop", "echo")?;
    ensure!(fetch(&page)? == PAGE);
    udp_round_trip(&echo, "before")?;

    let stranger = UdpSocket::bind("127.0.0.1:0")?;
    let controller = world.controller()?.id();
    let programs = [
        (false, controller),
        (false, relay.id()),
        (true, connector.id()),
        (true, laptop.id()),
    ];
    flood_all(&stranger, &programs, (channels, relay_port))?;

    ensure!(fetch(&page)? == PAGE, "the tunnel does not carry any more");
    udp_round_trip(&echo, "after")?;
    stays_dark(&stranger, channels)?;
    let (_second, fresh) = world.forward(None, "laptop", "wiki")?;
    ensure!(fetch(&fresh)? == PAGE);
    world.ctl("status").map(drop)
}

#[test]
fn datagrams_of_an_app_are_carried_whatever_their_size() {
    carry_every_size().unwrap();
}

fn carry_every_size() -> Result<()> {
    let mut world = Deployment::new()?;
    world.start_controller(&ControllerOptions {
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    let echo = udp_echo("127.0.0.1:0")?;
    let _connector = world.start_connector(None, "connector", "default")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let _laptop = world.start_device(None, "laptop", "alice", "staff", Some(&facts))?;
    for transport in ["wireguard", "quic"] {
        world.ctl(&format!(
            "app add echo-{transport} --target {echo}/udp --allow-host-scoped --allow everyone --transport {transport}"
        ))?;
        let (_forward, local) = world.forward(None, "laptop", &format!("echo-{transport}"))?;
        for len in [1_373, 9_000, 30_000, LARGEST] {
            udp_round_trip(&local, &"x".repeat(len))
                .with_context(|| format!("{transport}, {len} bytes"))?;
        }
    }
    Ok(())
}

/// Floods every socket of `programs`, of each of which is told whether it is a node, and makes sure that each read
/// all of it.
fn flood_all(stranger: &UdpSocket, programs: &[(bool, u32)], ports: (u16, u16)) -> Result<()> {
    let mut sockets = Vec::new();
    for (is_node, id) in programs {
        let all = UdpOf::process(*id)?.into_iter();
        sockets.extend(all.map(|socket| (*is_node, socket)));
    }
    let (connected, open): (Vec<_>, Vec<_>) = sockets
        .into_iter()
        .partition(|(_, socket)| socket.peer.is_some());
    // Channels, relay, two for direct paths at each node, the forwarded app.
    ensure!(open.len() >= 7, "open are only {open:?}");
    // At each node one to the controller and one to the relay; at the connector one to the app.
    ensure!(connected.len() >= 5, "connected are only {connected:?}");
    let v6 = UdpSocket::bind("[::1]:0");
    for own in &open {
        let (_, socket) = own;
        let to = SocketAddr::new(here(socket.local.ip()), socket.local.port());
        let from = match (to, &v6) {
            (SocketAddr::V4(_), _) => stranger,
            (SocketAddr::V6(_), Ok(v6)) => v6,
            (SocketAddr::V6(_), Err(_)) => continue,
        };
        flood_one(socket, Hears::of(own, ports), |datagram| {
            let sent = from.send_to(datagram, to)?;
            ensure!(sent == datagram.len(), "only {sent} bytes were sent");
            Ok(())
        })?;
    }
    if !rustix::process::geteuid().is_root() {
        needs::leave_out("its part with connected sockets needs root");
        return Ok(());
    }
    let forger = Forger::new()?;
    forgeries_arrive(&forger)?;
    for own in &connected {
        let (_, socket) = own;
        let (SocketAddr::V4(to), Some(SocketAddr::V4(from))) = (socket.local, socket.peer) else {
            bail!("{socket:?} is not of IPv4")
        };
        flood_one(socket, Hears::of(own, ports), |datagram| {
            forger.send(from, to, datagram)
        })?;
    }
    Ok(())
}

/// Sends datagrams of every size, never more than fit while nobody reads.
///
/// The kernel drops what has not the shape of what the socket hears; the rest is for the program to judge.
fn flood_one(socket: &UdpOf, hears: Hears, send: impl Fn(&[u8]) -> Result<()>) -> Result<()> {
    let noise: Vec<u8> = (0..u32::try_from(LARGEST)?)
        .flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_be_bytes())
        .collect();
    let before = socket.drained()?;
    let (mut waiting, mut shapeless) = (0, 0);
    let sizes = (0..1_600)
        .chain((1_600..LARGEST).step_by(997))
        .chain([LARGEST]);
    for size in sizes {
        for begin in BEGIN {
            let mut datagram = noise.get(..size).context("a size in range")?.to_vec();
            for (byte, begins) in datagram.iter_mut().zip(begin) {
                *byte = *begins;
            }
            shapeless += u64::from(!hears.passes(begin, size));
            if waiting + size + OVERHEAD > ROOM {
                socket.drained()?;
                waiting = 0;
            }
            send(&datagram)?;
            waiting += size + OVERHEAD;
        }
    }
    let after = socket.drained()?;
    ensure!(
        after.dropped - before.dropped == shapeless,
        "{shapeless} were to be dropped before they got to {after:?}, which hears {hears:?}"
    );
    Ok(())
}

/// What the forger sends in somebody's name gets to a socket that hears nobody else.
fn forgeries_arrive(forger: &Forger) -> Result<()> {
    let peer = UdpSocket::bind("127.0.0.1:0")?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(peer.local_addr()?)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (peer.local_addr()?, socket.local_addr()?)
    else {
        bail!("not of IPv4")
    };
    for size in [0, 1, LARGEST] {
        forger.send(from, to, &vec![7; size])?;
        let length = socket.recv(&mut vec![0; LARGEST + 1])?;
        ensure!(length == size, "{length} of {size} bytes arrived");
    }
    Ok(())
}

/// Where a socket that is bound to any address is reached on this machine.
fn here(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) | IpAddr::V6(_) => ip,
    }
}

/// The controller has not answered the stranger, and does not for the packets that QUIC would answer.
fn stays_dark(stranger: &UdpSocket, port: u16) -> Result<()> {
    for version in [1, 2, 0x0a0a_0a0a_u32] {
        for id in [0, 8, 16, 20_u8] {
            let head = [&[0xc3][..], &version.to_be_bytes(), &[id]].concat();
            let bait = [head, vec![7; usize::from(id)], vec![0; 1_300]].concat();
            stranger.send_to(&bait, ("127.0.0.1", port))?;
        }
    }
    stranger.set_read_timeout(Some(Duration::from_millis(300)))?;
    let mut answer = [0; 2_048];
    loop {
        match stranger.recv_from(&mut answer) {
            Ok((length, from)) => ensure!(
                from.port() != port,
                "the controller answers with {length} bytes"
            ),
            // Ports that are closed say so once for each datagram that was sent to them.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(_) => return Ok(()),
        }
    }
}
