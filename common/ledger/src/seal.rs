//! Sealing at rest: everything secret under one data key, and that key wrapped by a secret.
//!
//! AES-256-GCM (NIST SP 800-38D) seals. Each segment and each purpose has a key of its own, derived
//! from the data key (HKDF-SHA256, RFC 5869), so that no key seals more than a segment's frames. The
//! secret (a key file, a passphrase) is stretched by Argon2id (RFC 9106) whatever it is, and changing
//! it wraps the same data key anew: nothing that was sealed is touched.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::segment;

/// The file with the wrapped data key, beside the segments.
pub const NAME: &str = "sealing.toml";

/// Bytes of a nonce, which stands before what it sealed and is used once under its key.
pub const NONCE_BYTES: usize = 12;

/// By how many bytes something sealed is longer: nonce and tag.
pub const SEAL_BYTES: usize = NONCE_BYTES + 16;

/// Bytes of the salt of a secret.
pub const SALT_BYTES: usize = 16;

/// Argon2id's second recommended choice (RFC 9106, section 4): 64 MiB, 3 passes, 4 lanes.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;

/// What a file may ask for before it is believed, so that a forged one cannot hold up a start.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// The only version of the file.
const VERSION: u32 = 1;

/// Why something cannot be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The secret is another one.
    #[error("this is not the key that the state was sealed with")]
    WrongKey,
    /// The file with the wrapped key is not what was written.
    #[error("the wrapped key cannot be read: {0}")]
    Wrapped(String),
    /// What was sealed was changed, or sealed for another purpose.
    #[error("it cannot be opened with the key of this state: it was changed, or is another's")]
    Changed,
    /// The library refused; no input leads here.
    #[error("the cipher failed")]
    Cipher,
}

/// The key under which a state is sealed.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for DataKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("DataKey")
    }
}

impl DataKey {
    /// The key of these bytes, which must be random.
    #[must_use]
    pub const fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// The key of one segment.
    ///
    /// # Errors
    /// [`SealError::Cipher`].
    pub fn segment(&self, header: &segment::Header) -> Result<SegmentKey, SealError> {
        self.derive(&header.bytes()).map(SegmentKey)
    }

    /// Seals `secret` for one purpose. `nonce` must be random.
    ///
    /// # Errors
    /// [`SealError::Cipher`].
    pub fn seal(
        &self,
        purpose: &str,
        nonce: [u8; NONCE_BYTES],
        secret: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        seal(&self.derive(purpose.as_bytes())?, nonce, &[], secret)
    }

    /// Opens what was sealed for a purpose.
    ///
    /// # Errors
    /// [`SealError::Changed`] when it was not sealed for this with this key.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let opened = open(&self.derive(purpose.as_bytes())?, &[], &mut sealed);
        Ok(Zeroizing::new(opened.ok_or(SealError::Changed)?.to_vec()))
    }

    fn derive(&self, purpose: &[u8]) -> Result<LessSafeKey, SealError> {
        let extracted = Salt::new(HKDF_SHA256, purpose).extract(self.0.as_ref());
        let expanded = extracted
            .expand(&[b"cardea at rest 1"], &AES_256_GCM)
            .map_err(|_| SealError::Cipher)?;
        Ok(LessSafeKey::new(UnboundKey::from(expanded)))
    }
}

/// The key of one segment's frames.
pub struct SegmentKey(LessSafeKey);

impl fmt::Debug for SegmentKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SegmentKey")
    }
}

impl SegmentKey {
    /// Seals the payload of the frame that begins at `offset`. `nonce` must be used once.
    ///
    /// # Errors
    /// [`SealError::Cipher`].
    pub fn seal(
        &self,
        offset: u64,
        nonce: [u8; NONCE_BYTES],
        payload: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        seal(&self.0, nonce, &offset.to_be_bytes(), payload)
    }

    /// Opens the payload of the frame at `offset`, in its place; `None` when it was not sealed there.
    pub fn open<'b>(&self, offset: u64, sealed: &'b mut [u8]) -> Option<&'b [u8]> {
        open(&self.0, &offset.to_be_bytes(), sealed).map(|payload| &*payload)
    }
}

/// The data key, wrapped: what stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wrapped {
    version: u32,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    data_key: String,
}

