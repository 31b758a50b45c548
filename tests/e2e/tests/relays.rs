//! Two relays on hosts of their own, of which the one in use dies under a bulk transfer.
//!
//! ```text
//!                      ┌── first relay
//!  device ── internet ─┼── second relay
//!                      └── connector, app
//! ```
#![expect(
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "what a test does outside of its test function may panic as well, and it tells figures"
)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    internet::{edge_of, middle},
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, now, run},
    traffic::{Volley, pour_during, tcp_echo},
};
use rustix::process::Signal;
use serde_json::Value;

/// What these tests run beside our programs.
const TOOLS: [&str; 3] = ["ip", "nft", "sysctl"];

/// Within which a dead relay is left, as promised.
const FAILOVER_MAX: Duration = Duration::from_secs(1);

#[test]
fn a_relay_that_is_killed_or_cut_off_under_a_transfer_is_left_within_a_second() {
    if needs::root_and(&TOOLS) {
        kill_and_cut().unwrap();
    }
}

fn kill_and_cut() -> Result<()> {
    let mut world = World::new("relays")?;
    for carrier in ["quic", "wireguard"] {
        for damage in [Damage::Killed, Damage::Dropped] {
            let app = format!("{carrier}-{damage:?}").to_lowercase();
            world.wait_for_relays(&[true, true])?;
            world.publish(&app, carrier)?;
            let (_forward, address) = world.forward(&app)?;
            world.home.within(|| Volley::open(&address))?;
            let row = world.wait_for(&app, |row| {
                row["path"] == relay(0) && row["standby"] == serde_json::json!([ADDRESSES[1]])
            })?;
            ensure!(row["path_why"] == "no direct way has answered", "{row}");
            let home = world.home.clone();
            let (row, poured) = pour_during(&home, &address, || {
                world.damage(0, damage)?;
                world.wait_for(&app, |row| row["path"] == relay(1))
            })?;
            eprintln!(
                "{carrier}, {damage:?}: {:?} without a byte, {} KiB checked",
                poured.longest_gap,
                poured.bytes / 1_024
            );
            let why = row["path_why"].as_str().unwrap_or_default();
            let expected = [
                format!("nothing came through relay {} any more", ADDRESSES[0]),
                format!("the other end left relay {}", ADDRESSES[0]),
            ];
            ensure!(expected.iter().any(|expected| expected == why), "{why}");
            ensure!(poured.longest_gap <= FAILOVER_MAX, "{app}: {poured:?}");
            world.check_new_grant(&format!("{app}-late"), carrier)?;
            world.repair(0, damage)?;
            // Who has turned stays.
            ensure!(world.row(&app)?["path"] == relay(1), "{app}");
        }
    }
    Ok(())
}

#[test]
fn a_tunnel_goes_back_to_the_relay_that_it_left_when_the_other_one_dies_too() {
    if needs::root_and(&TOOLS) {
        there_and_back().unwrap();
    }
}

fn there_and_back() -> Result<()> {
    let mut world = World::new("relays2")?;
    world.publish("app", "quic")?;
    let (_forward, address) = world.forward("app")?;
    for used in [0, 1, 0] {
        let other = 1 - used;
        world.wait_for("app", |row| {
            row["path"] == relay(used) && row["standby"] == serde_json::json!([ADDRESSES[other]])
        })?;
        let home = world.home.clone();
        let (_, poured) = pour_during(&home, &address, || {
            world.damage(used, Damage::Killed)?;
            world.wait_for("app", |row| row["path"] == relay(other))
        })?;
        eprintln!("from {used}: {:?} without a byte", poured.longest_gap);
        ensure!(poured.longest_gap <= FAILOVER_MAX, "{used}: {poured:?}");
        world.repair(used, Damage::Killed)?;
    }
    Ok(())
}

#[test]
fn an_end_pours_no_more_through_a_relay_than_its_rate() {
    if needs::root_and(&TOOLS) {
        pour_at_a_rate().unwrap();
    }
}

fn pour_at_a_rate() -> Result<()> {
    let world = World::with("rate", &["--relay-rate", "16mbit"])?;
    for carrier in ["quic", "wireguard"] {
        world.publish(carrier, carrier)?;
        let (_forward, address) = world.forward(carrier)?;
        let begun = now();
        let (_, poured) = pour_during(&world.home, &address, || {
            while now() < begun + RATE_TIME {
                world.row(carrier)?;
            }
            Ok(())
        })?;
        let took = now().duration_since(begun).as_secs_f64();
        #[expect(
            clippy::cast_precision_loss,
            clippy::as_conversions,
            reason = "a few megabytes"
        )]
        let rate = poured.bytes as f64 / took;
        eprintln!("{carrier}: {rate:.0} bytes/s of 2,000,000");
        // A quarter of a second's worth passes at once.
        let most = 2_000_000.0 * (1.0 + 0.25 / took);
        ensure!((500_000.0..most).contains(&rate), "{carrier}: {rate:.0}");
    }
    Ok(())
}

/// How long it is poured at a rate.
const RATE_TIME: Duration = Duration::from_secs(3);

/// What happens to a relay.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// It is killed, and its host says so to whoever sends there.
    Killed,
    /// The network drops what is for it and from it, without a word.
    Dropped,
}

const CONTROLLER: &str = "203.0.113.1";

/// Where the relays are.
const ADDRESSES: [&str; 2] = ["198.51.100.10:7444", "198.51.100.14:7444"];

fn relay(which: usize) -> String {
    format!("relay {}", ADDRESSES[which])
}

