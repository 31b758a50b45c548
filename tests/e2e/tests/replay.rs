//! Whoever captured what a device sent, and sends it again, hears nothing and harms nobody.
#![expect(
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "what a test does outside of its test function may panic as well, and it tells figures"
)]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use cardea_e2e::{
    capture::{Capture, Packet, send_from},
    deployment::{ControllerOptions, Deployment},
    internet::{CHANNEL_PORT, CONTROLLER, Internet, PORT, RELAY_PORT, is_direct},
    namespace::Namespace,
    needs,
    program::{PATIENCE, now},
    sockets::Forger,
    traffic::Volley,
};

/// What these tests run beside our programs.
const TOOLS: [&str; 3] = ["ip", "nft", "sysctl"];

/// How long it is listened for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);

/// After this a statement about paths that never arrived is too late.
const LATE: Duration = Duration::from_millis(2_500);

#[test]
fn a_captured_first_flight_opens_nothing_anywhere_at_any_time() {
    if needs::root_and(&TOOLS) {
        knock_again().unwrap();
    }
}

fn knock_again() -> Result<()> {
    let mut world = Internet::new("knock")?;
    world.add_connector(None)?;
    let capture = Capture::of(&world.middle)?;
    let host = world.edge_that_cuts("device")?;
    world.start_device(host, Vec::new())?;
    let flights = first_flights(&capture.take()?);
    ensure!(flights.len() >= 2, "of enrollment and channel: {flights:?}");
    let all: Vec<Vec<u8>> = flights.values().flatten().cloned().collect();
    world.publish("echo", 0, "quic")?;
    let (_forward, address) = world.forward(0, "echo")?;
    let (stranger, foreign) = (Stranger::new(&mut world)?, Foreign::new(&mut world)?);
    let before = knocks(&world.deployment)?;
    let host = &world.device(0)?.host;
    let again = || -> Result<()> {
        // At once, and a second later.
        stranger.hears_nothing_of(&capture, CHANNEL_PORT, &all, SILENCE)?;
        stranger.listens(&capture, Duration::from_secs(1))?;
        stranger.hears_nothing_of(&capture, CHANNEL_PORT, &all, SILENCE)?;
        // To another port, and to another controller.
        stranger.hears_nothing_of(&capture, RELAY_PORT, &all, SILENCE)?;
        stranger.sends(foreign.address, &all)?;
        foreign.hears_strangers(all.len())?;
        stranger.listens(&capture, SILENCE)?;
        stranger.hears_nothing_of(&capture, CHANNEL_PORT, &flipped(&all), SILENCE)
    };
    let ((), rounds) = Volley::during(host, &address, again)?;
    let after = knocks(&world.deployment)?;
    let more = |kind: &str| after[kind].as_u64().unwrap_or(0) - before[kind].as_u64().unwrap_or(0);
    eprintln!(
        "{} first datagrams, longest round meanwhile {:?}: {after}",
        all.len(),
        rounds.longest()
    );
    let sent = u64::try_from(all.len())?;
    ensure!(more("replayed") == 2 * sent, "{before} {after}");
    let made_up = more("unknown") + more("forged");
    ensure!(made_up == 20 * sent, "{before} {after}");
    ensure!(more("opened") == 0, "{before} {after}");
    // In the name of him who sent it first, whose connection that is.
    let ((), _) = Volley::during(host, &address, || {
        let forger = world.middle.within(Forger::new)?;
        let Some(SocketAddr::V4(from)) = flights.keys().last().copied() else {
            bail!("the last flight was of another family");
        };
        let to = SocketAddrV4::new(CONTROLLER.parse()?, CHANNEL_PORT);
        all.iter().try_for_each(|one| forger.send(from, to, one))?;
        stranger.listens(&capture, SILENCE)
    })?;
    ensure!(
        connections(&world)? == 1,
        "{}",
        world.device(0)?.program.said()
    );
    restarted(&mut world, &capture, &stranger, &all)
}

/// After a restart everything that was captured before is too old.
fn restarted(
    world: &mut Internet,
    capture: &Capture,
    stranger: &Stranger,
    all: &[Vec<u8>],
) -> Result<()> {
    world.deployment.stop_controller()?;
    world.start_controller()?;
    let deadline = now() + PATIENCE;
    while connections(world)? < 2 {
        ensure!(now() < deadline, "{}", world.device(0)?.program.said());
        stranger.listens(capture, SILENCE)?;
    }
    stranger.hears_nothing_of(capture, CHANNEL_PORT, all, SILENCE)?;
    let knocks = knocks(&world.deployment)?;
    let refused = ["late", "unknown", "replayed"].map(|kind| knocks[kind].as_u64().unwrap_or(0));
    ensure!(
        refused.iter().sum::<u64>() >= u64::try_from(all.len())?,
        "{knocks}"
    );
    ensure!(refused[0] > 0, "{knocks}");
    Ok(())
}

