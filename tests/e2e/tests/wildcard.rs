//! An app with a wildcard name: each of its hosts has an address of its own on the device, and leads to
//! a target of its own, which the connector looks up for each flow.
//!
//! ```text
//!  laptop (interface, stub) ── controller + relay ── connector ── apps (two pages, name server)
//! ```

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use cardea_e2e::{
    apps,
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, now, run, run_ok},
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
    let mut world = World::new()?;
    for carrier in ["wireguard", "quic"] {
        world.reach_both(carrier)?;
    }
    world.follow_the_name()?;
    world.stay_inside()?;
    world.go_without_root()?;
    world.take_back()
}

/// What runs.
struct World {
    deployment: Deployment,
    names: Program,
    connector: Program,
    _programs: Vec<Program>,
    // After what runs on them.
    hosts: Hosts,
}

impl World {
    fn new() -> Result<Self> {
        let hosts = Hosts::new()?;
        let mut deployment = Deployment::new()?;
        let answers = deployment.path("answers");
        answer(&answers, "10.9.1.11")?;
        let page = |name: &str, address: &str, page| {
            let pages = [("index.html", page)];
            apps::nginx(&hosts.apps, &deployment.path(name), &[address], &pages)
        };
        let pages = vec![
            page("api", "10.9.1.10:80", API)?,
            page("web", "10.9.1.11:80", WEB)?,
        ];
        let said = format!("--addn-hosts={}", answers.display());
        let names = apps::dnsmasq(&hosts.apps, "10.9.1.10", &said)?;
        deployment.start_controller(&ControllerOptions::on(&hosts.controller, "192.168.1.1"))?;
        let places = "--target *.internal.example:80 --name *.dev.corp.example";
        deployment.ctl(&format!("app add dev {places} --allow group:staff"))?;
        let site = Some(&hosts.connector);
        let connector = deployment.start_connector(site, "connector", "default")?;
        let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
        let user = ("alice@corp.example", "staff");
        let laptop = Some(&hosts.laptop);
        let agent = deployment.start_interface(laptop, "laptop", user, &facts, &[])?;
        Ok(Self {
            deployment,
            names,
            connector,
            _programs: pages.into_iter().chain([agent]).collect(),
            hosts,
        })
    }

    const fn laptop(&self) -> Laptop<'_> {
        Laptop { hosts: &self.hosts }
    }

    /// Two hosts, two addresses, two targets, two grants.
    fn reach_both(&self, carrier: &str) -> Result<()> {
        let laptop = self.laptop();
        self.deployment
            .ctl(&format!("app set dev --transport {carrier} --yes"))?;
        let (api, web) = (laptop.find("api")?, laptop.find("WEB")?);
        ensure!(api != web, "two hosts have one address: {api}");
        ensure!(laptop.fetch("api", &api)? == API, "{carrier}: api");
        ensure!(laptop.fetch("web", &web)? == WEB, "{carrier}: web");
        ensure!(laptop.find("api")? == api, "its address is another one");
        let grants = self.deployment.ctl("grant ls -o json")?;
        for host in ["api.dev.corp.example", "web.dev.corp.example"] {
            let is_shown = grants.contains(&format!("{host} for alice"));
            ensure!(is_shown, "{carrier}: {grants}");
        }
        ensure!(grants.contains(&format!("\"{carrier}\"")), "{grants}");
        Ok(())
    }

    /// Looked up for each flow: the next one goes where the name leads by then.
    fn follow_the_name(&mut self) -> Result<()> {
        let web = self.laptop().find("web")?;
        let read = self.names.line_count();
        answer(&self.deployment.path("answers"), "10.9.1.10")?;
        self.names.signal(Signal::HUP)?;
        self.names.wait_for_after(read, "read ")?;
        let page = self.laptop().fetch("web", &web)?;
        ensure!(page == API, "where the name led before");
        Ok(())
    }

    /// A host may not lead home, and what no wildcard covers is nobody's.
    fn stay_inside(&mut self) -> Result<()> {
        let refused = self.connector.line_count();
        let home = self.laptop().find("home")?;
        let fetched = self.laptop().fetch("home", &home);
        ensure!(fetched.is_err(), "the connector's own host");
        self.connector
            .wait_for_after(refused, "not one that this connector dials")?;
        for nobody in ["a.b.dev.corp.example", "api.prod.corp.example"] {
            let said = self.laptop().dig(&[nobody])?;
            ensure!(said.contains("NXDOMAIN"), "{said}");
        }
        let status = run_ok(self.cardea("status -o json"))?;
        ensure!(status.contains("\"api.dev.corp.example\""), "{status}");
        Ok(())
    }

    fn cardea(&self, line: &str) -> std::process::Command {
        let laptop = Some(&self.hosts.laptop);
        self.deployment.cardea(laptop, "laptop", line)
    }

    fn go_without_root(&self) -> Result<()> {
        let laptop = Some(&self.hosts.laptop);
        let app = "api.dev.corp.example";
        let (_forward, address) = self.deployment.forward(laptop, "laptop", app)?;
        let url = format!("http://{address}/");
        let words = ["-sS", "--fail", "--max-time", "20", &url];
        let page = run_ok(self.hosts.laptop.command("curl", words))?;
        ensure!(page == API, "{page}");
        let refused = run(self.cardea("forward a.b.dev.corp.example"))?;
        ensure!(!refused.status.success(), "a name outside");
        Ok(())
    }

    /// A wildcard that is taken back takes its tunnels with it.
    fn take_back(&self) -> Result<()> {
        let line = "app set dev --name *.lab.corp.example --yes";
        self.deployment.ctl(line)?;
        let deadline = now() + PATIENCE;
        let is_there = || {
            anyhow::Ok(
                self.laptop()
                    .dig(&["api.dev.corp.example"])?
                    .contains("NOERROR"),
            )
        };
        while is_there()? {
            ensure!(now() < deadline, "the name stays");
        }
        let grants = self.deployment.ctl("grant ls -o json")?;
        ensure!(!grants.contains("dev.corp.example"), "{grants}");
        Ok(())
    }
}

/// Has the name server beside the apps say where hosts are.
fn answer(file: &Path, web: &str) -> Result<()> {
    let hosts = format!(
        "10.9.1.10 api.internal.example\n{web} web.internal.example\n127.0.0.1 home.internal.example\n"
    );
    Ok(fs::write(file, hosts)?)
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
