//! UDP packets that are longer than the path carries: cut by whoever sends, whole again before any
//! check of what they carry.
//!
//! Each fragment must have the granted addresses; ports stand in the first one alone, so that the
//! filter sees the whole packet and nothing leaves before. Fragments that overlap are no accident,
//! and end their packet (RFC 5722 §3, RFC 1858 §3).

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    drops::DropReason,
    inner::packet::{HEADER_FRAGMENT, PROTOCOL_UDP, fold, sum},
};

/// A part of an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Who sent it, inside of the tunnel.
    pub source: IpAddr,
    /// For whom it is.
    pub destination: IpAddr,
    id: u32,
    offset: usize,
    is_last: bool,
    /// The IP header without what says that it is a fragment.
    head: &'a [u8],
    body: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Reads a fragment of a UDP packet; `None` when the packet is whole or not understood, which
    /// whoever reads packets tells apart.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    /// Source: RFC 791 §3.1. Options are refused here as everywhere.
    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let (head, body) = bytes.split_first_chunk::<IP4_BYTES>()?;
        let [
            first,
            _,
            l0,
            l1,
            i0,
            i1,
            f0,
            f1,
            _,
            protocol,
            _,
            _,
            addresses @ ..,
        ] = *head;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        let place = u16::from_be_bytes([f0, f1]);
        let is_last = place & MORE_V4 == 0;
        let offset = usize::from(place & OFFSET_V4) * UNIT;
        let is_whole = is_last && offset == 0;
        let is_right = first == 0x45
            && protocol == PROTOCOL_UDP
            && usize::from(u16::from_be_bytes([l0, l1])) == bytes.len()
            && fold(sum(0, head)) == 0xffff;
        (is_right && !is_whole).then(|| Self {
            source: [s0, s1, s2, s3].into(),
            destination: [d0, d1, d2, d3].into(),
            id: u32::from(u16::from_be_bytes([i0, i1])),
            offset,
            is_last,
            head,
            body,
        })
    }

    /// Source: RFC 8200 §4.5. The fragment's header is the only one that our packets have.
    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<IP6_BYTES>()?;
        let (fragment, body) = rest.split_first_chunk::<FRAGMENT_BYTES>()?;
        let (front, addresses) = head.split_at(8);
        let [_, _, _, _, l0, l1, next, _] = *front else {
            return None;
        };
        let (source, destination) = addresses.split_at(16);
        let address = |octets: &[u8]| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from);
        let [protocol, _, o0, o1, id @ ..] = *fragment;
        let place = u16::from_be_bytes([o0, o1]);
        let is_right = next == HEADER_FRAGMENT
            && protocol == PROTOCOL_UDP
            && usize::from(u16::from_be_bytes([l0, l1])) == rest.len();
        Some(Self {
            source: address(source)?,
            destination: address(destination)?,
            id: u32::from_be_bytes(id),
            offset: usize::from(place & !7),
            is_last: place & MORE_V6 == 0,
            head,
            body,
        })
        .filter(|_| is_right)
    }
}

/// Packets of one tunnel of which not every fragment has come.
#[derive(Debug, Default)]
pub struct Fragments {
    waiting: VecDeque<Partial>,
    /// Names the packets that this end cuts.
    sent: u32,
}

#[derive(Debug)]
struct Partial {
    name: (bool, u32),
    since: Instant,
    head: Vec<u8>,
    parts: BTreeMap<usize, Vec<u8>>,
    /// Bytes above IP, once the last fragment is there.
    len: Option<usize>,
}

impl Fragments {
    /// Takes a fragment whose addresses are right; gives the whole packet when it was the last to come.
    ///
    /// # Errors
    /// When it is none that our ends make, or one after which its packet cannot come together.
    pub fn take(
        &mut self,
        now: Instant,
        fragment: &Fragment<'_>,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        self.waiting
            .retain(|partial| now < partial.since + WAIT_MAX);
        let name = (fragment.source.is_ipv6(), fragment.id);
        let found = self.waiting.iter().position(|partial| partial.name == name);
        let mut partial = match found.and_then(|index| self.waiting.remove(index)) {
            Some(partial) => partial,
            None => Partial::new(now, name, fragment),
        };
        partial.add(fragment)?;
        if partial.is_whole() {
            return partial.join().map(Some);
        }
        // The oldest gives way: its other fragments are the likeliest to be lost.
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(partial);
        Ok(None)
    }

    /// Cuts a UDP packet into ones of at most `mtu` bytes.
    pub fn cut(&mut self, packet: &[u8], mtu: usize, mut each: impl FnMut(&[u8])) {
        self.sent = self.sent.wrapping_add(1);
        let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        let head_len = if is_v6 { IP6_BYTES } else { IP4_BYTES };
        let Some((head, body)) = packet.split_at_checked(head_len) else {
            return;
        };
        let extra = if is_v6 { FRAGMENT_BYTES } else { 0 };
        let room = mtu.saturating_sub(head_len + extra) / UNIT * UNIT;
        let parts = body.chunks(room.max(UNIT));
        let count = parts.len();
        let mut built = Vec::with_capacity(mtu);
        for (index, part) in parts.enumerate() {
            built.clear();
            built.extend_from_slice(head);
            let offset = index * room;
            let is_last = index + 1 == count;
            let written = if is_v6 {
                mark_v6(&mut built, self.sent, offset, part.len(), is_last)
            } else {
                mark_v4(&mut built, self.sent, offset, part.len(), is_last)
            };
            if written.is_some() {
                built.extend_from_slice(part);
                each(&built);
            }
        }
    }
}

