//! A host on which everything of ours runs, and a stranger who probes every port of it without a pause,
//! in every phase of its life.
//!
//! ```text
//!  stranger ─── host: controller with relay and front, a relay of its own, connector, agent, app
//! ```
//!
//! What answers is counted by the host's own rules, behind everything that could hold it back: not one
//! packet may leave for the stranger's addresses but what finds neighbors.
#![expect(
    clippy::disallowed_types,
    reason = "a stranger uses sockets as he likes"
)]

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    disk::Disk,
    namespace::Namespace,
    program::{now, run_ok},
    sockets::UdpOf,
    stranger::{Hears, probe},
    traffic::{WebServer, fetch},
};

/// The host's addresses, and those of the stranger beside it.
const HOST: [&str; 2] = ["10.78.0.1", "fd78::1"];
const STRANGER: [&str; 2] = ["10.78.0.2", "fd78::2"];

/// Where the controller listens for channels.
const CHANNELS: u16 = 7_443;
const RELAY: u16 = 7_444;
const OTHER_RELAY: &str = "[::]:7445";
const FRONT: &str = "[::]:443";

/// How long one phase may take to be probed.
const PHASE_TIME: Duration = Duration::from_secs(600);

/// Size of the changes that are made until the disk is full.
const REMARK_BYTES: usize = 128 * 1024;

const PAGE: &str = "not for strangers\n";

/// What a life under probes came to.
#[derive(Clone, Debug)]
pub struct Probed {
    /// Probes that were sent.
    pub sent: u64,
    /// How many in each phase.
    pub phases: Vec<(&'static str, u64)>,
    /// Packets that left for the stranger.
    pub answers: u64,
}

/// What [`probe_a_life`] lets its caller look at while the host serves and the stranger rests.
#[derive(Debug)]
pub struct Resting<'a> {
    /// The stranger's host.
    pub stranger: &'a Namespace,
    /// The host.
    pub host: &'a Namespace,
    /// All that hears whoever sends to it.
    pub targets: &'a [Target],
}

/// A UDP socket of ours, as the stranger sees it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Which program's it is.
    pub program: &'static str,
    /// The program's process.
    pub process: u32,
    /// Where it is.
    pub address: SocketAddr,
    /// What it takes from those who have a key.
    pub hears: Hears,
}

/// Sends at least so many probes through the life of a host: nothing runs; it starts, serves, has a full
/// disk, is killed, starts again, leaves in order, and is gone. `rest` is done while it serves.
///
/// # Errors
/// When something of the deployment fails: nodes must get in while a stranger knocks.
pub fn probe_a_life<T>(
    probes: u64,
    rest: impl FnOnce(Resting<'_>) -> Result<T>,
) -> Result<(Probed, T)> {
    let host = Namespace::new("dark", "host")?;
    let stranger = Namespace::new("dark", "stranger")?;
    let [near, far] = [HOST, STRANGER].map(|[v4, _]| format!("{v4}/24"));
    host.link("outside", &near, &stranger, "wire", &far)?;
    host.ip(&format!("addr add {}/64 dev outside nodad", HOST[1]))?;
    stranger.ip(&format!("addr add {}/64 dev wire nodad", STRANGER[1]))?;
    let mut world = Deployment::new()?;
    let disk = Disk::mount(&world.path("controller"))?;
    let rules = format!(
        "table inet watch {{\n counter answers {{ }}\n chain out {{\n\
         type filter hook postrouting priority 300\n\
         icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\n\
         ip daddr {} counter name answers\n ip6 daddr {} counter name answers\n }}\n}}\n",
        STRANGER[0], STRANGER[1]
    );
    host.nft(&rules)?;
    answers_count(&host, &stranger)?;
    // The guard is there from here on, as on every host whose controller has run before.
    start(&mut world, &host)?;
    world.stop_controller()?;
    let flood = Flood::default();
    let (phases, rested) = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood.run(&stranger));
        let mut life = Life {
            host: &host,
            stranger: &stranger,
            flood: &flood,
            share: probes.div_ceil(7),
            phases: Vec::new(),
        };
        let lived = life.live(&mut world, &disk, rest);
        flood.is_over.store(true, Ordering::Relaxed);
        flooding.join().ok().context("the stranger panicked")??;
        anyhow::Ok((life.phases, lived?))
    })?;
    let probed = Probed {
        sent: flood.sent(),
        phases,
        answers: answers(&host)?,
    };
    Ok((probed, rested))
}

fn start(world: &mut Deployment, host: &Namespace) -> Result<()> {
    world.start_controller(&ControllerOptions {
        namespace: Some(host),
        address: HOST[0],
        listen: Some("[::]"),
        port: CHANNELS,
        relay_port: RELAY,
        more: &[
            "--allow-simulated-posture",
            "--guard",
            "nft",
            "--listen-tls",
            FRONT,
        ],
        ..Default::default()
    })
}

