//! What our two ends say to each other inside QUIC.
//!
//! ```text
//! stream, agent → connector   version (1) protocol (1) port (2) ∥ the flow's bytes
//! stream, connector → agent   dialed (1) ∥ the flow's bytes
//! DATAGRAM, either way        flow (4) port (2) packet (2) part (1) parts (1) ∥ a part of a payload
//!                             the same with flow and port 0: of an inner packet
//! ```
//!
//! A flow that is not dialed, or ends before its time, is reset with one of the codes below.

use bytes::{BufMut, Bytes, BytesMut};
use cardea_proto::app::{Protocol, Service};
use quinn_proto::VarInt;

use crate::{input::DialError, outbox::ResetReason};

/// Bytes before the flow's own on an agent's side of a stream.
pub const HEADER_BYTES: usize = 4;

/// What a connector sends once the target is reached.
pub(super) const DIALED: u8 = 0;

/// The first bytes of a stream.
pub(super) fn header(service: Service) -> [u8; HEADER_BYTES] {
    let protocol = match service.protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
    };
    let [high, low] = service.port.to_be_bytes();
    [VERSION, protocol, high, low]
}

/// The service that a stream asks for; only TCP travels in streams.
#[must_use]
pub fn parse_header(header: [u8; HEADER_BYTES]) -> Option<Service> {
    let [version, protocol, high, low] = header;
    (version == VERSION && protocol == PROTOCOL_TCP).then_some(Service {
        protocol: Protocol::Tcp,
        port: u16::from_be_bytes([high, low]),
    })
}

/// Why a stream is reset, as its code.
pub(super) fn code(why: ResetReason) -> VarInt {
    VarInt::from_u32(match why {
        ResetReason::Refused(DialError::Refused) => 1,
        ResetReason::Refused(DialError::Unreachable) => 2,
        ResetReason::Refused(DialError::TimedOut) => 3,
        ResetReason::Refused(DialError::NotResolved) => 4,
        ResetReason::Refused(DialError::NotPermitted) => 5,
        ResetReason::Refused(DialError::Busy) => 6,
        ResetReason::NotGranted => 7,
        ResetReason::Limit => 8,
        ResetReason::Peer | ResetReason::TunnelClosed(_) => 9,
        ResetReason::Refused(DialError::Unsaid) => 10,
    })
}

/// What a code means.
pub(super) fn reason(code: VarInt) -> ResetReason {
    match code.into_inner() {
        1 => ResetReason::Refused(DialError::Refused),
        2 => ResetReason::Refused(DialError::Unreachable),
        3 => ResetReason::Refused(DialError::TimedOut),
        4 => ResetReason::Refused(DialError::NotResolved),
        5 => ResetReason::Refused(DialError::NotPermitted),
        6 => ResetReason::Refused(DialError::Busy),
        7 => ResetReason::NotGranted,
        8 => ResetReason::Limit,
        10 => ResetReason::Refused(DialError::Unsaid),
        _ => ResetReason::Peer,
    }
}

/// Names a UDP flow within a tunnel; the agent counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UdpName {
    pub(super) flow: u32,
    pub(super) port: u16,
}

/// One DATAGRAM: a whole payload, or a part of one that is longer than the path carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub(super) name: UdpName,
    /// Counts a flow's payloads, so that parts of two are not mixed.
    pub(super) packet: u16,
    pub(super) part: u8,
    pub(super) parts: u8,
    pub(super) bytes: Bytes,
}

impl Part {
    /// Its bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode(
            (self.name, self.packet),
            (self.part, self.parts),
            &self.bytes,
        )
    }

    /// Reads one; `None` when it is no part of a payload.
    #[must_use]
    pub fn parse(mut frame: Bytes) -> Option<Self> {
        let header = *frame.first_chunk::<PART_HEADER_BYTES>()?;
        let [f0, f1, f2, f3, p0, p1, n0, n1, part, parts] = header;
        let bytes = frame.split_off(PART_HEADER_BYTES);
        (part < parts && parts <= PARTS_MAX).then_some(Self {
            name: UdpName {
                flow: u32::from_be_bytes([f0, f1, f2, f3]),
                port: u16::from_be_bytes([p0, p1]),
            },
            packet: u16::from_be_bytes([n0, n1]),
            part,
            parts,
            bytes,
        })
    }
}

/// The parts of a payload, as they stand on the wire, for a path that carries `room` bytes in a
/// DATAGRAM; `None` when there would be too many.
pub(super) fn split(
    name: UdpName,
    packet: u16,
    payload: &[u8],
    room: usize,
) -> Option<impl Iterator<Item = Bytes>> {
    let room = room
        .checked_sub(PART_HEADER_BYTES)
        .filter(|room| *room > 0)?;
    let parts = u8::try_from(payload.len().div_ceil(room).max(1)).ok()?;
    if parts > PARTS_MAX {
        return None;
    }
    Some((0..parts).map(move |part| {
        let start = usize::from(part) * room;
        let end = payload.len().min(start + room);
        let bytes = payload.get(start..end).unwrap_or_default();
        encode((name, packet), (part, parts), bytes)
    }))
}

fn encode((name, packet): (UdpName, u16), (part, parts): (u8, u8), bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PART_HEADER_BYTES + bytes.len());
    frame.put_u32(name.flow);
    frame.put_u16(name.port);
    frame.put_u16(packet);
    frame.put_u8(part);
    frame.put_u8(parts);
    frame.put_slice(bytes);
    frame.freeze()
}

/// Names what is no payload of a flow but a whole inner packet: no service has port 0.
pub(super) const PACKETS: UdpName = UdpName { flow: 0, port: 0 };

const VERSION: u8 = 1;
/// Source: IANA's protocol numbers.
const PROTOCOL_TCP: u8 = 6;
/// Source: IANA's protocol numbers.
const PROTOCOL_UDP: u8 = 17;
/// Bytes before a part's own.
pub(super) const PART_HEADER_BYTES: usize = 10;

/// Most parts of one payload: the largest packet on the smallest path makes 57.
const PARTS_MAX: u8 = 60;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_reads_back_as_its_service_and_no_other_does() {
        let service = Service {
            protocol: Protocol::Tcp,
            port: 5_432,
        };
        assert_eq!(parse_header(header(service)), Some(service));
        assert_eq!(parse_header([2, 6, 0, 80]), None);
        assert_eq!(parse_header([1, 17, 0, 80]), None);
    }

    #[test]
    fn every_reset_arrives_as_what_it_was() {
        for code_sent in 1..=9 {
            let why = reason(VarInt::from_u32(code_sent));
            assert_eq!(code(why), VarInt::from_u32(code_sent));
        }
    }

    proptest! {
        #[test]
        fn parts_put_together_are_the_payload(len in 0_usize..65_508, room in 1_150_usize..65_000) {
            let payload = vec![7; len];
            let name = UdpName { flow: 3, port: 53 };
            let mut joined = 0;
            for bytes in split(name, 9, &payload, room).unwrap() {
                prop_assert!(bytes.len() <= room);
                let part = Part::parse(bytes.clone()).unwrap();
                prop_assert_eq!(part.encode(), bytes);
                joined += part.bytes.len();
            }
            prop_assert_eq!(joined, len);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _part = Part::parse(Bytes::from(bytes));
        }
    }
}
