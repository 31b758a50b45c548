//! Ways past the relay, between real programs behind real NATs.
//!
//! ```text
//!  device ── NAT ──┐                               ┌── NAT ── connector, app
//!                  ├── internet: controller, relay ─┤
//!  device ── NAT ──┘                               └── NAT ── connector, app
//! ```
#![expect(
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "what a test does outside of its test function may panic as well, and it tells figures"
)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    internet::{Internet, PORT, is_direct, is_relayed},
    nat::NatKind,
    needs,
    program::{PATIENCE, now},
    traffic::Volley,
};
use rustix::process::Signal;

/// What these tests run beside our programs.
const TOOLS: [&str; 3] = ["ip", "nft", "sysctl"];

#[test]
fn a_direct_path_is_used_within_a_second_and_left_within_two_when_it_dies() {
    if needs::root_and(&TOOLS) {
        use_and_lose().unwrap();
    }
}

fn use_and_lose() -> Result<()> {
    let mut world = Internet::new("lose")?;
    world.add_connector(None)?;
    world.add_device(None)?;
    for carrier in ["wireguard", "quic"] {
        let app = format!("echo-{carrier}");
        world.publish(&app, 0, carrier)?;
        let (_forward, address) = world.forward(0, &app)?;
        let opened = now();
        world.wait_for(0, &app, is_direct)?;
        let took = now().duration_since(opened);
        eprintln!("{carrier}: direct {took:?} after open");
        ensure!(took < Duration::from_secs(1), "{carrier}: {took:?}");
        for hole in ["", "udp length > 1000"] {
            world.wait_for(0, &app, is_direct)?;
            let gap = lose_path(&world, &app, &address, hole)?;
            eprintln!("{carrier}: {gap:?} without an answer, hole: {hole:?}");
            ensure!(gap < Duration::from_secs(2), "{carrier} {hole:?}: {gap:?}");
        }
    }
    Ok(())
}

#[test]
fn an_admin_sees_which_way_a_tunnel_goes() {
    if needs::root_and(&TOOLS) {
        show_to_admin().unwrap();
    }
}

fn show_to_admin() -> Result<()> {
    let mut world = Internet::new("shown")?;
    world.add_connector(None)?;
    world.add_device(None)?;
    world.publish("echo", 0, "wireguard")?;
    let (_forward, address) = world.forward(0, "echo")?;
    let direct = world.wait_for_tunnel(0, "echo", is_direct)?;
    ensure!(direct["told_at"].is_string(), "{direct}");
    let host = &world.device(0)?.host;
    let (relayed, _) = Volley::during(host, &address, || {
        world.cut("")?;
        world.wait_for_tunnel(0, "echo", is_relayed)
    })?;
    ensure!(
        relayed["told_at"].as_str() > direct["told_at"].as_str(),
        "{relayed} after {direct}"
    );
    Ok(())
}

#[test]
fn a_tunnel_whose_other_end_hangs_does_not_read_open() {
    if needs::root_and(&TOOLS) {
        hang().unwrap();
    }
}

fn hang() -> Result<()> {
    let mut world = Internet::new("hang")?;
    world.add_connector(None)?;
    world.add_device(None)?;
    for carrier in ["wireguard", "quic"] {
        let app = format!("echo-{carrier}");
        world.publish(&app, 0, carrier)?;
        let _forward = world.forward(0, &app)?;
        world.wait_for(0, &app, is_direct)?;
        let connector = &world.connector(0)?.program;
        connector.signal(Signal::STOP)?;
        let stopped = now();
        let row = world.wait_for(0, &app, |row| row["state"] != "open")?;
        let took = now().duration_since(stopped);
        connector.signal(Signal::CONT)?;
        eprintln!("{carrier}: {} after {took:?}", row["state"]);
        ensure!(
            row["state"] == "unreachable" && row["path"].is_null(),
            "{row}"
        );
        ensure!(took < Duration::from_millis(2_500), "{carrier}: {took:?}");
        world.wait_for(0, &app, |row| row["state"] == "open")?;
    }
    Ok(())
}

#[test]
fn every_pair_of_nats_that_lets_ice_meet_lets_a_tunnel_go_directly() {
    if needs::root_and(&TOOLS) {
        meet_everywhere().unwrap();
    }
}