/// How often the device has said that it is connected.
fn connections(world: &Internet) -> Result<usize> {
    let said = world.device(0)?.program.said();
    Ok(said.matches("connected to").count())
}

#[test]
fn a_captured_datagram_of_a_tunnel_is_worth_nothing_on_any_way() {
    if needs::root_and(&TOOLS) {
        tunnel_again().unwrap();
    }
}

fn tunnel_again() -> Result<()> {
    let mut world = Internet::new("again")?;
    let host = world.edge_that_cuts("connector")?;
    world.start_connector(host, Vec::new())?;
    let host = world.edge_that_cuts("device")?;
    world.start_device(host, Vec::new())?;
    let stranger = Stranger::new(&mut world)?;
    for carrier in ["wireguard", "quic"] {
        let capture = Capture::of(&world.middle)?;
        world.publish(carrier, 0, carrier)?;
        let (_forward, address) = world.forward(0, carrier)?;
        world.wait_for(0, carrier, is_direct)?;
        let host = &world.device(0)?.host;
        // A conversation, so that what is captured holds data of both ways.
        let (row, _) = Volley::during(host, &address, || world.row(0, carrier))?;
        ensure!(is_direct(&row), "{row}");
        let captured = Captured::of(&capture.take()?);
        captured.is_complete(carrier)?;
        let ((), rounds) = Volley::during(host, &address, || {
            stranger.listens(&capture, LATE)?;
            again_directly(&stranger, &capture, &captured)?;
            again_at_the_relay(&stranger, &capture, &captured)?;
            again_in_the_relays_name(&world, &capture, &captured)
        })?;
        eprintln!("{carrier}: longest round {:?}", rounds.longest());
        let row = world.row(0, carrier)?;
        ensure!(is_direct(&row), "{row}");
    }
    ensure!(connections(&world)? == 1, "the channel was lost");
    Ok(())
}

/// First datagrams of direct paths, and whatever went through the relay, to both ends' open sockets.
fn again_directly(stranger: &Stranger, capture: &Capture, captured: &Captured) -> Result<()> {
    for end in [captured.device, captured.connector] {
        let to = SocketAddr::new(end, PORT);
        stranger.sends(to, &captured.direct)?;
        stranger.sends(to, &captured.relayed)?;
        // And what is sealed without what the relay reads.
        let bare = captured.relayed.iter().map(|one| one[DATA_HEADER..].into());
        stranger.sends(to, &bare.collect::<Vec<_>>())?;
        stranger.listens(capture, SILENCE)?;
    }
    Ok(())
}

/// Data from where its end is not is dropped. A ticket is worth one question, shorter than itself,
/// and nothing moves before that is answered.
fn again_at_the_relay(stranger: &Stranger, capture: &Capture, captured: &Captured) -> Result<()> {
    let relay = SocketAddr::new(CONTROLLER.parse()?, RELAY_PORT);
    capture.take()?;
    stranger.sends(relay, &captured.relayed)?;
    stranger.listens(capture, SILENCE)?;
    stranger.sends(relay, &captured.tickets)?;
    let answers = stranger.answers(capture, SILENCE)?;
    ensure!(answers.len() <= captured.tickets.len(), "{answers:?}");
    let shortest = captured.tickets.iter().map(Vec::len).min().unwrap_or(0);
    let is_question = |answer: &Packet| {
        let kind = answer.payload.first();
        (kind == Some(&CHALLENGE) || kind == Some(&SEEN)) && answer.payload.len() < shortest
    };
    ensure!(answers.iter().all(is_question), "{answers:?}");
    Ok(())
}

/// What the relay sent to the connector comes again from the relay's address: no handshake is
/// answered twice.
fn again_in_the_relays_name(
    world: &Internet,
    capture: &Capture,
    captured: &Captured,
) -> Result<()> {
    let forger = world.middle.within(Forger::new)?;
    let from = SocketAddrV4::new(CONTROLLER.parse()?, RELAY_PORT);
    capture.take()?;
    for packet in &captured.delivered {
        if let SocketAddr::V4(to) = packet.to {
            forger.send(from, to, &packet.payload)?;
        }
    }
    let deadline = now() + SILENCE;
    while now() < deadline {
        let again = capture.wait(deadline)?;
        let response = again.iter().find(|packet| {
            packet.from.ip() == captured.connector && sealed(packet).first() == Some(&RESPONSE)
        });
        ensure!(response.is_none(), "answered: {response:?}");
    }
    Ok(())
}

