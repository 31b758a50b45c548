//! What reaches QUIC: decided on the first bytes of each datagram, before anything is allocated.
//!
//! QUIC answers strangers in many ways: it negotiates versions, closes what it does not like, asks
//! for tokens, resets what it does not know (RFC 9000 §5.2, §6, §8.1, §10.3). All of them begin with
//! a datagram that it is handed, so one place below it closes them:
//!
//! ```text
//!  first byte           connection id                          passes when
//!  short header         16 bytes                               its MAC is ours
//!  Handshake            16 bytes                               its MAC is ours
//!  Initial              16 bytes                               the same, and at a server its source
//!                                                              knocked within the last seconds
//!  Initial, no token    20 bytes, of 1,200 or more             at a server: the knock opens
//!  anything else                                               never
//! ```
//!
//! An id of ours is not enough for an Initial: ids are visible on the wire, and a first packet to one
//! whose connection is over would begin another.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use cardea_credential::knock::{CONNECTION_ID_BYTES, ConnectionIds, KNOCK_BYTES, Knock};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig, udp::RecvMeta};
use quinn_proto::InvalidCid;

use super::Gate;
use crate::{entropy, sieve::Step};

/// The one version of QUIC that is spoken. Source: RFC 9000 §15.
const VERSION: u32 = 1;

/// Set in every packet of version 1. Source: RFC 9000 §17.2, §17.3.
const FIXED_BIT: u8 = 0x40;

/// Set in packets with a long header.
const LONG_HEADER: u8 = 0x80;

/// Where a long header says what kind of packet it is. Source: RFC 9000 §17.2.
const LONG_KIND: u8 = 0x30;

/// Smallest datagram with which a connection begins. Source: RFC 9000 §14.1.
const FIRST_BYTES_MIN: usize = 1_200;

/// The same by shape alone, for the kernel: no more than it can see without a key.
pub(super) fn shapes() -> [Step; 15] {
    let number = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    [
        Step::Byte(0),
        Step::AnyBit(FIXED_BIT.into(), 0, 12),
        Step::AnyBit(LONG_HEADER.into(), 0, 8),
        // Of what is left of the kinds, data before the handshake and Retry have this bit.
        Step::AnyBit(0x10, 10, 0),
        Step::Word(1),
        Step::Equal(VERSION, 0, 8),
        Step::Byte(5),
        Step::Equal(number(CONNECTION_ID_BYTES), 5, 0),
        Step::Equal(number(KNOCK_BYTES), 0, 5),
        Step::Length,
        Step::AtLeast(number(FIRST_BYTES_MIN), 2, 3),
        // A short header.
        Step::Length,
        Step::AtLeast(number(1 + CONNECTION_ID_BYTES), 0, 1),
        Step::Pass,
        Step::Drop,
    ]
}

/// Lets through what belongs to one endpoint.
#[derive(Debug)]
pub struct Filter {
    ids: ConnectionIds,
    /// What a server has, and a client does not.
    gate: Option<Gate>,
    is_closing: AtomicBool,
    dropped: AtomicU64,
}

