//! What people and strangers do wrong, with the real programs: the error, the exit code, the entry
//! in the ledger, and that everything still works afterwards.
#![expect(
    clippy::disallowed_types,
    reason = "a stranger uses sockets as he likes"
)]

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    process::Output,
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    program::{Program, expect, run, run_ok, text_of},
};
use cardea_proto::{codec::Secret32, invite::InviteCode};

#[test]
fn a_code_admits_one_node_and_says_why_it_admits_no_other() {
    codes().unwrap();
}

fn codes() -> Result<()> {
    let mut world = started(&[])?;
    let code = world.ctl("invite connector --site default")?;
    run_ok(world.program(
        None,
        "cardea-connector",
        world.node_arguments("enroll", "first", &code)?,
    ))?;
    let used = enroll(&world, "cardea-connector", "second", &code)?;
    expect(&used, 4, "this code was already used")?;

    many_at_once(&world)?;

    let mistyped = enroll(&world, "cardea", "typist", "cardea1-aaaa")?;
    expect(&mistyped, 4, "not a Cardea code")?;
    forged(&world)?;

    let wrong_role = enroll(&world, "cardea", "laptop", &world.ctl("invite connector")?)?;
    expect(&wrong_role, 4, "connector")?;

    let short = world.ctl("invite device --user alice --expires 1s")?;
    while world
        .ctl("invite ls")?
        .lines()
        .filter(|line| line.contains("expired"))
        .count()
        == 0
    {}
    expect(&enroll(&world, "cardea", "late", &short)?, 4, "expired at")?;

    let tail = world.ctl("audit tail -n 50 -o json")?;
    for refusal in ["invite_used", "invite_expired"] {
        ensure!(
            tail.contains(refusal),
            "no {refusal} in the ledger:\n{tail}"
        );
    }
    another_controller(&mut world)
}

/// Of many who have one code at the same time, one is let in, and every other one is told.
fn many_at_once(world: &Deployment) -> Result<()> {
    let code = world.ctl("invite connector --site default")?;
    let enroll = &|number| {
        enroll(
            world,
            "cardea-connector",
            &format!("one-of-many-{number}"),
            &code,
        )
    };
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..48)
            .map(|number| scope.spawn(move || enroll(number)))
            .collect();
        let ended = all
            .into_iter()
            .map(|one| one.join().ok().context("a panic")?);
        ended.collect::<Result<_>>()
    })?;
    let admitted = outputs.iter().filter(|output| output.status.success());
    ensure!(admitted.count() == 1, "{outputs:?}");
    outputs
        .iter()
        .filter(|output| !output.status.success())
        .try_for_each(|output| expect(output, 4, "this code was already used"))
}

/// A code that is whole and that nobody made: the controller is silent to its knock, which is nothing
/// to record. A removed one is as good, or as bad.
fn forged(world: &Deployment) -> Result<()> {
    let (id, code) = invite(world)?;
    let before = world.ctl("audit tail -n 1 -o json")?;
    let mut forged: InviteCode = code.parse()?;
    forged.secret = Secret32([7; 32]);
    let output = enroll(world, "cardea-connector", "forger", &forged.reveal())?;
    expect(&output, 5, "no answer")?;
    let after = world.ctl("audit tail -n 1 -o json")?;
    ensure!(before == after, "an entry: {after}");
    world.ctl(&format!("invite rm {id} --yes"))?;
    let output = enroll(world, "cardea-connector", "late", &code)?;
    expect(&output, 5, "no answer")
}

/// The only open invite, and its code.
fn invite(world: &Deployment) -> Result<(String, String)> {
    let code = world.ctl("invite connector")?;
    let invites: serde_json::Value = serde_json::from_str(&world.ctl("invite ls -o json")?)?;
    let rows = invites.as_array().context("no list")?;
    let last = rows.iter().rfind(|row| row["state"] == "open");
    let id = last.and_then(|row| row["id"].as_str());
    Ok((id.context("no invite")?.to_owned(), code))
}

/// A code of a controller whose address now belongs to another one, which is silent to it.
fn another_controller(world: &mut Deployment) -> Result<()> {
    let address = listening_port(world)?;
    let code = world.ctl("invite connector")?;
    world.stop_controller()?;
    let mut other = Deployment::new()?;
    other.start_controller(&ControllerOptions {
        port: address,
        ..Default::default()
    })?;
    expect(
        &enroll(world, "cardea-connector", "lost", &code)?,
        5,
        "no answer",
    )
}

#[test]
fn an_admin_with_a_wrong_key_changes_nothing() {
    wrong_key().unwrap();
}

