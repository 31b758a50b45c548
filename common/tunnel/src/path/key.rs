//! What seals the statements of two ends about their paths.
//!
//! The key follows from the ML-KEM exchange of offer and answer, which both ends have whatever the
//! carrier is, and of which neither the controller nor a relay knows the secret. Whether a frame
//! goes through the relay or directly stands under its seal: a relay that hands on from elsewhere
//! what it was given makes nobody send there.

use std::time::{Duration, Instant};

use aws_lc_rs::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
};
use cardea_proto::{
    codec::Secret32,
    path::{PATH_COUNTER_BYTES, PATH_FRAME, PATH_SEAL_BYTES, PATH_TAG_BYTES, PathFrame},
    relay::{DATA_HEADER_BYTES, Handle},
};

use crate::{command::End, outbox::Via};

/// Seals what this end says and opens what the other one says.
#[derive(Debug)]
pub(crate) struct PathKey {
    seal: LessSafeKey,
    open: LessSafeKey,
    /// Names the other end on direct paths, as the relay's handle does there.
    outbound: Handle,
    inbound: Handle,
    next: u64,
    heard: Window,
}

impl PathKey {
    /// The keys of both directions.
    ///
    /// Source: RFC 5869 (HKDF), RFC 8439 (ChaCha20-Poly1305).
    pub(crate) fn new(end: End, secret: &Secret32) -> Option<Self> {
        let secret = Salt::new(HKDF_SHA256, CONTEXT).extract(&secret.0);
        let (to_connector, connector) = direction(&secret, b"agent to connector")?;
        let (to_agent, agent) = direction(&secret, b"connector to agent")?;
        let (seal, outbound, open, inbound) = match end {
            End::Agent => (to_connector, connector, to_agent, agent),
            End::Connector => (to_agent, agent, to_connector, connector),
        };
        Some(Self {
            seal,
            open,
            outbound,
            inbound,
            next: 0,
            heard: Window::default(),
        })
    }

    /// What stands before everything that is sent directly.
    pub(crate) const fn outbound_header(&self) -> [u8; DATA_HEADER_BYTES] {
        self.outbound.data_header()
    }

    /// The handle by which the other end names this one on direct paths.
    pub(crate) const fn inbound(&self) -> Handle {
        self.inbound
    }

    /// A whole datagram with `frame`, of `size` bytes when that is more than it needs.
    pub(crate) fn write(
        &mut self,
        header: [u8; DATA_HEADER_BYTES],
        via: Via,
        frame: &PathFrame,
        size: usize,
    ) -> Option<Vec<u8>> {
        let mut text = frame.encode();
        let least = DATA_HEADER_BYTES + PATH_SEAL_BYTES;
        text.resize(text.len().max(size.saturating_sub(least)), 0);
        self.next += 1;
        let counter = self.next.to_be_bytes();
        let tag = self
            .seal
            .seal_in_place_separate_tag(nonce(&counter), about(via), &mut text)
            .ok()?;
        Some([&header[..], &[PATH_FRAME], &counter, &text, tag.as_ref()].concat())
    }

    /// The frame in what followed a header; `None` when it is not the peer's, or not new, or late.
    pub(crate) fn read(&mut self, now: Instant, via: Via, sealed: &[u8]) -> Option<PathFrame> {
        let (kind, rest) = sealed.split_first()?;
        let (counter, rest) = rest.split_first_chunk::<PATH_COUNTER_BYTES>()?;
        let (text, tag) = rest.split_last_chunk::<PATH_TAG_BYTES>()?;
        let number = u64::from_be_bytes(*counter);
        self.heard.pass(now);
        if *kind != PATH_FRAME || !self.heard.is_new(number) {
            return None;
        }
        let mut opened = vec![0; text.len()];
        self.open
            .open_separate_gather(nonce(counter), about(via), text, tag, &mut opened)
            .ok()?;
        self.heard.note(now, number);
        PathFrame::decode(&opened)
    }
}

