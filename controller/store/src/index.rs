//! The index beside the journal: where entries stand, in sled, and the latest snapshot, in a file.
//!
//! Nothing in it is needed. Sled's `flush` does not reach the disk on Linux and its
//! recovery truncates silently, so whatever is missing, unreadable or disagrees with the journal is
//! made again from the journal, and a store without its index is slower, not wrong. A snapshot is
//! believed when its checksum or seal holds and its last entry is the journal's: it guards against
//! accidents, and who can write there on purpose can read the controller's keys beside it. The snapshot of a
//! hundred thousand devices is one value of 60 MB, which sled would hold in memory for good.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use cardea_core::State;
use cardea_ledger::{
    seal::{DataKey, SealError},
    segment::Place,
    tree::Tree,
    wide,
};
use cardea_proto::{
    PROGRAM_VERSION,
    codec::{self, Digest},
    ledger::Revision,
};

use crate::{
    Head,
    disk::{Disk, Disks},
    seal::random,
};

/// One entry in so many has its place in the index; a reader walks from the nearest one.
const STRIDE: u64 = 64;

/// Memory that sled may use for its pages, in bytes: the index of a million entries is smaller.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// What a snapshot is sealed for.
const PURPOSE: &str = "snapshot";

/// The file of the snapshot, and what it is called while it is written.
const SNAPSHOT: (&str, &str) = ("state", "state.new");

/// An open index. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    places: sled::Tree,
    /// Where the snapshot is.
    folder: Arc<dyn Disk>,
    /// Seals the snapshot, where the ledger is sealed; places are no secret.
    key: Option<DataKey>,
}

/// A state as it was after one entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The entry.
    pub(crate) head: Head,
    /// The state.
    pub(crate) state: State,
    /// The tree over the entries until then.
    pub(crate) tree: Tree,
}

impl Snapshot {
    /// Reads the file of a snapshot, if it is whole and this build can use it.
    #[must_use]
    pub fn parse(bytes: &[u8], key: Option<&DataKey>) -> Option<Self> {
        let (sum, body) = bytes.split_first_chunk::<4>()?;
        if crc32c::crc32c(body).to_be_bytes() != *sum {
            return None;
        }
        let opened = match key {
            Some(key) => Some(key.open(PURPOSE, body).ok()?),
            None => None,
        };
        let body = opened.as_ref().map_or(body, |opened| opened.as_slice());
        let (program, revision, hash, state, tree): (String, Revision, Digest, State, Tree) =
            codec::decode(body, body.len()).ok()?;
        let head = Head { revision, hash };
        // Another build may fold the same entries into something else.
        let usable =
            program == PROGRAM_VERSION && state.head() == revision && tree.size() == revision.0;
        usable.then_some(Self { head, state, tree })
    }

    /// What stands in the file behind the checksum, where it is not sealed.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let Self { head, state, tree } = self;
        codec::encode(&(PROGRAM_VERSION, head.revision, head.hash, state, tree))
    }
}

