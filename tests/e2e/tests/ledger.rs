//! The ledger of a running deployment: audited from outside, rolled back, and missed by its nodes.
#![expect(clippy::indexing_slicing, reason = "JSON that lacks a field is null")]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    program::{self, PATIENCE, Program, now},
    traffic::{WebServer, fetch},
};
use rustix::process::Signal;

const PAGE: &str = "served while the ledger is whole\n";

/// How soon after it has reconnected a node must have told that the ledger was rolled back.
const NOTICED: Duration = Duration::from_secs(10);

struct World {
    deployment: Deployment,
    port: u16,
    relay_port: u16,
}

impl World {
    fn new() -> Result<Self> {
        let mut this = Self {
            deployment: Deployment::new()?,
            port: program::free_port()?,
            relay_port: program::free_port()?,
        };
        this.start()?;
        Ok(this)
    }

    fn start(&mut self) -> Result<()> {
        self.deployment.start_controller(&ControllerOptions {
            port: self.port,
            relay_port: self.relay_port,
            more: &["--allow-simulated-posture"],
            ..Default::default()
        })
    }

    fn ctl(&self, line: &str) -> Result<String> {
        self.deployment.ctl(line)
    }

    fn app_and_laptop(&self) -> Result<(Program, Program)> {
        let web = WebServer::start("127.0.0.1:0", PAGE)?.address;
        self.ctl(&format!(
            "app add web --target {web} --allow-host-scoped --allow group:staff"
        ))?;
        let connector = self.deployment.start_connector(None, "con", "default")?;
        let facts = self.deployment.write_facts("laptop", GOOD_FACTS)?;
        let (user, group) = ("alice@corp.example", "staff");
        let laptop = self
            .deployment
            .start_device(None, "laptop", user, group, Some(&facts))?;
        Ok((connector, laptop))
    }

    fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.ctl("status -o json")?)?)
    }

    /// A backup of the running controller, made by the command.
    fn backup(&self) -> Result<PathBuf> {
        let backup = self.deployment.path("backup.tar");
        let state = self.deployment.path("controller");
        self.ctl(&format!(
            "backup {} --state {}",
            backup.display(),
            state.display()
        ))?;
        Ok(backup)
    }

    /// Puts a backup in the place of the state, by the command.
    fn restore(&self, backup: &Path) -> Result<()> {
        let state = self.deployment.path("controller");
        std::fs::rename(&state, self.deployment.path("replaced"))?;
        self.ctl(&format!(
            "restore {} --state {}",
            backup.display(),
            state.display()
        ))?;
        Ok(())
    }

    fn verify(&self, more: &str) -> Result<String> {
        let state = self.deployment.path("controller");
        let key = state.join("keys/ledger.pub");
        self.ctl(&format!(
            "audit verify --ledger {} --key {} {more}",
            state.display(),
            key.display()
        ))
    }
}

#[test]
fn a_ledger_is_audited_while_it_grows_and_after_its_controller_was_killed() {
    audited().unwrap();
}

fn audited() -> Result<()> {
    let mut world = World::new()?;
    for number in 0..50 {
        world.ctl(&format!("site add site-{number}"))?;
        if number % 10 == 0 {
            world.verify("")?;
        }
    }
    let note = world.ctl("audit checkpoint")?;
    let kept = world.deployment.path("kept.checkpoint");
    std::fs::write(&kept, note)?;
    world.deployment.controller()?.signal(Signal::KILL)?;
    world.deployment.controller()?.wait()?;
    let since = format!("--since {} -o json", kept.display());
    let row: serde_json::Value = serde_json::from_str(&world.verify(&since)?)?;
    ensure!(row["entries"].as_u64() >= Some(51), "{row}");
    ensure!(row["admin_signatures"].as_u64() == Some(50), "{row}");
    // The next start signs what the killed process could not.
    world.start()?;
    world.deployment.stop_controller()?;
    let row: serde_json::Value = serde_json::from_str(&world.verify(&since)?)?;
    ensure!(row["covered"] == row["entries"], "{row}");
    Ok(())
}

