//! What goes on, and what ends, when a connector dies or the controller is gone.
#![expect(clippy::print_stderr, reason = "it tells figures")]

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    program::{PATIENCE, Program, expect, free_port, now, run, run_ok, text_of},
    traffic::{Bulk, WebServer, fetch},
};
use rustix::process::Signal;

const PAGE: &str = "served beside two connectors\n";

/// The shortest ttl that a controller may be set to.
const TTL: Duration = Duration::from_secs(30);

/// How long a flow into a tunnel waits whose other end is dead: a second and a half until it is known
/// that it is, and that the relay answers.
const GIVEN_UP: Duration = Duration::from_millis(1_600);

/// How late a busy machine may be.
const SLACK: Duration = Duration::from_secs(2);

#[test]
fn a_site_with_two_connectors_serves_on_when_one_is_killed() {
    two_connectors().unwrap();
}

fn two_connectors() -> Result<()> {
    let (world, _laptop, address) = laptop_and_app(&[])?;
    let mut connectors = [
        world.start_connector(None, "con-a", "default")?,
        world.start_connector(None, "con-b", "default")?,
    ];
    let (_forward, local) = world.forward(None, "laptop", "web")?;
    ensure!(fetch(&local)? == PAGE, "another page than {address} serves");
    let serving = serving_connectors(&world)?;
    ensure!(serving.len() == 1, "one tunnel is open: {serving:?}");
    let [a, b] = &mut connectors;
    let (killed, left) = if serving == ["con-a"] {
        (a, "con-b")
    } else {
        (b, "con-a")
    };
    killed.signal(Signal::KILL)?;
    let begun = now();
    while fetch(&local).is_err() {
        let took = now().duration_since(begun);
        ensure!(
            took < GIVEN_UP + SLACK,
            "{left} does not take over: {took:?}"
        );
    }
    eprintln!("{left} takes over after {:?}", now().duration_since(begun));
    let serving = serving_connectors(&world)?;
    ensure!(
        serving.iter().any(|name| name == left),
        "{left} does not serve: {serving:?}"
    );
    Ok(())
}

#[test]
fn a_connector_that_was_killed_is_not_sent_to_and_reads_offline_within_seconds() {
    killed_alone().unwrap();
}

fn killed_alone() -> Result<()> {
    let (world, _laptop, _) = laptop_and_app(&[])?;
    let connector = world.start_connector(None, "con-a", "default")?;
    let (_forward, local) = world.forward(None, "laptop", "web")?;
    ensure!(fetch(&local)? == PAGE, "another page");
    connector.signal(Signal::KILL)?;
    let killed = now();
    // The grant of before is not good enough for whoever asks anew.
    let refused = run(world.cardea(None, "laptop", "forward web"))?;
    expect(&refused, 5, "no connector of site default")?;
    let took = now().duration_since(killed);
    ensure!(took < Duration::from_secs(7), "refused after {took:?}");
    let row = loop {
        let rows: serde_json::Value = serde_json::from_str(&world.ctl("connector ls -o json")?)?;
        let row = rows.pointer("/0").context("no connector")?.clone();
        if row.get("state").is_some_and(|state| state == "offline") {
            break row;
        }
        let took = now().duration_since(killed);
        ensure!(took < Duration::from_secs(10), "{row} after {took:?}");
    };
    ensure!(row.pointer("/last_seen").is_some(), "{row}");
    // A refusal answers for itself for half a second.
    loop {
        let refused = run(world.cardea(None, "laptop", "forward web"))?;
        expect(&refused, 5, "no connector of site default")?;
        if text_of(&refused).contains("is connected") {
            return Ok(());
        }
        let took = now().duration_since(killed);
        ensure!(took < Duration::from_secs(12), "{}", text_of(&refused));
    }
}

#[test]
fn an_app_that_is_down_is_a_reset_and_a_line_in_the_status() {
    app_down().unwrap();
}

fn app_down() -> Result<()> {
    let (world, _laptop, _) = laptop_and_app(&[])?;
    let _connector = world.start_connector(None, "con-a", "default")?;
    for transport in ["wireguard", "quic"] {
        let app = format!("down-{transport}");
        world.ctl(&format!(
            "app add {app} --target 127.0.0.1:{} --allow-host-scoped --allow group:staff --transport {transport}",
            free_port()?
        ))?;
        let (_forward, local) = world.forward(None, "laptop", &app)?;
        let begun = now();
        ensure!(fetch(&local).is_err(), "{transport}: somebody answered");
        let took = now().duration_since(begun);
        ensure!(took < SLACK, "{transport}: {took:?}");
        let deadline = now() + PATIENCE;
        let row = loop {
            let row = app_row(&world, &app)?;
            if row.pointer("/last_error/message").is_some() {
                break row;
            }
            ensure!(now() < deadline, "{row}");
        };
        let says = |place, text| {
            let value = row.pointer(place).and_then(|value| value.as_str());
            value.is_some_and(|value| value.contains(text))
        };
        ensure!(
            says("/state", "open")
                && says("/last_error/message", "the target refused the connection")
                && says("/last_error/at", "T"),
            "{row}"
        );
        let shown = run_ok(world.cardea(None, "laptop", "status"))?;
        ensure!(
            shown.contains("the target refused the connection"),
            "{shown}"
        );
    }
    Ok(())
}

