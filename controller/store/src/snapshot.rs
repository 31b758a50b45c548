//! Snapshots, taken beside the commits: the last one is read back, and the entries since are folded.
//!
//! A store needs the records of its state nowhere else, so it keeps none in memory: the controller
//! has them.

use std::thread::JoinHandle;

use cardea_ledger::{entry, tree};
use cardea_proto::ledger::Revision;

use crate::{
    Head,
    error::TailError,
    index::{Index, IndexError},
    reading::Readable,
};

/// After so many entries a snapshot is taken, so that a start folds little more than that, and what came
/// while the last one was written: less than a tenth of a second where there are few records.
pub(crate) const ENTRIES: u64 = 16_384;

/// Where there are many records, after one entry for each so many of them: a snapshot is as much
/// work as folding them all.
const RECORDS_FOR_EACH: u64 = 4;

/// Takes snapshots, one at a time.
#[derive(Debug)]
pub(crate) struct Saver {
    /// After how many entries the next one is taken.
    wait: u64,
    /// The last entry that the latest one covers, or is to cover.
    covered: Revision,
    saving: Option<JoinHandle<()>>,
}

/// Why there is no new snapshot.
#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error("the journal could not be read back")]
    Read(#[from] TailError),
    #[error("the index did not take it")]
    Index(#[from] IndexError),
    #[error("the entries that were read back are not those that were written")]
    OtherEntries,
}

impl Saver {
    /// After a load, when the index's snapshot covers the entries up to `covered`.
    pub(crate) const fn new(covered: Revision, wait: u64) -> Self {
        Self {
            wait,
            covered,
            saving: None,
        }
    }

    /// Whether one is to be taken, of a ledger with that head and that many records.
    pub(crate) fn is_due(&self, head: Revision, records: usize) -> bool {
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        let wait = self.wait.max(records / RECORDS_FOR_EACH);
        let busy = self.saving.as_ref();
        let busy = busy.is_some_and(|saving| !saving.is_finished());
        head.0.saturating_sub(self.covered.0) >= wait && !busy
    }

    /// Begins to take one on a thread of its own, so that no commit waits for it.
    pub(crate) fn start(&mut self, index: Index, journal: Readable) {
        self.covered = journal.head.revision;
        let save = move || {
            if let Err(error) = save(&index, &journal) {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(reason = %error, cause, "no snapshot was taken");
            }
        };
        let thread = std::thread::Builder::new().name("snapshot".to_owned());
        self.saving = thread.spawn(save).ok();
    }
}

impl Drop for Saver {
    /// A snapshot that is being written holds the index open.
    fn drop(&mut self) {
        if let Some(saving) = self.saving.take() {
            drop(saving.join());
        }
    }
}

fn save(index: &Index, journal: &Readable) -> Result<(), SaveError> {
    let mut snapshot = index.snapshot().unwrap_or_default();
    let after = snapshot.head.revision;
    let from = index.nearest(after.next())?;
    journal.each(after, from, |payload| {
        let entry = entry::decode(payload).map_err(|error| error.to_string())?;
        snapshot.head = Head {
            revision: entry.revision,
            hash: tree::leaf(payload),
        };
        snapshot.state.apply(&entry);
        snapshot.tree.push(snapshot.head.hash);
        Ok(())
    })?;
    if snapshot.head != journal.head {
        return Err(SaveError::OtherEntries);
    }
    Ok(index.save(&snapshot)?)
}