#[test]
fn a_damaged_ledger_is_cut_or_restored_from_a_backup() {
    damaged().unwrap();
}

fn damaged() -> Result<()> {
    let mut world = World::new()?;
    let (state, backup) = (
        world.deployment.path("controller"),
        world.deployment.path("backup.tar"),
    );
    for number in 0..20 {
        world.ctl(&format!("site add site-{number}"))?;
        if number == 9 {
            // The controller is running, and goes on.
            world.ctl(&format!(
                "backup {} --state {}",
                backup.display(),
                state.display()
            ))?;
        }
    }
    world.deployment.stop_controller()?;
    let segment = state.join("ledger/0001.seg");
    let genuine = std::fs::read(&segment)?;
    let text = b"site-15";
    let at = genuine.windows(text.len()).position(|bytes| bytes == text);
    let mut touched = genuine.clone();
    touched[at.context("site-15 is not in the ledger")?] ^= 1;
    std::fs::write(&segment, touched)?;
    let refused = world.start().err().context("it starts")?;
    ensure!(format!("{refused:#}").contains("repair"), "{refused:#}");
    let repair = |more: &[&str]| {
        let mut arguments = vec![
            "repair".into(),
            "--state".into(),
            state.clone().into_os_string(),
        ];
        arguments.extend(more.iter().map(std::ffi::OsString::from));
        program::run(
            world
                .deployment
                .program(None, "cardea-controller", arguments),
        )
    };
    let choices = repair(&[])?;
    let said = String::from_utf8_lossy(&choices.stderr).into_owned();
    ensure!(choices.status.code() == Some(7), "{said}");
    ensure!(
        said.contains("repair --cut") && said.contains("restore"),
        "{said}"
    );
    ensure!(repair(&["--cut"])?.status.success(), "not cut");
    // Damaged once more, while what the first repair kept is still there.
    let cut = std::fs::read(&segment)?;
    let mut touched = cut.clone();
    *touched.last_mut().context("nothing is left")? ^= 1;
    std::fs::write(&segment, touched)?;
    std::fs::copy(
        state.join("ledger.damaged/acknowledged"),
        state.join("ledger/acknowledged"),
    )?;
    let again = repair(&["--cut"])?;
    let kept = format!("move {} away", state.join("ledger.damaged").display());
    program::expect(&again, 7, &kept)?;
    std::fs::write(&segment, cut)?;
    std::fs::remove_file(state.join("ledger/acknowledged"))?;
    world.start()?;
    let sites = world.ctl("site ls")?;
    ensure!(
        sites.contains("site-14") && !sites.contains("site-16"),
        "{sites}"
    );
    world.deployment.stop_controller()?;
    restored(&mut world, &state, &backup)
}

fn restored(world: &mut World, state: &Path, backup: &Path) -> Result<()> {
    let damaged = world.deployment.path("damaged");
    std::fs::rename(state, &damaged)?;
    let key = damaged.join("keys/ledger.pub").display().to_string();
    let backed_up = format!("audit verify --ledger {} --key {key}", backup.display());
    let backed_up = world.ctl(&backed_up)?;
    ensure!(backed_up.contains("The ledger holds"), "{backed_up}");
    let restored = world.ctl(&format!(
        "restore {} --state {}",
        backup.display(),
        state.display()
    ))?;
    ensure!(restored.contains("The ledger holds"), "{restored}");
    let again = world.ctl(&format!(
        "restore {} --state {}",
        backup.display(),
        state.display()
    ));
    ensure!(again.is_err(), "a folder was written over");
    world.start()?;
    let sites = world.ctl("site ls")?;
    ensure!(
        sites.contains("site-9") && !sites.contains("site-10"),
        "{sites}"
    );
    world.verify("").map(drop)
}

#[test]
fn the_ledger_is_searched_exported_and_asked_who_could_reach_an_app() {
    searched().unwrap();
}

