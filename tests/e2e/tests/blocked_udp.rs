//! A device in a network that drops UDP, or that lets nothing out but its proxy.
//!
//! ```text
//!  device ── wall ── internet: controller, relay, front on 443 ── connector, app
//! ```
#![expect(
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "what a test does outside of its test function may panic as well, and it tells figures"
)]

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    internet::{edge_of, middle},
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, now, run, run_ok},
    proxy::ConnectProxy,
    traffic::{Volley, tcp_echo},
};
use serde_json::Value;

/// What these tests run beside our programs.
const TOOLS: [&str; 3] = ["ip", "nft", "sysctl"];

#[test]
fn an_app_opens_within_three_seconds_where_udp_is_dropped_and_leaves_tls_when_it_is_not() {
    if needs::root_and(&TOOLS) {
        open_and_leave().unwrap();
    }
}

fn open_and_leave() -> Result<()> {
    let mut world = World::new("noudp")?;
    world.wall("meta l4proto udp drop")?;
    let begun = now();
    world.start_device()?;
    eprintln!(
        "enrolled and connected in {:?}",
        now().duration_since(begun)
    );
    for carrier in ["quic", "wireguard"] {
        world.publish(carrier)?;
        let begun = now();
        let (_forward, address) = world.forward(carrier)?;
        world.home.within(|| Volley::open(&address))?;
        let took = now().duration_since(begun);
        eprintln!("{carrier}: open in {took:?}");
        ensure!(took < Duration::from_secs(3), "{carrier}: {took:?}");
        let row = world.wait_for(carrier, by_tls)?;
        ensure!(row["path_why"] == "UDP does not reach the relay", "{row}");
        world.stays(carrier)?;
        let gap = world.while_playing(&address, || {
            world.wall_falls()?;
            let row = world.wait_for(carrier, |row| !by_tls(row))?;
            eprintln!("{carrier}: {} once UDP passes", row["path"]);
            world.wall("meta l4proto udp drop")?;
            world.wait_for(carrier, by_tls).map(drop)
        })?;
        eprintln!("{carrier}: {gap:?} without an answer while UDP came and went");
        ensure!(gap < Duration::from_secs(3), "{carrier}: {gap:?}");
    }
    let status = world.status()?;
    let address = status["controller"]["address"].as_str().unwrap_or_default();
    ensure!(address == format!("tls://{CONTROLLER}:443"), "{status}");
    // The channel leaves its detour as well: nothing of it is left when TCP is dropped.
    world.wall_falls()?;
    world.device()?.wait_for("the channel leaves its detour")?;
    world.wait_for_controller(&format!("{CONTROLLER}:7443"))?;
    world.wall("meta l4proto tcp drop")?;
    world
        .deployment
        .ctl("app add late --target 10.99.1.10:80 --allow group:staff")?;
    let (_forward, address) = world.forward("late")?;
    world.home.within(|| Volley::open(&address))?;
    Ok(())
}

#[test]
fn a_channel_and_a_tunnel_that_lose_udp_go_on_by_tls() {
    if needs::root_and(&TOOLS) {
        lose_udp().unwrap();
    }
}

fn lose_udp() -> Result<()> {
    let mut world = World::new("loseudp")?;
    world.start_device()?;
    world.publish("quic")?;
    let (_forward, address) = world.forward("quic")?;
    world.wait_for("quic", |row| !by_tls(row))?;
    // Where the machine is slow, TLS may have been the faster way to begin with.
    if world.device()?.said().contains("connected to tls://") {
        world.device()?.wait_for("the channel leaves its detour")?;
    }
    let gap = world.while_playing(&address, || {
        world.wall("meta l4proto udp drop")?;
        world.wait_for("quic", by_tls).map(drop)
    })?;
    eprintln!("{gap:?} without an answer when UDP went");
    ensure!(gap < Duration::from_secs(3), "{gap:?}");
    // The next app is asked for on a channel of which nobody knows yet that UDP has gone.
    world.publish("wireguard")?;
    let begun = now();
    let (_forward, address) = world.forward("wireguard")?;
    world.home.within(|| Volley::open(&address))?;
    let took = now().duration_since(begun);
    eprintln!("another app: open in {took:?}");
    let said = world.device()?.said();
    ensure!(took < Duration::from_secs(3), "{took:?}: {said}");
    world.device()?.wait_for("the channel takes a detour")?;
    world.wait_for_controller(&format!("tls://{CONTROLLER}:443"))?;
    Ok(())
}

