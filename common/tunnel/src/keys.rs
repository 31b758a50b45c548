//! The keys that two ends make for one grant: X25519 pairs and an ML-KEM-768 exchange.
//!
//! The preshared key of a WireGuard tunnel is what the ML-KEM exchange agrees on, so that recorded
//! traffic stays closed to an adversary who breaks X25519 later. All of them live in memory only.

use std::fmt;

use cardea_proto::{
    access::{KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES},
    codec::{Blob, Bytes, Secret32},
};
use ml_kem::{B32, Decapsulate, DecapsulationKey768, EncapsulationKey768, KeyExport, Seed};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

/// An X25519 pair.
#[derive(Debug)]
pub struct WireGuardKey {
    /// The private half.
    pub private: Secret32,
    /// The public half.
    pub public: Bytes<32>,
}

impl WireGuardKey {
    /// The pair that `seed` makes; a seed is used once.
    #[must_use]
    pub fn generate(seed: [u8; 32]) -> Self {
        let mut private = Zeroizing::new([0; 32]);
        expand(seed).fill_bytes(private.as_mut_slice());
        let secret = x25519_dalek::StaticSecret::from(*private);
        Self {
            private: Secret32(secret.to_bytes()),
            public: Bytes(x25519_dalek::PublicKey::from(&secret).to_bytes()),
        }
    }
}

/// The agent's half of an ML-KEM-768 exchange (FIPS 203).
pub struct KemKey {
    private: DecapsulationKey768,
}

impl KemKey {
    /// The pair that `seed` makes; a seed is used once.
    #[must_use]
    pub fn generate(seed: [u8; 32]) -> Self {
        let mut bytes = Seed::default();
        expand(seed).fill_bytes(&mut bytes);
        Self {
            private: DecapsulationKey768::from_seed(bytes),
        }
    }

    /// The encapsulation key to send, [`KEM_KEY_BYTES`] long.
    #[must_use]
    pub fn public(&self) -> Blob {
        Blob(self.private.encapsulation_key().to_bytes().to_vec())
    }

    /// The secret inside `ciphertext`.
    ///
    /// A forged ciphertext gives a secret that nobody else has (implicit rejection), so the tunnel
    /// simply does not open.
    ///
    /// # Errors
    /// [`KemError::Ciphertext`] when it has another length than [`KEM_CIPHERTEXT_BYTES`].
    pub fn open(&self, ciphertext: &Blob) -> Result<Secret32, KemError> {
        let secret = self
            .private
            .decapsulate_slice(&ciphertext.0)
            .map_err(|_| KemError::Ciphertext(ciphertext.0.len()))?;
        Ok(Secret32(secret.into()))
    }
}

impl fmt::Debug for KemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KemKey(…)")
    }
}

/// The connector's half: a secret, and the ciphertext that lets the holder of `public` find it.
///
/// # Errors
/// [`KemError::Key`] when `public` is no encapsulation key (FIPS 203 §7.2).
pub fn encapsulate(public: &Blob, seed: [u8; 32]) -> Result<(Blob, Secret32), KemError> {
    let wrong = || KemError::Key(public.0.len());
    let bytes = public.0.as_slice().try_into().map_err(|_| wrong())?;
    let key = EncapsulationKey768::new(bytes).map_err(|_| wrong())?;
    let mut message = B32::default();
    expand(seed).fill_bytes(&mut message);
    let (ciphertext, secret) = key.encapsulate_deterministic(&message);
    Ok((Blob(ciphertext.to_vec()), Secret32(secret.into())))
}

/// Why an ML-KEM exchange cannot be done. The peer is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KemError {
    /// Not an encapsulation key.
    #[error("{0} bytes are not an ML-KEM-768 key of {KEM_KEY_BYTES}")]
    Key(usize),
    /// Not a ciphertext.
    #[error("{0} bytes are not an ML-KEM-768 ciphertext of {KEM_CIPHERTEXT_BYTES}")]
    Ciphertext(usize),
}

fn expand(seed: [u8; 32]) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_of_an_exchange_find_the_same_secret() {
        let key = KemKey::generate([1; 32]);
        let (ciphertext, secret) = encapsulate(&key.public(), [2; 32]).unwrap();
        assert_eq!(key.public().0.len(), KEM_KEY_BYTES);
        assert_eq!(ciphertext.0.len(), KEM_CIPHERTEXT_BYTES);
        assert!(key.open(&ciphertext).unwrap() == secret);
        let (other, different) = encapsulate(&key.public(), [3; 32]).unwrap();
        assert!(key.open(&other).unwrap() == different && different != secret);
    }

    #[test]
    fn a_forged_ciphertext_gives_another_secret_and_a_short_one_none() {
        let key = KemKey::generate([1; 32]);
        let (mut ciphertext, secret) = encapsulate(&key.public(), [2; 32]).unwrap();
        ciphertext.0[0] ^= 1;
        assert!(key.open(&ciphertext).unwrap() != secret);
        ciphertext.0.pop();
        assert_eq!(
            key.open(&ciphertext).err(),
            Some(KemError::Ciphertext(KEM_CIPHERTEXT_BYTES - 1))
        );
        assert!(encapsulate(&Blob(vec![0xff; KEM_KEY_BYTES]), [0; 32]).is_err());
        assert!(encapsulate(&Blob(Vec::new()), [0; 32]).is_err());
    }

    #[test]
    fn two_x25519_pairs_agree() {
        let (a, b) = (
            WireGuardKey::generate([1; 32]),
            WireGuardKey::generate([2; 32]),
        );
        let agree = |mine: &WireGuardKey, theirs: &WireGuardKey| {
            x25519_dalek::x25519(mine.private.0, theirs.public.0)
        };
        assert_eq!(agree(&a, &b), agree(&b, &a));
        assert_ne!(a.public, b.public);
    }
}
