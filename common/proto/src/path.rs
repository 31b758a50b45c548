//! What the two ends of a tunnel say about the paths between them, below either carrier.
//!
//! ```text
//! Data header │ 0x35 │ counter (8) │ sealed: Probe, Answer, Candidates, Lost or Turned │ tag (16)
//! ```
//!
//! A sealed frame travels where the carrier's datagrams do: behind the eight bytes of a `Data`
//! datagram, through the relay or directly. Its first byte is none with which WireGuard or QUIC
//! (with the fixed bit, RFC 9000 §17.2) begin.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// First byte of the sealed part of a datagram that holds a frame of this kind.
pub const PATH_FRAME: u8 = 0x35;

/// Bytes of a counter, which is the nonce of a frame's seal.
pub const PATH_COUNTER_BYTES: usize = 8;

/// Bytes of the seal's tag (RFC 8439).
pub const PATH_TAG_BYTES: usize = 16;

/// Bytes that the seal adds to a frame: kind, counter and tag.
pub const PATH_SEAL_BYTES: usize = 1 + PATH_COUNTER_BYTES + PATH_TAG_BYTES;

/// Bytes of an answer, and of a probe that is not padded: neither is longer than the other, so that
/// nobody gains by being answered.
pub const PROBE_BYTES: usize = 1 + 4 + 4;

/// Most addresses that an end names.
pub const CANDIDATES_MAX: usize = 8;

/// Bytes of an address: IPv6, or IPv4 within it (RFC 4291 §2.5.5.2), and port.
pub const ADDRESS_BYTES: usize = 16 + 2;

/// Which way a tunnel's datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// Through this relay.
    Relay(SocketAddr),
    /// Through this relay, which a detour over TLS leads to.
    RelayTls(SocketAddr),
    /// Straight to this address.
    Direct(SocketAddr),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay(address) => write!(f, "relay {address}"),
            Self::RelayTls(address) => write!(f, "relay-tls {address}"),
            Self::Direct(address) => write!(f, "direct {address}"),
        }
    }
}

/// One statement of an end about paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathFrame {
    /// Asks for an answer on the same path; may be padded to find out what the path carries.
    Probe {
        /// Names it.
        id: u32,
    },
    /// A probe arrived.
    Answer {
        /// Which.
        of: u32,
        /// Probes the way back at once, under this name.
        id: Option<u32>,
    },
    /// The direct path that this end used does not carry datagrams of this size any more; that of the
    /// other end is likely to be the same way back.
    Lost {
        /// In bytes; zero when all that was sent lately is lost, because this end is somewhere else.
        size: u32,
    },
    /// Where this end may be reached.
    Candidates {
        /// Counts the changes of the list, from one.
        version: u32,
        /// The version of the other end's list that was heard last.
        heard: u32,
        /// Whether the list waits to be heard, so that an answer is due.
        asks: bool,
        /// At most [`CANDIDATES_MAX`] addresses.
        addresses: Vec<SocketAddr>,
    },
    /// This end sends through the relay by which this comes, because nothing came through the one
    /// before any more; the other end's datagrams are lost there as well.
    Turned,
}

impl PathFrame {
    /// Its bytes, before they are sealed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Probe { id } => [&[PROBE][..], &id.to_be_bytes(), &[0; 4]].concat(),
            Self::Answer { of, id } => {
                let id = id.unwrap_or_default();
                [&[ANSWER][..], &of.to_be_bytes(), &id.to_be_bytes()].concat()
            }
            Self::Lost { size } => [&[LOST][..], &size.to_be_bytes(), &[0; 4]].concat(),
            Self::Turned => [&[TURNED][..], &[0; 8]].concat(),
            Self::Candidates {
                version,
                heard,
                asks,
                addresses,
            } => {
                let mut bytes = [
                    &[CANDIDATES][..],
                    &version.to_be_bytes(),
                    &heard.to_be_bytes(),
                ]
                .concat();
                bytes.push(u8::from(*asks));
                for address in addresses.iter().take(CANDIDATES_MAX) {
                    bytes.extend_from_slice(&address_bytes(*address));
                }
                bytes
            }
        }
    }

    /// Reads what [`PathFrame::encode`] wrote, and whatever padding follows a probe.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[kind, a, b, c, d, e, f, g, h], rest) = bytes.split_first_chunk::<PROBE_BYTES>()?;
        let first = u32::from_be_bytes([a, b, c, d]);
        let second = u32::from_be_bytes([e, f, g, h]);
        match kind {
            PROBE => Some(Self::Probe { id: first }),
            ANSWER if rest.is_empty() => Some(Self::Answer {
                of: first,
                id: (second != 0).then_some(second),
            }),
            LOST if rest.is_empty() => Some(Self::Lost { size: first }),
            TURNED if rest.is_empty() => Some(Self::Turned),
            CANDIDATES => {
                let (asks, rest) = rest.split_first()?;
                let chunks = rest.chunks_exact(ADDRESS_BYTES);
                let fits =
                    *asks <= 1 && chunks.remainder().is_empty() && chunks.len() <= CANDIDATES_MAX;
                let addresses: Option<Vec<SocketAddr>> = chunks
                    .map(|chunk| Some(address_of(chunk.first_chunk()?)))
                    .collect();
                addresses
                    .filter(|_| fits)
                    .map(|addresses| Self::Candidates {
                        version: first,
                        heard: second,
                        asks: *asks == 1,
                        addresses,
                    })
            }
            _ => None,
        }
    }
}