fn meet_everywhere() -> Result<()> {
    let mut world = Internet::new("nats")?;
    for kind in KINDS {
        world.add_connector(kind)?;
    }
    for site in 0..KINDS.len() {
        world.publish(&format!("app{site}"), site, "quic")?;
    }
    for kind in KINDS {
        world.add_device(kind)?;
    }
    let mut forwards = Vec::new();
    for device in 0..KINDS.len() {
        for site in 0..KINDS.len() {
            forwards.push(world.forward(device, &format!("app{site}"))?);
        }
    }
    let mut table = String::new();
    let mut wrong = Vec::new();
    for (device, at_device) in KINDS.iter().enumerate() {
        for (site, at_connector) in KINDS.iter().enumerate() {
            let app = format!("app{site}");
            let expected = ice_meets(*at_device, *at_connector);
            let row = if expected {
                world.wait_for(device, &app, is_direct)?
            } else {
                world.row(device, &app)?
            };
            if is_direct(&row) != expected || row["state"] != "open" {
                wrong.push(format!("{at_device:?} {at_connector:?}: {row}"));
            }
            table += if is_direct(&row) {
                " direct |"
            } else {
                " relay |"
            };
        }
        table += "\n";
    }
    eprintln!("{table}");
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn double_nats_hairpins_and_ipv6_alone_are_no_hindrance() {
    if needs::root_and(&TOOLS) {
        meet_oddly().unwrap();
    }
}

fn meet_oddly() -> Result<()> {
    let mut world = Internet::new("odd")?;
    // Two NATs in a row, as behind a carrier's, at the device.
    world.add_connector(Some(NatKind::PortRestricted))?;
    world.publish("double", 0, "quic")?;
    world.add_device_behind_two(NatKind::PortRestricted)?;
    // Both behind one NAT that turns packets to its own address around, in two networks that do not
    // reach each other.
    let (device, site) = world.add_hairpin()?;
    world.publish("hairpin", site, "quic")?;
    // A device that has IPv6 alone, and a connector that has both.
    let both = world.edge("both")?;
    world.add_ipv6(&both, "wan")?;
    world.start_connector(both, Vec::new())?;
    world.publish("six", world.connectors() - 1, "wireguard")?;
    let alone = world.edge("six")?;
    world.add_ipv6(&alone, "wan")?;
    alone.ip(&format!(
        "addr del 198.51.100.{}/30 dev wan",
        world.edges() * 4 + 2
    ))?;
    world.start_device(alone, Vec::new())?;
    let six = world.devices() - 1;
    let _forwards = (
        world.forward(0, "double")?,
        world.forward(device, "hairpin")?,
        world.forward(six, "six")?,
    );
    // And one that has IPv4 alone, which the relay brings together with it.
    let (_forward, address) = world.forward(six, "double")?;
    let device6 = &world.device(six)?.host;
    device6.within(|| Volley::open(&address)?.play(|| false))?;
    ensure!(!is_direct(&world.row(six, "double")?), "there is no way");
    let row = world.wait_for(six, "six", is_direct)?;
    let path = row["path"].as_str().context("no path")?;
    ensure!(path.starts_with("direct [2001:db8:"), "{path}");
    world.wait_for(0, "double", is_direct)?;
    let row = world.wait_for(device, "hairpin", is_direct)?;
    let path = row["path"].as_str().context("no path")?;
    ensure!(
        path.starts_with("direct 198.51.100."),
        "by its outer address: {path}"
    );
    Ok(())
}

#[test]
fn an_address_that_the_operator_names_leads_through_nats_between_which_no_other_path_does() {
    if needs::root_and(&TOOLS) {
        meet_at_named_address().unwrap();
    }
}

fn meet_at_named_address() -> Result<()> {
    let mut world = Internet::new("named")?;
    world.add_connector(Some(NatKind::Symmetric))?;
    // What an operator sets up at his router: a port of its outer address is the connector's.
    let edge = world.edges();
    let router = world.connector(0)?.around.first().context("no NAT")?;
    router.nft(&format!(
        "add rule ip nat pre iifname \"wan\" udp dport 7777 dnat to 10.{edge}.0.2:{PORT}\n"
    ))?;
    let named = format!("198.51.100.{}:7777", edge * 4 + 2);
    world.add_connector(None)?;
    world.add_device(Some(NatKind::Symmetric))?;
    for carrier in ["wireguard", "quic"] {
        let (app, near) = (format!("far-{carrier}"), format!("near-{carrier}"));
        world.publish(&app, 0, carrier)?;
        world.publish(&near, 1, carrier)?;
        let (_forward, address) = world.forward(0, &app)?;
        let _other = world.forward(0, &near)?;
        // By the time at which the one that was opened later is direct, this one could be.
        world.wait_for(0, &near, is_direct)?;
        let device = |world: &Internet| -> Result<()> {
            let host = &world.device(0)?.host;
            host.within(|| Volley::open(&address)?.play(|| false))?;
            Ok(())
        };
        device(&world)?;
        let row = world.row(0, &app)?;
        ensure!(is_relayed(&row), "nobody knows of the port: {row}");
        world.restart_connector(0, &["--candidate", &named])?;
        // The tunnel that ended with the connector has to be noticed first.
        let deadline = now() + PATIENCE;
        while let Err(error) = device(&world) {
            ensure!(now() < deadline, "{error:#}");
        }
        let row = world.wait_for(0, &app, is_direct)?;
        let path = row["path"].as_str().context("no path")?;
        ensure!(path == format!("direct {named}"), "{path}");
        device(&world)?;
        world.restart_connector(0, &[])?;
    }
    Ok(())
}

/// `None` is a host without a NAT.
const KINDS: [Option<NatKind>; 5] = [
    None,
    Some(NatKind::FullCone),
    Some(NatKind::Restricted),
    Some(NatKind::PortRestricted),
    Some(NatKind::Symmetric),
];

/// Whether checks from both sides meet, which fails where one side's address is another one for each
/// peer and the other side's filter looks at ports (RFC 8445, RFC 4787 §4 and §5).
fn ice_meets(one: Option<NatKind>, other: Option<NatKind>) -> bool {
    let blind = |one, other| {
        one == Some(NatKind::Symmetric)
            && matches!(other, Some(NatKind::PortRestricted | NatKind::Symmetric))
    };
    !blind(one, other) && !blind(other, one)
}

/// Takes the direct path from under a conversation until the device goes through the relay,
/// and says how long the longest round took.
fn lose_path(world: &Internet, app: &str, address: &str, hole: &str) -> Result<Duration> {
    let host = &world.device(0)?.host;
    let (row, rounds) = Volley::during(host, address, || {
        world.cut(hole)?;
        world.wait_for(0, app, is_relayed)
    })?;
    let why = row["path_why"].as_str().unwrap_or_default();
    ensure!(why.starts_with("the direct way stopped"), "{why}");
    world.middle.nft("delete table inet hole\n")?;
    Ok(rounds.longest())
}
