//! Which socket an event of the operating system is about.

use std::{collections::BTreeMap, io, net::SocketAddr};

use cardea_tunnel::FlowId;
use mio::{Interest, Registry, Token, event::Source};

use super::ListenerId;

/// What a registered socket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The socket for a relay.
    Relay(SocketAddr),
    /// The socket for direct paths of one family.
    Direct(Net),
    /// A listener.
    Listener(ListenerId),
    /// A client of SOCKS that has not said where it wants to go.
    Guest(u64),
    /// The datagrams of an association.
    Association(u64),
    /// The stream whose end is an association's.
    Tether(u64),
    /// The interface of the local network stack.
    Stack,
    /// What the kernel says of its network.
    Network,
    /// A flow.
    Flow(FlowId),
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Net {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The operating system's view of our sockets.
#[derive(Debug)]
pub(super) struct Wiring {
    registry: Registry,
    owners: BTreeMap<usize, Owner>,
    next: usize,
}

impl Wiring {
    /// Tokens begin after those that the loop uses itself.
    pub(super) const fn new(registry: Registry, first: usize) -> Self {
        Self {
            registry,
            owners: BTreeMap::new(),
            next: first,
        }
    }

    /// Registers a socket, for reading and writing, edge-triggered.
    pub(super) fn add(&mut self, socket: &mut impl Source, owner: Owner) -> io::Result<Token> {
        let token = Token(self.next);
        self.registry
            .register(socket, token, Interest::READABLE | Interest::WRITABLE)?;
        self.next += 1;
        self.owners.insert(token.0, owner);
        Ok(token)
    }

    /// The socket becomes somebody else's.
    pub(super) fn change(&mut self, token: Token, owner: Owner) {
        self.owners.insert(token.0, owner);
    }

    /// Forgets a socket that is closed next, which takes it from the system's list as well.
    pub(super) fn forget(&mut self, token: Token) {
        self.owners.remove(&token.0);
    }

    /// Forgets a socket that lives on.
    pub(super) fn remove(&mut self, socket: &mut impl Source, token: Token) {
        self.owners.remove(&token.0);
        if let Err(error) = self.registry.deregister(socket) {
            tracing::debug!(%error, "a socket could not be deregistered");
        }
    }

    pub(super) fn owner(&self, token: Token) -> Option<Owner> {
        self.owners.get(&token.0).copied()
    }
}