fn wrong_key() -> Result<()> {
    let world = started(&[])?;
    let other = started(&[])?;
    let key = other.path("controller").join("keys/admin.key");
    let key = key.display().to_string();
    let output = world.ctl_output(["site", "add", "office", "--admin-key", &key])?;
    expect(&output, 4, "no admin key of")?;
    ensure!(
        !world.ctl("site ls")?.contains("office"),
        "the site was added"
    );
    ensure!(
        world.ctl("audit tail -n 5 -o json")?.contains("not_proven"),
        "no entry"
    );
    Ok(())
}

#[test]
fn a_policy_that_is_wrong_is_refused_with_its_place() {
    policies().unwrap();
}

fn policies() -> Result<()> {
    let world = started(&[])?;
    let before = world.ctl("policy show")?;
    let folder = world.path("policy");
    fs::create_dir_all(&folder)?;
    let shown = folder.display().to_string();
    let file = folder.join("rules.cedar");
    let cases = [
        (
            "permit(principal, action == Action::\"connect\", resource",
            "rules.cedar:1",
        ),
        (
            "@id(\"x\")\npermit(principal, action, resource) when { context.colour == 1 };",
            "rules.cedar",
        ),
    ];
    for (text, place) in cases {
        fs::write(&file, text)?;
        for verb in ["check", "apply"] {
            let output = world.ctl_output(["policy", verb, &shown, "--yes"])?;
            expect(&output, 1, place)?;
        }
    }
    fs::write(
        &file,
        "@id(\"all\")\npermit(principal, action == Action::\"connect\", resource);\n",
    )?;
    let before_test = world.ctl_output(["policy", "check", &shown])?;
    ensure!(before_test.status.success(), "{}", text_of(&before_test));
    ensure!(
        world.ctl("policy show")? == before,
        "a refused policy changed something"
    );
    let output = world.ctl_output(["policy", "check", "/nonexistent"])?;
    expect(&output, 1, "Name a folder of *.cedar")
}

#[test]
fn a_rule_that_cannot_be_evaluated_denies_with_three_and_an_entry() {
    broken_rule().unwrap();
}

fn broken_rule() -> Result<()> {
    let world = started(&["--allow-simulated-posture"])?;
    let folder = world.path("policy");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("base.cedar"), BROKEN_RULE)?;
    world.ctl(&format!("policy apply {} --yes", folder.display()))?;
    let code = world.ctl("invite device --user bob@corp.example")?;
    let mut arguments = world.node_arguments("enroll", "laptop", &code)?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    arguments.extend(["--facts-from".into(), facts.into_os_string()]);
    let output = run(world.program(None, "cardea", arguments))?;
    expect(&output, 3, "could not be evaluated (rule broken: ")?;
    let tail = world.ctl("audit tail -n 5 -o json")?;
    ensure!(tail.contains("evaluation_error"), "no entry: {tail}");
    ensure!(world.ctl("device ls -o json")? == "[]", "it enrolled");
    Ok(())
}

/// What permits every certificate, and a `forbid` that overflows for a device that has been up for a
/// second.
const BROKEN_RULE: &str = r#"@id("all") permit (principal, action == Action::"certify", resource);
@id("broken") forbid (principal, action == Action::"certify", resource)
when { !(context.posture has uptime_s && context.posture.uptime_s.value + 9223372036854775807 >= 0) };
"#;

#[test]
fn a_wrong_command_line_ends_with_two_and_a_variable_without_a_value_is_none() {
    command_lines().unwrap();
}

fn command_lines() -> Result<()> {
    let world = Deployment::new()?;
    for (program, line, said) in [
        ("cardea", "forward wiki --listen foo", "--listen"),
        ("cardea", "forward .. --listen 127.0.0.1:0", "begins with"),
        ("cardea", "proxy --socks5 foo", "--socks5"),
        ("cardea", "run --operator nobody-of-this-name", "--operator"),
        ("cardeactl", "site add ..", "begins with"),
        ("cardeactl", "site add -- -x", "begins with"),
        (
            "cardeactl",
            "app add .x --target 10.9.0.10:80",
            "begins with",
        ),
        ("cardeactl", "invite device --user @x", "begins with"),
        ("cardeactl", "status --admin nowhere", "unix:PATH"),
        ("cardea-relay", "run", "--ticket-key"),
    ] {
        let output = run(world.program(None, program, line.split_whitespace()))?;
        expect(&output, 2, said).with_context(|| format!("{program} {line}"))?;
    }
    let state = world.path("nowhere");
    let mut command = world.program(None, "cardea", ["status"]);
    command
        .env("CARDEA_STATE", "")
        .env("XDG_STATE_HOME", &state);
    let by_default = run(command)?;
    ensure!(
        by_default.status.code() != Some(2),
        "{}",
        text_of(&by_default)
    );
    Ok(())
}