/// A controller that carries no relay, two relays, a connector beside an echo, and a device.
struct World {
    internet: Namespace,
    home: std::sync::Arc<Namespace>,
    hosts: [Namespace; 2],
    relays: [Option<Program>; 2],
    deployment: Deployment,
    device: Program,
    _around: (Namespace, Namespace, Program),
}

impl World {
    fn new(test: &'static str) -> Result<Self> {
        Self::with(test, &[])
    }

    /// The same with these arguments of the relays.
    fn with(test: &'static str, more: &[&str]) -> Result<Self> {
        let internet = middle(test, CONTROLLER)?;
        let edge = |name: &str, net: u8| edge_of(&internet, test, name, net);
        let (home, site) = (edge("home", 0)?, edge("site", 4)?);
        let hosts = [edge("first", 8)?, edge("second", 12)?];
        // The relays are all that leads from one end to the other.
        internet.nft(
            "table inet beside {\n chain forward { type filter hook forward priority -10;\n\
             iifname \"home\" oifname \"site\" drop\n iifname \"site\" oifname \"home\" drop\n }\n}\n",
        )?;
        let apps = Namespace::new(test, "apps")?;
        site.link("apps", "10.99.1.1/24", &apps, "eth", "10.99.1.10/24")?;
        apps.within(|| tcp_echo("10.99.1.10:80"))?;
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions {
            namespace: Some(&internet),
            address: CONTROLLER,
            port: 7443,
            relay_port: 7444,
            more: &[
                "--allow-simulated-posture",
                "--relay=false",
                "--relay-address",
                ADDRESSES[0],
                "--standby-relay",
                ADDRESSES[1],
            ],
            ..ControllerOptions::default()
        })?;
        let start =
            |which: usize| deployment.start_relay(Some(&hosts[which]), ADDRESSES[which], more);
        let relays = [Some(start(0)?), Some(start(1)?)];
        let connector = deployment.start_connector(Some(&site), "connector", "default")?;
        let facts = deployment.write_facts("device", GOOD_FACTS)?;
        let (user, group) = ("alice@corp.example", "staff");
        let device = deployment.start_device(Some(&home), "device", user, group, Some(&facts))?;
        Ok(Self {
            internet,
            home: std::sync::Arc::new(home),
            hosts,
            relays,
            deployment,
            device,
            _around: (site, apps, connector),
        })
    }

    fn damage(&mut self, which: usize, damage: Damage) -> Result<()> {
        match damage {
            Damage::Killed => {
                let relay = self.relays[which].take().context("it does not run")?;
                relay.signal(Signal::KILL)
            }
            Damage::Dropped => {
                let address = ADDRESSES[which].trim_end_matches(":7444");
                self.internet.nft(&format!(
                    "table inet cut {{\n chain pre {{ type filter hook prerouting priority -200;\n\
                     ip daddr {address} drop\n ip saddr {address} drop\n }}\n\
                     chain out {{ type filter hook output priority -200; ip daddr {address} drop\n }}\n}}\n"
                ))
            }
        }
    }

    fn repair(&mut self, which: usize, damage: Damage) -> Result<()> {
        match damage {
            Damage::Killed => {
                self.relays[which] = Some(self.deployment.start_relay(
                    Some(&self.hosts[which]),
                    ADDRESSES[which],
                    &[],
                )?);
                Ok(())
            }
            Damage::Dropped => self.internet.nft("delete table inet cut\n"),
        }
    }

    /// The controller knows that the first relay is dead, and lets the next grant begin with the other.
    fn check_new_grant(&self, app: &str, carrier: &str) -> Result<()> {
        self.wait_for_relays(&[false, true])?;
        self.publish(app, carrier)?;
        let (_forward, address) = self.forward(app)?;
        self.home.within(|| Volley::open(&address))?;
        let row = self.wait_for(app, |row| row["path"] == relay(1))?;
        ensure!(row["path_why"] == "no direct way has answered", "{row}");
        Ok(())
    }

    /// Waits until the controller sees which relays answer.
    fn wait_for_relays(&self, answers: &[bool]) -> Result<()> {
        let deadline: Instant = now() + PATIENCE;
        loop {
            let status: Value = serde_json::from_str(&self.deployment.ctl("status -o json")?)?;
            let relays = status["relays"].as_array().context("no relays")?;
            if relays
                .iter()
                .map(|relay| relay["answers"] == true)
                .eq(answers.iter().copied())
            {
                return Ok(());
            }
            ensure!(now() < deadline, "{status}");
        }
    }

    fn publish(&self, app: &str, carrier: &str) -> Result<()> {
        let line = format!(
            "app add {app} --target 10.99.1.10:80 --allow group:staff --transport {carrier}"
        );
        self.deployment.ctl(&line).map(drop)
    }

    fn forward(&self, app: &str) -> Result<(Program, String)> {
        self.deployment.forward(Some(&self.home), "device", app)
    }

    fn row(&self, app: &str) -> Result<Value> {
        self.wait_for(app, |_| true)
    }

    /// Asks for the status until the row of `app` is as it should be.
    fn wait_for(&self, app: &str, is_right: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline: Instant = now() + PATIENCE;
        loop {
            let line = "status -o json";
            let command = self.deployment.cardea(Some(&self.home), "device", line);
            let status: Value = serde_json::from_slice(&run(command)?.stdout)?;
            let apps = status["apps"].as_array().context("no apps")?;
            let row = apps.iter().find(|row| row["name"] == app);
            if let Some(row) = row.filter(|row| is_right(row)) {
                return Ok(row.clone());
            }
            ensure!(now() < deadline, "{row:?}\n{}", self.device.said());
        }
    }
}
