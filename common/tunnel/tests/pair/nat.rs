//! NATs as RFC 4787 sorts them, and the network between two of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// How a NAT maps and filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is none: the host has its address for all.
    Open,
    /// One port for one socket, open to everybody.
    FullCone,
    /// One port for one socket, open to addresses that it has sent to.
    Restricted,
    /// One port for one socket, open to sockets that it has sent to.
    PortRestricted,
    /// A port for each socket that it sends to, open to that one.
    Symmetric,
}

pub const KINDS: [Kind; 5] = [
    Kind::Open,
    Kind::FullCone,
    Kind::Restricted,
    Kind::PortRestricted,
    Kind::Symmetric,
];

/// One NAT with one host behind it.
#[derive(Debug)]
pub struct Nat {
    pub kind: Kind,
    pub host: SocketAddr,
    public: IpAddr,
    ports: BTreeMap<Option<SocketAddr>, u16>,
    sent: BTreeSet<(u16, SocketAddr)>,
    next_port: u16,
}

impl Nat {
    pub fn new(kind: Kind, host: SocketAddr, public: IpAddr) -> Self {
        Self {
            kind,
            host,
            public: if kind == Kind::Open {
                host.ip()
            } else {
                public
            },
            ports: BTreeMap::new(),
            sent: BTreeSet::new(),
            next_port: 20_000,
        }
    }

    /// The source of a datagram to `to`, as others see it.
    pub fn outbound(&mut self, to: SocketAddr) -> SocketAddr {
        if self.kind == Kind::Open {
            return self.host;
        }
        let key = (self.kind == Kind::Symmetric).then_some(to);
        let next_port = &mut self.next_port;
        let port = *self.ports.entry(key).or_insert_with(|| {
            *next_port += 7;
            *next_port
        });
        self.sent.insert((port, to));
        SocketAddr::new(self.public, port)
    }

    /// Whether a datagram from `from` to `to` comes to the host.
    pub fn inbound(&self, from: SocketAddr, to: SocketAddr) -> bool {
        if to.ip() != self.public {
            return false;
        }
        let mut sent = self.sent.iter().filter(|(port, _)| *port == to.port());
        match self.kind {
            Kind::Open => to == self.host,
            Kind::FullCone => sent.next().is_some(),
            Kind::Restricted => sent.any(|(_, peer)| peer.ip() == from.ip()),
            Kind::PortRestricted | Kind::Symmetric => sent.any(|(_, peer)| *peer == from),
        }
    }

    /// Another network: nothing that was mapped holds.
    pub fn forget(&mut self) {
        self.ports.clear();
        self.sent.clear();
        self.next_port += 1_000;
    }
}
