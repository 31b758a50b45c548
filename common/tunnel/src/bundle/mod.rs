//! Packets of a local network stack: one that stands for many is split, many are joined to one.
//!
//! A kernel hands a whole window of a flow to its TUN in one piece and takes one back (TSO, USO, GRO),
//! with a header before it that says how; the header comes from outside and is believed in nothing
//! that the packet itself does not bear out. [`Bundle::read`] alone makes a [`Bundle`].
//!
//! TCP's checksum is not carried through a tunnel: what a kernel has not summed yet has none, what it
//! has is checked here, and the receiving end has its kernel sum anew. The tag of each datagram stands
//! between them.

mod address;
mod join;
mod refuse;
mod virtio;

pub(crate) use address::answer_echo;
pub use address::readdress;
pub use join::{FRONT_BYTES_MAX, Front, JOINED_MAX, join};
pub use refuse::Refused;
pub use virtio::HEADER_BYTES;

use virtio::{Header, Parts, Sum};

use crate::{
    drops::DropReason,
    inner::packet::{
        Body, FLAG_FIN, PROTOCOL_TCP, PROTOCOL_UDP, Packet, UDP_HEADER_BYTES, fold, pseudo, sum,
    },
};

/// One packet, or one that stands for many of its flow.
#[derive(Debug)]
pub struct Bundle<'a> {
    header: [u8; HEADER_BYTES],
    bytes: &'a mut [u8],
    packet: Packet,
    /// Payload of each packet but the last.
    size: usize,
    /// Whether the checksum of what it carries is still to be made.
    is_unsummed: bool,
}

