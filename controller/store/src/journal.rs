//! The journal: entries in append-only segments, durable before they are acknowledged.

use std::io;

use crate::{
    Head,
    disk::{Disk, DiskFile},
    error::{LoadError, TornTail},
    mark::{self, MarkFile},
    reading::{Readable, Reading},
    scan::{Scan, Visit, failed, scan},
    seal::Framer,
    snapshot::ENTRIES,
};
use cardea_ledger::{
    entry::Encoded,
    frame,
    mark::Mark,
    seal::{DataKey, SEAL_BYTES},
    segment::{self, HEADER_BYTES, Header, Place},
    wide,
};

/// Sizes of a store's files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// When a segment is full and the next one begins, in bytes: a few hundred thousand entries, and
    /// small enough to copy.
    pub(crate) segment: u64,
    /// How many bytes are reserved at a time: a few dozen group commits. None where it is 0.
    pub(crate) reserve: u64,
    /// After how many entries a snapshot is taken.
    pub(crate) snapshot: u64,
}

/// What every store but a test's has.
pub(crate) const SIZES: Sizes = Sizes {
    segment: 64 * 1024 * 1024,
    reserve: 1024 * 1024,
    snapshot: ENTRIES,
};

/// A journal whose folder is locked for this process and whose entries were not read yet.
#[derive(Debug)]
pub(crate) struct ClosedJournal {
    disk: Box<dyn Disk>,
    sizes: Sizes,
    key: Option<DataKey>,
}

/// A journal that takes entries.
#[derive(Debug)]
pub(crate) struct Journal {
    disk: Box<dyn Disk>,
    sizes: Sizes,
    key: Option<DataKey>,
    segments: Vec<Header>,
    tail: Box<dyn DiskFile>,
    framer: Framer,
    /// Behind the last entry, in the last segment.
    end: Place,
    /// Up to where the last segment is filled with zeros, so that a sync has no length to write.
    reserved: u64,
    head: Head,
    mark: MarkFile,
    /// Why nothing is accepted any more.
    latched: Option<String>,
}

/// Why entries were not appended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AppendError {
    /// No space. None of them is in the journal, and a later append may succeed.
    Full,
    /// The journal accepts nothing until it is opened again; then it is seen which of them are on
    /// the disk, for a failed sync does not tell.
    Latched(String),
}

impl ClosedJournal {
    /// Locks `disk`. A new segment begins when the last one has reached its size.
    /// With a key, all of it is sealed.
    pub(crate) fn lock(
        mut disk: Box<dyn Disk>,
        sizes: Sizes,
        key: Option<DataKey>,
    ) -> Result<Self, LoadError> {
        match disk.lock().map_err(failed(disk.as_ref(), "lock", ""))? {
            true => Ok(Self { disk, sizes, key }),
            false => Err(LoadError::Locked(disk.path(""))),
        }
    }

    /// Its sizes.
    pub(crate) const fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Reads and checks everything, showing each entry to `visit`; may be called again.
    pub(crate) fn scan(&self, visit: &mut Visit<'_>) -> Result<Scan, LoadError> {
        scan(self.disk.as_ref(), self.key.as_ref(), visit)
    }

    /// Cuts off what was never acknowledged and makes durable what is there: entries that a
    /// killed process had written and not synced count from here on.
    pub(crate) fn open(self, scan: Scan) -> Result<(Journal, Option<TornTail>), LoadError> {
        let Self { disk, sizes, key } = self;
        let end = scan.end.unwrap_or(Place {
            segment: 1,
            offset: 0,
        });
        let name = segment::name(end.segment);
        let broken = |operation| failed(disk.as_ref(), operation, &name);
        let mut segments = scan.segments;
        if segments.is_empty() {
            // Without a mark nothing may ever be cut, not even the torn header of a first segment.
            establish(disk.as_ref(), end, scan.head)?;
        }
        let (tail, end, reserved) = if end.offset < wide(HEADER_BYTES) {
            segments.retain(|segment| segment.number != end.segment);
            let (segment, tail) =
                begin_segment(disk.as_ref(), end.segment, scan.head, key.is_some())
                    .map_err(broken("create"))?;
            segments.push(segment);
            let end = begin_of(end.segment);
            (tail, end, end.offset)
        } else {
            let file = disk.open(&name).map_err(broken("open"))?;
            let gone = || io::Error::from(io::ErrorKind::NotFound);
            let mut file = file.ok_or_else(gone).map_err(broken("open"))?;
            if scan.torn.is_some() {
                file.truncate(end.offset).map_err(broken("cut"))?;
            }
            write_again(disk.as_ref(), file.as_mut(), end).map_err(broken("write"))?;
            file.sync().map_err(broken("sync"))?;
            let reserved = file.length().map_err(broken("read"))?;
            (file, end, reserved)
        };
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let framer = segments
            .last()
            .ok_or_else(gone)
            .and_then(|header| Framer::of(key.as_ref(), header))
            .map_err(broken("open"))?;
        // Never before the tail is durable: a mark may be late, not early.
        let mark = establish(disk.as_ref(), end, scan.head)?;
        let journal = Journal {
            disk,
            sizes,
            key,
            segments,
            tail,
            framer,
            end,
            reserved,
            head: scan.head,
            mark,
            latched: None,
        };
        Ok((journal, scan.torn))
    }
}

