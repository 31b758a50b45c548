//! A folder in memory that fails on request and forgets, as disks do, what was never synced.

#![expect(clippy::as_conversions, reason = "lengths of a test fit every integer")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use cardea_ledger::segment::ReadAt;

use super::{Disk, DiskFile};

/// The folder; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<Contents>>);

/// What can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Write,
    Sync,
    Truncate,
    SyncFolder,
}

#[derive(Debug, Default)]
struct Contents {
    files: BTreeMap<String, Stored>,
    durable_names: BTreeSet<String>,
    /// Fails when the count has reached 0, after writing at most the given bytes.
    fault: Option<(Operation, usize, io::ErrorKind)>,
    /// Most bytes in all files together.
    space: Option<usize>,
}

#[derive(Clone, Debug, Default)]
struct Stored {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that the next sync writes. One that fails forgets them, as Linux marks pages clean that it
    /// could not write: a later sync succeeds and says nothing about them.
    dirty: BTreeSet<usize>,
}

impl Stored {
    fn durable(bytes: Vec<u8>) -> Self {
        Self {
            durable: bytes.clone(),
            now: bytes,
            dirty: BTreeSet::new(),
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let from = (sector * SECTOR_BYTES).min(self.now.len());
            let to = (from + SECTOR_BYTES).min(self.now.len());
            self.durable[from..to].copy_from_slice(&self.now[from..to]);
        }
    }
}

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

impl FaultyDisk {
    /// Lets the next `skip` operations of this kind succeed and the one after them fail, once.
    pub(crate) fn fail(&self, operation: Operation, skip: usize, kind: io::ErrorKind) {
        self.contents().fault = Some((operation, skip, kind));
    }

    /// Limits the bytes of all files together.
    pub(crate) fn set_space(&self, bytes: Option<usize>) {
        self.contents().space = bytes;
    }

    /// The bytes of a file.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        self.contents().files[name].now.clone()
    }

    /// All names.
    pub(crate) fn all(&self) -> Vec<String> {
        self.contents().files.keys().cloned().collect()
    }

    /// A copy with one file changed; everything in it is durable.
    pub(crate) fn with(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut files = self.contents().files.clone();
        change(&mut files.get_mut(name).unwrap().now);
        Self::of(files.into_iter().map(|(name, stored)| (name, stored.now)))
    }

    /// A copy without one file.
    pub(crate) fn without(&self, name: &str) -> Self {
        let mut files = self.contents().files.clone();
        files.remove(name).unwrap();
        Self::of(files.into_iter().map(|(name, stored)| (name, stored.now)))
    }

    /// What is left after the power went: all that was synced, and of the rest what chance leaves,
    /// sector by sector.
    pub(crate) fn after_power_loss(&self, seed: u64) -> Self {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut chance = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let contents = self.contents();
        let mut left = Vec::new();
        for (name, stored) in &contents.files {
            if !contents.durable_names.contains(name) && chance() % 2 == 0 {
                continue;
            }
            let mut bytes = stored.durable.clone();
            if chance() % 4 > 0 {
                let between = stored.now.len().abs_diff(bytes.len()) as u64 + 1;
                let shorter = stored.now.len().min(bytes.len());
                bytes.resize(shorter + (chance() % between) as usize, 0);
                for (at, sector) in bytes.chunks_mut(SECTOR_BYTES).enumerate() {
                    let fresh = stored.now.get(at * SECTOR_BYTES..).unwrap_or_default();
                    let bytes = sector.len().min(fresh.len());
                    if chance() % 2 == 0 {
                        sector[..bytes].copy_from_slice(&fresh[..bytes]);
                    }
                }
            }
            left.push((name.clone(), bytes));
        }
        drop(contents);
        Self::of(left)
    }

    fn of(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let this = Self::default();
        let mut contents = this.contents();
        for (name, bytes) in files {
            contents.durable_names.insert(name.clone());
            contents.files.insert(name, Stored::durable(bytes));
        }
        drop(contents);
        this
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap()
    }
}

impl Contents {
    fn check(&mut self, operation: Operation) -> io::Result<()> {
        match &mut self.fault {
            Some((which, 0, kind)) if *which == operation => {
                let kind = *kind;
                self.fault = None;
                Err(kind.into())
            }
            Some((which, skip, _)) if *which == operation => {
                *skip -= 1;
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn write(&mut self, name: &str, bytes: &[u8], offset: usize) -> io::Result<()> {
        let failed = self.check(Operation::Write);
        let taken: usize = self.files.values().map(|stored| stored.now.len()).sum();
        let Stored { now, dirty, .. } = self.files.get_mut(name).unwrap();
        let grown = (offset + bytes.len()).saturating_sub(now.len());
        let missing = self
            .space
            .map_or(0, |space| (taken + grown).saturating_sub(space));
        // A write that fails may have written some of its bytes.
        let written = match failed {
            Ok(()) => bytes.len().saturating_sub(missing),
            Err(_) => bytes.len() / 2,
        };
        if now.len() < offset + written {
            now.resize(offset + written, 0);
        }
        now[offset..offset + written].copy_from_slice(&bytes[..written]);
        dirty.extend(offset / SECTOR_BYTES..(offset + written).div_ceil(SECTOR_BYTES));
        failed?;
        if missing > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Disk for FaultyDisk {
    fn lock(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.all())
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>> {
        let there = self.contents().files.contains_key(name);
        Ok(there.then(|| {
            let file: Box<dyn DiskFile> = Box::new(FaultyFile(self.clone(), name.to_owned()));
            file
        }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut contents = self.contents();
        contents.check(Operation::Create)?;
        let before = contents.files.insert(name.to_owned(), Stored::default());
        assert!(before.is_none(), "{name} is there already");
        Ok(Box::new(FaultyFile(self.clone(), name.to_owned())))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.contents().files.remove(name);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut contents = self.contents();
        let moved = contents.files.remove(from);
        let moved = moved.ok_or(io::ErrorKind::NotFound)?;
        contents.files.insert(to.to_owned(), moved);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut contents = self.contents();
        contents.check(Operation::SyncFolder)?;
        contents.durable_names = contents.files.keys().cloned().collect();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("ledger").join(name)
    }
}

#[derive(Debug)]
struct FaultyFile(FaultyDisk, String);

impl ReadAt for FaultyFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.bytes(&self.1).len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.bytes(&self.1);
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
}

impl DiskFile for FaultyFile {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut contents = self.0.contents();
        contents.write(&self.1, bytes, offset as usize)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut contents = self.0.contents();
        let failed = contents.check(Operation::Sync);
        let stored = contents.files.get_mut(&self.1).unwrap();
        match failed {
            Ok(()) => stored.sync(),
            Err(_) => stored.dirty.clear(),
        }
        failed
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut contents = self.0.contents();
        contents.check(Operation::Truncate)?;
        let stored = contents.files.get_mut(&self.1).unwrap();
        stored.now.resize(length as usize, 0);
        Ok(())
    }
}
