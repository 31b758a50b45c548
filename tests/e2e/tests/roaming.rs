//! A device that moves, sleeps, or is moved by its NAT, under a conversation that goes on.
#![expect(clippy::print_stderr, reason = "it tells figures")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cardea_e2e::{
    internet::{Internet, Node, is_direct, is_relayed},
    nat::NatKind,
    needs,
    program::{PATIENCE, now},
    traffic::Volley,
};
use rustix::process::Signal;

/// What these tests run beside our programs.
const TOOLS: [&str; 3] = ["ip", "nft", "sysctl"];

const CARRIERS: [&str; 2] = ["wireguard", "quic"];

/// How long a conversation may stand still after its device can be reached again: the 200 ms that are promised
/// beyond a round trip, which is nothing here, and 300 ms for the scheduling of debug builds on two busy cores,
/// where 358 ms were seen once. `tunnel/tests/roaming.rs` has the promise itself on a virtual clock.
const GAP_MAX: Duration = Duration::from_millis(200 + 300);

/// How long a device has no address, or no interface: every carrier's timers have backed off by then.
const AWAY: Duration = Duration::from_secs(3);

#[test]
fn a_conversation_goes_on_as_soon_as_a_new_address_works() {
    if needs::root_and(&TOOLS) {
        move_about().unwrap();
    }
}