impl Journal {
    /// The last entry.
    pub(crate) const fn head(&self) -> Head {
        self.head
    }

    /// Appends entries, which continue the chain from [`Journal::head`], with one write and one
    /// sync, and says where each one is.
    pub(crate) fn append(&mut self, batch: &[Encoded]) -> Result<Vec<Place>, AppendError> {
        self.begin()?;
        let frames = batch
            .iter()
            .map(|one| frame::HEADER_BYTES + one.bytes.len() + SEAL_BYTES);
        let mut bytes = Vec::with_capacity(frames.sum());
        let mut places = Vec::with_capacity(batch.len());
        for encoded in batch {
            places.push(Place {
                segment: self.end.segment,
                offset: self.frame(&mut bytes, &encoded.bytes)?,
            });
        }
        let head = batch.last().map_or(self.head, |last| Head {
            revision: last.entry.revision,
            hash: last.hash,
        });
        self.write(&bytes, head)?;
        Ok(places)
    }

    /// Appends a checkpoint of all entries before it, and makes the mark durable up to there.
    pub(crate) fn note(&mut self, note: &str) -> Result<(), AppendError> {
        self.begin()?;
        let mut bytes = Vec::new();
        self.frame(&mut bytes, note.as_bytes())?;
        self.write(&bytes, self.head)?;
        let synced = self.mark.sync();
        synced.map_err(|error| self.latch("sync the mark of", &error))
    }

    fn frame(&mut self, bytes: &mut Vec<u8>, payload: &[u8]) -> Result<u64, AppendError> {
        let framed = self.framer.append(bytes, self.end.offset, payload);
        framed.map_err(|error| self.latch("seal an entry of", &error))
    }

    /// Makes room for more, or says why there is none.
    fn begin(&mut self) -> Result<(), AppendError> {
        if let Some(reason) = &self.latched {
            return Err(AppendError::Latched(reason.clone()));
        }
        if self.end.offset >= self.sizes.segment {
            self.rotate()?;
        }
        Ok(())
    }

    /// Makes frames durable, behind which `head` is the last entry.
    fn write(&mut self, frames: &[u8], head: Head) -> Result<(), AppendError> {
        self.reserve(self.end.offset.saturating_add(wide(frames.len())))?;
        if let Err(error) = self.tail.write_all_at(frames, self.end.offset) {
            let cut = self.tail.truncate(self.end.offset);
            self.reserved = self.end.offset;
            return Err(self.give_up("write", &error, cut));
        }
        // What a failed sync leaves on the disk is unknown, so no later one can be believed.
        if let Err(error) = self.tail.sync() {
            return Err(self.latch("sync", &error));
        }
        self.end.offset = self.end.offset.saturating_add(wide(frames.len()));
        // Without room to reserve, the entries themselves have made the segment longer.
        self.reserved = self.reserved.max(self.end.offset);
        self.head = head;
        self.acknowledge();
        Ok(())
    }

