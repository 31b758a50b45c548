//! Signs what a store has, and shows nodes that it goes on from what they know.

use std::{collections::BTreeMap, fmt};

use cardea_ledger::checkpoint::{Checkpoint, LedgerKey};
use cardea_proto::{
    codec::Digest,
    ledger::{Change, Entry, Revision},
    message::Checkpointed,
};

use crate::{Loaded, Store, TailError};

/// Proofs to the latest checkpoint that are remembered: most nodes know the same one.
const PROOFS_MAX: usize = 256;

/// The key of a ledger, and what it has signed.
pub struct Notary {
    key: LedgerKey,
    epoch: u64,
    latest: Option<(Checkpoint, String)>,
    /// Proofs to the latest checkpoint, by what they begin with.
    proofs: BTreeMap<(u64, Digest), Vec<Digest>>,
}

impl fmt::Debug for Notary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notary")
            .field("key", &self.key)
            .field("epoch", &self.epoch)
            .field("covered", &self.covered())
            .finish_non_exhaustive()
    }
}

/// The last checkpoint of a ledger is none of its own.
#[derive(Debug, thiserror::Error)]
#[error("the last checkpoint does not hold: {0}")]
pub struct Disproved(String);

/// Why a node is not shown what it wants to see.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The ledger does not contain what the node's checkpoint was signed over.
    #[error("the ledger does not go on from a checkpoint of {known} entries")]
    Contradicted {
        /// How many entries the node knows of.
        known: u64,
        /// The latest checkpoint, a signed note.
        note: String,
    },
    /// The store cannot say at the moment.
    #[error("no proof can be made: {0}")]
    Failed(String),
}

impl Notary {
    /// A notary for a store that has loaded.
    ///
    /// # Errors
    /// [`Disproved`] when the last checkpoint was not signed by `key`, or over other entries than
    /// those in the store.
    pub fn new(key: LedgerKey, store: &mut dyn Store, loaded: &Loaded) -> Result<Self, Disproved> {
        let mut latest = None;
        if let Some(note) = &loaded.checkpoint {
            let verified = key.verifier().verify(note);
            let checkpoint = verified.map_err(|error| Disproved(error.to_string()))?;
            let size = store.tree().size();
            if checkpoint.size > size {
                let covered = checkpoint.size;
                let why = format!("it covers {covered} entries, and there are {size}");
                return Err(Disproved(why));
            }
            let root = root_at(store, checkpoint.size);
            if root.map_err(|error| Disproved(error.to_string()))? != checkpoint.root {
                return Err(Disproved("it was signed over other entries".to_owned()));
            }
            latest = Some((checkpoint, note.clone()));
        }
        Ok(Self {
            key,
            epoch: loaded.state.epoch(),
            latest,
            proofs: BTreeMap::new(),
        })
    }

    /// How many entries the latest checkpoint covers.
    #[must_use]
    pub fn covered(&self) -> u64 {
        self.latest
            .as_ref()
            .map_or(0, |(checkpoint, _)| checkpoint.size)
    }

    /// The latest checkpoint, a signed note.
    #[must_use]
    pub fn latest(&self) -> Option<&str> {
        self.latest.as_ref().map(|(_, note)| note.as_str())
    }

    /// Notices an entry that the store has taken: with the acknowledgment of a rollback a new epoch
    /// begins.
    pub fn notice(&mut self, entry: &Entry) {
        let begins = |change: &&Change| matches!(change, Change::RollbackAcknowledged);
        let begun = entry.draft.changes.iter().filter(begins).count();
        self.epoch = self
            .epoch
            .saturating_add(u64::try_from(begun).unwrap_or(u64::MAX));
    }

    /// Signs everything that the store has, unless that was done, and keeps it in the store.
    ///
    /// # Errors
    /// Why not; it may be tried again.
    pub fn sign(&mut self, store: &mut dyn Store) -> Result<(), String> {
        let (size, root) = (store.tree().size(), store.tree().root());
        if size == self.covered() {
            return Ok(());
        }
        let signed = self.key.sign(size, root, self.epoch);
        let note = signed.map_err(|error| error.to_string())?;
        store.checkpoint(&note).map_err(|error| error.to_string())?;
        let checkpoint = Checkpoint {
            origin: self.key.verifier().name().to_owned(),
            size,
            root,
            epoch: self.epoch,
        };
        self.latest = Some((checkpoint, note));
        self.proofs.clear();
        Ok(())
    }