#[test]
fn a_ticket_that_is_forged_or_foreign_is_not_answered() {
    if needs::root_and(&TOOLS) {
        misuse_tickets().unwrap();
    }
}

fn misuse_tickets() -> Result<()> {
    let mut world = Internet::new("ticket")?;
    world.add_connector(None)?;
    world.add_device(None)?;
    let (stranger, foreign) = (Stranger::new(&mut world)?, Foreign::new(&mut world)?);
    let capture = Capture::of(&world.middle)?;
    world.publish("echo", 0, "quic")?;
    let _forward = world.forward(0, "echo")?;
    world.wait_for(0, "echo", is_direct)?;
    let packets = capture.take()?;
    let mut binds = packets
        .iter()
        .filter(|packet| packet.is_udp_to(RELAY_PORT) && packet.payload.first() == Some(&BIND));
    let bind = binds
        .next()
        .context("no ticket was captured")?
        .payload
        .clone();
    let relay = SocketAddr::new(CONTROLLER.parse()?, RELAY_PORT);
    // What is answered as it is, and would be for whoever has it.
    stranger.sends(relay, std::slice::from_ref(&bind))?;
    ensure!(stranger.answers(&capture, SILENCE)?.len() == 1, "it holds");
    let mut forged = Vec::new();
    for (at, bit) in (1..bind.len()).zip((0..8).cycle()) {
        let mut one = bind.clone();
        one[at] ^= 1 << bit;
        forged.push(one);
    }
    stranger.sends(relay, &forged)?;
    stranger.listens(&capture, SILENCE)?;
    let other = SocketAddr::new(foreign.address.ip(), RELAY_PORT);
    stranger.sends(other, std::slice::from_ref(&bind))?;
    stranger.listens(&capture, SILENCE)
}

/// What a tunnel sent, once each.
struct Captured {
    device: IpAddr,
    connector: IpAddr,
    /// Between the ends.
    direct: Vec<Vec<u8>>,
    /// Data to the relay, of both ends.
    relayed: Vec<Vec<u8>>,
    /// What goes to the relay with a ticket.
    tickets: Vec<Vec<u8>>,
    /// Data from the relay to the connector.
    delivered: Vec<Packet>,
}

impl Captured {
    fn of(packets: &[Packet]) -> Self {
        let at = |edge: u8| IpAddr::from([198, 51, 100, edge * 4 + 2]);
        let (connector, device) = (at(1), at(2));
        let mut captured = Self {
            device,
            connector,
            direct: Vec::new(),
            relayed: Vec::new(),
            tickets: Vec::new(),
            delivered: Vec::new(),
        };
        for packet in packets {
            let kind = packet.payload.first().copied().unwrap_or_default();
            let payload = packet.payload.clone();
            let list = if packet.is_udp_to(PORT) {
                &mut captured.direct
            } else if packet.is_udp_to(RELAY_PORT) && kind == DATA {
                &mut captured.relayed
            } else if packet.is_udp_to(RELAY_PORT) {
                &mut captured.tickets
            } else {
                if packet.from.port() == RELAY_PORT && packet.to.ip() == connector && kind == DATA {
                    captured.delivered.push(packet.clone());
                }
                continue;
            };
            // What is forwarded shows twice.
            if list.last() != Some(&payload) {
                list.push(payload);
            }
        }
        captured
    }

    /// Whether there is something of everything, so that the rest of the test is about it.
    fn is_complete(&self, carrier: &str) -> Result<()> {
        let counts = [
            self.direct.len(),
            self.relayed.len(),
            self.tickets.len(),
            self.delivered.len(),
        ];
        eprintln!("{carrier}: {counts:?} datagrams: direct, relayed, with tickets, delivered");
        ensure!(counts.iter().all(|count| *count > 0), "{counts:?}");
        for kind in [BIND, PROOF] {
            let has = self.tickets.iter().any(|one| one.first() == Some(&kind));
            ensure!(has, "no frame {kind:#x} was captured");
        }
        let mut delivered = self.delivered.iter();
        let opens = delivered.any(|packet| match carrier {
            "wireguard" => sealed(packet).first() == Some(&INITIATION),
            _ => sealed(packet).first().is_some_and(|byte| byte & 0x80 != 0),
        });
        ensure!(opens, "no first message of {carrier} was captured");
        Ok(())
    }
}

fn sealed(packet: &Packet) -> &[u8] {
    packet.payload.get(DATA_HEADER..).unwrap_or_default()
}

