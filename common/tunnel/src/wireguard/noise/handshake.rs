//! WireGuard's handshake: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`.
//!
//! Source: the WireGuard paper, §5.4; the Noise framework, revision 34. Names follow the paper: the
//! transcript's chain is its C, the hash its H.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use blake2::{
    Blake2s256, Blake2sMac,
    digest::{Digest, FixedOutput as _, KeyInit as _, Update, consts::U16},
};
use subtle::ConstantTimeEq as _;
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};
use zeroize::Zeroizing;

/// A key, wiped when it is let go.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// What both handshakes of one end rest on.
pub(super) struct Identity {
    private: StaticSecret,
    public: PublicKey,
    peer: PublicKey,
    /// Of both static keys.
    shared: SharedSecret,
    psk: Key,
}

impl Identity {
    pub(super) fn new(private: &[u8; 32], peer: [u8; 32], psk: &[u8; 32]) -> Self {
        let private = StaticSecret::from(*private);
        let peer = PublicKey::from(peer);
        Self {
            public: PublicKey::from(&private),
            shared: private.diffie_hellman(&peer),
            private,
            peer,
            psk: Zeroizing::new(*psk),
        }
    }
}

/// The keys of a new session, and what the peer calls it.
pub(super) struct Agreed {
    pub(super) peer_index: u32,
    /// Seals what the initiator sends.
    pub(super) initiator: Key,
    /// Seals what the responder sends.
    pub(super) responder: Key,
}

/// An initiation that waits for its answer.
pub(super) struct Initiation {
    index: u32,
    ephemeral: StaticSecret,
    transcript: Transcript,
}

impl Initiation {
    /// Writes the first message. Source: §5.4.2.
    pub(super) fn begin(
        identity: &Identity,
        index: u32,
        ephemeral: [u8; 32],
        stamp: [u8; STAMP_BYTES],
        room: &mut [u8],
    ) -> Option<(Self, usize)> {
        let room = room.first_chunk_mut::<INITIATION_BYTES>()?;
        let ephemeral = StaticSecret::from(ephemeral);
        let mut transcript = Transcript::new(&identity.peer);
        let mut out = Writer(room);
        out.put(&u32::from(KIND_INITIATION).to_le_bytes())?;
        out.put(&index.to_le_bytes())?;
        let public = PublicKey::from(&ephemeral);
        out.put(public.as_bytes())?;
        transcript.mix(public.as_bytes());
        transcript.hash(public.as_bytes());
        let key = transcript.mix_key(agree(&ephemeral, &identity.peer)?.as_bytes());
        transcript.seal(&key, identity.public.as_bytes(), out.take(32 + TAG_BYTES)?)?;
        let key = transcript.mix_key(identity.shared.as_bytes());
        transcript.seal(&key, &stamp, out.take(STAMP_BYTES + TAG_BYTES)?)?;
        sign(&identity.peer, room)?;
        let initiation = Self {
            index,
            ephemeral,
            transcript,
        };
        Some((initiation, INITIATION_BYTES))
    }

    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// Reads the answer. Source: §5.4.3.
    pub(super) fn finish(&self, identity: &Identity, message: &[u8]) -> Option<Agreed> {
        let message: &[u8; RESPONSE_BYTES] = message.try_into().ok()?;
        is_signed(&identity.public, message).then_some(())?;
        let mut from = Reader(message);
        from.skip(4)?;
        let peer_index = u32::from_le_bytes(*from.array()?);
        (u32::from_le_bytes(*from.array()?) == self.index).then_some(())?;
        let ephemeral = PublicKey::from(*from.array::<32>()?);
        let mut transcript = self.transcript.clone();
        transcript.hash(ephemeral.as_bytes());
        transcript.mix(ephemeral.as_bytes());
        transcript.mix(agree(&self.ephemeral, &ephemeral)?.as_bytes());
        transcript.mix(agree(&identity.private, &ephemeral)?.as_bytes());
        let key = transcript.mix_psk(&identity.psk);
        transcript.open(&key, from.array::<TAG_BYTES>()?, &mut [])?;
        Some(transcript.split(peer_index))
    }
}

/// The sender's index in a first message that is signed for us.
pub(super) fn index_of(identity: &Identity, message: &[u8]) -> Option<u32> {
    let message: &[u8; INITIATION_BYTES] = message.try_into().ok()?;
    is_signed(&identity.public, message).then_some(())?;
    let mut from = Reader(message);
    from.skip(4)?;
    Some(u32::from_le_bytes(*from.array()?))
}

