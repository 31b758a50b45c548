//! The relay as a program: one socket, one loop, no state on disk.
//!
//! [`Server`] is what `cardea-relay` runs, and what a controller runs on a thread of its own when
//! it carries the relay. The loop reads in batches, lets [`cardea_relay::Relay`] decide and rewrite
//! in place, and sends neighbors to the same destination in one call.
#![forbid(unsafe_code)]

pub mod config;
mod detours;
mod forward;
pub mod front;
mod shapes;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, Waker};

use cardea_host::{
    clock::Clock,
    detour::Detours,
    entropy,
    supervisor::Supervisor,
    udp::{Received, UdpSocket},
};
use cardea_proto::time::Now;
use cardea_relay::{Counters, Relay, Settings};

pub use self::detours::Arrivals;
use self::{
    detours::Behind,
    forward::{Forwarder, Sink},
};

/// A relay that is bound to its port and does not serve yet.
#[derive(Debug)]
pub struct Server {
    socket: UdpSocket,
    poll: Poll,
    relay: Relay,
    forwarder: Forwarder,
    behind: Option<Behind>,
    unheard: Unheard,
    control: Control,
}

/// Stops a server from another thread, and shows what it did.
#[derive(Clone, Debug)]
pub struct Control {
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    published: Arc<Mutex<Report>>,
}

/// What a server did so far, at most [`PUBLISH_EVERY`] ago.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Ends that are bound.
    pub ends: usize,
    /// What the relay decided.
    pub counters: Counters,
    /// Datagrams that the network did not take.
    pub unsent: u64,
    /// Datagrams that the kernel dropped before the relay heard them: by their shape, or because those
    /// before were not read yet. It counts both in one, and those that it had coalesced once.
    pub unheard: u64,
}

/// Adds up what the kernel counts modulo 2³².
#[derive(Debug, Default)]
struct Unheard {
    total: u64,
    before: u32,
}

/// A server on a thread of its own; dropping it stops the server.
#[derive(Debug)]
pub struct Running {
    control: Control,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Binds to `listen` (port 0 takes any) for tickets under the public key `ticket_key`.
    ///
    /// # Errors
    /// As the system says, `AddrInUse` among others.
    pub fn bind(listen: SocketAddr, ticket_key: [u8; 32], settings: Settings) -> io::Result<Self> {
        let mut socket = UdpSocket::bind(listen)?.behind(&shapes::shapes());
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut socket, SOCKET, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok(Self {
            socket,
            poll,
            relay: Relay::new(ticket_key, entropy::seed(), settings),
            forwarder: Forwarder::default(),
            behind: None,
            unheard: Unheard::default(),
            control: Control {
                waker: Arc::new(waker),
                stop: Arc::new(AtomicBool::new(false)),
                published: Arc::default(),
            },
        })
    }

    /// Serves detours as well; says where their front gives datagrams.
    pub fn serve_behind(&mut self, detours: Detours) -> Arrivals {
        let (behind, arrivals) = Behind::new(detours, Arc::clone(&self.control.waker));
        self.behind = Some(behind);
        arrivals
    }

