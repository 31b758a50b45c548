//! Real folders in which every operation is recorded, and what a disk may have kept of them when the
//! power goes in between.
//!
//! A file keeps what it held at its last sync, and of every later write any of its sectors; a folder
//! keeps its names as they were at its own last sync, and any of the later changes to them.

#![expect(clippy::as_conversions, reason = "lengths of a test fit every integer")]

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use cardea_ledger::segment::ReadAt;

use super::{Disk, DiskFile, Disks, Folder};

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// Files by folder and name.
pub(crate) type Files = BTreeMap<(String, String), Vec<u8>>;

/// One operation; files are numbered, because a name can become another file's.
#[derive(Clone, Debug)]
pub(crate) enum Step<M> {
    /// A file got a name.
    Create(String, String, u64),
    /// Bytes were written.
    Write(u64, usize, Vec<u8>),
    /// A file was cut or grown to a length.
    Truncate(u64, usize),
    /// A file was synced.
    Sync(u64),
    /// A name was removed.
    Remove(String, String),
    /// A file got another name: folder, before, behind.
    Rename(String, String, String),
    /// A folder was synced.
    SyncFolder(String),
    /// What the store's caller knew from here on.
    Told(M),
}

/// Opens folders and records what is done in them; clones have the same record.
#[derive(Debug)]
pub(crate) struct Recorder<M>(Arc<Mutex<Record<M>>>);

#[derive(Debug)]
struct Record<M> {
    steps: Vec<Step<M>>,
    numbers: BTreeMap<(String, String), u64>,
    next: u64,
}

impl<M> Clone for Recorder<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Recorder<M> {
    /// Begins with the files that are there already.
    pub(crate) fn beginning_with(files: &Files) -> Self {
        let numbers: BTreeMap<_, _> = files.keys().cloned().zip(0..).collect();
        Self(Arc::new(Mutex::new(Record {
            steps: Vec::new(),
            next: numbers.len() as u64,
            numbers,
        })))
    }

    /// Records what the caller knows.
    pub(crate) fn tell(&self, what: M) {
        self.0.lock().unwrap().steps.push(Step::Told(what));
    }

    /// Everything that was done.
    pub(crate) fn take(&self) -> Vec<Step<M>> {
        std::mem::take(&mut self.0.lock().unwrap().steps)
    }

    /// Does an operation and records it, at once for everybody who looks at the record.
    fn done<T>(
        &self,
        operation: impl FnOnce() -> io::Result<T>,
        step: impl FnOnce(&mut Record<M>) -> Step<M>,
    ) -> io::Result<T> {
        let mut record = self.0.lock().unwrap();
        let outcome = operation()?;
        let step = step(&mut record);
        record.steps.push(step);
        Ok(outcome)
    }
}

impl<M: std::fmt::Debug + Send + 'static> Disks for Recorder<M> {
    fn folder(&self, path: &Path) -> io::Result<Box<dyn Disk>> {
        let name = path.file_name().and_then(|name| name.to_str());
        Ok(Box::new(RecordedFolder {
            name: name.unwrap_or_default().to_owned(),
            folder: Folder::open(path)?,
            recorder: self.clone(),
        }))
    }
}

#[derive(Debug)]
struct RecordedFolder<M> {
    name: String,
    folder: Folder,
    recorder: Recorder<M>,
}

impl<M: std::fmt::Debug + Send + 'static> RecordedFolder<M> {
    fn file(&self, file: Box<dyn DiskFile>, number: u64) -> Box<dyn DiskFile> {
        Box::new(RecordedFile {
            number,
            file,
            recorder: self.recorder.clone(),
        })
    }

    fn key(&self, name: &str) -> (String, String) {
        (self.name.clone(), name.to_owned())
    }
}

