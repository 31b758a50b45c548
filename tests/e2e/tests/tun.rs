//! A device with a network interface: unmodified programs reach apps at addresses of their own.
//!
//! ```text
//!  laptop (interface) ── controller + relay ── connector ── apps (nginx, a name server)
//! ```
#![expect(
    clippy::indexing_slicing,
    reason = "what a test does outside of its test function may panic as well"
)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    apps,
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, now, run, run_ok},
};

const PAGE: &str = "served by an unmodified nginx\n";

/// Bytes of a page that takes many packets.
const LARGE_BYTES: usize = 3_000_000;

/// How long such a page may take where it must be found out first that a network is narrow.
const NARROW_MAX: Duration = Duration::from_secs(10);

/// What these tests run beside our programs.
const TOOLS: [&str; 8] = [
    "ip", "nft", "sysctl", "nginx", "dnsmasq", "dig", "curl", "ping",
];

#[test]
fn curl_ping_and_dig_reach_apps_at_their_addresses() {
    if needs::root_and(&TOOLS) {
        reach_everything().unwrap();
    }
}

#[test]
fn an_interface_without_the_right_to_make_one_says_what_is_missing() {
    if needs::root_and(&TOOLS) {
        say_what_is_missing().unwrap();
    }
}

#[test]
fn a_connector_forwards_through_the_kernel_and_takes_its_rules_with_it() {
    if needs::root_and(&TOOLS) {
        forward_by_kernel().unwrap();
    }
}

#[test]
fn a_kernel_at_each_end_is_reached_through_a_network_of_1280_bytes() {
    if needs::root_and(&TOOLS) {
        meet_narrowly().unwrap();
    }
}

/// With a kernel at both ends; and a device without an interface meets the same connector.
fn forward_by_kernel() -> Result<()> {
    let hosts = Hosts::new("kernel")?;
    let sysctl = ["-qw", "net.ipv6.conf.all.forwarding=1"];
    run_ok(hosts.connector.command("sysctl", sysctl))?;
    let mut world = hosts.deploy(true)?;
    reach(&hosts, &world)?;
    ensure!(
        hosts.forwards_v4()? && hosts.rules()?.contains("masquerade"),
        "no forwarding"
    );
    let facts = world.deployment.path("laptop.facts.json");
    let user = "bob@corp.example";
    let _device =
        world
            .deployment
            .start_device(Some(&hosts.laptop), "phone", user, "staff", Some(&facts))?;
    let (_forward, address) = world
        .deployment
        .forward(Some(&hosts.laptop), "phone", "wiki")?;
    let url = format!("http://{address}/");
    let page = run_ok(
        hosts
            .laptop
            .command("curl", ["-sS", "--max-time", "30", &url]),
    )?;
    ensure!(page == PAGE, "a flow through the kernel: {page:?}");
    world
        .deployment
        .ctl("app set wiki --transport quic --yes")?;
    let wiki = world.addresses("wiki")?;
    for address in &wiki {
        let large = hosts.curl(address, "/large")?;
        ensure!(
            large.len() == LARGE_BYTES,
            "{address}: {} bytes over QUIC",
            large.len()
        );
    }
    ensure!(
        world.status("wiki")?["transport"] == "quic",
        "not over QUIC"
    );
    world
        .deployment
        .ctl("app set wiki --transport auto --yes")?;
    ensure!(
        hosts.curl(wiki.first().context("no address")?, "/")? == PAGE,
        "with auto"
    );
    ensure!(
        world.status("wiki")?["transport"] == "wireguard",
        "packets go over WireGuard"
    );
    revoke(&hosts, &world)?;
    // Killed, it leaves everything behind; the next one finds it and tidies up all the same.
    world.connector.signal(rustix::process::Signal::KILL)?;
    world.connector.wait()?;
    ensure!(hosts.forwards_v4()?, "it was killed");
    world.connector = world
        .deployment
        .run_kernel(Some(&hosts.connector), "connector")?;
    world.connector.stop()?;
    ensure!(!hosts.forwards_v4()?, "the host goes on forwarding");
    ensure!(!hosts.rules()?.contains("cardea"), "{}", hosts.rules()?);
    let rules = run_ok(hosts.connector.command("ip", ["rule"]))?;
    ensure!(!rules.contains("7444"), "{rules}");
    world.deployment.controller()?.stop().map(drop)
}