#[test]
fn a_relay_elsewhere_leads_to_its_controller_too_for_nodes_that_have_a_pass() {
    if needs::root_and(&TOOLS) {
        relay_elsewhere().unwrap();
    }
}

fn relay_elsewhere() -> Result<()> {
    let more = ["--tls-address", RELAY, "--relay-address", RELAY];
    let mut world = World::with("elsewhere", &more)?;
    let relay = world.start_relay()?;
    world.start_device()?;
    world.publish("quic")?;
    world.stop_device()?;
    // Nothing but the relay's TLS is left, for a device that enrolled before.
    world.wall("meta l4proto != tcp drop")?;
    world.wall_off(CONTROLLER)?;
    let begun = now();
    world.run_device()?;
    let (_forward, address) = world.forward("quic")?;
    world.home.within(|| Volley::open(&address))?;
    let took = now().duration_since(begun);
    eprintln!("started and open by a relay elsewhere in {took:?}");
    let row = world.wait_for("quic", |row| row["state"] == "open")?;
    ensure!(row["path"] == format!("relay-tls {RELAY}:7444"), "{row}");
    ensure!(took < Duration::from_secs(3), "{took:?}");
    drop(relay);
    Ok(())
}

#[test]
fn strangers_at_a_front_hear_nothing_or_see_the_operators_page_beside_the_knock() {
    if needs::root_and(&TOOLS) && needs::installed(&["curl", "openssl"]) {
        show_decoy().unwrap();
    }
}

fn show_decoy() -> Result<()> {
    let more = ["--tls-address", RELAY, "--relay-address", RELAY];
    let mut world = World::with("decoy", &more)?;
    let [certificate, key, page] = ["decoy.crt", "decoy.key", "decoy.html"].map(|name| {
        let path = world.deployment.path(name);
        path.to_string_lossy().into_owned()
    });
    std::fs::write(&page, PAGE)?;
    let mut make = Command::new("openssl");
    let subject = ["-subj", "/CN=www.bakery.example"];
    let name = ["-addext", "subjectAltName=DNS:www.bakery.example"];
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    make.args(["req", "-x509", "-nodes", "-days", "9"]);
    make.args(curve).args(subject).args(name);
    make.args(["-keyout", &key, "-out", &certificate]);
    run_ok(make)?;
    let browse = |world: &World| {
        let at = format!("www.bakery.example:443:{RELAY}");
        let words = [
            "-sS",
            "--max-time",
            "20",
            "--cacert",
            &certificate,
            "--resolve",
        ];
        let mut curl = world.home.command("curl", words);
        curl.args([&at, "https://www.bakery.example/"]);
        run(curl)
    };
    let relay = world.start_relay()?;
    let shown = browse(&world)?;
    ensure!(
        !shown.status.success() && shown.stdout.is_empty(),
        "{shown:?}"
    );
    let to = format!("{RELAY}:443");
    let words = [
        "s_client",
        "-connect",
        &to,
        "-servername",
        "www.bakery.example",
    ];
    let heard = run(world.home.command("openssl", words))?;
    let heard = String::from_utf8_lossy(&heard.stdout).into_owned();
    ensure!(heard.contains("handshake has read 0 bytes"), "{heard}");
    drop(relay);
    let decoy = format!("{certificate},{key},{page}");
    let _relay = world.start_relay_with(&["--tls-decoy", &decoy])?;
    world.start_device()?;
    world.publish("quic")?;
    world.stop_device()?;
    world.wall("meta l4proto != tcp drop")?;
    world.wall_off(CONTROLLER)?;
    world.run_device()?;
    let (_forward, address) = world.forward("quic")?;
    for _ in 0..2 {
        let shown = browse(&world)?;
        let said = String::from_utf8_lossy(&shown.stderr).into_owned();
        ensure!(shown.stdout == PAGE.as_bytes(), "{shown:?} {said}");
        world
            .home
            .within(|| Volley::open(&address)?.play(|| false))?;
        world.wait_for("quic", |row| {
            row["path"] == format!("relay-tls {RELAY}:7444")
        })?;
    }
    Ok(())
}