fn searched() -> Result<()> {
    let world = World::new()?;
    let (_connector, _laptop) = world.app_and_laptop()?;
    let facts = world.deployment.write_facts("phone", GOOD_FACTS)?;
    let (user, group) = ("bob@corp.example", "guests");
    let phone = world
        .deployment
        .start_device(None, "phone", user, group, Some(&facts));
    let _phone = phone?;
    let (_forward, local) = world.deployment.forward(None, "laptop", "web")?;
    ensure!(fetch(&local)? == PAGE, "another page");
    let denied = program::run(world.deployment.cardea(None, "phone", "forward web"))?;
    program::expect(&denied, 3, "no rule permits")?;
    let json =
        |line: &str| -> Result<serde_json::Value> { Ok(serde_json::from_str(&world.ctl(line)?)?) };
    let grants = json("grant ls -o json")?;
    let id = grants[0]["id"].as_str().context("no grant")?.to_owned();
    let future = world.ctl("audit who --app web --at 2100-01-01");
    ensure!(future.is_err(), "who could reach it in 2100");
    let entry = grants[0]["revision"].as_u64().context("no entry")?;
    let offered = json(&format!("audit show {entry} -o json"))?;
    let at = offered["draft"]["at"]
        .as_str()
        .context("no time")?
        .to_owned();
    let who = json(&format!("audit who --app web --at {at} -o json"))?;
    ensure!(who["rows"][0]["user"] == "alice@corp.example", "{who}");
    ensure!(who["rows"][0]["grant"] == *id, "{who}");
    world.ctl(&format!("grant revoke {id} --yes"))?;
    narrowed(&world, entry)?;
    let none = json("audit search --app nothing -o json")?;
    ensure!(none.as_array().is_some_and(Vec::is_empty), "{none}");
    let entries = json("status -o json")?["revision"].as_u64();
    for format in ["json", "ocsf", "cef"] {
        let file = world.deployment.path(&format!("{format}.log"));
        world.ctl(&format!(
            "audit export --format {format} --out {}",
            file.display()
        ))?;
        let written = std::fs::read_to_string(file)?;
        let lines = written.lines().count();
        ensure!(
            u64::try_from(lines).ok() >= entries,
            "{format}: {lines} lines"
        );
        let printed = world.ctl(&format!("audit export --format {format}"))?;
        ensure!(
            printed.starts_with(written.trim_end()),
            "{format}: {printed}"
        );
    }
    followed(&world)
}

/// Each filter finds, of a grant's offer and end and of another device's denial, those that it should.
fn narrowed(world: &World, offered: u64) -> Result<()> {
    let found = |filter: &str| -> Result<Vec<serde_json::Value>> {
        let found = world.ctl(&format!("audit search {filter} -o json"))?;
        Ok(serde_json::from_str(&found)?)
    };
    // The answer does not wait until the denial is on record.
    let deadline = now() + PATIENCE;
    let refused = |entry: &&serde_json::Value| entry["draft"]["changes"][0]["refused"].is_object();
    let denied = loop {
        if let Some(entry) = found("")?.iter().find(refused) {
            break entry.clone();
        }
        ensure!(now() < deadline, "no entry of the denial");
    };
    let ended = found("")?.last().context("no entries")?.clone();
    let at = |entry: &serde_json::Value| entry["draft"]["at"].as_str().map(str::to_owned);
    let from = format!("--from {}", at(&ended).context("no time")?);
    let to = world.ctl(&format!("audit show {offered} -o json"))?;
    let to = at(&serde_json::from_str(&to)?).context("no time")?;
    let to = format!("--to {to}");
    let number = |entry: &serde_json::Value| entry["revision"].as_u64();
    let looked_for = [Some(offered), number(&ended), number(&denied)];
    for (filter, expected) in [
        ("", [true, true, true]),
        ("--device laptop", [true, true, false]),
        ("--device phone", [false, false, true]),
        ("--user alice@corp.example", [true, true, false]),
        ("--user bob@corp.example", [false, false, true]),
        ("--app web", [true, true, true]),
        ("--app nothing", [false, false, false]),
        ("--actor laptop", [true, false, false]),
        ("--actor phone", [false, false, true]),
        ("--decision allow", [true, false, false]),
        ("--decision deny", [false, false, true]),
        (&from, [false, true, false]),
        (&to, [true, false, false]),
        ("--from 2000-01-01 --to 2000-01-02", [false, false, false]),
        ("--from 2100-01-01", [false, false, false]),
    ] {
        let numbers: Vec<_> = found(filter)?.iter().map(number).collect();
        let is_found = looked_for.map(|number| numbers.contains(&number));
        ensure!(
            is_found == expected,
            "{filter}: {is_found:?} of {looked_for:?}"
        );
    }
    Ok(())
}

