//! A device with a network interface finds apps by name, and everything else as before.
//!
//! ```text
//!  laptop (interface, an /etc of its own) ── controller + relay + name server of before ── connector ── apps
//! ```

mod programs;
mod world;

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use cardea_e2e::{
    needs,
    program::{Program, command, run_ok},
};
use rustix::process::Signal;

use self::world::{APPS, World};

const PAGE: &str = "served by an unmodified nginx\n";

/// What the laptop asked before.
const BEFORE: &str = "# from DHCP\nnameserver 192.168.1.1\nsearch corp.example\n";

/// How the agent is run where it may change its own `/etc`.
const BY_FILE: [&str; 2] = ["--dns", "resolv-conf"];

const TOOLS: [&str; 17] = [
    "ip",
    "nft",
    "sysctl",
    "nginx",
    "dnsmasq",
    "dig",
    "curl",
    "ping",
    "psql",
    "iperf3",
    "ssh",
    "scp",
    "ssh-keygen",
    "sshd",
    "nsenter",
    "unshare",
    "chattr",
];

#[test]
fn programs_reach_apps_by_name_over_both_carriers() {
    if needs::root_and(&TOOLS) {
        reach_by_name().unwrap();
    }
}

#[test]
fn the_system_asks_as_before_after_every_end() {
    if needs::root_and(&TOOLS) {
        undo_every_way().unwrap();
    }
}

#[test]
fn whatever_is_in_the_way_heals_or_is_said() {
    if needs::root_and(&TOOLS) {
        heal_or_say().unwrap();
    }
}

#[test]
fn a_system_service_that_does_not_help_is_said_and_the_file_stays() {
    if needs::root_and(&TOOLS) && needs::installed(&["busctl", "dbus-daemon"]) {
        say_that_the_service_is_missing().unwrap();
    }
}

/// The words are said by the real `busctl` to a real bus, on which nobody has the service's name.
fn say_that_the_service_is_missing() -> Result<()> {
    let mut world = World::new("bus")?;
    world.wait_for_name()?;
    world.laptop.stop()?;
    let socket = world.deployment.path("bus");
    let configuration = world.deployment.path("bus.conf");
    let at = format!("unix:path={}", socket.display());
    let allowed = "<allow send_destination=\"*\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/>";
    let text = format!(
        "<busconfig><type>session</type><listen>{at}</listen><auth>EXTERNAL</auth>\
         <policy context=\"default\">{allowed}</policy></busconfig>"
    );
    fs::write(&configuration, text)?;
    let words = ["--nofork", "--print-address", "--config-file"].map(Into::into);
    let words = words.into_iter().chain([configuration.into_os_string()]);
    let mut bus = Program::start("dbus-daemon", command("dbus-daemon", words))?;
    bus.wait_for("unix:path=")?;
    world
        .deployment
        .set_for_nodes("DBUS_SYSTEM_BUS_ADDRESS", &at);
    world.start(&["--dns", "resolved"])?;
    let said = world.wait_for_warning("dns_resolved")?;
    ensure!(
        said.contains("SetLinkDNSEx") && said.contains("not provided"),
        "{said}"
    );
    ensure!(world.file()? == BEFORE, "the file was changed");
    let stub = world.dig(&["+short", "@100.64.0.1", "wiki.corp.example"])?;
    ensure!(stub.starts_with("100."), "{stub}");
    Ok(())
}

fn reach_by_name() -> Result<()> {
    let world = World::new("names")?;
    world.wait_for_name()?;
    let has_browser = needs::installed(&["chromium"]);
    for carrier in ["wireguard", "quic"] {
        for (app, _) in APPS {
            let line = format!("app set {app} --transport {carrier} --yes");
            world.deployment.ctl(&line)?;
        }
        world.applications()?;
        if has_browser {
            world.browser()?;
        }
        let status = world.cardea("apps -o json")?;
        let apps: serde_json::Value = serde_json::from_slice(&status.stdout)?;
        for (name, _) in APPS {
            let mut apps = apps.as_array().into_iter().flatten();
            let app = apps.find(|app| app.get("name").is_some_and(|at| at == name));
            let used = app.and_then(|app| app.get("transport"));
            ensure!(
                used.is_some_and(|used| used == carrier),
                "{name} over {used:?}"
            );
        }
    }
    world.answers()?;
    let doctor = world.cardea("doctor -o json")?;
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(doctor.status.success(), "{text}");
    let checks: Vec<serde_json::Value> = serde_json::from_str(&text)?;
    let passed = |name: &str| {
        let mut checks = checks.iter();
        checks.any(|check| {
            check.get("name").is_some_and(|at| at == name)
                && check.get("state").is_some_and(|state| state == "ok")
        })
    };
    for check in [
        "resolver",
        "route",
        "stub udp",
        "stub tcp",
        "other names",
        "system",
    ] {
        ensure!(passed(check), "{check}: {text}");
    }
    Ok(())
}

