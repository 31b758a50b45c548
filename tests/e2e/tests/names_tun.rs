//! A device with a network interface finds apps by name, and everything else as before.
//!
//! ```text
//!  laptop (interface, an /etc of its own) ── controller + relay + name server of before ── connector ── apps
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    apps,
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, command, now, run, run_ok},
};
use rustix::process::Signal;
use tempfile::TempDir;

const PAGE: &str = "served by an unmodified nginx\n";

/// What the laptop asked before.
const BEFORE: &str = "# from DHCP\nnameserver 192.168.1.1\nsearch corp.example\n";

/// How long whatever is in the way may be there before it heals or is said.
const HEAL_TIME: Duration = Duration::from_secs(5);

/// How the agent is run where it may change its own `/etc`.
const BY_FILE: [&str; 2] = ["--dns", "resolv-conf"];

const TOOLS: [&str; 15] = [
    "ip",
    "nft",
    "sysctl",
    "nginx",
    "dnsmasq",
    "dig",
    "curl",
    "ping",
    "psql",
    "ssh",
    "ssh-keygen",
    "sshd",
    "nsenter",
    "unshare",
    "chattr",
];

#[test]
fn programs_reach_apps_by_name_over_both_carriers() {
    if needs::root_and(&TOOLS) {
        reach_by_name().unwrap();
    }
}

#[test]
fn the_system_asks_as_before_after_every_end() {
    if needs::root_and(&TOOLS) {
        undo_every_way().unwrap();
    }
}

#[test]
fn whatever_is_in_the_way_heals_or_is_said() {
    if needs::root_and(&TOOLS) {
        heal_or_say().unwrap();
    }
}

#[test]
fn a_system_service_that_does_not_help_is_said_and_the_file_stays() {
    if needs::root_and(&TOOLS) && needs::installed(&["busctl", "dbus-daemon"]) {
        say_that_the_service_is_missing().unwrap();
    }
}

/// The words are said by the real `busctl` to a real bus, on which nobody has the service's name.
fn say_that_the_service_is_missing() -> Result<()> {
    let mut world = World::new("bus")?;
    world.wait_for_name()?;
    world.laptop.stop()?;
    let socket = world.deployment.path("bus");
    let configuration = world.deployment.path("bus.conf");
    let at = format!("unix:path={}", socket.display());
    let allowed = "<allow send_destination=\"*\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/>";
    let text = format!(
        "<busconfig><type>session</type><listen>{at}</listen><auth>EXTERNAL</auth>\
         <policy context=\"default\">{allowed}</policy></busconfig>"
    );
    fs::write(&configuration, text)?;
    let words = ["--nofork", "--print-address", "--config-file"].map(Into::into);
    let words = words.into_iter().chain([configuration.into_os_string()]);
    let mut bus = Program::start("dbus-daemon", command("dbus-daemon", words))?;
    bus.wait_for("unix:path=")?;
    world
        .deployment
        .set_for_nodes("DBUS_SYSTEM_BUS_ADDRESS", &at);
    world.start(&["--dns", "resolved"])?;
    let said = world.wait_for_warning("dns_resolved")?;
    ensure!(
        said.contains("SetLinkDNSEx") && said.contains("not provided"),
        "{said}"
    );
    ensure!(world.file()? == BEFORE, "the file was changed");
    let stub = world.dig(&["+short", "@100.64.0.1", "wiki.corp.example"])?;
    ensure!(stub.starts_with("100."), "{stub}");
    Ok(())
}

fn reach_by_name() -> Result<()> {
    let world = World::new("names")?;
    world.wait_for_name()?;
    for carrier in ["wireguard", "quic"] {
        for app in ["wiki", "db", "shell"] {
            let line = format!("app set {app} --transport {carrier} --yes");
            world.deployment.ctl(&line)?;
        }
        world.applications()?;
        let status = world.cardea("apps -o json")?;
        let apps: serde_json::Value = serde_json::from_slice(&status.stdout)?;
        let wiki = apps.as_array().into_iter().flatten();
        let mut wiki = wiki.filter(|app| app.get("name").is_some_and(|name| name == "wiki"));
        let used = wiki.next().and_then(|app| app.get("transport")).cloned();
        ensure!(used == Some(carrier.into()), "over {used:?}");
    }
    world.answers()?;
    let doctor = world.cardea("doctor -o json")?;
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(doctor.status.success(), "{text}");
    let checks: Vec<serde_json::Value> = serde_json::from_str(&text)?;
    let passed = |name: &str| {
        let mut checks = checks.iter();
        checks.any(|check| {
            check.get("name").is_some_and(|at| at == name)
                && check.get("state").is_some_and(|state| state == "ok")
        })
    };
    for check in [
        "resolver",
        "route",
        "stub udp",
        "stub tcp",
        "other names",
        "system",
    ] {
        ensure!(passed(check), "{check}: {text}");
    }
    Ok(())
}

