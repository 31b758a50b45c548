//! The ledger for those who collect logs: all of it, and what comes.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use cardea_host::exit::{Code, Failure, io_advice};
use cardea_proto::ledger::Entry;

use super::{Session, audit};
use crate::{
    args::{Export, ExportFormat},
    view::export::line,
};

/// Entries that are asked for at a time.
const PAGE: u32 = 1_000;

/// Writes entries until there are no more, or on.
pub(super) fn run(what: &Export, session: &mut Session<'_>) -> Result<(), Failure> {
    let mut file = what.out.as_deref().map(create).transpose()?;
    let mut next = what.from;
    loop {
        let entries = audit::query(next, PAGE, session)?;
        let Some(last) = entries.last() else {
            break;
        };
        next = last.revision.next();
        write(&entries, what.format, &mut file, session)?;
        if session.console.is_closed() {
            return Ok(());
        }
    }
    if !what.follow {
        return finish(file);
    }
    let (format, console) = (what.format, &mut *session.console);
    session.connection.follow(next, |entry| {
        let text = text(std::slice::from_ref(&entry), format)?;
        match &mut file {
            Some(file) => put(file, &text)?,
            None => console.data(&text)?,
        }
        Ok(!console.is_closed())
    })
}

fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    let opened = options.open(path).map(BufWriter::new);
    opened.map_err(|error| {
        Failure::of(
            Code::Failed,
            &path.display().to_string(),
            &error,
            io_advice(&error),
        )
    })
}

fn write(
    entries: &[Entry],
    format: ExportFormat,
    file: &mut Option<BufWriter<File>>,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let text = text(entries, format)?;
    match file {
        Some(file) => put(file, &text),
        None => session.console.data(&text),
    }
}

/// A line for each entry.
fn text(entries: &[Entry], format: ExportFormat) -> Result<String, Failure> {
    let mut text = String::new();
    for entry in entries {
        let line = line(entry, format);
        let line = line.map_err(|error| Failure::of(Code::Failed, "export", error, ""))?;
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

/// Written out at once: whoever follows a file reads what is there.
fn put(file: &mut BufWriter<File>, text: &str) -> Result<(), Failure> {
    let written = file.write_all(text.as_bytes()).and_then(|()| file.flush());
    written.map_err(|error| Failure::of(Code::Failed, "--out", &error, io_advice(&error)))
}

fn finish(file: Option<BufWriter<File>>) -> Result<(), Failure> {
    let Some(file) = file else {
        return Ok(());
    };
    let synced = file
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all());
    synced.map_err(|error| Failure::of(Code::Failed, "--out", &error, io_advice(&error)))
}
