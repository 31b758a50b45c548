//! Checking a copy of the ledger, without its controller.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use cardea_host::{
    exit::{Code, Failure, io_advice},
    files::{ReadError, read_named_text},
    unlock::Unlock,
};
use cardea_ledger::{
    audit::{Audit, Fault, Report},
    checkpoint::{Checkpoint, Verifier},
    mark::{self, Mark},
    seal::{self, DataKey, SegmentKey, Wrapped},
    segment::{self, HEADER_BYTES, Next, Place, ReadAt, Reader},
    wide,
};
use serde::Serialize;

use crate::{
    args::{Format, Verify},
    config::Settings,
    console::Console,
    view,
};

/// Longest file with a wrapped key, in bytes.
const SEALING_BYTES_MAX: usize = 4_096;

/// Bytes between two reports of progress.
const STEP_BYTES: u64 = 16 * 1024 * 1024;

/// Checks a ledger and says what holds.
pub(super) fn run(
    what: &Verify,
    settings: &Settings,
    console: &mut Console,
) -> Result<(), Failure> {
    let verifier = verifier(&what.key)?;
    let since = what
        .since
        .as_deref()
        .map(|path| known(path, &verifier))
        .transpose()?;
    let dir = match &what.ledger {
        Some(path) => path.clone(),
        None => settings.state(),
    };
    let known = Known { verifier, since };
    let checked = check(&dir, known, what.unlock.as_ref(), console)?;
    report(&checked, settings.format, console)
}

/// What a ledger is checked against.
struct Known {
    verifier: Verifier,
    since: Option<Checkpoint>,
}

fn check(
    dir: &Path,
    known: Known,
    unlock: Option<&Unlock>,
    console: &mut Console,
) -> Result<Checked, Failure> {
    let ledger = Copy::open(dir)?;
    Walk {
        ledger: &ledger,
        key: ledger.key(unlock)?,
        audit: Audit::new(known.verifier, known.since),
        read: 0,
        console,
    }
    .run()
}

/// Checks the ledger of a state folder with the key that lies beside it, and tells that too.
pub(super) fn state(
    dir: &Path,
    unlock: Option<&Unlock>,
    console: &mut Console,
) -> Result<(Checked, Verifier), Failure> {
    let key = dir.join("keys/ledger.pub").display().to_string();
    let verifier = verifier(&key)?;
    let known = Known {
        verifier: verifier.clone(),
        since: None,
    };
    Ok((check(dir, known, unlock, console)?, verifier))
}

/// A public key as text, or the file that holds it.
fn verifier(key: &str) -> Result<Verifier, Failure> {
    let path = Path::new(key);
    let text = match read_named_text(path, TEXT_BYTES_MAX) {
        Ok(text) => text,
        Err(ReadError::Io(_)) => key.to_owned(),
        Err(error @ (ReadError::NotAFile(_) | ReadError::TooLarge(_) | ReadError::NotText)) => {
            return Err(error.failure(path));
        }
    };
    text.parse().map_err(|error| {
        let next = "init printed it; it is keys/ledger.pub of the controller's state directory";
        Failure::of(Code::Usage, "--key", error, next)
    })
}

/// Largest public key or checkpoint in a file, in bytes; a checkpoint with its signatures is a few lines.
const TEXT_BYTES_MAX: u64 = 64 * 1024;

/// The checkpoint of `--since`.
fn known(path: &Path, verifier: &Verifier) -> Result<Checkpoint, Failure> {
    let shown = path.display().to_string();
    let note = read_named_text(path, TEXT_BYTES_MAX).map_err(|error| error.failure(path))?;
    // What copied it may have left out the last line break.
    verifier
        .verify(&format!("{}\n", note.trim_end()))
        .map_err(|error| {
            let next = "Give a checkpoint that cardeactl audit verify printed, of this ledger";
            Failure::of(Code::Failed, &shown, error, next)
        })
}

/// A copy of a ledger: the folder with its segments, or a backup.
struct Copy {
    path: PathBuf,
    /// Where the files lie in a backup: from, and how long.
    archive: Option<BTreeMap<String, (u64, u64)>>,
    segments: Vec<u64>,
    bytes: u64,
}

impl Copy {
    /// The ledger in a state folder, the folder of one, or a backup's file.
    fn open(path: &Path) -> Result<Self, Failure> {
        let inner = path.join("ledger");
        let path = if inner.is_dir() { &inner } else { path };
        let failed = |error: io::Error| {
            let next = "Give a controller's state directory, a copy of its ledger/, or a backup, with --ledger";
            Failure::of(Code::Failed, &path.display().to_string(), error, next)
        };
        let archive = match path.is_file() {
            true => Some(in_archive(path).map_err(failed)?),
            false => None,
        };
        let lengths: Vec<(String, u64)> = match &archive {
            Some(parts) => parts
                .iter()
                .map(|(name, (_, length))| (name.clone(), *length))
                .collect(),
            None => in_folder(path).map_err(failed)?,
        };
        let mut segments = Vec::new();
        let mut bytes = 0_u64;
        for (name, length) in lengths {
            if let Some(number) = segment::number(&name) {
                segments.push(number);
                bytes = bytes.saturating_add(length);
            }
        }
        segments.sort_unstable();
        if segments.is_empty() {
            return Err(failed(io::Error::other("there is no ledger here")));
        }
        Ok(Self {
            path: path.to_owned(),
            archive,
            segments,
            bytes,
        })
    }

