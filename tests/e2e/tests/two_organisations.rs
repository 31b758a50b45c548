//! A device of two organisations: an agent for each, side by side, and nothing of one in the other.
//!
//! ```text
//!                        ┌── controller + relay + connector + app (one)
//!  laptop (two agents) ──┤
//!                        └── controller + relay + connector + app (other)
//! ```

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    apps,
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, now, run, run_ok},
};

#[test]
fn two_organisations_have_an_agent_each_and_share_nothing() {
    if needs::root_and(&["ip", "nginx", "curl", "dig"]) {
        be_in_two().unwrap();
    }
}

/// One of them; both call themselves the same, and so do their apps.
struct Organisation {
    deployment: Deployment,
    agent: Program,
    _connector: Program,
    _app: Program,
    /// Where its stub resolver answers.
    stub: &'static str,
    page: &'static str,
}

fn be_in_two() -> Result<()> {
    let laptop = Namespace::new("both", "laptop")?;
    let one = Namespace::new("both", "one")?;
    let other = Namespace::new("both", "other")?;
    laptop.link("lan1", "192.168.1.2/24", &one, "lan", "192.168.1.1/24")?;
    laptop.link("lan2", "192.168.2.2/24", &other, "lan", "192.168.2.1/24")?;
    let mut one = Organisation::start(&laptop, (&one, "192.168.1.1"), ("100.64.0.1", "of one\n"))?;
    let other = Organisation::start(
        &laptop,
        (&other, "192.168.2.1"),
        ("10.203.0.1", "of other\n"),
    )?;

    let (first, second) = (one.find(&laptop)?, other.find(&laptop)?);
    ensure!(
        first.starts_with("100.") && second.starts_with("10.203."),
        "{first} {second}"
    );
    ensure!(one.fetch(&laptop, &first)? == one.page, "one");
    ensure!(other.fetch(&laptop, &second)? == other.page, "other");
    let tables = run_ok(laptop.command("ip", ["rule"]))?;
    ensure!(
        tables.contains("lookup 7443") && tables.contains("lookup 7445"),
        "{tables}"
    );
    for (table, mine, theirs) in [("7443", &first, &second), ("7445", &second, &first)] {
        let routes = run_ok(laptop.command("ip", ["route", "show", "table", table]))?;
        ensure!(
            routes.contains(mine.as_str()) && !routes.contains(theirs.as_str()),
            "{routes}"
        );
    }

    // What one takes away, the other still gives.
    one.deployment.ctl("disallow group:staff wiki --yes")?;
    let deadline = now() + PATIENCE;
    while one.fetch(&laptop, &first).is_ok() {
        ensure!(now() < deadline, "it stays open");
    }
    ensure!(
        other.fetch(&laptop, &second)? == other.page,
        "the other beside it"
    );

    // One goes and takes what is its own.
    one.agent.stop()?;
    let rules = run_ok(laptop.command("ip", ["rule"]))?;
    ensure!(
        !rules.contains("lookup 7443") && rules.contains("lookup 7445"),
        "{rules}"
    );
    ensure!(
        other.fetch(&laptop, &second)? == other.page,
        "after the other's end"
    );
    Ok(())
}

impl Organisation {
    fn start(
        laptop: &Namespace,
        (host, address): (&Namespace, &str),
        (stub, page): (&'static str, &'static str),
    ) -> Result<Self> {
        let mut deployment = Deployment::new()?;
        let listen = format!("{address}:80");
        let pages = [("index.html", page)];
        let app = apps::nginx(host, &deployment.path("nginx"), &[&listen], &pages)?;
        deployment.start_controller(&ControllerOptions {
            namespace: Some(host),
            address,
            port: 7443,
            relay_port: 7444,
            more: &["--allow-simulated-posture"],
            ..Default::default()
        })?;
        let line =
            format!("app add wiki --target {listen} --allow-host-scoped --allow group:staff");
        deployment.ctl(&line)?;
        let connector = deployment.start_connector(Some(host), "connector", "default")?;
        let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
        let user = ("alice@corp.example", "staff");
        let agent = deployment.start_interface(Some(laptop), "laptop", user, &facts, &[])?;
        Ok(Self {
            deployment,
            agent,
            _connector: connector,
            _app: app,
            stub,
            page,
        })
    }

    /// Asks its stub for its app.
    fn find(&self, laptop: &Namespace) -> Result<String> {
        let server = format!("@{}", self.stub);
        let words = [&server, "+short", "+tries=1", "wiki.corp.example"];
        let deadline = now() + PATIENCE;
        loop {
            let found = run(laptop.command("dig", words))?;
            let found = String::from_utf8_lossy(&found.stdout).trim().to_owned();
            if found.parse::<std::net::Ipv4Addr>().is_ok() {
                return Ok(found);
            }
            ensure!(
                now() < deadline,
                "no address: {found}: {}",
                self.agent.said()
            );
        }
    }

    fn fetch(&self, laptop: &Namespace, address: &str) -> Result<String> {
        let url = format!("http://{address}/");
        let words = ["-sS", "--fail", "--max-time", "20", &url];
        run_ok(laptop.command("curl", words)).context(self.stub)
    }
}
