//! The packet path: ours over each carrier against wireguard-go, boringtun and gotatun, and against no
//! tunnel at all.
//!
//! Two hosts (network namespaces) with one veth pair between them, MTU 1500; ours also has a third
//! host with its controller and relay, which it begins through.

mod load;
mod peers;
mod picture;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    program::{Program, run_ok},
};

use self::{
    load::{Figures, Measured},
    peers::Peer,
    picture::{Bar, Group},
};
use crate::report::{Report, Row, median, percentile};

/// Port of the load's server.
pub(crate) const PORT: u16 = 5_201;

/// What a figure is called, how it is taken from a round, and its unit.
type Taken = (&'static str, fn(&Measured) -> f64, &'static str);

/// Every figure of a round.
const FIGURES: [Taken; 13] = [
    ("TCP, 1 stream", |round| round.tcp1.gbit_s, "Gbit/s"),
    (
        "TCP, 1 stream, CPU",
        |round| round.tcp1.cpu_s_per_gb,
        "CPU-s/GB",
    ),
    (
        "TCP, 1 stream, retransmits",
        |round| round.tcp1.retransmits,
        "",
    ),
    (
        "TCP, 1 stream, backwards",
        |round| round.back.gbit_s,
        "Gbit/s",
    ),
    ("TCP, 4 streams", |round| round.tcp4.gbit_s, "Gbit/s"),
    (
        "TCP, 4 streams, CPU",
        |round| round.tcp4.cpu_s_per_gb,
        "CPU-s/GB",
    ),
    (
        "TCP, 4 streams, retransmits",
        |round| round.tcp4.retransmits,
        "",
    ),
    ("UDP, 64 B, received", |round| round.udp_small, "kpps"),
    ("UDP, 1280 B, received", |round| round.udp_large, "kpps"),
    ("ping p50", |round| round.idle.0, "µs"),
    ("ping p99", |round| round.idle.1, "µs"),
    ("ping under load p50", |round| round.loaded.0, "µs"),
    ("ping under load p99", |round| round.loaded.1, "µs"),
];

/// Floors and goals as ratios to a peer: figure, carrier, peer, floor, goal.
const TARGETS: [(&str, &str, &str, f64, f64); 14] = [
    ("TCP, 1 stream", "wireguard", "wireguard-go", 1.7, 2.5),
    ("TCP, 1 stream", "wireguard", "boringtun", 4.5, 6.0),
    ("TCP, 1 stream", "wireguard", "gotatun", 3.5, 5.0),
    ("TCP, 1 stream", "quic", "wireguard-go", 1.3, 3.5),
    ("TCP, 1 stream", "quic", "boringtun", 3.5, 9.0),
    ("TCP, 1 stream", "quic", "gotatun", 2.7, 7.0),
    ("UDP, 64 B, received", "wireguard", "boringtun", 1.5, 2.0),
    ("UDP, 64 B, received", "wireguard", "gotatun", 1.5, 2.0),
    ("UDP, 64 B, received", "wireguard", "wireguard-go", 2.5, 3.5),
    ("UDP, 64 B, received", "quic", "boringtun", 1.5, 2.0),
    ("UDP, 64 B, received", "quic", "gotatun", 1.5, 2.0),
    ("UDP, 64 B, received", "quic", "wireguard-go", 2.5, 3.5),
    ("ping p50", "wireguard", "boringtun", 1.1, 1.0),
    ("ping p50", "wireguard", "wireguard-go", 0.6, 0.55),
];

/// Those of the picture.
const DRAWN: [&str; 4] = [
    "TCP, 1 stream",
    "TCP, 1 stream, CPU",
    "UDP, 64 B, received",
    "ping p50",
];

/// No tunnel at all.
const BARE: &str = "veth";

/// One way between the two hosts, with everything measured on it.
struct Contestant {
    name: String,
    address: String,
    rounds: Vec<Measured>,
}