impl<M: std::fmt::Debug + Send + 'static> Disk for RecordedFolder<M> {
    fn lock(&mut self) -> io::Result<bool> {
        self.folder.lock()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.folder.names()
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>> {
        let record = self.recorder.0.lock().unwrap();
        let file = self.folder.open(name)?;
        Ok(file.map(|file| self.file(file, record.numbers[&self.key(name)])))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let key = self.key(name);
        let mut number = 0;
        let created = self.recorder.done(
            || self.folder.create(name),
            |record| {
                number = record.next;
                record.next += 1;
                record.numbers.insert(key.clone(), number);
                Step::Create(key.0, key.1, number)
            },
        );
        Ok(self.file(created?, number))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let key = self.key(name);
        self.recorder.done(
            || self.folder.remove(name),
            |record| {
                record.numbers.remove(&key);
                Step::Remove(key.0, key.1)
            },
        )
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (before, behind) = (self.key(from), self.key(to));
        self.recorder.done(
            || self.folder.rename(from, to),
            |record| {
                let number = record.numbers.remove(&before).unwrap();
                record.numbers.insert(behind.clone(), number);
                Step::Rename(before.0, before.1, behind.1)
            },
        )
    }

    fn sync(&self) -> io::Result<()> {
        self.recorder.done(
            || self.folder.sync(),
            |_| Step::SyncFolder(self.name.clone()),
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }
}

#[derive(Debug)]
struct RecordedFile<M> {
    number: u64,
    file: Box<dyn DiskFile>,
    recorder: Recorder<M>,
}

impl<M: std::fmt::Debug + Send> ReadAt for RecordedFile<M> {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}

impl<M: std::fmt::Debug + Send> DiskFile for RecordedFile<M> {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.recorder.done(
            || self.file.write_all_at(bytes, offset),
            |_| Step::Write(self.number, offset as usize, bytes.to_vec()),
        )
    }

    fn sync(&mut self) -> io::Result<()> {
        self.recorder
            .done(|| self.file.sync(), |_| Step::Sync(self.number))
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.recorder.done(
            || self.file.truncate(length),
            |_| Step::Truncate(self.number, length as usize),
        )
    }
}

/// A disk to which steps were given, and what of them is certain to be on it.
#[derive(Debug, Default)]
pub(crate) struct Platter {
    files: BTreeMap<u64, (Vec<u8>, Vec<Touch>)>,
    folders: BTreeMap<String, (BTreeMap<String, u64>, Vec<Naming>)>,
}

#[derive(Clone, Debug)]
enum Touch {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

#[derive(Clone, Debug)]
enum Naming {
    Is(String, u64),
    Gone(String),
    Moved(String, String, u64),
}

impl Platter {
    /// A disk on which these files are certain.
    pub(crate) fn of(files: &Files) -> Self {
        let mut this = Self::default();
        for (((folder, name), bytes), number) in files.iter().zip(0..) {
            this.files.insert(number, (bytes.clone(), Vec::new()));
            let (names, _) = this.folders.entry(folder.clone()).or_default();
            names.insert(name.clone(), number);
        }
        this
    }

    /// Takes the next step.
    pub(crate) fn take<M>(&mut self, step: &Step<M>) {
        match step {
            Step::Create(folder, name, number) => {
                self.files.insert(*number, Default::default());
                self.name(folder, Naming::Is(name.clone(), *number));
            }
            Step::Write(number, offset, bytes) => {
                self.touch(*number, Touch::Write(*offset, bytes.clone()));
            }
            Step::Truncate(number, length) => self.touch(*number, Touch::Truncate(*length)),
            Step::Sync(number) => {
                let (durable, touched) = self.files.get_mut(number).unwrap();
                touched.drain(..).for_each(|touch| touch.all(durable));
            }
            Step::Remove(folder, name) => self.name(folder, Naming::Gone(name.clone())),
            Step::Rename(folder, from, to) => {
                let number = self.number(folder, from);
                self.name(folder, Naming::Moved(from.clone(), to.clone(), number));
            }
            Step::SyncFolder(folder) => {
                let (names, changed) = self.folders.entry(folder.clone()).or_default();
                changed.drain(..).for_each(|change| change.apply(names));
            }
            Step::Told(_) => {}
        }
    }