/// Which counters have been heard, as far and as long back as datagrams overtake each other.
///
/// The second is for probes to addresses that led nowhere: they were never heard, so whoever saw one
/// on its way could send it again from another address at any later time, and be answered there.
#[derive(Debug, Default)]
struct Window {
    highest: u64,
    /// Bit n is for the counter n below the highest.
    seen: u64,
    /// All up to here is heard, or late.
    floor: u64,
    /// When the highest was heard.
    latest: Option<Instant>,
    /// What was the highest at a time.
    mark: Option<(u64, Instant)>,
}

impl Window {
    /// Time passes: what was overtaken that long ago is late.
    fn pass(&mut self, now: Instant) {
        let is_past = |at: Instant| now.saturating_duration_since(at) >= LATE;
        if self.latest.is_some_and(is_past) {
            self.floor = self.highest;
            self.mark = None;
        } else if let Some((mark, at)) = self.mark
            && is_past(at)
        {
            self.floor = mark;
            self.mark = Some((self.highest, now));
        }
    }

    const fn is_new(&self, number: u64) -> bool {
        if number > self.highest {
            return true;
        }
        let back = self.highest - number;
        number > self.floor && back < WINDOW && self.seen & (1 << back) == 0
    }

    fn note(&mut self, now: Instant, number: u64) {
        if number > self.highest {
            let ahead = number - self.highest;
            self.seen = if ahead < WINDOW {
                self.seen << ahead
            } else {
                0
            };
            self.seen |= 1;
            self.highest = number;
            self.latest = Some(now);
            self.mark.get_or_insert((number, now));
        } else {
            self.seen |= 1 << (self.highest - number);
        }
    }
}

/// What HKDF makes of the secret for one direction: a key, and the handle of its receiver.
fn direction(secret: &Prk, name: &[u8]) -> Option<(LessSafeKey, Handle)> {
    let mut bytes = [0; KEY_BYTES + HANDLE_BYTES];
    secret
        .expand(&[name], Length)
        .and_then(|okm| okm.fill(&mut bytes))
        .ok()?;
    let (key, handle) = bytes.split_at(KEY_BYTES);
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).ok()?;
    Some((
        LessSafeKey::new(key),
        Handle::from_bytes(handle.try_into().ok()?),
    ))
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_BYTES + HANDLE_BYTES
    }
}

fn nonce(counter: &[u8; PATH_COUNTER_BYTES]) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    if let Some(end) = bytes.last_chunk_mut::<PATH_COUNTER_BYTES>() {
        *end = *counter;
    }
    Nonce::assume_unique_for_key(bytes)
}

fn about(via: Via) -> Aad<[u8; 2]> {
    Aad::from([
        PATH_FRAME,
        match via {
            Via::Relay => 0,
            Via::Direct => 1,
        },
    ])
}

/// What the secret is used for besides being a preshared key.
const CONTEXT: &[u8] = b"cardea path v1\0";

/// Source: RFC 8439 §2.8.
const KEY_BYTES: usize = 32;

const HANDLE_BYTES: usize = 7;

/// Counters that are told apart below the highest.
const WINDOW: u64 = 64;

