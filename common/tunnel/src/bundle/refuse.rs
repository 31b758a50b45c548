//! What a local network stack is told of a packet that goes nowhere, so that its program need not wait.

use std::net::IpAddr;

use super::{Bundle, HEADER_BYTES, measure_ip};
use crate::inner::packet::{
    Body, FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN, PROTOCOL_ICMP, PROTOCOL_ICMP6, PROTOCOL_TCP,
    fold, pseudo, sum,
};

/// Why a packet goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Somebody decided so.
    Prohibited,
    /// There is no way at the moment: what is under way may go on later.
    Unreachable,
    /// There is nothing at its port.
    NoPort,
}

impl Bundle<'_> {
    /// The packet that says so, as a TUN takes it; nothing where none would help, or could do harm.
    ///
    /// TCP is reset, as a host does at which nobody listens; all else hears of it by ICMP, and so does TCP
    /// that begins while there is no way. What is no question is never answered.
    #[must_use]
    pub fn refusal(&self, why: Refused) -> Option<Vec<u8>> {
        let mut answer = vec![0; HEADER_BYTES];
        match (self.packet.body, why) {
            (Body::Tcp { .. }, Refused::Prohibited | Refused::NoPort) => self.reset(&mut answer)?,
            (Body::Tcp { begins: false }, Refused::Unreachable)
            | (Body::Echo { asks: false }, _) => return None,
            (Body::Tcp { begins: true }, Refused::Unreachable)
            | (Body::Udp | Body::Echo { asks: true }, _) => self.error(why, &mut answer)?,
        }
        Some(answer)
    }

    /// A reset of the conversation that the segment belongs to.
    ///
    /// Source: RFC 9293 §3.10.7.1.
    fn reset(&self, answer: &mut Vec<u8>) -> Option<()> {
        let segment = self.bytes.get(self.packet.ip_len..)?;
        let word = |at: usize| Some(u32::from_be_bytes(*segment.get(at..)?.first_chunk()?));
        let (sequence, acknowledged, flags) = (word(4)?, word(8)?, *segment.get(13)?);
        if flags & FLAG_RST != 0 {
            return None;
        }
        let (sequence, acknowledged, flags) = if flags & FLAG_ACK == 0 {
            let controls = (flags & (FLAG_SYN | FLAG_FIN)).count_ones();
            let payload = u32::try_from(self.payload_len()).ok()?;
            let next = sequence.wrapping_add(payload).wrapping_add(controls);
            (0, next, FLAG_RST | FLAG_ACK)
        } else {
            (acknowledged, 0, FLAG_RST)
        };
        let start = self.begin(answer, PROTOCOL_TCP, TCP_HEADER_BYTES)?;
        answer.extend(self.packet.destination_port.to_be_bytes());
        answer.extend(self.packet.source_port.to_be_bytes());
        answer.extend(u32::to_be_bytes(sequence));
        answer.extend(u32::to_be_bytes(acknowledged));
        answer.extend([TCP_OFFSET, flags, 0, 0, 0, 0, 0, 0]);
        self.finish(answer, start, (16, Some(PROTOCOL_TCP)))
    }

    /// An error that quotes the packet.
    ///
    /// Source: RFC 1812 §4.3.2.3 and §5.2.7.1; RFC 4443 §3.1.
    fn error(&self, why: Refused, answer: &mut Vec<u8>) -> Option<()> {
        let is_v4 = self.packet.source.is_ipv4();
        let (kind, code) = match (is_v4, why) {
            (true, Refused::Unreachable) => (3, 1),
            (true, Refused::NoPort) => (3, 3),
            (true, Refused::Prohibited) => (3, 13),
            (false, Refused::Prohibited) => (1, 1),
            (false, Refused::Unreachable) => (1, 3),
            (false, Refused::NoPort) => (1, 4),
        };
        let most = if is_v4 {
            QUOTED_BYTES_MAX
        } else {
            QUOTED6_BYTES_MAX
        };
        let quoted = self.bytes.get(..self.bytes.len().min(most))?;
        let protocol = if is_v4 { PROTOCOL_ICMP } else { PROTOCOL_ICMP6 };
        let start = self.begin(answer, protocol, ERROR_HEADER_BYTES + quoted.len())?;
        answer.extend([kind, code, 0, 0, 0, 0, 0, 0]);
        answer.extend(quoted);
        let covered = (!is_v4).then_some(PROTOCOL_ICMP6);
        self.finish(answer, start, (2, covered))
    }

    /// An IP header from where the packet went to where it came from; gives the place behind it.
    fn begin(&self, answer: &mut Vec<u8>, protocol: u8, len: usize) -> Option<usize> {
        let at = answer.len();
        match (self.packet.destination, self.packet.source) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                answer.extend([0x45, 0, 0, 0, 0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
                answer.extend(from.octets());
                answer.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                answer.extend([0x60, 0, 0, 0, 0, 0, protocol, HOPS]);
                answer.extend(from.octets());
                answer.extend(to.octets());
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        }
        let end = answer.len();
        measure_ip(answer.get_mut(at..)?, end - at + len)?;
        Some(end)
    }

    /// Sums what stands from `start` on, at the place of its checksum; with a pseudo header or not.
    fn finish(
        &self,
        answer: &mut [u8],
        start: usize,
        (field, covered): (usize, Option<u8>),
    ) -> Option<()> {
        let above = answer.get_mut(start..)?;
        let (from, to) = (self.packet.destination, self.packet.source);
        let first = covered.map_or(0, |protocol| pseudo(from, to, above.len(), protocol));
        let made = !fold(sum(first, above));
        let field = above.get_mut(field..field + 2)?;
        field.copy_from_slice(&made.to_be_bytes());
        Some(())
    }
}