fn move_about() -> Result<()> {
    let mut world = Internet::new("roam")?;
    world.add_connector(None)?;
    world.add_device(None)?;
    for carrier in CARRIERS {
        world.publish(carrier, 0, carrier)?;
    }
    let mut wrong = Vec::new();
    let mut places = 1..;
    for is_near in [true, false] {
        if !is_near {
            world.cut("")?;
        }
        for carrier in CARRIERS {
            let (_forward, address) = world.forward(0, carrier)?;
            for how in [Move::AtOnce, Move::Later, Move::Flap] {
                world.wait_for(0, carrier, if is_near { is_direct } else { is_relayed })?;
                let place = places.next().context("no place is left")?;
                let host = &world.device(0)?.host;
                let (works, rounds) = Volley::during(host, &address, || {
                    let works = how.make(&world, place)?;
                    pause(GAP_MAX);
                    Ok(works)
                })?;
                let gap = rounds.next_after(works)?;
                let what = format!("{carrier}, direct {is_near}, {how:?}: {gap:?}");
                eprintln!("{what}");
                if gap > GAP_MAX {
                    wrong.push(what);
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// How a device comes to another way.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// One address after the other.
    AtOnce,
    /// Without an address for a while.
    Later,
    /// The same address, on an interface that was down.
    Flap,
}

impl Move {
    /// Makes it; says since when the way works.
    fn make(self, world: &Internet, place: u8) -> Result<Instant> {
        match self {
            Self::AtOnce => world.renumber(0, place),
            Self::Later => {
                world.unplug(0)?;
                pause(AWAY);
                world.renumber(0, place)
            }
            Self::Flap => {
                let host = &world.device(0)?.host;
                host.ip("link set wan down")?;
                pause(AWAY);
                host.ip("link set wan up")?;
                host.route(&Internet::gateway(place - 1))?;
                Ok(now())
            }
        }
    }
}

#[test]
fn a_device_that_loses_one_family_of_addresses_goes_on_by_the_other() {
    if needs::root_and(&TOOLS) {
        change_families().unwrap();
    }
}

fn change_families() -> Result<()> {
    let mut world = Internet::new("six")?;
    world.add_connector(None)?;
    let host = world.edge("device")?;
    world.add_ipv6(&host, "wan")?;
    world.start_device(host, Vec::new())?;
    for carrier in CARRIERS {
        world.publish(carrier, 0, carrier)?;
        let (_forward, address) = world.forward(0, carrier)?;
        world.wait_for(0, carrier, is_direct)?;
        let host = &world.device(0)?.host;
        let (works, rounds) = Volley::during(host, &address, || {
            world.unplug_v4(0)?;
            let works = now();
            pause(GAP_MAX);
            Ok(works)
        })?;
        let gap = rounds.next_after(works)?;
        eprintln!("{carrier}: {gap:?} until IPv6 carries on");
        ensure!(gap < GAP_MAX, "{carrier}: {gap:?}");
        let row = world.wait_for(0, carrier, is_relayed)?;
        let path = row.get("path").and_then(serde_json::Value::as_str);
        ensure!(path == Some("relay [2001:db8:ffff::1]:7444"), "{row}");
        let (works, rounds) = Volley::during(host, &address, || {
            let works = world.renumber(0, 1)?;
            pause(GAP_MAX);
            Ok(works)
        })?;
        let gap = rounds.next_after(works)?;
        eprintln!("{carrier}: {gap:?} when IPv4 is back");
        ensure!(gap < GAP_MAX, "{carrier}: {gap:?}");
        world.wait_for(0, carrier, is_direct)?;
    }
    Ok(())
}

#[test]
fn a_nat_that_begins_anew_costs_a_conversation_little() {
    if needs::root_and(&TOOLS) {
        rebind().unwrap();
    }
}

fn rebind() -> Result<()> {
    let mut world = Internet::new("rebind")?;
    world.add_connector(None)?;
    world.add_device(Some(NatKind::PortRestricted))?;
    for carrier in CARRIERS {
        world.publish(carrier, 0, carrier)?;
    }
    let mut wrong = Vec::new();
    let mut ports = (20_000..).step_by(1_000);
    for is_near in [true, false] {
        if !is_near {
            world.cut("")?;
        }
        for carrier in CARRIERS {
            let (_forward, address) = world.forward(0, carrier)?;
            world.wait_for(0, carrier, if is_near { is_direct } else { is_relayed })?;
            let Node { host, around, .. } = world.device(0)?;
            let nat = around.first().context("no NAT")?;
            let first = ports.next().context("no port is left")?;
            let ((), rounds) = Volley::during(host, &address, || {
                nat.rebind(&format!("{first}-{}", first + 999))?;
                pause(GAP_MAX);
                Ok(())
            })?;
            let gap = rounds.longest();
            let what = format!("{carrier}, direct {is_near}: {gap:?}");
            eprintln!("{what}");
            if gap > GAP_MAX {
                wrong.push(what);
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn a_device_that_slept_goes_on_or_asks_again() {
    if needs::root_and(&TOOLS) {
        sleep().unwrap();
    }
}

fn sleep() -> Result<()> {
    let mut world = Internet::with("sleep", &["--grant-ttl", "30s"])?;
    world.add_connector(None)?;
    world.add_device(None)?;
    let mut forwards = Vec::new();
    for carrier in CARRIERS {
        world.publish(carrier, 0, carrier)?;
        let (forward, address) = world.forward(0, carrier)?;
        world.wait_for(0, carrier, is_direct)?;
        let Node { host, program, .. } = world.device(0)?;
        let (woke, rounds) = Volley::during(host, &address, || {
            program.signal(Signal::STOP)?;
            pause(NAP);
            program.signal(Signal::CONT)?;
            let woke = now();
            pause(GAP_MAX);
            Ok(woke)
        })?;
        let gap = rounds.next_after(woke)?;
        eprintln!("{carrier}: {gap:?} after a nap");
        ensure!(gap < GAP_MAX, "{carrier}: {gap:?}");
        forwards.push((forward, address));
    }
    let Node { host, program, .. } = world.device(0)?;
    program.signal(Signal::STOP)?;
    pause(SLEEP);
    program.signal(Signal::CONT)?;
    for (carrier, (_, address)) in CARRIERS.into_iter().zip(&forwards) {
        let woke = now();
        host.within(|| Volley::open(address).map(drop))?;
        let took = now().duration_since(woke);
        eprintln!("{carrier}: {took:?} after a sleep longer than its grant");
        ensure!(took < ASKED_AGAIN_MAX, "{carrier}: {took:?}");
    }
    Ok(())
}

#[test]
fn who_missed_its_reports_in_its_sleep_has_access_again_soon_after_it_woke() {
    if needs::root_and(&TOOLS) {
        miss_reports().unwrap();
    }
}

/// With grants that would outlive the sleep: it is the reports alone that are missed.
fn miss_reports() -> Result<()> {
    let mut world = Internet::with("missed", &["--posture-poll", "5s"])?;
    world.add_connector(None)?;
    world.add_device(None)?;
    let mut addresses = Vec::new();
    for carrier in CARRIERS {
        world.publish(carrier, 0, carrier)?;
        addresses.push(world.forward(0, carrier)?);
        world.wait_for(0, carrier, is_direct)?;
    }
    let Node { host, program, .. } = world.device(0)?;
    for (carrier, (_, address)) in CARRIERS.into_iter().zip(&addresses) {
        program.signal(Signal::STOP)?;
        let ended = no_grants(&world);
        program.signal(Signal::CONT)?;
        let woke = now();
        ended?;
        // What was opened before the device heard of it is reset: whoever opens it again has it.
        while let Err(error) = host.within(|| Volley::open(address)) {
            let took = now().duration_since(woke);
            ensure!(took < ASKED_AGAIN_MAX, "{carrier}: {error:#}");
        }
        let took = now().duration_since(woke);
        eprintln!("{carrier}: {took:?} after a sleep in which reports were missed");
        ensure!(took < ASKED_AGAIN_MAX, "{carrier}: {took:?}");
    }
    Ok(())
}

/// Waits until the controller has ended every grant.
fn no_grants(world: &Internet) -> Result<()> {
    let deadline = now() + PATIENCE;
    while world.deployment.ctl("grant ls -o json")?.trim() != "[]" {
        ensure!(now() < deadline, "reports that are missed ended nothing");
    }
    Ok(())
}

#[test]
fn conversations_survive_a_sleep_of_minutes_within_their_grant() {
    if needs::root_and(&TOOLS) {
        sleep_long().unwrap();
    }
}

fn sleep_long() -> Result<()> {
    // Who sleeps does not report its posture either, and three reports that are missed end access.
    let mut world = Internet::with("long", &["--grant-ttl", "1h", "--posture-poll", "5m"])?;
    world.add_connector(None)?;
    world.add_device(None)?;
    let mut forwards = Vec::new();
    for carrier in CARRIERS {
        world.publish(carrier, 0, carrier)?;
        forwards.push(world.forward(0, carrier)?);
        world.wait_for(0, carrier, is_direct)?;
    }
    let Node { host, program, .. } = world.device(0)?;
    let night = night()?;
    let [(_, first), (_, second)] = forwards.as_slice() else {
        bail!("there are two carriers");
    };
    let [first, second] = [first, second].map(|address| (address.as_str(), night * 2));
    let ((woke, one), other) = Volley::during_for(host, first, || {
        Volley::during_for(host, second, || {
            program.signal(Signal::STOP)?;
            pause(night);
            program.signal(Signal::CONT)?;
            let woke = now();
            pause(GAP_MAX);
            Ok(woke)
        })
    })?;
    for (carrier, rounds) in CARRIERS.into_iter().rev().zip([one, other]) {
        let gap = rounds.next_after(woke)?;
        eprintln!("{carrier}: {gap:?} after {night:?}");
        ensure!(gap < GAP_MAX, "{carrier}: {gap:?}");
    }
    Ok(())
}

/// How long that is: longer than many a NAT's mapping lasts. With `CARDEA_NIGHT=300`, in seconds, it is longer
/// than anything but a grant: a relay's binding and the keys of WireGuard as well.
#[expect(
    clippy::disallowed_methods,
    reason = "asked for by whoever runs the test"
)]
fn night() -> Result<Duration> {
    let seconds = std::env::var("CARDEA_NIGHT").ok();
    let seconds = seconds.map_or(Ok(45), |seconds| seconds.parse())?;
    Ok(Duration::from_secs(seconds))
}

/// Shorter than a grant lives.
const NAP: Duration = Duration::from_secs(4);

/// Longer than a grant lives, whenever it was extended last.
const SLEEP: Duration = Duration::from_secs(45);

/// How long it may take until there is access again.
const ASKED_AGAIN_MAX: Duration = Duration::from_secs(2);

/// Lets time pass, which is what these tests are about.
fn pause(time: Duration) {
    let deadline = now() + time;
    while let left = deadline.saturating_duration_since(now())
        && !left.is_zero()
    {
        std::thread::park_timeout(left);
    }
}