/// What an operator has strangers see.
const PAGE: &str = "<!doctype html><title>Bakery</title><p>Open from six.</p>\n";

#[test]
fn a_code_leads_to_its_controller_by_the_front_of_a_relay_elsewhere() {
    if needs::root_and(&TOOLS) {
        enroll_elsewhere().unwrap();
    }
}

fn enroll_elsewhere() -> Result<()> {
    let more = ["--tls-address", RELAY, "--relay-address", RELAY];
    let mut world = World::with("codeway", &more)?;
    let _relay = world.start_relay()?;
    // Nothing but the relay's TLS is there, from the first moment of a device that nobody knows.
    world.wall("meta l4proto != tcp drop")?;
    world.wall_off(CONTROLLER)?;
    let begun = now();
    world.start_device()?;
    eprintln!(
        "enrolled and connected in {:?}",
        now().duration_since(begun)
    );
    world.wait_for_controller(&format!("tls://{RELAY}:443"))?;
    world.publish("quic")?;
    let (_forward, address) = world.forward("quic")?;
    world.home.within(|| Volley::open(&address)).map(drop)
}

#[test]
fn the_front_of_the_relay_that_stands_by_takes_over_where_udp_is_dropped() {
    if needs::root_and(&TOOLS) {
        lose_front().unwrap();
    }
}

fn lose_front() -> Result<()> {
    let own = format!("{CONTROLLER}:443");
    let standby = format!("{RELAY}:7444");
    let mut world = World::with(
        "fronts",
        &[
            ["--listen-tls", &own, "--tls-address", CONTROLLER],
            ["--tls-address", RELAY, "--standby-relay", &standby],
        ]
        .concat(),
    )?;
    let _relay = world.start_relay()?;
    world.wall("meta l4proto udp drop")?;
    world.start_device()?;
    for carrier in ["quic", "wireguard"] {
        world.publish(carrier)?;
        let (_forward, address) = world.forward(carrier)?;
        let standby = serde_json::json!([format!("{RELAY}:7444")]);
        world.wait_for(carrier, |row| by_tls(row) && row["standby"] == standby)?;
        let gap = world.while_playing(&address, || {
            // Without a word: no reset tells of it.
            world.wall_off(CONTROLLER)?;
            let by_other = format!("relay-tls {RELAY}:7444");
            world
                .wait_for(carrier, |row| row["path"] == by_other)
                .map(drop)
        })?;
        eprintln!("{carrier}: {gap:?} without an answer when the front in use went");
        let why = world.wait_for(carrier, |row| row["state"] == "open")?;
        let left = format!("{CONTROLLER}:7444");
        let told = why["path_why"].as_str().unwrap_or_default();
        ensure!(told.contains("UDP") || told.contains(&left), "{why}");
        ensure!(gap <= FRONT_LOST_MAX, "{carrier}: {gap:?}");
        world.wait_for_controller(&format!("tls://{RELAY}:443"))?;
        world.wall_falls()?;
        world.wall("meta l4proto udp drop")?;
        world.stop_device()?;
        world.run_device()?;
    }
    Ok(())
}

/// Within which the relay that stands by carries on, as where a relay dies that is reached by UDP.
const FRONT_LOST_MAX: Duration = Duration::from_secs(1);

#[test]
fn a_device_behind_a_proxy_with_a_password_enrolls_and_opens_an_app() {
    if needs::root_and(&TOOLS) {
        by_proxy().unwrap();
    }
}

