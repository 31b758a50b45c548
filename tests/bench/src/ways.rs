//! What a detour costs: the same port forward on a direct path, through the relay, and through the
//! relay by TLS.
//!
//! ```text
//!  laptops ──────────────── server: connector, app
//!     └──── middle: controller, relay, front ───┘
//!  walled ───────┘  (UDP is dropped)
//! ```

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    program::{PATIENCE, Program, now, run_ok},
};

use crate::{
    load::{BulkFigure, bulk, source},
    report::{Report, Row, median, percentile},
};

/// Bytes of one bulk transfer.
const BULK_BYTES: u64 = 400_000_000;

/// Row 15 of the targets: through the relay against direct.
const RELAYED: (f64, f64) = (0.7, 0.85);

/// Where the controller is, on the link of the laptops and on that of the walled one.
const MIDDLE: &str = "192.168.78.254";

/// A device, and how `status` calls its way.
const WAYS: [(&str, &str); 3] = [
    ("direct", "direct "),
    ("relay", "relay "),
    ("relay-tls", "relay-tls "),
];

/// One carrier by one way.
struct Contestant {
    carrier: &'static str,
    way: &'static str,
    address: String,
    _forward: Program,
    rounds: Vec<BulkFigure>,
}

/// Measures `rounds` rounds, each carrier by each way once in every round.
///
/// # Errors
/// When a way does not come about, or is not the one that carried.
pub(crate) fn run(report: &mut Report, rounds: u32) -> Result<()> {
    let world = World::start()?;
    let mut contestants = Vec::new();
    for carrier in ["quic", "wireguard"] {
        for (way, _) in WAYS {
            let line = format!("{carrier} --service {}", world.port);
            let (forward, address) = world
                .deployment
                .forward(Some(world.host(way)), way, &line)?;
            contestants.push(Contestant {
                carrier,
                way,
                address,
                _forward: forward,
                rounds: Vec::new(),
            });
        }
    }
    for _ in 0..rounds {
        for contestant in &mut contestants {
            world.measure(contestant)?;
        }
    }
    for contestant in &contestants {
        let is_direct =
            |other: &&Contestant| other.carrier == contestant.carrier && other.way == "direct";
        tell(report, contestant, contestants.iter().find(is_direct));
    }
    Ok(())
}

fn tell(report: &mut Report, contestant: &Contestant, direct: Option<&Contestant>) {
    let Contestant { carrier, way, .. } = contestant;
    let speeds = |of: &Contestant| {
        of.rounds
            .iter()
            .map(|round| round.gbit_s)
            .collect::<Vec<_>>()
    };
    let speed = speeds(contestant);
    let direct = direct.filter(|_| *way != "direct");
    let target = (*way == "relay").then_some(RELAYED);
    if let (Some((floor, _)), Some(direct)) = (target, direct) {
        let ratio = median(&speed) / median(&speeds(direct));
        report.demand(ratio >= floor, "too little goes through the relay");
    }
    report.add(Row {
        case: format!("{carrier} {way}"),
        ours: median(&speed),
        range: (percentile(&speed, 0.0), percentile(&speed, 1.0)),
        peer: direct.map(|direct| ("direct".to_owned(), median(&speeds(direct)))),
        floor: target.map(|(floor, _)| floor),
        goal: target.map(|(_, goal)| goal),
        unit: "Gbit/s",
    });
    let cpu: Vec<f64> = contestant
        .rounds
        .iter()
        .map(|round| round.cpu_s_per_gb)
        .collect();
    report.add(Row {
        case: format!("{carrier} {way} cpu"),
        ours: median(&cpu),
        range: (percentile(&cpu, 0.0), percentile(&cpu, 1.0)),
        peer: None,
        floor: None,
        goal: None,
        unit: "CPU-s/GB",
    });
}

/// Everything that runs, until it is dropped.
struct World {
    deployment: Deployment,
    laptops: Namespace,
    walled: Namespace,
    port: u16,
    _others: [Namespace; 2],
    _nodes: Vec<Program>,
}

/// The hosts: two for laptops, one of which lets no UDP out, one with the app, and what is between.
struct Hosts {
    laptops: Namespace,
    walled: Namespace,
    server: Namespace,
    middle: Namespace,
}