/// With a kernel at both ends, of which neither hears that the network between them has grown narrow.
fn meet_narrowly() -> Result<()> {
    let hosts = Hosts::new("narrow")?;
    let sysctl = ["-qw", "net.ipv6.conf.all.forwarding=1"];
    run_ok(hosts.connector.command("sysctl", sysctl))?;
    let mut world = hosts.deploy(true)?;
    let wiki = world.addresses("wiki")?;
    let load = |what: &str| {
        for address in &wiki {
            let began = now();
            let large = hosts.curl(address, "/large")?;
            let took = now().duration_since(began);
            ensure!(large.len() == LARGE_BYTES, "{address}, {what}");
            ensure!(took < NARROW_MAX, "{address}, {what}: {took:?}");
        }
        Ok(())
    };
    load("in a wide network")?;
    hosts.connector.ip("link set wan mtu 1280")?;
    hosts.controller.ip("link set site mtu 1280")?;
    load("in one that has grown narrow")?;
    world.laptop.stop()?;
    let facts = world.deployment.path("laptop.facts.json");
    let host = Some(&hosts.laptop);
    world.laptop = world
        .deployment
        .run_interface(host, "laptop", &facts, &[])?;
    ensure!(world.addresses("wiki")? == wiki, "other addresses");
    load("in one that is narrow")?;
    ensure!(
        world.status("wiki")?["transport"] == "wireguard",
        "not over WireGuard"
    );
    let set = "app set wiki --transport quic --yes";
    world.deployment.ctl(set)?;
    load("over QUIC")?;
    world.deployment.controller()?.stop().map(drop)
}

/// Whoever loses an app in the middle of a download gets not another byte.
fn revoke(hosts: &Hosts, world: &World) -> Result<()> {
    let wiki = world.addresses("wiki")?;
    let [first, ..] = &wiki[..] else {
        anyhow::bail!("no addresses")
    };
    let url = format!("http://{first}/large");
    let words = [
        "-sS",
        "--limit-rate",
        "200k",
        "--max-time",
        "20",
        "-o",
        "/dev/null",
        &url,
    ];
    let mut curl = Program::start("curl", hosts.laptop.command("curl", words))?;
    let before = world.status("wiki")?["bytes_in"]
        .as_u64()
        .context("no figure")?;
    let flows = |bytes: u64| bytes > before + 200_000;
    let deadline = now() + PATIENCE;
    while !flows(world.status("wiki")?["bytes_in"].as_u64().unwrap_or(0)) {
        ensure!(now() < deadline, "the download does not begin");
    }
    world.deployment.ctl("device block laptop --yes")?;
    ensure!(curl.wait()? != Some(0), "it was served to the end");
    Ok(())
}

fn reach_everything() -> Result<()> {
    let hosts = Hosts::new("tun")?;
    let mut world = hosts.deploy(false)?;
    reach(&hosts, &world)?;
    for app in ["wiki", "dns"] {
        let set = format!("app set {app} --transport quic --yes");
        world.deployment.ctl(&set)?;
    }
    reach(&hosts, &world)?;
    for app in ["wiki", "dns"] {
        ensure!(world.status(app)?["transport"] == "quic", "{app} over QUIC");
    }
    leave_nothing_behind(&hosts, &mut world)?;
    revoke(&hosts, &world)?;
    world.deployment.controller()?.stop().map(drop)
}

