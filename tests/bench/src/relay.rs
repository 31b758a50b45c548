//! How many datagrams a relay forwards for each second of a core, and what an idle tunnel costs it.
//!
//! Everything is on loopback: a sender, the relay on a thread of its own, and the other ends, which
//! take what comes. Only the relay's processor time counts.
#![expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "counts become figures"
)]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use cardea_credential::ticket::TicketKey;
use cardea_e2e::program::{Program, binaries, command, free_port, now};
use cardea_host::{
    clock::Clock,
    udp::{Received, UdpSocket},
};
use cardea_proto::{
    codec::Bytes,
    relay::{BIND_BYTES, FrameKind, Handle, Side, TICKET_BYTES, Ticket},
};
use cardea_relay::Settings;
use cardea_relay_server::Server;

use crate::{
    process::Process,
    report::{Report, Row, bytes_of, median, percentile},
};

/// How long each case is loaded in each round.
const LOAD_TIME: Duration = Duration::from_secs(2);

/// Tunnels that lie idle while memory is measured.
const IDLE_TUNNELS: u64 = 20_000;

/// Ends that one socket binds: the relay checks so many tickets of one address in a second.
const ENDS_PER_ADDRESS: u64 = 1_000;

/// How long the relay may take to bind them all.
const BIND_TIME: Duration = Duration::from_secs(60);

/// Datagrams of a tunnel that go out in one call where they come in bursts.
const BURST: usize = 48;

/// Datagrams for each second of a core that must be forwarded.
const FLOOR: f64 = 1_000_000.0;

/// What is sent: a name, the bytes of each datagram, how many tunnels take turns, and how many
/// datagrams of each go out at a time.
const CASES: [(&str, usize, usize, usize); 3] = [
    ("1,280 B, bursts of a tunnel", 1_280, 1, BURST),
    ("1,280 B, bursts of 64 tunnels", 1_280, 64, BURST),
    ("64 B, bursts of a tunnel", 64, 1, BURST),
];

/// The worst case: no two neighbors belong together.
const ALONE: (&str, usize, usize, usize) = ("1,280 B, 64 tunnels, one at a time", 1_280, 64, 1);

/// Loads a relay `rounds` times in each way, then binds many tunnels and leaves them alone.
///
/// # Errors
/// When the relay does not start or does not answer.
pub(crate) fn run(report: &mut Report, rounds: u32) -> Result<()> {
    for case in CASES.into_iter().chain([ALONE]) {
        let rates = (0..rounds)
            .map(|_| forwarded(case))
            .collect::<Result<Vec<f64>>>()?;
        report.demand(
            case == ALONE || median(&rates) >= FLOOR,
            "too few datagrams are forwarded",
        );
        report.add(Row {
            case: case.0.to_owned(),
            ours: median(&rates),
            range: (percentile(&rates, 0.0), percentile(&rates, 1.0)),
            peer: None,
            floor: (case != ALONE).then_some(FLOOR),
            goal: None,
            unit: "datagrams/core-s",
        });
    }
    let bytes = idle()?;
    report.demand(bytes <= 1_024.0, "an idle tunnel takes too much memory");
    report.add_figures([("memory of an idle tunnel", bytes, Some(1_024.0), "B")]);
    Ok(())
}

/// Datagrams that a relay forwards for each second of its thread's processor time.
fn forwarded((_, size, tunnels, burst): (&str, usize, usize, usize)) -> Result<f64> {
    let key = ticket_key()?;
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let running = Server::bind(listen, key.public(), Settings::default())?;
    let at = running.local_address();
    let relay = running.spawn(())?;
    let senders = Ends::bind(
        at,
        &key,
        Side::Agent,
        0..tunnels as u64,
        Ipv4Addr::LOCALHOST,
    )?;
    let takers = Ends::bind(
        at,
        &key,
        Side::Connector,
        0..tunnels as u64,
        Ipv4Addr::LOCALHOST,
    )?;
    let thread = relay_thread()?;
    let before = thread.cpu()?;
    let is_over = AtomicBool::new(false);
    let received = std::thread::scope(|scope| {
        let taking = scope.spawn(|| takers.take(&is_over));
        senders.load(size, burst);
        is_over.store(true, Ordering::Relaxed);
        taking.join().ok().context("the taker panicked")
    })?;
    let spent = thread.cpu()? - before;
    let control = relay.control().clone();
    relay.stop()?;
    let report = control.report();
    ensure!(received > 0, "nothing came through the relay: {report:?}");
    Ok(report.counters.forwarded.saturating_sub(report.unsent) as f64 / spent.as_secs_f64())
}

/// Bytes of memory that the program takes for each tunnel that is bound and silent.
fn idle() -> Result<f64> {
    let key = ticket_key()?;
    let public = data_encoding::HEXLOWER.encode(&key.public());
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let arguments = ["run", "--listen", &at.to_string(), "--ticket-key", &public].map(String::from);
    let program = binaries()?.join("cardea-relay");
    let mut relay = Program::start("relay", command(&program, arguments))?;
    relay.wait_for("listening")?;
    let process = Process::of(relay.id());
    let before = process.resident_kib()?;
    let mut bound = Vec::new();
    for (place, first) in (0..IDLE_TUNNELS)
        .step_by(ENDS_PER_ADDRESS as usize)
        .enumerate()
    {
        let tunnels = first..first + ENDS_PER_ADDRESS;
        for (side, net) in [(Side::Agent, 1), (Side::Connector, 2)] {
            let from = Ipv4Addr::new(127, net, 0, u8::try_from(place)? + 1);
            bound.push(Ends::bind(at, &key, side, tunnels.clone(), from)?);
        }
    }
    let grown = process.resident_kib()? - before;
    relay.stop()?;
    Ok(grown * 1_024.0 / IDLE_TUNNELS as f64)
}

