//! A copy of a controller's state in one file, taken while it runs, and the way back.
//!
//! Segments only grow and are read up to where the controller had acknowledged when the copy began,
//! so the copy is the ledger as it was at that moment, whatever is committed meanwhile.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use cardea_host::{
    exit::{Code, Failure, io_advice},
    unlock::Unlock,
};
use cardea_ledger::{
    mark::{self, Mark},
    segment,
};

use super::verify;
use crate::{args::Format, config::Settings, console::Console};

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
        let file = archive.into_inner()?;
        file.sync_all()
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

fn copy(archive: &mut tar::Builder<File>, state: &Path, mark: Mark) -> io::Result<()> {
    for name in KEPT {
        add(archive, state, Path::new(name))?;
    }
    for number in 1..=mark.end.segment {
        let name = Path::new("ledger").join(segment::name(number));
        let file = File::open(state.join(&name))?;
        let length = match number == mark.end.segment {
            true => mark.end.offset,
            false => file.metadata()?.len(),
        };
        append(archive, &name, length, file.take(length))?;
    }
    let bytes = mark.bytes();
    let length = cardea_ledger::wide(bytes.len());
    let name = Path::new("ledger").join(mark::NAME);
    append(archive, &name, length, bytes.as_slice())
}

/// Adds a file, or all files of a folder.
fn add(archive: &mut tar::Builder<File>, state: &Path, name: &Path) -> io::Result<()> {
    let path = state.join(name);
    let metadata = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if metadata.is_dir() {
        for entry in fs::read_dir(&path)? {
            add(archive, state, &name.join(entry?.file_name()))?;
        }
    } else if metadata.is_file() {
        append(archive, name, metadata.len(), File::open(path)?)?;
    }
    Ok(())
}

fn append(
    archive: &mut tar::Builder<File>,
    name: &Path,
    length: u64,
    contents: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(length);
    header.set_mode(0o600);
    header.set_cksum();
    archive.append_data(&mut header, name, contents)
}

/// Makes a state folder from a backup; nothing may be there.
pub(super) fn restore(
    from: &Path,
    unlock: Option<&Unlock>,
    settings: &Settings,
    console: &mut Console,
) -> Result<(), Failure> {
    let state = settings.state();
    let place = state.display().to_string();
    let is_empty = match fs::read_dir(&state) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(Failure::of(Code::Failed, &place, &error, io_advice(&error))),
    };
    if !is_empty {
        let why = "it is not empty, and nothing is ever written over";
        let next = "Move it away, or name another with --state";
        return Err(Failure::of(Code::Failed, &place, why, next));
    }
    let shown = from.display().to_string();
    let failed = |error: io::Error| Failure::of(Code::Failed, &shown, &error, io_advice(&error));
    let archive = File::open(from).map_err(failed)?;
    unpack(archive, &state).map_err(failed)?;
    let verified = verify::state(&state, unlock, settings.format, console);
    verified.map_err(|failure| {
        let why = format!(
            "{}. The restored folder is there to be looked at",
            failure.message
        );
        Failure::new(Code::Failed, why)
    })?;
    if settings.format == Format::Table {
        console.say(&format!(
            "Run it with: cardea-controller run --state {place}\n\
             Nodes that know of later entries tell it, and nothing is granted until: \
             cardeactl status --acknowledge-rollback"
        ));
    }
    Ok(())
}

fn unpack(archive: File, state: &Path) -> io::Result<()> {
    folder(state)?;
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        if !entry.header().entry_type().is_file() || !is_inside(&name) {
            let why = format!("{} has no place in a backup", name.display());
            return Err(io::Error::other(why));
        }
        let path = state.join(&name);
        if let Some(parent) = path.parent() {
            folder(parent)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        io::copy(&mut entry, &mut file)?;
        file.flush()?;
        file.sync_all()?;
    }
    File::open(state)?.sync_all()
}

fn folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path)
}

/// Whether a name stays within the folder in which it is unpacked.
fn is_inside(name: &Path) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    name.components().all(plain) && name != PathBuf::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused() {
        for name in ["", "/etc/passwd", "../x", "a/../../x", "./x"] {
            assert!(!is_inside(Path::new(name)), "{name}");
        }
        assert!(is_inside(Path::new("ledger/0001.seg")));
    }
}
