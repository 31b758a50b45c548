//! What must follow from an input: datagrams, events for the control half, events of flows.

use std::{collections::VecDeque, fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;
use cardea_proto::{access::STANDBY_MAX, app::Target, id::GrantId, relay::DATA_HEADER_BYTES};

use crate::{
    input::{DialError, FlowId},
    packets::Packets,
    path::{Path, PathReason},
};

/// Queues that the shell owns and empties after each turn.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Datagrams to send, in order.
    pub transmits: VecDeque<Transmit>,
    /// What the control half should know.
    pub events: VecDeque<Event>,
    /// What the shell's sockets should know.
    pub flows: VecDeque<FlowEvent>,
    /// Inner packets for a local network stack.
    pub packets: Packets,
    spare: Vec<Vec<u8>>,
}

/// Which of an end's sockets a datagram goes or comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The one that is connected to the relay.
    Relay,
    /// The one for direct paths, which takes datagrams from anybody.
    Direct,
}

/// Datagrams to one address, ready for one system call.
#[derive(Debug)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// Through which socket.
    pub via: Via,
    /// Length of each datagram but the last, which may be shorter; `None` when there is only one.
    pub segment: Option<usize>,
    /// Their payloads, one after the other.
    pub bytes: Vec<u8>,
    /// How many datagrams these are.
    count: usize,
    /// Whether the last one is shorter than the others, so that none may follow.
    closed: bool,
}

impl Transmit {
    /// The datagrams one by one.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes
            .chunks(self.segment.unwrap_or(self.bytes.len()).max(1))
    }
}

impl Outbox {
    /// Gives a sent transmit's buffer back, so that the next one needs no allocation.
    pub fn recycle(&mut self, transmit: Transmit) {
        if self.spare.len() < SPARE_BUFFERS_MAX {
            let mut buffer = transmit.bytes;
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Whether nothing waits here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transmits.is_empty()
            && self.events.is_empty()
            && self.flows.is_empty()
            && self.packets.is_empty()
    }

    /// Where the last `len` bytes are that were appended.
    pub(crate) fn last(&self, len: usize) -> Option<Piece> {
        let transmit = self.transmits.len().checked_sub(1)?;
        let start = self.transmits.back()?.bytes.len().checked_sub(len)?;
        Some(Piece {
            transmit,
            start,
            len,
        })
    }

    /// The bytes of pieces, which stand in the order in which they were appended; `None` when one of them
    /// is not there.
    pub(crate) fn pieces(
        &mut self,
        pieces: impl Iterator<Item = Option<Piece>>,
    ) -> Option<Vec<&mut [u8]>> {
        let mut pieces = pieces.peekable();
        let first = pieces.peek().copied().flatten();
        let first = first.map_or(0, |piece| piece.transmit);
        let mut found = Vec::with_capacity(TRANSMIT_SEGMENTS_MAX);
        for (index, transmit) in self.transmits.iter_mut().enumerate().skip(first) {
            let (mut rest, mut at) = (transmit.bytes.as_mut_slice(), 0);
            let is_here = |piece: &Option<Piece>| piece.is_none_or(|piece| piece.transmit == index);
            while let Some(piece) = pieces.next_if(is_here) {
                let piece = piece?;
                let gap = piece.start.checked_sub(at)?;
                let (_, behind) = rest.split_at_mut_checked(gap)?;
                let (bytes, behind) = behind.split_at_mut_checked(piece.len)?;
                found.push(bytes);
                (rest, at) = (behind, piece.start + piece.len);
            }
        }
        pieces.next().is_none().then_some(found)
    }

    /// Appends one datagram that `write` puts into the slice it is given.
    ///
    /// It joins the transmit before it when the kernel could send both with one call (UDP GSO):
    /// same address, same length, or a shorter last one. `write` says how long it became.
    pub(crate) fn datagram(
        &mut self,
        (to, via): (SocketAddr, Via),
        room: Room,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        let len_max = room.max.max(room.expected);
        let joins = self
            .transmits
            .back()
            .is_some_and(|last| last.takes_another((to, via), room));
        let mut transmit = if joins {
            self.transmits.pop_back()
        } else {
            None
        }
        .unwrap_or_else(|| Transmit::new((to, via), self.spare.pop().unwrap_or_default()));
        let start = transmit.bytes.len();
        transmit.bytes.resize(start + len_max, 0);
        let len = transmit
            .bytes
            .get_mut(start..)
            .and_then(write)
            .unwrap_or(0)
            .min(len_max);
        transmit.bytes.truncate(start + len);
        if len == 0 {
            if start > 0 {
                self.transmits.push_back(transmit);
            } else {
                self.recycle(transmit);
            }
            return;
        }
        match transmit.append(start, len) {
            None => self.transmits.push_back(transmit),
            Some(next) => {
                let mut fresh = Transmit::new((to, via), self.spare.pop().unwrap_or_default());
                fresh.bytes.extend_from_slice(&next);
                fresh.append(0, next.len());
                self.transmits.push_back(transmit);
                self.transmits.push_back(fresh);
            }
        }
    }
}

/// A part of a transmit that waits in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    transmit: usize,
    start: usize,
    len: usize,
}