/// What a datagram says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header<'a> {
    /// Of a connection that is up.
    Short { id: &'a [u8] },
    /// Of a handshake that goes on.
    Handshake { id: &'a [u8] },
    /// Of a handshake that begins, or goes on.
    Initial { id: &'a [u8], has_token: bool },
}

impl Filter {
    /// The filter of an endpoint; one with a gate takes connections.
    #[must_use]
    pub fn new(gate: Option<Gate>) -> Arc<Self> {
        Arc::new(Self {
            ids: ConnectionIds::new(&entropy::seed()),
            gate,
            is_closing: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        })
    }

    /// How QUIC must be set up behind this filter.
    pub(super) fn endpoint(self: &Arc<Self>) -> EndpointConfig {
        let mut config = EndpointConfig::default();
        let filter = Arc::clone(self);
        config
            .cid_generator(move || Box::new(Ids(Arc::clone(&filter))))
            .supported_versions(vec![VERSION])
            .grease_quic_bit(false);
        config
    }

    /// No connection begins any longer: what QUIC has to say to one that does is said to nobody.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    /// How many datagrams did not pass.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Keeps what passes of one receive buffer, closed up at its beginning.
    ///
    /// The kernel coalesces datagrams of one sender: all but the last have the same size, and what
    /// is kept of them has too.
    pub(super) fn keep(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let (mut from, mut kept) = (0, 0);
        while from < meta.len {
            let end = meta.len.min(from.saturating_add(meta.stride.max(1)));
            let passes = buffer
                .get(from..end)
                .is_some_and(|datagram| self.passes(datagram, meta.addr));
            if passes {
                buffer.copy_within(from..end, kept);
                kept += end - from;
            } else {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            from = end;
        }
        meta.len = kept;
    }

    /// Whether one datagram passes.
    #[must_use]
    pub fn passes(&self, datagram: &[u8], source: SocketAddr) -> bool {
        match Header::of(datagram) {
            Some(Header::Short { id } | Header::Handshake { id }) => self.ids.is_ours(id),
            Some(Header::Initial { id, .. }) if id.len() == CONNECTION_ID_BYTES => {
                let is_expected = |gate: &Gate| gate.has_opened(source);
                self.ids.is_ours(id) && self.gate.as_ref().is_none_or(is_expected)
            }
            Some(Header::Initial { id, has_token }) => {
                let (Some(knock), Some(gate)) = (Knock::from_bytes(id), &self.gate) else {
                    return false;
                };
                let is_closing = self.is_closing.load(Ordering::Relaxed);
                let is_whole = datagram.len() >= FIRST_BYTES_MIN && !has_token;
                is_whole && !is_closing && gate.opens(&knock, source)
            }
            None => false,
        }
    }
}

impl<'a> Header<'a> {
    /// Reads what every packet shows unprotected; `None` when it is of no kind that passes.
    fn of(datagram: &'a [u8]) -> Option<Self> {
        let (first, rest) = datagram.split_first()?;
        if first & FIXED_BIT == 0 {
            return None;
        }
        if first & LONG_HEADER == 0 {
            let id = rest.get(..CONNECTION_ID_BYTES)?;
            return Some(Self::Short { id });
        }
        let (version, rest) = rest.split_first_chunk::<4>()?;
        if u32::from_be_bytes(*version) != VERSION {
            return None;
        }
        let (id, rest) = counted(rest)?;
        let (_source, rest) = counted(rest)?;
        match first & LONG_KIND {
            0x00 => Some(Self::Initial {
                id,
                has_token: rest.first() != Some(&0),
            }),
            0x20 => Some(Self::Handshake { id }),
            // Data before the handshake and Retry: neither end of ours ever sends one.
            _ => None,
        }
    }
}

/// What follows a length byte, and the rest.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Issues connection ids that the filter knows again.
struct Ids(Arc<Filter>);

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.ids.issue(entropy::bytes()))
    }

    /// Asked about one thing alone: whether a packet of no connection is worth a stateless reset
    /// (RFC 9000 §10.3). It never is. An id of a connection that is over is valid, and known to
    /// everybody who saw it pass.
    fn validate(&self, _id: &ConnectionId) -> Result<(), InvalidCid> {
        Err(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use cardea_proto::codec::Bytes;

    use super::*;
    use crate::{
        channel::tests::{caller, gate},
        sieve,
    };

    #[test]
    fn the_kernel_drops_what_has_no_shape_of_ours_and_nothing_else() {
        let socket = crate::udp::socket((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        sieve::attach(&socket, &shapes());
        let stranger = crate::udp::socket((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        stranger.connect(&socket.local_addr().unwrap()).unwrap();
        let long = |first: u8, version: u32, id: u8, length: usize| {
            let mut bytes = [&[first][..], &version.to_be_bytes(), &[id]].concat();
            bytes.resize(length, 0);
            bytes
        };
        let mut dropped = 0;
        for (datagram, arrives) in [
            (vec![FIXED_BIT; 17], true),
            (vec![0x7f; 1_400], true),
            (vec![FIXED_BIT; 16], false),
            (vec![0x3f; 100], false),
            (vec![], false),
            (long(0xc0, 1, 20, 1_200), true),
            (long(0xcf, 1, 20, 1_452), true),
            (long(0xc0, 1, 20, 1_199), false),
            (long(0xc0, 1, 16, 40), true),
            (long(0xe0, 1, 16, 40), true),
            (long(0x80, 1, 16, 40), false),
            (long(0xd0, 1, 16, 40), false),
            (long(0xf0, 1, 20, 1_200), false),
            (long(0xc0, 0, 20, 1_200), false),
            (long(0xc0, 0x6b33_43cf, 20, 1_200), false),
            (long(0xc0, 1, 8, 1_200), false),
            (long(0xc0, 1, 16, 5), false),
            // STUN, DTLS, and the first message of WireGuard.
            (vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], false),
            (vec![0x16, 0xfe, 0xfd, 0, 0], false),
            ([&[1, 0, 0, 0][..], &[9; 144]].concat(), false),
        ] {
            stranger.send(&datagram).unwrap();
            assert_eq!(
                (&socket).read(&mut [0; 2_048]).is_ok(),
                arrives,
                "{datagram:x?}"
            );
            dropped += u32::from(!arrives);
            assert_eq!(sieve::dropped(&socket).unwrap(), dropped, "{datagram:x?}");
        }
    }

    #[test]
    fn what_is_kept_of_a_coalesced_buffer_is_closed_up() {
        let filter = Filter::new(None);
        let ours = |fill| {
            let id = filter.ids.issue([fill; 8]);
            [&[FIXED_BIT][..], &id, &[fill; 23]].concat()
        };
        let stray = vec![FIXED_BIT; 40];
        for (datagrams, expected) in [
            (
                vec![ours(1), stray.clone(), ours(2)],
                vec![ours(1), ours(2)],
            ),
            (
                vec![stray.clone(), ours(1), ours(2)],
                vec![ours(1), ours(2)],
            ),
            (
                vec![ours(1), ours(2), stray.clone()],
                vec![ours(1), ours(2)],
            ),
            (vec![stray.clone(), stray.clone()], vec![]),
            (
                vec![stray.clone(), ours(3)[..30].to_vec()],
                vec![ours(3)[..30].to_vec()],
            ),
            (vec![ours(3), stray[..30].to_vec()], vec![ours(3)]),
            (vec![vec![]], vec![]),
        ] {
            let mut buffer = datagrams.concat();
            let mut meta = RecvMeta {
                len: buffer.len(),
                stride: datagrams[0].len(),
                ..RecvMeta::default()
            };
            filter.keep(&mut buffer, &mut meta);
            assert_eq!(buffer[..meta.len], expected.concat());
        }
        assert_eq!(filter.dropped(), 7);
    }

    #[test]
    fn only_what_may_be_ours_has_a_header() {
        let long = |first: u8, version: u32, id: &[u8], rest: &[u8]| {
            let length = [u8::try_from(id.len()).unwrap()];
            let version = version.to_be_bytes();
            [&[first][..], &version, &length, id, &[0], rest].concat()
        };
        let id = [7; 20];
        let plain = Header::Initial {
            id: &id,
            has_token: false,
        };
        let token = Header::Initial {
            id: &id,
            has_token: true,
        };
        for (datagram, expected) in [
            (long(0xc0, 1, &id, &[0, 1]), Some(plain)),
            (long(0xc0, 1, &id, &[1, 1]), Some(token)),
            (long(0xc0, 1, &id, &[]), Some(token)),
            (
                long(0xe0, 1, &id, &[0]),
                Some(Header::Handshake { id: &id }),
            ),
            (long(0xd0, 1, &id, &[0]), None),
            (long(0xf0, 1, &id, &[0]), None),
            (long(0x80, 1, &id, &[0]), None),
            (long(0xc0, 0, &id, &[0]), None),
            (long(0xc0, 2, &id, &[0]), None),
            (long(0xc0, 1, &id, &[])[..10].to_vec(), None),
            (vec![0x40; 17], Some(Header::Short { id: &[0x40; 16] })),
            (vec![0x40; 16], None),
            (vec![0x00; 40], None),
            (vec![], None),
        ] {
            assert_eq!(Header::of(&datagram), expected, "{datagram:02x?}");
        }
    }

    #[test]
    fn a_client_takes_its_own_ids_and_no_knock() {
        let filter = Filter::new(None);
        let from = "192.0.2.1:9".parse().unwrap();
        let id = filter.ids.issue([1; 8]);
        let initial = |id: &[u8]| {
            let length = [u8::try_from(id.len()).unwrap()];
            let head = [&[0xc0, 0, 0, 0, 1][..], &length, id, &[0, 0]].concat();
            [&head[..], &vec![0; 1_300 - head.len()]].concat()
        };
        assert!(filter.passes(&initial(&id), from));
        assert!(!filter.passes(&initial(&[1; 16]), from));
        assert!(!filter.passes(&initial(&[1; 20]), from));
        let server = Filter::new(Some(Gate::new(Bytes([0; 32]))));
        let id = server.ids.issue([1; 8]);
        assert!(!server.passes(&initial(&id), from), "nobody has knocked");
    }

    #[test]
    fn a_knock_opens_with_a_whole_packet_and_is_not_spent_on_any_other() {
        let server = Filter::new(Some(gate()));
        let from = "192.0.2.1:9".parse().unwrap();
        let knock = caller().knock();
        let initial = |token: &[u8], size: usize| {
            let length = [u8::try_from(token.len()).unwrap()];
            let head = [&[0xc0, 0, 0, 0, 1, 20][..], &knock, &[0], &length, token].concat();
            [&head[..], &vec![0; size - head.len()]].concat()
        };
        assert!(!server.passes(&initial(&[], FIRST_BYTES_MIN - 1), from));
        assert!(!server.passes(&initial(&[7; 16], FIRST_BYTES_MIN), from));
        let elsewhere = "192.0.2.2:9".parse().unwrap();
        assert!(server.passes(&initial(&[], FIRST_BYTES_MIN), elsewhere));
        assert!(!server.passes(&initial(&[], FIRST_BYTES_MIN), from));
    }
}
