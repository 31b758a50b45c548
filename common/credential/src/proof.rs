//! Proof of possession: who asks for a certificate holds the key, on this very connection.

use crate::key::{self, Signer};

/// A public key whose holder proved possession on one connection.
///
/// Nothing but [`VerifiedRequest::verify`] makes one, so that no certificate is planned without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRequest {
    public_key: Vec<u8>,
}

/// Why a request for a certificate is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not SubjectPublicKeyInfo of P-256 or Ed25519.
    #[error("the public key is neither P-256 nor Ed25519")]
    UnsuitableKey,
    /// Another key signed, or for another connection.
    #[error("the key was not proven on this connection")]
    NotProven,
}

impl VerifiedRequest {
    /// Checks `proof` by `public_key` against the exporter bytes of the connection it came on.
    ///
    /// # Errors
    /// [`ProofError`] says which part does not hold.
    pub fn verify(
        exporter: &[u8; 32],
        public_key: &[u8],
        proof: &[u8],
    ) -> Result<Self, ProofError> {
        let fits =
            key::split_public_key(public_key).is_some_and(|(algorithm, _)| algorithm.fits_a_leaf());
        if !fits {
            return Err(ProofError::UnsuitableKey);
        }
        key::verify(public_key, &proof_message(exporter, public_key), proof)
            .map_err(|_| ProofError::NotProven)?;
        Ok(Self {
            public_key: public_key.to_vec(),
        })
    }

    /// The key: SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

/// The bytes that a proof signs: the exporter bytes of the connection, then the public key.
#[must_use]
pub fn proof_message(exporter: &[u8; 32], public_key: &[u8]) -> Vec<u8> {
    [exporter, public_key].concat()
}

/// Proves possession of `signer` on the connection with these exporter bytes.
///
/// # Errors
/// [`key::SignError`] when the key does not sign.
pub fn prove(exporter: &[u8; 32], signer: &dyn Signer) -> Result<Vec<u8>, key::SignError> {
    signer.sign(&proof_message(exporter, signer.public_key()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyAlgorithm, SoftwareKey};

    #[test]
    fn a_proof_holds_for_its_key_and_connection_alone() {
        for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Ed25519] {
            let key = SoftwareKey::generate(algorithm).unwrap();
            let other = SoftwareKey::generate(algorithm).unwrap();
            let proof = prove(&[1; 32], &key).unwrap();
            let check = |exporter: u8, key: &SoftwareKey, proof: &[u8]| {
                VerifiedRequest::verify(&[exporter; 32], key.public_key(), proof)
                    .map(|request| request.public_key().to_vec())
            };
            assert_eq!(check(1, &key, &proof), Ok(key.public_key().to_vec()));
            assert_eq!(check(2, &key, &proof), Err(ProofError::NotProven));
            assert_eq!(check(1, &other, &proof), Err(ProofError::NotProven));
            assert_eq!(check(1, &key, &proof[1..]), Err(ProofError::NotProven));
            assert_eq!(check(1, &key, &[]), Err(ProofError::NotProven));
        }
    }

    #[test]
    fn a_key_that_no_leaf_may_have_proves_nothing() {
        let key = SoftwareKey::generate(KeyAlgorithm::P384).unwrap();
        let proof = prove(&[1; 32], &key).unwrap();
        let check = |key: &[u8]| VerifiedRequest::verify(&[1; 32], key, &proof);
        assert_eq!(check(key.public_key()), Err(ProofError::UnsuitableKey));
        assert_eq!(check(b""), Err(ProofError::UnsuitableKey));
    }
}