    /// What a file is called in messages.
    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn part(&self, name: &str) -> io::Result<Part> {
        let Some(parts) = &self.archive else {
            let file = File::open(self.file(name))?;
            let length = file.metadata()?.len();
            return Ok(Part {
                file,
                from: 0,
                length,
            });
        };
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let (from, length) = *parts.get(name).ok_or_else(gone)?;
        let file = File::open(&self.path)?;
        Ok(Part { file, from, length })
    }

    /// The key of a sealed ledger, which `unlock` opens.
    fn key(&self, unlock: Option<&Unlock>) -> Result<Option<DataKey>, Failure> {
        let shown = self.file(seal::NAME).display().to_string();
        let failed =
            |why: &dyn std::fmt::Display, next: &str| Failure::of(Code::Failed, &shown, why, next);
        let part = match self.part(seal::NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| failed(&error, io_advice(&error)))?,
        };
        let Some(unlock) = unlock else {
            let next = "Give the key with --unlock file:PATH, credential:NAME or passphrase";
            return Err(failed(&"this ledger is sealed", next));
        };
        let mut text = vec![0; SEALING_BYTES_MAX];
        let read = part.read_at(&mut text, 0);
        text.truncate(read.map_err(|error| failed(&error, io_advice(&error)))?);
        let wrapped = Wrapped::parse(&String::from_utf8_lossy(&text));
        let wrapped = wrapped.map_err(|error| failed(&error, "Restore it from a backup"))?;
        let what = format!("--unlock {unlock}");
        let opened = wrapped.open(&unlock.secret()?);
        opened
            .map(Some)
            .map_err(|error| Failure::of(Code::Storage, &what, error, "Give the key that seals it"))
    }

    /// How far the controller had acknowledged when this was called.
    fn mark(&self) -> Option<Mark> {
        let part = self.part(mark::NAME).ok()?;
        let mut bytes = [0; mark::BYTES];
        let read = part.read_at(&mut bytes, 0).ok()?;
        Mark::parse(bytes.get(..read)?)
    }
}

fn in_folder(path: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            files.push((name, entry.metadata()?.len()));
        }
    }
    Ok(files)
}