/// Measures `rounds` rounds, each contestant once in every round; `only` leaves others out, and
/// `picture` is a file for what is most asked about.
///
/// # Errors
/// When a contestant cannot be started or fails under load.
pub(crate) fn run(
    report: &mut Report,
    rounds: u32,
    only: Option<&str>,
    picture: Option<&Path>,
) -> Result<()> {
    let hosts = Hosts::new()?;
    let wants = |name: &str| only.is_none_or(|only| only.split(',').any(|one| name == one));
    let _server = hosts.server()?;
    let ours = wants("cardea").then(|| Ours::start(&hosts)).transpose()?;
    let mut peers = Vec::new();
    for peer in Peer::ALL {
        if wants(peer.name) {
            peers.push(peer.start(&hosts)?);
        }
    }
    let mut contestants = vec![Contestant {
        name: BARE.to_owned(),
        address: SERVER.to_owned(),
        rounds: Vec::new(),
    }];
    let named = ours.iter().flat_map(|ours| ours.addresses.iter().cloned());
    let peers_named = peers
        .iter()
        .map(|peer| (peer.name.to_owned(), peer.address.clone()));
    contestants.extend(named.chain(peers_named).map(|(name, address)| Contestant {
        name,
        address,
        rounds: Vec::new(),
    }));
    for _ in 0..rounds {
        for contestant in &mut contestants {
            let round = Figures {
                hosts: &hosts,
                address: &contestant.address,
            };
            let measured = round.measure().with_context(|| contestant.name.clone())?;
            contestant.rounds.push(measured);
        }
    }
    for contestant in &contestants {
        tell(report, contestant, &contestants);
    }
    if let Some(file) = picture {
        fs::write(file, picture::draw(&groups(&contestants)))?;
    }
    Ok(())
}

/// The figures of the picture; without the bare pair, beside which all else would be short.
fn groups(contestants: &[Contestant]) -> Vec<Group> {
    let tunnels = || contestants.iter().filter(|one| one.name != BARE);
    let drawn = FIGURES.iter().filter(|(figure, ..)| DRAWN.contains(figure));
    let group = |(title, take, unit): &Taken| Group {
        title,
        unit,
        bars: tunnels().map(|one| bar(one, *take)).collect(),
    };
    drawn.map(group).collect()
}

fn bar(of: &Contestant, take: fn(&Measured) -> f64) -> Bar {
    let values: Vec<f64> = of.rounds.iter().map(take).collect();
    Bar {
        name: of.name.clone(),
        median: median(&values),
        range: (percentile(&values, 0.0), percentile(&values, 1.0)),
    }
}

fn tell(report: &mut Report, contestant: &Contestant, all: &[Contestant]) {
    let values = |of: &Contestant, take: fn(&Measured) -> f64| -> Vec<f64> {
        of.rounds.iter().map(take).collect()
    };
    for (figure, take, unit) in FIGURES {
        let ours = values(contestant, take);
        let row = |peer, floor, goal| Row {
            case: format!("{} {figure}", contestant.name),
            ours: median(&ours),
            range: (percentile(&ours, 0.0), percentile(&ours, 1.0)),
            peer,
            floor,
            goal,
            unit,
        };
        let carrier = contestant.name.strip_prefix("cardea ");
        let targets = TARGETS
            .iter()
            .filter(|(of, by, ..)| *of == figure && Some(*by) == carrier);
        let mut told = false;
        for (_, _, peer, floor, goal) in targets {
            if let Some(peer) = all.iter().find(|other| other.name == *peer) {
                let theirs = median(&values(peer, take));
                report.add(row(
                    Some((peer.name.clone(), theirs)),
                    Some(*floor),
                    Some(*goal),
                ));
                told = true;
            }
        }
        if !told {
            report.add(row(None, None, None));
        }
    }
    if contestant.name.starts_with("cardea") {
        let lost = |round: &Measured| round.tcp1.retransmits + round.tcp4.retransmits;
        report.demand(
            contestant.rounds.iter().all(|round| lost(round) == 0.0),
            &format!("{} made TCP repeat itself", contestant.name),
        );
    }
    let one: Vec<f64> = values(contestant, |round| round.tcp4.gbit_s / round.tcp1.gbit_s);
    report.add(Row {
        case: format!("{} TCP, 4 streams to 1", contestant.name),
        ours: median(&one),
        range: (percentile(&one, 0.0), percentile(&one, 1.0)),
        peer: None,
        floor: contestant.name.starts_with("cardea").then_some(0.9),
        goal: contestant.name.starts_with("cardea").then_some(0.95),
        unit: "×",
    });
}

