//! Checkpoints: what a controller signs of its ledger, as a C2SP `tlog-checkpoint` in a C2SP
//! `signed-note`, so that other people's tools read and witness them too.
//!
//! ```text
//! corp.example/ledger
//! 1284
//! 3n5nYzm1jPZIIcyKpZ7dO7BvL2VLmAMIcsDiDd1zRlM=
//! epoch 1            only after a rollback that an admin acknowledged
//!
//! — corp.example/ledger eVQ0Q…base64 of the key's id and its signature…
//! ```

use std::{fmt, str::FromStr};

use cardea_credential::key::{self, ParseKeyError, SignError, Signer, SoftwareKey};
use cardea_proto::{
    codec::{Bytes, Digest},
    name::Name,
};
use data_encoding::{BASE64, HEXLOWER};

/// Longest note that is read, in bytes: room for the signatures of some witnesses.
pub const NOTE_BYTES_MAX: usize = 4_096;

/// The kind of key, as C2SP numbers it: Ed25519.
const ED25519: u8 = 1;

/// What the line of an epoch begins with.
const EPOCH: &str = "epoch ";

/// What a signature's line begins with: an em dash and a space.
const SIGNATURE: &str = "\u{2014} ";

/// The first `size` entries of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which ledger.
    pub origin: String,
    /// How many entries.
    pub size: u64,
    /// The root of their tree.
    pub root: Digest,
    /// How often the ledger was rolled back and an admin let it go on: only a checkpoint of a later
    /// epoch need not go on from one of an earlier.
    pub epoch: u64,
}

/// The name of a trust domain's ledger.
#[must_use]
pub fn origin(domain: &Name) -> String {
    format!("{domain}/ledger")
}

/// Why a note is no checkpoint of this ledger.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not a signed note, or not a checkpoint.
    #[error("not a checkpoint: {0}")]
    Malformed(&'static str),
    /// A checkpoint of another ledger.
    #[error("a checkpoint of {got}, not of {expected}")]
    Origin {
        /// Whose it is.
        got: String,
        /// Whose it should be.
        expected: String,
    },
    /// Nobody signed it who should have.
    #[error("it is not signed by the ledger's key {0}")]
    Unsigned(String),
    /// Somebody signed it, but not this.
    #[error("the signature does not hold")]
    NotProven,
}

impl Checkpoint {
    /// The text that is signed.
    fn text(&self) -> String {
        let Self {
            origin,
            size,
            root,
            epoch,
        } = self;
        let epoch = match epoch {
            0 => String::new(),
            epoch => format!("{EPOCH}{epoch}\n"),
        };
        format!("{origin}\n{size}\n{}\n{epoch}", BASE64.encode(&root.0))
    }

    fn parse(text: &str) -> Result<Self, CheckpointError> {
        let malformed = CheckpointError::Malformed;
        let mut lines = text.lines();
        let mut line = |what| {
            lines
                .next()
                .filter(|line| !line.is_empty())
                .ok_or(malformed(what))
        };
        let origin = line("there is no origin")?.to_owned();
        let number = line("there is no size")?;
        let size = decimal(number).ok_or(malformed("the size is no number"))?;
        let root = BASE64
            .decode(line("there is no root")?.as_bytes())
            .ok()
            .and_then(|root| root.try_into().ok())
            .ok_or(malformed("the root is no hash"))?;
        // Lines that others may add are not ours to understand.
        let epoch = match lines.find_map(|line| line.strip_prefix(EPOCH)) {
            Some(number) => decimal(number).ok_or(malformed("the epoch is no number"))?,
            None => 0,
        };
        Ok(Self {
            origin,
            size,
            root: Bytes(root),
            epoch,
        })
    }
}

/// A number in the one way in which it is written.
fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The key with which a controller signs checkpoints.
pub struct LedgerKey {
    key: SoftwareKey,
    verifier: Verifier,
}

