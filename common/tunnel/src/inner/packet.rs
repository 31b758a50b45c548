//! Inner packets: read with every check before anything believes them, and built.
//!
//! Only what a flow is made of passes: TCP and UDP over IPv4 or IPv6, whole, and echoes. Fragments
//! are put together before; options of IPv4 and other protocols are refused, and all else of ICMP: an error that quotes a flow
//! could be about another one, and a source route leads elsewhere than the header says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cardea_proto::app::Protocol;

use crate::drops::DropReason;

/// A well-formed inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it says that it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Not 0, but for an echo.
    pub source_port: u16,
    /// Not 0, but for an echo.
    pub destination_port: u16,
    /// What it carries.
    pub body: Body,
    /// Bytes of its IP header.
    pub ip_len: usize,
    /// Bytes of its headers, IP's and the one above.
    pub head_len: usize,
}

/// What an inner packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// A segment, for the TCP stack; `begins` when it is the first of a conversation.
    Tcp {
        /// SYN without ACK, RST and FIN.
        begins: bool,
    },
    /// A datagram.
    Udp,
    /// An echo of ICMP or ICMPv6.
    Echo {
        /// Whether it asks; else it answers.
        asks: bool,
    },
}

impl Body {
    /// The protocol of the service that it belongs to; `None` for an echo, which belongs to none.
    #[must_use]
    pub const fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Tcp { .. } => Some(Protocol::Tcp),
            Self::Udp => Some(Protocol::Udp),
            Self::Echo { .. } => None,
        }
    }
}

impl Packet {
    /// Reads a packet that fills `bytes`; the checksums of UDP and of echoes must hold.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let packet = Self::parse_head(bytes)?;
        let above = bytes.get(packet.ip_len..).unwrap_or_default();
        let (source, destination) = (packet.source, packet.destination);
        let holds = |protocol| {
            fold(sum(
                pseudo(source, destination, above.len(), protocol),
                above,
            )) == 0xffff
        };
        let is_right = match packet.body {
            // The tunnel's tag covers the packet.
            Body::Tcp { .. } => true,
            // Source: RFC 768; RFC 8200 §8.1 requires the checksum over IPv6.
            Body::Udp => match above.get(6..8) {
                Some([0, 0]) => source.is_ipv4(),
                Some(_) | None => holds(PROTOCOL_UDP),
            },
            Body::Echo { .. } if source.is_ipv4() => fold(sum(0, above)) == 0xffff,
            Body::Echo { .. } => holds(PROTOCOL_ICMP6),
        };
        is_right.then_some(packet).ok_or(DropReason::Malformed)
    }

    /// The same without the checksums above IP, which whoever takes the packet looks at.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn parse_head(bytes: &[u8]) -> Result<Self, DropReason> {
        let version = bytes.first().ok_or(DropReason::Malformed)? >> 4;
        let (source, destination, protocol, rest) = match version {
            4 => parse_v4(bytes)?,
            6 => parse_v6(bytes)?,
            _ => return Err(DropReason::Malformed),
        };
        let ip_len = bytes.len() - rest.len();
        let (body, above_len) = match (protocol, version) {
            (PROTOCOL_TCP, _) => parse_tcp(rest)?,
            (PROTOCOL_UDP, _) => parse_udp(rest)?,
            (PROTOCOL_ICMP, 4) => parse_echo(rest, ECHO_ASKS, ECHO_ANSWERS)?,
            (PROTOCOL_ICMP6, 6) => parse_echo(rest, ECHO6_ASKS, ECHO6_ANSWERS)?,
            _ => return Err(DropReason::WrongProtocol),
        };
        let (source_port, destination_port) = match (body, rest.first_chunk::<4>()) {
            (Body::Echo { .. }, _) => (0, 0),
            (Body::Tcp { .. } | Body::Udp, Some([s0, s1, d0, d1])) => (
                u16::from_be_bytes([*s0, *s1]),
                u16::from_be_bytes([*d0, *d1]),
            ),
            (Body::Tcp { .. } | Body::Udp, None) => return Err(DropReason::Malformed),
        };
        if body.protocol().is_some() && (source_port == 0 || destination_port == 0) {
            return Err(DropReason::Malformed);
        }
        Ok(Self {
            source,
            destination,
            source_port,
            destination_port,
            body,
            ip_len,
            head_len: ip_len + above_len,
        })
    }

    /// What follows the headers in the `bytes` that this was read from.
    #[must_use]
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.head_len..).unwrap_or_default()
    }
}