impl<'a> Bundle<'a> {
    /// Reads what a TUN with virtio headers gave: [`HEADER_BYTES`] and a packet.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn read(bytes: &'a mut [u8]) -> Result<Self, DropReason> {
        let (header, bytes) = bytes
            .split_first_chunk_mut::<HEADER_BYTES>()
            .ok_or(DropReason::WrongOffload)?;
        let raw = *header;
        let header = Header::read(header)?;
        let packet = match header.sum {
            Sum::Made => Packet::parse(bytes)?,
            Sum::Checked | Sum::Partial { .. } => Packet::parse_head(bytes)?,
        };
        let payload = bytes.len() - packet.head_len;
        let size = match (header.parts, packet.body) {
            (Parts::One, _) => payload,
            (Parts::Tcp { size, v6 }, Body::Tcp { .. }) if v6 == packet.source.is_ipv6() => size,
            (Parts::Udp { size }, Body::Udp) => size,
            (Parts::Tcp { .. } | Parts::Udp { .. }, _) => return Err(DropReason::WrongOffload),
        };
        let is_many = header.parts != Parts::One;
        if is_many && (size == 0 || payload == 0 || payload.div_ceil(size) > PARTS_MAX) {
            return Err(DropReason::WrongOffload);
        }
        let is_unsummed = match (header.sum, packet.body) {
            (Sum::Partial { start, offset }, Body::Tcp { .. } | Body::Udp) => {
                if start != packet.ip_len || offset != sum_offset(packet.body) {
                    return Err(DropReason::WrongOffload);
                }
                true
            }
            (Sum::Partial { .. }, Body::Echo { .. }) => return Err(DropReason::WrongOffload),
            (Sum::Made, Body::Tcp { .. }) => {
                let above = bytes.get(packet.ip_len..).unwrap_or_default();
                let start = pseudo(packet.source, packet.destination, above.len(), PROTOCOL_TCP);
                if is_many || fold(sum(start, above)) != 0xffff {
                    return Err(DropReason::Malformed);
                }
                false
            }
            (Sum::Made | Sum::Checked, _) if is_many => return Err(DropReason::WrongOffload),
            (Sum::Made | Sum::Checked, _) => false,
        };
        Ok(Self {
            header: raw,
            bytes,
            packet,
            size,
            is_unsummed,
        })
    }

    /// Its headers.
    #[must_use]
    pub const fn packet(&self) -> &Packet {
        &self.packet
    }

    /// What it was read from.
    #[must_use]
    pub fn unread(&self) -> Vec<u8> {
        [&self.header[..], self.bytes].concat()
    }

    /// How many packets it stands for.
    #[must_use]
    pub fn count(&self) -> usize {
        self.payload_len().div_ceil(self.size.max(1)).max(1)
    }

    /// Bytes behind the headers.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - self.packet.head_len
    }

    /// Bytes of its longest packet.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.packet.head_len + self.size.min(self.payload_len())
    }

    /// Gives it other addresses of the same family; others change nothing.
    pub fn readdress(&mut self, source: std::net::IpAddr, destination: std::net::IpAddr) {
        readdress(self.bytes, &mut self.packet, source, destination);
    }

    /// Cuts TCP into segments that make packets of at most `longest` bytes; nothing else can be cut like that.
    ///
    /// Where a byte stream is cut is its sender's business until it is sent (RFC 9293 §3.7.1), and whoever sends
    /// a window in one piece leaves that to us.
    pub fn narrow(&mut self, longest: usize) {
        if let Body::Tcp { .. } = self.packet.body {
            let size = longest.saturating_sub(self.packet.head_len).max(1);
            self.size = self.size.min(size);
        }
    }

    /// Bytes of the packet number `index`.
    #[must_use]
    pub fn part_len(&self, index: usize) -> usize {
        let start = index.saturating_mul(self.size);
        self.packet.head_len + self.payload_len().saturating_sub(start).min(self.size)
    }

    /// Writes the packet number `index` into `room`; says how long it is, `None` when it does not fit.
    pub fn write_part(&self, index: usize, room: &mut [u8]) -> Option<usize> {
        let start = index.checked_mul(self.size)?;
        let (head, payload) = self.bytes.split_at_checked(self.packet.head_len)?;
        let end = payload.len().min(start + self.size);
        let part = payload.get(start..end)?;
        let room = room.get_mut(..head.len() + part.len())?;
        let (front, back) = room.split_at_mut(head.len());
        front.copy_from_slice(head);
        back.copy_from_slice(part);
        let is_last = end == payload.len();
        if !(index == 0 && is_last) {
            self.number(front, index, start, is_last)?;
        }
        let len = room.len();
        self.measure(room)?;
        Some(len)
    }

    /// Sets what differs between the packets of one TCP flow: sequence number, flags, identification.
    ///
    /// Source: RFC 9293 §3.1; RFC 3168 §6.1.2 for CWR; RFC 791 §3.1 for the identification.
    fn number(&self, head: &mut [u8], index: usize, start: usize, is_last: bool) -> Option<()> {
        let (ip, above) = head.split_at_mut_checked(self.packet.ip_len)?;
        if self.packet.source.is_ipv4() {
            let id = ip.get_mut(4..6)?.first_chunk_mut::<2>()?;
            let step = u16::try_from(index & 0xffff).ok()?;
            *id = u16::from_be_bytes(*id).wrapping_add(step).to_be_bytes();
        }
        if let Body::Tcp { .. } = self.packet.body {
            let sequence = above.get_mut(4..8)?.first_chunk_mut::<4>()?;
            let start = u32::try_from(start).ok()?;
            *sequence = u32::from_be_bytes(*sequence)
                .wrapping_add(start)
                .to_be_bytes();
            let flags = above.get_mut(13)?;
            if !is_last {
                *flags &= !(FLAG_FIN | FLAG_PSH);
            }
            if index > 0 {
                *flags &= !FLAG_CWR;
            }
        }
        Some(())
    }

    /// Sets lengths and checksums of one packet.
    fn measure(&self, packet: &mut [u8]) -> Option<()> {
        let Packet {
            source,
            destination,
            ip_len,
            body,
            ..
        } = self.packet;
        let len = packet.len();
        let (ip, above) = packet.split_at_mut_checked(ip_len)?;
        measure_ip(ip, len)?;
        match body {
            Body::Udp if self.is_unsummed => {
                let above_len = above.len();
                let announced = u16::try_from(above_len).ok()?.to_be_bytes();
                above.get_mut(4..6)?.copy_from_slice(&announced);
                above.get_mut(6..UDP_HEADER_BYTES)?.fill(0);
                let start = pseudo(source, destination, above_len, PROTOCOL_UDP);
                let made = match !fold(sum(start, above)) {
                    0 => 0xffff,
                    made => made,
                };
                above
                    .get_mut(6..UDP_HEADER_BYTES)?
                    .copy_from_slice(&made.to_be_bytes());
            }
            Body::Tcp { .. } => above.get_mut(16..18)?.fill(0),
            Body::Udp | Body::Echo { .. } => {}
        }
        Some(())
    }
}

/// Sets the length of a packet of `len` bytes in its IP header, and IPv4's checksum.
fn measure_ip(ip: &mut [u8], len: usize) -> Option<()> {
    let is_v4 = ip.first()? >> 4 == 4;
    if is_v4 {
        let total = u16::try_from(len).ok()?.to_be_bytes();
        ip.get_mut(2..4)?.copy_from_slice(&total);
        ip.get_mut(10..12)?.fill(0);
        let made = !fold(sum(0, ip));
        ip.get_mut(10..12)?.copy_from_slice(&made.to_be_bytes());
    } else {
        let payload = u16::try_from(len.checked_sub(ip.len())?)
            .ok()?
            .to_be_bytes();
        ip.get_mut(4..6)?.copy_from_slice(&payload);
    }
    Some(())
}

/// Where a checksum stands in the header above IP.
const fn sum_offset(body: Body) -> usize {
    match body {
        Body::Tcp { .. } => 16,
        Body::Udp => 6,
        Body::Echo { .. } => 2,
    }
}

/// Packets that one of a kernel may stand for: a whole window of the smallest segments that Linux makes.
///
/// Source: `tcp_min_snd_mss` is 48 at least, and 65,535 bytes hold 1,366 of them.
const PARTS_MAX: usize = 1_366;

const FLAG_PSH: u8 = 0x08;
const FLAG_CWR: u8 = 0x80;

#[cfg(test)]
mod tests;