/// What a first message said, once it is known to be the peer's.
pub(super) struct Asked {
    peer_index: u32,
    ephemeral: PublicKey,
    pub(super) stamp: [u8; STAMP_BYTES],
    transcript: Transcript,
}

impl Asked {
    /// Reads a first message. Source: §5.4.2.
    pub(super) fn read(identity: &Identity, message: &[u8]) -> Option<Self> {
        let peer_index = index_of(identity, message)?;
        let mut from = Reader(message);
        from.skip(8)?;
        let ephemeral = PublicKey::from(*from.array::<32>()?);
        let mut transcript = Transcript::new(&identity.public);
        transcript.mix(ephemeral.as_bytes());
        transcript.hash(ephemeral.as_bytes());
        let key = transcript.mix_key(agree(&identity.private, &ephemeral)?.as_bytes());
        let mut peer = [0; 32];
        transcript.open(&key, from.array::<{ 32 + TAG_BYTES }>()?, &mut peer)?;
        bool::from(peer.ct_eq(identity.peer.as_bytes())).then_some(())?;
        let key = transcript.mix_key(identity.shared.as_bytes());
        let mut stamp = [0; STAMP_BYTES];
        transcript.open(
            &key,
            from.array::<{ STAMP_BYTES + TAG_BYTES }>()?,
            &mut stamp,
        )?;
        Some(Self {
            peer_index,
            ephemeral,
            stamp,
            transcript,
        })
    }

    /// Writes the answer. Source: §5.4.3.
    pub(super) fn answer(
        self,
        identity: &Identity,
        index: u32,
        ephemeral: [u8; 32],
        room: &mut [u8],
    ) -> Option<(Agreed, usize)> {
        let room = room.first_chunk_mut::<RESPONSE_BYTES>()?;
        let ephemeral = StaticSecret::from(ephemeral);
        let public = PublicKey::from(&ephemeral);
        let mut transcript = self.transcript;
        let mut out = Writer(room);
        out.put(&u32::from(KIND_RESPONSE).to_le_bytes())?;
        out.put(&index.to_le_bytes())?;
        out.put(&self.peer_index.to_le_bytes())?;
        out.put(public.as_bytes())?;
        transcript.hash(public.as_bytes());
        transcript.mix(public.as_bytes());
        transcript.mix(agree(&ephemeral, &self.ephemeral)?.as_bytes());
        transcript.mix(agree(&ephemeral, &identity.peer)?.as_bytes());
        let key = transcript.mix_psk(&identity.psk);
        transcript.seal(&key, &[], out.take(TAG_BYTES)?)?;
        sign(&identity.peer, room)?;
        Some((transcript.split(self.peer_index), RESPONSE_BYTES))
    }
}

/// What both ends have said so far.
#[derive(Clone)]
struct Transcript {
    chain: Key,
    hash: [u8; 32],
}

impl Transcript {
    fn new(responder: &PublicKey) -> Self {
        let chain = hash(&[CONSTRUCTION]);
        let start = hash(&[&chain, IDENTIFIER]);
        Self {
            chain: Zeroizing::new(chain),
            hash: hash(&[&start, responder.as_bytes()]),
        }
    }

    fn hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    fn mix(&mut self, input: &[u8]) {
        let [chain, ..] = derive(&self.chain, input);
        self.chain = chain;
    }

    fn mix_key(&mut self, input: &[u8]) -> Key {
        let [chain, key, _] = derive(&self.chain, input);
        self.chain = chain;
        key
    }

    fn mix_psk(&mut self, psk: &Key) -> Key {
        let [chain, mixed, key] = derive(&self.chain, psk.as_slice());
        self.chain = chain;
        self.hash(mixed.as_slice());
        key
    }

    fn seal(&mut self, key: &Key, plain: &[u8], room: &mut [u8]) -> Option<()> {
        let (body, tag) = room.split_at_mut_checked(plain.len())?;
        body.copy_from_slice(plain);
        let made = cipher(key)?
            .seal_in_place_separate_tag(nonce(0), Aad::from(&self.hash), body)
            .ok()?;
        tag.copy_from_slice(made.as_ref());
        self.hash(room);
        Some(())
    }

    fn open(&mut self, key: &Key, sealed: &[u8], room: &mut [u8]) -> Option<()> {
        let (body, tag) = sealed.split_at_checked(room.len())?;
        cipher(key)?
            .open_separate_gather(nonce(0), Aad::from(&self.hash), body, tag, room)
            .ok()?;
        self.hash(sealed);
        Some(())
    }