fn undo_every_way() -> Result<()> {
    let mut world = World::new("undo")?;
    world.wait_for_name()?;
    ensure!(world.file()?.contains("nameserver 100.64."), "not asked");
    world.laptop.stop()?;
    ensure!(world.file()? == BEFORE, "after the end: {}", world.file()?);

    // Killed, it leaves its file behind; the next start undoes that first.
    world.start(&BY_FILE)?;
    world.wait_for_name()?;
    world.laptop.signal(Signal::KILL)?;
    world.laptop.wait()?;
    ensure!(
        world.file()?.contains("nameserver 100.64."),
        "it was killed"
    );
    let doctor = world.cardea("doctor")?;
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(
        doctor.status.code() == Some(1) && said.contains("cardea dns restore"),
        "{said}"
    );
    world.start(&["--dns", "off"])?;
    ensure!(world.file()? == BEFORE, "at the next start");
    world.laptop.stop()?;

    // Or the command does, without an agent and with one.
    world.start(&BY_FILE)?;
    world.wait_for_name()?;
    world.laptop.signal(Signal::KILL)?;
    world.laptop.wait()?;
    ensure!(world.cardea("dns restore")?.status.success(), "restore");
    ensure!(world.file()? == BEFORE, "after dns restore");
    world.start(&BY_FILE)?;
    world.wait_for_name()?;
    ensure!(world.cardea("dns restore")?.status.success(), "restore");
    ensure!(world.file()? == BEFORE, "while it runs");
    let other = world.dig(&["+short", "other.example"])?;
    ensure!(other == "192.0.2.9\n", "{other}");
    world.laptop.stop()?;

    // A link is a link again.
    fs::write(world.etc().join("elsewhere"), BEFORE)?;
    fs::remove_file(world.resolv_conf())?;
    std::os::unix::fs::symlink("elsewhere", world.resolv_conf())?;
    world.start(&BY_FILE)?;
    world.wait_for_name()?;
    ensure!(fs::read_to_string(world.etc().join("elsewhere"))? == BEFORE);
    world.laptop.stop()?;
    let link = fs::read_link(world.resolv_conf())?;
    ensure!(link == Path::new("elsewhere"), "{link:?}");
    Ok(())
}

fn heal_or_say() -> Result<()> {
    let mut world = World::new("heal")?;
    world.wait_for_name()?;
    // Another program writes it, as a DHCP client does.
    let other = format!("{BEFORE}options edns0\n");
    fs::write(world.resolv_conf(), &other)?;
    world.wait_for_file("nameserver 100.64.")?;
    world.wait_for_name()?;
    world.laptop.stop()?;
    ensure!(world.file()? == other, "what it wrote: {}", world.file()?);

    // Nobody may change it.
    run_ok(world.on_laptop("chattr", &["+i", "/etc/resolv.conf"]))?;
    world.start(&BY_FILE)?;
    let said = world.wait_for_warning("dns_file");
    run_ok(world.on_laptop("chattr", &["-i", "/etc/resolv.conf"]))?;
    let said = said?;
    ensure!(said.contains("chattr -i"), "{said}");
    world.wait_for_name()?;
    world.laptop.stop()?;

    // Another program has the port: the system goes on asking as before until it is free.
    let mut thief = Program::start(
        "dnsmasq",
        world.on_laptop(
            "dnsmasq",
            &[
                "--no-daemon",
                "--conf-file=/dev/null",
                "--user=root",
                "--log-facility=-",
            ],
        ),
    )?;
    thief.wait_for("started")?;
    world.start(&BY_FILE)?;
    let said = world.wait_for_warning("dns_port")?;
    ensure!(said.contains("ss -lunp"), "{said}");
    ensure!(
        world.file()? == other,
        "the system asks a stub that is none"
    );
    thief.stop()?;
    world.wait_for_file("nameserver 100.64.")?;
    world.wait_for_name()
}

/// What runs, and on which hosts.
struct World {
    deployment: Deployment,
    laptop: Program,
    _connector: Program,
    apps: Vec<Program>,
    hosts: Hosts,
}

/// The hosts of the picture above.
struct Hosts {
    laptop: Namespace,
    controller: Namespace,
    connector: Namespace,
    apps: Namespace,
    etc: TempDir,
}

