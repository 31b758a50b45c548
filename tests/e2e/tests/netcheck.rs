//! `netcheck` in good networks and bad ones: what it says of each, and what it advises.
//!
//! ```text
//!  device ── wall ──┐
//!                   ├── internet: controller, first relay, front on 443 ── second relay
//!  host ── NAT ─────┘                                                  └── connector
//! ```
#![expect(
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "what a test does outside of its test function may panic as well, and it tells figures"
)]

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    internet::{edge_of, middle},
    namespace::Namespace,
    nat::NatKind,
    needs,
    program::{Program, run, run_ok},
    traffic::WebServer,
};
use rustix::process::Signal;
use serde_json::Value;

/// What these tests run beside our programs.
const TOOLS: [&str; 3] = ["ip", "nft", "sysctl"];

#[test]
fn netcheck_tells_what_is_in_the_way_and_what_to_do() {
    if needs::root_and(&TOOLS) {
        examine().unwrap();
    }
}

fn examine() -> Result<()> {
    let mut world = World::new("netcheck")?;
    let device = world.start_device()?;
    // With the daemon, then with what its state directory keeps alone.
    world.check_open("with the daemon")?;
    world.check_connector()?;
    world.check_udp_dropped()?;
    world.check_relay_down()?;
    drop(device);
    world.check_open("without a daemon")?;
    world.check_udp_dropped()?;
    world.check_everything_dropped()?;
    world.check_portal()?;
    world.check_nats()?;
    world.check_narrow()
}

const CONTROLLER: &str = "203.0.113.1";
const SECOND: &str = "198.51.100.10:7444";

struct World {
    internet: Namespace,
    home: Namespace,
    site: Namespace,
    elsewhere: Namespace,
    relay: Option<Program>,
    deployment: Deployment,
    _connector: Program,
}