/// An address as it travels.
#[must_use]
pub fn address_bytes(address: SocketAddr) -> [u8; ADDRESS_BYTES] {
    let ip = match address {
        SocketAddr::V4(address) => address.ip().to_ipv6_mapped(),
        SocketAddr::V6(address) => *address.ip(),
    };
    let mut bytes = [0; ADDRESS_BYTES];
    let (front, port) = bytes.split_at_mut(16);
    front.copy_from_slice(&ip.octets());
    port.copy_from_slice(&address.port().to_be_bytes());
    bytes
}

/// The address that [`address_bytes`] wrote.
#[must_use]
pub fn address_of(bytes: &[u8; ADDRESS_BYTES]) -> SocketAddr {
    let [ip @ .., high, low] = *bytes;
    let ip = IpAddr::V6(Ipv6Addr::from(ip)).to_canonical();
    SocketAddr::new(ip, u16::from_be_bytes([high, low]))
}

const PROBE: u8 = 1;
const ANSWER: u8 = 2;
const CANDIDATES: u8 = 3;
const LOST: u8 = 4;
const TURNED: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_reads_back_and_no_answer_is_longer_than_its_probe() {
        let addresses = vec![
            "192.0.2.7:4711".parse().unwrap(),
            "[2001:db8::7]:65535".parse().unwrap(),
        ];
        let frames = [
            PathFrame::Probe { id: 7 },
            PathFrame::Answer { of: 7, id: None },
            PathFrame::Answer {
                of: u32::MAX,
                id: Some(1),
            },
            PathFrame::Lost { size: 1_440 },
            PathFrame::Turned,
            PathFrame::Candidates {
                version: 3,
                heard: 0,
                asks: true,
                addresses,
            },
        ];
        for frame in &frames {
            assert_eq!(PathFrame::decode(&frame.encode()).as_ref(), Some(frame));
        }
        for frame in frames.iter().take(5) {
            assert_eq!(frame.encode().len(), PROBE_BYTES);
        }
    }

    #[test]
    fn padding_follows_a_probe_and_nothing_else() {
        let padded = |frame: &PathFrame| [frame.encode(), vec![0; 100]].concat();
        let probe = PathFrame::Probe { id: 7 };
        assert_eq!(PathFrame::decode(&padded(&probe)), Some(probe));
        let answer = PathFrame::Answer { of: 7, id: None };
        assert_eq!(PathFrame::decode(&padded(&answer)), None);
    }

    #[test]
    fn more_addresses_than_an_end_may_name_and_parts_of_one_are_refused() {
        let frame = |bytes: usize| [&[CANDIDATES][..], &[0; 9], &vec![0; bytes]].concat();
        assert!(PathFrame::decode(&frame(CANDIDATES_MAX * ADDRESS_BYTES)).is_some());
        assert!(PathFrame::decode(&frame((CANDIDATES_MAX + 1) * ADDRESS_BYTES)).is_none());
        assert!(PathFrame::decode(&frame(ADDRESS_BYTES - 1)).is_none());
        assert!(PathFrame::decode(&[]).is_none());
        assert!(PathFrame::decode(&[9; PROBE_BYTES]).is_none());
    }
}