/// The datagrams that begin a connection with the controller, of each socket in the order of their
/// ports' first use.
fn first_flights(packets: &[Packet]) -> BTreeMap<SocketAddr, Vec<Vec<u8>>> {
    let mut flights = BTreeMap::<SocketAddr, Vec<Vec<u8>>>::new();
    for packet in packets {
        // An Initial of version 1 to an id of 20 bytes: RFC 9000 §17.2.2.
        let is_first = packet.is_udp_to(CHANNEL_PORT)
            && packet
                .payload
                .first()
                .is_some_and(|first| first >> 4 == 0xc)
            && packet.payload.get(1..6) == Some(&[0, 0, 0, 1, 20]);
        if is_first {
            let flight = flights.entry(packet.from).or_default();
            flight.push(packet.payload.clone());
        }
    }
    flights
}

/// Each datagram once for every byte of its knock, with one bit of that byte changed.
fn flipped(datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for datagram in datagrams {
        for (byte, bit) in (KNOCK_AT..KNOCK_AT + 20).zip((0..8).cycle()) {
            let mut datagram = datagram.clone();
            datagram[byte] ^= 1 << bit;
            all.push(datagram);
        }
    }
    all
}

/// Somebody at an address of his own.
struct Stranger {
    host: Namespace,
    address: IpAddr,
}

impl Stranger {
    fn new(world: &mut Internet) -> Result<Self> {
        let host = world.edge("stranger")?;
        let address = IpAddr::from([198, 51, 100, world.edges() * 4 + 2]);
        Ok(Self { host, address })
    }

    fn sends(&self, to: SocketAddr, datagrams: &[Vec<u8>]) -> Result<()> {
        send_from(&self.host, to, datagrams).map(drop)
    }

    /// Whatever is on its way to him within a time.
    fn answers(&self, capture: &Capture, time: Duration) -> Result<Vec<Packet>> {
        let deadline = now() + time;
        let mut answers = Vec::new();
        while now() < deadline {
            let mut packets = capture.wait(deadline)?;
            packets.retain(|packet| packet.to.ip() == self.address);
            answers.append(&mut packets);
        }
        Ok(answers)
    }

    fn listens(&self, capture: &Capture, time: Duration) -> Result<()> {
        let answers = self.answers(capture, time)?;
        ensure!(answers.is_empty(), "a stranger was sent {answers:?}");
        Ok(())
    }

    fn hears_nothing_of(
        &self,
        capture: &Capture,
        port: u16,
        datagrams: &[Vec<u8>],
        time: Duration,
    ) -> Result<()> {
        self.sends(SocketAddr::new(CONTROLLER.parse()?, port), datagrams)?;
        self.listens(capture, time)
    }
}

/// Another trust domain's controller.
struct Foreign {
    deployment: Deployment,
    address: SocketAddr,
    _host: Namespace,
}

impl Foreign {
    fn new(world: &mut Internet) -> Result<Self> {
        let host = world.edge("foreign")?;
        let ip = IpAddr::from([198, 51, 100, world.edges() * 4 + 2]);
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions {
            namespace: Some(&host),
            address: &ip.to_string(),
            port: CHANNEL_PORT,
            relay_port: RELAY_PORT,
            ..Default::default()
        })?;
        Ok(Self {
            deployment,
            address: SocketAddr::new(ip, CHANNEL_PORT),
            _host: host,
        })
    }

    /// It has got that many knocks, and knows none of them.
    fn hears_strangers(&self, count: usize) -> Result<()> {
        let deadline = now() + PATIENCE;
        loop {
            let knocks = knocks(&self.deployment)?;
            if knocks["unknown"].as_u64() == Some(u64::try_from(count)?) {
                return Ok(());
            }
            ensure!(now() < deadline, "{knocks}");
        }
    }
}

/// What a controller's status says of knocks.
fn knocks(deployment: &Deployment) -> Result<serde_json::Value> {
    let status: serde_json::Value = serde_json::from_str(&deployment.ctl("status -o json")?)?;
    status.get("knocks").cloned().context("no knocks")
}

/// Where the knock begins: behind kind, version and length. Source: RFC 9000 §17.2.
const KNOCK_AT: usize = 6;

const DATA_HEADER: usize = cardea_proto::relay::DATA_HEADER_BYTES;
const BIND: u8 = 0x30;
const DATA: u8 = 0x32;
const CHALLENGE: u8 = 0x33;
const PROOF: u8 = 0x34;
const SEEN: u8 = 0x37;

/// WireGuard's first two messages. Source: the WireGuard paper §5.4.
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
