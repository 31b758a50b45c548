//! What a person types on a device, with a relay that is a program of its own.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    needs,
    program::{PATIENCE, Program, expect, free_port, now, run, run_ok, running_with, typed},
    traffic::{WebServer, fetch},
};
use serde_json::Value;

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
    let _relay = world.start_relay(None, &relay, &[])?;

    let port = WebServer::start("127.0.0.1:0", PAGE)?.address.port();
    world.ctl("policy apply --recommended --yes")?;
    world.ctl(&format!(
        "app add web --target 127.0.0.1:{port} --allow-host-scoped --allow group:staff"
    ))?;
    world.ctl("app add other --target 10.9.0.10:80")?;
    let code = world.ctl("invite connector")?;
    let (_connector, _) = relayed(&world, "cardea-connector", "con-a", &code, &code)?;
    let code = world.ctl("invite device --user alice@corp.example --group staff")?;
    let (_laptop, listed) = relayed(&world, "cardea", "laptop", &code, "-")?;
    ensure!(!listed, "a code from stdin is on a command line");

    let (_forward, address) = world.forward(None, "laptop", "web")?;
    ensure!(fetch(&address)? == PAGE, "another page");
    status(&world)?;
    in_every_format(&world)?;
    answers(&world, port)?;
    through_socks(&world, port)?;
    nobody_reads(&world)?;
    not_permitted(&world)?;
    nothing_but_apps(&world)?;
    denied(&world)
}

/// Brings a node up with its code as that `word`. Tells whether the code was ever seen on a command line;
/// on that of a node that serves it is not, and nobody's log has it.
fn relayed(
    world: &Deployment,
    program: &str,
    name: &str,
    code: &str,
    word: &str,
) -> Result<(Program, bool)> {
    let state = world.path(name).into_os_string();
    let mut arguments = vec!["up".into(), word.into(), "--state".into(), state];
    arguments.extend(["--name", name, "--relay-only"].map(Into::into));
    if program == "cardea" {
        let facts = world.write_facts(name, GOOD_FACTS)?;
        arguments.extend(["--facts-from".into(), facts.into_os_string()]);
    }
    let command = world.program(None, program, arguments);
    let mut node = Program::start_with(name, command, typed(code)?)?;
    let mut listed = false;
    let deadline = now() + PATIENCE;
    while !node.said().contains("connected to") {
        listed |= !running_with(code)?.is_empty();
        ensure!(now() < deadline && node.is_alive()?, "{}", node.said());
    }
    let running = running_with(code)?;
    ensure!(running.is_empty(), "who lists processes reads: {running:?}");
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", node.id()))?;
    ensure!(line.contains(name), "the node is another program: {line}");
    ensure!(!node.said().contains(code), "{}", node.said());
    Ok((node, listed))
}

/// Every answer is a table, JSON and YAML, and the latter two say the same.
fn in_every_format(world: &Deployment) -> Result<()> {
    for (line, place, expected) in [
        ("status", "/device/name", "laptop"),
        ("apps", "/0/name", "web"),
        ("explain web", "/resource", "web"),
        ("posture", "/facts/0/state", "value"),
    ] {
        let ask = |format: &str| {
            let line = format!("{line} -o {format}");
            run_ok(world.cardea(None, "laptop", &line))
        };
        let json: Value = serde_json::from_str(&ask("json")?).context(line)?;
        let text = ask("yaml")?;
        ensure!(serde_json::from_str::<Value>(&text).is_err(), "{text}");
        let yaml: Value = serde_yaml_ng::from_str(&text).context(line)?;
        for (said, format) in [(&json, "json"), (&yaml, "yaml")] {
            let value = said.pointer(place).and_then(|value| value.as_str());
            ensure!(value == Some(expected), "{line} as {format}: {said}");
        }
        ensure!(names_of(&json) == names_of(&yaml), "{json}\n{text}");
        let table = ask("table")?;
        ensure!(serde_yaml_ng::from_str::<Vec<Value>>(&table).is_err() && !table.starts_with('{'));
    }
    Ok(())
}

/// The fields of an answer.
fn names_of(value: &Value) -> Vec<&String> {
    let object = value.as_object().or_else(|| value.get(0)?.as_object());
    object
        .into_iter()
        .flat_map(|object| object.keys())
        .collect()
}

