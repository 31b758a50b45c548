//! The sockets for direct paths: one of each family for all tunnels, open to everybody.
//!
//! Nobody gets an answer there who does not have a tunnel's keys: what does not open under them is
//! dropped in silence, and nothing is sent to an address because a datagram came from it unless that
//! datagram was authentic.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use cardea_host::{
    addresses,
    udp::{Received, UdpSocket},
};
use cardea_tunnel::{Transmit, is_reachable};

use super::{
    port::Port,
    shapes,
    wiring::{Net, Owner, Wiring},
};

/// Whether and where direct paths are sought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectSettings {
    /// Everything goes through relays.
    pub relay_only: bool,
    /// The port of the sockets; zero takes any.
    pub port: u16,
    /// Where a person knows this end to be reached, as when a router forwards a port.
    pub candidates: Vec<SocketAddr>,
}

/// Both sockets, those that there are.
#[derive(Debug)]
pub(super) struct Direct {
    v4: Option<Port>,
    v6: Option<Port>,
    candidates: Vec<SocketAddr>,
    /// What was told last.
    addresses: Vec<SocketAddr>,
}

impl Direct {
    pub(super) fn open(settings: DirectSettings, wiring: &mut Wiring) -> Self {
        let mut open = |net, local: SocketAddr| {
            let port = UdpSocket::bind_one_family(local)
                .map(|socket| socket.behind(&shapes::direct()))
                .and_then(|socket| Port::new(socket, Owner::Direct(net), wiring));
            port.inspect_err(|error| tracing::info!(%error, %local, "no socket for direct paths"))
                .ok()
        };
        let (mut v4, mut v6) = (None, None);
        if !settings.relay_only {
            v4 = open(Net::V4, (Ipv4Addr::UNSPECIFIED, settings.port).into());
            v6 = open(Net::V6, (Ipv6Addr::UNSPECIFIED, settings.port).into());
        }
        Self {
            v4,
            v6,
            candidates: settings.candidates,
            addresses: Vec::new(),
        }
    }

    /// Where this machine may be reached, when that is another place than the last time.
    pub(super) fn moved(&mut self) -> Option<Vec<SocketAddr>> {
        if self.v4.is_none() && self.v6.is_none() {
            return None;
        }
        let own = addresses::own();
        let port_of = |port: &Option<Port>| port.as_ref().map(|port| port.local_address().port());
        let (v4, v6) = (port_of(&self.v4), port_of(&self.v6));
        let hosts = own.into_iter().filter(|ip| is_reachable(*ip));
        let hosts = hosts.filter_map(|ip| {
            let port = if ip.is_ipv4() { v4 } else { v6 };
            port.map(|port| SocketAddr::new(ip, port))
        });
        let found: Vec<SocketAddr> = self.candidates.iter().copied().chain(hosts).collect();
        if found == self.addresses {
            return None;
        }
        self.addresses.clone_from(&found);
        Some(found)
    }

    /// A socket became ready.
    pub(super) fn ready(&mut self, net: Net, readable: bool, writable: bool) {
        if let Some(port) = self.port_mut(net) {
            port.ready(readable, writable);
        }
    }

    /// Hands over what has arrived, a bounded amount of it, as a [`Port`] does.
    pub(super) fn receive(
        &mut self,
        received: &mut Received,
        mut take: impl FnMut(SocketAddr, usize, &[u8]),
    ) {
        for port in self.ports_mut() {
            port.receive(received, &mut take);
        }
    }

    /// Whether there is more to receive without waiting.
    pub(super) fn wants_turn(&self) -> bool {
        self.ports().any(Port::wants_turn)
    }

    /// Whether a socket is full, so that nothing more should be produced for it.
    pub(super) fn is_full(&self) -> bool {
        self.ports().any(Port::is_full)
    }

    /// Gives the transmit back when it is sent whole, or lost.
    pub(super) fn send(&mut self, transmit: Transmit) -> Option<Transmit> {
        let net = if transmit.to.is_ipv4() {
            Net::V4
        } else {
            Net::V6
        };
        match self.port_mut(net) {
            Some(port) => port.send(transmit),
            None => Some(transmit),
        }
    }

    const fn port_mut(&mut self, net: Net) -> Option<&mut Port> {
        match net {
            Net::V4 => self.v4.as_mut(),
            Net::V6 => self.v6.as_mut(),
        }
    }

    fn ports(&self) -> impl Iterator<Item = &Port> {
        self.v4.iter().chain(&self.v6)
    }

    fn ports_mut(&mut self) -> impl Iterator<Item = &mut Port> {
        self.v4.iter_mut().chain(&mut self.v6)
    }
}
