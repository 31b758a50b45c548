//! WireGuard's protocol: handshakes and sealed packets, between two ends that know each other.
//!
//! When to begin a handshake is decided in [`super::session`]. An agent's end begins them all, a
//! connector's answers. Nothing here reads a clock or draws entropy: ephemeral keys come from the
//! tunnel's seed, and the timestamp in a handshake, which must grow, from the time that we are given.
//! Inner addresses are not looked at; our filter does that.
//!
//! ```text
//! agent      initiate ──▶ Attempt ──Answered──▶ current ──next answer──▶ previous ──180 s──▶ gone
//! connector  Handshake ─▶ next ──first packet under it──▶ current ──▶ previous
//! ```

mod handshake;
mod session;

use std::{fmt, ops::Range, time::Instant};

use cardea_aead::Sealing;
use cardea_proto::{
    codec::{Bytes, Secret32},
    time::Now,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

pub(crate) use self::session::HEADER_BYTES;
use self::{
    handshake::{
        Agreed, Asked, Identity, Initiation, KIND_INITIATION, KIND_RESPONSE, STAMP_BYTES, TAG_BYTES,
    },
    session::{KIND_DATA, Keys},
};

/// The sealed side of one tunnel.
pub(crate) struct Noise {
    identity: Identity,
    entropy: ChaCha20Rng,
    /// Counts handshakes, from where nobody can guess.
    next_index: u32,
    /// The index of the peer's latest first message.
    asked: Option<u32>,
    attempt: Option<Initiation>,
    /// Of the latest initiation that was sent, or answered.
    stamp: [u8; STAMP_BYTES],
    /// Answered, and not proven yet.
    next: Option<Keys>,
    current: Option<Keys>,
    /// For what is still on its way.
    previous: Option<Keys>,
    /// Whether something was to be sealed and there were no keys.
    is_mute: bool,
}

/// What a datagram turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened<'a> {
    /// An inner packet.
    Packet(&'a [u8]),
    /// A sign of life without a packet.
    KeepAlive,
    /// The peer begins a handshake; this answers it.
    Handshake {
        /// To be sent as it is.
        answer: &'a [u8],
    },
    /// The peer has answered our handshake; this lets it trust the new keys.
    Answered {
        /// To be sent as it is.
        confirm: &'a [u8],
    },
    /// Not from the peer, or not new.
    Nothing,
}

impl Noise {
    /// `seed` makes the ephemeral keys and is used once; `index` is that of the first handshake.
    pub(crate) fn new(
        private: &Secret32,
        peer: Bytes<32>,
        psk: &Secret32,
        index: u32,
        seed: [u8; 32],
    ) -> Self {
        Self {
            identity: Identity::new(&private.0, peer.0, &psk.0),
            entropy: ChaCha20Rng::from_seed(seed),
            next_index: index,
            asked: None,
            attempt: None,
            stamp: [0; STAMP_BYTES],
            next: None,
            current: None,
            previous: None,
            is_mute: false,
        }
    }

    /// Whether a datagram looks like a handshake's first message: the one that costs us most.
    pub(crate) fn is_handshake(sealed: &[u8]) -> bool {
        sealed.first() == Some(&KIND_INITIATION)
    }

    /// Whether a first message is the peer's and later than any that was: no other may cost us more
    /// than this.
    ///
    /// Its MAC needs our public key, which one grant has and nobody else is told, and its index,
    /// which grows with each, is under that MAC: what somebody on the way made or kept is told apart
    /// without any of the four exponentiations.
    pub(crate) fn is_new_handshake(&self, sealed: &[u8]) -> bool {
        handshake::index_of(&self.identity, sealed).is_some_and(|index| self.is_later(index))
    }

    fn is_later(&self, index: u32) -> bool {
        self.asked
            .is_none_or(|before| index.wrapping_sub(before).cast_signed() > 0)
    }

    /// Opens a datagram into `room`, which must be no shorter and hold at least [`ROOM_MIN`] bytes.
    pub(crate) fn open<'a>(&mut self, now: Now, sealed: &[u8], room: &'a mut [u8]) -> Opened<'a> {
        let Some(([kind, 0, 0, 0], rest)) = sealed.split_first_chunk::<4>() else {
            return Opened::Nothing;
        };
        let opened = match *kind {
            KIND_DATA => self.open_packet(now.instant, rest, room),
            KIND_INITIATION => self.answer(now, sealed, room),
            KIND_RESPONSE => self.finish(now.instant, sealed, room),
            _ => None,
        };
        opened.unwrap_or(Opened::Nothing)
    }

    /// Seals the packet of `len` bytes, none as a sign of life, that stands [`HEADER_BYTES`] into `room`;
    /// says how long it became.
    pub(crate) fn seal(&mut self, now: Instant, len: usize, room: &mut [u8]) -> Option<usize> {
        let current = self.current.as_mut();
        let sealed = current.and_then(|keys| keys.seal(now, len, room));
        self.is_mute |= sealed.is_none();
        sealed
    }

    /// Prepares the packet of `len` bytes that stands [`HEADER_BYTES`] into `room`, for
    /// [`Noise::seal_all`] to seal before anything else happens; says under which number, and how long
    /// the datagram is.
    pub(crate) fn number(
        &mut self,
        now: Instant,
        len: usize,
        room: &mut [u8],
    ) -> Option<(u64, usize)> {
        let current = self.current.as_mut();
        let numbered = current.and_then(|keys| keys.number(now, len, room));
        self.is_mute |= numbered.is_none();
        numbered
    }

    /// Seals packets that [`Noise::number`] has prepared; says whether there were keys.
    pub(crate) fn seal_all(&self, jobs: &mut [Sealing<'_>]) -> bool {
        let keys = self.current.as_ref();
        keys.map(|keys| keys.seal_all(jobs)).is_some()
    }

    /// The front of a datagram that those have in common which [`Noise::open_all`] opens together;
    /// `None` where it holds no packet.
    pub(crate) fn session_of(sealed: &[u8]) -> Option<[u8; SESSION_BYTES]> {
        let front = sealed.first_chunk::<SESSION_BYTES>()?;
        matches!(front, [KIND_DATA, 0, 0, 0, ..]).then_some(*front)
    }

    /// Opens datagrams of one session into `room`, each where the one before ends; says where it stands,
    /// `None` for those that are not from the peer, or not new.
    ///
    /// What is opened and taken is what [`Noise::open`] would take, called for one after the other.
    pub(crate) fn open_all<'a>(
        &mut self,
        now: Instant,
        datagrams: impl Iterator<Item = &'a [u8]> + Clone,
        room: &mut [u8],
    ) -> Vec<Option<Range<usize>>> {
        let session = datagrams.clone().next().and_then(Self::session_of);
        let index = session.map(|[_, _, _, _, index @ ..]| u32::from_le_bytes(index));
        let Some((keys, is_next)) = index.and_then(|index| self.keys_of(index)) else {
            return vec![None; datagrams.count()];
        };
        let parts = datagrams.map(|sealed| {
            let rest = sealed.get(SESSION_BYTES..).unwrap_or_default();
            let parts = rest.split_first_chunk::<8>();
            // What has no number is no longer than nothing sealed, and opens as little.
            parts.map_or((0, rest), |(number, sealed)| {
                (u64::from_le_bytes(*number), sealed)
            })
        });
        let places = keys.open_all(now, parts, room);
        if is_next && places.iter().any(Option::is_some) {
            self.turn();
        }
        places
    }

    /// Whether something could not be sealed since it was asked last, for which there are keys again.
    pub(crate) const fn take_mute(&mut self) -> bool {
        std::mem::replace(&mut self.is_mute, false)
    }

    /// Begins a handshake, also while another waits for its answer.
    pub(crate) fn initiate(&mut self, now: Now, room: &mut [u8]) -> Option<usize> {
        let stamp = stamp(now).max(after(self.stamp));
        let (index, ephemeral) = (self.index(), self.ephemeral());
        let (initiation, len) = Initiation::begin(&self.identity, index, *ephemeral, stamp, room)?;
        self.stamp = stamp;
        self.attempt = Some(initiation);
        Some(len)
    }

    /// Forgets keys that are too old.
    pub(crate) fn tick(&mut self, now: Instant) {
        for keys in [&mut self.next, &mut self.current, &mut self.previous] {
            if keys.as_ref().is_some_and(|keys| !keys.is_fresh(now)) {
                *keys = None;
            }
        }
    }

    fn open_packet<'a>(
        &mut self,
        now: Instant,
        rest: &[u8],
        room: &'a mut [u8],
    ) -> Option<Opened<'a>> {
        let (index, rest) = rest.split_first_chunk::<4>()?;
        let (number, sealed) = rest.split_first_chunk::<8>()?;
        let (index, number) = (u32::from_le_bytes(*index), u64::from_le_bytes(*number));
        let (keys, is_next) = self.keys_of(index)?;
        let packet = keys.open(now, number, sealed, room)?;
        if is_next {
            self.turn();
        }
        Some(if packet.is_empty() {
            Opened::KeepAlive
        } else {
            Opened::Packet(packet)
        })
    }

    /// The keys that the peer calls by `index`, and whether they are not proven yet.
    fn keys_of(&mut self, index: u32) -> Option<(&mut Keys, bool)> {
        let has = |keys: &Option<Keys>| keys.as_ref().is_some_and(|keys| keys.own_index == index);
        let is_next = has(&self.next);
        let keys = if has(&self.current) {
            &mut self.current
        } else if is_next {
            &mut self.next
        } else if has(&self.previous) {
            &mut self.previous
        } else {
            return None;
        };
        Some((keys.as_mut()?, is_next))
    }

    /// The next keys are proven.
    fn turn(&mut self) {
        self.previous = self.current.take();
        self.current = self.next.take();
    }

    /// Answers the peer's first message, unless it is older than one that was answered.
    fn answer<'a>(&mut self, now: Now, message: &[u8], room: &'a mut [u8]) -> Option<Opened<'a>> {
        let asked = Asked::read(&self.identity, message)?;
        let stamp = asked.stamp;
        if stamp <= self.stamp {
            return None;
        }
        let (index, ephemeral) = (self.index(), self.ephemeral());
        let (agreed, len) = asked.answer(&self.identity, index, *ephemeral, room)?;
        let Agreed {
            peer_index,
            initiator,
            responder,
        } = agreed;
        let indexes = (index, peer_index);
        self.next = Some(Keys::new(now.instant, indexes, &responder, &initiator)?);
        self.stamp = stamp;
        self.asked = Some(peer_index);
        let answer = room.get(..len)?;
        Some(Opened::Handshake { answer })
    }

    /// Takes the peer's answer, and confirms it with an empty packet.
    fn finish<'a>(
        &mut self,
        now: Instant,
        message: &[u8],
        room: &'a mut [u8],
    ) -> Option<Opened<'a>> {
        let attempt = self.attempt.as_ref()?;
        let own_index = attempt.index();
        let Agreed {
            peer_index,
            initiator,
            responder,
        } = attempt.finish(&self.identity, message)?;
        let keys = Keys::new(now, (own_index, peer_index), &initiator, &responder)?;
        self.attempt = None;
        self.previous = self.current.replace(keys);
        let len = self.seal(now, 0, room)?;
        let confirm = room.get(..len)?;
        Some(Opened::Answered { confirm })
    }

    fn index(&mut self) -> u32 {
        let index = self.next_index;
        self.next_index = index.wrapping_add(1);
        index
    }

    fn ephemeral(&mut self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.entropy.fill_bytes(bytes.as_mut_slice());
        bytes
    }
}