const TCP_HEADER_BYTES: usize = 20;

/// Five words, in the upper half of its byte.
const TCP_OFFSET: u8 = 5 << 4;

const ERROR_HEADER_BYTES: usize = 8;

/// Bytes of a packet that an error quotes: what makes the error 576 bytes long. Source: RFC 1812 §4.3.2.3.
const QUOTED_BYTES_MAX: usize = 576 - 20 - ERROR_HEADER_BYTES;

/// The same over IPv6, whose errors fit into every network. Source: RFC 4443 §2.4 (c).
const QUOTED6_BYTES_MAX: usize = 1_280 - 40 - ERROR_HEADER_BYTES;

const HOPS: u8 = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::inner::packet::{Packet, build_udp};

    const V4: [&str; 2] = ["100.64.0.1", "100.96.0.2"];
    const V6: [&str; 2] = ["fd00::1", "fd00::2"];

    #[test]
    fn a_segment_is_reset_as_its_sender_expects() {
        for ends in [V4, V6] {
            let [device, app] = ends.map(|end| end.parse::<IpAddr>().unwrap());
            for (flags, payload, expected) in [
                (FLAG_SYN, 0, (0, 1_001, FLAG_RST | FLAG_ACK)),
                (FLAG_SYN, 4, (0, 1_005, FLAG_RST | FLAG_ACK)),
                (FLAG_ACK, 9, (77, 0, FLAG_RST)),
                (FLAG_ACK | FLAG_FIN, 0, (77, 0, FLAG_RST)),
            ] {
                let mut given = segment(ends, flags, payload);
                let bundle = Bundle::read(&mut given).unwrap();
                let answer = bundle.refusal(Refused::Prohibited).unwrap();
                let (said, bytes) = read(&answer);
                assert_eq!((said.source, said.destination), (app, device));
                assert_eq!((said.source_port, said.destination_port), (80, 4_711));
                let above = &bytes[said.ip_len..];
                let word = |at: usize| u32::from_be_bytes(above[at..at + 4].try_into().unwrap());
                assert_eq!((word(4), word(8), above[13]), expected, "{flags:#x}");
                // It is read like any packet whose sum somebody made.
                assert!(Bundle::read(&mut answer.clone()).is_ok());
            }
            let mut reset = segment(ends, FLAG_RST, 0);
            let reset = Bundle::read(&mut reset).unwrap();
            assert_eq!(reset.refusal(Refused::Prohibited), None);
        }
    }

    #[test]
    fn what_is_under_way_is_not_reset_while_there_is_no_way() {
        let mut under_way = segment(V4, FLAG_ACK, 9);
        let under_way = Bundle::read(&mut under_way).unwrap();
        assert_eq!(under_way.refusal(Refused::Unreachable), None);
        let mut begins = segment(V4, FLAG_SYN, 0);
        let begins = Bundle::read(&mut begins).unwrap();
        let answer = begins.refusal(Refused::Unreachable).unwrap();
        // A host is unreachable: RFC 792, over protocol 1.
        assert_eq!(
            (answer[HEADER_BYTES + 9], &answer[HEADER_BYTES + 20..][..2]),
            (1, &[3, 1][..])
        );
    }

    #[test]
    fn a_datagram_is_answered_with_an_error_that_quotes_it() {
        for (ends, codes) in [
            (V4, [(3, 13), (3, 1), (3, 3)]),
            (V6, [(1, 1), (1, 3), (1, 4)]),
        ] {
            let whys = [Refused::Prohibited, Refused::Unreachable, Refused::NoPort];
            for ((why, code), len) in whys.into_iter().zip(codes).zip([3, 900, 1_300]) {
                let mut given = datagram(ends, len);
                let copy = given[HEADER_BYTES..].to_vec();
                let bundle = Bundle::read(&mut given).unwrap();
                let (packet, answer) = (bundle.packet, bundle.refusal(why).unwrap());
                let bytes = &answer[HEADER_BYTES..];
                let above = &bytes[packet.ip_len..];
                assert_eq!((above[0], above[1]), code);
                let quoted = &above[ERROR_HEADER_BYTES..];
                assert_eq!(quoted, &copy[..quoted.len()]);
                assert!(quoted.len() >= copy.len().min(QUOTED_BYTES_MAX));
                assert!(bytes.len() <= if ends == V4 { 576 } else { 1_280 });
                let start = if ends == V4 {
                    0
                } else {
                    pseudo(
                        packet.destination,
                        packet.source,
                        above.len(),
                        PROTOCOL_ICMP6,
                    )
                };
                assert_eq!(fold(sum(start, above)), 0xffff);
                // The header is right: only what it carries is not for a tunnel.
                let read = Packet::parse_head(bytes);
                assert_eq!(read, Err(crate::DropReason::WrongProtocol));
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(bundle) = Bundle::read(&mut bytes) {
                for why in [Refused::Prohibited, Refused::Unreachable, Refused::NoPort] {
                    let _answer = bundle.refusal(why);
                }
            }
        }
    }

    fn read(answer: &[u8]) -> (Packet, &[u8]) {
        let bytes = &answer[HEADER_BYTES..];
        (Packet::parse_head(bytes).unwrap(), bytes)
    }

    fn datagram([from, to]: [&str; 2], len: usize) -> Vec<u8> {
        let mut room = vec![0; 2_000];
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let payload = vec![7; len];
        let len = build_udp((from, 4_711), (to, 53), &payload, &mut room).unwrap();
        [&[0; HEADER_BYTES], &room[..len]].concat()
    }

    /// A segment with sequence 1,000, acknowledging 77.
    fn segment(ends: [&str; 2], flags: u8, payload: usize) -> Vec<u8> {
        // An IP header as a datagram has it, with eight bytes less above.
        let mut packet = datagram(ends, 12 + payload);
        let is_v4 = ends == V4;
        let ip_len = if is_v4 { 20 } else { 40 };
        let (ip, above) = packet[HEADER_BYTES..].split_at_mut(ip_len);
        let len = ip.len() + above.len();
        ip[if is_v4 { 9 } else { 6 }] = PROTOCOL_TCP;
        measure_ip(ip, len).unwrap();
        above[..2].copy_from_slice(&4_711_u16.to_be_bytes());
        above[2..4].copy_from_slice(&80_u16.to_be_bytes());
        above[4..8].copy_from_slice(&1_000_u32.to_be_bytes());
        above[8..12].copy_from_slice(&77_u32.to_be_bytes());
        above[12..20].copy_from_slice(&[TCP_OFFSET, flags, 0, 0, 0, 0, 0, 0]);
        let [from, to] = ends.map(|end| end.parse::<IpAddr>().unwrap());
        let made = !fold(sum(pseudo(from, to, above.len(), PROTOCOL_TCP), above));
        above[16..18].copy_from_slice(&made.to_be_bytes());
        packet
    }
}
