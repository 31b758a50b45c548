//! Offers and answers: what two ends of a tunnel say to each other through a controller that can
//! neither change nor replace it.

use cardea_proto::{
    access::{
        ANSWER_CONTEXT, Answer, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES, OFFER_CONTEXT, Offer, Signed,
    },
    codec::{self, Blob, DecodeError, Digest},
    identity::Holder,
    time::UnixMillis,
};

use crate::{
    key::{self, SignError, Signer},
    trust::{ChainError, Trust, VerifiedLeaf},
};

/// Largest body of a statement, in bytes: an ML-KEM-768 key and room for names.
pub const BODY_BYTES_MAX: usize = 4_096;

/// Why a statement is not to be believed. Its signer, or who forwarded it, is at fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Its chain proves nothing.
    #[error("the signer's certificate does not hold")]
    Chain(#[source] ChainError),
    /// Its signature does not hold.
    #[error("the signature does not hold")]
    NotProven,
    /// It holds, but what was signed cannot be read.
    #[error("the signed statement cannot be read")]
    Unreadable(#[source] DecodeError),
    /// It speaks for somebody else than its signer.
    #[error("the statement speaks for another node than the one that signed it")]
    OtherNode,
    /// A key in it has a wrong length.
    #[error("a key in the statement has a wrong length")]
    KeyLength,
}

/// Signs an offer with the device's leaf key.
///
/// # Errors
/// [`SignError`] when the key does not sign.
pub fn sign_offer(offer: &Offer, chain: &[Blob], signer: &dyn Signer) -> Result<Signed, SignError> {
    sign(OFFER_CONTEXT, codec::encode(offer), chain, signer)
}

/// Signs an answer with the connector's leaf key.
///
/// # Errors
/// [`SignError`] when the key does not sign.
pub fn sign_answer(
    answer: &Answer,
    chain: &[Blob],
    signer: &dyn Signer,
) -> Result<Signed, SignError> {
    sign(ANSWER_CONTEXT, codec::encode(answer), chain, signer)
}

/// Reads an offer after checking who signed it and that it speaks for them.
///
/// # Errors
/// [`StatementError`] names the first thing that does not hold.
pub fn verify_offer(
    signed: &Signed,
    trust: &Trust,
    at: UnixMillis,
) -> Result<(Offer, VerifiedLeaf), StatementError> {
    let leaf = verify(OFFER_CONTEXT, signed, trust, at)?;
    let offer: Offer = read(signed)?;
    if leaf.identity.holder != Holder::Device(offer.device) {
        return Err(StatementError::OtherNode);
    }
    if offer.kem.0.len() != KEM_KEY_BYTES {
        return Err(StatementError::KeyLength);
    }
    Ok((offer, leaf))
}

/// Reads an answer after checking who signed it and that it speaks for them.
///
/// That it answers our offer is the caller's to compare: see [`offer_digest`].
///
/// # Errors
/// [`StatementError`] names the first thing that does not hold.
pub fn verify_answer(
    signed: &Signed,
    trust: &Trust,
    at: UnixMillis,
) -> Result<(Answer, VerifiedLeaf), StatementError> {
    let leaf = verify(ANSWER_CONTEXT, signed, trust, at)?;
    let answer: Answer = read(signed)?;
    if leaf.identity.holder != Holder::Connector(answer.connector) {
        return Err(StatementError::OtherNode);
    }
    if answer.kem.0.len() != KEM_CIPHERTEXT_BYTES {
        return Err(StatementError::KeyLength);
    }
    Ok((answer, leaf))
}

/// SHA-256 of an offer's body: how an [`Answer`] names it.
#[must_use]
pub fn offer_digest(offer: &Signed) -> Digest {
    key::digest(offer.body.as_ref())
}

fn sign(
    context: &[u8],
    body: Vec<u8>,
    chain: &[Blob],
    signer: &dyn Signer,
) -> Result<Signed, SignError> {
    let signature = signer.sign(&[context, &body].concat())?;
    Ok(Signed {
        body: body.into(),
        chain: chain.to_vec(),
        signature: signature.into(),
    })
}

fn verify(
    context: &[u8],
    signed: &Signed,
    trust: &Trust,
    at: UnixMillis,
) -> Result<VerifiedLeaf, StatementError> {
    let body = signed.body.as_ref();
    if body.len() > BODY_BYTES_MAX {
        return Err(StatementError::Unreadable(DecodeError::TooLarge {
            bytes: body.len(),
            max: BODY_BYTES_MAX,
        }));
    }
    let leaf = trust
        .verify(&signed.chain, at)
        .map_err(StatementError::Chain)?;
    let message = [context, body].concat();
    key::verify(&leaf.public_key, &message, signed.signature.as_ref())
        .map_err(|_| StatementError::NotProven)?;
    Ok(leaf)
}

fn read<T: serde::de::DeserializeOwned>(signed: &Signed) -> Result<T, StatementError> {
    codec::decode(signed.body.as_ref(), BODY_BYTES_MAX).map_err(StatementError::Unreadable)
}

#[cfg(test)]
mod tests;