/// Whoever follows is told of what comes.
fn followed(world: &World) -> Result<()> {
    let follow = |line: &str| -> Result<Program> {
        let command = world.deployment.ctl_command(line.split_whitespace());
        let mut program = Program::start(line, command)?;
        program.wait_for("web")?;
        Ok(program)
    };
    let mut tail = follow("audit tail --follow")?;
    let mut export = follow("audit export --format cef --follow")?;
    world.ctl("site add follow-me")?;
    tail.wait_for("follow-me")?;
    export.wait_for("follow-me").map(drop)
}

#[test]
fn an_older_backup_is_noticed_by_the_nodes_and_nothing_is_given_until_an_admin_has_spoken() {
    let older = |world: &mut World, backup: &Path| world.restore(backup);
    missed(older).unwrap();
}

#[test]
fn a_ledger_that_went_another_way_is_noticed_although_it_is_longer() {
    let forked = |world: &mut World, backup: &Path| {
        world.restore(backup)?;
        // Where no node hears of it, the backup grows past what the nodes know.
        let ports = (world.port, world.relay_port);
        (world.port, world.relay_port) = (program::free_port()?, program::free_port()?);
        world.start()?;
        for number in 0..20 {
            world.ctl(&format!("site add fork-{number}"))?;
        }
        world.deployment.stop_controller()?;
        (world.port, world.relay_port) = ports;
        Ok(())
    };
    missed(forked).unwrap();
}

/// Puts another ledger in the place of the one that the nodes know.
fn missed(replace: impl FnOnce(&mut World, &Path) -> Result<()>) -> Result<()> {
    let mut world = World::new()?;
    let (mut connector, mut laptop) = world.app_and_laptop()?;
    let (_forward, local) = world.deployment.forward(None, "laptop", "web")?;
    ensure!(fetch(&local)? == PAGE, "another page");
    let backup = world.backup()?;
    world.ctl("site add lost")?;
    outgrown(&mut world, &["laptop"])?;
    world.deployment.stop_controller()?;
    replace(&mut world, &backup)?;
    let seen = [&connector, &laptop].map(Program::line_count);
    world.start()?;
    let reconnected = first_back(&mut connector, &mut laptop, seen)?;
    while world.status()?["rollback"].is_null() {
        let status = world.status()?;
        ensure!(now() < reconnected + NOTICED, "nobody noticed: {status}");
    }
    let explained = world.ctl("status")?;
    ensure!(explained.contains("--acknowledge-rollback"), "{explained}");
    let deadline = now() + PATIENCE;
    loop {
        let status = world.deployment.cardea(None, "laptop", "status -o json");
        let status = program::run_ok(status)?;
        if status.contains("ledger_doubtful") {
            break;
        }
        ensure!(now() < deadline, "the laptop does not doubt: {status}");
    }
    safe_mode(&world, &local)?;
    world.verify("").map(drop)
}

#[test]
fn an_agent_and_a_connector_each_notice_an_older_backup_alone() {
    alone().unwrap();
}

