//! Ways past the relay, between real programs behind real NATs.
//!
//! ```text
//!  device ── NAT ──┐                               ┌── NAT ── connector, app
//!                  ├── internet: controller, relay ─┤
//!  device ── NAT ──┘                               └── NAT ── connector, app
//! ```
#![expect(
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "what a test does outside of its test function may panic as well, and it tells figures"
)]

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    nat::NatKind,
    needs,
    program::{PATIENCE, Program, now, run},
    traffic::{Volley, tcp_echo},
};
use rustix::process::Signal;
use serde_json::Value;

/// What these tests run beside our programs.
const TOOLS: [&str; 3] = ["ip", "nft", "sysctl"];

#[test]
fn a_direct_path_is_used_within_a_second_and_left_within_two_when_it_dies() {
    if needs::root_and(&TOOLS) {
        use_and_lose().unwrap();
    }
}

fn use_and_lose() -> Result<()> {
    let mut world = World::new("lose")?;
    world.add_connector(None)?;
    world.add_device(None)?;
    for carrier in ["wireguard", "quic"] {
        let app = format!("echo-{carrier}");
        world.publish(&app, 0, carrier)?;
        let (_forward, address) = world.forward(0, &app)?;
        let opened = now();
        world.wait_for(0, &app, is_direct)?;
        let took = now().duration_since(opened);
        eprintln!("{carrier}: direct {took:?} after open");
        ensure!(took < Duration::from_secs(1), "{carrier}: {took:?}");
        for hole in ["", "udp length > 1000"] {
            world.wait_for(0, &app, is_direct)?;
            let gap = world.lose_path(&app, &address, hole)?;
            eprintln!("{carrier}: {gap:?} without an answer, hole: {hole:?}");
            ensure!(gap < Duration::from_secs(2), "{carrier} {hole:?}: {gap:?}");
        }
    }
    Ok(())
}

#[test]
fn a_tunnel_whose_other_end_hangs_does_not_read_open() {
    if needs::root_and(&TOOLS) {
        hang().unwrap();
    }
}

fn hang() -> Result<()> {
    let mut world = World::new("hang")?;
    world.add_connector(None)?;
    world.add_device(None)?;
    for carrier in ["wireguard", "quic"] {
        let app = format!("echo-{carrier}");
        world.publish(&app, 0, carrier)?;
        let _forward = world.forward(0, &app)?;
        world.wait_for(0, &app, is_direct)?;
        let connector = &world.nodes[0].program;
        connector.signal(Signal::STOP)?;
        let stopped = now();
        let row = world.wait_for(0, &app, |row| row["state"] != "open")?;
        let took = now().duration_since(stopped);
        connector.signal(Signal::CONT)?;
        eprintln!("{carrier}: {} after {took:?}", row["state"]);
        ensure!(
            row["state"] == "unreachable" && row["path"].is_null(),
            "{row}"
        );
        ensure!(took < Duration::from_millis(2_500), "{carrier}: {took:?}");
        world.wait_for(0, &app, |row| row["state"] == "open")?;
    }
    Ok(())
}

#[test]
fn every_pair_of_nats_that_lets_ice_meet_lets_a_tunnel_go_directly() {
    if needs::root_and(&TOOLS) {
        meet_everywhere().unwrap();
    }
}

