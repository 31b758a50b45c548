//! Two hosts, each behind a NAT of its own, with the controller and its relay between them: real
//! applications over both carriers.
//!
//! ```text
//!  laptop ── nat-a ── controller + relay ── nat-b ── connector ── apps (nginx, PostgreSQL, DNS)
//! ```
#![expect(
    clippy::indexing_slicing,
    reason = "what a test does outside of its test function may panic as well"
)]

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    apps,
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{Program, run, run_ok},
    traffic::stay_unanswered,
};

const PAGE: &str = "served by an unmodified nginx\n";

#[test]
fn nginx_postgresql_and_dns_are_served_over_both_carriers() {
    if needs::root_and(&[
        "ip", "nft", "sysctl", "nginx", "dnsmasq", "psql", "dig", "curl", "ss",
    ]) {
        serve_everything().unwrap();
    }
}

fn serve_everything() -> Result<()> {
    let hosts = Hosts::new("serve")?;
    let mut world = hosts.deploy()?;
    let _apps = hosts.applications(&world)?;
    for carrier in ["wireguard", "quic"] {
        publish(&world, carrier)?;
        hosts.web(&world, "wiki")?;
        hosts.web(&world, "wiki6")?;
        hosts.database(&world)?;
        hosts.names(&world)?;
        for app in ["wiki", "wiki6", "db", "dns"] {
            let status = hosts.status(&world)?;
            let apps = status["apps"].as_array().context("no apps")?;
            let row = apps
                .iter()
                .find(|row| row["name"] == app)
                .context("no such app")?;
            ensure!(
                row["transport"] == carrier && row["state"] == "open",
                "{app}: {row}"
            );
        }
    }
    hosts.connector_answers_nobody()?;
    world.deployment.controller()?.stop().map(drop)
}

/// Publishes the applications, or changes their carrier when they exist.
fn publish(world: &World, carrier: &str) -> Result<()> {
    let apps = [
        ("wiki", "10.9.1.10:80"),
        ("wiki6", "[fd00:9:1::10]:80"),
        ("db", "10.9.1.10:5432"),
        ("dns", "10.9.1.10:53/udp"),
    ];
    let known = world.deployment.ctl("app ls -o json")?;
    for (app, target) in apps {
        let line = if known.contains(&format!("\"{app}\"")) {
            format!("app set {app} --transport {carrier} --yes")
        } else {
            format!("app add {app} --target {target} --allow group:staff --transport {carrier}")
        };
        world.deployment.ctl(&line)?;
    }
    Ok(())
}

/// The six hosts of the picture above.
struct Hosts {
    laptop: Namespace,
    nat_a: Namespace,
    controller: Namespace,
    nat_b: Namespace,
    connector: Namespace,
    apps: Namespace,
}

/// What runs on them.
struct World {
    deployment: Deployment,
    _connector: Program,
    _laptop: Program,
}

impl Hosts {
    fn new(test: &str) -> Result<Self> {
        let hosts = Self {
            laptop: Namespace::new(test, "laptop")?,
            nat_a: Namespace::new(test, "nat-a")?,
            controller: Namespace::new(test, "ctl")?,
            nat_b: Namespace::new(test, "nat-b")?,
            connector: Namespace::new(test, "con")?,
            apps: Namespace::new(test, "apps")?,
        };
        let Self {
            laptop,
            nat_a,
            controller,
            nat_b,
            connector,
            apps,
        } = &hosts;
        laptop.link("lan", "192.168.1.2/24", nat_a, "lan", "192.168.1.1/24")?;
        nat_a.link(
            "wan",
            "203.0.113.2/24",
            controller,
            "wan-a",
            "203.0.113.1/24",
        )?;
        nat_b.link(
            "wan",
            "198.51.100.2/24",
            controller,
            "wan-b",
            "198.51.100.1/24",
        )?;
        connector.link("lan", "10.9.0.2/24", nat_b, "lan", "10.9.0.1/24")?;
        connector.link("apps", "10.9.1.1/24", apps, "eth", "10.9.1.10/24")?;
        connector.ip("addr add fd00:9:1::1/64 dev apps nodad")?;
        apps.ip("addr add fd00:9:1::10/64 dev eth nodad")?;
        laptop.route("192.168.1.1")?;
        nat_a.route("203.0.113.1")?;
        nat_b.route("198.51.100.1")?;
        connector.route("10.9.0.1")?;
        nat_a.masquerade("wan")?;
        nat_b.masquerade("wan")?;
        Ok(hosts)
    }