/// Shows that an answer counts: without a guard, a port that is closed answers in each family.
fn answers_count(host: &Namespace, stranger: &Namespace) -> Result<()> {
    stranger.within(|| {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        let [v4, v6] = HOST;
        for host in [&format!("::ffff:{v4}"), v6] {
            socket.send_to(b"who is there?", (host, CHANNELS))?;
        }
        anyhow::Ok(())
    })?;
    let deadline = now() + PHASE_TIME;
    while answers(host)? < 2 {
        ensure!(now() < deadline, "answers of closed ports are not counted");
        thread::yield_now();
    }
    run_ok(host.command("nft", ["reset", "counter", "inet", "watch", "answers"]))?;
    ensure!(answers(host)? == 0, "it counts more than answers");
    Ok(())
}

/// How many packets have left for the stranger.
fn answers(host: &Namespace) -> Result<u64> {
    let rules = run_ok(host.command("nft", ["list", "counter", "inet", "watch", "answers"]))?;
    let mut words = rules.split_whitespace();
    words.find(|word| *word == "packets");
    Ok(words.next().context("no counter")?.parse()?)
}

/// The sockets of some processes on the host that hear more than one other.
fn targets(host: &Namespace, processes: [(&'static str, u32); 4]) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for (program, process) in processes {
        let sockets = host.within(|| UdpOf::process(process))?;
        let before = targets.len();
        for local in sockets.iter().filter(|socket| socket.peer.is_none()) {
            let [v4, v6] = HOST;
            let reached = if local.local.is_ipv4() { v4 } else { v6 };
            let port = local.local.port();
            let hears = match program {
                "controller" if port == CHANNELS => Hears::Channels,
                "controller" | "relay" => Hears::Relayed,
                _ => Hears::Sealed,
            };
            targets.push(Target {
                program,
                process,
                address: SocketAddr::new(reached.parse()?, port),
                hears,
            });
        }
        ensure!(targets.len() > before, "{program} has no socket");
    }
    Ok(targets)
}

struct Life<'a> {
    host: &'a Namespace,
    stranger: &'a Namespace,
    flood: &'a Flood,
    share: u64,
    phases: Vec<(&'static str, u64)>,
}

impl Life<'_> {
    fn live<T>(
        &mut self,
        world: &mut Deployment,
        disk: &Disk,
        rest: impl FnOnce(Resting<'_>) -> Result<T>,
    ) -> Result<T> {
        let host = self.host;
        self.phase("before", || Ok(()))?;
        self.phase("start", || start(world, host))?;
        let relay = world.start_relay(Some(host), OTHER_RELAY, &[])?;
        let connector = world.start_connector(Some(host), "con-a", "default")?;
        let web = host
            .within(|| WebServer::start("127.0.0.1:0", PAGE))?
            .address;
        world.ctl(&format!(
            "app add web --target {web} --allow group:staff --allow-host-scoped"
        ))?;
        let facts = world.write_facts("laptop", GOOD_FACTS)?;
        let user = "alice@corp.example";
        let laptop = world.start_device(Some(host), "laptop", user, "staff", Some(&facts))?;
        let (_forward, address) = world.forward(Some(host), "laptop", "web")?;
        let page = host.within(|| fetch(&address))?;
        ensure!(page == PAGE, "another page: {page}");
        let controller = world.controller()?.id();
        let processes = [
            ("controller", controller),
            ("relay", relay.id()),
            ("connector", connector.id()),
            ("agent", laptop.id()),
        ];
        let targets = targets(host, processes)?;
        self.flood.aim_at(&targets);
        self.phase("serve", || Ok(()))?;
        self.phase("disk full", || {
            disk.fill_by(|_| world.remark(&format!("// {}", "x".repeat(REMARK_BYTES))))
        })?;
        disk.empty()?;
        let rested = self.rest(&targets, rest)?;
        self.phase("killed", || {
            world.controller()?.signal(Signal::KILL)?;
            world.controller()?.wait().map(drop)
        })?;
        start(world, host)?;
        let _another = world.start_connector(Some(host), "con-b", "default")?;
        self.phase("again", || Ok(()))?;
        let before = self.flood.sent();
        world.stop_controller()?;
        let drain = self.flood.sent() - before;
        ensure!(drain > 0, "it left before a probe came");
        self.phases.push(("drain", drain));
        self.phase("gone", || Ok(()))?;
        drop((relay, connector, laptop));
        Ok(rested)
    }

    /// Does something, and waits until the stranger has sent his share since it began.
    fn phase(&mut self, name: &'static str, begin: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.flood.sent();
        begin()?;
        let deadline = now() + PHASE_TIME;
        while self.flood.sent() - before < self.share {
            ensure!(now() < deadline, "phase {name}: the stranger is stuck");
            thread::yield_now();
        }
        self.phases.push((name, self.flood.sent() - before));
        Ok(())
    }

    fn rest<T>(
        &self,
        targets: &[Target],
        rest: impl FnOnce(Resting<'_>) -> Result<T>,
    ) -> Result<T> {
        self.flood.is_paused.store(true, Ordering::Relaxed);
        let rested = rest(Resting {
            stranger: self.stranger,
            host: self.host,
            targets,
        });
        self.flood.is_paused.store(false, Ordering::Relaxed);
        rested
    }
}

/// A stranger who probes without a pause.
#[derive(Debug, Default)]
struct Flood {
    sent: AtomicU64,
    is_paused: AtomicBool,
    is_over: AtomicBool,
    /// Ports that something of ours has open.
    ports: Mutex<Vec<u16>>,
}

impl Flood {
    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// From here on these ports are probed more than others.
    fn aim_at(&self, targets: &[Target]) {
        let ports = targets.iter().map(|target| target.address.port());
        *self.ports.lock().unwrap_or_else(PoisonError::into_inner) = ports.collect();
    }

    /// Sends as fast as it can: three of four to what is known to be there, the others to every port there
    /// is; by turns in both families.
    fn run(&self, stranger: &Namespace) -> Result<()> {
        stranger.enter()?;
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        let hosts = HOST.map(str::parse::<IpAddr>);
        let mut number = 0_u64;
        while !self.is_over.load(Ordering::Relaxed) {
            if self.is_paused.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_millis(5));
                continue;
            }
            let known = self
                .ports
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            for _ in 0..BURST {
                let to = match hosts.iter().flatten().nth(usize::try_from(number % 2)?) {
                    Some(IpAddr::V4(host)) => IpAddr::V6(host.to_ipv6_mapped()),
                    Some(host) => *host,
                    None => continue,
                };
                // A full queue is no answer.
                drop(socket.send_to(&probe(number / 2), (to, port(number / 2, &known)?)));
                number += 1;
            }
            self.sent.store(number, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Where a probe goes: half to what is always there, a quarter to what is known, a quarter to any port.
///
/// The number chooses the probe as well, by its remainder; here its multiple by the golden ratio decides, so that
/// each kind of probe comes to each port (Knuth, The Art of Computer Programming, §6.4).
fn port(number: u64, known: &[u16]) -> Result<u16> {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let place = (mixed >> 30) & u64::from(u32::MAX);
    Ok(match mixed >> 62 {
        0 => CHANNELS,
        1 => RELAY,
        2 if !known.is_empty() => {
            let place = usize::try_from(place)? % known.len();
            known.get(place).copied().unwrap_or(RELAY)
        }
        _ => u16::try_from(place % u64::from(u16::MAX))? + 1,
    })
}

/// Probes between two looks at what has changed.
const BURST: u64 = 64;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn each_kind_of_probe_comes_to_each_port() {
        let known = [CHANNELS, RELAY, 40_001, 40_002, 40_003, 40_004, 40_005];
        let mut kinds: BTreeMap<u16, BTreeSet<u64>> = BTreeMap::new();
        // Of ten million probes a tenth in one phase, and half of them in one family.
        for number in 0..500_000 {
            let port = port(number, &known).unwrap();
            kinds.entry(port).or_default().insert(number % 16);
        }
        for port in known {
            assert_eq!(kinds[&port].len(), 16, "{port}");
        }
        for count in [1, 2, 4, 8, 16] {
            let known: Vec<u16> = (50_000..).take(count).collect();
            let mut kinds = BTreeSet::new();
            for number in 0..100_000 {
                let port = port(number, &known).unwrap();
                kinds.insert((known.iter().position(|other| *other == port), number % 16));
            }
            assert!(kinds.len() >= count * 16, "{} of {count}", kinds.len());
        }
        let all: usize = (1..=u16::MAX)
            .filter(|port| kinds.contains_key(port))
            .count();
        assert!(all > 55_000, "{all} ports");
    }

    #[test]
    fn in_ten_million_probes_a_port_sees_many_kinds() {
        let mut kinds: BTreeMap<u16, BTreeSet<u64>> = BTreeMap::new();
        for number in 0..5_000_000 {
            let port = port(number, &[40_001]).unwrap();
            kinds.entry(port).or_default().insert(number % 16);
        }
        let least = (1..=u16::MAX)
            .map(|port| kinds.get(&port).map_or(0, BTreeSet::len))
            .min();
        assert!(least >= Some(8), "{least:?}");
    }
}
