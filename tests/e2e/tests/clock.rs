//! A clock that is wrong by an hour: who has it is told so, gets in nowhere, and is in again once it
//! is right.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    needs,
    program::{Program, command, expect, run, run_ok},
};
use rustix::process::Signal;

/// An hour, and enough that nobody's certificate of an hour holds by accident.
const AHEAD: &str = "+3700s";
const BEHIND: &str = "-3700s";

#[test]
fn a_clock_that_is_wrong_by_an_hour_is_named_and_enrolls_nobody() {
    if needs::installed(&["faketime"]) {
        enroll().unwrap();
    }
}

/// The controller's certificate has ended by the clock of who is ahead, which tells how far that is at
/// least; to who is behind, a new controller is silent, because a knock of an hour ago may be a
/// recorded one: it counts for the admin as late.
fn enroll() -> Result<()> {
    let world = started(&[])?;
    for (program, invite) in [
        ("cardea", "invite device --user bob@corp.example"),
        ("cardea-connector", "invite connector"),
    ] {
        for (offset, text) in [
            (AHEAD, "s ahead of the controller's. Set the clock"),
            (BEHIND, "clock is right"),
        ] {
            let late = late_knocks(&world)?;
            let name = format!("{program}{}", offset.trim_start_matches('+'));
            let code = world.ctl(invite)?;
            let mut arguments = world.node_arguments("enroll", &name, &code)?;
            if program == "cardea" {
                let facts = world.write_facts(&name, GOOD_FACTS)?;
                arguments.extend(["--facts-from".into(), facts.into_os_string()]);
            }
            let output = run(at(offset, world.program(None, program, arguments))?)?;
            expect(&output, 5, text).with_context(|| name)?;
            let is_counted = late_knocks(&world)? > late;
            ensure!(is_counted == (offset == BEHIND), "{offset}: {is_counted}");
        }
    }
    for list in ["device ls -o json", "connector ls -o json"] {
        let nodes = world.ctl(list)?;
        ensure!(nodes == "[]", "{nodes}");
    }
    Ok(())
}

#[test]
fn a_controller_that_can_be_talked_to_tells_the_offset_and_records_who_had_it() {
    if needs::installed(&["faketime"]) {
        told().unwrap();
    }
}

/// With certificates that hold for a day, an hour does not keep the two from talking.
fn told() -> Result<()> {
    let world = started(&["--certificate-life", "24h"])?;
    let code = world.ctl("invite device --user bob@corp.example")?;
    let mut arguments = world.node_arguments("enroll", "laptop", &code)?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    arguments.extend(["--facts-from".into(), facts.into_os_string()]);
    let enroll = || world.program(None, "cardea", arguments.clone());
    expect(
        &run(at(AHEAD, enroll())?)?,
        5,
        "s ahead of the controller's",
    )?;
    let tail = world.ctl("audit tail -n 5 -o json")?;
    ensure!(tail.contains("clock_skew"), "no entry: {tail}");
    // The code is as good as before.
    run_ok(enroll())?;
    let netcheck = || world.cardea(None, "laptop", "netcheck -o json");
    for (offset, ahead) in [("+0s", 0.0), (AHEAD, 3_700.0)] {
        let output = run(at(offset, netcheck())?)?;
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let ms = shown.pointer("/clock_ahead_ms");
        let ms = ms.and_then(serde_json::Value::as_f64);
        let ms = ms.with_context(|| format!("no offset: {shown}"))?;
        ensure!((ms / 1_000.0 - ahead).abs() < 5.0, "{offset}: {shown}");
        let is_advised = shown.to_string().contains("clock_skew");
        ensure!(is_advised == (offset == AHEAD), "{offset}: {shown}");
    }
    // Who is behind hears nothing, and is told what that may be.
    let silent = run(at(BEHIND, netcheck())?)?;
    expect(&silent, 5, "Look at this machine's clock first")?;
    Ok(())
}

#[test]
fn an_agent_whose_clock_is_wrong_says_so_and_connects_when_it_is_right() {
    if needs::installed(&["faketime"]) {
        up().unwrap();
    }
}

fn up() -> Result<()> {
    let world = started(&[])?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let user = "alice@corp.example";
    let mut laptop = world.start_device(None, "laptop", user, "staff", Some(&facts))?;
    laptop.stop()?;
    let start = || {
        let mut command = world.cardea(None, "laptop", "up");
        command.arg("--facts-from").arg(&facts);
        command
    };
    for (offset, text) in [
        (AHEAD, "s ahead of the controller's"),
        (BEHIND, "clock is right"),
    ] {
        let mut laptop = Program::start("laptop", at(offset, start())?)?;
        laptop.wait_for("not connected")?;
        let output = run(world.cardea(None, "laptop", "up"))?;
        expect(&output, 5, text).context(offset)?;
        laptop.signal(Signal::TERM)?;
        laptop.wait()?;
    }
    let mut laptop = Program::start("laptop", start())?;
    laptop.wait_for("connected to").map(drop)
}

/// Knocks that the controller has not answered because they were made too long ago.
fn late_knocks(world: &Deployment) -> Result<u64> {
    let status: serde_json::Value = serde_json::from_str(&world.ctl("status -o json")?)?;
    let late = status
        .pointer("/knocks/late")
        .and_then(|late| late.as_u64());
    late.with_context(|| format!("no count: {status}"))
}

/// A controller on loopback.
fn started(more: &[&str]) -> Result<Deployment> {
    let mut world = Deployment::new()?;
    let more = [&["--allow-simulated-posture"], more].concat();
    world.start_controller(&ControllerOptions {
        more: &more,
        ..Default::default()
    })?;
    Ok(world)
}

/// `program` as it runs on a machine whose clock is wrong by `offset`.
fn at(offset: &str, mut program: Command) -> Result<Command> {
    // The wrapper knows where its library is; without it a signal reaches the program itself.
    let library = run_ok(command(
        "faketime",
        ["-f", offset, "printenv", "LD_PRELOAD"],
    ))?;
    program
        .env("LD_PRELOAD", library.trim())
        .env("FAKETIME", offset);
    Ok(program)
}