impl World {
    fn new(test: &'static str) -> Result<Self> {
        let internet = middle(test, CONTROLLER)?;
        let edge = |name: &str, net: u8| edge_of(&internet, test, name, net);
        let (home, site, elsewhere) = (edge("home", 0)?, edge("site", 4)?, edge("relay", 8)?);
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions {
            namespace: Some(&internet),
            address: CONTROLLER,
            port: 7443,
            relay_port: 7444,
            more: &[
                "--allow-simulated-posture",
                "--listen-tls",
                &format!("{CONTROLLER}:443"),
                "--standby-relay",
                SECOND,
            ],
            ..ControllerOptions::default()
        })?;
        let relay = Some(start_relay(&deployment, &elsewhere)?);
        let connector = deployment.start_connector(Some(&site), "connector", "default")?;
        Ok(Self {
            internet,
            home,
            site,
            elsewhere,
            relay,
            deployment,
            _connector: connector,
        })
    }

    fn start_device(&self) -> Result<Program> {
        let facts = self.deployment.write_facts("device", GOOD_FACTS)?;
        self.deployment.start_device(
            Some(&self.home),
            "device",
            "alice@corp.example",
            "staff",
            Some(&facts),
        )
    }

    /// An open network, in JSON and as a table.
    fn check_open(&self, how: &str) -> Result<()> {
        let report = self.look(&self.home, 0)?;
        let controllers = &report["controllers"];
        for (place, way, address) in [
            (0, "udp", format!("{CONTROLLER}:7443")),
            (1, "tls", format!("{CONTROLLER}:443")),
        ] {
            let check = &controllers[place];
            ensure!(
                check["way"] == way && check["address"] == address,
                "{report}"
            );
            ensure!(
                check["state"] == "ok" && check["rtt_ms"].is_u64(),
                "{report}"
            );
        }
        for (place, address) in [(0, "203.0.113.1:7444"), (1, SECOND)] {
            let relay = &report["relays"][place];
            ensure!(relay["addresses"][0] == address, "{report}");
            ensure!(
                relay["state"] == "ok" && relay["rtt_ms"].is_u64(),
                "{report}"
            );
        }
        ensure!(report["nat"]["mapping"] == "none", "{report}");
        ensure!(report["nat"]["filtering"] == "not_tested", "{report}");
        ensure!(report["captive_portal"] == "none", "{report}");
        let mtu = report["path_mtu"].as_u64().context("no MTU")?;
        ensure!((1_400..=1_500).contains(&mtu), "{report}");
        let ahead = report["clock_ahead_ms"].as_i64().context("no clock")?;
        ensure!(ahead.abs() < 2_000, "{report}");
        ensure!(
            report["usable"] == true && report["advice"] == serde_json::json!([]),
            "{report}"
        );
        eprintln!("{how}: {report}");
        let table = run_ok(self.netcheck(&self.home, ""))?;
        ensure!(table.contains("controller by UDP  ok"), "{table}");
        ensure!(table.contains("Nothing is in the way."), "{table}");
        Ok(())
    }

    fn check_connector(&self) -> Result<()> {
        let line = "netcheck -o json";
        let report = serde_json::from_str::<Value>(&run_ok(self.connector(line))?)?;
        ensure!(
            report["usable"] == true && report["relays"][1]["state"] == "ok",
            "{report}"
        );
        let status =
            serde_json::from_str::<Value>(&run_ok(self.connector("status --net -o json"))?)?;
        ensure!(status["controller"]["state"] == "connected", "{status}");
        ensure!(status["network"]["usable"] == true, "{status}");
        Ok(())
    }

    fn check_udp_dropped(&self) -> Result<()> {
        self.wall("meta l4proto udp drop")?;
        let report = self.look(&self.home, 0)?;
        ensure!(codes(&report) == ["udp_blocked"], "{report}");
        ensure!(report["controllers"][0]["state"] == "silent", "{report}");
        ensure!(report["controllers"][1]["state"] == "ok", "{report}");
        ensure!(report["relays"][0]["state"] == "silent", "{report}");
        ensure!(report["nat"]["mapping"] == "not_checked", "{report}");
        let fix = report["advice"][0]["fix"].as_str().unwrap_or_default();
        ensure!(
            fix.starts_with("Apps work, slower and through a relay. Let UDP out of this network")
                && fix.contains("203.0.113.1:7443"),
            "{fix}"
        );
        self.wall_falls()
    }

    fn check_relay_down(&mut self) -> Result<()> {
        let relay = self.relay.take().context("no relay runs")?;
        relay.signal(Signal::KILL)?;
        let report = self.look(&self.home, 0)?;
        ensure!(codes(&report) == ["relay_silent"], "{report}");
        ensure!(report["relays"][0]["state"] == "ok", "{report}");
        ensure!(report["relays"][1]["state"] == "silent", "{report}");
        let advice = &report["advice"][0];
        ensure!(
            advice["title"] == format!("relay {SECOND} does not answer"),
            "{advice}"
        );
        let fix = advice["fix"].as_str().unwrap_or_default();
        ensure!(
            fix.starts_with("Others carry its tunnels meanwhile. Tell the operator"),
            "{fix}"
        );
        self.relay = Some(start_relay(&self.deployment, &self.elsewhere)?);
        Ok(())
    }

    fn check_everything_dropped(&self) -> Result<()> {
        self.wall("drop")?;
        let report = self.look(&self.home, 5)?;
        ensure!(
            report["usable"] == false && codes(&report) == ["unreachable"],
            "{report}"
        );
        ensure!(report["captive_portal"] == "unknown", "{report}");
        let advice = &report["advice"][0];
        let expected = "the controller answers neither by UDP nor by TLS";
        ensure!(advice["title"] == expected, "{advice}");
        let fix = advice["fix"].as_str().unwrap_or_default();
        ensure!(
            fix.contains("UDP to 203.0.113.1:7443 or TCP to 203.0.113.1:443 must get out"),
            "{fix}"
        );
        let table = run(self.netcheck(&self.home, ""))?;
        let said = String::from_utf8_lossy(&table.stderr).into_owned();
        ensure!(
            table.status.code() == Some(5) && said.contains(expected),
            "{said}"
        );
        self.wall_falls()
    }

    /// Nothing passes, and plain HTTP is answered in everybody's name.
    fn check_portal(&self) -> Result<()> {
        self.wall("meta l4proto udp drop")?;
        self.internet
            .within(|| WebServer::start("198.51.100.1:8080", "Welcome. Please sign in."))?;
        self.internet.nft(
            "table ip portal {\n chain pre { type nat hook prerouting priority -100;\n\
             iifname \"home\" tcp dport { 80, 443 } dnat to 198.51.100.1:8080\n }\n}\n",
        )?;
        let report = self.look(&self.home, 5)?;
        ensure!(
            codes(&report) == ["captive_portal", "unreachable"],
            "{report}"
        );
        ensure!(report["captive_portal"] == "suspected", "{report}");
        let fix = report["advice"][0]["fix"].as_str().unwrap_or_default();
        ensure!(
            fix.starts_with("Open http://203.0.113.1/ in a browser"),
            "{fix}"
        );
        self.internet.nft("delete table ip portal\n")?;
        self.wall_falls()
    }

    /// Hosts behind NATs, with the state of the device.
    fn check_nats(&self) -> Result<()> {
        for (net, kind, mapping, expected) in [
            (20, NatKind::PortRestricted, "endpoint_independent", &[][..]),
            (
                24,
                NatKind::Symmetric,
                "endpoint_dependent",
                &["symmetric_nat"],
            ),
        ] {
            let (here, there) = (net + 1, net + 2);
            let nat = Namespace::new("netcheck", &format!("nat{net}"))?;
            self.internet.link(
                &format!("nat{net}"),
                &format!("198.51.100.{here}/30"),
                &nat,
                "wan",
                &format!("198.51.100.{there}/30"),
            )?;
            nat.route(&format!("198.51.100.{here}"))?;
            let host = Namespace::new("netcheck", &format!("in{net}"))?;
            host.link("lan", "10.7.0.2/24", &nat, "lan", "10.7.0.1/24")?;
            host.route("10.7.0.1")?;
            nat.nat(kind, "10.7.0.2", 4_711)?;
            let report = self.look(&host, 0)?;
            ensure!(report["nat"]["mapping"] == mapping, "{kind:?}: {report}");
            ensure!(codes(&report) == expected, "{kind:?}: {report}");
            let seen = report["nat"]["seen_as"][0].as_str().unwrap_or_default();
            ensure!(
                seen.starts_with(&format!("198.51.100.{there}:")),
                "{kind:?}: {report}"
            );
            if let Some(advice) = report["advice"].get(0) {
                let fix = advice["fix"].as_str().unwrap_or_default();
                ensure!(
                    fix.contains("--direct-port PORT --candidate ADDRESS:PORT"),
                    "{fix}"
                );
            }
        }
        Ok(())
    }

    /// A network of small packets, that does not say so.
    fn check_narrow(&self) -> Result<()> {
        // As on a real wire, where no packet is many.
        self.home.ip("link set wan gso_max_segs 1")?;
        self.internet.ip("link set home gso_max_segs 1")?;
        self.wall("meta l4proto udp meta length > 1300 drop")?;
        let report = self.look(&self.home, 0)?;
        ensure!(codes(&report) == ["small_mtu"], "{report}");
        let mtu = report["path_mtu"].as_u64().context("no MTU")?;
        ensure!((1_228..=1_300).contains(&mtu), "{report}");
        self.wall_falls()
    }

    fn netcheck(&self, host: &Namespace, output: &str) -> Command {
        let line = format!("netcheck {output}");
        self.deployment.cardea(Some(host), "device", &line)
    }

    /// What it finds, and that it ends with `code`.
    fn look(&self, host: &Namespace, code: i32) -> Result<Value> {
        let output = run(self.netcheck(host, "-o json"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = parse(&output).context(said)?;
        ensure!(
            output.status.code() == Some(code),
            "{}: {report}",
            output.status
        );
        Ok(report)
    }

    fn connector(&self, line: &str) -> Command {
        let state = self.deployment.path("connector");
        let words = line.split_whitespace();
        let mut command = self
            .deployment
            .program(Some(&self.site), "cardea-connector", words);
        command.arg("--state").arg(state);
        command
    }

    /// Whatever the network does with what the device sends and gets.
    fn wall(&self, drops: &str) -> Result<()> {
        self.internet.nft(&format!(
            "table inet wall {{\n\
             chain pre {{ type filter hook prerouting priority -200; iifname \"home\" {drops}\n }}\n\
             chain post {{ type filter hook postrouting priority 200; oifname \"home\" {drops}\n }}\n}}\n"
        ))
    }

    fn wall_falls(&self) -> Result<()> {
        self.internet.nft("delete table inet wall\n")
    }
}

fn start_relay(deployment: &Deployment, host: &Namespace) -> Result<Program> {
    let arguments = ["run", "--listen", SECOND];
    let mut command = deployment.program(Some(host), "cardea-relay", arguments);
    let keys = deployment.path("controller").join("keys");
    command.arg("--ticket-key").arg(keys.join("ticket.pub"));
    let mut relay = Program::start("cardea-relay", command)?;
    relay.wait_for("listening")?;
    Ok(relay)
}

fn parse(output: &Output) -> Result<Value> {
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn codes(report: &Value) -> Vec<&str> {
    let advice = report["advice"].as_array().map(Vec::as_slice);
    let advice = advice.unwrap_or_default().iter();
    advice.filter_map(|one| one["code"].as_str()).collect()
}