/// How long a datagram will be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// At most.
    pub(crate) max: usize,
    /// In all likelihood.
    pub(crate) expected: usize,
}

impl Room {
    /// Room for exactly `len` bytes.
    pub(crate) const fn exact(len: usize) -> Self {
        Self {
            max: len,
            expected: len,
        }
    }

    /// The same with room for a header before it.
    pub(crate) const fn behind_header(self) -> Self {
        Self {
            max: DATA_HEADER_BYTES + self.max,
            expected: DATA_HEADER_BYTES + self.expected,
        }
    }
}

impl Transmit {
    fn new((to, via): (SocketAddr, Via), mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.reserve(TRANSMIT_BYTES_MAX);
        Self {
            to,
            via,
            segment: None,
            bytes,
            count: 0,
            closed: false,
        }
    }

    fn takes_another(&self, to: (SocketAddr, Via), room: Room) -> bool {
        (self.to, self.via) == to
            && !self.closed
            && self.count < TRANSMIT_SEGMENTS_MAX
            && self.bytes.len() + room.max.max(room.expected) <= TRANSMIT_BYTES_MAX
            && room.expected <= self.segment.unwrap_or(self.bytes.len())
    }

    /// Counts the datagram at `start`; returns it cut off again when it is too long to stand behind
    /// the ones before it.
    fn append(&mut self, start: usize, len: usize) -> Option<Vec<u8>> {
        let segment = if self.count == 0 {
            len
        } else {
            self.segment.unwrap_or(start)
        };
        if self.count > 0 && len > segment {
            self.closed = true;
            return Some(self.bytes.split_off(start));
        }
        self.count += 1;
        self.closed = len < segment;
        self.segment = (self.count > 1).then_some(segment);
        None
    }
}

/// How a tunnel's other end does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Whether the relay answers meanwhile, so that it is not this end's network.
    pub alone: bool,
}