    /// Source: §5.4.5.
    fn split(self, peer_index: u32) -> Agreed {
        let [initiator, responder, _] = derive(&self.chain, &[]);
        Agreed {
            peer_index,
            initiator,
            responder,
        }
    }
}

/// A shared secret, unless the other key is one of those with which it would be no secret.
fn agree(own: &StaticSecret, other: &PublicKey) -> Option<SharedSecret> {
    let shared = own.diffie_hellman(other);
    shared.was_contributory().then_some(shared)
}

/// A cipher with a key.
pub(super) fn cipher(key: &Key) -> Option<LessSafeKey> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_slice()).ok()?;
    Some(LessSafeKey::new(key))
}

/// Source: §5.4.6, the counter in the last eight bytes.
pub(super) fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    if let Some(last) = bytes.last_chunk_mut::<8>() {
        *last = counter.to_le_bytes();
    }
    Nonce::assume_unique_for_key(bytes)
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        Digest::update(&mut state, part);
    }
    state.finalize().into()
}

/// Three keys from one and an input. Source: §5.4, `Kdf`; RFC 5869 with BLAKE2s.
fn derive(key: &Key, input: &[u8]) -> [Key; 3] {
    let root = hmac(key, &[input]);
    let first = hmac(&root, &[&[1]]);
    let second = hmac(&root, &[first.as_slice(), &[2]]);
    let third = hmac(&root, &[second.as_slice(), &[3]]);
    [first, second, third]
}

/// Source: RFC 2104 with BLAKE2s, whose block has 64 bytes.
fn hmac(key: &Key, parts: &[&[u8]]) -> Key {
    let padded = |with: u8| {
        let mut block = Zeroizing::new([with; 64]);
        for (to, from) in block.iter_mut().zip(key.iter()) {
            *to ^= from;
        }
        block
    };
    let mut inner = Blake2s256::new();
    Digest::update(&mut inner, padded(0x36).as_slice());
    for part in parts {
        Digest::update(&mut inner, part);
    }
    let inner: [u8; 32] = inner.finalize().into();
    Zeroizing::new(hash(&[padded(0x5c).as_slice(), &inner]))
}

/// Fills in the first MAC, which shows that we know whom we speak to; the second stays empty, as no
/// cookies are asked for. Source: §5.4.4.
fn sign(receiver: &PublicKey, message: &mut [u8]) -> Option<()> {
    let at = message.len().checked_sub(2 * MAC_BYTES)?;
    let (said, macs) = message.split_at_mut(at);
    let (first, second) = macs.split_at_mut(MAC_BYTES);
    first.copy_from_slice(&mac(receiver, said)?);
    second.fill(0);
    Some(())
}

fn is_signed(receiver: &PublicKey, message: &[u8]) -> bool {
    let at = message.len().saturating_sub(2 * MAC_BYTES);
    let (said, macs) = message.split_at(at);
    match (macs.get(..MAC_BYTES), mac(receiver, said)) {
        (Some(given), Some(made)) => made.ct_eq(given).into(),
        (Some(_) | None, _) => false,
    }
}

fn mac(receiver: &PublicKey, said: &[u8]) -> Option<[u8; MAC_BYTES]> {
    let key = hash(&[LABEL_MAC, receiver.as_bytes()]);
    let mut mac = Blake2sMac::<U16>::new_from_slice(&key).ok()?;
    Update::update(&mut mac, said);
    Some(mac.finalize_fixed().into())
}

/// A message that is being written.
struct Writer<'a>(&'a mut [u8]);

impl<'a> Writer<'a> {
    fn take(&mut self, len: usize) -> Option<&'a mut [u8]> {
        let (front, rest) = std::mem::take(&mut self.0).split_at_mut_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.take(bytes.len())?.copy_from_slice(bytes);
        Some(())
    }
}

/// A message that is being read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn skip(&mut self, len: usize) -> Option<()> {
        self.0 = self.0.get(len..)?;
        Some(())
    }

    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(front)
    }
}

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const LABEL_MAC: &[u8] = b"mac1----";
const MAC_BYTES: usize = 16;

/// Bytes of an authentication tag.
pub(super) const TAG_BYTES: usize = 16;

/// Bytes of a TAI64N timestamp.
pub(super) const STAMP_BYTES: usize = 12;

/// Kinds of messages: the first of four bytes of which the others are 0.
pub(super) const KIND_INITIATION: u8 = 1;
pub(super) const KIND_RESPONSE: u8 = 2;

const INITIATION_BYTES: usize = 148;
const RESPONSE_BYTES: usize = 92;