fn reach(hosts: &Hosts, world: &World) -> Result<()> {
    let wiki = world.addresses("wiki")?;
    let dns = world.addresses("dns")?;
    for address in &wiki {
        let page = hosts.curl(address, "/")?;
        ensure!(page == PAGE, "{address}: {page:?}");
        let large = hosts.curl(address, "/large")?;
        ensure!(
            large.len() == LARGE_BYTES,
            "{address}: {} bytes",
            large.len()
        );
        ensure!(large.bytes().all(|byte| byte == b'x'), "{address}");
        run_ok(
            hosts
                .laptop
                .command("ping", ["-c", "3", "-i", "0.2", "-W", "5", address]),
        )?;
    }
    for address in &dns {
        let server = format!("@{address}");
        let dig = [&server, "+short", "+tries=5", "answer.corp.example"];
        let answer = run_ok(hosts.laptop.command("dig", dig))?;
        ensure!(answer.trim() == "10.1.2.3", "{answer}");
    }
    // A port that the app does not have, an app's port at another app, and an address of no app.
    let [first, ..] = &wiki[..] else {
        anyhow::bail!("no addresses")
    };
    for url in [
        format!("http://{first}:81/"),
        "http://100.64.0.77/".to_owned(),
    ] {
        let words = ["-s", "--max-time", "2", &url];
        ensure!(
            !run(hosts.laptop.command("curl", words))?.status.success(),
            "{url}"
        );
    }
    let status = world.status("wiki")?;
    let bytes_in = status["bytes_in"].as_u64().context("no figure")?;
    ensure!(bytes_in > 2 * 3_000_000, "{status}");
    Ok(())
}

/// The rules go with the program, the addresses stay the same.
fn leave_nothing_behind(hosts: &Hosts, world: &mut World) -> Result<()> {
    let before = world.addresses("wiki")?;
    let rules = |family: &str| run_ok(hosts.laptop.command("ip", [family, "rule"]));
    ensure!(
        rules("-4")?.contains("7443") && rules("-6")?.contains("7443"),
        "no rules"
    );
    world.laptop.stop()?;
    ensure!(
        !rules("-4")?.contains("7443") && !rules("-6")?.contains("7443"),
        "rules stay"
    );
    let facts = world.deployment.path("laptop.facts.json");
    let host = Some(&hosts.laptop);
    world.laptop = world
        .deployment
        .run_interface(host, "laptop", &facts, &[])?;
    ensure!(world.addresses("wiki")? == before, "other addresses");
    let [first, ..] = &before[..] else {
        anyhow::bail!("no addresses")
    };
    ensure!(hosts.curl(first, "/")? == PAGE, "after a restart");
    Ok(())
}

fn say_what_is_missing() -> Result<()> {
    let hosts = Hosts::new("tunless")?;
    let world = hosts.deploy(false)?;
    // Until then the state that is copied here is still being written.
    world.addresses("dns")?;
    let other = world.deployment.path("other");
    copy(&world.deployment.path("laptop"), &other)?;
    let program = world.deployment.cardea(None, "other", "run --mode tun");
    let start = |host: &Namespace, wrapper: &[&str]| {
        let mut words: Vec<std::ffi::OsString> = wrapper.iter().map(Into::into).collect();
        words.push(program.get_program().to_owned());
        words.extend(program.get_args().map(ToOwned::to_owned));
        let output = run(host.command("env", words))?;
        ensure!(!output.status.success(), "it started");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // So many have room beside each other.
    let mut beside = Vec::new();
    for (name, link) in [("second", "cardea2"), ("third", "cardea3")] {
        copy(
            &world.deployment.path("laptop"),
            &world.deployment.path(name),
        )?;
        let line = "run --mode tun --dns off";
        let command = world.deployment.cardea(Some(&hosts.laptop), name, line);
        beside.push(Program::start(name, command)?);
        let deadline = now() + PATIENCE;
        while !run_ok(hosts.laptop.command("ip", ["-o", "link"]))?.contains(link) {
            ensure!(now() < deadline, "no {link}");
        }
    }
    let said = start(&hosts.laptop, &[])?;
    ensure!(said.contains("cardea3 exists and is in use"), "{said}");
    let less = [
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
    ];
    let said = start(&hosts.apps, &less)?;
    ensure!(said.contains("no CAP_NET_ADMIN"), "{said}");
    let hidden = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\"",
    ];
    let said = start(&hosts.apps, &hidden)?;
    ensure!(said.contains("/dev/net/tun is missing"), "{said}");
    Ok(())
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let mut words = std::process::Command::new("cp");
    words.arg("-a").arg(from).arg(to);
    run_ok(words).map(drop)
}

/// The four hosts of the picture above.
struct Hosts {
    laptop: Namespace,
    controller: Namespace,
    connector: Namespace,
    apps: Namespace,
}