impl Hosts {
    fn new(test: &str) -> Result<Self> {
        let mut hosts = Self {
            laptop: Namespace::new(test, "laptop")?,
            controller: Namespace::new(test, "ctl")?,
            connector: Namespace::new(test, "con")?,
            apps: Namespace::new(test, "apps")?,
            etc: tempfile::tempdir()?,
        };
        let Self {
            laptop,
            controller,
            connector,
            apps,
            etc,
        } = &mut hosts;
        laptop.link("lan", "192.168.1.2/24", controller, "lan", "192.168.1.1/24")?;
        connector.link("wan", "10.9.0.2/24", controller, "site", "10.9.0.1/24")?;
        connector.link("apps", "10.9.1.1/24", apps, "eth", "10.9.1.10/24")?;
        connector.ip("addr add fd00:9:1::1/64 dev apps nodad")?;
        apps.ip("addr add fd00:9:1::10/64 dev eth nodad")?;
        let forward = ["-qw", "net.ipv6.conf.all.forwarding=1"];
        run_ok(connector.command("sysctl", forward))?;
        laptop.route("192.168.1.1")?;
        connector.route("10.9.0.1")?;
        let etc = etc.path().join("etc");
        laptop.with_own_etc(&etc)?;
        // In the machine's own it may be a link to elsewhere.
        drop(fs::remove_file(etc.join("resolv.conf")));
        fs::write(etc.join("resolv.conf"), BEFORE)?;
        fs::write(
            etc.join("nsswitch.conf"),
            "hosts: files dns\npasswd: files\n",
        )?;
        laptop.nft(
            "table inet watch {\n counter names { }\n chain out {\n type filter hook output priority 0\n \
             oifname \"lan\" meta l4proto { tcp, udp } th dport 53 counter name names\n }\n}\n",
        )?;
        Ok(hosts)
    }
}