/// The client's and the server's addresses on the veth pair.
pub(crate) const CLIENT: &str = "192.168.77.1";
pub(crate) const SERVER: &str = "192.168.77.2";

/// Both hosts, and the one in the middle that ours begins through.
#[derive(Debug)]
pub(crate) struct Hosts {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    middle: Namespace,
}

impl Hosts {
    fn new() -> Result<Self> {
        let hosts = Self {
            client: Namespace::new("bench", "client")?,
            server: Namespace::new("bench", "server")?,
            middle: Namespace::new("bench", "middle")?,
        };
        let Self {
            client,
            server,
            middle,
        } = &hosts;
        client.link("wire", "192.168.77.1/24", server, "wire", "192.168.77.2/24")?;
        client.link(
            "mid",
            "192.168.78.1/24",
            middle,
            "client",
            "192.168.78.254/24",
        )?;
        server.link(
            "mid",
            "192.168.79.2/24",
            middle,
            "server",
            "192.168.79.254/24",
        )?;
        client.ip("route add 192.168.79.0/24 via 192.168.78.254")?;
        server.ip("route add 192.168.78.0/24 via 192.168.79.254")?;
        Ok(hosts)
    }

    /// What is loaded: one server for every contestant.
    fn server(&self) -> Result<Program> {
        let port = PORT.to_string();
        let words = ["-s", "-p", &port, "--forceflush"];
        let mut server = Program::start("iperf3", self.server.command("iperf3", words))?;
        server.wait_for("listening")?;
        Ok(server)
    }
}

/// A whole deployment with one app for each carrier.
struct Ours {
    _deployment: Deployment,
    _nodes: [Program; 2],
    addresses: Vec<(String, String)>,
}

impl Ours {
    fn start(hosts: &Hosts) -> Result<Self> {
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions {
            namespace: Some(&hosts.middle),
            address: "192.168.78.254",
            port: 7443,
            relay_port: 7444,
            more: &["--allow-simulated-posture"],
            environment: &[],
            ..Default::default()
        })?;
        let carriers = ["wireguard", "quic"];
        for carrier in carriers {
            deployment.ctl(&format!(
                "app add {carrier} --target {SERVER}:{PORT} --target {SERVER}:{PORT}/udp \
                 --allow-host-scoped --allow everyone --transport {carrier}"
            ))?;
        }
        let connector = deployment.start_kernel(Some(&hosts.server), "connector", "default")?;
        let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
        let user = ("alice@corp.example", "staff");
        let laptop =
            deployment.start_interface(Some(&hosts.client), "laptop", user, &facts, &[])?;
        let apps = run_ok(deployment.cardea(None, "laptop", "apps -o json"))?;
        let apps: serde_json::Value = serde_json::from_str(&apps)?;
        let mut addresses = Vec::new();
        for carrier in carriers {
            let rows = apps.as_array().context("no list")?;
            let row = rows.iter().find(|row| row["name"] == carrier);
            let address = row.and_then(|row| row.pointer("/addresses/0")?.as_str());
            let address = address.context("no address")?.to_owned();
            addresses.push((format!("cardea {carrier}"), address));
        }
        Ok(Self {
            _deployment: deployment,
            _nodes: [connector, laptop],
            addresses,
        })
    }
}
