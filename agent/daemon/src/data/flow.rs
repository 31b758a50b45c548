//! What every flow needs from the loop, and the kinds of flows there are.

use std::{fmt, net::SocketAddr, time::Instant};

use bytes::Bytes;
use cardea_host::tcp::TcpStream;
use cardea_proto::time::Now;
use cardea_tunnel::{FlowId, Input, Outbox, PermittedAddress, Read, Tunnels};
use mio::Token;

use super::{ListenerId, associate::Peer, tcp::TcpFlow, udp::UdpTarget};

/// Bytes of the buffer that datagrams and guests are read into: the largest datagram fits.
const SCRATCH_BYTES: usize = 64 * 1024;

/// The tunnels, the time of this turn, and a buffer.
pub(super) struct Carry {
    pub(super) now: Now,
    pub(super) tunnels: Tunnels,
    pub(super) out: Outbox,
    pub(super) scratch: Box<[u8]>,
    /// Where packets of the local network stack are read.
    pub(super) stacked: Vec<u8>,
    /// Bytes that flows have moved in this turn.
    pub(super) moved: usize,
}

impl Carry {
    pub(super) fn new(now: Now, tunnels: Tunnels) -> Self {
        Self {
            now,
            tunnels,
            out: Outbox::default(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            stacked: Vec::new(),
            moved: 0,
        }
    }

    pub(super) fn input(&mut self, input: Input<'_>) {
        self.tunnels.handle(self.now, input, &mut self.out);
    }

    pub(super) fn write(&mut self, flow: FlowId, bytes: Bytes) -> usize {
        self.tunnels.write(self.now, flow, bytes, &mut self.out)
    }

    pub(super) fn read(&mut self, flow: FlowId, max: usize) -> Read {
        self.tunnels.read(self.now, flow, max, &mut self.out)
    }
}

impl fmt::Debug for Carry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carry")
            .field("tunnels", &self.tunnels)
            .finish_non_exhaustive()
    }
}

/// One conversation, as this end's sockets see it.
#[derive(Debug)]
pub(super) enum Flow {
    /// Joined to a stream; `from` is the listener that it came in through.
    Tcp {
        flow: Box<TcpFlow>,
        from: Option<ListenerId>,
    },
    /// Connector: on its way to the app.
    Dialing(Dialing),
    /// Connector: a socket to the app.
    UdpTarget(UdpTarget),
    /// Agent: one conversation of a client of SOCKS.
    Associated {
        listener: ListenerId,
        association: u64,
        peer: Peer,
    },
    /// Agent: one client of a listener's socket.
    UdpClient {
        listener: ListenerId,
        client: SocketAddr,
    },
}

/// A flow whose target has not answered yet.
#[derive(Debug)]
pub(super) struct Dialing {
    pub(super) stage: Stage,
    /// Given up at.
    pub(super) until: Instant,
}

/// How far a dial has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// The target's name is being resolved.
    Resolving(Destination),
    /// The system connects to `to`; the addresses that are left come after it.
    Connecting {
        stream: TcpStream,
        token: Token,
        to: PermittedAddress,
        destination: Destination,
        left: Vec<std::net::IpAddr>,
    },
}

/// Where a flow wants to go, under which grant.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    pub(super) grant: cardea_proto::id::GrantId,
    pub(super) target: cardea_proto::app::Target,
}
