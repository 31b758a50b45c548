//! Entries read back out of a journal.

use std::{io, path::PathBuf};

use cardea_ledger::{
    entry::{self, Record},
    seal::DataKey,
    segment::{self, HEADER_BYTES, Header, Next, Place, Reader},
    tree, wide,
};
use cardea_proto::{
    codec::Digest,
    ledger::{Entry, Revision},
};

use crate::{
    Head,
    disk::{Disk, Folder},
    error::TailError,
    seal::segment_key,
};

/// Most bytes that one call gives back, so that a reader of large entries cannot fill the memory; a
/// single larger entry is given back alone.
const READ_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Reads a journal's entries up to its head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) key: Option<&'a DataKey>,
    pub(crate) segments: &'a [Header],
    pub(crate) head: Revision,
}

/// A journal as it is at one moment, to be read while it goes on.
#[derive(Debug)]
pub(crate) struct Readable {
    pub(crate) folder: PathBuf,
    pub(crate) key: Option<DataKey>,
    pub(crate) segments: Vec<Header>,
    pub(crate) head: Head,
}

impl Readable {
    /// The bytes of each entry after a revision, in order, up to the head of that moment.
    ///
    /// # Errors
    /// [`TailError`] when an entry cannot be read back, or `visit` cannot use it.
    pub(crate) fn each(
        &self,
        after: Revision,
        from: Option<(Revision, Place)>,
        mut visit: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), TailError> {
        let folder = Folder::open(&self.folder)?;
        let reading = Reading {
            disk: &folder,
            key: self.key.as_ref(),
            segments: &self.segments,
            head: self.head.revision,
        };
        reading.walk(after.next(), from, |payload| {
            visit(payload).map(|()| Walk::On)
        })
    }
}

/// Whether a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    On,
    Done,
}

impl Reading<'_> {
    /// Entries from revision `first` on, in order: at most `limit`, and no more than a few MiB of
    /// them. The search begins at `from`, where entry `from.0` stands; without it, at the
    /// beginning of the segment.
    pub(crate) fn entries(
        self,
        first: Revision,
        limit: usize,
        from: Option<(Revision, Place)>,
    ) -> Result<Vec<Entry>, TailError> {
        self.take(first, limit, from, |payload| {
            entry::decode(payload).map_err(|error| error.to_string())
        })
    }

    /// The hashes of entries, for which the rules of [`Reading::entries`] hold.
    pub(crate) fn leaves(
        self,
        first: Revision,
        limit: usize,
        from: Option<(Revision, Place)>,
    ) -> Result<Vec<Digest>, TailError> {
        self.take(first, limit, from, |payload| Ok(tree::leaf(payload)))
    }

    fn take<T>(
        self,
        first: Revision,
        limit: usize,
        from: Option<(Revision, Place)>,
        make: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<Vec<T>, TailError> {
        let mut taken = Vec::new();
        let mut bytes = 0_usize;
        if limit == 0 {
            return Ok(taken);
        }
        self.walk(first, from, |payload| {
            bytes = bytes.saturating_add(payload.len());
            if bytes > READ_BYTES_MAX && !taken.is_empty() {
                return Ok(Walk::Done);
            }
            taken.push(make(payload)?);
            Ok(if taken.len() < limit {
                Walk::On
            } else {
                Walk::Done
            })
        })?;
        Ok(taken)
    }

    fn walk(
        self,
        first: Revision,
        from: Option<(Revision, Place)>,
        mut visit: impl FnMut(&[u8]) -> Result<Walk, String>,
    ) -> Result<(), TailError> {
        let Some(start) = self
            .segments
            .iter()
            .rposition(|segment| segment.first <= first)
        else {
            return Ok(());
        };
        for segment in self.segments.iter().skip(start) {
            let (mut revision, offset) = match from {
                Some((revision, place)) if place.segment == segment.number => {
                    (revision, place.offset)
                }
                Some(_) | None => (segment.first, wide(HEADER_BYTES)),
            };
            let gone = || io::Error::from(io::ErrorKind::NotFound);
            let file = self.disk.open(&segment::name(segment.number))?;
            let file = file.ok_or_else(gone)?;
            let key = segment_key(self.key, segment)?;
            let mut reader = Reader::at(file.as_ref(), offset)?.sealed_with(key.as_ref());
            while revision <= self.head {
                let damaged = |fault: &str| TailError::Damaged {
                    revision,
                    fault: fault.to_owned(),
                };
                let payload = match reader.advance()? {
                    Next::Frame { payload, .. } => payload,
                    Next::End { .. } => break,
                    Next::Bad { fault, .. } => return Err(damaged(fault)),
                };
                match Record::of(payload) {
                    Some(Record::Entry(outline)) if outline.revision == revision => {}
                    Some(Record::Checkpoint(_)) => continue,
                    Some(Record::Entry(_)) | None => {
                        return Err(damaged("another entry stands in its place"));
                    }
                }
                if revision >= first
                    && visit(payload).map_err(|fault| damaged(&fault))? == Walk::Done
                {
                    return Ok(());
                }
                revision = revision.next();
            }
        }
        Ok(())
    }
}