/// What the laptop's status says of an app.
fn app_row(world: &Deployment, app: &str) -> Result<serde_json::Value> {
    let status = run_ok(world.cardea(None, "laptop", "status -o json"))?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let apps = status.pointer("/apps").and_then(|apps| apps.as_array());
    let mut rows = apps.into_iter().flatten();
    let row = rows.find(|row| row.get("name").is_some_and(|name| name == app));
    row.cloned()
        .with_context(|| format!("no {app} in {status}"))
}

#[test]
fn open_tunnels_go_on_for_their_ttl_and_no_longer_when_the_controller_is_gone() {
    ttl_without_controller().unwrap();
}

fn ttl_without_controller() -> Result<()> {
    let relay = format!("127.0.0.1:{}", free_port()?);
    let more = [
        "--grant-ttl",
        "30s",
        "--relay=false",
        "--relay-address",
        &relay,
    ];
    let (mut world, _laptop, address) = laptop_and_app(&more)?;
    let _relay = world.start_relay(None, &relay, &[])?;
    let mut connector = world.start_connector(None, "con", "default")?;
    let mut open = Vec::new();
    for carrier in ["wireguard", "quic"] {
        world.ctl(&format!(
            "app add {carrier} --target {address} --allow-host-scoped --allow group:staff --transport {carrier}"
        ))?;
        let asked = now();
        let (forward, local) = world.forward(None, "laptop", carrier)?;
        open.push((carrier, asked, Bulk::trickle(&local)?, forward));
    }
    world.controller()?.signal(Signal::KILL)?;
    let killed = now();
    let ends = thread::scope(|scope| {
        let reading: Vec<_> = open
            .into_iter()
            .map(|(carrier, asked, stream, forward)| {
                scope.spawn(move || {
                    let last = stream.last_byte(PATIENCE).context(carrier)?;
                    drop(forward);
                    anyhow::Ok((carrier, asked, last))
                })
            })
            .collect();
        // Nobody is left to allow another app.
        let refused = run(world.cardea(None, "laptop", "forward web"))?;
        expect(&refused, 5, "not reachable since")?;
        let ends = reading.into_iter().map(|reading| {
            let end = reading.join();
            end.map_err(|_| anyhow!("a reader panicked"))?
        });
        ends.collect::<Result<Vec<_>>>()
    })?;
    for (carrier, asked, last) in ends {
        let (lived, after) = (last.duration_since(asked), last.duration_since(killed));
        eprintln!("{carrier}: {lived:?} after it was asked for, {after:?} after the controller");
        ensure!(lived >= TTL - SLACK, "{carrier} ended after {lived:?}");
        // An extension may have been on its way when the controller died.
        ensure!(after <= TTL + SLACK, "{carrier} lived on for {after:?}");
    }
    connector.wait_for("ttl ended").map(drop)
}

/// A controller, an app on this machine and an enrolled laptop that may open it.
fn laptop_and_app(more: &[&str]) -> Result<(Deployment, Program, String)> {
    let mut world = Deployment::new()?;
    let mut arguments = vec!["--allow-simulated-posture"];
    arguments.extend(more);
    world.start_controller(&ControllerOptions {
        more: &arguments,
        ..Default::default()
    })?;
    let web = WebServer::start("127.0.0.1:0", PAGE)?.address;
    world.ctl(&format!(
        "app add web --target {web} --allow-host-scoped --allow group:staff"
    ))?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let laptop = world.start_device(None, "laptop", "alice@corp.example", "staff", Some(&facts))?;
    Ok((world, laptop, web.to_string()))
}

/// The names of the connectors that hold a grant.
fn serving_connectors(world: &Deployment) -> Result<Vec<String>> {
    let grants: Vec<serde_json::Value> = serde_json::from_str(&world.ctl("grant ls -o json")?)?;
    let names = grants
        .iter()
        .filter_map(|grant| grant.get("connector")?.as_str());
    Ok(names.map(str::to_owned).collect())
}