fn meet_everywhere() -> Result<()> {
    let mut world = World::new("nats")?;
    for kind in KINDS {
        world.add_connector(kind)?;
    }
    for site in 0..KINDS.len() {
        world.publish(&format!("app{site}"), site, "quic")?;
    }
    for kind in KINDS {
        world.add_device(kind)?;
    }
    let mut forwards = Vec::new();
    for device in 0..KINDS.len() {
        for site in 0..KINDS.len() {
            forwards.push(world.forward(device, &format!("app{site}"))?);
        }
    }
    let mut table = String::new();
    let mut wrong = Vec::new();
    for (device, at_device) in KINDS.iter().enumerate() {
        for (site, at_connector) in KINDS.iter().enumerate() {
            let app = format!("app{site}");
            let expected = ice_meets(*at_device, *at_connector);
            let row = if expected {
                world.wait_for(device, &app, is_direct)?
            } else {
                world.row(device, &app)?
            };
            if is_direct(&row) != expected || row["state"] != "open" {
                wrong.push(format!("{at_device:?} {at_connector:?}: {row}"));
            }
            table += if is_direct(&row) {
                " direct |"
            } else {
                " relay |"
            };
        }
        table += "\n";
    }
    eprintln!("{table}");
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn double_nats_hairpins_and_ipv6_alone_are_no_hindrance() {
    if needs::root_and(&TOOLS) {
        meet_oddly().unwrap();
    }
}

fn meet_oddly() -> Result<()> {
    let mut world = World::new("odd")?;
    // Two NATs in a row, as behind a carrier's, at the device.
    world.add_connector(Some(NatKind::PortRestricted))?;
    world.publish("double", 0, "quic")?;
    world.add_device_behind_two(NatKind::PortRestricted)?;
    // Both behind one NAT that turns packets to its own address around, in two networks that do not
    // reach each other.
    let (device, site) = world.add_hairpin()?;
    world.publish("hairpin", site, "quic")?;
    // A device that has IPv6 alone, and a connector that has both.
    let both = world.edge("both")?;
    world.add_ipv6(&both, "wan")?;
    world.start_connector(both, Vec::new())?;
    world.publish("six", world.sites.len() - 1, "wireguard")?;
    let alone = world.edge("six")?;
    world.add_ipv6(&alone, "wan")?;
    alone.ip(&format!(
        "addr del 198.51.100.{}/30 dev wan",
        world.edges * 4 + 2
    ))?;
    world.start_device(alone, Vec::new())?;
    let six = world.devices.len() - 1;
    let _forwards = (
        world.forward(0, "double")?,
        world.forward(device, "hairpin")?,
        world.forward(six, "six")?,
    );
    // And one that has IPv4 alone, which the relay brings together with it.
    let (_forward, address) = world.forward(six, "double")?;
    let device6 = &world.device(six).host;
    device6.within(|| Volley::open(&address)?.play(|| false))?;
    ensure!(!is_direct(&world.row(six, "double")?), "there is no way");
    let row = world.wait_for(six, "six", is_direct)?;
    let path = row["path"].as_str().context("no path")?;
    ensure!(path.starts_with("direct [2001:db8:"), "{path}");
    world.wait_for(0, "double", is_direct)?;
    let row = world.wait_for(device, "hairpin", is_direct)?;
    let path = row["path"].as_str().context("no path")?;
    ensure!(
        path.starts_with("direct 198.51.100."),
        "by its outer address: {path}"
    );
    Ok(())
}

/// `None` is a host without a NAT.
const KINDS: [Option<NatKind>; 5] = [
    None,
    Some(NatKind::FullCone),
    Some(NatKind::Restricted),
    Some(NatKind::PortRestricted),
    Some(NatKind::Symmetric),
];

/// Whether checks from both sides meet, which fails where one side's address is another one for each
/// peer and the other side's filter looks at ports (RFC 8445, RFC 4787 §4 and §5).
fn ice_meets(one: Option<NatKind>, other: Option<NatKind>) -> bool {
    let blind = |one, other| {
        one == Some(NatKind::Symmetric)
            && matches!(other, Some(NatKind::PortRestricted | NatKind::Symmetric))
    };
    !blind(one, other) && !blind(other, one)
}

fn is_direct(row: &Value) -> bool {
    row["path"]
        .as_str()
        .is_some_and(|path| path.starts_with("direct "))
}

/// An internet with a controller, and nodes at its edges.
struct World {
    test: &'static str,
    internet: Namespace,
    deployment: Deployment,
    nodes: Vec<Node>,
    devices: Vec<usize>,
    sites: Vec<usize>,
    edges: u8,
}

struct Node {
    name: String,
    host: Namespace,
    program: Program,
    _around: Vec<Namespace>,
}

/// The UDP port for direct paths, which NATs must know to let strangers in.
const PORT: u16 = 4_711;

const CONTROLLER: &str = "203.0.113.1";
const CONTROLLER_V6: &str = "2001:db8:ffff::1";

impl World {
    fn new(test: &'static str) -> Result<Self> {
        let internet = Namespace::new(test, "net")?;
        run_forwarding(&internet)?;
        internet.ip(&format!("addr add {CONTROLLER}/32 dev lo"))?;
        internet.ip(&format!("addr add {CONTROLLER_V6}/128 dev lo nodad"))?;
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions {
            namespace: Some(&internet),
            address: CONTROLLER,
            listen: Some("[::]"),
            port: 7443,
            relay_port: 7444,
            more: &[
                "--allow-simulated-posture",
                "--advertise",
                &format!("[{CONTROLLER_V6}]:7443"),
                "--relay-address",
                &format!("{CONTROLLER}:7444"),
                "--relay-address",
                &format!("[{CONTROLLER_V6}]:7444"),
            ],
            environment: &[],
        })?;
        deployment.set_for_nodes("CARDEA_DIRECT_PORT", &PORT.to_string());
        Ok(Self {
            test,
            internet,
            deployment,
            nodes: Vec::new(),
            devices: Vec::new(),
            sites: Vec::new(),
            edges: 0,
        })
    }

    /// A namespace at the edge of the internet, with a public address on `wan`.
    fn edge(&mut self, role: &str) -> Result<Namespace> {
        self.edges += 1;
        let edge = self.edges;
        let namespace = Namespace::new(self.test, &format!("{role}{edge}"))?;
        let net = edge * 4;
        self.internet.link(
            &format!("e{edge}"),
            &format!("198.51.100.{}/30", net + 1),
            &namespace,
            "wan",
            &format!("198.51.100.{}/30", net + 2),
        )?;
        // The relay's socket is for both families; what it sends carries the address it is known by.
        self.internet.ip(&format!(
            "route change 198.51.100.{net}/30 dev e{edge} src {CONTROLLER}"
        ))?;
        namespace.route(&format!("198.51.100.{}", net + 1))?;
        Ok(namespace)
    }

    /// A host behind `nat` in a network of its own.
    fn behind(&self, nat: &Namespace, name: &str, lan: &str, net: &str) -> Result<Namespace> {
        let host = Namespace::new(self.test, name)?;
        host.link(
            "lan",
            &format!("{net}.2/24"),
            nat,
            lan,
            &format!("{net}.1/24"),
        )?;
        host.route(&format!("{net}.1"))?;
        Ok(host)
    }

    /// Gives the host of the latest edge an IPv6 address of the internet, beside what it has.
    fn add_ipv6(&self, host: &Namespace, device: &str) -> Result<()> {
        let edge = self.edges;
        let (here, there) = (format!("2001:db8:{edge}::1"), format!("2001:db8:{edge}::2"));
        self.internet
            .ip(&format!("addr add {here}/64 dev e{edge} nodad"))?;
        self.internet.ip(&format!(
            "-6 route replace 2001:db8:{edge}::/64 dev e{edge} src {CONTROLLER_V6} metric 100"
        ))?;
        host.ip(&format!("addr add {there}/64 dev {device} nodad"))?;
        host.ip(&format!("-6 route add default via {here}"))
    }

    fn host(&mut self, kind: Option<NatKind>) -> Result<(Namespace, Vec<Namespace>)> {
        let Some(kind) = kind else {
            return Ok((self.edge("host")?, Vec::new()));
        };
        let nat = self.edge("nat")?;
        let net = format!("10.{}.0", self.edges);
        let host = self.behind(&nat, &format!("host{}", self.edges), "lan", &net)?;
        nat.nat(kind, &format!("{net}.2"), PORT)?;
        Ok((host, vec![nat]))
    }

    fn add_connector(&mut self, kind: Option<NatKind>) -> Result<()> {
        let (host, nats) = self.host(kind)?;
        self.start_connector(host, nats)
    }

    /// A connector of a site of its own, beside an echo.
    fn start_connector(&mut self, host: Namespace, nats: Vec<Namespace>) -> Result<()> {
        let number = self.sites.len();
        let name = format!("connector{number}");
        let apps = Namespace::new(self.test, &format!("apps{number}"))?;
        host.link("apps", "10.99.1.1/24", &apps, "eth", "10.99.1.10/24")?;
        apps.within(|| tcp_echo("10.99.1.10:80"))?;
        self.deployment.ctl(&format!("site add site{number}"))?;
        let program =
            self.deployment
                .start_connector(Some(&host), &name, &format!("site{number}"))?;
        self.sites.push(self.nodes.len());
        self.nodes.push(Node {
            name,
            host,
            program,
            _around: nats.into_iter().chain([apps]).collect(),
        });
        Ok(())
    }

    fn add_device(&mut self, kind: Option<NatKind>) -> Result<()> {
        let (host, nats) = self.host(kind)?;
        self.start_device(host, nats)
    }

    fn start_device(&mut self, host: Namespace, nats: Vec<Namespace>) -> Result<()> {
        let name = format!("device{}", self.devices.len());
        let facts = self.deployment.write_facts(&name, GOOD_FACTS)?;
        let program = self.deployment.start_device(
            Some(&host),
            &name,
            "alice@corp.example",
            "staff",
            Some(&facts),
        )?;
        self.devices.push(self.nodes.len());
        self.nodes.push(Node {
            name,
            host,
            program,
            _around: nats,
        });
        Ok(())
    }

    fn add_device_behind_two(&mut self, kind: NatKind) -> Result<()> {
        let outer = self.edge("nat")?;
        let edge = self.edges;
        let inner = Namespace::new(self.test, &format!("inner{edge}"))?;
        let net = format!("10.{edge}.1");
        inner.link(
            "wan",
            &format!("{net}.2/24"),
            &outer,
            "lan",
            &format!("{net}.1/24"),
        )?;
        inner.route(&format!("{net}.1"))?;
        let host = self.behind(
            &inner,
            &format!("host{edge}"),
            "lan",
            &format!("10.{edge}.2"),
        )?;
        outer.nat(kind, &format!("{net}.2"), PORT)?;
        inner.nat(kind, &format!("10.{edge}.2.2"), PORT)?;
        self.start_device(host, vec![inner, outer])
    }

    /// A device and a connector behind one NAT; says which they are.
    fn add_hairpin(&mut self) -> Result<(usize, usize)> {
        let nat = self.edge("nat")?;
        let edge = self.edges;
        let device = self.behind(&nat, &format!("hpd{edge}"), "lan", &format!("10.{edge}.0"))?;
        let site = self.behind(&nat, &format!("hpc{edge}"), "lan2", &format!("10.{edge}.3"))?;
        let public = format!("198.51.100.{}", edge * 4 + 2);
        run_forwarding(&nat)?;
        // Each host has a port of the outer address, from wherever a packet for it comes.
        nat.nft(&format!(
            "table ip nat {{\n\
             chain pre {{ type nat hook prerouting priority -100;\n\
             ip daddr {public} udp dport 4811 dnat to 10.{edge}.0.2:{PORT}\n\
             ip daddr {public} udp dport 4812 dnat to 10.{edge}.3.2:{PORT}\n }}\n\
             chain post {{ type nat hook postrouting priority 100;\n\
             ip saddr 10.{edge}.0.2 udp sport {PORT} snat to {public}:4811\n\
             ip saddr 10.{edge}.3.2 udp sport {PORT} snat to {public}:4812\n\
             oifname \"wan\" masquerade\n }}\n\
             chain guard {{ type filter hook forward priority 0; policy drop;\n\
             ct state established,related accept\n oifname \"wan\" accept\n ct status dnat accept\n }}\n}}\n"
        ))?;
        self.start_connector(site, Vec::new())?;
        self.start_device(device, vec![nat])?;
        Ok((self.devices.len() - 1, self.sites.len() - 1))
    }

    fn publish(&self, app: &str, site: usize, carrier: &str) -> Result<()> {
        let line = format!(
            "app add {app} --site site{site} --target 10.99.1.10:80 --allow group:staff --transport {carrier}"
        );
        self.deployment.ctl(&line).map(drop)
    }

    fn device(&self, device: usize) -> &Node {
        &self.nodes[self.devices[device]]
    }

    fn forward(&self, device: usize, app: &str) -> Result<(Program, String)> {
        let Node { host, name, .. } = self.device(device);
        self.deployment.forward(Some(host), name, app)
    }

    fn row(&self, device: usize, app: &str) -> Result<Value> {
        let Node { host, name, .. } = self.device(device);
        let command = self.deployment.cardea(Some(host), name, "status -o json");
        let status: Value = serde_json::from_slice(&run(command)?.stdout)?;
        let apps = status["apps"].as_array().context("no apps")?;
        let row = apps.iter().find(|row| row["name"] == app);
        row.cloned().context("no such app")
    }

    /// Asks for the status until the row of `app` is as it should be.
    fn wait_for(
        &self,
        device: usize,
        app: &str,
        is_right: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline: Instant = now() + PATIENCE;
        loop {
            let row = self.row(device, app)?;
            if is_right(&row) {
                return Ok(row);
            }
            ensure!(
                now() < deadline,
                "{row}\n{}",
                self.device(device).program.said()
            );
        }
    }

    /// Takes the direct path from under a conversation until the device goes through the relay,
    /// and says how long the longest round took.
    fn lose_path(&self, app: &str, address: &str, hole: &str) -> Result<Duration> {
        let is_on = AtomicBool::new(true);
        let longest = std::thread::scope(|scope| -> Result<Duration> {
            let (began, begins) = mpsc::channel();
            let is_on = &is_on;
            let playing = scope.spawn(move || {
                self.device(0).host.within(|| {
                    let mut volley = Volley::open(address)?;
                    began.send(())?;
                    volley.play(|| is_on.load(Ordering::Relaxed))
                })
            });
            let begun = begins.recv().context("no conversation");
            let lost = begun.and_then(|()| self.cut(hole)).and_then(|()| {
                self.wait_for(0, app, |row| {
                    let path = row["path"].as_str().unwrap_or_default();
                    row["state"] == "open" && path.starts_with("relay ")
                })
            });
            is_on.store(false, Ordering::Relaxed);
            let longest = playing.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
            let why = lost?["path_why"].as_str().unwrap_or_default().to_owned();
            ensure!(why.starts_with("the direct way stopped"), "{why}");
            longest
        });
        let longest = longest?;
        self.internet.nft("delete table inet hole\n")?;
        Ok(longest)
    }

    /// Between nodes, and not to the relay.
    fn cut(&self, hole: &str) -> Result<()> {
        let drops = if hole.is_empty() {
            "meta l4proto udp drop"
        } else {
            &format!("{hole} drop")
        };
        self.internet.nft(&format!(
            "table inet hole {{\n chain forward {{\n type filter hook forward priority 0\n {drops}\n }}\n}}\n"
        ))
    }
}

fn run_forwarding(namespace: &Namespace) -> Result<()> {
    let on = [
        "-qw",
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
    ];
    cardea_e2e::program::run_ok(namespace.command("sysctl", on)).map(drop)
}