impl Partial {
    fn new(now: Instant, name: (bool, u32), fragment: &Fragment<'_>) -> Self {
        Self {
            name,
            since: now,
            head: fragment.head.to_vec(),
            parts: BTreeMap::new(),
            len: None,
        }
    }

    fn add(&mut self, fragment: &Fragment<'_>) -> Result<(), DropReason> {
        let (start, end) = (fragment.offset, fragment.offset + fragment.body.len());
        // All but the last are multiples of eight bytes (RFC 791 §3.2), and none is empty.
        let is_odd = !fragment.is_last && !fragment.body.len().is_multiple_of(UNIT);
        if fragment.body.is_empty() || is_odd || end > BODY_MAX {
            return Err(DropReason::Fragmented);
        }
        let before = self.parts.range(..end).next_back();
        let overlaps = before.is_some_and(|(at, part)| at + part.len() > start);
        let last = self.parts.last_key_value();
        let known_end = last.map_or(0, |(at, part)| at + part.len());
        let is_beyond = self.len.is_some_and(|len| fragment.is_last || end > len);
        if overlaps || is_beyond || (fragment.is_last && known_end > end) {
            return Err(DropReason::Fragmented);
        }
        if fragment.is_last {
            self.len = Some(end);
        }
        self.parts.insert(start, fragment.body.to_vec());
        Ok(())
    }

    /// Nothing overlaps and nothing is beyond the end, so that as many bytes as there are are all.
    fn is_whole(&self) -> bool {
        self.len == Some(self.parts.values().map(Vec::len).sum())
    }

    fn join(mut self) -> Result<Vec<u8>, DropReason> {
        let body: Vec<u8> = self.parts.into_values().flatten().collect();
        let unmarked = unmark(&mut self.head, body.len());
        unmarked.ok_or(DropReason::Fragmented)?;
        self.head.extend_from_slice(&body);
        Ok(self.head)
    }
}

/// Makes the header of a whole packet that of a fragment.
fn mark_v4(head: &mut [u8], id: u32, offset: usize, len: usize, is_last: bool) -> Option<()> {
    let [.., low, lowest] = id.to_be_bytes();
    let more = if is_last { 0 } else { MORE_V4 };
    let place = u16::try_from(offset / UNIT).ok()? | more;
    head.get_mut(4..6)?.copy_from_slice(&[low, lowest]);
    head.get_mut(6..8)?.copy_from_slice(&place.to_be_bytes());
    seal_v4(head, len)
}

fn mark_v6(head: &mut Vec<u8>, id: u32, offset: usize, len: usize, is_last: bool) -> Option<()> {
    let announced = u16::try_from(FRAGMENT_BYTES + len).ok()?;
    head.get_mut(4..6)?
        .copy_from_slice(&announced.to_be_bytes());
    *head.get_mut(6)? = HEADER_FRAGMENT;
    let more = if is_last { 0 } else { MORE_V6 };
    let place = u16::try_from(offset).ok()? | more;
    head.extend_from_slice(&[PROTOCOL_UDP, 0]);
    head.extend_from_slice(&place.to_be_bytes());
    head.extend_from_slice(&id.to_be_bytes());
    Some(())
}

/// Makes the header of a fragment that of a whole packet.
fn unmark(head: &mut [u8], len: usize) -> Option<()> {
    if head.len() == IP6_BYTES {
        let announced = u16::try_from(len).ok()?;
        head.get_mut(4..6)?
            .copy_from_slice(&announced.to_be_bytes());
        *head.get_mut(6)? = PROTOCOL_UDP;
        return Some(());
    }
    head.get_mut(4..8)?.fill(0);
    seal_v4(head, len)
}

/// The length of an IPv4 header's packet, and its checksum.
fn seal_v4(head: &mut [u8], len: usize) -> Option<()> {
    let total = u16::try_from(IP4_BYTES + len).ok()?;
    head.get_mut(2..4)?.copy_from_slice(&total.to_be_bytes());
    head.get_mut(10..12)?.fill(0);
    let checksum = !fold(sum(0, head));
    head.get_mut(10..12)?
        .copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

/// Packets of one tunnel that wait for fragments: 256 KiB at most, of what a peer with a grant sent.
pub(crate) const WAITING_MAX: usize = 4;

/// How long a packet waits for its fragments, which are sent at once.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Bytes of the largest UDP datagram. Source: RFC 768.
const BODY_MAX: usize = 65_535;

/// Offsets count these. Source: RFC 791 §3.1.
const UNIT: usize = 8;
const MORE_V4: u16 = 0x2000;
const OFFSET_V4: u16 = 0x1fff;
const MORE_V6: u16 = 1;
const IP4_BYTES: usize = 20;
const IP6_BYTES: usize = 40;
const FRAGMENT_BYTES: usize = 8;

#[cfg(test)]
mod tests;
