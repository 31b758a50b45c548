//! The default store: a journal on the local disk, with an index that can always be made again.

use std::path::{Path, PathBuf};

use cardea_core::{CommitError, Proposal, Revisions, State};
use cardea_ledger::{
    entry,
    seal::DataKey,
    segment::{self, Place},
    tree::Tree,
};
use cardea_proto::{
    codec::Digest,
    ledger::{Entry, Revision},
};

use crate::{
    Head, LoadError, Loaded, Store, TailError,
    admission::Admission,
    disk::{Disks, Machine},
    index::{Index, IndexError, Snapshot},
    journal::{AppendError, ClosedJournal, Journal, SIZES, Sizes},
    reading::Reading,
    scan::Found,
    snapshot::Saver,
};

/// A store in one folder: `ledger/NNNN.seg` and `index/`.
#[derive(Debug)]
pub struct EmbeddedStore {
    ledger: PathBuf,
    index: PathBuf,
    disks: Box<dyn Disks>,
    sizes: Sizes,
    key: Option<DataKey>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    journal: Journal,
    recorded: Revisions,
    tree: Tree,
    index: Option<Index>,
    saver: Saver,
}

impl EmbeddedStore {
    /// The store in the state folder `dir`. Nothing is opened before [`Store::load`].
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            ledger: dir.join("ledger"),
            index: dir.join("index"),
            disks: Box::new(Machine),
            sizes: SIZES,
            key: None,
            open: None,
        }
    }

    /// The same, sealed with `key` where there is one: from the first entry on, or never.
    #[must_use]
    pub fn sealed_with(self, key: Option<DataKey>) -> Self {
        Self { key, ..self }
    }

    /// Whether `dir` has a ledger, so that nobody begins a second one.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join("ledger").join(segment::name(1)).exists()
    }
}

impl Store for EmbeddedStore {
    fn load(&mut self) -> Result<Loaded, LoadError> {
        // A loaded store holds its own lock.
        self.open = None;
        let folder = self.disks.folder(&self.ledger);
        let folder = folder.map_err(|source| LoadError::Io {
            operation: "open",
            path: self.ledger.clone(),
            source,
        })?;
        let closed = ClosedJournal::lock(folder, self.sizes, self.key.clone())?;
        let index = Index::open(&self.index, self.disks.as_ref(), self.key.clone());
        let (open, loaded) = Open::load(closed, index.map_err(report).ok())?;
        self.open = Some(open);
        Ok(loaded)
    }

    fn commit(&mut self, batch: Vec<Proposal>) -> Vec<Result<Entry, CommitError>> {
        match &mut self.open {
            Some(open) => open.commit(batch),
            None => batch.iter().map(|_| Err(not_loaded())).collect(),
        }
    }

    fn tail(&mut self, after: Revision, limit: usize) -> Result<Vec<Entry>, TailError> {
        let open = self.open.as_mut().ok_or(TailError::NotLoaded)?;
        open.tail(after, limit)
    }

    fn tree(&self) -> &Tree {
        static EMPTY: Tree = Tree::new();
        self.open.as_ref().map_or(&EMPTY, |open| &open.tree)
    }

    fn leaves(&mut self, after: Revision, limit: usize) -> Result<Vec<Digest>, TailError> {
        let open = self.open.as_mut().ok_or(TailError::NotLoaded)?;
        open.leaves(after, limit)
    }

    fn checkpoint(&mut self, note: &str) -> Result<(), CommitError> {
        match &mut self.open {
            Some(open) => open.journal.note(note).map_err(refused),
            None => Err(not_loaded()),
        }
    }
}

impl Open {
    fn load(closed: ClosedJournal, mut index: Option<Index>) -> Result<(Self, Loaded), LoadError> {
        let wait = closed.sizes().snapshot;
        let mut fold = Fold::from(index.as_ref().and_then(Index::snapshot));
        let mut scan = closed.scan(&mut |found| fold.take(found))?;
        let rebuilt = !fold.agrees();
        if rebuilt {
            tracing::warn!("the snapshot disagrees with the journal and is rebuilt from it");
            index = index.filter(|index| index.forget_snapshot().map_err(report).is_ok());
            fold = Fold::from(None);
            scan = closed.scan(&mut |found| fold.take(found))?;
        }
        let checkpoint = scan.checkpoint.take();
        let (journal, torn) = closed.open(scan)?;
        if let Some(torn) = &torn {
            tracing::warn!(
                file = %torn.file.display(),
                offset = torn.offset,
                bytes = torn.bytes,
                reason = torn.fault,
                "a write that was never acknowledged was cut off the ledger"
            );
        }
        let agreed = index.filter(|index| index.agree(&fold.places).map_err(report).is_ok());
        let mut open = Self {
            recorded: fold.state.revisions().clone(),
            tree: fold.tree,
            index: agreed,
            saver: Saver::new(fold.start.revision, wait),
            journal,
        };
        let loaded = Loaded {
            state: fold.state,
            head: open.journal.head(),
            checkpoint,
            torn,
            rebuilt,
        };
        open.save_when_due();
        Ok((open, loaded))
    }

