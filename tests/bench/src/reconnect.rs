//! Everybody comes back at once: how long until a controller that was restarted has them all, and its relay
//! has an end of each.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment},
    program::{free_port, now},
    traffic::WebServer,
};
use cardea_proto::{
    access::Standby,
    ledger::Admits,
    relay::{Handle, TICKET_BYTES},
};
use rand_core::{OsRng, RngCore};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::UdpSocket,
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    crash::{
        clients::{Admin, Code, Link, Node, enroll},
        facts::Facts,
    },
    process::Process,
    relay::bind_frame,
    report::Report,
    revoke::revoke,
};

/// Agents for each connector.
const AGENTS_EACH: u32 = 10;

/// Nodes that enroll at the same time.
const ENROLLING: usize = 32;

/// Longest first pause after a channel was lost, and longest of all: a node's own.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_LAST: Duration = Duration::from_secs(20);

/// How soon all must be back.
const BACK: f64 = 30.0;

/// Memory that an idle channel may take at the controller: row 8 of the targets.
const CHANNEL_KIB: f64 = 40.0;

/// How long all are left alone: a keepalive of each, and what a handshake left behind is gone.
const IDLE: Duration = Duration::from_secs(10);

/// How long it is waited for them in any case.
const PATIENCE: Duration = Duration::from_secs(300);

