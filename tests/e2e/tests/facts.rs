//! A change of posture is at the controller within a second where the kernel tells the agent, else at
//! the next poll.
#![expect(clippy::print_stderr, reason = "it tells figures")]

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, command, now},
    traffic::{Bulk, WebServer, fetch},
};

const PAGE: &str = "for devices whose disk is encrypted\n";

/// How long a change may take to close what rested on it.
///
/// Agents read everything anew once a minute whatever the kernel tells, so that nothing but a watched
/// file keeps this.
const LIMIT: Duration = Duration::from_secs(1);

/// Times that posture breaks.
const EDITS: usize = 5;

#[test]
fn an_edited_fact_closes_access_within_a_second() {
    edit().unwrap();
}

fn edit() -> Result<()> {
    let mut world = Deployment::new()?;
    world.start_controller(&ControllerOptions {
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    let web = WebServer::start("127.0.0.1:0", PAGE)?.address;
    world.ctl("policy apply --recommended --yes")?;
    world.ctl(&format!(
        "app add web --target {web} --allow-host-scoped --allow group:staff"
    ))?;
    let _connector = world.start_connector(None, "connector", "default")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let user = "alice@corp.example";
    let _laptop = world.start_device(None, "laptop", user, "staff", Some(&facts))?;
    let (_forward, local) = world.forward(None, "laptop", "web")?;

    let broken = GOOD_FACTS.replace("\"disk.encrypted\": true", "\"disk.encrypted\": false");
    let mut times = Vec::new();
    for round in 0..EDITS {
        let deadline = now() + PATIENCE;
        while fetch(&local).is_err() {
            ensure!(now() < deadline, "access does not come back");
        }
        let stream = Bulk::open(&local)?;
        let edited = now();
        // Editors write in place, or put another file there.
        if round % 2 == 0 {
            fs::write(&facts, &broken)?;
        } else {
            world.write_facts("laptop", &broken)?;
        }
        times.push(stream.last_byte(LIMIT * 10)?.duration_since(edited));
        let tail = world.ctl("audit tail -n 20")?;
        ensure!(tail.contains("disk.encrypted is false"), "{tail}");
        world.write_facts("laptop", GOOD_FACTS)?;
    }
    eprintln!("cut after {times:?}");
    ensure!(
        times.iter().all(|time| *time <= LIMIT),
        "later than {LIMIT:?}: {times:?}"
    );
    Ok(())
}

/// Far less than an agent waits that was not told.
const SOONER: Duration = Duration::from_secs(15);

/// One after the other: a network that is made is mounts that the kernel tells of.
#[test]
fn a_program_that_starts_is_found_at_the_poll_and_when_the_network_changes() {
    find_program("polled", None, &["--posture-poll", "2s"], || Ok(())).unwrap();
    if needs::root_and(&["ip"]) {
        let host = Namespace::new("facts", "host").unwrap();
        let change = || host.ip("address add 192.0.2.7/32 dev lo");
        find_program("moved", Some(&host), &[], change).unwrap();
    }
}

/// Starts a program beside which nothing may be open, and has it found, with the real collector: nobody
/// is told that a program starts.
fn find_program(
    name: &str,
    host: Option<&Namespace>,
    more: &[&str],
    then: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut world = Deployment::new()?;
    world.start_controller(&ControllerOptions {
        namespace: host,
        more,
        ..Default::default()
    })?;
    let name = format!("{name}-{}", std::process::id());
    let folder = world.path("policy");
    fs::create_dir_all(&folder)?;
    fs::write(
        folder.join("rules.cedar"),
        format!(
            "@id(\"devices\") permit(principal, action == Action::\"certify\", resource);\n\
             @id(\"apps\") permit(principal, action == Action::\"connect\", resource);\n\
             @id(\"alone\") forbid(principal, action == Action::\"connect\", resource) unless {{\n\
             context.device.posture has process_running &&\n\
             !context.device.posture.process_running.value.contains(\"{name}\") }};\n"
        ),
    )?;
    world.ctl(&format!("policy apply {} --yes", folder.display()))?;
    let web = there(host, || WebServer::start("127.0.0.1:0", PAGE))?.address;
    world.ctl(&format!("app add web --target {web} --allow-host-scoped"))?;
    let _connector = world.start_connector(host, "connector", "default")?;
    let _laptop = world.start_device(host, "laptop", "alice@corp.example", "staff", None)?;
    let (_forward, local) = world.forward(host, "laptop", "web")?;
    let stream = there(host, || Bulk::trickle(&local))?;

    let program = world.path(&name);
    fs::copy("/bin/sh", &program)?;
    // It ends with its input.
    let (input, _held) = std::io::pipe()?;
    let command = command(program, ["-c", "read line"]);
    let started = now();
    let _intruder = Program::start_with(&name, command, input.into())?;
    then()?;
    let took = stream.last_byte(PATIENCE)?.duration_since(started);
    eprintln!("cut {took:?} after the program started");
    ensure!(took <= SOONER, "found after {took:?}");
    let why = world.ctl("explain --user alice@corp.example --device laptop --app web")?;
    ensure!(why.contains(&name), "{why}");
    Ok(())
}

/// Does `work` in the network of a host, or in this one.
fn there<T: Send>(host: Option<&Namespace>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    match host {
        Some(host) => host.within(work),
        None => work(),
    }
}