type Parsed<'a> = (IpAddr, IpAddr, u8, &'a [u8]);

/// Source: RFC 791 §3.1.
fn parse_v4(bytes: &[u8]) -> Result<Parsed<'_>, DropReason> {
    let header = bytes.first_chunk::<20>().ok_or(DropReason::Malformed)?;
    let [
        first,
        _,
        l0,
        l1,
        _,
        _,
        f0,
        f1,
        _,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ] = *header;
    let header_len = usize::from(first & 0x0f) * 4;
    let (head, rest) = bytes
        .split_at_checked(header_len)
        .ok_or(DropReason::Malformed)?;
    let whole = usize::from(u16::from_be_bytes([l0, l1])) == bytes.len();
    if header_len < 20 || !whole {
        return Err(DropReason::Malformed);
    }
    if header_len > 20 {
        return Err(DropReason::Options);
    }
    if fold(sum(0, head)) != 0xffff {
        return Err(DropReason::Malformed);
    }
    if u16::from_be_bytes([f0, f1]) & FRAGMENT_BITS != 0 {
        return Err(DropReason::Fragmented);
    }
    Ok((
        Ipv4Addr::new(s0, s1, s2, s3).into(),
        Ipv4Addr::new(d0, d1, d2, d3).into(),
        protocol,
        rest,
    ))
}

/// Source: RFC 8200 §3. Extension headers other than a fragment's do not occur in our flows.
fn parse_v6(bytes: &[u8]) -> Result<Parsed<'_>, DropReason> {
    let (header, rest) = bytes
        .split_first_chunk::<40>()
        .ok_or(DropReason::Malformed)?;
    let (front, addresses) = header.split_at(8);
    let [_, _, _, _, l0, l1, next, _] = *front else {
        return Err(DropReason::Malformed);
    };
    let (source, destination) = addresses.split_at(16);
    let address = |octets: &[u8]| {
        <[u8; 16]>::try_from(octets).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
    };
    let (Ok(source), Ok(destination)) = (address(source), address(destination)) else {
        return Err(DropReason::Malformed);
    };
    if usize::from(u16::from_be_bytes([l0, l1])) != rest.len() {
        return Err(DropReason::Malformed);
    }
    if next == HEADER_FRAGMENT {
        return Err(DropReason::Fragmented);
    }
    Ok((source, destination, next, rest))
}

/// Source: RFC 9293 §3.1.
fn parse_tcp(segment: &[u8]) -> Result<(Body, usize), DropReason> {
    let header = segment.first_chunk::<20>().ok_or(DropReason::Malformed)?;
    let [.., offset, flags, _, _, _, _, _, _] = *header;
    let header_len = usize::from(offset >> 4) * 4;
    if header_len < 20 || header_len > segment.len() {
        return Err(DropReason::Malformed);
    }
    let begins = flags & (FLAG_FIN | FLAG_SYN | FLAG_RST | FLAG_ACK) == FLAG_SYN;
    Ok((Body::Tcp { begins }, header_len))
}

/// Source: RFC 768.
fn parse_udp(datagram: &[u8]) -> Result<(Body, usize), DropReason> {
    let header = datagram
        .first_chunk::<UDP_HEADER_BYTES>()
        .ok_or(DropReason::Malformed)?;
    let [_, _, _, _, l0, l1, _, _] = *header;
    if usize::from(u16::from_be_bytes([l0, l1])) != datagram.len() {
        return Err(DropReason::Malformed);
    }
    Ok((Body::Udp, UDP_HEADER_BYTES))
}