#[test]
fn a_target_on_the_connectors_own_host_needs_the_admins_word() {
    let world = started(&[]).unwrap();
    for target in [
        "127.0.0.1:80",
        "[::1]:80",
        "169.254.169.254:80",
        "[fe80::1]:80",
    ] {
        let output = world
            .ctl_output(["app", "add", "x", "--target", target])
            .unwrap();
        expect(&output, 1, "--allow-host-scoped").unwrap();
    }
    // A name that leads home is never dialed, so it may not be published either.
    let line = "app add x --target localhost:80 --allow-host-scoped";
    let output = world.ctl_output(line.split_whitespace()).unwrap();
    expect(&output, 1, "name the address").unwrap();
    assert!(!world.ctl("app ls").unwrap().contains("127.0.0.1"));
}

#[test]
fn a_name_that_is_almost_right_is_suggested() {
    let world = started(&[]).unwrap();
    world.ctl("app add wiki --target 10.9.0.10:80").unwrap();
    let output = world.ctl_output(["app", "show", "wikki"]).unwrap();
    expect(&output, 1, "wiki").unwrap();
    let output = world
        .ctl_output(["app", "add", "a b", "--target", "10.9.0.10:80"])
        .unwrap();
    assert_ne!(output.status.code(), Some(0));
}

#[test]
fn simulated_posture_is_refused_unless_the_controller_was_told() {
    let world = started(&[]).unwrap();
    let facts = world.write_facts("laptop", GOOD_FACTS).unwrap();
    let code = world.ctl("invite device --user alice").unwrap();
    let mut arguments = world.node_arguments("enroll", "laptop", &code).unwrap();
    arguments.extend(["--facts-from".into(), facts.into_os_string()]);
    let output = run(world.program(None, "cardea", arguments)).unwrap();
    expect(&output, 6, "simulated").unwrap();
}

#[test]
fn a_life_or_a_ttl_beyond_its_bounds_makes_no_trust_domain() {
    let world = Deployment::new().unwrap();
    let state = world.path("controller").display().to_string();
    for (flag, value, text) in [
        ("--certificate-life", "4m", "4m is not between 5m and 1d"),
        ("--certificate-life", "25h", "is not between 5m and 1d"),
        ("--certificate-life", "soon", "is not a duration"),
        ("--grant-ttl", "29s", "29s is not between 30s and 1h"),
        ("--grant-ttl", "61m", "is not between 30s and 1h"),
        ("--grant-ttl", "-30s", "--grant-ttl"),
    ] {
        for verb in ["init", "up"] {
            let line = [verb, "--domain", "corp.example", "--state", &state];
            let mut command = world.program(None, "cardea-controller", line);
            command.arg(format!("{flag}={value}"));
            expect(&run(command).unwrap(), 2, text).unwrap();
        }
    }
    assert!(!world.path("controller").exists(), "something was made");
}

#[test]
fn a_port_in_use_is_named() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    for (flag, taken) in [
        ("--listen", udp.local_addr().unwrap()),
        ("--relay-listen", udp.local_addr().unwrap()),
        ("--listen-tls", tcp.local_addr().unwrap()),
    ] {
        let world = Deployment::new().unwrap();
        let state = world.path("controller").display().to_string();
        let mut line = vec![
            "up",
            "--domain",
            "corp.example",
            "--state",
            &state,
            "--relay",
        ];
        for other in ["--listen", "--relay-listen", "--listen-tls"] {
            if other != flag {
                line.extend([other, "127.0.0.1:0"]);
            }
        }
        let taken = taken.to_string();
        line.extend([flag, &taken]);
        let output = run(world.program(None, "cardea-controller", line)).unwrap();
        let said = format!(
            "cannot listen on {taken}: another program uses this port. \
             Choose another address with {flag} ADDRESS:PORT"
        );
        expect(&output, 1, &said).unwrap();
    }
}

/// A controller on loopback.
fn started(more: &[&str]) -> Result<Deployment> {
    let mut world = Deployment::new()?;
    world.start_controller(&ControllerOptions {
        more,
        ..Default::default()
    })?;
    Ok(world)
}

fn enroll(world: &Deployment, program: &str, name: &str, code: &str) -> Result<Output> {
    run(world.program(None, program, world.node_arguments("enroll", name, code)?))
}

/// The UDP port of the controller's channels.
fn listening_port(world: &mut Deployment) -> Result<u16> {
    let controller: &mut Program = world.controller()?;
    let line = controller.wait_for("listening on")?;
    let port = line.rsplit(':').next().and_then(|port| {
        port.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    });
    port.with_context(|| format!("no port in {line:?}"))
}
