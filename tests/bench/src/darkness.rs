//! Probes at every port of a host that runs everything of ours, in every phase of its life, and what
//! garbage costs.
//!
//! What answers is counted by the host's own rules, behind everything that could hold it back: not one
//! packet may leave for the stranger's address.
#![expect(
    clippy::disallowed_types,
    reason = "a stranger uses sockets as he likes"
)]

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{now, run_ok},
    stranger::probe,
};
use rustix::process::Signal;

use crate::{process::Process, report::Report};

const HOST: &str = "10.78.0.1";
const STRANGER: &str = "10.78.0.2";
const CHANNELS: u16 = 7_443;
const RELAY: u16 = 7_444;

/// Garbage a second while its cost is measured.
const RATE: u32 = 50_000;

/// How long its cost is measured.
const COST_TIME: Duration = Duration::from_secs(10);

/// Percent of a core that 10,000 packets of garbage a second may cost.
const COST_MAX: f64 = 2.0;

/// How long one phase may take to be probed.
const PHASE_TIME: Duration = Duration::from_secs(600);

/// Sends `probes` probes.
///
/// # Errors
/// When something of the deployment fails: a node must get in while strangers knock.
pub(crate) fn run(report: &mut Report, probes: u64) -> Result<()> {
    ensure!(needs::root_and(&["ip", "nft"]), "darkness needs root");
    let host = Namespace::new("dark", "host")?;
    let stranger = Namespace::new("dark", "stranger")?;
    host.link("outside", "10.78.0.1/24", &stranger, "wire", "10.78.0.2/24")?;
    let mut world = Deployment::new()?;
    // The guard is there from here on, as on every host whose controller has run before.
    start(&mut world, &host)?;
    world.stop_controller()?;
    let watch = Watch::new(&host)?;
    let flood = Flood::default();
    let costs = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood.run(&stranger));
        let lived = live(&mut world, &host, &stranger, &flood, probes);
        flood.is_over.store(true, Ordering::Relaxed);
        flooding.join().ok().context("the stranger panicked")??;
        lived
    })?;
    let answers = watch.packets(&host)?;
    report.demand(
        answers == 0,
        &format!("{answers} packets left for the stranger"),
    );
    report.add_figures([
        ("probes", count(flood.sent()), None, ""),
        ("answers", count(answers), Some(0.0), ""),
        (
            "CPU for 10,000 of garbage a second",
            costs.percent,
            Some(COST_MAX),
            "% of a core",
        ),
        (
            "memory grown under garbage",
            costs.grown_kib / 1_024.0,
            None,
            "MiB",
        ),
    ]);
    Ok(())
}

/// What garbage cost the controller.
struct Costs {
    percent: f64,
    grown_kib: f64,
}

/// The host's life: nothing runs; it starts, serves, is killed, starts again, and leaves in order while
/// nodes are connected. Each phase gets its share of the probes.
fn live(
    world: &mut Deployment,
    host: &Namespace,
    stranger: &Namespace,
    flood: &Flood,
    probes: u64,
) -> Result<Costs> {
    let mut phases = Phases {
        flood,
        share: probes.div_ceil(7),
        until: 0,
    };
    phases.pass("before")?;
    start(world, host)?;
    phases.pass("start")?;
    let _connector = world.start_connector(Some(host), "con-a", "default")?;
    world.ctl("app add web --target 10.78.0.1:8080 --allow group:staff --allow-host-scoped")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let user = "alice@corp.example";
    let _laptop = world.start_device(Some(host), "laptop", user, "staff", Some(&facts))?;
    let (_forward, _) = world.forward(Some(host), "laptop", "web")?;
    phases.pass("serve")?;
    world.controller()?.signal(Signal::KILL)?;
    world.controller()?.wait()?;
    phases.pass("killed")?;
    start(world, host)?;
    let _another = world.start_connector(Some(host), "con-b", "default")?;
    phases.pass("again")?;
    flood.is_paused.store(true, Ordering::Relaxed);
    let costs = costs(stranger, &Process::of(world.controller()?.id()))?;
    flood.is_paused.store(false, Ordering::Relaxed);
    world.stop_controller()?;
    phases.pass("drained")?;
    phases.pass("gone")?;
    Ok(costs)
}

