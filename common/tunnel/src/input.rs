//! What reaches the data half from outside: commands, datagrams, and the shell's sockets.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use cardea_proto::{app::Service, id::GrantId, relay::DATA_HEADER_BYTES};

use crate::{bundle::Bundle, command::Command, outbox::Via, wireguard::session_front};

/// Names one conversation within a [`crate::Tunnels`].
///
/// At an agent the shell chooses it, and never the same one twice; at a connector the tunnels do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

/// One thing that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The control half changes what may pass.
    Command(Command),
    /// A datagram from the network, as it was received.
    Datagram {
        /// Who sent it. Of the relay's socket, anyone but the relay is ignored.
        from: SocketAddr,
        /// Through which socket it came.
        via: Via,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// Datagrams from the network that one receive call brought from one sender: the same as each of
    /// them in turn, and less work.
    Datagrams {
        /// Who sent them.
        from: SocketAddr,
        /// Through which socket they came.
        via: Via,
        /// Bytes of each but the last, which may be shorter.
        stride: usize,
        /// Their payloads, back to back.
        bytes: &'a [u8],
    },
    /// [`crate::Tunnels::deadline`] has come.
    Timeout,
    /// The addresses of the socket for direct paths, from now on; there is one from the first time.
    Addresses(Vec<SocketAddr>),
    /// Where a controller is: tunnels installed from here on probe it never, whoever names it.
    Controller(IpAddr),
    /// Somebody wants to know which tunnels carry anything: see [`crate::Tunnels::is_checking`].
    Check,
    /// The local network changed: every relay must learn our new address at once.
    Roamed,
    /// A relay is reached by a detour from now on, or by UDP again: it must learn our new address.
    Detoured {
        /// The relay.
        relay: SocketAddr,
        /// Whether the detour is in use.
        is_used: bool,
    },
    /// Agent: somebody wants to reach a port of an app.
    OpenFlow {
        /// The flow's name from now on.
        flow: FlowId,
        /// Through which tunnel.
        grant: GrantId,
        /// Which port.
        service: Service,
    },
    /// Connector: what became of a [`FlowEvent::Dial`](crate::FlowEvent::Dial).
    Dialed {
        /// The flow.
        flow: FlowId,
        /// Whether the app's target answered.
        result: Result<(), DialError>,
    },
    /// The local side sends nothing more; what was written still arrives.
    Finish {
        /// The flow.
        flow: FlowId,
    },
    /// The local side is gone: the flow ends at once, and the peer learns it.
    Reset {
        /// The flow.
        flow: FlowId,
    },
    /// A packet of the local network stack, with the inner addresses of the grant.
    Bundle {
        /// Through which tunnel.
        grant: GrantId,
        /// The packet, or many of one flow.
        bundle: Bundle<'a>,
    },
    /// A UDP payload of the local side.
    Packet {
        /// The flow.
        flow: FlowId,
        /// The payload.
        bytes: Bytes,
    },
}

/// Sealed datagrams of one tunnel, each behind the relay's header, back to back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagrams<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Datagrams<'a> {
    /// Those that stand in `bytes`, `stride` bytes each, but for the last.
    pub(crate) fn new(bytes: &'a [u8], stride: usize) -> Self {
        let stride = stride.max(1);
        Self { bytes, stride }
    }

    /// Each of them, without the relay's header.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        let all = self.bytes.chunks(self.stride);
        all.map(|datagram| datagram.get(DATA_HEADER_BYTES..).unwrap_or_default())
    }

    /// Takes those at the front that begin alike, with the front that they have; only the first, and no
    /// front, where that is not a packet of a session.
    pub(crate) fn next_run(&mut self) -> Option<(Self, Option<&'a [u8]>)> {
        let first = self.bytes.chunks(self.stride).next()?;
        let front = session_front(first);
        let len = match front {
            Some(front) => {
                let all = self.bytes.chunks(self.stride);
                let alike = all.take_while(|datagram| datagram.starts_with(front));
                alike.map(<[u8]>::len).sum()
            }
            None => first.len(),
        };
        let (run, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some((Self::new(run, self.stride), front))
    }

    /// Whether there is no more than one.
    pub(crate) const fn is_one(self) -> bool {
        self.bytes.len() <= self.stride
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// All that they are, with their headers.
    pub(crate) const fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

/// Why an app's target could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum DialError {
    /// The target refused.
    #[error("the target refused the connection")]
    Refused,
    /// There is no way to it.
    #[error("the target is not reachable")]
    Unreachable,
    /// It did not answer in time.
    #[error("the target did not answer in time")]
    TimedOut,
    /// Its name has no address.
    #[error("the target's name has no address")]
    NotResolved,
    /// Its address is one that this connector never dials.
    #[error("the target's address is not permitted")]
    NotPermitted,
    /// The connector has no room for another flow.
    #[error("the connector is busy")]
    Busy,
    /// One of these; WireGuard's TCP says no more than RST does.
    #[error("the target refused the connection or was not reached")]
    Unsaid,
}

/// What [`crate::Tunnels::read`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Some bytes, in order.
    Data(Bytes),
    /// None at the moment; [`FlowEvent::Readable`](crate::FlowEvent::Readable) tells when to try again.
    Blocked,
    /// The peer sends nothing more.
    Finished,
    /// The flow is over, or never was.
    Reset,
}
