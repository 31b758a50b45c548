//! A UDP socket, and what waits until it takes more.

use std::{collections::VecDeque, io, net::SocketAddr};

use cardea_host::udp::{Received, UdpSocket};
use cardea_tunnel::Transmit;
use mio::Token;

use super::wiring::{Owner, Wiring};

/// Receive calls for one socket in one turn: at most two megabytes.
const RECEIVES_MAX: usize = 4;

/// Sends that wait for a full socket; the flush pauses long before.
const WAITING_MAX: usize = 1_024;

/// One socket of the loop.
#[derive(Debug)]
pub(super) struct Port {
    socket: UdpSocket,
    token: Token,
    readable: bool,
    /// The first `usize` bytes of the front are sent.
    waiting: VecDeque<(Transmit, usize)>,
}

impl Port {
    pub(super) fn new(
        mut socket: UdpSocket,
        owner: Owner,
        wiring: &mut Wiring,
    ) -> io::Result<Self> {
        let token = wiring.add(&mut socket, owner)?;
        Ok(Self {
            socket,
            token,
            readable: false,
            waiting: VecDeque::new(),
        })
    }

    pub(super) fn close(mut self, wiring: &mut Wiring) {
        wiring.remove(&mut self.socket, self.token);
    }

    pub(super) const fn local_address(&self) -> SocketAddr {
        self.socket.local_address()
    }

    /// It became ready.
    pub(super) fn ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        if writable {
            self.send_waiting();
        }
    }

    /// Hands over what has arrived, a bounded amount of it: who sent it, the size of each datagram but
    /// the last, and all their bytes.
    pub(super) fn receive(
        &mut self,
        received: &mut Received,
        mut take: impl FnMut(SocketAddr, usize, &[u8]),
    ) {
        for _ in 0..RECEIVES_MAX {
            if !self.readable {
                return;
            }
            match self.socket.receive(received) {
                Ok(_) => {
                    for (from, stride, bytes) in received.runs() {
                        take(from, stride, bytes);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                }
                // A peer that is gone makes its host answer so; another may take its place.
                Err(error) => tracing::trace!(%error, "nothing was received"),
            }
        }
    }

    /// Whether there is more to receive without waiting.
    pub(super) const fn wants_turn(&self) -> bool {
        self.readable
    }

    /// Whether it is full, so that nothing more should be produced for it.
    pub(super) fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends one datagram at once, or loses it.
    pub(super) fn say(&self, to: SocketAddr, datagram: &[u8]) {
        if let Err(error) = self.socket.send(to, None, datagram) {
            tracing::trace!(%error, "a datagram was not sent");
        }
    }

    /// Gives the transmit back when it is sent whole, or lost.
    pub(super) fn send(&mut self, transmit: Transmit) -> Option<Transmit> {
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
            tracing::debug!("datagrams were dropped: their socket is full");
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