impl LedgerKey {
    /// The Ed25519 key of a 32-byte seed, for the ledger of `domain`.
    ///
    /// # Errors
    /// [`ParseKeyError`] when the library refuses it.
    pub fn from_seed(domain: &Name, seed: &[u8; 32]) -> Result<Self, ParseKeyError> {
        let key = SoftwareKey::from_seed(seed)?;
        let public = key.public_key().last_chunk().copied().unwrap_or_default();
        Ok(Self {
            key,
            verifier: Verifier::new(origin(domain), public),
        })
    }

    /// The public half.
    #[must_use]
    pub const fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Signs the first `size` entries of the ledger, in an epoch.
    ///
    /// # Errors
    /// [`SignError`] when the library refuses.
    pub fn sign(&self, size: u64, root: Digest, epoch: u64) -> Result<String, SignError> {
        let Verifier { name, .. } = &self.verifier;
        let text = Checkpoint {
            origin: name.clone(),
            size,
            root,
            epoch,
        }
        .text();
        let signature = self.key.sign(text.as_bytes())?;
        let signed = BASE64.encode(&[self.verifier.id().as_slice(), &signature].concat());
        Ok(format!("{text}\n{SIGNATURE}{name} {signed}\n"))
    }
}

impl fmt::Debug for LedgerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LedgerKey({})", self.verifier)
    }
}

/// What checks a ledger's checkpoints: its name and the public key. As text it is a C2SP
/// verifier key, `NAME+ID+KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    public: [u8; 32],
}

impl Verifier {
    /// The verifier of the ledger `name` with an Ed25519 public key.
    #[must_use]
    pub const fn new(name: String, public: [u8; 32]) -> Self {
        Self { name, public }
    }

    /// The ledger's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Ed25519 public key.
    #[must_use]
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The key's id: it tells keys apart and proves nothing.
    fn id(&self) -> [u8; 4] {
        let named = [self.name.as_bytes(), b"\n", &[ED25519], &self.public].concat();
        let digest = key::digest(&named).0;
        digest.first_chunk().copied().unwrap_or_default()
    }

    /// Reads a note that the ledger's key has signed; other signatures in it are not looked at.
    ///
    /// # Errors
    /// [`CheckpointError`] says why it is not to be believed.
    pub fn verify(&self, note: &str) -> Result<Checkpoint, CheckpointError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(CheckpointError::Malformed("it is too long"));
        }
        let (text, signatures) = note
            .strip_suffix('\n')
            .and_then(|note| note.rsplit_once("\n\n"))
            .ok_or(CheckpointError::Malformed("there is no signature"))?;
        let text = format!("{text}\n");
        let checkpoint = Checkpoint::parse(&text)?;
        if checkpoint.origin != self.name {
            return Err(CheckpointError::Origin {
                got: checkpoint.origin,
                expected: self.name.clone(),
            });
        }
        let signature = signatures
            .lines()
            .find_map(|line| self.signature(line))
            .ok_or_else(|| CheckpointError::Unsigned(self.to_string()))?;
        key::verify(
            &key::ed25519_public_key(&self.public),
            text.as_bytes(),
            &signature,
        )
        .map_err(|_| CheckpointError::NotProven)?;
        Ok(checkpoint)
    }

    /// The signature in a line, when it claims to be by this key.
    fn signature(&self, line: &str) -> Option<Vec<u8>> {
        let (name, signed) = line.strip_prefix(SIGNATURE)?.rsplit_once(' ')?;
        let signed = BASE64.decode(signed.as_bytes()).ok()?;
        let (id, signature) = signed.split_first_chunk::<4>()?;
        (name == self.name && *id == self.id()).then(|| signature.to_vec())
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [[ED25519].as_slice(), &self.public].concat();
        let id = HEXLOWER.encode(&self.id());
        write!(f, "{}+{id}+{}", self.name, BASE64.encode(&key))
    }
}

/// The text is no verifier key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a ledger's public key, which looks like corp.example/ledger+0a1b2c3d+AQ…=")]
pub struct ParseVerifierError;

