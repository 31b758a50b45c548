//! What a person types on a device, with a relay that is a program of its own.

use std::process::Command;

use anyhow::{Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    needs,
    program::{Program, expect, free_port, run, run_ok},
    traffic::{WebServer, fetch},
};

const PAGE: &str = "through a relay of its own\n";

#[test]
fn every_verb_of_a_device_says_and_does_what_it_should() {
    if needs::installed(&["curl"]) {
        verbs().unwrap();
    }
}

fn verbs() -> Result<()> {
    let mut world = Deployment::new()?;
    let relay = format!("127.0.0.1:{}", free_port()?);
    world.start_controller(&ControllerOptions {
        more: &[
            "--allow-simulated-posture",
            "--relay=false",
            "--relay-address",
            &relay,
        ],
        ..Default::default()
    })?;
    let ticket_key = world.path("controller").join("keys/ticket.pub");
    let mut arguments = vec!["run".into(), "--listen".into(), relay.into()];
    arguments.extend(["--ticket-key".into(), ticket_key.into_os_string()]);
    let _relay = Program::start(
        "relay",
        world.program::<std::ffi::OsString>(None, "cardea-relay", arguments),
    )?;

    let port = WebServer::start("127.0.0.1:0", PAGE)?.address.port();
    world.ctl("policy apply --recommended --yes")?;
    world.ctl(&format!(
        "app add web --target 127.0.0.1:{port} --allow-host-scoped --allow group:staff"
    ))?;
    world.ctl("app add other --target 10.9.0.10:80")?;
    let relayed = |role: &str, name: &str, program: &str| -> Result<Program> {
        let code = world.ctl(&format!("invite {role}"))?;
        let mut arguments = world.node_arguments("up", name, &code)?;
        arguments.push("--relay-only".into());
        if program == "cardea" {
            let facts = world.write_facts(name, GOOD_FACTS)?;
            arguments.extend(["--facts-from".into(), facts.into_os_string()]);
        }
        let mut node = Program::start(name, world.program(None, program, arguments))?;
        node.wait_for("connected to")?;
        Ok(node)
    };
    let _connector = relayed("connector", "con-a", "cardea-connector")?;
    let device = "device --user alice@corp.example --group staff";
    let _laptop = relayed(device, "laptop", "cardea")?;
    let ask = |line: &str| world.cardea(None, "laptop", line);

    let (_forward, address) = world.forward(None, "laptop", "web")?;
    ensure!(fetch(&address)? == PAGE, "another page");
    let status = run_ok(ask("status -o json"))?;
    ensure!(status.contains("relay 127.0.0.1"), "{status}");
    answers(&world, port)?;
    through_socks(&world, port)?;
    denied(&world)
}

fn answers(world: &Deployment, taken: u16) -> Result<()> {
    let ask = |line: &str| world.cardea(None, "laptop", line);
    let apps = run_ok(ask("apps"))?;
    ensure!(apps.contains("web") && !apps.contains("other"), "{apps}");
    for app in ["web", "other"] {
        let here = run_ok(ask(&format!("explain {app}")))?;
        let there = world.ctl(&format!(
            "explain --user alice@corp.example --device laptop --app {app}"
        ))?;
        ensure!(here.trim() == there.trim(), "{here:?} is not {there:?}");
    }
    let line = format!("forward web --listen 127.0.0.1:{taken}");
    expect(&run(ask(&line))?, 1, "cannot listen on")
}

/// Posture breaks, and every verb says which fact it is.
fn denied(world: &Deployment) -> Result<()> {
    let ask = |line: &str| world.cardea(None, "laptop", line);
    run_ok(ask("posture"))?;
    world.write_facts(
        "laptop",
        &GOOD_FACTS.replace("\"disk.encrypted\": true", "\"disk.encrypted\": false"),
    )?;
    expect(&run(ask("posture"))?, 6, "disk.encrypted is false")?;
    expect(&run(ask("forward web"))?, 6, "disk.encrypted is false")
}

fn through_socks(world: &Deployment, port: u16) -> Result<()> {
    let command = world.cardea(None, "laptop", "proxy --socks5 127.0.0.1:0");
    let mut proxy = Program::start("cardea proxy", command)?;
    let socks = format!("socks5h://{}", proxy.wait_for_address()?);
    let page = format!("http://web:{port}/");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "--proxy", &socks, &page]);
    let page = run_ok(curl)?;
    ensure!(page == PAGE, "{page}");
    Ok(())
}