impl Hosts {
    fn new() -> Result<Self> {
        let (laptops, walled) = (
            Namespace::new("ways", "near")?,
            Namespace::new("ways", "wall")?,
        );
        let (server, middle) = (
            Namespace::new("ways", "far")?,
            Namespace::new("ways", "mid")?,
        );
        laptops.link(
            "wire",
            "192.168.77.1/24",
            &server,
            "wire",
            "192.168.77.2/24",
        )?;
        laptops.link(
            "mid",
            "192.168.78.1/24",
            &middle,
            "near",
            "192.168.78.254/24",
        )?;
        server.link(
            "mid",
            "192.168.79.2/24",
            &middle,
            "far",
            "192.168.79.254/24",
        )?;
        walled.link(
            "mid",
            "192.168.80.3/24",
            &middle,
            "wall",
            "192.168.80.254/24",
        )?;
        server.route("192.168.79.254")?;
        walled.route("192.168.80.254")?;
        walled.nft(
            "table inet wall {\n\
             chain in { type filter hook input priority 0; meta l4proto udp drop\n }\n\
             chain out { type filter hook output priority 0; meta l4proto udp drop\n }\n}\n",
        )?;
        Ok(Self {
            laptops,
            walled,
            server,
            middle,
        })
    }
}

impl World {
    fn start() -> Result<Self> {
        let Hosts {
            laptops,
            walled,
            server,
            middle,
        } = Hosts::new()?;
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions {
            namespace: Some(&middle),
            address: MIDDLE,
            port: 7443,
            relay_port: 7444,
            more: &[
                "--allow-simulated-posture",
                "--listen-tls",
                "192.168.78.254:443",
            ],
            ..ControllerOptions::default()
        })?;
        let port = server.within(source)?.port();
        for carrier in ["quic", "wireguard"] {
            deployment.ctl(&format!(
                "app add {carrier} --target 127.0.0.1:{port} --allow-host-scoped --allow everyone \
                 --transport {carrier}"
            ))?;
        }
        let mut nodes = vec![deployment.start_connector(Some(&server), "connector", "default")?];
        let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
        for (way, _) in WAYS {
            let host = if way == "relay-tls" {
                &walled
            } else {
                &laptops
            };
            let code = deployment.ctl("invite device --user alice@corp.example --group staff")?;
            let mut arguments = deployment.node_arguments("up", way, &code)?;
            arguments.extend(["--facts-from".into(), facts.clone().into_os_string()]);
            if way == "relay" {
                arguments.push("--relay-only".into());
            }
            let command = deployment.program(Some(host), "cardea", arguments);
            let mut node = Program::start(way, command)?;
            node.wait_for("connected to")?;
            nodes.push(node);
        }
        Ok(Self {
            deployment,
            laptops,
            walled,
            port,
            _others: [server, middle],
            _nodes: nodes,
        })
    }

    fn host(&self, way: &str) -> &Namespace {
        match way {
            "relay-tls" => &self.walled,
            _ => &self.laptops,
        }
    }

    /// One transfer, which nothing but its own way has carried.
    fn measure(&self, contestant: &mut Contestant) -> Result<()> {
        let (host, address) = (self.host(contestant.way), &contestant.address);
        // Has the tunnel opened, and its path found.
        host.within(|| bulk(address, 1))?;
        self.wait_for_way(contestant)?;
        let figure = host.within(|| bulk(address, BULK_BYTES));
        let Contestant { carrier, way, .. } = contestant;
        let figure = figure.with_context(|| format!("{carrier} {way}"))?;
        let path = self.path(contestant)?;
        ensure!(is_way(contestant.way, &path), "{}: {path}", contestant.way);
        contestant.rounds.push(figure);
        Ok(())
    }

    fn wait_for_way(&self, contestant: &Contestant) -> Result<()> {
        let deadline = now() + PATIENCE;
        loop {
            let path = self.path(contestant)?;
            if is_way(contestant.way, &path) {
                return Ok(());
            }
            ensure!(now() < deadline, "{}: {path}", contestant.way);
        }
    }

    /// How `status` calls the path of a tunnel; empty while there is none.
    fn path(&self, contestant: &Contestant) -> Result<String> {
        let host = self.host(contestant.way);
        let line = "status -o json";
        let status = run_ok(self.deployment.cardea(Some(host), contestant.way, line))?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let apps = status.pointer("/apps").and_then(|apps| apps.as_array());
        let mut apps = apps.context("no apps")?.iter();
        let is_wanted = |row: &&serde_json::Value| {
            row.get("name").and_then(|name| name.as_str()) == Some(contestant.carrier)
        };
        let path = apps
            .find(is_wanted)
            .and_then(|row| row.get("path")?.as_str());
        Ok(path.unwrap_or_default().to_owned())
    }
}

fn is_way(way: &str, path: &str) -> bool {
    let word = WAYS.iter().find(|(name, _)| *name == way);
    word.is_some_and(|(_, word)| path.starts_with(word))
}
