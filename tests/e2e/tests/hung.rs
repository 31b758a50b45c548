//! Programs that are there and do not answer: whoever asks them is told so, soon.

use std::{process::Command, time::Duration};

use anyhow::{Result, anyhow, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    program::{Program, expect, now, run, run_ok},
    traffic::{WebServer, fetch},
};

const PAGE: &str = "after a pause\n";

/// How soon the person at the terminal knows: PRODUCT's commands answer at once or not at all.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn who_asks_a_program_that_hangs_is_told_so_within_seconds() {
    hang().unwrap();
}

fn hang() -> Result<()> {
    let mut world = Deployment::new()?;
    world.start_controller(&ControllerOptions {
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    let web = WebServer::start("127.0.0.1:0", PAGE)?.address;
    world.ctl(&format!(
        "app add web --target {web} --allow-host-scoped --allow group:staff"
    ))?;
    let connector = world.start_connector(None, "con-a", "default")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let user = "alice@corp.example";
    let laptop = world.start_device(None, "laptop", user, "staff", Some(&facts))?;
    let (_forward, address) = world.forward(None, "laptop", "web")?;
    ensure!(fetch(&address)? == PAGE, "another page");

    let verbs = ["status", "apps", "posture", "explain web", "forward web"];
    let asked = verbs.map(|verb| world.cardea(None, "laptop", verb));
    while_stopped(&laptop, "cardea", asked)?;
    run_ok(world.cardea(None, "laptop", "status"))?;

    let state = world.path("con-a").into_os_string();
    let arguments = ["status".into(), "--state".into(), state];
    let asked = world.program(None, "cardea-connector", arguments);
    while_stopped(&connector, "cardea-connector", [asked])?;

    let asked = ["status", "tunnel ls", "audit tail", "site add other"]
        .map(|line| world.ctl_command(line.split_whitespace()));
    while_stopped(world.controller()?, "cardea-controller", asked)?;
    world.ctl("status")?;
    Ok(())
}

/// Stops a program, asks it all of these at once, and lets it go on.
fn while_stopped(
    program: &Program,
    name: &str,
    asked: impl IntoIterator<Item = Command>,
) -> Result<()> {
    let stopped = program.pause()?;
    let begun = now();
    let asked = asked.into_iter().map(|command| {
        let shown = format!("{command:?}");
        (shown, std::thread::spawn(|| (run(command), now())))
    });
    let asked: Vec<_> = asked.collect();
    for (shown, asking) in asked {
        let (output, ended) = asking.join().map_err(|_| anyhow!("{shown} panicked"))?;
        let output = output?;
        let took = ended.duration_since(begun);
        let id = program.id();
        let said = format!("{name} (process {id}) has not answered within 5 s: it is stopped.");
        expect(&output, 5, &said)?;
        expect(&output, 5, &format!("kill -CONT {id}"))?;
        ensure!(took < SOON, "{shown} took {took:?}");
    }
    drop(stopped);
    Ok(())
}
