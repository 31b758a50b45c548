//! A copy of a controller's state in one file, taken while it runs, and the way back.
//!
//! Segments only grow and are read up to where the controller had acknowledged when the copy began,
//! so the copy is the ledger as it was at that moment, whatever is committed meanwhile. How far that
//! was stands before the segments, so that a copy that was cut is known for one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use cardea_host::{
    exit::{Code, Failure, io_advice},
    files::sync_name,
};
use cardea_ledger::{
    mark::{self, Mark},
    segment,
};

use crate::{config::Settings, console::Console};

/// What is copied beside the ledger: files and folders of the state folder, where they are there.
/// The root's key belongs elsewhere, and the index is made again.
const KEPT: &[&str] = &[
    "controller.toml",
    "root/root.crt",
    "ca",
    "keys",
    "policy",
    "policy-recommended",
    "ledger/sealing.toml",
];

/// Copies the state folder into `to`, which must not exist.
pub(super) fn backup(to: &Path, settings: &Settings, console: &mut Console) -> Result<(), Failure> {
    let state = settings.state();
    let shown = to.display().to_string();
    let failed = |error: io::Error| Failure::of(Code::Failed, &shown, &error, io_advice(&error));
    let ledger = state.join("ledger");
    let mark = fs::read(ledger.join(mark::NAME)).ok();
    let mark = mark.as_deref().and_then(Mark::parse).ok_or_else(|| {
        let next = "Run this on the controller's host, and name its folder with --state";
        let why = "there is no ledger with acknowledged entries";
        Failure::of(Code::Failed, &ledger.display().to_string(), why, next)
    })?;
    let mut options = OpenOptions::new();
    let file = options.create_new(true).write(true).mode(0o600).open(to);
    let mut archive = tar::Builder::new(file.map_err(failed)?);
    archive.follow_symlinks(false);
    let written = copy(&mut archive, &state, mark).and_then(|()| {
        archive.into_inner()?.sync_all()?;
        sync_name(to)
    });
    if let Err(error) = written {
        // Half a backup is none.
        drop(fs::remove_file(to));
        return Err(failed(error));
    }
    let root = state.join("root/root.key");
    if root.exists() {
        console.say(&format!(
            "{} is not in it: keep the root's key offline, by itself",
            root.display()
        ));
    }
    console.data(&format!("{} entries are in {shown}", mark.revision))
}

fn copy(archive: &mut tar::Builder<impl Write>, state: &Path, mark: Mark) -> io::Result<()> {
    for name in KEPT {
        add(archive, state, Path::new(name))?;
    }
    let ledger = Path::new("ledger");
    let bytes = mark.bytes();
    let length = cardea_ledger::wide(bytes.len());
    append(archive, &ledger.join(mark::NAME), length, bytes.as_slice())?;
    for number in 1..=mark.end.segment {
        let name = ledger.join(segment::name(number));
        let file = File::open(state.join(&name))?;
        let length = match number == mark.end.segment {
            true => mark.end.offset,
            false => file.metadata()?.len(),
        };
        append(archive, &name, length, file)?;
    }
    Ok(())
}

/// Adds a file, or all files of a folder. What a running controller has taken away meanwhile is left
/// out.
fn add(archive: &mut tar::Builder<impl Write>, state: &Path, name: &Path) -> io::Result<()> {
    let path = state.join(name);
    let Some(metadata) = found(fs::symlink_metadata(&path))? else {
        return Ok(());
    };
    if metadata.is_dir() {
        for entry in fs::read_dir(&path)? {
            add(archive, state, &name.join(entry?.file_name()))?;
        }
    } else if metadata.is_file()
        && let Some(file) = found(File::open(&path))?
    {
        // Of the file that is read: another may have taken its name since.
        let length = file.metadata()?.len();
        append(archive, name, length, file)?;
    }
    Ok(())
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Adds the first `length` bytes of `contents`, which must be there.
fn append(
    archive: &mut tar::Builder<impl Write>,
    name: &Path,
    length: u64,
    contents: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(length);
    header.set_mode(0o600);
    header.set_cksum();
    let mut contents = contents.take(length);
    archive.append_data(&mut header, name, &mut contents)?;
    match contents.limit() {
        0 => Ok(()),
        missing => {
            let why = format!("{} is {missing} bytes shorter than it was", name.display());
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