impl FromStr for Verifier {
    type Err = ParseVerifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (name, rest) = text.trim().split_once('+')?;
            let (id, key) = rest.split_once('+')?;
            let key = BASE64.decode(key.as_bytes()).ok()?;
            let (kind, public) = key.split_first()?;
            let verifier = Self::new(name.to_owned(), public.try_into().ok()?);
            let whole = *kind == ED25519
                && !name.is_empty()
                && !name.contains(char::is_whitespace)
                && HEXLOWER.encode(&verifier.id()) == id;
            whole.then_some(verifier)
        };
        parse().ok_or(ParseVerifierError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> LedgerKey {
        LedgerKey::from_seed(&"corp.example".parse().unwrap(), &[seed; 32]).unwrap()
    }

    #[test]
    fn a_signed_checkpoint_reads_back_as_itself() {
        let note = key(1).sign(7, Bytes([3; 32]), 0).unwrap();
        let checkpoint = key(1).verifier().verify(&note).unwrap();
        assert_eq!(checkpoint.size, 7);
        assert_eq!(checkpoint.root, Bytes([3; 32]));
        assert_eq!(checkpoint.origin, "corp.example/ledger");
    }

    #[test]
    fn an_epoch_is_a_line_of_its_own() {
        let note = key(1).sign(7, Bytes([3; 32]), 2).unwrap();
        assert!(note.contains("\nepoch 2\n\n"), "{note}");
        assert_eq!(key(1).verifier().verify(&note).unwrap().epoch, 2);
        let note = key(1).sign(7, Bytes([3; 32]), 0).unwrap();
        assert!(!note.contains("epoch"), "{note}");
    }

    #[test]
    fn every_changed_byte_of_a_note_is_found() {
        let note = key(1).sign(70, Bytes([3; 32]), 1).unwrap();
        for at in 0..note.len() {
            let mut touched = note.clone().into_bytes();
            touched[at] ^= 1;
            if let Ok(touched) = String::from_utf8(touched) {
                assert!(key(1).verifier().verify(&touched).is_err(), "{touched}");
            }
            if note.is_char_boundary(at) {
                assert!(key(1).verifier().verify(&note[..at]).is_err(), "{at}");
            }
        }
    }

    #[test]
    fn a_checkpoint_by_another_key_or_of_another_ledger_is_refused() {
        let note = key(2).sign(7, Bytes([3; 32]), 0).unwrap();
        assert_eq!(
            key(1).verifier().verify(&note),
            Err(CheckpointError::Unsigned(key(1).verifier().to_string()))
        );
        let other = LedgerKey::from_seed(&"other.example".parse().unwrap(), &[1; 32]).unwrap();
        let note = other.sign(7, Bytes([3; 32]), 0).unwrap();
        assert!(matches!(
            key(1).verifier().verify(&note),
            Err(CheckpointError::Origin { .. })
        ));
    }

    #[test]
    fn a_witness_may_sign_too() {
        let note = key(1).sign(7, Bytes([3; 32]), 0).unwrap();
        let witnessed = format!("{note}\u{2014} witness.example AAAAAAAA\n");
        assert!(key(1).verifier().verify(&witnessed).is_ok());
    }

    #[test]
    fn a_verifier_is_a_line_of_text() {
        let verifier = key(1).verifier().clone();
        let text = verifier.to_string();
        assert_eq!(text.parse(), Ok(verifier));
        for at in 0..text.len() {
            let mut touched = text.clone().into_bytes();
            touched[at] ^= 1;
            let touched = String::from_utf8(touched).unwrap();
            assert_eq!(touched.parse::<Verifier>(), Err(ParseVerifierError));
        }
    }

    #[test]
    fn the_known_answer_of_the_signed_note_format_holds() {
        // From the documentation of Go's golang.org/x/mod/sumdb/note.
        let verifier: Verifier =
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
                .parse()
                .unwrap();
        let text = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n";
        let line = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let signature = verifier.signature(line).unwrap();
        let public = key::ed25519_public_key(verifier.public());
        assert!(key::verify(&public, text.as_bytes(), &signature).is_ok());
    }
}