/// What happened to a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The two ends proved themselves to each other: bytes pass from now on.
    Opened {
        /// The grant.
        grant: GrantId,
    },
    /// The tunnel is gone.
    Closed {
        /// The grant.
        grant: GrantId,
        /// Why.
        reason: CloseReason,
    },
    /// What passed since the tunnel began; told every [`USED_INTERVAL`] while it changes, and before `Closed`.
    Used {
        /// The grant.
        grant: GrantId,
        /// Payload from the app to the device, in bytes.
        bytes_in: u64,
        /// Payload from the device to the app, in bytes.
        bytes_out: u64,
        /// Flows open at the moment.
        flows: u32,
        /// Latest round trip between the two ends.
        rtt: Option<Duration>,
    },
    /// What this end sends goes another way from now on, or the first one since `Opened`.
    Path {
        /// The grant.
        grant: GrantId,
        /// Which way.
        path: Path,
        /// Why.
        why: PathReason,
    },
    /// Through these relays the other end answers as well, from now on.
    Standby {
        /// The grant.
        grant: GrantId,
        /// Their addresses.
        relays: [Option<SocketAddr>; STANDBY_MAX],
    },
    /// An open tunnel's other end does not answer, while something waits for it.
    Silent {
        /// The grant.
        grant: GrantId,
        /// How.
        silence: Silence,
    },
    /// It answers again.
    Answers {
        /// The grant.
        grant: GrantId,
    },
    /// Agent: the connector did not reach the app for a flow; the tunnel itself is well.
    Unreached {
        /// The grant.
        grant: GrantId,
        /// Why not.
        why: DialError,
    },
}

/// Why a tunnel is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseReason {
    /// [`crate::Command::Remove`].
    Removed,
    /// Its ttl ended.
    Expired,
    /// Another `Install` took its place.
    Replaced,
    /// The other end did not answer while the tunnel opened, or knows it no longer.
    Lost,
    /// The other end closed it.
    PeerClosed,
    /// The other end is not who it should be, or speaks another protocol.
    PeerRefused,
    /// The `Install` cannot work: a malformed ticket, key or configuration, or no room.
    Invalid,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Removed => "removed",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Lost => "the other end does not answer",
            Self::PeerClosed => "closed by the other end",
            Self::PeerRefused => "the other end is not the expected one",
            Self::Invalid => "the tunnel's parameters are not valid",
        })
    }
}

/// What happened to a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowEvent {
    /// Connector: somebody with a grant wants to reach this; answer with [`crate::Input::Dialed`].
    Dial {
        /// The new flow.
        flow: FlowId,
        /// Under which grant.
        grant: GrantId,
        /// The exact target; its address must still pass [`crate::egress::Egress::permit`].
        target: Target,
    },
    /// Agent: the connector has reached the target.
    Established {
        /// The flow.
        flow: FlowId,
    },
    /// [`crate::Tunnels::read`] has something.
    Readable {
        /// The flow.
        flow: FlowId,
    },
    /// [`crate::Tunnels::write`] takes bytes again.
    Writable {
        /// The flow.
        flow: FlowId,
    },
    /// The flow ended before its time; its id means nothing any more.
    Reset {
        /// The flow.
        flow: FlowId,
        /// Why.
        why: ResetReason,
    },
    /// Both directions are finished and delivered, or a UDP flow was idle; its id means nothing any more.
    Closed {
        /// The flow.
        flow: FlowId,
    },
    /// A UDP payload for the local side.
    Packet {
        /// The flow.
        flow: FlowId,
        /// The payload.
        bytes: Bytes,
    },
}

/// Why a flow was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResetReason {
    /// The connector could not reach the target.
    Refused(DialError),
    /// The side beyond the tunnel reset it, or did not answer any more.
    Peer,
    /// Its tunnel is gone.
    TunnelClosed(CloseReason),
    /// There is no such tunnel, or its app has no such port.
    NotGranted,
    /// A limit on flows is reached.
    Limit,
}

/// How often [`Event::Used`] is told while figures change.
pub const USED_INTERVAL: Duration = Duration::from_secs(10);

/// Most bytes of one transmit: the largest UDP payload over IPv4 that a GSO send may carry.
pub const TRANSMIT_BYTES_MAX: usize = 65_507;

/// Most datagrams of one transmit.
///
/// Source: `UDP_MAX_SEGMENTS` of Linux before 6.9.
pub const TRANSMIT_SEGMENTS_MAX: usize = 64;

/// Buffers kept for the next turn: 2 MiB at most.
const SPARE_BUFFERS_MAX: usize = 32;