    /// How many operations are not certain to be on the disk.
    pub(crate) fn unsynced(&self) -> u64 {
        let touched = self.files.values().map(|(_, touched)| touched.len());
        let named = self.folders.values().map(|(_, changed)| changed.len());
        touched.chain(named).sum::<usize>() as u64
    }

    /// What is left after the power went.
    pub(crate) fn after_power_loss(&self, chance: &mut Chance) -> Files {
        let kept = match chance.below(4) {
            0 => Kept::Nothing,
            1 => Kept::Everything,
            _ => Kept::Some,
        };
        let mut left = Files::new();
        for (folder, (names, changed)) in &self.folders {
            let mut names = names.clone();
            for change in changed {
                if kept.keeps(chance) {
                    change.clone().apply(&mut names);
                }
            }
            for (name, number) in names {
                let (durable, touched) = &self.files[&number];
                let mut bytes = durable.clone();
                for touch in touched {
                    touch.some(&mut bytes, kept, chance);
                }
                left.insert((folder.clone(), name), bytes);
            }
        }
        left
    }

    fn touch(&mut self, number: u64, touch: Touch) {
        self.files.get_mut(&number).unwrap().1.push(touch);
    }

    fn name(&mut self, folder: &str, change: Naming) {
        let (_, changed) = self.folders.entry(folder.to_owned()).or_default();
        changed.push(change);
    }

    /// The file that has a name at the moment.
    fn number(&self, folder: &str, name: &str) -> u64 {
        let (names, changed) = &self.folders[folder];
        let mut names = names.clone();
        changed
            .iter()
            .for_each(|change| change.clone().apply(&mut names));
        names[name]
    }
}

impl Touch {
    fn all(self, bytes: &mut Vec<u8>) {
        self.some(bytes, Kept::Everything, &mut Chance::new(0));
    }

    /// What the disk has done of it: any of its sectors, and perhaps only the new length.
    fn some(&self, bytes: &mut Vec<u8>, kept: Kept, chance: &mut Chance) {
        match self {
            Self::Truncate(length) if kept.keeps(chance) => bytes.resize(*length, 0),
            Self::Truncate(_) => {}
            Self::Write(offset, written) => {
                let end = offset + written.len();
                let mut from = *offset;
                while from < end {
                    let to = end.min((from / SECTOR_BYTES + 1) * SECTOR_BYTES);
                    let grows = to > bytes.len() && kept.keeps(chance);
                    if grows {
                        bytes.resize(to, 0);
                    }
                    if to <= bytes.len() && kept.keeps(chance) {
                        bytes[from..to].copy_from_slice(&written[from - offset..to - offset]);
                    }
                    from = to;
                }
            }
        }
    }
}

impl Naming {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Is(name, number) => {
                names.insert(name, number);
            }
            Self::Gone(name) => {
                names.remove(&name);
            }
            Self::Moved(from, to, number) => {
                names.remove(&from);
                names.insert(to, number);
            }
        }
    }
}

/// What a disk has done of what it was not made to do.
#[derive(Clone, Copy, Debug)]
enum Kept {
    Nothing,
    Everything,
    Some,
}

impl Kept {
    fn keeps(self, chance: &mut Chance) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Some => chance.below(2) == 0,
        }
    }
}

/// Numbers that look random and are the same for the same seed.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// The numbers of a seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next one, below `end`.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// The files of some folders in `dir`.
pub(crate) fn read(dir: &Path, folders: &[&str]) -> Files {
    let mut files = Files::new();
    for folder in folders {
        let Ok(entries) = fs::read_dir(dir.join(folder)) else {
            continue;
        };
        for entry in entries {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                let name = entry.file_name().into_string().unwrap();
                let bytes = fs::read(entry.path()).unwrap();
                files.insert(((*folder).to_owned(), name), bytes);
            }
        }
    }
    files
}

/// Writes files into folders of `dir`.
pub(crate) fn write(dir: &Path, files: &Files) {
    for ((folder, name), bytes) in files {
        fs::create_dir_all(dir.join(folder)).unwrap();
        fs::write(dir.join(folder).join(name), bytes).unwrap();
    }
}
