//! What can be done about a ledger that does not load.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cardea_ledger::{
    mark,
    seal::DataKey,
    segment::{self, HEADER_BYTES},
    wide,
};
use cardea_proto::ledger::Revision;

use crate::{
    LoadError, TornTail,
    disk::{Disk, Folder},
    journal::{ClosedJournal, SIZES},
    scan::failed,
};

/// Where the damaged files are kept, beside the ledger.
const KEPT: &str = "ledger.damaged";

/// What a look at a ledger found. Nothing was changed.
#[derive(Debug)]
pub enum Examination {
    /// Every entry is there.
    Whole {
        /// The last one.
        last: Revision,
        /// What the next start cuts off, because it was never acknowledged.
        torn: Option<TornTail>,
    },
    /// Acknowledged bytes are not what was written.
    Damaged(Damage),
}

/// Where a ledger is damaged.
#[derive(Debug)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong there.
    pub fault: String,
    /// The last entry before it; every entry until then is whole.
    pub whole: Revision,
}

/// Looks at the ledger in the state folder `state`, which is sealed with `key` where there is one.
///
/// # Errors
/// [`LoadError`] when it cannot be read at all, or another process has it.
pub fn examine(state: &Path, key: Option<DataKey>) -> Result<Examination, LoadError> {
    let journal = open(state, key)?;
    let mut last = Revision(0);
    let scanned = journal.scan(&mut |found| {
        last = found.head.revision;
        Ok(())
    });
    match scanned {
        Ok(scan) => Ok(Examination::Whole {
            last,
            torn: scan.torn,
        }),
        Err(LoadError::Damaged {
            file,
            offset,
            fault,
        }) => Ok(Examination::Damaged(Damage {
            file,
            offset,
            fault,
            whole: last,
        })),
        Err(error) => Err(error),
    }
}

/// Cuts the ledger off where it is damaged, and says where the files as they were are kept. Whatever
/// stood behind the damage is no part of the ledger any more.
///
/// # Errors
/// [`LoadError`]; the ledger is as it was, or was copied and not cut.
pub fn cut(state: &Path, damage: &Damage) -> Result<PathBuf, LoadError> {
    // Held for as long as the files are worked on.
    let _journal = open(state, None)?;
    let ledger = state.join("ledger");
    let folder = Folder::open(&ledger).map_err(broken("open", &ledger))?;
    let kept = state.join(KEPT);
    fs::create_dir(&kept).map_err(broken("make", &kept))?;
    if let Err(error) = copy(&ledger, &kept) {
        // Half a copy would be in the way of the next one.
        drop(fs::remove_dir_all(&kept));
        return Err(broken("copy to", &kept)(error));
    }
    let name = damage.file.file_name().and_then(|name| name.to_str());
    let damaged = name.and_then(segment::number).unwrap_or(1);
    let names = folder.names().map_err(failed(&folder, "list", ""))?;
    let behind =
        |number: u64| number > damaged || (number == damaged && damage.offset < wide(HEADER_BYTES));
    for name in names {
        let is_mark = name == mark::NAME;
        if is_mark || segment::number(&name).is_some_and(behind) {
            folder
                .remove(&name)
                .map_err(failed(&folder, "remove", &name))?;
        }
    }
    if damage.offset >= wide(HEADER_BYTES) {
        let name = segment::name(damaged);
        let broken = |operation| failed(&folder, operation, &name);
        if let Some(mut file) = folder.open(&name).map_err(broken("open"))? {
            file.truncate(damage.offset).map_err(broken("cut"))?;
            file.sync().map_err(broken("sync"))?;
        }
    }
    folder.sync().map_err(failed(&folder, "sync", ""))?;
    Ok(kept)
}

fn open(state: &Path, key: Option<DataKey>) -> Result<ClosedJournal, LoadError> {
    let ledger = state.join("ledger");
    let folder = Folder::open(&ledger).map_err(broken("open", &ledger))?;
    ClosedJournal::lock(Box::new(folder), SIZES, key)
}

fn broken(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LoadError + use<> {
    let path = path.to_owned();
    move |source| LoadError::Io {
        operation,
        path,
        source,
    }
}

/// Copies a folder of flat files to one that is empty, durably.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copied = to.join(entry.file_name());
        fs::copy(entry.path(), &copied)?;
        fs::File::open(copied)?.sync_all()?;
    }
    fs::File::open(to)?.sync_all()?;
    to.parent()
        .map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        EmbeddedStore, Store,
        conformance::{site, take},
    };

    fn made(entries: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut store = EmbeddedStore::new(dir.path());
        store.load().unwrap();
        for number in 0..entries {
            take(&mut store, vec![site(&format!("s{number}"))]);
        }
        dir
    }

    #[test]
    fn a_whole_ledger_needs_nothing() {
        let dir = made(5);
        let found = examine(dir.path(), None).unwrap();
        assert!(matches!(
            found,
            Examination::Whole {
                last: Revision(5),
                torn: None
            }
        ));
    }

    #[test]
    fn a_ledger_is_cut_where_it_is_damaged_and_goes_on_from_there() {
        let dir = made(9);
        let file = dir.path().join("ledger/0001.seg");
        let genuine = fs::read(&file).unwrap();
        for at in (0..genuine.len()).step_by(37) {
            let mut touched = genuine.clone();
            touched[at] ^= 1;
            let is_reserved = genuine[at..].iter().all(|byte| *byte == 0);
            fs::write(&file, &touched).unwrap();
            if is_reserved {
                break;
            }
            assert!(EmbeddedStore::new(dir.path()).load().is_err(), "{at}");
            let Examination::Damaged(damage) = examine(dir.path(), None).unwrap() else {
                panic!("{at} is not found");
            };
            assert!(damage.offset <= wide(at));
            let kept = cut(dir.path(), &damage).unwrap();
            assert_eq!(fs::read(kept.join("0001.seg")).unwrap(), touched);
            let mut store = EmbeddedStore::new(dir.path());
            assert_eq!(store.load().unwrap().head.revision, damage.whole);
            take(&mut store, vec![site("next")]);
            drop(store);
            fs::remove_dir_all(kept).unwrap();
            fs::write(&file, &genuine).unwrap();
            let mark = dir.path().join("ledger/acknowledged");
            fs::remove_file(mark).unwrap();
        }
    }

    #[test]
    fn what_was_kept_before_is_not_written_over() {
        let dir = made(3);
        fs::create_dir(dir.path().join(KEPT)).unwrap();
        let damage = Damage {
            file: dir.path().join("ledger/0001.seg"),
            offset: 100,
            fault: String::new(),
            whole: Revision(0),
        };
        assert!(cut(dir.path(), &damage).is_err());
        let last = || EmbeddedStore::new(dir.path()).load().unwrap().head.revision;
        assert_eq!(last(), Revision(3));
        // One that could not be finished is not in the way of the next.
        fs::remove_dir(dir.path().join(KEPT)).unwrap();
        let uncopied = dir.path().join("ledger/folder");
        fs::create_dir(&uncopied).unwrap();
        assert!(cut(dir.path(), &damage).is_err());
        assert!(!dir.path().join(KEPT).exists());
        assert_eq!(last(), Revision(3));
        fs::remove_dir(uncopied).unwrap();
        cut(dir.path(), &damage).unwrap();
    }
}
