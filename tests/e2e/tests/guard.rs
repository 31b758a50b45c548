//! What a scanner sees of a host with a controller behind its guard: what it sees of one without.

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment},
    namespace::Namespace,
    needs,
    program::{run, run_ok},
};
use rustix::process::Signal;

const CHANNELS: u16 = 7_443;
const RELAY: u16 = 7_444;

/// The host: in our flags, as a scanner is told of it, and by which family.
type Host = (&'static str, &'static str, &'static str);

/// Our two UDP ports, and one that nobody has.
const UDP: &str = "-sU -p 4009,7443,7444";

/// The beginning of a TCP handshake, its middle, other protocols, and what stands behind a port.
const OTHERS: [&str; 4] = [
    "-sS -p 22,443,7443,7444",
    "-sA -p 443,7443",
    "-sO -p 1,6,17,47",
    "-sU -sV --version-intensity 0 --host-timeout 8s -p 7443",
];

/// What these tests run beside our programs.
const TOOLS: [&str; 4] = ["ip", "nft", "sysctl", "nmap"];

#[test]
fn a_scanner_cannot_tell_a_controllers_port_from_one_that_nobody_has() {
    // Only root may scan like that, and have a guard.
    if needs::root_and(&TOOLS) {
        scanned(("10.77.0.1", "10.77.0.1", "-4")).unwrap();
    }
}

#[test]
fn nor_can_one_that_speaks_ipv6() {
    if needs::root_and(&TOOLS) {
        scanned(("[fd77::1]", "fd77::1", "-6")).unwrap();
    }
}

fn scanned((address, plain, family): Host) -> Result<()> {
    let host = Namespace::new(&format!("guard{family}"), "host")?;
    let stranger = Namespace::new(&format!("guard{family}"), "stranger")?;
    host.link("outside", "10.77.0.1/24", &stranger, "wire", "10.77.0.2/24")?;
    host.ip("addr add fd77::1/64 dev outside nodad")?;
    stranger.ip("addr add fd77::2/64 dev wire nodad")?;
    // The host says all that it has to say, as often as it is asked.
    let talkative = [
        "-qw",
        "net.ipv4.icmp_ratelimit=0",
        "net.ipv6.icmp.ratelimit=0",
    ];
    run_ok(host.command("sysctl", talkative))?;
    let scan = |kind: &str| scan(&stranger, kind, family, plain);
    let mut world = Deployment::new()?;

    // Without a guard, silence stands out: the scan can see what it looks for.
    start(&mut world, &host, address, &[])?;
    let bare = scan(UDP)?;
    let states: Vec<&str> = bare.iter().map(|(_, state)| state.as_str()).collect();
    ensure!(states == ["closed", SILENT, SILENT], "{bare:?}");
    world.stop_controller()?;

    start(&mut world, &host, address, &["--guard", "nft"])?;
    let serving = scan(UDP)?;
    ensure!(
        serving.iter().all(|(_, state)| state == SILENT),
        "{serving:?}"
    );
    let others: Vec<Seen> = OTHERS.into_iter().map(scan).collect::<Result<_>>()?;
    world.controller()?.signal(Signal::KILL)?;
    world.controller()?.wait()?;
    let crashed = scan(UDP)?;
    ensure!(crashed == serving, "{crashed:?}");
    for (kind, before) in OTHERS.into_iter().zip(others) {
        let after = scan(kind)?;
        ensure!(after == before, "{kind}: {before:?}, then {after:?}");
    }

    let remove = || {
        let output = run(world.program(Some(&host), "cardea-controller", ["guard", "remove"]))?;
        anyhow::Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (first, second) = (remove()?, remove()?);
    ensure!(first.contains("is removed"), "{first}");
    ensure!(second.contains("was no"), "{second}");
    let bare = scan(UDP)?;
    ensure!(bare.iter().all(|(_, state)| state == "closed"), "{bare:?}");
    Ok(())
}

fn start(world: &mut Deployment, host: &Namespace, address: &str, more: &[&str]) -> Result<()> {
    world.start_controller(&ControllerOptions {
        namespace: Some(host),
        address,
        port: CHANNELS,
        relay_port: RELAY,
        more,
        ..Default::default()
    })
}

/// A port that says nothing, as a scanner calls it.
const SILENT: &str = "open|filtered";

/// Ports, or protocols, and what a scanner takes them for.
type Seen = Vec<(String, String)>;

/// Scans from the stranger's host.
fn scan(stranger: &Namespace, kind: &str, family: &str, target: &str) -> Result<Seen> {
    let timing = "-Pn -n --max-retries 1 --initial-rtt-timeout 100ms --max-rtt-timeout 200ms -oG -";
    let family = (family == "-6").then_some(family);
    let words = kind.split_whitespace().chain(timing.split_whitespace());
    let said = run_ok(stranger.command("nmap", words.chain(family).chain([target])))?;
    // Host: 10.77.0.1 ()	Ports: 4009/closed/udp//a-name///, 7443/open|filtered/udp//…
    let ports = said.lines().find_map(|line| line.split_once("Ports: "));
    let ports = ports.or_else(|| said.lines().find_map(|line| line.split_once("Protocols: ")));
    let (_, ports) = ports.with_context(|| format!("no result: {said}"))?;
    let ports = ports.split('\t').next().unwrap_or_default();
    let states = ports.split(',').filter_map(|port| {
        let mut parts = port.trim().split('/');
        Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
    });
    Ok(states.collect())
}
