//! The file of the mark that says how far the journal was acknowledged.

use std::io;

use cardea_ledger::{
    mark::{self, Mark, NAME},
    segment::Reader,
};

use crate::disk::{Disk, DiskFile};

/// Reads the mark; `None` when there is none or it is not whole.
pub(crate) fn read(disk: &dyn Disk) -> io::Result<Option<Mark>> {
    let Some(file) = disk.open(NAME)? else {
        return Ok(None);
    };
    let mut reader = Reader::at(file.as_ref(), 0)?;
    Ok(Mark::parse(reader.fill(mark::BYTES)?))
}

/// The mark's open file.
#[derive(Debug)]
pub(crate) struct MarkFile(Box<dyn DiskFile>);

impl MarkFile {
    /// Opens the file, creating it durably where it is missing, and writes `mark` durably.
    pub(crate) fn establish(disk: &dyn Disk, mark: Mark) -> io::Result<Self> {
        let file = match disk.open(NAME)? {
            Some(file) => file,
            None => disk.create(NAME)?,
        };
        let mut this = Self(file);
        this.write(mark)?;
        this.0.sync()?;
        disk.sync()?;
        Ok(this)
    }

    /// Writes `mark`. It reaches the disk when the system finds time, or with [`MarkFile::sync`].
    pub(crate) fn write(&mut self, mark: Mark) -> io::Result<()> {
        self.0.write_all_at(&mark.bytes(), 0)
    }

    /// Makes what was written last durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }
}
