//! Packets of one flow that a kernel takes in one piece.

use crate::{
    bundle::{
        FLAG_PSH, HEADER_BYTES, measure_ip, sum_offset,
        virtio::{Header, Parts, Sum},
    },
    inner::packet::{
        Body, FLAG_ACK, PROTOCOL_TCP, PROTOCOL_UDP, Packet, UDP_HEADER_BYTES, fold, pseudo,
    },
};

/// What stands before the payloads of packets that were joined: the virtio header and their headers.
#[derive(Clone, Debug)]
pub struct Front {
    bytes: [u8; FRONT_BYTES_MAX],
    len: usize,
}

impl Front {
    /// The bytes to write first.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// How many packets from the front of `packets` a kernel takes with one write, and what stands
/// before their payloads; `None` when there is none, or its headers do not fit.
///
/// `udp` says whether the kernel takes several datagrams at once.
#[must_use]
pub fn join(packets: &[(&[u8], Packet)], udp: bool) -> Option<(usize, Front)> {
    let ((bytes, packet), rest) = packets.split_first()?;
    let size = bytes.len().checked_sub(packet.head_len)?;
    let may_join = size > 0
        && match packet.body {
            Body::Tcp { .. } => joins_tcp(bytes.get(packet.ip_len..)?),
            Body::Udp => udp && bytes.get(packet.ip_len + 6..packet.head_len) != Some(&[0, 0]),
            Body::Echo { .. } => false,
        };
    let mut whole = Whole {
        first: bytes,
        packet,
        size,
        total: bytes.len(),
        count: 1,
        is_closed: !may_join,
        is_pushed: false,
    };
    for (bytes, packet) in rest {
        if !whole.take(bytes, packet) {
            break;
        }
    }
    let front = whole.front()?;
    Some((whole.count, front))
}

/// Packets that have been found to belong together.
struct Whole<'a> {
    first: &'a [u8],
    packet: &'a Packet,
    /// Payload of each packet but the last.
    size: usize,
    total: usize,
    count: usize,
    is_closed: bool,
    is_pushed: bool,
}

