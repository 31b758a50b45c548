//! What runs, and on which hosts.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Result, ensure};
use cardea_e2e::{
    apps,
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    program::{PATIENCE, Program, now, run, run_ok},
};
use tempfile::TempDir;

use crate::{
    BEFORE, BY_FILE, PAGE,
    programs::{SCRIPT, SHOWN},
};

/// What runs, and on which hosts.
pub(crate) struct World {
    pub(crate) deployment: Deployment,
    pub(crate) laptop: Program,
    _connector: Program,
    apps: Vec<Program>,
    pub(crate) hosts: Hosts,
}

/// The hosts of the picture above.
pub(crate) struct Hosts {
    pub(crate) laptop: Namespace,
    pub(crate) controller: Namespace,
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
    pub(crate) fn new(test: &str) -> Result<Self> {
        let hosts = Hosts::new(test)?;
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions::on(&hosts.controller, "192.168.1.1"))?;
        for (app, ports) in APPS {
            let mut line = format!("app add {app} --allow group:staff");
            for port in ports {
                for host in ["10.9.1.10", "[fd00:9:1::10]"] {
                    line.push_str(&format!(" --target {host}:{port}"));
                }
            }
            deployment.ctl(&line)?;
        }
        deployment.ctl("app set wiki --name docs.elsewhere.example --yes")?;
        let at = "10.9.1.10,fd00:9:1::10";
        let web = ["10.9.1.10:80", "[fd00:9:1::10]:80"];
        let pages = [("index.html", PAGE), SHOWN, SCRIPT];
        let answers = "--address=/other.example/192.0.2.9";
        let apps = vec![
            apps::nginx(&hosts.apps, &deployment.path("nginx"), &web, &pages)?,
            apps::postgresql(&hosts.apps, &deployment.path("postgresql"), at)?,
            apps::sshd(&hosts.apps, &deployment.path("sshd"), at)?,
            apps::iperf3(&hosts.apps)?,
            apps::dnsmasq(&hosts.apps, at, "--address=/answer.example/10.1.2.3")?,
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

    pub(crate) fn start(&mut self, more: &[&str]) -> Result<()> {
        let facts = self.deployment.path("laptop.facts.json");
        let host = Some(&self.hosts.laptop);
        self.laptop = self
            .deployment
            .run_interface(host, "laptop", &facts, more)?;
        Ok(())
    }

    pub(crate) fn on_laptop(&self, program: &str, words: &[&str]) -> Command {
        self.hosts.laptop.command(program, words.iter().copied())
    }

    pub(crate) fn cardea(&self, line: &str) -> Result<Output> {
        run(self
            .deployment
            .cardea(Some(&self.hosts.laptop), "laptop", line))
    }

    pub(crate) fn dig(&self, words: &[&str]) -> Result<String> {
        run_ok(self.on_laptop("dig", words))
    }

    pub(crate) fn etc(&self) -> PathBuf {
        self.hosts.etc.path().join("etc")
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.etc().join("resolv.conf")
    }

    pub(crate) fn file(&self) -> Result<String> {
        Ok(fs::read_to_string(self.resolv_conf())?)
    }

    /// Waits until the file says something, for as long as a person may be left without it.
    pub(crate) fn wait_for_file(&self, text: &str) -> Result<()> {
        let deadline = now() + HEAL_TIME;
        while !self.file()?.contains(text) {
            ensure!(now() < deadline, "no {text:?}: {}", self.file()?);
        }
        Ok(())
    }

    /// Waits until programs find an app.
    pub(crate) fn wait_for_name(&self) -> Result<()> {
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
    pub(crate) fn wait_for_warning(&self, code: &str) -> Result<String> {
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
}

impl Drop for World {
    fn drop(&mut self) {
        // What runs in a namespace ends before it.
        self.apps.clear();
    }
}

/// Apps with their ports, all of them on one host.
pub(crate) const APPS: [(&str, &[&str]); 5] = [
    ("wiki", &["80"]),
    ("db", &["5432"]),
    ("shell", &["22"]),
    ("speed", &["5201", "5201/udp"]),
    ("ns", &["53", "53/udp"]),
];

/// How long whatever is in the way may be there before it heals or is said.
const HEAL_TIME: Duration = Duration::from_secs(5);
