//! A disk that fails under a running controller: it believes that disk nothing until it is restarted,
//! ends nothing, and has lost nothing.

#![expect(clippy::indexing_slicing, reason = "JSON that lacks a field is null")]

use std::fs;

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    needs,
    program::{PATIENCE, free_port, now, run},
    traffic::{Volley, WebServer, fetch, tcp_echo},
};

const PAGE: &str = "served beside a broken disk\n";

#[test]
fn after_a_sync_that_failed_nothing_is_recorded_until_a_restart_and_what_is_open_goes_on() {
    broken("sync").unwrap();
}

#[test]
fn after_a_write_that_failed_nothing_is_recorded_until_a_restart_and_what_is_open_goes_on() {
    broken("write").unwrap();
}

/// Breaks `operation` of the disk. A release has no way to do that, see the store's failpoints.
fn broken(operation: &str) -> Result<()> {
    if !cfg!(debug_assertions) {
        needs::leave_out("it needs a debug build, whose disk can be broken");
        return Ok(());
    }
    let mut world = Deployment::new()?;
    let fault = world.path("fault");
    let ports = (free_port()?, free_port()?);
    start(&mut world, ports)?;
    let web = WebServer::start("127.0.0.1:0", PAGE)?.address;
    let echo = tcp_echo("127.0.0.1:0")?;
    for (app, target) in [("web", web), ("echo", echo), ("other", web)] {
        world.ctl(&format!(
            "app add {app} --target {target} --allow-host-scoped --allow group:staff"
        ))?;
    }
    let _connector = world.start_connector(None, "con-a", "default")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let _laptop =
        world.start_device(None, "laptop", "alice@corp.example", "staff", Some(&facts))?;
    let (_web, page) = world.forward(None, "laptop", "web")?;
    ensure!(fetch(&page)? == PAGE, "another page");
    let (_echo, echo) = world.forward(None, "laptop", "echo")?;
    let mut conversation = Volley::open(&echo)?;
    world.ctl("site add kept")?;

    fs::write(&fault, operation)?;
    refused(&world, "lost")?;
    // That the disk answers again proves nothing about what it had been given before.
    fs::remove_file(&fault)?;
    refused(&world, "late")?;
    let status: serde_json::Value = serde_json::from_str(&world.ctl("status -o json")?)?;
    let store = status["store"].as_str().context("no store")?;
    for part in [
        "0001.seg",
        "Input/output error",
        "until the controller is restarted",
    ] {
        ensure!(store.contains(part), "{store}");
    }
    ensure!(world.ctl("status")?.contains(store), "not shown to people");
    let other = run(world.cardea(None, "laptop", "forward other"))?;
    let said = String::from_utf8_lossy(&other.stderr);
    ensure!(
        other.status.code() == Some(7) && said.contains("cannot record anything"),
        "{other:?}"
    );
    ensure!(fetch(&page)? == PAGE, "an open tunnel was cut");
    conversation.play(|| false)?;
    ensure!(world.controller()?.is_alive()?, "the controller ended");

    let ended = world.controller()?.stop()?;
    ensure!(ended == Some(0), "it does not end in order: {ended:?}");
    start(&mut world, ports)?;
    let sites = world.ctl("site ls")?;
    ensure!(sites.contains("kept") && !sites.contains("late"), "{sites}");
    world.ctl("site add after")?;
    // The laptop asks the new controller once it has found it; until then a forward may end at once.
    let deadline = now() + PATIENCE;
    let opened = || -> Result<String> {
        let (_other, page) = world.forward(None, "laptop", "other")?;
        fetch(&page)
    };
    loop {
        match opened() {
            Ok(page) => break ensure!(page == PAGE, "another page"),
            Err(error) => ensure!(now() < deadline, "{error:#}"),
        }
    }
    world.stop_controller()?;
    world.verify_ledger()
}

fn start(world: &mut Deployment, (port, relay_port): (u16, u16)) -> Result<()> {
    let fault = world.path("fault").display().to_string();
    world.start_controller(&ControllerOptions {
        port,
        relay_port,
        more: &["--allow-simulated-posture"],
        environment: &[("CARDEA_DISK_FAULT", &fault)],
        ..Default::default()
    })
}

/// A change is not taken, and it is said why and what to look at.
fn refused(world: &Deployment, site: &str) -> Result<()> {
    let output = world.ctl_output(["site", "add", site])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(7)
            && said.contains("cannot record anything")
            && said.contains("cardeactl status"),
        "{output:?}"
    );
    Ok(())
}
