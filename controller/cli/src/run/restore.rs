//! The way back from a backup: a state folder that is there whole and checked, or not at all.
//!
//! It is unpacked and checked beside its place under another name, and takes its place last.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use cardea_host::{
    exit::{Code, Failure, io_advice},
    files::{make_folder, sync_name},
    unlock::Unlock,
};
use cardea_ledger::mark::{self, Mark};

use super::verify;
use crate::{args::Format, config::Settings, console::Console};

/// What the name of a folder ends with that is not restored yet.
const UNFINISHED: &str = ".restoring";

/// Makes a state folder from a backup; nothing may be there.
pub(super) fn restore(
    from: &Path,
    unlock: Option<&Unlock>,
    settings: &Settings,
    console: &mut Console,
) -> Result<(), Failure> {
    let state = settings.state();
    is_free(&state)?;
    let shown = from.display().to_string();
    let archive = File::open(from).map_err(refused(from))?;
    let beside = begin(&state)?;
    let made = unpack(archive, &beside)
        .map_err(|error| Failure::of(Code::Failed, &shown, &error, io_advice(&error)))
        .and_then(|()| verify::state(&beside, unlock, console))
        .and_then(|checked| take_place(&beside, &state).map(|()| checked));
    let (checked, key) = made.map_err(|failure| {
        drop(fs::remove_dir_all(&beside));
        Failure {
            message: format!("{}. Nothing was restored", failure.message),
            ..failure
        }
    })?;
    sync_name(&state).map_err(refused(&state))?;
    verify::report(&checked, settings.format, console)?;
    if settings.format == Format::Table {
        console.say(&format!(
            "It was checked with the key that is in it: see that init printed the same\n  {key}\n\
             Run it with: cardea-controller run --state {}\n\
             Nodes that know of later entries tell it, and nothing is granted until: \
             cardeactl status --acknowledge-rollback",
            state.display()
        ));
    }
    Ok(())
}

/// Refuses a place where something is.
fn is_free(state: &Path) -> Result<(), Failure> {
    let is_free = match fs::read_dir(state) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(refused(state)(error)),
    };
    if is_free {
        return Ok(());
    }
    let why = "it is not empty, and nothing is ever written over";
    let next = "Move it away, or name another with --state";
    let place = state.display().to_string();
    Err(Failure::of(Code::Failed, &place, why, next))
}

/// Makes the folder in which `state` is unpacked: in the same folder, so that it can take its place.
fn begin(state: &Path) -> Result<PathBuf, Failure> {
    let Some(name) = state.file_name() else {
        let place = state.display().to_string();
        let next = "Give the folder's own name: --state DIR";
        return Err(Failure::of(Code::Usage, &place, "it has no name", next));
    };
    let mut unfinished = OsString::from(name);
    unfinished.push(UNFINISHED);
    let beside = state.with_file_name(unfinished);
    if let Some(parent) = state.parent().filter(|path| *path != Path::new("")) {
        make_folder(parent).map_err(refused(parent))?;
    }
    match DirBuilder::new().mode(0o700).create(&beside) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let place = beside.display().to_string();
            let why = "a restore was interrupted here, or another one is running";
            let next = format!("When none is running: rm -r {place}, and restore again");
            Err(Failure::of(Code::Failed, &place, why, &next))
        }
        other => other.map(|()| beside.clone()).map_err(refused(&beside)),
    }
}

/// Unpacks a whole backup, durably.
fn unpack(archive: impl Read, into: &Path) -> io::Result<()> {
    let mut folders = BTreeSet::from([into.to_owned()]);
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        if !entry.header().entry_type().is_file() || !is_inside(&name) {
            let why = format!("{} has no place in a backup", name.display());
            return Err(io::Error::other(why));
        }
        let path = into.join(&name);
        if let Some(parent) = path.parent() {
            make_folder(parent)?;
            folders.insert(parent.to_owned());
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        if io::copy(&mut entry, &mut file)? != entry.size() {
            let why = format!("it ends within {}", name.display());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        file.sync_all()?;
    }
    let mark = fs::read(into.join("ledger").join(mark::NAME)).ok();
    if mark.as_deref().and_then(Mark::parse).is_none() {
        let why = "it is no whole backup: how far its ledger went is not in it";
        return Err(io::Error::other(why));
    }
    // The names of the files; those of the folders are durable already.
    folders
        .iter()
        .try_for_each(|folder| File::open(folder)?.sync_all())
}

/// Gives the folder its name.
fn take_place(beside: &Path, state: &Path) -> Result<(), Failure> {
    match fs::rename(beside, state) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let place = state.display().to_string();
            let why = "something is mounted there, which cannot be replaced by a folder";
            let next = "Name a folder in it, or one elsewhere, with --state";
            Err(Failure::of(Code::Failed, &place, why, next))
        }
        renamed => renamed.map_err(refused(state)),
    }
}

fn refused(path: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
    let place = path.display().to_string();
    move |error| Failure::of(Code::Failed, &place, &error, io_advice(&error))
}

/// Whether a name stays within the folder in which it is unpacked.
fn is_inside(name: &Path) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    name.components().all(plain) && name != PathBuf::new()
}

#[cfg(test)]
mod tests;