/// Source: RFC 792; RFC 4443 §4.
fn parse_echo(message: &[u8], asking: u8, answering: u8) -> Result<(Body, usize), DropReason> {
    let [kind, code, ..] = *message
        .first_chunk::<ECHO_HEADER_BYTES>()
        .ok_or(DropReason::Malformed)?;
    let asks = kind == asking;
    if code != 0 || !(asks || kind == answering) {
        return Err(DropReason::WrongProtocol);
    }
    Ok((Body::Echo { asks }, ECHO_HEADER_BYTES))
}

/// Writes a UDP packet into `room`; says how long it is, `None` when it does not fit.
pub(crate) fn build_udp(
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    payload: &[u8],
    room: &mut [u8],
) -> Option<usize> {
    let udp_len = UDP_HEADER_BYTES + payload.len();
    let announced = u16::try_from(udp_len).ok()?.to_be_bytes();
    let ip_len = match (from.0, to.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(udp_len + 20).ok()?;
            build_v4(source, destination, total, room)?
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            build_v6(source, destination, announced, room)?
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let datagram = room.get_mut(ip_len..ip_len + udp_len)?;
    let (header, body) = datagram.split_first_chunk_mut::<UDP_HEADER_BYTES>()?;
    body.copy_from_slice(payload);
    let ([s0, s1], [d0, d1], [l0, l1]) = (from.1.to_be_bytes(), to.1.to_be_bytes(), announced);
    *header = [s0, s1, d0, d1, l0, l1, 0, 0];
    let checksum = match !fold(sum(pseudo(from.0, to.0, udp_len, PROTOCOL_UDP), datagram)) {
        0 => 0xffff,
        other => other,
    };
    datagram
        .get_mut(6..UDP_HEADER_BYTES)?
        .copy_from_slice(&checksum.to_be_bytes());
    Some(ip_len + udp_len)
}

fn build_v4(source: Ipv4Addr, destination: Ipv4Addr, total: u16, room: &mut [u8]) -> Option<usize> {
    let header = room.first_chunk_mut::<20>()?;
    let ([l0, l1], [s0, s1, s2, s3], [d0, d1, d2, d3]) =
        (total.to_be_bytes(), source.octets(), destination.octets());
    // Version and length, DF set, a hop limit of 64.
    *header = [
        0x45,
        0,
        l0,
        l1,
        0,
        0,
        0x40,
        0,
        64,
        PROTOCOL_UDP,
        0,
        0,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ];
    let checksum = !fold(sum(0, header));
    header
        .get_mut(10..12)?
        .copy_from_slice(&checksum.to_be_bytes());
    Some(20)
}

fn build_v6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    len: [u8; 2],
    room: &mut [u8],
) -> Option<usize> {
    let header = room.first_chunk_mut::<40>()?;
    let (front, addresses) = header.split_at_mut(8);
    let [l0, l1] = len;
    front.copy_from_slice(&[0x60, 0, 0, 0, l0, l1, PROTOCOL_UDP, 64]);
    let (from, to) = addresses.split_at_mut(16);
    from.copy_from_slice(&source.octets());
    to.copy_from_slice(&destination.octets());
    Some(40)
}

/// The sum over what a checksum above IP covers outside of its message (RFC 9293 §3.1, RFC 8200 §8.1).
pub(crate) fn pseudo(source: IpAddr, destination: IpAddr, len: usize, protocol: u8) -> u64 {
    let addresses = |address: IpAddr| match address {
        IpAddr::V4(v4) => sum(0, &v4.octets()),
        IpAddr::V6(v6) => sum(0, &v6.octets()),
    };
    let len = u64::try_from(len).unwrap_or(u64::MAX) & 0xffff;
    addresses(source) + addresses(destination) + len + u64::from(protocol)
}

/// Adds `bytes` to a ones' complement sum (RFC 1071).
pub(crate) fn sum(start: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let total = words.iter().fold(start, |total, word| {
        total + u64::from(u32::from_be_bytes(*word))
    });
    let tail = match *rest {
        [a] => u32::from_be_bytes([a, 0, 0, 0]),
        [a, b] => u32::from_be_bytes([a, b, 0, 0]),
        [a, b, c] => u32::from_be_bytes([a, b, c, 0]),
        _ => 0,
    };
    total + u64::from(tail)
}

