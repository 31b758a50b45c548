//! Changes that admins sign, so that the ledger shows who wanted what.

use cardea_proto::{
    admin::{CHANGE_CONTEXT, ChangeOrder, SignedChange},
    codec::{self, DecodeError, MESSAGE_BYTES_MAX_ADMIN},
    id::{AdminKeyId, ID_BYTES},
};

use crate::key::{self, SignError, Signer, SoftwareKey};

/// Why a signed change is not to be believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The change names another key than the one it is checked against.
    #[error("signed by {got}, not by {expected}")]
    OtherKey {
        /// The key that the change names.
        got: AdminKeyId,
        /// The key it was checked against.
        expected: AdminKeyId,
    },
    /// The signature does not hold.
    #[error("the admin's signature does not hold")]
    NotProven,
    /// It holds, but what was signed is no change.
    #[error("the signed change cannot be read")]
    Unreadable(#[source] DecodeError),
}

/// The id of an admin's raw Ed25519 public key: the first ten bytes of its SHA-256.
#[must_use]
pub fn admin_key_id(public: &[u8; 32]) -> AdminKeyId {
    let digest = key::digest(public).0;
    AdminKeyId::from_bytes(
        digest
            .first_chunk::<ID_BYTES>()
            .copied()
            .unwrap_or_default(),
    )
}

/// The raw Ed25519 public key of an admin's key, 32 bytes; `None` for a key of another kind.
#[must_use]
pub fn admin_public_key(key: &dyn Signer) -> Option<[u8; 32]> {
    match key::split_public_key(key.public_key())? {
        (key::KeyAlgorithm::Ed25519, raw) => raw.try_into().ok(),
        (key::KeyAlgorithm::P256 | key::KeyAlgorithm::P384, _) => None,
    }
}

/// Signs `order` with an admin's Ed25519 key.
///
/// # Errors
/// [`SignError`] when the key is of another kind or does not sign.
pub fn sign_change(order: &ChangeOrder, key: &SoftwareKey) -> Result<SignedChange, SignError> {
    let public =
        admin_public_key(key).ok_or_else(|| SignError("an admin's key is Ed25519".to_owned()))?;
    let body = codec::encode(order);
    let signature = key.sign(&message(&body))?;
    Ok(SignedChange {
        body: body.into(),
        key: admin_key_id(&public),
        signature: signature.into(),
    })
}

/// Reads a change after checking that the holder of `public` (raw Ed25519) signed it.
///
/// Domain, nonce and sequence are the caller's to compare.
///
/// # Errors
/// [`ChangeError`] says which part does not hold.
pub fn verify_change(public: &[u8; 32], signed: &SignedChange) -> Result<ChangeOrder, ChangeError> {
    let expected = admin_key_id(public);
    if signed.key != expected {
        return Err(ChangeError::OtherKey {
            got: signed.key,
            expected,
        });
    }
    key::verify(
        &key::ed25519_public_key(public),
        &message(signed.body.as_ref()),
        signed.signature.as_ref(),
    )
    .map_err(|_| ChangeError::NotProven)?;
    codec::decode(signed.body.as_ref(), MESSAGE_BYTES_MAX_ADMIN).map_err(ChangeError::Unreadable)
}

fn message(body: &[u8]) -> Vec<u8> {
    [CHANGE_CONTEXT, body].concat()
}

#[cfg(test)]
mod tests {
    use cardea_proto::{admin::AdminChange, codec::Bytes, time::UnixMillis};

    use super::*;
    use crate::key::KeyAlgorithm;

    #[test]
    fn a_signed_change_reads_back_as_itself() {
        let (key, public) = key(1);
        let signed = sign_change(&order(), &key).unwrap();
        assert_eq!(verify_change(&public, &signed), Ok(order()));
    }

    #[test]
    fn a_change_that_was_touched_anywhere_is_refused() {
        let (key, public) = key(1);
        let signed = sign_change(&order(), &key).unwrap();
        for at in 0..signed.body.0.len() {
            let mut changed = signed.clone();
            changed.body.0[at] ^= 1;
            assert_eq!(
                verify_change(&public, &changed),
                Err(ChangeError::NotProven)
            );
        }
        for at in 0..signed.signature.0.len() {
            let mut changed = signed.clone();
            changed.signature.0[at] ^= 1;
            assert_eq!(
                verify_change(&public, &changed),
                Err(ChangeError::NotProven)
            );
        }
    }

    #[test]
    fn a_change_by_another_key_is_refused_even_when_it_claims_ours() {
        let (_, public) = key(1);
        let (other, _) = key(2);
        let mut signed = sign_change(&order(), &other).unwrap();
        assert!(matches!(
            verify_change(&public, &signed),
            Err(ChangeError::OtherKey { .. })
        ));
        signed.key = admin_key_id(&public);
        assert_eq!(verify_change(&public, &signed), Err(ChangeError::NotProven));
    }

    #[test]
    fn what_is_signed_but_no_change_is_refused() {
        let (key, public) = key(1);
        let body = b"\xff".to_vec();
        let signed = SignedChange {
            signature: key.sign(&message(&body)).unwrap().into(),
            body: body.into(),
            key: admin_key_id(&public),
        };
        assert!(matches!(
            verify_change(&public, &signed),
            Err(ChangeError::Unreadable(_))
        ));
    }

    #[test]
    fn only_an_ed25519_key_signs_changes() {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        assert!(sign_change(&order(), &key).is_err());
    }

    fn key(seed: u8) -> (SoftwareKey, [u8; 32]) {
        let key = SoftwareKey::from_seed(&[seed; 32]).unwrap();
        let public = admin_public_key(&key).unwrap();
        (key, public)
    }

    fn order() -> ChangeOrder {
        ChangeOrder {
            domain: "corp.example".parse().unwrap(),
            nonce: Bytes([4; 16]),
            sequence: 1,
            at: UnixMillis(5),
            change: AdminChange::SiteAdd("office".parse().unwrap()),
        }
    }
}