impl Whole<'_> {
    /// Whether the next packet continues the ones before it.
    fn take(&mut self, bytes: &[u8], packet: &Packet) -> bool {
        let Some(size) = bytes.len().checked_sub(packet.head_len) else {
            return false;
        };
        let fits = !self.is_closed
            && self.count < JOINED_MAX
            && size > 0
            && size <= self.size
            && self.total + size <= JOINED_BYTES_MAX
            && self.packet.source == packet.source
            && self.packet.destination == packet.destination
            && self.packet.source_port == packet.source_port
            && self.packet.destination_port == packet.destination_port
            && self.packet.head_len == packet.head_len;
        if !fits || !same_ip(self.first, bytes) {
            return false;
        }
        match (self.packet.body, packet.body) {
            (Body::Tcp { .. }, Body::Tcp { .. }) => {
                let passed = self.total - self.packet.head_len;
                let (Some(first), Some(next)) = (
                    self.first.get(self.packet.ip_len..self.packet.head_len),
                    bytes.get(packet.ip_len..packet.head_len),
                ) else {
                    return false;
                };
                let Some(is_pushed) = continues(first, next, passed) else {
                    return false;
                };
                self.is_pushed = is_pushed;
                self.is_closed = is_pushed || size < self.size;
            }
            (Body::Udp, Body::Udp)
                if bytes.get(packet.ip_len + 6..packet.head_len) != Some(&[0, 0]) =>
            {
                self.is_closed = size < self.size;
            }
            _ => return false,
        }
        self.total += size;
        self.count += 1;
        true
    }

    fn front(&self) -> Option<Front> {
        let Packet {
            source,
            destination,
            ip_len,
            head_len,
            body,
            ..
        } = *self.packet;
        let mut front = Front {
            bytes: [0; FRONT_BYTES_MAX],
            len: HEADER_BYTES + head_len,
        };
        let (virtio, room) = front.bytes.split_first_chunk_mut::<HEADER_BYTES>()?;
        let head = room.get_mut(..head_len)?;
        head.copy_from_slice(self.first.get(..head_len)?);
        let (ip, above) = head.split_at_mut_checked(ip_len)?;
        let is_many = self.count > 1;
        if is_many {
            measure_ip(ip, self.total)?;
        }
        let above_len = self.total - ip_len;
        let partial = Sum::Partial {
            start: ip_len,
            offset: sum_offset(body),
        };
        let header = match body {
            Body::Tcp { .. } => {
                let start = fold(pseudo(source, destination, above_len, PROTOCOL_TCP));
                above.get_mut(16..18)?.copy_from_slice(&start.to_be_bytes());
                if self.is_pushed {
                    *above.get_mut(13)? |= FLAG_PSH;
                }
                let parts = if is_many {
                    Parts::Tcp {
                        size: self.size,
                        v6: source.is_ipv6(),
                    }
                } else {
                    Parts::One
                };
                Header {
                    parts,
                    sum: partial,
                }
            }
            Body::Udp if is_many => {
                let announced = u16::try_from(above_len).ok()?.to_be_bytes();
                let start = fold(pseudo(source, destination, above_len, PROTOCOL_UDP));
                above.get_mut(4..6)?.copy_from_slice(&announced);
                above
                    .get_mut(6..UDP_HEADER_BYTES)?
                    .copy_from_slice(&start.to_be_bytes());
                Header {
                    parts: Parts::Udp { size: self.size },
                    sum: partial,
                }
            }
            Body::Udp | Body::Echo { .. } => Header {
                parts: Parts::One,
                sum: Sum::Made,
            },
        };
        *virtio = header.write(head_len);
        Some(front)
    }
}

/// Whether a TCP segment with a payload may begin a whole: it only acknowledges.
fn joins_tcp(segment: &[u8]) -> bool {
    segment.get(13) == Some(&FLAG_ACK)
}

/// Whether all that must be equal in two IP headers is: hop limit, class, DF.
fn same_ip(first: &[u8], next: &[u8]) -> bool {
    if first.first().is_some_and(|byte| byte >> 4 == 4) {
        let part = |bytes: &[u8]| Some((*bytes.get(1)?, *bytes.get(6)?, *bytes.get(8)?));
        part(first) == part(next)
    } else {
        first.get(..4) == next.get(..4) && first.get(7) == next.get(7)
    }
}

/// Whether `next` is the segment `passed` bytes of payload behind `first`; and whether it is pushed.
fn continues(first: &[u8], next: &[u8], passed: usize) -> Option<bool> {
    let sequence = |segment: &[u8]| {
        segment
            .get(4..)
            .and_then(<[u8]>::first_chunk::<4>)
            .map(|bytes| u32::from_be_bytes(*bytes))
    };
    let expected = sequence(first)?.wrapping_add(u32::try_from(passed).ok()?);
    let flags = *next.get(13)?;
    let is_pushed = flags & FLAG_PSH != 0;
    let alike = sequence(next)? == expected
        && flags & !FLAG_PSH == FLAG_ACK
        // Acknowledgment, length of the header, window.
        && first.get(8..13) == next.get(8..13)
        && first.get(14..16) == next.get(14..16)
        // Options, timestamps among them.
        && first.get(20..) == next.get(20..);
    alike.then_some(is_pushed)
}

/// Bytes of the longest [`Front`]: the virtio header, IPv6's, and TCP's with all its options.
pub const FRONT_BYTES_MAX: usize = HEADER_BYTES + 40 + 60;

/// Most packets of one write: as many as one receive call brings of one flow.
pub const JOINED_MAX: usize = 64;

/// Most bytes of one write: what the length of an IPv4 packet can say.
const JOINED_BYTES_MAX: usize = 65_535;