pub(crate) fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

pub(crate) const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const PROTOCOL_ICMP6: u8 = 58;
/// Source: RFC 792.
pub(crate) const ECHO_ASKS: u8 = 8;
pub(crate) const ECHO_ANSWERS: u8 = 0;
/// Source: RFC 4443 §4.1, §4.2.
pub(crate) const ECHO6_ASKS: u8 = 128;
pub(crate) const ECHO6_ANSWERS: u8 = 129;
const ECHO_HEADER_BYTES: usize = 8;
/// Source: RFC 8200 §4.5.
pub(crate) const HEADER_FRAGMENT: u8 = 44;
/// More-fragments and offset. Source: RFC 791 §3.1.
const FRAGMENT_BITS: u16 = 0x3fff;
pub(crate) const FLAG_FIN: u8 = 0x01;
pub(crate) const FLAG_SYN: u8 = 0x02;
pub(crate) const FLAG_RST: u8 = 0x04;
pub(crate) const FLAG_ACK: u8 = 0x10;
pub(crate) const UDP_HEADER_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_built_packet_reads_back_as_itself() {
        for (from, to) in [("100.64.0.1", "100.64.9.9"), ("fd00::1", "fd00::2")] {
            for len in [0, 1, 2, 3, 1_001] {
                let (packet, payload) = built(from, to, len);
                let parsed = Packet::parse(&packet).unwrap();
                assert_eq!(parsed.source, from.parse::<IpAddr>().unwrap());
                assert_eq!(parsed.destination, to.parse::<IpAddr>().unwrap());
                assert_eq!((parsed.source_port, parsed.destination_port), (4_000, 53));
                assert_eq!(parsed.body, Body::Udp);
                assert_eq!(parsed.payload(&packet), payload);
            }
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_that_matters_is_noticed() {
        let (packet, _) = built("100.64.0.1", "100.64.9.9", 20);
        for byte in 0..packet.len() {
            let mut damaged = packet.clone();
            damaged[byte] ^= 4;
            assert!(Packet::parse(&damaged).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn fragments_other_protocols_and_wrong_lengths_are_told_apart() {
        let with = |at: usize, value: u8| {
            let (mut packet, _) = built("100.64.0.1", "100.64.9.9", 20);
            packet[at] = value;
            packet[10..12].fill(0);
            let checksum = !fold(sum(0, &packet[..20]));
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            Packet::parse(&packet).err()
        };
        assert_eq!(with(6, 0x20), Some(DropReason::Fragmented));
        assert_eq!(with(7, 0x01), Some(DropReason::Fragmented));
        assert_eq!(with(9, 2), Some(DropReason::WrongProtocol));
        assert_eq!(with(0, 0x46), Some(DropReason::Options));
        assert_eq!(with(0, 0x44), Some(DropReason::Malformed));
        assert_eq!(with(3, 0), Some(DropReason::Malformed));
        let (mut v6, _) = built("fd00::1", "fd00::2", 20);
        v6[6] = HEADER_FRAGMENT;
        assert_eq!(Packet::parse(&v6).err(), Some(DropReason::Fragmented));
        v6[6] = 0;
        assert_eq!(Packet::parse(&v6).err(), Some(DropReason::WrongProtocol));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), first in 0_u8..8) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = (first << 4) | (*byte & 0x0f);
            }
            let _parsed = Packet::parse(&bytes);
        }
    }

    fn built(from: &str, to: &str, len: usize) -> (Vec<u8>, Vec<u8>) {
        let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut room = vec![0; 2_000];
        let from = (from.parse().unwrap(), 4_000);
        let to = (to.parse().unwrap(), 53);
        let len = build_udp(from, to, &payload, &mut room).unwrap();
        room.truncate(len);
        (room, payload)
    }
}