fn by_proxy() -> Result<()> {
    let mut world = World::new("proxy")?;
    let proxy = world
        .internet
        .within(|| ConnectProxy::start("198.51.100.1:3128", "YWxpY2U6cGE6c3M="))?;
    world.wall("meta l4proto != tcp drop")?;
    world.wall_off(CONTROLLER)?;
    let refused = run(world.enroll("wrong", "http://alice:guess@198.51.100.1:3128")?)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(5), "{said}");
    ensure!(said.contains("UDP and TLS"), "{said}");
    ensure!(
        said.contains("407") && said.contains("HTTPS_PROXY"),
        "{said}"
    );
    ensure!(!said.contains("guess"), "{said}");
    ensure!(proxy.opened() == 0 && proxy.refused() > 0, "{proxy:?}");
    let refused_before = proxy.refused();
    let password = "http://alice:pa%3ass@198.51.100.1:3128";
    let mut around = world.enroll("around", password)?;
    around.env("NO_PROXY", "corp.example, 203.0.113.0/24");
    ensure!(
        run(around)?.status.code() == Some(5),
        "nothing leads around"
    );
    let asked = (proxy.opened(), proxy.refused());
    ensure!(asked == (0, refused_before), "{proxy:?}");
    world
        .deployment
        .set_for_nodes("HTTPS_PROXY", "http://alice:pa%3ass@198.51.100.1:3128/");
    world.start_device()?;
    world.publish("quic")?;
    let begun = now();
    let (_forward, address) = world.forward("quic")?;
    world.home.within(|| Volley::open(&address))?;
    let took = now().duration_since(begun);
    eprintln!("open by the proxy in {took:?}");
    ensure!(took < Duration::from_secs(3), "{took:?}");
    world.wait_for("quic", by_tls)?;
    ensure!(
        proxy.opened() >= 3,
        "enrollment, channel and relay: {proxy:?}"
    );
    Ok(())
}

fn by_tls(row: &Value) -> bool {
    let path = row["path"].as_str().unwrap_or_default();
    row["state"] == "open" && path == format!("relay-tls {CONTROLLER}:7444")
}

/// A controller with a front, a connector beside an echo, and a device's network behind a wall.
struct World {
    internet: Namespace,
    home: Namespace,
    elsewhere: Namespace,
    deployment: Deployment,
    device: Option<Program>,
    _around: (Namespace, Namespace, Program),
}

const CONTROLLER: &str = "203.0.113.1";

/// A relay on a host of its own.
const RELAY: &str = "198.51.100.10";

impl World {
    fn new(test: &'static str) -> Result<Self> {
        Self::with(test, &["--listen-tls", &format!("{CONTROLLER}:443")])
    }

