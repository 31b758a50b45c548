//! CBOR encoding of messages and records (RFC 8949), with every limit that a stranger could test.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroize;

/// Largest message before the peer is authenticated, in bytes.
pub const MESSAGE_BYTES_MAX_STRANGER: usize = 16 * 1024;

/// Largest message of an authenticated node, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Largest message on a local administrative socket, in bytes: a whole policy folder fits.
pub const MESSAGE_BYTES_MAX_ADMIN: usize = 16 * 1024 * 1024;

/// Deepest nesting that a decoder follows; our deepest message needs less than half of it.
pub const NESTING_MAX: usize = 32;

/// Length of the big-endian byte count before each message on a stream.
pub const LENGTH_BYTES: usize = 4;

/// Why bytes are not the message they should be. The peer is at fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// More bytes than this place accepts.
    #[error("message of {bytes} bytes is larger than {max}")]
    TooLarge {
        /// Size announced or received.
        bytes: usize,
        /// The cap that applied.
        max: usize,
    },
    /// Not CBOR, not complete, too deeply nested, or of an unknown variant.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// Bytes follow the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// Encodes `value` as CBOR.
///
/// Infallible for the types of this crate: none has a failing `Serialize`.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    #[expect(
        clippy::expect_used,
        reason = "writing to a Vec cannot fail and our types serialize"
    )]
    ciborium::into_writer(value, &mut bytes).expect("a message serializes");
    bytes
}

/// Encodes `value` with its length in front, as it travels on a stream.
#[must_use]
pub fn encode_framed<T: Serialize>(value: &T) -> Vec<u8> {
    let body = encode(value);
    let mut framed = Vec::with_capacity(LENGTH_BYTES + body.len());
    framed.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(&body);
    framed
}

/// Decodes exactly one value from `bytes`, which must be no longer than `bytes_max`.
///
/// # Errors
/// [`DecodeError`] says what is wrong; unknown fields are ignored, unknown variants are not.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, DecodeError> {
    if bytes.len() > bytes_max {
        return Err(DecodeError::TooLarge {
            bytes: bytes.len(),
            max: bytes_max,
        });
    }
    let mut rest = bytes;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, NESTING_MAX)
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::Trailing(rest.len()))
    }
}

/// Reads the length of a framed message.
///
/// # Errors
/// [`DecodeError::TooLarge`] when the announced length passes `bytes_max`; nothing is allocated.
pub fn decode_length(prefix: [u8; LENGTH_BYTES], bytes_max: usize) -> Result<usize, DecodeError> {
    let bytes = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if bytes > bytes_max {
        Err(DecodeError::TooLarge {
            bytes,
            max: bytes_max,
        })
    } else {
        Ok(bytes)
    }
}

/// Bytes that are not secret: keys' public halves, certificates, signatures; base64 in JSON.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&data_encoding::BASE64.encode(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            data_encoding::BASE64
                .decode(text.as_bytes())
                .map(Self)
                .map_err(serde::de::Error::custom)
        } else {
            serde_bytes::ByteBuf::deserialize(deserializer).map(|bytes| Self(bytes.into_vec()))
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Exactly `N` bytes that are not secret: hashes, public keys, nonces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes<const N: usize>(pub [u8; N]);

/// A SHA-256 digest.
pub type Digest = Bytes<32>;

impl<const N: usize> fmt::Debug for Bytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl<const N: usize> Serialize for Bytes<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&data_encoding::HEXLOWER.encode(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            data_encoding::HEXLOWER
                .decode(text.as_bytes())
                .map_err(serde::de::Error::custom)?
        } else {
            serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec()
        };
        let length = bytes.len();
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| serde::de::Error::invalid_length(length, &"a fixed number of bytes"))
    }
}

/// Thirty-two secret bytes on their way through a message. No `Debug`; wiped when dropped.
#[derive(Clone, Eq, zeroize::ZeroizeOnDrop)]
pub struct Secret32(pub [u8; 32]);

impl PartialEq for Secret32 {
    /// Takes the same time wherever they differ.
    fn eq(&self, other: &Self) -> bool {
        let differs = self.0.iter().zip(&other.0);
        std::hint::black_box(differs.fold(0, |all, (a, b)| all | (a ^ b))) == 0
    }
}

impl fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret32(…)")
    }
}

impl Serialize for Secret32 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret32 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut bytes = serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec();
        let result = <[u8; 32]>::try_from(bytes.as_slice());
        bytes.zeroize();
        result
            .map(Self)
            .map_err(|_| serde::de::Error::custom("a secret has 32 bytes"))
    }
}