    /// The latest checkpoint, and the proof that it goes on from the one that a node knows.
    ///
    /// A checkpoint of an earlier epoch need not be gone on from: an admin has said so.
    ///
    /// # Errors
    /// [`ShowError`].
    pub fn show(
        &mut self,
        store: &mut dyn Store,
        known: Option<&Checkpoint>,
    ) -> Result<Checkpointed, ShowError> {
        let is_behind = self.latest.as_ref().is_none_or(|(latest, _)| {
            latest.epoch < self.epoch || known.is_some_and(|known| known.size > latest.size)
        });
        if is_behind {
            self.sign(store).map_err(ShowError::Failed)?;
        }
        let Some((latest, note)) = &self.latest else {
            return Err(ShowError::Failed("the ledger is empty".to_owned()));
        };
        let note = note.clone();
        let Some(known) = known else {
            let proof = Vec::new();
            return Ok(Checkpointed { note, proof });
        };
        let size = latest.size;
        let goes_on = known.epoch <= latest.epoch && contains(store, known)?;
        if !goes_on && known.epoch >= latest.epoch {
            let known = known.size;
            return Err(ShowError::Contradicted { known, note });
        }
        let proof = if goes_on {
            self.proof(store, known, size)?
        } else {
            Vec::new()
        };
        Ok(Checkpointed { note, proof })
    }

    fn proof(
        &mut self,
        store: &mut dyn Store,
        known: &Checkpoint,
        size: u64,
    ) -> Result<Vec<Digest>, ShowError> {
        let name = (known.size, known.root);
        if let Some(proof) = self.proofs.get(&name) {
            return Ok(proof.clone());
        }
        let tree = store.tree().clone();
        let proof = tree.prove(known.size, size, |range| leaves(store, range));
        let proof = proof.map_err(|error| ShowError::Failed(error.to_string()))?;
        if self.proofs.len() < PROOFS_MAX {
            self.proofs.insert(name, proof.clone());
        }
        Ok(proof)
    }
}

/// Whether a store has what a checkpoint was signed over.
fn contains(store: &mut dyn Store, known: &Checkpoint) -> Result<bool, ShowError> {
    if known.size > store.tree().size() {
        return Ok(false);
    }
    let root = root_at(store, known.size).map_err(|error| ShowError::Failed(error.to_string()))?;
    Ok(root == known.root)
}

fn root_at(store: &mut dyn Store, size: u64) -> Result<Digest, TailError> {
    let tree = store.tree().clone();
    tree.root_at(size, |range| leaves(store, range))
}