    fn commit(&mut self, batch: Vec<Proposal>) -> Vec<Result<Entry, CommitError>> {
        let admission = Admission::of(&self.recorded, self.journal.head(), batch);
        if admission.entries.is_empty() {
            return admission.conclude(Ok(()));
        }
        let written = match self.journal.append(&admission.entries) {
            Ok(places) => {
                for encoded in &admission.entries {
                    self.recorded.apply(&encoded.entry);
                    self.tree.push(encoded.hash);
                }
                let revisions = admission
                    .entries
                    .iter()
                    .map(|encoded| encoded.entry.revision);
                self.note(revisions.zip(places));
                self.save_when_due();
                Ok(())
            }
            Err(error) => Err(refused(error)),
        };
        admission.conclude(written)
    }

    fn tail(&mut self, after: Revision, limit: usize) -> Result<Vec<Entry>, TailError> {
        let first = after.next();
        self.read(first, |journal, from| journal.entries(first, limit, from))
    }

    fn leaves(&mut self, after: Revision, limit: usize) -> Result<Vec<Digest>, TailError> {
        let first = after.next();
        self.read(first, |journal, from| journal.leaves(first, limit, from))
    }

    /// Reads from the place that the index knows nearest to `first`; without it where the index
    /// turns out to be wrong.
    fn read<T>(
        &mut self,
        first: Revision,
        read: impl Fn(Reading<'_>, Option<(Revision, Place)>) -> Result<Vec<T>, TailError>,
    ) -> Result<Vec<T>, TailError> {
        let index = self.index.as_ref();
        let nearest = index.and_then(|index| index.nearest(first).map_err(report).ok().flatten());
        if nearest.is_some() {
            match read(self.journal.reading(), nearest) {
                Err(TailError::Damaged { fault, .. }) => {
                    tracing::warn!(reason = fault, "the index leads nowhere and is not used");
                    self.index = None;
                }
                other => return other,
            }
        }
        read(self.journal.reading(), None)
    }

    fn note(&mut self, entries: impl Iterator<Item = (Revision, Place)>) {
        let listed = entries.filter(|(revision, _)| Index::lists(*revision));
        let noted = self.index.as_ref().map(|index| index.note(listed));
        if let Some(Err(error)) = noted {
            report(error);
            self.index = None;
        }
    }

    fn save_when_due(&mut self) {
        let head = self.journal.head().revision;
        if let Some(index) = &self.index
            && self.saver.is_due(head, self.recorded.count())
        {
            self.saver.start(index.clone(), self.journal.readable());
        }
    }
}

/// What a scan makes of the entries: the state, from a snapshot on, and the places for the index.
#[derive(Debug)]
struct Fold {
    start: Head,
    state: State,
    tree: Tree,
    /// Whether the snapshot's entry was seen, as the snapshot knows it.
    met: bool,
    places: Vec<(Revision, Place)>,
}

impl Fold {
    fn from(snapshot: Option<Snapshot>) -> Self {
        let Snapshot { head, state, tree } = snapshot.unwrap_or_default();
        Self {
            met: head == Head::default(),
            start: head,
            state,
            tree,
            places: Vec::new(),
        }
    }

    fn take(&mut self, found: &Found<'_>) -> Result<(), String> {
        let revision = found.head.revision;
        if Index::lists(revision) {
            self.places.push((revision, found.place));
        }
        if revision == self.start.revision {
            self.met = found.head == self.start;
        }
        if revision > self.start.revision && self.met {
            let entry = entry::decode(found.payload).map_err(|error| {
                format!("entry {revision} was not written by this version: {error}")
            })?;
            self.state.apply(&entry);
            self.tree.push(found.head.hash);
        }
        Ok(())
    }

    const fn agrees(&self) -> bool {
        self.met
    }
}

fn refused(error: AppendError) -> CommitError {
    match error {
        AppendError::Full => CommitError::Full,
        AppendError::Latched(reason) => CommitError::Failed(format!(
            "{reason}; nothing is recorded until the controller is restarted"
        )),
    }
}

fn not_loaded() -> CommitError {
    CommitError::Failed("the store is not loaded".to_owned())
}

fn report(error: IndexError) {
    warn(&error);
}

fn warn(error: &IndexError) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(reason = %error, cause, "the store goes on without its index");
}

#[cfg(test)]
mod powerloss;
#[cfg(test)]
mod tests;