    /// The same with these arguments of the controller.
    fn with(test: &'static str, more: &[&str]) -> Result<Self> {
        let internet = middle(test, CONTROLLER)?;
        let edge = |name: &str, net: u8| edge_of(&internet, test, name, net);
        let (home, site, elsewhere) = (edge("home", 0)?, edge("site", 4)?, edge("relay", 8)?);
        let apps = Namespace::new(test, "apps")?;
        site.link("apps", "10.99.1.1/24", &apps, "eth", "10.99.1.10/24")?;
        apps.within(|| tcp_echo("10.99.1.10:80"))?;
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions {
            namespace: Some(&internet),
            address: CONTROLLER,
            port: 7443,
            relay_port: 7444,
            more: &[&["--allow-simulated-posture"], more].concat(),
            ..ControllerOptions::default()
        })?;
        let connector = deployment.start_connector(Some(&site), "connector", "default")?;
        Ok(Self {
            internet,
            home,
            elsewhere,
            deployment,
            device: None,
            _around: (site, apps, connector),
        })
    }

    /// Whatever the network does with what the device sends and gets.
    fn wall(&self, drops: &str) -> Result<()> {
        self.internet.nft(&format!(
            "table inet wall {{\n\
             chain pre {{ type filter hook prerouting priority -200; iifname \"home\" {drops}\n }}\n\
             chain post {{ type filter hook postrouting priority 200; oifname \"home\" {drops}\n }}\n}}\n"
        ))
    }

    /// No packet of the device reaches `host` any longer.
    fn wall_off(&self, host: &str) -> Result<()> {
        let rule = format!("add rule inet wall pre iifname \"home\" ip daddr {host} drop\n");
        self.internet.nft(&rule)
    }

    fn wall_falls(&self) -> Result<()> {
        self.internet.nft("delete table inet wall\n")
    }

    fn start_device(&mut self) -> Result<()> {
        let facts = self.deployment.write_facts("device", GOOD_FACTS)?;
        self.device = Some(self.deployment.start_device(
            Some(&self.home),
            "device",
            "alice@corp.example",
            "staff",
            Some(&facts),
        )?);
        Ok(())
    }

    /// Starts a device that is enrolled.
    fn run_device(&mut self) -> Result<()> {
        let facts = self.deployment.write_facts("device", GOOD_FACTS)?;
        let mut command = self.deployment.cardea(Some(&self.home), "device", "run");
        command.arg("--facts-from").arg(facts);
        let mut device = Program::start("device", command)?;
        device.wait_for("connected to")?;
        self.device = Some(device);
        Ok(())
    }

    fn stop_device(&mut self) -> Result<()> {
        self.device()?.stop()?;
        self.device = None;
        Ok(())
    }

    /// Starts a relay with a front, on a host that is not the controller's.
    fn start_relay(&self) -> Result<Program> {
        self.start_relay_with(&[])
    }

    /// The same with these arguments beside.
    fn start_relay_with(&self, more: &[&str]) -> Result<Program> {
        let keys = self.deployment.path("controller").join("keys");
        let controller = format!("{CONTROLLER}:7443");
        let (listen, tls) = (format!("{RELAY}:7444"), format!("{RELAY}:443"));
        let mut command = self.deployment.program(
            Some(&self.elsewhere),
            "cardea-relay",
            [
                "run",
                "--listen",
                &listen,
                "--listen-tls",
                &tls,
                "--controller",
                &controller,
            ],
        );
        command.arg("--ticket-key").arg(keys.join("ticket.pub"));
        command.arg("--front-key").arg(keys.join("front.key"));
        command.args(more);
        let mut relay = Program::start("cardea-relay", command)?;
        relay.wait_for("front is listening")?;
        Ok(relay)
    }

    fn device(&mut self) -> Result<&mut Program> {
        self.device.as_mut().context("no device was started")
    }

    /// A command that enrolls a device through `proxy`.
    fn enroll(&self, name: &str, proxy: &str) -> Result<Command> {
        let invite = "invite device --user bob@corp.example --group staff";
        let code = self.deployment.ctl(invite)?;
        let arguments = self.deployment.node_arguments("enroll", name, &code)?;
        let mut command = self
            .deployment
            .program(Some(&self.home), "cardea", arguments);
        command.env("HTTPS_PROXY", proxy);
        Ok(command)
    }

    fn publish(&self, carrier: &str) -> Result<()> {
        let line = format!(
            "app add {carrier} --target 10.99.1.10:80 --allow group:staff --transport {carrier}"
        );
        self.deployment.ctl(&line).map(drop)
    }

    fn forward(&self, app: &str) -> Result<(Program, String)> {
        self.deployment.forward(Some(&self.home), "device", app)
    }

    fn status(&self) -> Result<Value> {
        let line = "status -o json";
        let command = self.deployment.cardea(Some(&self.home), "device", line);
        Ok(serde_json::from_slice(&run(command)?.stdout)?)
    }

    /// Asks for the status until the controller's address is this one.
    fn wait_for_controller(&self, expected: &str) -> Result<()> {
        let deadline: Instant = now() + PATIENCE;
        loop {
            let status = self.status()?;
            if status["controller"]["address"] == expected {
                return Ok(());
            }
            ensure!(now() < deadline, "not {expected}: {status}");
        }
    }

    /// Asks for the status until the row of `app` is as it should be.
    fn wait_for(&self, app: &str, is_right: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline: Instant = now() + PATIENCE;
        loop {
            let status = self.status()?;
            let apps = status["apps"].as_array().context("no apps")?;
            let row = apps.iter().find(|row| row["name"] == app);
            if let Some(row) = row.filter(|row| is_right(row)) {
                return Ok(row.clone());
            }
            let said = self.device.as_ref().map(Program::said);
            ensure!(now() < deadline, "{row:?}\n{}", said.unwrap_or_default());
        }
    }

    /// A detour that nobody speaks on for longer than it is trusted is not left.
    fn stays(&self, app: &str) -> Result<()> {
        let changes = || {
            let said = self.device.as_ref().map(Program::said).unwrap_or_default();
            said.matches("another way leads to the relay").count()
        };
        let (before, until) = (changes(), now() + Duration::from_secs(7));
        while now() < until {
            // The device's status would make its tunnels speak.
            self.deployment.ctl("status")?;
        }
        self.wait_for(app, by_tls)?;
        ensure!(changes() == before, "{app}: its way changed");
        Ok(())
    }

    /// Does `work` while a conversation goes on; says how long its longest round took.
    fn while_playing(&self, address: &str, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let ((), rounds) = Volley::during(&self.home, address, work)?;
        Ok(rounds.longest())
    }
}