impl World {
    fn new(test: &str) -> Result<Self> {
        let hosts = Hosts::new(test)?;
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions::on(&hosts.controller, "192.168.1.1"))?;
        for (app, port) in [("wiki", 80), ("db", 5432), ("shell", 22)] {
            let target = format!("--target 10.9.1.10:{port} --target [fd00:9:1::10]:{port}");
            deployment.ctl(&format!("app add {app} {target} --allow group:staff"))?;
        }
        deployment.ctl("app set wiki --name docs.elsewhere.example --yes")?;
        let at = "10.9.1.10,fd00:9:1::10";
        let web = ["10.9.1.10:80", "[fd00:9:1::10]:80"];
        let page = [("index.html", PAGE)];
        let answers = "--address=/other.example/192.0.2.9";
        let apps = vec![
            apps::nginx(&hosts.apps, &deployment.path("nginx"), &web, &page)?,
            apps::postgresql(&hosts.apps, &deployment.path("postgresql"), at)?,
            apps::sshd(&hosts.apps, &deployment.path("sshd"), at)?,
            apps::dnsmasq(&hosts.controller, "192.168.1.1", answers)?,
        ];
        let site = Some(&hosts.connector);
        let connector = deployment.start_kernel(site, "connector", "default")?;
        let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
        let user = ("alice@corp.example", "staff");
        let host = Some(&hosts.laptop);
        let laptop = deployment.start_interface(host, "laptop", user, &facts, &BY_FILE)?;
        Ok(Self {
            deployment,
            laptop,
            _connector: connector,
            apps,
            hosts,
        })
    }

    fn start(&mut self, more: &[&str]) -> Result<()> {
        let facts = self.deployment.path("laptop.facts.json");
        let host = Some(&self.hosts.laptop);
        self.laptop = self
            .deployment
            .run_interface(host, "laptop", &facts, more)?;
        Ok(())
    }

    fn on_laptop(&self, program: &str, words: &[&str]) -> std::process::Command {
        self.hosts.laptop.command(program, words.iter().copied())
    }

    fn cardea(&self, line: &str) -> Result<Output> {
        run(self
            .deployment
            .cardea(Some(&self.hosts.laptop), "laptop", line))
    }

    fn dig(&self, words: &[&str]) -> Result<String> {
        run_ok(self.on_laptop("dig", words))
    }

    fn etc(&self) -> PathBuf {
        self.hosts.etc.path().join("etc")
    }

    fn resolv_conf(&self) -> PathBuf {
        self.etc().join("resolv.conf")
    }

    fn file(&self) -> Result<String> {
        Ok(fs::read_to_string(self.resolv_conf())?)
    }

    /// Waits until the file says something, for as long as a person may be left without it.
    fn wait_for_file(&self, text: &str) -> Result<()> {
        let deadline = now() + HEAL_TIME;
        while !self.file()?.contains(text) {
            ensure!(now() < deadline, "no {text:?}: {}", self.file()?);
        }
        Ok(())
    }

    /// Waits until programs find an app.
    fn wait_for_name(&self) -> Result<()> {
        let deadline = now() + PATIENCE;
        while now() < deadline {
            let found = run(self.on_laptop("getent", &["ahostsv4", "wiki.corp.example"]))?;
            if String::from_utf8_lossy(&found.stdout).contains("100.") {
                return Ok(());
            }
        }
        let dig = run(self.on_laptop("dig", &["+tries=1", "wiki.corp.example"]))?;
        let status = self.cardea("status -o json")?;
        anyhow::bail!(
            "no name: {}{}{}the agent said:\n{}",
            self.file()?,
            String::from_utf8_lossy(&dig.stdout),
            String::from_utf8_lossy(&status.stdout),
            self.laptop.said()
        )
    }

    /// Waits until the agent's status has a warning; gives the status.
    fn wait_for_warning(&self, code: &str) -> Result<String> {
        let deadline = now() + PATIENCE;
        loop {
            let status = self.cardea("status -o json")?;
            let text = String::from_utf8_lossy(&status.stdout).into_owned();
            if text.contains(&format!("\"{code}\"")) {
                return Ok(text);
            }
            ensure!(now() < deadline, "no warning {code}: {text}");
        }
    }

    /// Unmodified programs, by name.
    fn applications(&self) -> Result<()> {
        for url in [
            "http://wiki.corp.example/",
            "http://docs.elsewhere.example/",
        ] {
            let words = ["-sS", "--fail", "--max-time", "30", url];
            let page = run_ok(self.on_laptop("curl", &words))?;
            ensure!(page == PAGE, "{url}: {page:?}");
        }
        let rows = "select sum(n) from generate_series(1, 1000) as n";
        let words = ["-h", "db.corp.example", "-U", "postgres", "-tA", "-c", rows];
        let sum = run_ok(self.on_laptop("psql", &words))?;
        ensure!(sum.trim() == "500500", "{sum}");
        let key = self
            .deployment
            .path("sshd")
            .join("key")
            .display()
            .to_string();
        let strange = [
            "-F",
            "none",
            "-i",
            &key,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "root@shell.corp.example",
            "echo over there",
        ];
        let said = run_ok(self.on_laptop("ssh", &strange))?;
        ensure!(said == "over there\n", "{said}");
        let ping = ["-c", "2", "-i", "0.2", "-W", "5", "wiki.corp.example"];
        run_ok(self.on_laptop("ping", &ping))?;
        Ok(())
    }

    /// Every kind of answer, and which of them cost a question to others.
    fn answers(&self) -> Result<()> {
        let before = self.asked()?;
        for words in [
            &["wiki.corp.example", "A"][..],
            &["+tcp", "wiki.corp.example", "AAAA"],
            &["wIkI.CORP.example", "HTTPS"],
            &["payroll.corp.example"],
            &["+tcp", "payroll.corp.example", "TXT"],
            &["a.docs.elsewhere.example"],
            &["-x", "100.64.0.99"],
        ] {
            let said = self.dig(words)?;
            let is_found = words
                .iter()
                .any(|word| word.starts_with("wiki") || word.starts_with("wIkI"));
            let expected = if is_found { "NOERROR" } else { "NXDOMAIN" };
            ensure!(said.contains(expected), "{words:?}: {said}");
            ensure!(!is_found || said.contains("flags: qr aa rd ra"), "{said}");
        }
        ensure!(self.asked()? == before, "a question about ours went out");
        let address = self.dig(&["+short", "wiki.corp.example"])?;
        let back = self.dig(&["+short", "-x", address.trim()])?;
        ensure!(back == "docs.elsewhere.example.\n", "{back}");
        for more in [
            &["+short", "other.example"][..],
            &["+short", "+tcp", "other.example"],
        ] {
            let found = self.dig(more)?;
            ensure!(found == "192.0.2.9\n", "{found}");
        }
        ensure!(self.asked()? > before, "nobody was asked");
        // Not by a neighbour who knows the address.
        let stub = self.file()?;
        let stub = stub
            .lines()
            .find_map(|line| line.strip_prefix("nameserver "));
        let stub = stub.context("no stub")?;
        self.hosts
            .controller
            .ip(&format!("route add {stub}/32 via 192.168.1.2"))?;
        for carrier in ["+notcp", "+tcp"] {
            let server = format!("@{stub}");
            let words = [&server, carrier, "+tries=1", "+time=2", "wiki.corp.example"];
            let heard = run(self.hosts.controller.command("dig", words))?;
            ensure!(!heard.status.success(), "a neighbour is answered");
        }
        Ok(())
    }

    /// Packets to name servers of the network.
    fn asked(&self) -> Result<u64> {
        let words = ["list", "counter", "inet", "watch", "names"];
        let text = run_ok(self.on_laptop("nft", &words))?;
        let mut words = text.split_whitespace();
        words.find(|word| *word == "packets");
        let count = words.next().context("no count")?;
        Ok(count.parse()?)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What runs in a namespace ends before it.
        self.apps.clear();
    }
}
