//! The sockets to other ends: one for each relay, connected, so that no stranger's datagram comes in
//! there, and those for direct paths.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
};

use cardea_host::{
    addresses,
    udp::{Received, UdpSocket},
};
use cardea_tunnel::{Outbox, Via};

use super::{
    direct::Direct,
    port::Port,
    wiring::{Owner, Wiring},
};

/// All sockets of one end through which sealed datagrams pass.
#[derive(Debug)]
pub(super) struct Relays {
    sockets: BTreeMap<SocketAddr, Relay>,
    /// Relays to which there was no way when something was to be sent.
    unreached: BTreeSet<SocketAddr>,
    pub(super) direct: Direct,
    received: Received,
}

#[derive(Debug)]
struct Relay {
    port: Port,
    /// The address from which it sends; `None` while there is no way.
    source: Option<IpAddr>,
}

impl Relays {
    pub(super) fn new(direct: Direct) -> Self {
        Self {
            sockets: BTreeMap::new(),
            unreached: BTreeSet::new(),
            direct,
            received: Received::default(),
        }
    }

    /// A relay's socket became ready.
    pub(super) fn ready(&mut self, relay: SocketAddr, readable: bool, writable: bool) {
        if let Some(relay) = self.sockets.get_mut(&relay) {
            relay.port.ready(readable, writable);
        }
    }

    /// Hands over what has arrived, a bounded amount of it.
    pub(super) fn receive(&mut self, mut take: impl FnMut(SocketAddr, Via, &[u8])) {
        let received = &mut self.received;
        for (address, relay) in &mut self.sockets {
            let take = |_, datagram: &[u8]| take(*address, Via::Relay, datagram);
            relay.port.receive(received, take);
        }
        let take = |from, datagram: &[u8]| take(from, Via::Direct, datagram);
        self.direct.receive(received, take);
    }

    /// Whether there is more to receive without waiting.
    pub(super) fn wants_turn(&self) -> bool {
        self.direct.wants_turn() || self.sockets.values().any(|relay| relay.port.wants_turn())
    }

    /// Whether a socket is full, so that nothing more should be produced for it.
    pub(super) fn is_full(&self) -> bool {
        self.direct.is_full() || self.sockets.values().any(|relay| relay.port.is_full())
    }

    /// Sends all that stands in the outbox, or keeps it until its socket takes it.
    pub(super) fn send(&mut self, wiring: &mut Wiring, out: &mut Outbox) {
        while let Some(transmit) = out.transmits.pop_front() {
            let sent = match transmit.via {
                Via::Direct => self.direct.send(transmit),
                Via::Relay => match self.get(wiring, transmit.to) {
                    Ok(relay) => relay.port.send(transmit),
                    Err(error) => {
                        tracing::debug!(%error, "no socket for a relay");
                        None
                    }
                },
            };
            if let Some(sent) = sent {
                out.recycle(sent);
            }
        }
    }

    /// Opens anew every socket whose source address is no longer the one that routes give, or that
    /// had no way for a while.
    ///
    /// Says whether there was one, or one that has no way any more: the relays must then learn where
    /// we are, or another of their addresses is tried.
    pub(super) fn follow_routes(&mut self, wiring: &mut Wiring) -> bool {
        let (mut moved, mut is_lost) = (Vec::new(), false);
        for (address, relay) in &mut self.sockets {
            let source = addresses::source_for(*address).ok();
            if source.is_some() && source != relay.source {
                moved.push(*address);
            }
            is_lost |= source.is_none() && relay.source.is_some();
            relay.source = source;
        }
        for address in &moved {
            if let Some(relay) = self.sockets.remove(address) {
                relay.port.close(wiring);
            }
        }
        let before = self.unreached.len();
        self.unreached
            .retain(|address| addresses::source_for(*address).is_err());
        is_lost || !moved.is_empty() || self.unreached.len() < before
    }

    fn get(&mut self, wiring: &mut Wiring, address: SocketAddr) -> io::Result<&mut Relay> {
        use std::collections::btree_map::Entry;
        match self.sockets.entry(address) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let socket = UdpSocket::connect(address).inspect_err(|_| {
                    self.unreached.insert(address);
                })?;
                Ok(entry.insert(Relay {
                    port: Port::new(socket, Owner::Relay(address), wiring)?,
                    source: addresses::source_for(address).ok(),
                }))
            }
        }
    }
}
