//! An app with a wildcard name: each of its hosts has an address of its own on the device, and leads to
//! a target of its own, which the connector looks up for each flow.
//!
//! ```text
//!  laptop (interface, stub) ── controller + relay ── connector ── apps (two pages, name server)
//! ```

use std::fs;

use anyhow::{Result, ensure};
use cardea_e2e::{
    apps,
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{PATIENCE, now, run, run_ok},
};
use rustix::process::Signal;

const API: &str = "the page of api\n";
const WEB: &str = "the page of web\n";

#[test]
fn every_host_of_a_wildcard_has_an_address_and_a_target_of_its_own() {
    if needs::root_and(&["ip", "nginx", "dnsmasq", "dig", "curl"]) {
        reach_hosts().unwrap();
    }
}

/// The hosts of the picture above.
struct Hosts {
    laptop: Namespace,
    controller: Namespace,
    connector: Namespace,
    apps: Namespace,
}

impl Hosts {
    fn new() -> Result<Self> {
        let new = |name| Namespace::new("wildcard", name);
        let (laptop, controller) = (new("laptop")?, new("ctl")?);
        let (connector, apps) = (new("con")?, new("apps")?);
        laptop.link(
            "lan",
            "192.168.1.2/24",
            &controller,
            "lan",
            "192.168.1.1/24",
        )?;
        connector.link("wan", "10.9.0.2/24", &controller, "site", "10.9.0.1/24")?;
        connector.link("apps", "10.9.1.1/24", &apps, "eth", "10.9.1.10/24")?;
        apps.ip("addr add 10.9.1.11/24 dev eth")?;
        laptop.route("192.168.1.1")?;
        connector.route("10.9.0.1")?;
        connector.ask_names_of("10.9.1.10")?;
        Ok(Self {
            laptop,
            controller,
            connector,
            apps,
        })
    }
}

fn reach_hosts() -> Result<()> {
    let hosts = Hosts::new()?;
    let mut world = Deployment::new()?;
    let answers = world.path("answers");
    let answer = |web: &str| {
        let api = "10.9.1.10 api.internal.example\n10.9.1.11 evil.example\n127.0.0.1 home.internal.example\n";
        fs::write(&answers, format!("{api}{web} web.internal.example\n"))
    };
    answer("10.9.1.11")?;
    let page = |name: &str, address: &str, page| {
        apps::nginx(
            &hosts.apps,
            &world.path(name),
            &[address],
            &[("index.html", page)],
        )
    };
    let _api = page("api", "10.9.1.10:80", API)?;
    let _web = page("web", "10.9.1.11:80", WEB)?;
    let said = format!("--addn-hosts={}", answers.display());
    let mut names = apps::dnsmasq(&hosts.apps, "10.9.1.10", &said)?;
    world.start_controller(&ControllerOptions {
        namespace: Some(&hosts.controller),
        address: "192.168.1.1",
        port: 7443,
        relay_port: 7444,
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    let app =
        "app add dev --target *.internal.example:80 --name *.dev.corp.example --allow group:staff";
    world.ctl(app)?;
    let mut connector = world.start_connector(Some(&hosts.connector), "connector", "default")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let user = ("alice@corp.example", "staff");
    let host = Some(&hosts.laptop);
    let _laptop = world.start_interface(host, "laptop", user, &facts, &[])?;
    let laptop = Laptop { hosts: &hosts };

    for carrier in ["wireguard", "quic"] {
        world.ctl(&format!("app set dev --transport {carrier} --yes"))?;
        let (api, web) = (laptop.find("api")?, laptop.find("WEB")?);
        ensure!(api != web, "two hosts have one address: {api}");
        ensure!(laptop.fetch("api", &api)? == API, "{carrier}: api");
        ensure!(laptop.fetch("web", &web)? == WEB, "{carrier}: web");
        ensure!(laptop.find("api")? == api, "its address is another one");
        let grants = world.ctl("grant ls -o json")?;
        for host in ["api.dev.corp.example", "web.dev.corp.example"] {
            ensure!(
                grants.contains(&format!("{host} for alice")),
                "{carrier}: {grants}"
            );
        }
        ensure!(grants.contains(&format!("\"{carrier}\"")), "{grants}");
    }

    // Looked up for each flow: the next one goes where the name leads by then.
    let web = laptop.find("web")?;
    let read = names.line_count();
    answer("10.9.1.10")?;
    names.signal(Signal::HUP)?;
    names.wait_for_after(read, "read ")?;
    ensure!(
        laptop.fetch("web", &web)? == API,
        "where the name led before"
    );

    // A host may not lead home, and what no wildcard covers is nobody's.
    let refused = connector.line_count();
    let home = laptop.find("home")?;
    ensure!(
        laptop.fetch("home", &home).is_err(),
        "the connector's own host"
    );
    connector.wait_for_after(refused, "not one that this connector dials")?;
    for nobody in ["a.b.dev.corp.example", "api.prod.corp.example"] {
        let said = laptop.dig(&[nobody])?;
        ensure!(said.contains("NXDOMAIN"), "{said}");
    }
    let status = run_ok(world.cardea(host, "laptop", "status -o json"))?;
    ensure!(status.contains("\"api.dev.corp.example\""), "{status}");

    // Without root it is the same by SOCKS and by forward.
    let (_forward, address) = world.forward(host, "laptop", "api.dev.corp.example")?;
    let url = format!("http://{address}/");
    let words = ["-sS", "--fail", "--max-time", "20", &url];
    ensure!(
        run_ok(hosts.laptop.command("curl", words))? == API,
        "forward"
    );
    let refused = world.cardea(host, "laptop", "forward a.b.dev.corp.example");
    ensure!(!run(refused)?.status.success(), "a name outside");

    // A wildcard that is taken back takes its tunnels with it.
    world.ctl("app set dev --name *.lab.corp.example --yes")?;
    let deadline = now() + PATIENCE;
    while laptop.dig(&["api.dev.corp.example"])?.contains("NOERROR") {
        ensure!(now() < deadline, "the name stays");
    }
    let grants = world.ctl("grant ls -o json")?;
    ensure!(!grants.contains("dev.corp.example"), "{grants}");
    Ok(())
}

/// What a person does there.
struct Laptop<'a> {
    hosts: &'a Hosts,
}

impl Laptop<'_> {
    fn dig(&self, words: &[&str]) -> Result<String> {
        let words = ["@100.64.0.1"].iter().chain(words).copied();
        run_ok(self.hosts.laptop.command("dig", words))
    }

    /// Waits until a host of the app has an address.
    fn find(&self, label: &str) -> Result<String> {
        let deadline = now() + PATIENCE;
        loop {
            let found = self.dig(&["+short", &format!("{label}.dev.corp.example")])?;
            if found.starts_with("100.") {
                return Ok(found.trim().to_owned());
            }
            ensure!(now() < deadline, "no address: {found}");
        }
    }

    fn fetch(&self, label: &str, address: &str) -> Result<String> {
        let name = format!("{label}.dev.corp.example");
        let (at, url) = (format!("{name}:80:{address}"), format!("http://{name}/"));
        let words = ["-sS", "--fail", "--max-time", "20", "--resolve", &at, &url];
        run_ok(self.hosts.laptop.command("curl", words))
    }
}
