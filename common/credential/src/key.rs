//! Keys that sign, wherever they live, and the check of what they signed.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1,
        ECDSA_P384_SHA384_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        UnparsedPublicKey, VerificationAlgorithm,
    },
};
use zeroize::Zeroizing;

use cardea_proto::{
    codec::{Bytes, Digest},
    identity::Role,
};

/// A private key that signs without being seen: a file today, a TPM or a PKCS#11 token later.
pub trait Signer: Send + Sync + fmt::Debug {
    /// What kind of key this is.
    fn algorithm(&self) -> KeyAlgorithm;

    /// The public half: SubjectPublicKeyInfo in DER.
    fn public_key(&self) -> &[u8];

    /// Signs `message`, which the key hashes itself; ECDSA signatures are in DER.
    ///
    /// # Errors
    /// [`SignError`] when the place where the key lives refuses or is gone.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// The kinds of key that Cardea knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on NIST P-256 with SHA-256: leaves and intermediates; every TPM has it.
    P256,
    /// ECDSA on NIST P-384 with SHA-384: roots.
    P384,
    /// Ed25519 (RFC 8032): leaves, admins, tickets.
    Ed25519,
}

impl KeyAlgorithm {
    /// What a leaf's key is where this machine makes it.
    ///
    /// A device's is of the kind that its TPM could hold. A connector signs an answer to every grant,
    /// and its controller checks each: Ed25519 costs both of them two thirds.
    #[must_use]
    pub const fn of_leaf(role: Role) -> Self {
        match role {
            Role::Device | Role::Controller | Role::Relay => Self::P256,
            Role::Connector => Self::Ed25519,
        }
    }
}

/// The place where a key lives did not sign.
#[derive(Debug, thiserror::Error)]
#[error("the key did not sign: {0}")]
pub struct SignError(pub String);

/// Bytes that are no private key of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a PKCS#8 private key of P-256, P-384 or Ed25519")]
pub struct ParseKeyError;

/// A signature that does not hold, or a public key that is none.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the signature does not hold")]
pub struct NotProven;

/// A private key in this process's memory.
pub struct SoftwareKey {
    pair: Pair,
    algorithm: KeyAlgorithm,
    public_key: Vec<u8>,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SoftwareKey {
    /// Makes a key from the cryptographic library's own entropy.
    ///
    /// # Errors
    /// [`SignError`] when that has none to give.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, SignError> {
        let failed = |_| SignError("no key could be generated".to_owned());
        Ok(Self::new(match algorithm {
            KeyAlgorithm::P256 => Pair::Ecdsa(
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?,
            ),
            KeyAlgorithm::P384 => Pair::Ecdsa(
                EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map_err(failed)?,
            ),
            KeyAlgorithm::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().map_err(failed)?),
        }))
    }

    /// The Ed25519 key of a seed: the same key for the same seed, which simulations need.
    ///
    /// # Errors
    /// [`ParseKeyError`] never happens for 32 bytes, but the library reserves the right.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, ParseKeyError> {
        Ed25519KeyPair::from_seed_unchecked(seed)
            .map(|pair| Self::new(Pair::Ed25519(pair)))
            .map_err(|_| ParseKeyError)
    }

    /// Reads a key as [`Self::to_pkcs8`] wrote it, of any kind.
    ///
    /// # Errors
    /// [`ParseKeyError`] when it is none.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, ParseKeyError> {
        for algorithm in [
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &ECDSA_P384_SHA384_ASN1_SIGNING,
        ] {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8) {
                return Ok(Self::new(Pair::Ecdsa(pair)));
            }
        }
        Ed25519KeyPair::from_pkcs8(pkcs8)
            .map(|pair| Self::new(Pair::Ed25519(pair)))
            .map_err(|_| ParseKeyError)
    }

    /// The key as PKCS#8 in DER (RFC 5958), for a file that only its owner may read.
    ///
    /// # Errors
    /// [`SignError`] when the library cannot write it.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, SignError> {
        let document = match &self.pair {
            Pair::Ecdsa(pair) => pair.to_pkcs8v1(),
            Pair::Ed25519(pair) => pair.to_pkcs8v1(),
        };
        document
            .map(|document| Zeroizing::new(document.as_ref().to_vec()))
            .map_err(|_| SignError("the key could not be written".to_owned()))
    }

    fn new(pair: Pair) -> Self {
        let (algorithm, raw) = match &pair {
            Pair::Ecdsa(pair) if pair.algorithm() == &ECDSA_P384_SHA384_ASN1_SIGNING => {
                (KeyAlgorithm::P384, pair.public_key().as_ref())
            }
            Pair::Ecdsa(pair) => (KeyAlgorithm::P256, pair.public_key().as_ref()),
            Pair::Ed25519(pair) => (KeyAlgorithm::Ed25519, pair.public_key().as_ref()),
        };
        let public_key = [algorithm.spki_prefix(), raw].concat();
        Self {
            pair,
            algorithm,
            public_key,
        }
    }
}

impl Signer for SoftwareKey {
    fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = match &self.pair {
            Pair::Ecdsa(pair) => pair.sign(&SystemRandom::new(), message),
            Pair::Ed25519(pair) => pair.try_sign(message),
        };
        signature
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| SignError("the library refused".to_owned()))
    }
}

