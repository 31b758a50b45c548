//! What an admin types: every list in every format, every change and what it closes, and a policy
//! that its own tests hold back.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    program::{PATIENCE, Program, expect, now},
    traffic::{Bulk, WebServer, fetch},
};
use serde_json::Value;

const PAGE: &str = "as long as the admin likes\n";

/// How soon a flow must have ended: far longer than it takes, and far shorter than a ttl.
const SOON: std::time::Duration = std::time::Duration::from_secs(10);

struct World {
    deployment: Deployment,
    laptop: Program,
    _connector: Program,
}

impl World {
    fn start() -> Result<Self> {
        let mut deployment = Deployment::new()?;
        deployment.start_controller(&ControllerOptions {
            more: &["--allow-simulated-posture"],
            ..Default::default()
        })?;
        let web = WebServer::start("127.0.0.1:0", PAGE)?.address;
        deployment.ctl(&format!(
            "app add web --target {web} --allow-host-scoped --allow group:staff"
        ))?;
        let connector = deployment.start_connector(None, "con-a", "default")?;
        let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
        let user = "alice@corp.example";
        let laptop = deployment.start_device(None, "laptop", user, "staff", Some(&facts))?;
        Ok(Self {
            deployment,
            laptop,
            _connector: connector,
        })
    }

