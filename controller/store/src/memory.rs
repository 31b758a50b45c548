//! The ledger in memory, for tests and the simulation: the same rules, nothing durable.

use cardea_core::{CommitError, Proposal, State};
use cardea_proto::ledger::{Entry, Revision};

use crate::{Head, LoadError, Loaded, Store, TailError, admission::Admission};

/// A store that forgets when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    entries: Vec<Entry>,
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
            torn: None,
            rebuilt: false,
        })
    }

    fn commit(&mut self, batch: Vec<Proposal>) -> Vec<Result<Entry, CommitError>> {
        let admission = Admission::of(&self.state, self.head, batch);
        for encoded in &admission.entries {
            self.state.apply(&encoded.entry);
            self.entries.push(encoded.entry.clone());
            self.head = Head {
                revision: encoded.entry.revision,
                hash: encoded.hash,
            };
        }
        admission.conclude(Ok(()))
    }

    fn tail(&mut self, after: Revision, limit: usize) -> Result<Vec<Entry>, TailError> {
        let skip = usize::try_from(after.0).unwrap_or(usize::MAX);
        Ok(self
            .entries
            .iter()
            .skip(skip)
            .take(limit)
            .cloned()
            .collect())
    }
}
