//! The sockets to relays: one for each relay, connected, so that no stranger's datagram comes in.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
};

use cardea_host::{
    addresses,
    udp::{Received, UdpSocket},
};
use cardea_tunnel::{Outbox, Transmit};
use mio::Token;

use super::wiring::{Owner, Wiring};

/// Receive calls for one socket in one turn: at most two megabytes.
const RECEIVES_MAX: usize = 4;

/// Sends that wait for a full socket; the flush pauses long before.
const WAITING_MAX: usize = 1_024;

/// All relay sockets of one end.
#[derive(Debug, Default)]
pub(super) struct Relays {
    sockets: BTreeMap<SocketAddr, Relay>,
    received: Received,
}

#[derive(Debug)]
struct Relay {
    socket: UdpSocket,
    token: Token,
    source: Option<IpAddr>,
    readable: bool,
    /// The first `usize` bytes of the front are sent.
    waiting: VecDeque<(Transmit, usize)>,
}

impl Relays {
    /// A socket became ready.
    pub(super) fn ready(&mut self, relay: SocketAddr, readable: bool, writable: bool) {
        if let Some(relay) = self.sockets.get_mut(&relay) {
            relay.readable |= readable;
            if writable {
                relay.send_waiting();
            }
        }
    }

    /// Hands over what has arrived, a bounded amount of it.
    pub(super) fn receive(&mut self, mut take: impl FnMut(SocketAddr, &[u8])) {
        let received = &mut self.received;
        for (address, relay) in &mut self.sockets {
            for _ in 0..RECEIVES_MAX {
                if !relay.readable {
                    break;
                }
                match relay.socket.receive(received) {
                    Ok(_) => {
                        for (_, datagram) in received.datagrams() {
                            take(*address, datagram);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        relay.readable = false;
                    }
                    // A relay that is gone makes its host answer so; another may take its place.
                    Err(error) => tracing::trace!(%error, "nothing was received from a relay"),
                }
            }
        }
    }

    /// Whether there is more to receive without waiting.
    pub(super) fn wants_turn(&self) -> bool {
        self.sockets.values().any(|relay| relay.readable)
    }

    /// Whether a socket is full, so that nothing more should be produced for it.
    pub(super) fn is_full(&self) -> bool {
        self.sockets.values().any(|relay| !relay.waiting.is_empty())
    }

    /// Sends all that stands in the outbox, or keeps it until its socket takes it.
    pub(super) fn send(&mut self, wiring: &mut Wiring, out: &mut Outbox) {
        while let Some(transmit) = out.transmits.pop_front() {
            match self.get(wiring, transmit.to) {
                Ok(relay) => {
                    if let Some(sent) = relay.send(transmit) {
                        out.recycle(sent);
                    }
                }
                Err(error) => tracing::debug!(%error, "no socket for a relay"),
            }
        }
    }

    /// Opens anew every socket whose source address is no longer the one that routes give.
    ///
    /// Says whether there was one: the relays must then learn where we are.
    pub(super) fn follow_routes(&mut self, wiring: &mut Wiring) -> bool {
        let moved: Vec<SocketAddr> = self
            .sockets
            .iter()
            .filter(|(address, relay)| {
                let source = addresses::source_for(**address).ok();
                source.is_some() && source != relay.source
            })
            .map(|(address, _)| *address)
            .collect();
        for address in &moved {
            if let Some(mut relay) = self.sockets.remove(address) {
                wiring.remove(&mut relay.socket, relay.token);
            }
        }
        !moved.is_empty()
    }

    fn get(&mut self, wiring: &mut Wiring, address: SocketAddr) -> io::Result<&mut Relay> {
        use std::collections::btree_map::Entry;
        match self.sockets.entry(address) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let mut socket = UdpSocket::connect(address)?;
                let token = wiring.add(&mut socket, Owner::Relay(address))?;
                Ok(entry.insert(Relay {
                    source: addresses::source_for(address).ok(),
                    socket,
                    token,
                    readable: false,
                    waiting: VecDeque::new(),
                }))
            }
        }
    }
}

impl Relay {
    /// Gives the transmit back when it is sent whole, or lost.
    fn send(&mut self, transmit: Transmit) -> Option<Transmit> {
        if self.waiting.is_empty() {
            match self
                .socket
                .send(transmit.to, transmit.segment, &transmit.bytes)
            {
                Ok(sent) if sent >= transmit.bytes.len() => return Some(transmit),
                Ok(sent) => self.waiting.push_back((transmit, sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.waiting.push_back((transmit, 0));
                }
                Err(_) => return Some(transmit),
            }
            return None;
        }
        if self.waiting.len() >= WAITING_MAX {
            tracing::debug!("datagrams for a relay were dropped: its socket is full");
            return Some(transmit);
        }
        self.waiting.push_back((transmit, 0));
        None
    }

    fn send_waiting(&mut self) {
        while let Some((transmit, done)) = self.waiting.front_mut() {
            let rest = transmit.bytes.get(*done..).unwrap_or_default();
            match self.socket.send(transmit.to, transmit.segment, rest) {
                Ok(sent) if sent < rest.len() => {
                    *done += sent;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {
                    self.waiting.pop_front();
                }
            }
        }
    }
}
