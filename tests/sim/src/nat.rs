//! NATs: what others see of a node's socket for direct paths, and what they can send there.
//!
//! Source: RFC 4787 §4 and §5.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use crate::dice::Dice;

/// How a NAT maps and filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The host has its address for all.
    Open,
    /// One port for the socket, open to everybody.
    FullCone,
    /// One port, open to addresses that it has sent to.
    Restricted,
    /// One port, open to sockets that it has sent to.
    PortRestricted,
    /// A port for each socket that it sends to, open to that one.
    Symmetric,
}

const KINDS: [Kind; 5] = [
    Kind::Open,
    Kind::FullCone,
    Kind::Restricted,
    Kind::PortRestricted,
    Kind::Symmetric,
];

/// One NAT with one node behind it.
#[derive(Debug)]
pub(crate) struct Nat {
    kind: Kind,
    /// The address that the node itself knows.
    host: SocketAddr,
    public: IpAddr,
    ports: BTreeMap<Option<SocketAddr>, u16>,
    sent: BTreeSet<(u16, SocketAddr)>,
    next_port: u16,
}

impl Nat {
    /// A NAT of any kind before `private`, whose outside is `public`.
    pub(crate) fn new(dice: &mut Dice, private: IpAddr, public: IpAddr) -> Self {
        let kind = dice.pick(&KINDS).copied().unwrap_or(Kind::Open);
        let inside = if kind == Kind::Open { public } else { private };
        Self {
            kind,
            host: SocketAddr::new(inside, HOST_PORT),
            public,
            ports: BTreeMap::new(),
            sent: BTreeSet::new(),
            next_port: FIRST_PORT,
        }
    }

    pub(crate) const fn host(&self) -> SocketAddr {
        self.host
    }

    /// The source of a datagram to `to`, as others see it.
    pub(crate) fn outbound(&mut self, to: SocketAddr) -> SocketAddr {
        if self.kind == Kind::Open {
            return self.host;
        }
        let key = (self.kind == Kind::Symmetric).then_some(to);
        let next_port = &mut self.next_port;
        let port = *self.ports.entry(key).or_insert_with(|| {
            *next_port = next_port.wrapping_add(7).max(FIRST_PORT);
            *next_port
        });
        self.sent.insert((port, to));
        SocketAddr::new(self.public, port)
    }

    /// Every address of its outside for the socket.
    pub(crate) fn outside(&self) -> impl Iterator<Item = SocketAddr> {
        let ports = self.ports.values();
        let mapped = ports.map(|port| SocketAddr::new(self.public, *port));
        let own = (self.kind == Kind::Open).then_some(self.host);
        own.into_iter().chain(mapped)
    }

    /// Whether this is an address of its outside for the socket.
    pub(crate) fn holds(&self, to: SocketAddr) -> bool {
        if self.kind == Kind::Open {
            return to == self.host;
        }
        to.ip() == self.public && self.ports.values().any(|port| *port == to.port())
    }

    /// Whether a datagram from `from` to `to` comes to the node.
    pub(crate) fn admits(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let mut sent = self.sent.iter().filter(|(port, _)| *port == to.port());
        self.holds(to)
            && match self.kind {
                Kind::Open | Kind::FullCone => true,
                Kind::Restricted => sent.any(|(_, peer)| peer.ip() == from.ip()),
                Kind::PortRestricted | Kind::Symmetric => sent.any(|(_, peer)| *peer == from),
            }
    }

    /// Forgets every mapping, as a NAT that starts again.
    pub(crate) fn forget(&mut self) {
        self.ports.clear();
        self.sent.clear();
    }
}

/// The port of a node's socket for direct paths.
const HOST_PORT: u16 = 4_711;

/// Where mappings begin: none is that of a node's way to the relay.
const FIRST_PORT: u16 = 50_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_lets_in_whom_it_should() {
        let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let (same_host, other) = (
            "192.0.2.1:2".parse().unwrap(),
            "192.0.2.2:1".parse().unwrap(),
        );
        for (kind, expected) in [
            (Kind::FullCone, [true, true, true]),
            (Kind::Restricted, [true, true, false]),
            (Kind::PortRestricted, [true, false, false]),
            (Kind::Symmetric, [true, false, false]),
        ] {
            let mut nat = nat(kind);
            let seen = nat.outbound(peer);
            let found = [peer, same_host, other].map(|from| nat.admits(from, seen));
            assert_eq!(found, expected, "{kind:?}");
            assert_eq!(nat.outbound(other) == seen, kind != Kind::Symmetric);
            nat.forget();
            assert!(!nat.admits(peer, seen));
        }
    }

    fn nat(kind: Kind) -> Nat {
        let (private, public) = ("10.0.0.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
        Nat {
            kind,
            ..Nat::new(&mut Dice::new(1, "nat"), private, public)
        }
    }
}
