//! What a scanner sees of a host with a controller behind its guard: what it sees of one without.

use anyhow::{Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, now, run, run_ok},
    scan::{SILENT, Scanner, Seen, is_state},
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

#[test]
fn every_program_has_its_guard_before_its_first_socket_and_leaves_it_when_its_port_is_taken() {
    if needs::root_and(&["ip", "nft", "strace"]) {
        first_of_all().unwrap();
    }
}

/// Everything on one host; each program finds no guard, and makes one before it opens a socket.
fn first_of_all() -> Result<()> {
    let host = Namespace::new("first", "host")?;
    host.ip("addr add 10.77.1.1/24 dev lo")?;
    let mut world = Deployment::new()?;
    let state = world.path("controller").display().to_string();
    let up = format!(
        "up --domain corp.example --advertise 10.77.1.1 --listen 10.77.1.1:{CHANNELS} \
         --relay-listen 10.77.1.1:{RELAY} --state {state} --guard nft --allow-simulated-posture"
    );
    first_in(&world, &host, "cardea-controller", &up, "listening on")?;
    start(
        &mut world,
        &host,
        "10.77.1.1",
        &["--allow-simulated-posture"],
    )?;
    let ticket = world.path("controller/keys/ticket.pub");
    let relay = |port: u16| {
        let ticket = ticket.display();
        format!("run --listen 10.77.1.1:{port} --ticket-key {ticket} --guard nft")
    };
    first_in(&world, &host, "cardea-relay", &relay(7_445), "listening")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let facts = format!("--facts-from {}", facts.display());
    for (program, name, invite, facts) in [
        ("cardea-connector", "con", "connector", ""),
        (
            "cardea",
            "laptop",
            "device --user a@corp.example --group staff",
            &*facts,
        ),
    ] {
        let code = world.ctl(&format!("invite {invite}"))?;
        let arguments = world.node_arguments("enroll", name, &code)?;
        let words: Vec<_> = arguments.iter().filter_map(|word| word.to_str()).collect();
        let enroll = format!("{} {facts} --guard nft", words.join(" "));
        first_in(&world, &host, program, &enroll, "enrolled as")?;
        let state = world.path(name);
        let serve = format!("run --state {} {facts} --guard nft", state.display());
        first_in(&world, &host, program, &serve, "connected to")?;
    }

    // Whose port is taken ends, and was guarded by then.
    for (program, line) in [("cardea-controller", up), ("cardea-relay", relay(RELAY))] {
        let line = line.replace(&state, &world.path("another").display().to_string());
        let refused = run(world.program(Some(&host), program, line.split_whitespace()))?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        let is_taken = ["in use by", "uses this port"].map(|why| said.contains(why));
        let is_refused = !refused.status.success() && is_taken.contains(&true);
        ensure!(is_refused, "{program}: {said}");
        unguard(&world, &host, program)?;
    }
    Ok(())
}

/// Runs a program until it says something, under the eyes of strace: the guard is there before any socket
/// that could hear somebody. Leaves the host as it was.
fn first_in(
    world: &Deployment,
    host: &Namespace,
    program: &str,
    line: &str,
    says: &str,
) -> Result<()> {
    let trace = world.path(&format!("trace-{program}"));
    let inner = world.program(None, program, line.split_whitespace());
    // The program is our child and not strace's, so that stopping it is stopping it.
    let mut traced = host.command("strace", ["-D", "-f", "-e", "trace=execve,socket", "-o"]);
    traced
        .arg(&trace)
        .arg(inner.get_program())
        .args(inner.get_args());
    let mut program_run = Program::start(program, traced)?;
    program_run.wait_for(says)?;
    if program_run.is_alive()? {
        program_run.stop()?;
    }
    let deadline = now() + PATIENCE;
    let (guarded, opened) = loop {
        let said = std::fs::read_to_string(&trace)?;
        let lines: Vec<&str> = said.lines().collect();
        let nft = lines.iter().find(|line| line.contains("/nft\", [\"/"));
        let nft = nft.and_then(|line| line.split_whitespace().next());
        let ended = nft.map(|process| format!("{process} +++ exited with 0 +++"));
        let place = |is_it: &dyn Fn(&str) -> bool| lines.iter().position(|line| is_it(line));
        let guarded = ended.and_then(|ended| place(&|line| squeezed(line) == ended));
        let opened = place(&|line| line.contains("socket(AF_INET"));
        if let (Some(guarded), Some(opened)) = (guarded, opened) {
            break (guarded, opened);
        }
        ensure!(
            now() < deadline,
            "{program}: no guard or no socket:\n{said}"
        );
        std::thread::yield_now();
    };
    ensure!(guarded < opened, "{program}: a socket before the guard");
    unguard(world, host, program)
}

fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Has a program take away the guard that is there.
fn unguard(world: &Deployment, host: &Namespace, program: &str) -> Result<()> {
    let output = run(world.program(Some(host), program, ["guard", "remove"]))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(said.contains("is removed"), "{program}: {said}");
    Ok(())
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
    let scanner = Scanner {
        from: &stranger,
        target: plain,
    };
    let scan = |kind: &str| scanner.scan(kind);
    let mut world = Deployment::new()?;

    // Without a guard, silence stands out: the scan can see what it looks for.
    start(&mut world, &host, address, &[])?;
    let bare = scan(UDP)?;
    let states = bare.iter().zip(["closed", SILENT, SILENT]);
    let is_bare = states.map(|((_, said), state)| is_state(said, state));
    ensure!(
        is_bare.fold(bare.len() == 3, |all, is| all && is),
        "{bare:?}"
    );
    world.stop_controller()?;

    start(&mut world, &host, address, &["--guard", "nft"])?;
    let serving = scan(UDP)?;
    ensure!(
        serving.iter().all(|(_, said)| is_state(said, SILENT)),
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
    let is_bare = bare.iter().all(|(_, said)| is_state(said, "closed"));
    ensure!(is_bare, "{bare:?}");
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
