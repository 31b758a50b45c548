//! Port forwards without root: ours over both carriers, against direct, haproxy mTLS and `ssh -L`.

use anyhow::Result;
use cardea_e2e::{
    deployment::{Deployment, GOOD_FACTS},
    program::Program,
};

use crate::{
    agent::deployment,
    load::{BulkFigure, ConnectFigure, bulk, connections, source},
    peers::Peer,
    report::{Report, Row, median, percentile},
};

/// Bytes of one bulk transfer.
const BULK_BYTES: u64 = 1_000_000_000;

/// Short connections of one round, and how many of them at a time.
const CONNECTIONS: (u64, u64) = (2_000, 8);

/// One way from the client to the source, with everything measured on it.
struct Contestant {
    name: String,
    address: String,
    bulk: Vec<BulkFigure>,
    connect: Vec<ConnectFigure>,
}

/// Measures `rounds` rounds, each contestant once in every round.
///
/// # Errors
/// When a contestant cannot be started or fails under load.
pub(crate) fn run(report: &mut Report, rounds: u32) -> Result<()> {
    let source = source()?;
    let ours = Ours::start(source.port())?;
    let peers = [
        Peer::direct(source),
        Peer::haproxy(source)?,
        Peer::ssh(source)?,
    ];
    let named = ours
        .forwards
        .iter()
        .map(|(name, _, address)| (name.clone(), address.clone()));
    let named = named.chain(
        peers
            .iter()
            .map(|peer| (peer.name.to_owned(), peer.address.clone())),
    );
    let mut contestants: Vec<Contestant> = named
        .map(|(name, address)| Contestant {
            name,
            address,
            bulk: Vec::new(),
            connect: Vec::new(),
        })
        .collect();
    for _ in 0..rounds {
        for contestant in &mut contestants {
            contestant.bulk.push(bulk(&contestant.address, BULK_BYTES)?);
        }
        for contestant in &mut contestants {
            let (total, at_once) = CONNECTIONS;
            contestant
                .connect
                .push(connections(&contestant.address, total, at_once)?);
        }
    }
    let (ours, peers) = contestants.split_at(2);
    for own in ours {
        compare(report, own, peers);
    }
    for contestant in &contestants {
        costs(report, contestant);
    }
    Ok(())
}

/// Rows 6 and 7 of the targets: floors and goals as ratios to each peer.
fn compare(report: &mut Report, ours: &Contestant, peers: &[Contestant]) {
    for peer in peers {
        let (bulk_floor, bulk_goal, connect_floor, connect_goal) = match peer.name.as_str() {
            "haproxy mTLS" => (Some(0.9), Some(1.5), Some(5.0), Some(10.0)),
            "ssh -L" => (Some(1.4), Some(2.2), Some(1.0), Some(1.7)),
            _ => (None, None, None, None),
        };
        let speed: Vec<f64> = ours.bulk.iter().map(|figure| figure.gbit_s).collect();
        let peer_speed: Vec<f64> = peer.bulk.iter().map(|figure| figure.gbit_s).collect();
        report.add(Row {
            case: format!("{} bulk", ours.name),
            ours: median(&speed),
            range: range(&speed),
            peer: Some((peer.name.clone(), median(&peer_speed))),
            floor: bulk_floor,
            goal: bulk_goal,
            unit: "Gbit/s",
        });
        let rate: Vec<f64> = ours
            .connect
            .iter()
            .map(|figure| figure.per_second)
            .collect();
        let peer_rate: Vec<f64> = peer
            .connect
            .iter()
            .map(|figure| figure.per_second)
            .collect();
        report.add(Row {
            case: format!("{} new connections", ours.name),
            ours: median(&rate),
            range: range(&rate),
            peer: Some((peer.name.clone(), median(&peer_rate))),
            floor: connect_floor,
            goal: connect_goal,
            unit: "/s",
        });
    }
}

/// CPU for each gigabyte, and how far the slowest connections lie from the usual ones.
fn costs(report: &mut Report, contestant: &Contestant) {
    let cpu: Vec<f64> = contestant
        .bulk
        .iter()
        .map(|figure| figure.cpu_s_per_gb)
        .collect();
    report.add(Row {
        case: format!("{} cpu", contestant.name),
        ours: median(&cpu),
        range: range(&cpu),
        peer: None,
        floor: None,
        goal: None,
        unit: "CPU-s/GB",
    });
    let times: Vec<f64> = contestant
        .connect
        .iter()
        .flat_map(|figure| figure.times_ms.iter().copied())
        .collect();
    report.add(Row {
        case: format!("{} connect p99/p50", contestant.name),
        ours: percentile(&times, 0.99) / median(&times),
        range: range(&times),
        peer: None,
        floor: None,
        goal: Some(3.0),
        unit: "× (range in ms)",
    });
}

fn range(values: &[f64]) -> (f64, f64) {
    (percentile(values, 0.0), percentile(values, 1.0))
}

/// A whole deployment with one forward for each carrier.
struct Ours {
    _deployment: Deployment,
    _nodes: [Program; 2],
    forwards: Vec<(String, Program, String)>,
}

impl Ours {
    fn start(port: u16) -> Result<Self> {
        let deployment = deployment()?;
        for carrier in ["quic", "wireguard"] {
            deployment.ctl(&format!(
                "app add {carrier} --target 127.0.0.1:{port} --allow-host-scoped --allow everyone --transport {carrier}"
            ))?;
        }
        let connector = deployment.start_connector(None, "connector", "default")?;
        let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
        let user = "alice@corp.example";
        let laptop = deployment.start_device(None, "laptop", user, "staff", Some(&facts))?;
        let mut forwards = Vec::new();
        for carrier in ["quic", "wireguard"] {
            let (program, address) = deployment.forward(None, "laptop", carrier)?;
            forwards.push((format!("cardea {carrier}"), program, address));
        }
        Ok(Self {
            _deployment: deployment,
            _nodes: [connector, laptop],
            forwards,
        })
    }
}
