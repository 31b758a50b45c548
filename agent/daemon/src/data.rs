//! The data half: one thread and one loop that own every socket through which users' bytes pass.
//!
//! ```text
//! control half ── ToData (bounded, wakes) ──▶ Plane ── FromData (bounded, never waits) ──▶ control half
//!                                              │
//!      local listeners, streams, UDP ◀── pump ─┼─ Tunnels ── Transmit ─▶ relay sockets
//!                        the app's sockets ◀───┘
//! ```
//!
//! Each turn runs to completion: commands first, so that what is withdrawn is gone before another
//! byte is looked at; then what arrived; then what local sockets have and take, a bounded amount of
//! each; then one flush.

mod associate;
pub(crate) mod back;
mod connector;
mod detour;
mod direct;
mod ends;
mod flow;
mod flows;
pub(crate) mod front;
mod guests;
mod listen;
mod oversized;
mod plane;
mod port;
mod relays;
mod resolver;
mod routes;
mod shapes;
pub mod socks;
pub(crate) mod stack;
mod tcp;
mod timers;
mod told;
mod udp;
mod way;
mod wiring;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        mpsc::{self, SyncSender, TrySendError},
    },
    thread::JoinHandle,
};

use cardea_host::clock::Clock;
use cardea_proto::{app::Service, id::GrantId, message::AppView, name::Name, refusal::Refusal};
use cardea_tunnel::{Command, End, Event};
use tokio::sync::{mpsc as queue, oneshot};

pub use self::{detour::Fronts, direct::DirectSettings};
use self::{plane::Plane, stack::Interface};
use crate::virtual_addresses::Both;

/// Commands that wait for the data half's next turn. It takes all of them in every turn.
const COMMANDS_MAX: usize = 4_096;

/// Events that wait for the control half.
const EVENTS_MAX: usize = 4_096;

/// Names a local listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u64);

/// What a local listener is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serves {
    /// One port of one app.
    App {
        /// The app.
        app: Name,
        /// Its port.
        service: Service,
    },
    /// SOCKS5, whose destinations are names of apps.
    Socks,
}

/// What the control half tells the data half.
#[derive(Debug)]
pub enum ToData {
    /// A change of what may pass.
    Tunnel(Command),
    /// Where a controller is, as its name was resolved.
    Controller(IpAddr),
    /// What detours need, from now on.
    Fronts(Box<Fronts>),
    /// Listens on this machine.
    Listen {
        /// The new listener.
        listener: ListenerId,
        /// What for.
        serves: Serves,
        /// Where; port 0 takes any.
        at: SocketAddr,
        /// Where it listens, or why it does not.
        reply: oneshot::Sender<io::Result<SocketAddr>>,
    },
    /// Ends a listener and every flow that came in through it.
    Unlisten(ListenerId),
    /// The apps that this device may know of, for SOCKS.
    Apps(Vec<AppView>),
    /// The addresses of apps and hosts at the network interface, all of them; then
    /// [`FromData::Addressed`] with this number.
    Addresses(BTreeMap<Name, Both>, u64),
    /// An app is open: whoever waits for it goes ahead.
    Opened {
        /// The app.
        app: Name,
        /// The grant.
        grant: GrantId,
    },
    /// An app cannot be opened: whoever waits for it is told.
    Denied {
        /// The app.
        app: Name,
        /// Why.
        refusal: Refusal,
    },
    /// Finds out which tunnels carry anything, tells the figures of all, then
    /// [`FromData::Figures`] with this number.
    Figures(u64),
    /// [`FromData::Pulse`], to show that it works.
    Pulse,
    /// The program ends.
    Stop,
}

/// What the data half tells the control half.
#[derive(Debug)]
pub enum FromData {
    /// What happened to a tunnel.
    Tunnel(Event),
    /// Where this machine may be reached directly, from now on.
    Addresses(Vec<SocketAddr>),
    /// This machine's network changed.
    Moved,
    /// Somebody connected to a listener, and the app has no tunnel.
    Wanted(Name),
    /// The data half works.
    Pulse,
    /// Packets to the addresses of this number go to their apps.
    Addressed(u64),
    /// The figures that were asked for with this number have all been told.
    Figures(u64),
    /// Somebody connected to a listener, and nothing came of it.
    Refused {
        /// The listener.
        listener: ListenerId,
        /// Why.
        refusal: Refusal,
    },
}

/// The control half's end of the data half.
#[derive(Debug)]
pub struct Data {
    commands: SyncSender<ToData>,
    waker: Arc<mio::Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Data {
    /// Starts the data half on a thread of its own.
    ///
    /// # Errors
    /// As the system says, when there is no thread or no poll to be had.
    pub fn start(
        end: End,
        clock: Clock,
        entropy: [u8; 32],
        direct: DirectSettings,
    ) -> io::Result<(Self, queue::Receiver<FromData>)> {
        Self::start_with((end, None), clock, entropy, direct)
    }

    /// The same with a network interface.
    pub(crate) fn start_with(
        (end, interface): (End, Option<Interface>),
        clock: Clock,
        entropy: [u8; 32],
        direct: DirectSettings,
    ) -> io::Result<(Self, queue::Receiver<FromData>)> {
        let (commands, waiting) = mpsc::sync_channel(COMMANDS_MAX);
        let (events, told) = queue::channel(EVENTS_MAX);
        let (plane, waker) = Plane::new((end, direct, interface), clock, entropy, waiting, events)?;
        let thread = std::thread::Builder::new()
            .name("data".to_owned())
            .spawn(move || plane.run())?;
        let data = Self {
            commands,
            waker,
            thread: Some(thread),
        };
        Ok((data, told))
    }

    /// Hands over a command, which is carried out within the data half's next turn.
    ///
    /// Waits only when thousands of commands are ahead of this one; the data half never waits for
    /// the control half, so that wait ends.
    pub fn send(&self, command: ToData) {
        let command = match self.commands.try_send(command) {
            Ok(()) => return self.wake(),
            Err(TrySendError::Full(command)) => command,
            Err(TrySendError::Disconnected(_)) => return,
        };
        self.wake();
        if self.commands.send(command).is_ok() {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::warn!(%error, "the data half could not be woken");
        }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        self.send(ToData::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the data half panicked");
        }
    }
}

#[cfg(test)]
mod tests;