fn in_archive(path: &Path) -> io::Result<BTreeMap<String, (u64, u64)>> {
    let mut archive = tar::Archive::new(File::open(path)?);
    let mut parts = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = entry.path()?;
        if let Some(name) = name.strip_prefix("ledger").ok().and_then(Path::to_str) {
            parts.insert(name.to_owned(), (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(parts)
}

/// What a check found.
pub(super) struct Checked {
    report: Report,
    /// Bytes at the end that were never acknowledged.
    torn: u64,
    /// Whether it is known how far the ledger went.
    is_marked: bool,
}

/// A check on its way.
struct Walk<'a> {
    ledger: &'a Copy,
    key: Option<DataKey>,
    audit: Audit,
    read: u64,
    console: &'a mut Console,
}

impl Walk<'_> {
    fn run(mut self) -> Result<Checked, Failure> {
        // Read first: whatever a running controller adds meanwhile is behind it.
        let mark = self.ledger.mark();
        let mut torn = 0;
        let mut end = Place {
            segment: 1,
            offset: 0,
        };
        for (expected, number) in (1..).zip(&self.ledger.segments) {
            if *number != expected {
                let missing = self.ledger.file(&segment::name(expected));
                return Err(self.bad(&missing, 0, "the segment is missing"));
            }
            (end.offset, torn) = self.segment(expected, mark)?;
            end.segment = expected;
        }
        let last = self.ledger.file(&segment::name(end.segment));
        if let Some(mark) = mark.filter(|mark| end < mark.end) {
            return Err(self.bad(&last, end.offset, Fault::Truncated(mark.revision)));
        }
        let entries = self.audit.head();
        let report = self
            .audit
            .finish(mark.map(|mark| mark.revision))
            .map_err(|fault| bad(entries.0, &last, end.offset, fault))?;
        self.console.progress("");
        Ok(Checked {
            report,
            torn,
            is_marked: mark.is_some(),
        })
    }

    /// Checks a segment; says where it ends, and how many bytes behind that were never acknowledged.
    fn segment(&mut self, number: u64, mark: Option<Mark>) -> Result<(u64, u64), Failure> {
        let path = self.ledger.file(&segment::name(number));
        let failed = |error: io::Error| {
            Failure::of(
                Code::Failed,
                &path.display().to_string(),
                &error,
                io_advice(&error),
            )
        };
        let file = self.ledger.part(&segment::name(number)).map_err(failed)?;
        let length = file.length().map_err(failed)?;
        let is_last = self.ledger.segments.last() == Some(&number);
        // Only behind the mark, and only at the very end, may there be anything but frames.
        let may_be_torn = |offset| {
            let place = Place {
                segment: number,
                offset,
            };
            is_last && mark.is_some_and(|mark| place >= mark.end)
        };
        let header = segment::Header::read(&file).map_err(failed)?;
        if header.is_none() && may_be_torn(0) {
            return Ok((0, length));
        }
        self.audit
            .segment(number, header)
            .map_err(|fault| self.bad(&path, 0, fault))?;
        let key = self.segment_key(&path, header)?;
        let mut reader = Reader::at(&file, wide(HEADER_BYTES))
            .map_err(failed)?
            .sealed_with(key.as_ref());
        let mut shown = 0;
        loop {
            match reader.advance().map_err(failed)? {
                Next::Frame { offset, payload } => {
                    self.audit
                        .record(payload)
                        .map_err(|fault| self.bad(&path, offset, fault))?;
                    if offset >= shown {
                        shown = offset.saturating_add(STEP_BYTES);
                        self.show(offset);
                    }
                }
                Next::End { offset } => {
                    if offset < length && !is_last {
                        let fault = "zeros follow the segment's last entry";
                        return Err(self.bad(&path, offset, fault));
                    }
                    self.read = self.read.saturating_add(length);
                    return Ok((offset, 0));
                }
                Next::Bad { offset, .. } if may_be_torn(offset) => {
                    return Ok((offset, length.saturating_sub(offset)));
                }
                Next::Bad { offset, fault } => return Err(self.bad(&path, offset, fault)),
            }
        }
    }

    fn segment_key(
        &self,
        path: &Path,
        header: Option<segment::Header>,
    ) -> Result<Option<SegmentKey>, Failure> {
        match (header.filter(|header| header.is_sealed), &self.key) {
            (Some(header), Some(key)) => {
                let key = key.segment(&header);
                key.map(Some).map_err(|error| self.bad(path, 0, error))
            }
            (Some(_), None) => Err(self.bad(path, 0, "it is sealed, and sealing.toml is missing")),
            (None, Some(_)) => Err(self.bad(path, 0, "it is not sealed, and this ledger is")),
            (None, None) => Ok(None),
        }
    }

    fn show(&mut self, offset: u64) {
        let done = self.read.saturating_add(offset).saturating_mul(100);
        let percent = done.checked_div(self.ledger.bytes).unwrap_or(100).min(100);
        let text = format!("{percent} %, entry {}", self.audit.head());
        self.console.progress(&text);
    }

    fn bad(&self, path: &Path, offset: u64, fault: impl std::fmt::Display) -> Failure {
        bad(self.audit.head().0, path, offset, fault)
    }
}

fn bad(holds: u64, path: &Path, offset: u64, fault: impl std::fmt::Display) -> Failure {
    let holding = match holds {
        0 => "No entry before it".to_owned(),
        1 => "Entry 1 holds".to_owned(),
        more => format!("Entries 1 to {more} hold"),
    };
    let what = format!("entry {}", holds.saturating_add(1));
    let place = format!("{fault} ({}, byte {offset})", path.display());
    Failure::of(Code::Failed, &what, place, &holding)
}

/// A file of a ledger, on its own or within a backup.
#[derive(Debug)]
struct Part {
    file: File,
    from: u64,
    length: u64,
}

impl ReadAt for Part {
    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.length.saturating_sub(offset);
        let room = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        FileExt::read_at(&self.file, buffer, self.from.saturating_add(offset))
    }
}

/// What holds, as it is printed.
#[derive(Serialize)]
struct Row {
    entries: u64,
    checkpoints: u64,
    admin_signatures: u64,
    /// Entries that the last checkpoint covers.
    covered: u64,
    /// The root of its tree, base64.
    root: Option<String>,
    /// Bytes behind the last entry that were never acknowledged.
    unacknowledged_bytes: u64,
}

/// Prints what a check found.
pub(super) fn report(
    checked: &Checked,
    format: Format,
    console: &mut Console,
) -> Result<(), Failure> {
    let Checked {
        report,
        torn,
        is_marked,
    } = checked;
    if !is_marked {
        console.say(&format!(
            "How far the ledger went is not in this copy ({}): whether entries are missing at its end \
             can be told with --since alone.",
            mark::NAME
        ));
    }
    let row = Row {
        entries: report.entries,
        checkpoints: report.checkpoints,
        admin_signatures: report.signatures,
        covered: report.last.as_ref().map_or(0, |last| last.size),
        root: report
            .last
            .as_ref()
            .map(|last| data_encoding::BASE64.encode(&last.root.0)),
        unacknowledged_bytes: *torn,
    };
    if format != Format::Table {
        return view::data(&row, format, console);
    }
    let open = match row.entries.saturating_sub(row.covered) {
        0 => "all of them".to_owned(),
        _ => format!("the first {}", row.covered),
    };
    console.data(&format!(
        "The ledger holds: {} entries, {} checkpoints, {} requests of admins. The last checkpoint covers {open}.",
        row.entries, row.checkpoints, row.admin_signatures
    ))?;
    if *torn > 0 {
        console.say(&format!(
            "{torn} bytes at the end were never acknowledged; the controller cuts them off when it starts."
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
