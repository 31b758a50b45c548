//! The local network stack: a TUN interface, read and written in as few calls as it lets us.

use std::io::{self, IoSlice};

use cardea_host::tun::{Network, Tun, TunError};
use cardea_tunnel::{
    DropReason, PACKET_BYTES_MAX, Packets,
    bundle::{self, JOINED_MAX},
    packet::Packet,
};
use mio::Token;

use super::{
    back::Back,
    flow::Carry,
    front::Front,
    routes::Routes,
    wiring::{Owner, Wiring},
};

/// A network interface at the local side of tunnels.
#[derive(Debug)]
pub(crate) enum Interface {
    /// An agent's.
    Front(Front),
    /// A connector's.
    Back(Box<Back>),
}

impl Interface {
    pub(super) const fn stack(&mut self) -> &mut Stack {
        match self {
            Self::Front(front) => &mut front.stack,
            Self::Back(back) => &mut back.stack,
        }
    }

    pub(super) const fn is_readable(&self) -> bool {
        match self {
            Self::Front(front) => front.stack.readable,
            Self::Back(back) => back.stack.readable,
        }
    }

    /// Gives opened packets to the kernel.
    pub(super) fn deliver<W>(&mut self, carry: &mut Carry, routes: &Routes<W>) {
        let packets = &mut carry.out.packets;
        match self {
            Self::Front(front) => front.deliver(routes, packets),
            Self::Back(back) => {
                for _ in 0..back.deliver(carry.now.instant, packets) {
                    carry.tunnels.note_drop(DropReason::NotPermitted);
                }
            }
        }
    }
}

/// Most bytes that the kernel joins for us: what fits into one segmented send, seals included.
const JOINED_BYTES: usize = 60 * 1024;

/// The longest packet with its virtio header.
pub(super) const BUFFER_BYTES: usize = 65_536 + bundle::HEADER_BYTES;

/// An interface that is up.
#[derive(Debug)]
pub(crate) struct Stack {
    tun: Tun,
    token: Option<Token>,
    pub(super) network: Network,
    pub(super) index: u32,
    pub(super) readable: bool,
    joins: bool,
    joins_udp: bool,
}

impl Stack {
    /// Makes the interface and brings it up.
    pub(super) fn open(name: &str) -> Result<Self, TunError> {
        let tun = Tun::open(name)?;
        let mut network = Network::open()?;
        let index = network.index(tun.name())?;
        network.set_up(index, PACKET_BYTES_MAX, JOINED_BYTES)?;
        let joins_udp = tun.offloads().udp;
        Ok(Self {
            tun,
            token: None,
            network,
            index,
            readable: true,
            joins: true,
            joins_udp,
        })
    }

    pub(super) fn name(&self) -> &str {
        self.tun.name()
    }

    pub(super) fn register(&mut self, wiring: &mut Wiring) -> io::Result<()> {
        self.token = Some(wiring.add(&mut self.tun, Owner::Stack)?);
        Ok(())
    }

    /// Reads one packet with its virtio header, if there is one; says how long they are.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.tun.read(buffer) {
            Ok(len) => Some(len),
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!(%error, "nothing was read from the interface");
                }
                self.readable = false;
                None
            }
        }
    }

    /// Gives one packet of ours to the kernel, with its virtio header.
    pub(super) fn answer(&self, bytes: &[u8]) {
        if let Err(error) = self.tun.write(&[IoSlice::new(bytes)]) {
            tracing::trace!(%error, "the kernel did not take an answer");
        }
    }

    /// Gives all packets to the kernel, in order, those of one flow at once.
    pub(super) fn write(&mut self, packets: &mut Packets) {
        let seen: Vec<(&[u8], Packet)> = packets.iter().collect();
        let mut rest = &seen[..];
        while !rest.is_empty() {
            let most = if self.joins { rest.len() } else { 1 };
            let next = rest.get(..most).unwrap_or_default();
            let Some((count, front)) = bundle::join(next, self.joins_udp) else {
                rest = rest.get(1..).unwrap_or_default();
                continue;
            };
            let (these, later) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            let mut pieces = [IoSlice::new(&[]); JOINED_MAX + 1];
            let payloads = these.iter().map(|(bytes, packet)| packet.payload(bytes));
            for (piece, bytes) in pieces
                .iter_mut()
                .zip(std::iter::once(front.bytes()).chain(payloads))
            {
                *piece = IoSlice::new(bytes);
            }
            let written = self.tun.write(pieces.get(..=count).unwrap_or_default());
            if let Err(error) = written
                && self.gives_up_joining(&error, these)
            {
                continue;
            }
            rest = later;
        }
        packets.clear();
    }

    /// Whether the kernel does not take joined packets of this kind, which are then to be written
    /// one by one.
    fn gives_up_joining(&mut self, error: &io::Error, these: &[(&[u8], Packet)]) -> bool {
        let is_refused = error.kind() == io::ErrorKind::InvalidInput && these.len() > 1;
        if is_refused {
            let is_udp = these
                .first()
                .is_some_and(|(_, packet)| matches!(packet.body, cardea_tunnel::packet::Body::Udp));
            if is_udp {
                self.joins_udp = false;
            } else {
                self.joins = false;
            }
            tracing::warn!(%error, "the kernel takes packets one by one");
        } else {
            tracing::trace!(%error, "the kernel did not take a packet");
        }
        is_refused
    }
}
