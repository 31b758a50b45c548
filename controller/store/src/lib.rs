//! Where a controller keeps its ledger: one trait, in memory and embedded.
//!
//! A commit is durable before it is acknowledged. The batch given to [`Store::commit`] is one group
//! commit: one write and one sync for all of it, so the caller gives everything that waits.
#![forbid(unsafe_code)]

use cardea_core::{CommitError, Proposal, State};
use cardea_ledger::tree::Tree;
use cardea_proto::{
    codec::Digest,
    ledger::{Entry, Revision},
};

mod admission;
mod disk;
mod embedded;
mod error;
mod index;
mod journal;
mod mark;
mod memory;
mod notary;
mod reading;
pub mod repair;
mod scan;
mod seal;
mod snapshot;

#[cfg(test)]
mod conformance;

pub use self::{
    embedded::EmbeddedStore,
    error::{LoadError, TailError, TornTail},
    index::Snapshot,
    memory::MemoryStore,
    notary::{Disproved, Notary, ShowError},
};

/// A place that keeps the ledger. All of it blocks, so a server gives it a thread of its own.
pub trait Store: Send + std::fmt::Debug {
    /// Reads the ledger and its fold. The first call of all; again after a failure.
    ///
    /// # Errors
    /// [`LoadError`] when the ledger cannot be trusted to be whole or to be ours alone.
    fn load(&mut self) -> Result<Loaded, LoadError>;

    /// Takes each proposal durably or not at all, in order, and says which: a proposal is refused
    /// when a record on which it rests has moved, also by an earlier proposal of the batch.
    fn commit(&mut self, batch: Vec<Proposal>) -> Vec<Result<Entry, CommitError>>;

    /// Entries after a revision, in order, at most `limit`; fewer where they are large, and none
    /// only when there is none.
    ///
    /// # Errors
    /// [`TailError`] when an entry cannot be read back as it was written.
    fn tail(&mut self, after: Revision, limit: usize) -> Result<Vec<Entry>, TailError>;

    /// The tree over all entries.
    fn tree(&self) -> &Tree;

    /// The hashes of entries after a revision, as [`Store::tail`] gives the entries: what the tree
    /// needs to prove with.
    ///
    /// # Errors
    /// [`TailError`] when an entry cannot be read back.
    fn leaves(&mut self, after: Revision, limit: usize) -> Result<Vec<Digest>, TailError>;

    /// Keeps a signed checkpoint of all entries.
    ///
    /// # Errors
    /// [`CommitError`] when it was not made durable. The entries are not concerned.
    fn checkpoint(&mut self, note: &str) -> Result<(), CommitError>;
}

/// What a store knows when it has loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The fold of all entries.
    pub state: State,
    /// The last entry.
    pub head: Head,
    /// The last checkpoint, a signed note.
    pub checkpoint: Option<String>,
    /// What was cut off the end, because it was never acknowledged.
    pub torn: Option<TornTail>,
    /// Whether the snapshot was of no use and all entries were folded again.
    pub rebuilt: bool,
}

/// The last entry of a ledger: its revision, and the hash that the next one carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its revision; 0 for an empty ledger.
    pub revision: Revision,
    /// SHA-256 of its encoding; zeros for an empty ledger.
    pub hash: Digest,
}