/// Restarts a controller under `agents` and a tenth as many connectors.
///
/// # Errors
/// When they do not all come back.
pub(crate) fn run(report: &mut Report, agents: u32) -> Result<()> {
    let connectors = agents.div_ceil(AGENTS_EACH);
    let count = usize::try_from(agents + connectors)?;
    allow_sockets(count)?;
    let mut deployment = Deployment::new()?;
    let ports = (free_port()?, free_port()?);
    let options = ControllerOptions {
        port: ports.0,
        relay_port: ports.1,
        ..Default::default()
    };
    deployment.start_controller(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let address = SocketAddr::from(([127, 0, 0, 1], ports.0));
    let state = deployment.path("controller");
    let codes = runtime.block_on(invite(&state, agents, connectors))?;
    let began = now();
    let nodes = runtime.block_on(enroll_all(address, codes))?;
    let enrolled = now().duration_since(began);
    // One that has enrolled nobody, for its memory.
    deployment.stop_controller()?;
    deployment.start_controller(&options)?;
    let alone = usage(&mut deployment)?;
    let crowd = Arc::new(Crowd::new(address));
    for node in nodes {
        runtime.spawn(Arc::clone(&crowd).keep(node));
    }
    runtime.block_on(crowd.wait_for(count))?;
    let first = usage(&mut deployment)?;
    runtime.block_on(async { tokio::time::sleep(IDLE).await });
    let idle = usage(&mut deployment)?;
    revoke_beside(report, &deployment, agents)?;
    let stopped = now();
    deployment.stop_controller()?;
    runtime.block_on(crowd.wait_for(0))?;
    deployment.start_controller(&options)?;
    let listens = now();
    runtime.block_on(crowd.wait_for(count))?;
    let back = now();
    let again = usage(&mut deployment)?;
    ensure!(deployment.controller()?.is_alive()?, "it died");
    let times = [enrolled, back - listens, back - stopped].map(|time| time.as_secs_f64());
    let attempts = crowd.attempts_for_each(count);
    tell(
        report,
        (agents, connectors),
        times,
        [alone, first, idle, again],
        attempts,
    );
    Ok(())
}

/// Revokes what a real agent uses while all the others are connected: row 10 of the targets.
fn revoke_beside(report: &mut Report, deployment: &Deployment, agents: u32) -> Result<()> {
    let web = WebServer::start("127.0.0.1:0", "page\n")?;
    let target = web.address;
    // The others are at a site of their own: they speak the protocol, and serve no app.
    deployment.ctl("site add real")?;
    deployment.ctl(&format!(
        "app add timed --target {target} --site real --allow-host-scoped --allow group:staff"
    ))?;
    let _connector = deployment.start_connector(None, "connector", "real")?;
    let user = "alice@corp.example";
    let _laptop = deployment.start_device(None, "laptop", user, "staff", None)?;
    let (_forward, address) = deployment.forward(None, "laptop", "timed")?;
    let times = (0..REVOKED).map(|_| revoke(deployment, "timed", &address));
    let times = times.collect::<Result<Vec<_>>>()?;
    report.add_times(
        &format!("revoke beside {agents} agents"),
        &times,
        (20.0, 100.0),
        (5.0, 20.0),
    );
    Ok(())
}

/// How often.
const REVOKED: u32 = 100;

/// Lets this process have a socket for each of `count` ends, and what else it needs.
fn allow_sockets(count: usize) -> Result<()> {
    // One for its channel, and for some at a time one for an attempt or an end at the relay.
    let files = u64::try_from(count + TRYING + BINDING)? + 256;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    let current = Some(files);
    let maximum = limit.maximum.map(|maximum| maximum.max(files));
    setrlimit(Resource::Nofile, Rlimit { current, maximum })
        .context("so many sockets are not allowed")
}

/// Adds what was found: how long it took to enroll all, and until they were back; what the controller
/// used with nobody, with all, after a while, and after its restart.
fn tell(
    report: &mut Report,
    (agents, connectors): (u32, u32),
    [enrolled, listening, stopped]: [f64; 3],
    [alone, first, idle, again]: [Usage; 4],
    attempts: f64,
) {
    let each = f64::from(agents + connectors);
    report.demand(listening <= BACK, "not all were back in time");
    report.add_figures([
        ("agents", f64::from(agents), None, ""),
        ("connectors", f64::from(connectors), None, ""),
        ("enrolled in", enrolled, None, "s"),
        ("all back after it listens", listening, Some(BACK), "s"),
        ("all back after it was stopped", stopped, None, "s"),
        ("CPU until then", again.cpu_s, None, "CPU-s"),
        (
            "CPU of one that comes back",
            again.cpu_s * 1_000.0 / each,
            None,
            "CPU-ms",
        ),
        (
            "CPU of all while idle",
            (idle.cpu_s - first.cpu_s) / IDLE.as_secs_f64() * 100.0,
            None,
            "% of a core",
        ),
        (
            "memory of an idle channel",
            (idle.kib - alone.kib) / each,
            Some(CHANNEL_KIB),
            "KiB",
        ),
        ("memory of all of it", idle.kib / 1_024.0, None, "MiB"),
        ("attempts for each", attempts, None, ""),
    ]);
}

/// What a controller has used up to now.
struct Usage {
    cpu_s: f64,
    kib: f64,
}

fn usage(deployment: &mut Deployment) -> Result<Usage> {
    let process = Process::of(deployment.controller()?.id());
    Ok(Usage {
        cpu_s: process.cpu()?.as_secs_f64(),
        kib: process.resident_kib()?,
    })
}

/// A code for everybody.
async fn invite(state: &std::path::Path, agents: u32, connectors: u32) -> Result<Vec<Code>> {
    let mut admin = Admin::connect(state).await?;
    let facts = Facts::default();
    let mut codes = Vec::new();
    for number in 0..agents + connectors {
        let admits = if number < connectors {
            let site = "default".parse()?;
            Admits::Connector { site }
        } else {
            Admits::Device {
                user: format!("user-{number}").parse()?,
                groups: ["staff".parse()?].into(),
            }
        };
        codes.push(admin.invite(&facts, admits).await?.1);
    }
    Ok(codes)
}

async fn enroll_all(address: SocketAddr, codes: Vec<Code>) -> Result<Vec<Node>> {
    let turns = Arc::new(Semaphore::new(ENROLLING));
    let mut enrolling = JoinSet::new();
    for (number, code) in codes.into_iter().enumerate() {
        let turns = Arc::clone(&turns);
        enrolling.spawn(async move {
            let _turn = turns.acquire().await?;
            // A knock may find no place where all others come from the same address.
            let mut why = String::new();
            for _ in 0..20 {
                let name = format!("node-{number}");
                match enroll(address, &code, &name).await {
                    Ok(Ok(node)) => return Ok(node),
                    Ok(Err(refused)) => why = format!("{why}; {refused:?}"),
                    Err(error) => why = format!("{why}; {error:#}"),
                }
            }
            anyhow::bail!("node {number} is not admitted{why}")
        });
    }
    let mut nodes = Vec::new();
    while let Some(node) = enrolling.join_next().await {
        nodes.push(node??);
    }
    Ok(nodes)
}

/// Binds an end by the ticket that came with the certificate; asks again as nodes do.
async fn bind(standby: &Standby) -> Result<()> {
    let relay = standby.relay.first().context("no address")?;
    let ticket: [u8; TICKET_BYTES] = standby.ticket.as_ref().try_into()?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(relay).await?;
    let mut answer = [0; 64];
    for tries in 0..BINDS_MAX {
        socket.send(&bind_frame(&ticket)).await?;
        let patience = BIND_RETRY * 2_u32.pow(tries);
        while let Ok(length) = tokio::time::timeout(patience, socket.recv(&mut answer)).await {
            let answer = answer.get(..length?).unwrap_or_default();
            if Handle::of_bound(answer).is_some() {
                return Ok(());
            }
            if let Some((_, cookie)) = Handle::of_challenge(answer) {
                socket.send(&cookie.proof(&ticket)).await?;
            }
        }
    }
    anyhow::bail!("the relay does not answer")
}

/// A node's pauses between two tries of a relay: 250 ms, 500 ms, … 4 s.
const BIND_RETRY: Duration = Duration::from_millis(250);
const BINDS_MAX: u32 = 5;

/// Attempts at the same time, and nodes that bind an end at the same time: a process has only so many
/// sockets, where each real node is a process.
const TRYING: usize = 7_000;
const BINDING: usize = 1_024;

/// How long QUIC keeps the socket of an attempt that failed: three times its first timeout
/// (RFC 9000 §10.2, RFC 9002 §6.2.2).
const LINGER: Duration = Duration::from_secs(3);

/// All nodes, and how many of them are there: with a channel, and an end at the relay.
struct Crowd {
    address: SocketAddr,
    attempts: AtomicUsize,
    trying: Arc<Semaphore>,
    binding: Semaphore,
    connected: watch::Sender<usize>,
}

impl Crowd {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            attempts: AtomicUsize::new(0),
            trying: Arc::new(Semaphore::new(TRYING)),
            binding: Semaphore::new(BINDING),
            connected: watch::Sender::new(0),
        }
    }

    /// Keeps one node connected, as long as the process lives.
    async fn keep(self: Arc<Self>, node: Node) {
        let mut ceiling = PAUSE_FIRST;
        loop {
            if let Ok(mut link) = self.come(&node).await {
                self.connected.send_modify(|connected| *connected += 1);
                ceiling = PAUSE_FIRST;
                while link.hear().await.is_ok() {}
                self.connected.send_modify(|connected| *connected -= 1);
            }
            let most = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
            let pause = Duration::from_millis(OsRng.next_u64() % most.max(1));
            tokio::time::sleep(pause).await;
            ceiling = (ceiling * 2).min(PAUSE_LAST);
        }
    }

    /// Opens a channel, and binds an end at the relay.
    async fn come(&self, node: &Node) -> Result<Link> {
        let turn = Arc::clone(&self.trying).acquire_owned().await?;
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let connected = node.connect(self.address).await;
        if connected.is_err() {
            tokio::spawn(async move {
                tokio::time::sleep(LINGER).await;
                drop(turn);
            });
        }
        let link = connected?;
        let relays = &node.enrolled.certificate.relays;
        let _binding = self.binding.acquire().await?;
        bind(relays.first().context("no relay")?).await?;
        Ok(link)
    }

    async fn wait_for(&self, count: usize) -> Result<()> {
        let mut connected = self.connected.subscribe();
        let done = connected.wait_for(|connected| *connected == count);
        let result = tokio::time::timeout(PATIENCE, done).await;
        let missing = || format!("{} are connected, not {count}", *self.connected.borrow());
        result.with_context(missing)??;
        Ok(())
    }

    fn attempts_for_each(&self, count: usize) -> f64 {
        let attempts = u32::try_from(self.attempts.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        f64::from(attempts) / f64::from(u32::try_from(count).unwrap_or(u32::MAX))
    }
}