/// One end of each of some tunnels, all behind one socket.
struct Ends {
    socket: UdpSocket,
    relay: SocketAddr,
    handles: Vec<Handle>,
}

impl Ends {
    /// Binds an end of every tunnel; whom the relay is too busy for asks again.
    fn bind(
        relay: SocketAddr,
        key: &TicketKey,
        side: Side,
        tunnels: std::ops::Range<u64>,
        from: Ipv4Addr,
    ) -> Result<Self> {
        let socket = UdpSocket::bind((from, 0).into())?;
        let mut tickets = Vec::new();
        let mut handles = Vec::new();
        for number in tunnels {
            let handle = handle(number, side);
            let ticket = Ticket {
                tunnel: Bytes(bytes_of(number + 1)),
                side,
                handle,
                not_after: Clock::system().now().unix.plus(Duration::from_secs(3_600)),
            };
            tickets.push((handle, key.sign(&ticket)?));
            handles.push(handle);
        }
        let begin = now();
        let mut batch = Received::default();
        while !tickets.is_empty() {
            ensure!(
                now().duration_since(begin) < BIND_TIME,
                "{} ends were not bound",
                tickets.len()
            );
            for (_, ticket) in tickets.iter().take(AT_ONCE) {
                socket.send(relay, None, &bind_frame(ticket))?;
            }
            let asked = now();
            while now().duration_since(asked) < ANSWER_TIME && !tickets.is_empty() {
                answer(&socket, relay, &mut batch, &mut tickets)?;
            }
        }
        Ok(Self {
            socket,
            relay,
            handles,
        })
    }

    /// Sends for [`LOAD_TIME`] as fast as the socket takes it, each tunnel in its turn.
    fn load(&self, size: usize, burst: usize) {
        let sends: Vec<Vec<u8>> = self
            .handles
            .iter()
            .map(|handle| {
                let mut datagram = handle.data_header().to_vec();
                datagram.resize(size, 0x5a);
                datagram.repeat(burst)
            })
            .collect();
        let begin = now();
        while now().duration_since(begin) < LOAD_TIME {
            for bytes in &sends {
                // A socket that is full is full; the relay is what is measured.
                if self.socket.send(self.relay, Some(size), bytes).is_err() {
                    std::thread::yield_now();
                }
            }
        }
    }

    /// Takes what comes, until it is over.
    fn take(&self, is_over: &AtomicBool) -> u64 {
        let mut batch = Received::default();
        let mut received = 0;
        while !is_over.load(Ordering::Relaxed) {
            match self.socket.receive(&mut batch) {
                Ok(_) => received += batch.runs().count() as u64,
                Err(_) => std::thread::park_timeout(Duration::from_micros(200)),
            }
        }
        received
    }
}

/// Tickets that are shown before the first answer is waited for.
const AT_ONCE: usize = 100;

/// How long answers are waited for before the rest is asked again.
const ANSWER_TIME: Duration = Duration::from_millis(50);

/// Proves what is challenged, and strikes out what is bound.
fn answer(
    socket: &UdpSocket,
    relay: SocketAddr,
    batch: &mut Received,
    tickets: &mut Vec<(Handle, [u8; TICKET_BYTES])>,
) -> Result<()> {
    if socket.receive(batch).is_err() {
        std::thread::park_timeout(Duration::from_micros(100));
        return Ok(());
    }
    for (_, datagram) in batch.datagrams() {
        if let Some((handle, cookie)) = Handle::of_challenge(datagram) {
            let ticket = tickets.iter().find(|(of, _)| *of == handle);
            if let Some((_, ticket)) = ticket {
                socket.send(relay, None, &cookie.proof(ticket))?;
            }
        } else if let Some(bound) = Handle::of_bound(datagram) {
            tickets.retain(|(handle, _)| *handle != bound);
        } else {
            bail!("the relay answered {} strange bytes", datagram.len());
        }
    }
    Ok(())
}

pub(crate) fn bind_frame(ticket: &[u8; TICKET_BYTES]) -> [u8; BIND_BYTES] {
    let mut frame = [FrameKind::Bind.byte(); BIND_BYTES];
    for (to, from) in frame.iter_mut().skip(1).zip(ticket) {
        *to = *from;
    }
    frame
}

fn handle(number: u64, side: Side) -> Handle {
    let [_, _, rest @ ..] = number.to_be_bytes();
    let [b, c, d, e, f, g] = rest;
    let a = if side == Side::Agent { 1 } else { 2 };
    Handle::from_bytes([a, b, c, d, e, f, g])
}

fn ticket_key() -> Result<TicketKey> {
    Ok(TicketKey::from_seed(&[5; 32])?)
}

/// The relay's thread of this process.
fn relay_thread() -> Result<Process> {
    let is_relay = |task: &PathBuf| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "relay")
    };
    let tasks = fs::read_dir(Path::new("/proc/self/task"))?;
    let found = tasks.flatten().map(|task| task.path()).find(is_relay);
    Ok(Process::at(found.context("no thread of a relay")?))
}
