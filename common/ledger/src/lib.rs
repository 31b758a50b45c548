//! The ledger as bytes: what anybody who holds a copy needs to check it, and nothing more.
//!
//! A journal is a row of segments, a segment a header and a row of frames, and a frame holds an
//! entry or a checkpoint. Each entry carries the hash of the one before; the same hashes are the
//! leaves of a Merkle tree (RFC 6962), and a checkpoint is the controller's signature over the
//! tree's size and root. The controller writes all of it, `cardeactl audit verify` reads it without
//! the controller's code, and nodes compare the checkpoints that they are shown.
#![forbid(unsafe_code)]

mod asked;
pub mod audit;
pub mod checkpoint;
pub mod entry;
pub mod frame;
pub mod mark;
pub mod seal;
pub mod segment;
pub mod tree;

/// A length as files count it.
#[must_use]
pub fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
