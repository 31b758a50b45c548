//! ChaCha20-Poly1305 (RFC 8439) over many packets at once, as WireGuard seals them.
//!
//! A packet alone keeps a processor's widest instructions half empty: its last block is rarely full,
//! and each packet asks for a block of key before it. Many packets of one key fill them. Where the
//! processor does not have those instructions, or there is too little to do, aws-lc-rs does it.
//!
//! The nonce is a counter behind four zero bytes, and there is no additional data: WireGuard's
//! packets have none.
#![deny(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod wide;

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroize as _;
#[cfg(target_arch = "x86_64")]
use zeroize::Zeroizing;

/// A key for one direction of one session.
pub struct Key {
    one: LessSafeKey,
    #[cfg(target_arch = "x86_64")]
    many: Option<(wide::Wide, Zeroizing<Words>)>,
}

/// A key as ChaCha20 has it.
#[cfg(target_arch = "x86_64")]
type Words = [u32; 8];

impl Key {
    /// Many packets at once where the processor can; `None` where aws-lc-rs has no room for a key.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Option<Self> {
        Some(Self {
            one: cipher(bytes)?,
            #[cfg(target_arch = "x86_64")]
            many: wide::Wide::detect().map(|wide| (wide, words(bytes))),
        })
    }

    /// The same with aws-lc-rs alone, as on a processor that cannot.
    #[must_use]
    pub fn one_by_one(bytes: &[u8; 32]) -> Option<Self> {
        Some(Self {
            one: cipher(bytes)?,
            #[cfg(target_arch = "x86_64")]
            many: None,
        })
    }

    /// Whether this processor takes many packets at once.
    #[must_use]
    pub const fn is_wide(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.many.is_some();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Seals packets where they are.
    pub fn seal(&self, jobs: &mut [Sealing<'_>]) {
        #[cfg(target_arch = "x86_64")]
        if let Some((wide, words)) = &self.many
            && blocks(jobs.iter().map(|job| job.bytes.len())) >= MUCH_TO_SEAL
        {
            return wide.seal(words, jobs);
        }
        for job in jobs {
            self.seal_one(job);
        }
    }

    /// Opens packets into their rooms.
    pub fn open(&self, jobs: &mut [Opening<'_>]) {
        #[cfg(target_arch = "x86_64")]
        if let Some((wide, words)) = &self.many
            && blocks(jobs.iter().map(|job| job.sealed.len())) >= MUCH_TO_OPEN
        {
            return wide.open(words, jobs);
        }
        for job in jobs {
            self.open_one(job);
        }
    }

    fn seal_one(&self, job: &mut Sealing<'_>) {
        let nonce = nonce(job.counter);
        let (body, tag) = job.parts();
        match self
            .one
            .seal_in_place_separate_tag(nonce, Aad::empty(), body)
        {
            Ok(made) => tag.copy_from_slice(made.as_ref()),
            // Of no length that a job may have; but nothing must leave as it is.
            Err(_) => job.bytes.zeroize(),
        }
    }

    fn open_one(&self, job: &mut Opening<'_>) {
        let (body, tag) = job.parts();
        let nonce = nonce(job.counter);
        let opened = self
            .one
            .open_separate_gather(nonce, Aad::empty(), body, tag, job.room);
        job.is_open = opened.is_ok();
        if !job.is_open {
            job.room.zeroize();
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A packet to seal.
pub struct Sealing<'a> {
    counter: u64,
    bytes: &'a mut [u8],
}

impl<'a> Sealing<'a> {
    /// The packet in `bytes`, behind which they have room for the tag; `None` when they have not, or
    /// are longer than [`BYTES_MAX`].
    ///
    /// `counter` is its number, which no other packet under the same key may have.
    #[must_use]
    pub fn new(counter: u64, bytes: &'a mut [u8]) -> Option<Self> {
        (TAG_BYTES..=BYTES_MAX)
            .contains(&bytes.len())
            .then_some(Self { counter, bytes })
    }

    fn parts(&mut self) -> (&mut [u8], &mut [u8]) {
        let len = self.bytes.len().saturating_sub(TAG_BYTES);
        self.bytes.split_at_mut(len)
    }
}

impl fmt::Debug for Sealing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealing")
            .field("counter", &self.counter)
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// A packet to open.
pub struct Opening<'a> {
    counter: u64,
    sealed: &'a [u8],
    room: &'a mut [u8],
    is_open: bool,
}

impl<'a> Opening<'a> {
    /// The packet in `sealed`, its tag behind it, which is to stand in `room`; `None` when that is not
    /// just as long, or the packet longer than [`BYTES_MAX`].
    #[must_use]
    pub fn new(counter: u64, sealed: &'a [u8], room: &'a mut [u8]) -> Option<Self> {
        let fits = sealed.len() <= BYTES_MAX && sealed.len().checked_sub(TAG_BYTES)? == room.len();
        fits.then_some(Self {
            counter,
            sealed,
            room,
            is_open: false,
        })
    }

    /// What was sealed, once it is open; nothing of it is in the room when it was not authentic.
    #[must_use]
    pub fn opened(self) -> Option<&'a mut [u8]> {
        self.is_open.then_some(self.room)
    }

    fn parts(&self) -> (&'a [u8], &'a [u8]) {
        let len = self.sealed.len().saturating_sub(TAG_BYTES);
        self.sealed.split_at(len)
    }
}

impl fmt::Debug for Opening<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("counter", &self.counter)
            .field("len", &self.sealed.len())
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}

/// How many lanes of ChaCha20 packets fill, their Poly1305 keys among them.
#[cfg(target_arch = "x86_64")]
fn blocks(lens: impl Iterator<Item = usize>) -> usize {
    lens.map(|len| len.div_ceil(64) + 1).sum()
}

fn cipher(bytes: &[u8; 32]) -> Option<LessSafeKey> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).ok()?;
    Some(LessSafeKey::new(key))
}

#[cfg(target_arch = "x86_64")]
fn words(bytes: &[u8; 32]) -> Zeroizing<Words> {
    let mut words = Zeroizing::new([0; 8]);
    let (chunks, _) = bytes.as_chunks::<4>();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u32::from_le_bytes(*chunk);
    }
    words
}

fn nonce(counter: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = counter.to_le_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

/// Bytes of an authentication tag.
pub const TAG_BYTES: usize = 16;

/// Most bytes of a sealed packet: far more than a datagram has.
pub const BYTES_MAX: usize = 1 << 20;

/// Blocks from which on many at once are faster: see `examples/speed.rs`.
#[cfg(target_arch = "x86_64")]
const MUCH_TO_SEAL: usize = 24;

/// The same where all the keys come first, in lanes of their own.
#[cfg(target_arch = "x86_64")]
const MUCH_TO_OPEN: usize = 40;

#[cfg(test)]
mod tests;
