//! The ledger in memory, for tests and the simulation: the same rules, nothing durable.

use cardea_core::{CommitError, Proposal, State};
use cardea_ledger::tree::Tree;
use cardea_proto::{
    codec::Digest,
    ledger::{Entry, Revision},
};

use crate::{Head, LoadError, Loaded, Store, TailError, admission::Admission};

/// A store that forgets when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    entries: Vec<Entry>,
    leaves: Vec<Digest>,
    tree: Tree,
    checkpoint: Option<String>,
    state: State,
    head: Head,
}

impl MemoryStore {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Loaded, LoadError> {
        Ok(Loaded {
            state: self.state.clone(),
            head: self.head,
            checkpoint: self.checkpoint.clone(),
            torn: None,
            rebuilt: false,
        })
    }

    fn commit(&mut self, batch: Vec<Proposal>) -> Vec<Result<Entry, CommitError>> {
        let admission = Admission::of(self.state.revisions(), self.head, batch);
        for encoded in &admission.entries {
            self.state.apply(&encoded.entry);
            self.entries.push(encoded.entry.clone());
            self.leaves.push(encoded.hash);
            self.tree.push(encoded.hash);
            self.head = Head {
                revision: encoded.entry.revision,
                hash: encoded.hash,
            };
        }
        admission.conclude(Ok(()))
    }

    fn tail(&mut self, after: Revision, limit: usize) -> Result<Vec<Entry>, TailError> {
        Ok(window(&self.entries, after, limit))
    }

    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn leaves(&mut self, after: Revision, limit: usize) -> Result<Vec<Digest>, TailError> {
        Ok(window(&self.leaves, after, limit))
    }

    fn checkpoint(&mut self, note: &str) -> Result<(), CommitError> {
        self.checkpoint = Some(note.to_owned());
        Ok(())
    }
}

fn window<T: Clone>(all: &[T], after: Revision, limit: usize) -> Vec<T> {
    let skip = usize::try_from(after.0).unwrap_or(usize::MAX);
    all.iter().skip(skip).take(limit).cloned().collect()
}