    /// Leaves everything to the relay, as where the kernel has no sieve.
    #[cfg(test)]
    fn without_sieve(&self) -> io::Result<()> {
        self.socket.without_sieve()
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_address(&self) -> SocketAddr {
        self.socket.local_address()
    }

    /// What stops it and shows its counters.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Serves on a thread of its own, which drops `held` when it ends, however it ends: the other
    /// half of a channel tells of it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(self, held: impl Send + 'static) -> io::Result<Running> {
        let control = self.control();
        let thread = std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || {
                let _held = held;
                self.serve()
            })?;
        Ok(Running {
            control,
            thread: Some(thread),
        })
    }

    /// Serves until [`Control::stop`].
    ///
    /// # Errors
    /// When the system no longer lets it wait or receive. No datagram ends it.
    pub fn serve(self) -> io::Result<()> {
        self.serve_for(Supervisor::default())
    }

    /// The same for whoever watches this program.
    ///
    /// # Errors
    /// As [`Server::serve`].
    pub fn serve_for(mut self, mut supervisor: Supervisor) -> io::Result<()> {
        tracing::info!(listen = %self.local_address(), "relay is listening");
        let clock = Clock::system();
        let mut events = Events::with_capacity(8);
        let mut batch = Received::default();
        let mut publish_at = clock.now().instant;
        let mut more = false;
        supervisor.ready();
        loop {
            if supervisor.is_due(clock.now().instant) {
                supervisor.alive();
            }
            let timeout = if more {
                Some(Duration::ZERO)
            } else {
                let deadlines = [self.relay.deadline(), supervisor.deadline()];
                let next = deadlines.into_iter().flatten().min();
                next.map(|at| clock.until(at))
            };
            wait(&mut self.poll, &mut events, timeout)?;
            if self.control.stop.load(Ordering::Relaxed) {
                supervisor.stopping();
                self.publish();
                return Ok(());
            }
            let now = clock.now();
            self.relay.expire(now);
            let has_arrivals = self.take_arrivals(now);
            more = self.turn(now, &mut batch)? || has_arrivals;
            if now.instant >= publish_at {
                self.publish();
                publish_at = now.instant + PUBLISH_EVERY;
            }
        }
    }

    /// Reads at most [`TURN_RECEIVES`] batches; `true` when the socket may hold more.
    fn turn(&mut self, now: Now, batch: &mut Received) -> io::Result<bool> {
        let sink = SocketSink::new(&self.socket, self.behind.as_ref());
        let mut failures = 0;
        for _ in 0..TURN_RECEIVES {
            match self.socket.receive(batch) {
                Ok(_) => {
                    for (from, stride, bytes) in batch.runs() {
                        self.forwarder
                            .take(&mut self.relay, now, from, stride, bytes, &sink);
                    }
                    self.forwarder.flush(&sink);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if failures < RECEIVE_FAILURES_MAX => {
                    // What an earlier send met, such as an unreachable port, is reported here.
                    tracing::debug!(%error, "a receive call failed");
                    failures += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Passes what came by detours, a bounded amount; `true` when there may be more.
    fn take_arrivals(&mut self, now: Now) -> bool {
        let Some(behind) = &self.behind else {
            return false;
        };
        let sink = SocketSink::new(&self.socket, Some(behind));
        let (relay, forwarder) = (&mut self.relay, &mut self.forwarder);
        let is_empty = behind.take(|from, datagram| {
            forwarder.take(relay, now, from, datagram.len(), datagram, &sink);
        });
        forwarder.flush(&sink);
        !is_empty
    }

    fn publish(&mut self) {
        if let Ok(dropped) = self.socket.dropped() {
            self.unheard.note(dropped);
        }
        let report = Report {
            ends: self.relay.ends(),
            counters: self.relay.counters().clone(),
            unsent: self.forwarder.unsent(),
            unheard: self.unheard.total,
        };
        let mut published = self
            .control
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *published != report {
            tracing::debug!(
                ends = report.ends,
                forwarded = report.counters.forwarded,
                bytes = report.counters.forwarded_bytes,
                bound = report.counters.bound,
                dropped = ?report.counters.dropped,
                unsent = report.unsent,
                unheard = report.unheard,
                "relay traffic"
            );
            *published = report;
        }
    }
}

impl Unheard {
    fn note(&mut self, dropped: u32) {
        self.total += u64::from(dropped.wrapping_sub(self.before));
        self.before = dropped;
    }
}

impl Control {
    /// Makes [`Server::serve`] return.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Err(error) = self.waker.wake() {
            tracing::warn!(%error, "the relay could not be woken up to stop");
        }
    }

    /// What the server did so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Running {
    /// What shows its counters.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Stops the server and waits for it.
    ///
    /// # Errors
    /// What [`Server::serve`] ended with.
    pub fn stop(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.control.stop();
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the relay's thread panicked")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!(%error, "relay ended");
        }
    }
}

/// Sends through the relay's one socket, and by detours.
struct SocketSink<'a> {
    socket: &'a UdpSocket,
    behind: Option<&'a Behind>,
}

impl<'a> SocketSink<'a> {
    const fn new(socket: &'a UdpSocket, behind: Option<&'a Behind>) -> Self {
        Self { socket, behind }
    }
}

impl Sink for SocketSink<'_> {
    fn send(&self, to: SocketAddr, segment: Option<usize>, bytes: &[u8]) -> usize {
        if Detours::is_detour(to) {
            if let Some(behind) = self.behind {
                behind.send(to, segment, bytes);
            }
            return bytes.len();
        }
        let to = reachable(to, self.socket.local_address());
        match self.socket.send(to, segment, bytes) {
            Ok(done) => done,
            // A full socket: a relay that queued here would only add delay to loss.
            Err(error) => {
                tracing::trace!(%error, "a datagram was not sent");
                0
            }
        }
    }
}

/// `to` as a socket bound to `local` must call it: a dual-stack one wants IPv4 mapped into IPv6.
fn reachable(to: SocketAddr, local: SocketAddr) -> SocketAddr {
    match (to, local) {
        (SocketAddr::V4(to), SocketAddr::V6(_)) => {
            SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port())
        }
        (SocketAddr::V4(_) | SocketAddr::V6(_), _) => to,
    }
}

fn wait(poll: &mut Poll, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// How often counters are published and, where they changed, logged.
pub const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// Receive calls in one turn before timers are looked at again: at most 16 MiB of datagrams.
const TURN_RECEIVES: usize = 32;

/// Failing receive calls in one turn before the socket is given up.
const RECEIVE_FAILURES_MAX: u32 = 16;

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

#[cfg(test)]
mod tests;