    /// The five commands of the README.
    fn deploy(&self) -> Result<World> {
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions {
            namespace: Some(&self.controller),
            address: "203.0.113.1",
            listen: None,
            port: 7443,
            relay_port: 7444,
            more: &["--allow-simulated-posture"],
            environment: &[],
        })?;
        let connector =
            deployment.start_connector(Some(&self.connector), "connector", "default")?;
        let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
        let laptop = deployment.start_device(
            Some(&self.laptop),
            "laptop",
            "alice@corp.example",
            "staff",
            Some(&facts),
        )?;
        Ok(World {
            deployment,
            _connector: connector,
            _laptop: laptop,
        })
    }

    /// nginx, PostgreSQL and a name server, as the distribution ships them.
    fn applications(&self, world: &World) -> Result<Vec<Program>> {
        Ok(vec![
            apps::nginx(
                &self.apps,
                &world.deployment.path("nginx"),
                &["10.9.1.10:80", "[fd00:9:1::10]:80"],
                &[("index.html", PAGE)],
            )?,
            apps::postgresql(
                &self.apps,
                &world.deployment.path("postgresql"),
                "10.9.1.10",
            )?,
            apps::dnsmasq(
                &self.apps,
                "10.9.1.10",
                "--address=/answer.corp.example/10.1.2.3",
            )?,
        ])
    }

    fn web(&self, world: &World, app: &str) -> Result<()> {
        let (_forward, address) = self.forward(world, app)?;
        let page = self.fetch(&address)?;
        ensure!(page == PAGE, "{app}: {page:?}");
        Ok(())
    }

    fn database(&self, world: &World) -> Result<()> {
        let (_forward, address) = self.forward(world, "db")?;
        let port = address.rsplit(':').next().context("no port")?;
        let rows = "select sum(n) from generate_series(1, 100000) as n";
        let psql = [
            "-h",
            "127.0.0.1",
            "-p",
            port,
            "-U",
            "postgres",
            "-tA",
            "-c",
            rows,
        ];
        let sum = run_ok(self.laptop.command("psql", psql))?;
        ensure!(sum.trim() == "5000050000", "{sum}");
        Ok(())
    }

    fn names(&self, world: &World) -> Result<()> {
        let (_forward, address) = self.forward(world, "dns")?;
        let port = address.rsplit(':').next().context("no port")?;
        let dig = ["@127.0.0.1", "-p", port, "+short", "answer.corp.example"];
        let answer = run_ok(self.laptop.command("dig", dig))?;
        ensure!(answer.trim() == "10.1.2.3", "{answer}");
        Ok(())
    }

    fn forward(&self, world: &World, app: &str) -> Result<(Program, String)> {
        world.deployment.forward(Some(&self.laptop), "laptop", app)
    }

    fn fetch(&self, address: &str) -> Result<String> {
        let url = format!("http://{address}/");
        run_ok(
            self.laptop
                .command("curl", ["-sS", "--max-time", "20", &url]),
        )
    }

    fn status(&self, world: &World) -> Result<serde_json::Value> {
        let command = world
            .deployment
            .cardea(Some(&self.laptop), "laptop", "status -o json");
        Ok(serde_json::from_slice(&run(command)?.stdout)?)
    }

    /// No TCP listener, and no UDP socket that takes a datagram from anybody but its peer, except the
    /// two for direct paths, which answer no stranger.
    fn connector_answers_nobody(&self) -> Result<()> {
        let listeners = run_ok(self.connector.command("ss", ["-Hltn"]))?;
        ensure!(
            listeners.trim().is_empty(),
            "the connector listens:\n{listeners}"
        );
        let open = run_ok(
            self.connector
                .command("ss", ["-Huan", "state", "unconnected"]),
        )?;
        let ports: Vec<u16> = open
            .lines()
            .filter_map(|line| {
                line.split_whitespace()
                    .nth(2)?
                    .rsplit(':')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        ensure!(ports.len() == 2, "the connector hears strangers:\n{open}");
        for port in ports {
            let address = ([10, 9, 0, 2], port).into();
            let v4 = open.contains(&format!("0.0.0.0:{port} "));
            if v4 {
                self.nat_b.within(|| stay_unanswered(address))?;
            }
        }
        Ok(())
    }
}