/// Why the index is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("the index failed")]
    Sled(#[from] sled::Error),
    #[error("the index at {} cannot be opened, not even anew", .0.display())]
    Open(PathBuf),
    #[error("the snapshot cannot be sealed")]
    Seal(#[from] SealError),
    #[error("the snapshot cannot be written")]
    Write(#[from] std::io::Error),
}

impl Index {
    /// Opens the index at `path`. One that cannot be opened is thrown away and begun anew.
    pub(crate) fn open(
        path: &Path,
        disks: &dyn Disks,
        key: Option<DataKey>,
    ) -> Result<Self, IndexError> {
        if let Some(index) = Self::try_open(path, disks, &key) {
            return Ok(index);
        }
        tracing::warn!("the index cannot be opened and is rebuilt from the journal");
        let unusable = || IndexError::Open(path.to_owned());
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(unusable()),
            Ok(()) | Err(_) => {}
        }
        Self::try_open(path, disks, &key).ok_or_else(unusable)
    }

    /// Sled panics on some damaged files, so that a panic here means the same as an error.
    fn try_open(path: &Path, disks: &dyn Disks, key: &Option<DataKey>) -> Option<Self> {
        let open = || -> sled::Result<Self> {
            await_lock(path)?;
            let database = sled::Config::new()
                .path(path)
                .cache_capacity(CACHE_BYTES)
                .mode(sled::Mode::LowSpace)
                .open()?;
            let places = database.open_tree("places")?;
            Ok(Self {
                places,
                folder: disks.folder(path)?.into(),
                key: key.clone(),
            })
        };
        catch_unwind(AssertUnwindSafe(open)).ok()?.ok()
    }

    /// The latest snapshot, if there is one that this build can read.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        let bytes = std::fs::read(self.folder.path(SNAPSHOT.0)).ok()?;
        Snapshot::parse(&bytes, self.key.as_ref())
    }

    /// Forgets a snapshot that disagrees with the journal.
    pub(crate) fn forget_snapshot(&self) -> Result<(), IndexError> {
        match self.folder.remove(SNAPSHOT.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Replaces the snapshot.
    pub(crate) fn save(&self, snapshot: &Snapshot) -> Result<(), IndexError> {
        let body = snapshot.body();
        let body = match &self.key {
            Some(key) => key.seal(PURPOSE, random()?, &body)?,
            None => body,
        };
        let mut file = match self.folder.open(SNAPSHOT.1)? {
            Some(file) => file,
            None => self.folder.create(SNAPSHOT.1)?,
        };
        file.truncate(0)?;
        let sum = crc32c::crc32c(&body).to_be_bytes();
        file.write_all_at(&sum, 0)?;
        file.write_all_at(&body, wide(sum.len()))?;
        file.sync()?;
        self.folder.rename(SNAPSHOT.1, SNAPSHOT.0)?;
        Ok(())
    }

    /// Whether the entry at `revision` has its place in the index.
    pub(crate) const fn lists(revision: Revision) -> bool {
        revision.0 % STRIDE == 1
    }

    /// Adds places.
    pub(crate) fn note(
        &self,
        places: impl Iterator<Item = (Revision, Place)>,
    ) -> Result<(), IndexError> {
        for (revision, place) in places {
            self.places.insert(revision.0.to_be_bytes(), value(place))?;
        }
        Ok(())
    }

    /// Makes the places exactly these.
    pub(crate) fn agree(&self, places: &[(Revision, Place)]) -> Result<(), IndexError> {
        let expected = places
            .iter()
            .map(|(revision, place)| (revision.0.to_be_bytes().to_vec(), value(*place)));
        let mut found = self.places.iter();
        let same = expected.clone().all(|(key, value)| {
            matches!(found.next(), Some(Ok(pair)) if *pair.0 == *key && *pair.1 == *value)
        });
        if same && found.next().is_none() {
            return Ok(());
        }
        self.places.clear()?;
        self.note(places.iter().copied())
    }

    /// The place of the last listed entry that is not after `revision`.
    pub(crate) fn nearest(
        &self,
        revision: Revision,
    ) -> Result<Option<(Revision, Place)>, IndexError> {
        let found = self.places.range(..=revision.0.to_be_bytes()).next_back();
        let Some((key, place)) = found.transpose()? else {
            return Ok(None);
        };
        let parsed = || {
            let (segment, offset) = place.split_first_chunk::<8>()?;
            let place = Place {
                segment: u64::from_be_bytes(*segment),
                offset: u64::from_be_bytes(*offset.first_chunk::<8>()?),
            };
            Some((
                Revision(u64::from_be_bytes(*key.first_chunk::<8>()?)),
                place,
            ))
        };
        Ok(parsed())
    }
}

/// Waits until nobody holds the database: sled's own threads keep one open for a moment after it was
/// dropped, and sled does not wait for them. Another process has no business here, the ledger is
/// ours by then.
fn await_lock(path: &Path) -> std::io::Result<()> {
    match File::open(path.join("db")) {
        Ok(database) => database.lock(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn value(place: Place) -> Vec<u8> {
    let mut bytes = place.segment.to_be_bytes().to_vec();
    bytes.extend_from_slice(&place.offset.to_be_bytes());
    bytes
}