impl fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftwareKey({:?})", self.algorithm)
    }
}

impl KeyAlgorithm {
    /// All of a SubjectPublicKeyInfo before the raw key. DER leaves no choice in it.
    ///
    /// Source: RFC 5480 §2 (uncompressed points), RFC 8410 §4.
    const fn spki_prefix(self) -> &'static [u8] {
        match self {
            Self::P256 => &[
                0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
                0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
            ],
            Self::P384 => &[
                0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
                0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
            ],
            Self::Ed25519 => &[
                0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
            ],
        }
    }

    const fn raw_bytes(self) -> usize {
        match self {
            Self::P256 => 65,
            Self::P384 => 97,
            Self::Ed25519 => 32,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1,
            Self::P384 => &ECDSA_P384_SHA384_ASN1,
            Self::Ed25519 => &ED25519,
        }
    }

    /// Whether a node may have such a key.
    #[must_use]
    pub const fn fits_a_leaf(self) -> bool {
        match self {
            Self::P256 | Self::Ed25519 => true,
            Self::P384 => false,
        }
    }
}

/// The kind of a public key (SubjectPublicKeyInfo, DER) and its raw bytes: an uncompressed point,
/// or the 32 bytes of Ed25519. `None` when it is of no kind that we know.
#[must_use]
pub fn split_public_key(public_key: &[u8]) -> Option<(KeyAlgorithm, &[u8])> {
    [
        KeyAlgorithm::P256,
        KeyAlgorithm::P384,
        KeyAlgorithm::Ed25519,
    ]
    .into_iter()
    .find_map(|algorithm| {
        let raw = public_key.strip_prefix(algorithm.spki_prefix())?;
        (raw.len() == algorithm.raw_bytes()).then_some((algorithm, raw))
    })
}

/// The SubjectPublicKeyInfo of a raw Ed25519 public key.
#[must_use]
pub fn ed25519_public_key(raw: &[u8; 32]) -> Vec<u8> {
    [KeyAlgorithm::Ed25519.spki_prefix(), raw].concat()
}

/// Checks that the holder of `public_key` (SubjectPublicKeyInfo, DER) signed `message`.
///
/// # Errors
/// [`NotProven`] when they did not, or when that is no public key.
pub fn verify(public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), NotProven> {
    let (algorithm, raw) = split_public_key(public_key).ok_or(NotProven)?;
    UnparsedPublicKey::new(algorithm.verification(), raw)
        .verify(message, signature)
        .map_err(|_| NotProven)
}

/// SHA-256.
#[must_use]
pub fn digest(bytes: &[u8]) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    Bytes(digest)
}

/// SHA-256 of all that a reader gives, which is never held whole.
///
/// # Errors
/// Those of the reader.
pub fn digest_of(mut from: impl std::io::Read) -> std::io::Result<Digest> {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => context.update(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(Bytes(digest))
}

/// Compares in a time that depends on the lengths alone.
#[must_use]
pub fn equal_secrets(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [KeyAlgorithm; 3] = [
        KeyAlgorithm::P256,
        KeyAlgorithm::P384,
        KeyAlgorithm::Ed25519,
    ];

    #[test]
    fn a_key_signs_and_only_its_message_under_its_public_half_verifies() {
        for algorithm in ALL {
            let key = SoftwareKey::generate(algorithm).unwrap();
            let other = SoftwareKey::generate(algorithm).unwrap();
            let signature = key.sign(b"message").unwrap();
            assert_eq!(verify(key.public_key(), b"message", &signature), Ok(()));
            assert_eq!(
                verify(key.public_key(), b"massage", &signature),
                Err(NotProven)
            );
            assert_eq!(
                verify(other.public_key(), b"message", &signature),
                Err(NotProven)
            );
            assert_eq!(verify(key.public_key(), b"message", b""), Err(NotProven));
            assert_eq!(verify(b"no key", b"message", &signature), Err(NotProven));
        }
    }

    #[test]
    fn a_key_reads_back_as_itself() {
        for algorithm in ALL {
            let key = SoftwareKey::generate(algorithm).unwrap();
            let read = SoftwareKey::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
            assert_eq!(read.public_key(), key.public_key());
            assert_eq!(read.algorithm(), algorithm);
            assert_eq!(
                split_public_key(key.public_key()).map(|(kind, _)| kind),
                Some(algorithm)
            );
        }
        assert!(SoftwareKey::from_pkcs8(b"").is_err());
        assert!(SoftwareKey::from_pkcs8(&[0x30; 200]).is_err());
    }

    #[test]
    fn our_public_keys_are_those_that_a_standard_parser_reads() {
        use x509_parser::prelude::FromDer as _;
        for algorithm in ALL {
            let key = SoftwareKey::generate(algorithm).unwrap();
            let (rest, _) =
                x509_parser::x509::SubjectPublicKeyInfo::from_der(key.public_key()).unwrap();
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn one_seed_makes_one_key() {
        let key = |seed| SoftwareKey::from_seed(&[seed; 32]).unwrap();
        assert_eq!(key(1).public_key(), key(1).public_key());
        assert_ne!(key(1).public_key(), key(2).public_key());
    }

    #[test]
    fn a_digest_is_sha_256() {
        assert_eq!(
            format!("{:?}", digest(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