/// What scripts read of a status, and that it is true.
fn status(world: &Deployment) -> Result<()> {
    let status = run_ok(world.cardea(None, "laptop", "status -o json"))?;
    let status: Value = serde_json::from_str(&status)?;
    for place in [
        "/device/id",
        "/device/name",
        "/user",
        "/controller/state",
        "/controller/address",
        "/controller/since",
        "/certificate/not_after",
        "/certificate/serial",
        "/posture/compliant",
        "/posture/checked_at",
        "/posture/failed",
        "/apps/0/name",
        "/apps/0/state",
        "/apps/0/transport",
        "/apps/0/path",
        "/apps/0/rtt_ms",
        "/apps/0/bytes_in",
        "/apps/0/bytes_out",
        "/apps/0/not_after",
        "/warnings",
    ] {
        let value = status.pointer(place);
        ensure!(
            value.is_some_and(|value| !value.is_null()),
            "{place}: {status}"
        );
    }
    let says = |place, value: &str| status.pointer(place).is_some_and(|found| found == value);
    ensure!(says("/controller/state", "connected"), "{status}");
    ensure!(says("/apps/0/state", "open"), "{status}");
    let path = status
        .pointer("/apps/0/path")
        .and_then(|path| path.as_str());
    ensure!(
        path.is_some_and(|path| path.starts_with("relay 127.0.0.1")),
        "{status}"
    );
    Ok(())
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
    for (verb, flag) in [("forward web", "--listen"), ("proxy", "--socks5")] {
        let line = format!("{verb} {flag} 127.0.0.1:{taken}");
        let said = format!(
            "cannot listen on 127.0.0.1:{taken}: another program uses this port. \
             Choose another: {flag} 127.0.0.1:0"
        );
        expect(&run(ask(&line))?, 1, &said).context(line)?;
    }
    Ok(())
}

/// What no rule permits is denied by its exit code, and recorded.
fn not_permitted(world: &Deployment) -> Result<()> {
    let output = run(world.cardea(None, "laptop", "forward other"))?;
    expect(&output, 3, "no rule permits")?;
    // The answer does not wait until the denial is on record.
    let deadline = now() + PATIENCE;
    while !world.ctl("audit tail -n 3")?.contains("other") {
        ensure!(now() < deadline, "no entry: {}", world.ctl("audit tail")?);
    }
    Ok(())
}

/// Neither a name that nobody knows nor an app that is gone is listed as if it could be opened.
fn nothing_but_apps(world: &Deployment) -> Result<()> {
    let listed = || -> Result<Vec<String>> {
        let status = run_ok(world.cardea(None, "laptop", "status -o json"))?;
        let status: Value = serde_json::from_str(&status)?;
        let apps = status.pointer("/apps").and_then(|apps| apps.as_array());
        let apps = apps.into_iter().flatten();
        let openable = apps.filter(|app| app.get("state").is_some_and(|state| state != "denied"));
        let names = openable.filter_map(|app| app.get("name")?.as_str());
        Ok(names.map(str::to_owned).collect())
    };
    world.ctl("app add gone --target 10.9.0.11:80 --allow group:staff")?;
    let deadline = now() + PATIENCE;
    while listed()? != ["gone", "web"] {
        ensure!(now() < deadline, "{:?}", listed()?);
    }
    expect(
        &run(world.cardea(None, "laptop", "forward ghost"))?,
        3,
        "ghost",
    )?;
    ensure!(listed()? == ["gone", "web"], "{:?}", listed()?);
    world.ctl("app rm gone --yes")?;
    while listed()? != ["web"] {
        ensure!(now() < deadline, "{:?}", listed()?);
    }
    run_ok(world.cardea(None, "laptop", "down"))?;
    run_ok(world.cardea(None, "laptop", "up"))?;
    ensure!(listed()? == ["web"], "{:?}", listed()?);
    Ok(())
}

/// Who reads nothing more, as `head`, is no failure; a full disk behind stdout is one.
fn nobody_reads(world: &Deployment) -> Result<()> {
    for verb in ["status -o json", "apps", "posture"] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut command = world.cardea(None, "laptop", verb);
        command.stdout(writer);
        ensure!(command.status()?.code() == Some(0), "{verb} into no pipe");
        let full = std::fs::File::options().write(true).open("/dev/full")?;
        let mut command = world.cardea(None, "laptop", verb);
        command.stdout(full);
        ensure!(command.status()?.code() == Some(1), "{verb} into /dev/full");
    }
    Ok(())
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