/// What runs on them.
struct World {
    deployment: Deployment,
    laptop: Program,
    connector: Program,
    _apps: Vec<Program>,
}

impl Hosts {
    fn new(test: &str) -> Result<Self> {
        let hosts = Self {
            laptop: Namespace::new(test, "laptop")?,
            controller: Namespace::new(test, "ctl")?,
            connector: Namespace::new(test, "con")?,
            apps: Namespace::new(test, "apps")?,
        };
        let Self {
            laptop,
            controller,
            connector,
            apps,
        } = &hosts;
        laptop.link("lan", "192.168.1.2/24", controller, "lan", "192.168.1.1/24")?;
        connector.link("wan", "10.9.0.2/24", controller, "site", "10.9.0.1/24")?;
        connector.link("apps", "10.9.1.1/24", apps, "eth", "10.9.1.10/24")?;
        connector.ip("addr add fd00:9:1::1/64 dev apps nodad")?;
        apps.ip("addr add fd00:9:1::10/64 dev eth nodad")?;
        laptop.route("192.168.1.1")?;
        connector.route("10.9.0.1")?;
        Ok(hosts)
    }

    fn deploy(&self, kernel: bool) -> Result<World> {
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions::on(&self.controller, "192.168.1.1"))?;
        let dual = "--target 10.9.1.10:80 --target [fd00:9:1::10]:80";
        for (app, targets) in [("wiki", dual), ("dns", "--target 10.9.1.10:53/udp")] {
            deployment.ctl(&format!(
                "app add {app} {targets} --allow group:staff --transport wireguard"
            ))?;
        }
        let large = "x".repeat(LARGE_BYTES);
        let apps = vec![
            apps::nginx(
                &self.apps,
                &deployment.path("nginx"),
                &["10.9.1.10:80", "[fd00:9:1::10]:80"],
                &[("index.html", PAGE), ("large", &large)],
            )?,
            apps::dnsmasq(
                &self.apps,
                "10.9.1.10",
                "--address=/answer.corp.example/10.1.2.3",
            )?,
        ];
        let host = Some(&self.connector);
        let connector = if kernel {
            deployment.start_kernel(host, "connector", "default")?
        } else {
            deployment.start_connector(host, "connector", "default")?
        };
        let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
        let host = Some(&self.laptop);
        let user = ("alice@corp.example", "staff");
        let laptop = deployment.start_interface(host, "laptop", user, &facts, &[])?;
        Ok(World {
            deployment,
            laptop,
            connector,
            _apps: apps,
        })
    }

    /// Whether the connector's host is a router.
    fn forwards_v4(&self) -> Result<bool> {
        let words = ["-n", "net.ipv4.ip_forward"];
        let text = run_ok(self.connector.command("sysctl", words))?;
        Ok(text.trim() == "1")
    }

    /// The firewall of the connector's host.
    fn rules(&self) -> Result<String> {
        run_ok(self.connector.command("nft", ["list", "ruleset"]))
    }

    fn curl(&self, address: &str, path: &str) -> Result<String> {
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.to_owned()
        };
        let url = format!("http://{host}{path}");
        let words = ["-sS", "--fail", "--max-time", "30", &url];
        run_ok(self.laptop.command("curl", words))
    }
}

impl World {
    /// The addresses of an app, as soon as the device has heard of it.
    fn addresses(&self, app: &str) -> Result<Vec<String>> {
        let deadline = now() + PATIENCE;
        while now() < deadline {
            let status = self.status(app).unwrap_or_default();
            if let Some(addresses) = status["addresses"].as_array() {
                let texts = addresses.iter().filter_map(|address| address.as_str());
                return Ok(texts.map(str::to_owned).collect());
            }
        }
        anyhow::bail!("{app} has no addresses")
    }

    fn status(&self, app: &str) -> Result<serde_json::Value> {
        let text = run_ok(self.deployment.cardea(None, "laptop", "apps -o json"))?;
        let apps: serde_json::Value = serde_json::from_str(&text)?;
        let apps = apps.as_array().context("no list")?;
        let app = apps.iter().find(|row| row["name"] == app);
        app.cloned().context("no such app")
    }
}