/// How long after it was overtaken a frame may arrive; at most twice that.
///
/// A probe that is answered later than this is one that its sender has given up.
const LATE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: PathFrame = PathFrame::Probe { id: 1 };

    #[test]
    fn each_end_opens_what_the_other_sealed_once_and_on_its_own_way() {
        let (mut agent, mut connector) = ends();
        assert_eq!(agent.outbound, connector.inbound);
        assert_eq!(agent.inbound, connector.outbound);
        for (size, expected) in [(0, 42), (1_208, 1_208)] {
            let datagram = write(&mut agent, size);
            assert_eq!(datagram.len(), expected);
            let sealed = &datagram[DATA_HEADER_BYTES..];
            assert_eq!(
                connector.read(now(), Via::Relay, sealed),
                None,
                "it was sent directly"
            );
            assert_eq!(
                agent.read(now(), Via::Direct, sealed),
                None,
                "it is its own"
            );
            assert_eq!(connector.read(now(), Via::Direct, sealed), Some(PROBE));
            assert_eq!(
                connector.read(now(), Via::Direct, sealed),
                None,
                "it is not new"
            );
        }
    }

    #[test]
    fn a_damaged_frame_is_nobodys_and_takes_no_place_of_a_whole_one() {
        let (mut agent, mut connector) = ends();
        let datagram = write(&mut agent, 0);
        let sealed = &datagram[DATA_HEADER_BYTES..];
        for at in 0..sealed.len() {
            let mut damaged = sealed.to_vec();
            damaged[at] ^= 1;
            assert_eq!(
                connector.read(now(), Via::Direct, &damaged),
                None,
                "byte {at}"
            );
            assert_eq!(connector.read(now(), Via::Direct, &sealed[..at]), None);
        }
        assert_eq!(connector.read(now(), Via::Direct, sealed), Some(PROBE));
    }

    #[test]
    fn frames_may_overtake_each_other_within_the_window() {
        let (mut agent, mut connector) = ends();
        let mut frames: Vec<Vec<u8>> = (0..100).map(|_| write(&mut agent, 0)).collect();
        let first = frames.remove(0);
        frames.reverse();
        let mut read = |datagram: &[u8]| {
            let sealed = &datagram[DATA_HEADER_BYTES..];
            connector.read(now(), Via::Direct, sealed).is_some()
        };
        let opened = frames.iter().filter(|frame| read(frame)).count();
        assert_eq!(opened, usize::try_from(WINDOW).unwrap());
        assert!(!read(&first), "too old to be told from one that was heard");
    }

    #[test]
    fn a_frame_that_never_arrived_is_late_soon_after_it_was_overtaken() {
        // How often another frame arrives meanwhile, and until when it is surely late.
        for (pause, late) in [(400, 2_000), (1_000, 1_000), (20_000, 20_000)] {
            let (mut agent, mut connector) = ends();
            let mut read = |after: u64, datagram: &[u8]| {
                let now = now() + Duration::from_millis(after);
                let sealed = &datagram[DATA_HEADER_BYTES..];
                connector.read(now, Via::Direct, sealed).is_some()
            };
            let [never, soon, next] = [(); 3].map(|()| write(&mut agent, 0));
            assert!(read(0, &next));
            assert!(read(900, &soon), "overtaken");
            let mut after = 0;
            while after < late {
                after += pause;
                assert!(read(after, &write(&mut agent, 0)));
            }
            assert!(!read(after, &never), "every {pause} ms");
        }
        // Where nothing else comes, time alone makes it late.
        let (mut agent, mut connector) = ends();
        let [never, next] = [(); 2].map(|()| write(&mut agent, 0));
        let mut read =
            |now, datagram: &[u8]| connector.read(now, Via::Direct, &datagram[DATA_HEADER_BYTES..]);
        assert!(read(now(), &next).is_some());
        assert_eq!(read(now() + LATE, &never), None);
        let later = write(&mut agent, 0);
        assert!(read(now() + LATE * 60, &later).is_some());
    }

    #[test]
    fn another_secret_opens_nothing() {
        let (mut agent, _) = ends();
        let mut other = PathKey::new(End::Connector, &Secret32([2; 32])).unwrap();
        let datagram = write(&mut agent, 0);
        assert_eq!(
            other.read(now(), Via::Direct, &datagram[DATA_HEADER_BYTES..]),
            None
        );
        assert_ne!(agent.outbound, other.inbound);
    }

    fn now() -> Instant {
        cardea_proto::time::testing::start().instant
    }

    fn write(key: &mut PathKey, size: usize) -> Vec<u8> {
        let header = key.outbound_header();
        key.write(header, Via::Direct, &PROBE, size).unwrap()
    }

    fn ends() -> (PathKey, PathKey) {
        let key = |end| PathKey::new(end, &Secret32([1; 32])).unwrap();
        (key(End::Agent), key(End::Connector))
    }
}
