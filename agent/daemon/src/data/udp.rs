//! UDP flows: a socket to the app at a connector, one socket for many clients at an agent.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::Bytes;
use cardea_proto::{app::Service, name::Name};
use cardea_tunnel::{FlowId, Input};
use mio::{Token, net::UdpSocket};

use super::flow::Carry;

/// Datagrams that one socket gives in one turn.
const TURN_DATAGRAMS: usize = 256;

/// Clients of one listener at a time; each holds a flow until it is idle.
const CLIENTS_MAX: usize = 4_096;

/// A connector's socket to an app, for one flow.
#[derive(Debug)]
pub(super) struct UdpTarget {
    pub(super) socket: UdpSocket,
    pub(super) token: Token,
    pub(super) readable: bool,
    pub(super) queued: bool,
}

/// Opens a socket that hears `to` alone.
pub(super) fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket)
}

impl UdpTarget {
    /// Hands what has arrived to the tunnel; whether there may be more.
    pub(super) fn pump(&mut self, id: FlowId, carry: &mut Carry) -> bool {
        for _ in 0..TURN_DATAGRAMS {
            if !self.readable {
                return false;
            }
            match self.socket.recv(&mut carry.scratch) {
                Ok(length) => {
                    let bytes = carry.scratch.get(..length).unwrap_or_default();
                    let bytes = Bytes::copy_from_slice(bytes);
                    carry.input(Input::Packet { flow: id, bytes });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                // The app's host says that nobody listens: that may change, and UDP has no reset.
                Err(error) => tracing::trace!(%error, "a target answered with an error"),
            }
        }
        self.readable
    }

    /// Sends a payload to the app; what the system does not take is lost, as datagrams are.
    pub(super) fn send(&self, bytes: &[u8]) {
        if let Err(error) = self.socket.send(bytes) {
            tracing::trace!(%error, "a datagram to a target was lost");
        }
    }
}

/// An agent's socket on which local programs reach an app.
#[derive(Debug)]
pub(super) struct UdpListener {
    pub(super) socket: UdpSocket,
    pub(super) token: Token,
    pub(super) app: Name,
    pub(super) service: Service,
    pub(super) readable: bool,
    clients: BTreeMap<SocketAddr, FlowId>,
}

/// A payload from a local program.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) client: SocketAddr,
    pub(super) bytes: Bytes,
    /// The flow that this client has, if it has one.
    pub(super) flow: Option<FlowId>,
}

impl UdpListener {
    pub(super) const fn new(socket: UdpSocket, token: Token, app: Name, service: Service) -> Self {
        Self {
            socket,
            token,
            app,
            service,
            readable: true,
            clients: BTreeMap::new(),
        }
    }

    /// What has arrived, a bounded amount.
    pub(super) fn receive(&mut self, scratch: &mut [u8]) -> Vec<Arrived> {
        let mut arrived = Vec::new();
        while self.readable && arrived.len() < TURN_DATAGRAMS {
            match self.socket.recv_from(scratch) {
                Ok((length, client)) => arrived.push(Arrived {
                    client,
                    bytes: Bytes::copy_from_slice(scratch.get(..length).unwrap_or_default()),
                    flow: self.clients.get(&client).copied(),
                }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) => tracing::trace!(%error, "a local client answered with an error"),
            }
        }
        arrived
    }

    /// A client has a flow from now on; false when there are too many clients.
    pub(super) fn join(&mut self, client: SocketAddr, flow: FlowId) -> bool {
        if self.clients.len() >= CLIENTS_MAX {
            return false;
        }
        self.clients.insert(client, flow);
        true
    }

    /// The flow that a client has.
    pub(super) fn flow_of(&self, client: SocketAddr) -> Option<FlowId> {
        self.clients.get(&client).copied()
    }

    pub(super) fn leave(&mut self, client: SocketAddr) {
        self.clients.remove(&client);
    }

    pub(super) fn send(&self, client: SocketAddr, bytes: &[u8]) {
        if let Err(error) = self.socket.send_to(bytes, client) {
            tracing::trace!(%error, "a datagram to a local client was lost");
        }
    }
}