    fn json(&self, line: &str) -> Result<Value> {
        let text = self.deployment.ctl(&format!("{line} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("{line}: {text}"))
    }

    /// The id of the only grant.
    fn grant(&self) -> Result<String> {
        let grants = self.json("grant ls")?;
        let id = grants.pointer("/0/id").and_then(|id| id.as_str());
        ensure!(grants.pointer("/1").is_none(), "more than one: {grants}");
        Ok(id.context("no grant")?.to_owned())
    }

    /// The names in a list.
    fn names(&self, list: &str) -> Result<Vec<String>> {
        let rows = self.json(&format!("{list} ls"))?;
        let rows = rows
            .as_array()
            .with_context(|| format!("{list}: no array"))?;
        let mut names = Vec::new();
        for row in rows {
            ensure!(row.get("id").is_some_and(Value::is_string), "{list}: {row}");
            let name = row.get("name").and_then(|name| name.as_str());
            names.push(name.with_context(|| format!("{list}: {row}"))?.to_owned());
        }
        Ok(names)
    }
}

#[test]
fn everything_that_there_is_is_shown_in_every_format() {
    show_everything().unwrap();
}

fn show_everything() -> Result<()> {
    let world = World::start()?;
    let (_forward, address) = world.deployment.forward(None, "laptop", "web")?;
    ensure!(fetch(&address)? == PAGE, "another page");
    for (list, name) in [
        ("site", "default"),
        ("connector", "con-a"),
        ("device", "laptop"),
        ("user", "alice@corp.example"),
        ("app", "web"),
    ] {
        let names = world.names(list)?;
        ensure!(names == [name], "{list}: {names:?}");
        in_every_format(&world, &format!("{list} ls"), name)?;
        in_every_format(&world, &format!("{list} show {name}"), name)?;
    }
    let grant = world.grant()?;
    for (line, text) in [
        ("grant ls", "laptop"),
        (&format!("grant show {grant}"), "laptop"),
        ("tunnel ls", "web"),
        ("invite ls", "used"),
        ("policy show", "base/certify"),
        ("audit tail", "laptop"),
        ("audit show 1", "corp.example"),
        ("status", "corp.example"),
        (
            "explain --user alice@corp.example --device laptop --app web",
            "allow",
        ),
    ] {
        in_every_format(&world, line, text)?;
    }
    Ok(())
}

fn in_every_format(world: &World, line: &str, text: &str) -> Result<()> {
    for format in ["table", "yaml", "json"] {
        let said = world.deployment.ctl(&format!("{line} -o {format}"))?;
        ensure!(said.contains(text), "{line} as {format}: {said}");
        let is_json = serde_json::from_str::<Value>(&said).is_ok();
        ensure!(is_json == (format == "json"), "{line} as {format}: {said}");
    }
    Ok(())
}

#[test]
fn whatever_an_admin_takes_away_ends_the_flows_that_rested_on_it() {
    take_away().unwrap();
}

fn take_away() -> Result<()> {
    let mut world = World::start()?;
    let ctl = |line: &str| world.deployment.ctl(line);
    let (_forward, address) = world.deployment.forward(None, "laptop", "web")?;
    for (away, back) in [
        ("grant revoke GRANT --yes", ""),
        ("disallow group:staff web --yes", "allow group:staff web"),
        (
            "user set alice@corp.example --no-groups --yes",
            "user set alice@corp.example --group staff",
        ),
        ("device block laptop --yes", "device unblock laptop"),
        ("app set web --transport quic --yes", ""),
        (
            "app set web --target 10.9.0.10:80 --yes",
            "app set web --target HERE --yes",
        ),
        (
            "app rm web --yes",
            "app add web --target HERE --allow-host-scoped --allow group:staff",
        ),
        ("device rm laptop --yes", ""),
    ] {
        let deadline = now() + PATIENCE;
        while fetch(&address).is_err() {
            ensure!(now() < deadline, "before {away}: no access");
        }
        let app = world.json("app show web")?;
        let stream = Bulk::open(&address)?;
        ctl(&away.replace("GRANT", &world.grant()?))?;
        stream.last_byte(SOON).with_context(|| away.to_owned())?;
        if !back.is_empty() {
            let here = app.pointer("/targets/0").and_then(|target| target.as_str());
            ctl(&back.replace("HERE", here.with_context(|| format!("{app}"))?))?;
        }
    }
    ensure!(
        world.names("device")?.is_empty(),
        "the device is still there"
    );
    // Nobody who started it is left to believe that it is of any use.
    let code = world.laptop.wait()?;
    let said = world.laptop.said();
    ensure!(code == Some(4), "{code:?}: {said}");
    let state = world.deployment.path("laptop");
    let next = format!("move {} away, then: cardea up CODE", state.display());
    ensure!(said.contains(&next), "{said}");
    Ok(())
}

#[test]
fn sites_connectors_and_invites_come_and_go() {
    come_and_go().unwrap();
}

fn come_and_go() -> Result<()> {
    let world = World::start()?;
    let ctl = |line: &str| world.deployment.ctl(line);
    ctl("site add office")?;
    ensure!(world.names("site")? == ["default", "office"], "no office");
    ctl("invite connector --site office")?;
    let refused = world
        .deployment
        .ctl_output(["site", "rm", "default", "--yes"])?;
    expect(&refused, 1, "connector")?;
    ctl("site rm office --yes")?;
    ensure!(
        world.names("site")? == ["default"],
        "the office is still there"
    );
    ctl("connector rm con-a --yes")?;
    ensure!(world.names("connector")?.is_empty(), "still there");
    Ok(())
}

#[test]
fn a_policy_is_held_back_by_its_own_tests_and_shows_what_it_would_change() {
    policy().unwrap();
}

fn policy() -> Result<()> {
    let world = World::start()?;
    let folder = world.deployment.path("policy");
    fs::create_dir_all(&folder)?;
    let shown = folder.display().to_string();
    let policy = |verb: &str| {
        let words = ["policy", verb, &shown, "--yes"];
        world.deployment.ctl_output(words)
    };
    fs::write(
        folder.join("rules.cedar"),
        "@id(\"all\")\npermit(principal, action == Action::\"connect\", resource);\n",
    )?;
    // Nothing certifies a device here, and the test says that something does.
    let test = "[given.users]\n\"a@corp.example\" = []\n\
         [given.devices.laptop]\nuser = \"a@corp.example\"\n\
         [[test]]\nname = \"a device is certified\"\nask = { certify = \"laptop\" }\n\
         expect = { allowed = true }\n";
    fs::write(folder.join("rules.test.toml"), test)?;
    let before = world.deployment.ctl("policy show")?;
    expect(&policy("check")?, 0, "")?;
    for verb in ["test", "apply"] {
        expect(&policy(verb)?, 1, "a device is certified")?;
    }
    ensure!(
        world.deployment.ctl("policy show")? == before,
        "it was applied"
    );
    fs::remove_file(folder.join("rules.test.toml"))?;
    expect(&policy("diff")?, 0, "laptop")?;
    ensure!(
        world.deployment.ctl("policy show")? == before,
        "it was applied"
    );
    expect(&policy("apply")?, 0, "")?;
    ensure!(world.deployment.ctl("policy show")? != before, "it was not");
    Ok(())
}