fn start(world: &mut Deployment, host: &Namespace) -> Result<()> {
    world.start_controller(&ControllerOptions {
        namespace: Some(host),
        address: HOST,
        port: CHANNELS,
        relay_port: RELAY,
        more: &["--allow-simulated-posture", "--guard", "nft"],
        ..Default::default()
    })
}

struct Phases<'a> {
    flood: &'a Flood,
    share: u64,
    until: u64,
}

impl Phases<'_> {
    /// Waits until the phase has had its share of the probes.
    fn pass(&mut self, name: &str) -> Result<()> {
        self.until += self.share;
        let deadline = now() + PHASE_TIME;
        while self.flood.sent() < self.until {
            ensure!(now() < deadline, "phase {name}: the stranger is stuck");
            pause(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// A stranger who probes without a pause.
#[derive(Default)]
struct Flood {
    sent: AtomicU64,
    is_paused: AtomicBool,
    is_over: AtomicBool,
}

impl Flood {
    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Sends as fast as it can: most to our ports, the others to every port there is.
    fn run(&self, stranger: &Namespace) -> Result<()> {
        stranger.enter()?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let mut number = 0_u64;
        while !self.is_over.load(Ordering::Relaxed) {
            if self.is_paused.load(Ordering::Relaxed) {
                pause(Duration::from_millis(5));
                continue;
            }
            let any = u16::try_from(number / 4 % 64_512).unwrap_or(0);
            let port = match number % 4 {
                0 | 1 => CHANNELS,
                2 => RELAY,
                _ => any.saturating_add(1_024),
            };
            // A full queue is no answer.
            drop(socket.send_to(&probe(number), (HOST, port)));
            number += 1;
            self.sent.store(number, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// What the controller spends on garbage at its port, beyond what it spends anyway.
fn costs(stranger: &Namespace, process: &Process) -> Result<Costs> {
    let target: SocketAddr = format!("{HOST}:{CHANNELS}").parse()?;
    let (before, memory) = (process.cpu()?, process.resident_kib()?);
    pause(COST_TIME);
    let idle = process.cpu()? - before;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            stranger.enter()?;
            paced(target)
        });
        sender.join().ok().context("the sender panicked")?
    })?;
    let busy = process.cpu()? - before - idle;
    let share = busy.saturating_sub(idle).as_secs_f64() / COST_TIME.as_secs_f64();
    Ok(Costs {
        percent: share * 100.0 / (f64::from(RATE) / 10_000.0),
        grown_kib: process.resident_kib()? - memory,
    })
}

/// Sends at [`RATE`] for [`COST_TIME`], a millisecond's worth at once.
fn paced(target: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let begin = now();
    let mut number = 0_u64;
    loop {
        let passed = now().duration_since(begin);
        if passed >= COST_TIME {
            return Ok(());
        }
        let due = u64::try_from(passed.as_millis())? * u64::from(RATE) / 1_000;
        while number < due {
            drop(socket.send_to(&probe(number), target));
            number += 1;
        }
        pause(Duration::from_millis(1));
    }
}

/// Counts in the host's own rules what leaves for the stranger.
struct Watch;

impl Watch {
    fn new(host: &Namespace) -> Result<Self> {
        let rules = format!(
            "table ip watch {{\n chain out {{\n type filter hook postrouting priority 300\n \
             ip daddr {STRANGER} counter\n }}\n}}\n"
        );
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), rules)?;
        run_ok(host.command("nft", ["-f".into(), file.path().as_os_str().to_owned()]))?;
        Ok(Self)
    }

    fn packets(&self, host: &Namespace) -> Result<u64> {
        let rules = run_ok(host.command("nft", ["list", "table", "ip", "watch"]))?;
        let mut words = rules.split_whitespace();
        while let Some(word) = words.next() {
            if word == "packets" {
                return Ok(words.next().context("no count")?.parse()?);
            }
        }
        bail!("no counter in: {rules}")
    }
}

fn pause(time: Duration) {
    let deadline = now() + time;
    while now() < deadline {
        std::thread::park_timeout(deadline.saturating_duration_since(now()));
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a count of packets, for people"
)]
const fn count(number: u64) -> f64 {
    number as f64
}