fn leaves(store: &mut dyn Store, range: std::ops::Range<u64>) -> Result<Vec<Digest>, TailError> {
    let wanted = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
    let mut taken = Vec::new();
    while taken.len() < wanted {
        let after = range.start.saturating_add(cardea_ledger::wide(taken.len()));
        let more = store.leaves(Revision(after), wanted.saturating_sub(taken.len()))?;
        if more.is_empty() {
            break;
        }
        taken.extend(more);
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use cardea_ledger::tree::is_consistent;
    use cardea_proto::codec::Bytes;

    use super::*;
    use crate::{
        MemoryStore,
        conformance::{changing, site, take},
    };

    fn key(seed: u8) -> LedgerKey {
        LedgerKey::from_seed(&"corp.example".parse().unwrap(), &[seed; 32]).unwrap()
    }

    fn notary(store: &mut dyn Store) -> Notary {
        let loaded = store.load().unwrap();
        Notary::new(key(1), store, &loaded).unwrap()
    }

    /// A store with entries whose names begin with `prefix`.
    fn grown(prefix: &str, entries: u64) -> MemoryStore {
        let mut store = MemoryStore::new();
        grow(&mut store, prefix, entries);
        store
    }

    fn grow(store: &mut dyn Store, prefix: &str, entries: u64) {
        let sites = (0..entries).map(|n| site(&format!("{prefix}{n}")));
        take(store, sites.collect());
    }

    fn verified(shown: &Checkpointed) -> Checkpoint {
        key(1).verifier().verify(&shown.note).unwrap()
    }

    #[test]
    fn a_node_is_shown_that_the_ledger_goes_on_from_what_it_knows() {
        let mut store = grown("a", 300);
        let mut notary = notary(&mut store);
        let mut known = verified(&notary.show(&mut store, None).unwrap());
        for round in 0..5_u64 {
            grow(&mut store, &format!("b{round}-"), 100 + 37 * round);
            notary.sign(&mut store).unwrap();
            let shown = notary.show(&mut store, Some(&known)).unwrap();
            let now = verified(&shown);
            let (old, new) = ((known.size, &known.root), (now.size, &now.root));
            assert!(now.size > known.size);
            assert!(is_consistent(old, new, &shown.proof));
            let again = notary.show(&mut store, Some(&known)).unwrap();
            assert_eq!(again, shown);
            known = now;
        }
    }

    #[test]
    fn a_ledger_that_was_rolled_back_or_forked_is_found_out() {
        let mut longer = grown("a", 20);
        let known = verified(&notary(&mut longer).show(&mut longer, None).unwrap());
        for mut other in [grown("a", 19), grown("b", 20), grown("b", 30)] {
            let shown = notary(&mut other).show(&mut other, Some(&known));
            assert!(
                matches!(shown, Err(ShowError::Contradicted { known: 20, .. })),
                "{shown:?}"
            );
        }
    }

    #[test]
    fn after_an_acknowledgment_older_checkpoints_are_forgiven_and_newer_ones_are_not() {
        let mut lost = grown("a", 20);
        let known = verified(&notary(&mut lost).show(&mut lost, None).unwrap());
        let mut store = grown("b", 10);
        let mut notary = notary(&mut store);
        notary.sign(&mut store).unwrap();
        for entry in take(&mut store, vec![changing(Change::RollbackAcknowledged)]) {
            notary.notice(&entry);
        }
        let shown = notary.show(&mut store, Some(&known)).unwrap();
        assert_eq!((verified(&shown).epoch, shown.proof), (1, Vec::new()));
        // The same after a restart, and a second rollback is found out like the first.
        let later = verified(&self::notary(&mut store).show(&mut store, None).unwrap());
        assert_eq!(later.epoch, 1);
        let mut before = grown("b", 10);
        let shown = self::notary(&mut before).show(&mut before, Some(&later));
        assert!(
            matches!(shown, Err(ShowError::Contradicted { known: 11, .. })),
            "{shown:?}"
        );
    }

    #[test]
    fn a_checkpoint_ahead_of_the_latest_is_gone_on_from_when_the_entries_are_there() {
        let mut store = grown("a", 20);
        let mut notary = notary(&mut store);
        notary.sign(&mut store).unwrap();
        grow(&mut store, "b", 5);
        let ahead = Checkpoint {
            origin: key(1).verifier().name().to_owned(),
            size: 25,
            root: store.tree().root(),
            epoch: 0,
        };
        let shown = notary.show(&mut store, Some(&ahead)).unwrap();
        assert_eq!(verified(&shown).size, 25);
    }

    #[test]
    fn a_checkpoint_over_other_entries_or_by_another_key_is_noticed() {
        for (note, fault) in [
            (key(1).sign(1, Bytes([9; 32]), 0), "other entries"),
            (key(1).sign(2, Bytes([9; 32]), 0), "there are 1"),
            (key(2).sign(1, Bytes([9; 32]), 0), "not signed"),
        ] {
            let mut store = grown("a", 1);
            store.checkpoint(&note.unwrap()).unwrap();
            let loaded = store.load().unwrap();
            let error = Notary::new(key(1), &mut store, &loaded).unwrap_err();
            assert!(error.to_string().contains(fault), "{error}");
        }
    }
}