impl Wrapped {
    /// Wraps a key with a secret. Salt and nonce must be random.
    ///
    /// # Errors
    /// [`SealError::Cipher`].
    pub fn of(
        key: &DataKey,
        secret: &[u8],
        salt: [u8; SALT_BYTES],
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Self, SealError> {
        let mut this = Self {
            version: VERSION,
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: LANES,
            salt: HEXLOWER.encode(&salt),
            data_key: String::new(),
        };
        let sealed = this
            .wrapping(secret)?
            .seal("data key", nonce, key.0.as_ref())?;
        this.data_key = HEXLOWER.encode(&sealed);
        Ok(this)
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// [`SealError::Wrapped`].
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let wrong = |why: String| SealError::Wrapped(why);
        let this: Self = toml::from_str(text).map_err(|error| wrong(error.message().to_owned()))?;
        if this.version != VERSION {
            return Err(wrong(format!("version {} is not known", this.version)));
        }
        let within = (8 * LANES_MAX..=MEMORY_KIB_MAX).contains(&this.memory_kib)
            && (1..=PASSES_MAX).contains(&this.passes)
            && (1..=LANES_MAX).contains(&this.lanes);
        if !within {
            return Err(wrong("it asks for too much memory or time".to_owned()));
        }
        Ok(this)
    }

    /// Unwraps the key.
    ///
    /// # Errors
    /// [`SealError::WrongKey`] when `secret` is another one.
    pub fn open(&self, secret: &[u8]) -> Result<DataKey, SealError> {
        let opened = self
            .wrapping(secret)?
            .open("data key", &bytes(&self.data_key)?);
        let opened = opened.map_err(|_| SealError::WrongKey)?;
        let key = <[u8; 32]>::try_from(opened.as_slice());
        let key = key.map_err(|_| SealError::Wrapped("no key is that long".to_owned()))?;
        Ok(DataKey(Zeroizing::new(key)))
    }

    /// The key that the secret becomes.
    fn wrapping(&self, secret: &[u8]) -> Result<DataKey, SealError> {
        let wrong = |error: argon2::Error| SealError::Wrapped(error.to_string());
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.map_err(wrong)?);
        let mut key = Zeroizing::new([0; 32]);
        argon2
            .hash_password_into(secret, &bytes(&self.salt)?, key.as_mut())
            .map_err(wrong)?;
        Ok(DataKey(key))
    }
}

impl fmt::Display for Wrapped {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(
            "# The key of this state, wrapped. Without this file nothing that is sealed can be read.\n",
        )?;
        out.write_str(&toml::to_string(self).map_err(|_| fmt::Error)?)
    }
}

fn bytes(hex: &str) -> Result<Vec<u8>, SealError> {
    let decoded = HEXLOWER.decode(hex.as_bytes());
    decoded.map_err(|error| SealError::Wrapped(error.to_string()))
}

fn seal(
    key: &LessSafeKey,
    nonce: [u8; NONCE_BYTES],
    context: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, SealError> {
    let mut sealed = Vec::with_capacity(plain.len().saturating_add(SEAL_BYTES));
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let body = sealed.get_mut(NONCE_BYTES..).unwrap_or_default();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(context), body)
        .map_err(|_| SealError::Cipher)?;
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed)
}

fn open<'b>(key: &LessSafeKey, context: &[u8], sealed: &'b mut [u8]) -> Option<&'b mut [u8]> {
    let (nonce, body) = sealed.split_first_chunk_mut::<NONCE_BYTES>()?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    key.open_in_place(nonce, Aad::from(context), body).ok()
}

/// The nonces of one segment's frames under one opening of it: eight random bytes, then a count. An
/// opening draws its bytes anew, so that a frame that takes the place of one that was cut off has
/// another nonce.
#[derive(Clone, Copy, Debug)]
pub struct Nonces {
    run: [u8; 8],
    count: u32,
}

impl Nonces {
    /// The nonces of an opening whose random bytes are `run`.
    #[must_use]
    pub const fn new(run: [u8; 8]) -> Self {
        Self { run, count: 0 }
    }