fn alone() -> Result<()> {
    let mut world = World::new()?;
    let nodes = world.app_and_laptop()?;
    let id = |kind: &str| -> Result<serde_json::Value> {
        let rows = world.ctl(&format!("{kind} ls -o json"))?;
        let rows: serde_json::Value = serde_json::from_str(&rows)?;
        Ok(serde_json::json!({ kind: rows[0]["id"] }))
    };
    let ids = [id("connector")?, id("device")?];
    let backup = world.backup()?;
    world.ctl("site add lost")?;
    outgrown(&mut world, &["con", "laptop"])?;
    drop(nodes);
    for ((program, name), id) in [("cardea-connector", "con"), ("cardea", "laptop")]
        .into_iter()
        .zip(ids)
    {
        world.deployment.stop_controller()?;
        world.restore(&backup)?;
        std::fs::remove_dir_all(world.deployment.path("replaced"))?;
        world.start()?;
        let words = ["run", "--state"];
        let mut command = world.deployment.program(None, program, words);
        command.arg(world.deployment.path(name));
        let mut node = Program::start(name, command)?;
        node.wait_for("connected to")?;
        let connected = now();
        node.wait_for("does not go on from what this node knows")?;
        while world.status()?["rollback"]["node"] != id {
            let status = world.status()?;
            ensure!(
                now() < connected + NOTICED,
                "{name} tells nothing: {status}"
            );
        }
        ensure!(now() < connected + NOTICED, "{name} was late");
    }
    Ok(())
}

/// Has these nodes remember more than they did: what they are shown when they connect anew.
fn outgrown(world: &mut World, nodes: &[&str]) -> Result<()> {
    let known = |world: &World| -> Result<Vec<String>> {
        nodes.iter().map(|node| remembered(world, node)).collect()
    };
    let before = known(world)?;
    world.deployment.stop_controller()?;
    world.start()?;
    let deadline = now() + PATIENCE;
    loop {
        let after = known(world)?;
        if after
            .iter()
            .zip(&before)
            .all(|(after, before)| after != before)
        {
            return Ok(());
        }
        ensure!(now() < deadline, "a node was shown nothing");
    }
}

/// What was granted before goes on, can be taken, and is not given again before the admin's word.
fn safe_mode(world: &World, local: &str) -> Result<()> {
    ensure!(fetch(local)? == PAGE, "an open tunnel was cut");
    let grants: serde_json::Value = serde_json::from_str(&world.ctl("grant ls -o json")?)?;
    let id = grants[0]["id"].as_str().context("no grant")?;
    world.ctl(&format!("grant revoke {id} --yes"))?;
    let deadline = now() + PATIENCE;
    while fetch(local).is_ok() {
        ensure!(now() < deadline, "not taken in safe mode");
    }
    loop {
        ensure!(fetch(local).is_err(), "granted in safe mode");
        let status = world.deployment.cardea(None, "laptop", "status");
        let status = program::run_ok(status)?;
        if status.contains("safe mode") {
            break;
        }
        ensure!(now() < deadline, "the laptop is not told why: {status}");
    }
    world.ctl("status --acknowledge-rollback --yes")?;
    ensure!(world.status()?["rollback"].is_null(), "still in safe mode");
    let deadline = now() + PATIENCE;
    while fetch(local).is_err() {
        ensure!(
            now() < deadline,
            "nothing is granted after the admin's word"
        );
    }
    Ok(())
}

/// When the first of the two nodes had a channel again.
fn first_back(
    connector: &mut Program,
    laptop: &mut Program,
    seen: [usize; 2],
) -> Result<std::time::Instant> {
    let deadline = now() + PATIENCE;
    loop {
        for (node, seen) in [&*connector, &*laptop].into_iter().zip(seen) {
            let said = node.said();
            if said
                .lines()
                .skip(seen)
                .any(|line| line.contains("connected to"))
            {
                return Ok(now());
            }
        }
        ensure!(now() < deadline, "no node came back");
        std::thread::yield_now();
    }
}

/// The checkpoint that a node has on its disk.
fn remembered(world: &World, node: &str) -> Result<String> {
    let path = world.deployment.path(node).join("ledger.checkpoint");
    let deadline = now() + PATIENCE;
    loop {
        match std::fs::read_to_string(&path) {
            Ok(note) => return Ok(note),
            Err(error) if now() >= deadline => return Err(error).context("no checkpoint is kept"),
            Err(_) => std::thread::yield_now(),
        }
    }
}