/// A timestamp as TAI64N writes it. Source: the WireGuard paper, §5.1.
fn stamp(now: Now) -> [u8; STAMP_BYTES] {
    let (seconds, millis) = (now.unix.0 / 1_000, now.unix.0 % 1_000);
    let [a, b, c, d, e, f, g, h] = (TAI64_BASE + seconds).to_be_bytes();
    let nanos = u32::try_from(millis * 1_000_000).unwrap_or(0);
    let [i, j, k, l] = nanos.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

/// The next timestamp: a clock that was set back must not stop handshakes.
fn after(stamp: [u8; STAMP_BYTES]) -> [u8; STAMP_BYTES] {
    let mut next = stamp;
    for byte in next.iter_mut().rev() {
        let (sum, overflows) = byte.overflowing_add(1);
        *byte = sum;
        if !overflows {
            break;
        }
    }
    next
}

/// How long a packet of `len` bytes is when it is sealed.
pub(crate) const fn room_for(len: usize) -> usize {
    len + OVERHEAD_BYTES
}

impl fmt::Debug for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Noise(…)")
    }
}

/// 1970 in TAI64, ten leap seconds aside.
const TAI64_BASE: u64 = 0x4000_0000_0000_000a;

/// What sealing adds. Source: the WireGuard paper, §5.4.6.
pub(crate) const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// Kind and receiver's index. Source: the same.
pub(crate) const SESSION_BYTES: usize = 8;

/// The longest handshake message. Source: the WireGuard paper, §5.4.2.
pub(crate) const ROOM_MIN: usize = 148;

#[cfg(test)]
mod tests;