    /// What reads its entries.
    pub(crate) fn reading(&self) -> Reading<'_> {
        Reading {
            disk: self.disk.as_ref(),
            key: self.key.as_ref(),
            segments: &self.segments,
            head: self.head.revision,
        }
    }

    /// The same for another thread: what stands in the journal now, and nothing later.
    pub(crate) fn readable(&self) -> Readable {
        Readable {
            folder: self.disk.path(""),
            key: self.key.clone(),
            segments: self.segments.clone(),
            head: self.head,
        }
    }

    /// Fills the segment with zeros to some way behind `end`: a sync of bytes that take the place of
    /// others costs half of one that also has a length and new blocks to record.
    fn reserve(&mut self, end: u64) -> Result<(), AppendError> {
        if end <= self.reserved || self.sizes.reserve == 0 {
            return Ok(());
        }
        let until = end.saturating_add(self.sizes.reserve);
        let zeros = vec![0; usize::try_from(until.saturating_sub(self.reserved)).unwrap_or(0)];
        match self.tail.write_all_at(&zeros, self.reserved) {
            Ok(()) => self.reserved = until,
            // What there is room for is written all the same.
            Err(error) => match self.tail.truncate(self.end.offset) {
                Ok(()) if is_full(&error) => self.reserved = self.end.offset,
                Ok(()) | Err(_) => return Err(self.latch("write", &error)),
            },
        }
        Ok(())
    }

    /// Begins the next segment; the one before is from now on exactly as long as its entries.
    fn rotate(&mut self) -> Result<(), AppendError> {
        let number = self.end.segment.saturating_add(1);
        let sealed = self.tail.truncate(self.end.offset);
        if let Err(error) = sealed.and_then(|()| self.tail.sync()) {
            return Err(self.latch("close", &error));
        }
        self.reserved = self.end.offset;
        let key = self.key.as_ref();
        let begun = begin_segment(self.disk.as_ref(), number, self.head, key.is_some());
        let begun = begun.and_then(|(segment, tail)| {
            Framer::of(key, &segment).map(|framer| (segment, tail, framer))
        });
        match begun {
            Ok((segment, tail, framer)) => {
                self.framer = framer;
                self.segments.push(segment);
                self.tail = tail;
                self.end = begin_of(number);
                self.reserved = self.end.offset;
                Ok(())
            }
            Err(error) => {
                let name = segment::name(number);
                let removed = match self.disk.remove(&name) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    Ok(()) | Err(_) => self.disk.sync(),
                };
                Err(self.give_up("create", &error, removed))
            }
        }
    }

    /// Moves the mark. The entries are durable whether or not this succeeds, and a mark that is
    /// late is still true; so no space for it (on file systems that copy) is no reason to stop.
    fn acknowledge(&mut self) {
        let mark = Mark {
            end: self.end,
            revision: self.head.revision,
        };
        match self.mark.write(mark) {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                tracing::warn!(reason = %error, "the journal's mark could not be moved");
            }
            Err(error) => {
                self.latch("write the mark of", &error);
            }
        }
    }

    /// After a failed write: no space is survivable when what was written could be undone.
    fn give_up(
        &mut self,
        operation: &str,
        error: &io::Error,
        undone: io::Result<()>,
    ) -> AppendError {
        match undone {
            Ok(()) if is_full(error) => AppendError::Full,
            Ok(()) | Err(_) => self.latch(operation, error),
        }
    }

    fn latch(&mut self, operation: &str, error: &io::Error) -> AppendError {
        let path = self.disk.path(&segment::name(self.end.segment));
        let reason = format!("cannot {operation} {}: {error}", path.display());
        tracing::error!(reason, "the store accepts nothing until it is restarted");
        self.latched = Some(reason.clone());
        AppendError::Latched(reason)
    }
}

fn establish(disk: &dyn Disk, end: Place, head: Head) -> Result<MarkFile, LoadError> {
    let mark = Mark {
        end,
        revision: head.revision,
    };
    MarkFile::establish(disk, mark).map_err(failed(disk, "write", cardea_ledger::mark::NAME))
}

/// Writes once more what the last segment holds behind the mark.
///
/// A process whose sync failed may have left it in the system's memory alone: Linux takes such pages
/// for written, so that the next sync succeeds without them (what PostgreSQL calls fsyncgate).
fn write_again(disk: &dyn Disk, file: &mut dyn DiskFile, end: Place) -> io::Result<()> {
    let synced = mark::read(disk)?.filter(|mark| mark.end.segment == end.segment);
    let from = synced.map_or(0, |mark| mark.end.offset);
    let length = usize::try_from(end.offset.saturating_sub(from)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from.saturating_add(wide(read)))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => read = read.saturating_add(more),
        }
    }
    file.write_all_at(&bytes, from)
}

/// Creates (or begins again) a segment that follows `head`, durably.
fn begin_segment(
    disk: &dyn Disk,
    number: u64,
    head: Head,
    is_sealed: bool,
) -> io::Result<(Header, Box<dyn DiskFile>)> {
    let header = Header {
        number,
        first: head.revision.next(),
        previous: head.hash,
        is_sealed,
    };
    let name = segment::name(number);
    let mut file = match disk.open(&name)? {
        Some(file) => file,
        None => disk.create(&name)?,
    };
    file.truncate(0)?;
    file.write_all_at(&header.bytes(), 0)?;
    file.sync()?;
    disk.sync()?;
    Ok((header, file))
}

fn begin_of(segment: u64) -> Place {
    Place {
        segment,
        offset: wide(HEADER_BYTES),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
pub(crate) mod tests;
