//! Keys, proofs, certificates and the trust between them.
//!
//! Pure but for one thing: new private keys and ECDSA nonces come from the cryptographic library's
//! own generator, because entropy for keys has no better source. Everything else that a caller
//! could want to repeat (serial numbers, times, ids) is an argument.
//!
//! Checks return proof values ([`trust::VerifiedLeaf`], [`proof::VerifiedRequest`]) that nothing
//! else can make.
#![forbid(unsafe_code)]

pub mod admin;
pub mod authority;
pub mod key;
pub mod knock;
pub mod mac;
pub mod pem;
pub mod proof;
pub mod signed;
pub mod testing;
pub mod ticket;
pub mod tls;
pub mod trust;

mod profile;