    /// The next nonce; `None` when all are used, which a segment is far too small for.
    pub fn draw(&mut self) -> Option<[u8; NONCE_BYTES]> {
        self.count = self.count.checked_add(1)?;
        let [a, b, c, d, e, f, g, h] = self.run;
        let [i, j, k, l] = self.count.to_be_bytes();
        Some([a, b, c, d, e, f, g, h, i, j, k, l])
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::{codec::Bytes, ledger::Revision};

    use super::*;

    fn key(byte: u8) -> DataKey {
        DataKey::new(Zeroizing::new([byte; 32]))
    }

    fn header(number: u64) -> segment::Header {
        segment::Header {
            number,
            first: Revision(number),
            previous: Bytes([9; 32]),
            is_sealed: true,
        }
    }

    #[test]
    fn a_frame_opens_only_in_its_place_in_its_segment_with_its_key() {
        let sealed = key(1).segment(&header(1)).unwrap();
        let sealed = sealed.seal(60, [7; NONCE_BYTES], b"an entry").unwrap();
        assert_eq!(sealed.len(), b"an entry".len() + SEAL_BYTES);
        assert!(!sealed.windows(8).any(|window| window == b"an entry"));
        let open = |key: &DataKey, header, offset, mut sealed: Vec<u8>| {
            let key = key.segment(&header).unwrap();
            key.open(offset, &mut sealed).map(<[u8]>::to_vec)
        };
        let right = open(&key(1), header(1), 60, sealed.clone());
        assert_eq!(right.unwrap(), b"an entry");
        assert_eq!(open(&key(2), header(1), 60, sealed.clone()), None);
        assert_eq!(open(&key(1), header(2), 60, sealed.clone()), None);
        assert_eq!(open(&key(1), header(1), 61, sealed.clone()), None);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&key(1), header(1), 60, flipped), None, "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(
                open(&key(1), header(1), 60, sealed[..length].to_vec()),
                None
            );
        }
    }

    #[test]
    fn what_is_sealed_for_one_purpose_does_not_open_for_another() {
        let sealed = key(1).seal("ca", [1; NONCE_BYTES], b"secret").unwrap();
        assert_eq!(*key(1).open("ca", &sealed).unwrap(), b"secret");
        assert_eq!(key(1).open("ticket", &sealed), Err(SealError::Changed));
    }

    #[test]
    fn another_secret_wraps_the_same_key() {
        let first = Wrapped::of(&key(3), b"first", [1; SALT_BYTES], [2; NONCE_BYTES]).unwrap();
        let read = Wrapped::parse(&first.to_string()).unwrap();
        assert_eq!(read, first);
        let opened = read.open(b"first").unwrap();
        assert_eq!(read.open(b"second").unwrap_err(), SealError::WrongKey);
        let second = Wrapped::of(&opened, b"second", [3; SALT_BYTES], [4; NONCE_BYTES]).unwrap();
        assert_eq!(second.open(b"second").unwrap().0, key(3).0);
        assert_eq!(second.open(b"first").unwrap_err(), SealError::WrongKey);
    }

    #[test]
    fn a_file_that_asks_for_too_much_is_refused_before_anything_is_computed() {
        let good = Wrapped::of(&key(3), b"x", [1; SALT_BYTES], [2; NONCE_BYTES]).unwrap();
        for forged in [
            Wrapped {
                memory_kib: MEMORY_KIB_MAX + 1,
                ..good.clone()
            },
            Wrapped {
                memory_kib: 0,
                ..good.clone()
            },
            Wrapped {
                passes: PASSES_MAX + 1,
                ..good.clone()
            },
            Wrapped {
                lanes: 0,
                ..good.clone()
            },
            Wrapped {
                version: 2,
                ..good.clone()
            },
        ] {
            let parsed = Wrapped::parse(&forged.to_string());
            assert!(matches!(parsed, Err(SealError::Wrapped(_))), "{forged:?}");
        }
    }

    #[test]
    fn no_nonce_comes_twice() {
        let mut nonces = Nonces::new([5; 8]);
        let first = nonces.draw().unwrap();
        assert_ne!(nonces.draw().unwrap(), first);
        assert_ne!(Nonces::new([6; 8]).draw().unwrap(), first);
        nonces.count = u32::MAX;
        assert_eq!(nonces.draw(), None);
    }
}