fn undo_every_way() -> Result<()> {
    let mut world = World::new("undo")?;
    world.wait_for_name()?;
    ensure!(world.file()?.contains("nameserver 100.64."), "not asked");
    world.laptop.stop()?;
    ensure!(world.file()? == BEFORE, "after the end: {}", world.file()?);

    // Killed, it leaves its file behind; the next start undoes that first.
    world.start(&BY_FILE)?;
    world.wait_for_name()?;
    world.laptop.signal(Signal::KILL)?;
    world.laptop.wait()?;
    ensure!(
        world.file()?.contains("nameserver 100.64."),
        "it was killed"
    );
    let doctor = world.cardea("doctor")?;
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(
        doctor.status.code() == Some(1) && said.contains("cardea dns restore"),
        "{said}"
    );
    world.start(&["--dns", "off"])?;
    ensure!(world.file()? == BEFORE, "at the next start");
    world.laptop.stop()?;

    // Or the command does, without an agent and with one.
    world.start(&BY_FILE)?;
    world.wait_for_name()?;
    world.laptop.signal(Signal::KILL)?;
    world.laptop.wait()?;
    ensure!(world.cardea("dns restore")?.status.success(), "restore");
    ensure!(world.file()? == BEFORE, "after dns restore");
    world.start(&BY_FILE)?;
    world.wait_for_name()?;
    ensure!(world.cardea("dns restore")?.status.success(), "restore");
    ensure!(world.file()? == BEFORE, "while it runs");
    let other = world.dig(&["+short", "other.example"])?;
    ensure!(other == "192.0.2.9\n", "{other}");
    world.laptop.stop()?;

    // A link is a link again.
    fs::write(world.etc().join("elsewhere"), BEFORE)?;
    fs::remove_file(world.resolv_conf())?;
    std::os::unix::fs::symlink("elsewhere", world.resolv_conf())?;
    world.start(&BY_FILE)?;
    world.wait_for_name()?;
    ensure!(fs::read_to_string(world.etc().join("elsewhere"))? == BEFORE);
    world.laptop.stop()?;
    let link = fs::read_link(world.resolv_conf())?;
    ensure!(link == Path::new("elsewhere"), "{link:?}");
    Ok(())
}

fn heal_or_say() -> Result<()> {
    let mut world = World::new("heal")?;
    world.wait_for_name()?;
    // Another program writes it, as a DHCP client does.
    let other = format!("{BEFORE}options edns0\n");
    fs::write(world.resolv_conf(), &other)?;
    world.wait_for_file("nameserver 100.64.")?;
    world.wait_for_name()?;
    world.laptop.stop()?;
    ensure!(world.file()? == other, "what it wrote: {}", world.file()?);

    // Nobody may change it.
    run_ok(world.on_laptop("chattr", &["+i", "/etc/resolv.conf"]))?;
    world.start(&BY_FILE)?;
    let said = world.wait_for_warning("dns_file");
    run_ok(world.on_laptop("chattr", &["-i", "/etc/resolv.conf"]))?;
    let said = said?;
    ensure!(said.contains("chattr -i"), "{said}");
    world.wait_for_name()?;
    world.laptop.stop()?;

    // Another program has the port: the system goes on asking as before until it is free.
    let mut thief = Program::start(
        "dnsmasq",
        world.on_laptop(
            "dnsmasq",
            &[
                "--no-daemon",
                "--conf-file=/dev/null",
                "--user=root",
                "--log-facility=-",
            ],
        ),
    )?;
    thief.wait_for("started")?;
    world.start(&BY_FILE)?;
    let said = world.wait_for_warning("dns_port")?;
    ensure!(said.contains("ss -lunp"), "{said}");
    ensure!(
        world.file()? == other,
        "the system asks a stub that is none"
    );
    thief.stop()?;
    world.wait_for_file("nameserver 100.64.")?;
    world.wait_for_name()
}
