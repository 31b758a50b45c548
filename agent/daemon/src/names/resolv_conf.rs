//! `/etc/resolv.conf`, held as long as the agent runs.
//!
//! ```text
//! theirs ── journal what is there ──▶ ours ── somebody else writes ──▶ theirs: taken as what was there
//!   ▲                                  │
//!   └── undo, next start, dns restore ◀┘
//! ```
//!
//! Whoever writes it again and again is left alone for a while, and a person is told.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use cardea_host::{
    files::{Dir, StateError},
    resolv_conf::{self, Former, ResolvConf, Said},
};
use cardea_proto::admin::Warning;
use serde::{Deserialize, Serialize};

use super::warning;

/// Where it is written down what was there.
const JOURNAL_FILE: &str = "dns.json";

/// How often in [`CHANGES_TIME`] the file is taken back from whoever else writes it.
const CHANGES_MAX: usize = 5;
const CHANGES_TIME: Duration = Duration::from_secs(60);

/// Everybody reads it.
const MODE: u32 = 0o644;

#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    version: u32,
    path: PathBuf,
    former: Former,
}

/// The file, and what was there before.
#[derive(Debug)]
pub(super) struct Held {
    file: ResolvConf,
    own: Vec<IpAddr>,
    dir: Dir,
    /// What was there, and what we wrote instead; `None` while it is not ours.
    place: Option<(Former, String)>,
    servers: Vec<SocketAddr>,
    /// When others wrote it.
    changes: VecDeque<Instant>,
}

impl Held {
    pub(super) const fn new(file: ResolvConf, own: Vec<IpAddr>, dir: Dir) -> Self {
        Self {
            file,
            own,
            dir,
            place: None,
            servers: Vec::new(),
            changes: VecDeque::new(),
        }
    }

    /// Whom it named before.
    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Whether the file is ours, as far as was seen last.
    pub(super) const fn is_in_place(&self) -> bool {
        self.place.is_some()
    }

    /// Looks whether the file is as it should be, and makes it so; without a stub it is theirs.
    pub(super) fn tend(&mut self, now: Instant, has_stub: bool) -> Result<(), Warning> {
        if !has_stub {
            return self.undo().map(drop);
        }
        let found = self.file.look().map_err(|error| self.trouble(&error))?;
        let is_as_written = |text: &String| matches!(&found, Former::File { bytes, .. } if bytes == text.as_bytes());
        if let Some((former, text)) = &self.place
            && is_as_written(text)
        {
            // What a link leads to may name others by now.
            if let Former::Link(_) = former {
                let said = self
                    .file
                    .said(former)
                    .map_err(|error| self.trouble(&error))?;
                self.servers = said.servers_without(&self.own);
            }
            return Ok(());
        }
        if let Some((former, _)) = self.place.take() {
            tracing::info!("another program has changed the system's servers");
            self.changes.push_back(now);
            return self.settle(now, found, Some(former));
        }
        self.settle(now, found, None)
    }

    /// Makes the file ours where something else was `found`.
    fn settle(
        &mut self,
        now: Instant,
        found: Former,
        before: Option<Former>,
    ) -> Result<(), Warning> {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < CHANGES_TIME;
        self.changes.retain(is_recent);
        if self.changes.len() >= CHANGES_MAX {
            return Err(warning(
                "dns_fought",
                format!("another program keeps changing {}", self.file.path().display()),
                "Names of apps are not found meanwhile. Stop it, or tell its resolver of ours, with: --dns off".to_owned(),
            ));
        }
        // A file of ours that somebody edited, or that a process before left, is not what was there.
        let former = match (before, &found) {
            (Some(before), found) if resolv_conf::is_ours(found) => before,
            (None, Former::File { bytes, mode }) if resolv_conf::is_ours(&found) => Former::File {
                bytes: resolv_conf::was(bytes),
                mode: *mode,
            },
            (Some(_) | None, _) => found,
        };
        self.take(former).map_err(|error| match error {
            TakeError::Journal(error) => warning(
                "dns_journal",
                format!(
                    "what the system asks cannot be written down, so it is not changed: {error}"
                ),
                "Make room in the state directory".to_owned(),
            ),
            TakeError::File(error) => self.trouble(&error),
        })
    }

    /// Writes down what was there, then takes its place.
    fn take(&mut self, former: Former) -> Result<(), TakeError> {
        let said: Said = self.file.said(&former).map_err(TakeError::File)?;
        let own: Vec<IpAddr> = self.own.clone();
        let bytes = match &former {
            Former::File { bytes, .. } => &bytes[..],
            Former::Missing | Former::Link(_) => &[],
        };
        let text = resolv_conf::render(&own, bytes, &said);
        let journal = Journal {
            version: 1,
            path: self.file.path().to_owned(),
            former: former.clone(),
        };
        let line = serde_json::to_vec(&journal).map_err(|error| TakeError::File(error.into()))?;
        self.dir
            .write_atomic(JOURNAL_FILE, &line)
            .map_err(TakeError::Journal)?;
        self.file
            .write(text.as_bytes(), MODE)
            .map_err(TakeError::File)?;
        self.servers = said.servers_without(&self.own);
        self.place = Some((former, text));
        Ok(())
    }

    /// Puts back what was there; says whether there was anything to put back.
    pub(super) fn undo(&mut self) -> Result<bool, Warning> {
        if self.place.is_none() && !self.dir.contains(JOURNAL_FILE) {
            return Ok(false);
        }
        let undone = restore(&self.dir).map_err(|error| {
            warning(
                "dns_restore",
                error.to_string(),
                "Put it back by hand: what was there follows #was in each line".to_owned(),
            )
        })?;
        self.place = None;
        self.servers.clear();
        Ok(undone)
    }

    fn trouble(&self, error: &std::io::Error) -> Warning {
        let path = self.file.path().display();
        let fix = if self.file.is_immutable() {
            format!("It is immutable: chattr -i {path}, or run with --dns off")
        } else if error.kind() == ErrorKind::ReadOnlyFilesystem {
            "Its filesystem is read-only here: let the agent write it, or run with --dns off"
                .to_owned()
        } else {
            "It is tried again; or run with --dns off".to_owned()
        };
        let title = format!("{path} cannot be changed: {error}");
        warning("dns_file", title, fix)
    }
}

enum TakeError {
    Journal(StateError),
    File(std::io::Error),
}

/// Why what was there could not be put back. The environment is at fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// The journal cannot be read or removed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal is not what we wrote.
    #[error("{path}: is damaged ({why})")]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file cannot be written.
    #[error("{path} cannot be put back: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// Puts back what an earlier process left changed, if it did; says so.
pub(crate) fn recover(dir: &Dir) {
    match restore(dir) {
        Ok(true) => {
            tracing::info!("the system's servers are as they were before a process that was killed")
        }
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "the system still asks a process that is gone"),
    }
}

/// Whether the system's file is changed, as far as the journal says.
pub(crate) fn is_changed(dir: &Dir) -> bool {
    dir.contains(JOURNAL_FILE)
}

/// Puts back what the journal says was there; says whether anything was changed.
///
/// A file that is not ours any more is what somebody else wants, and stays.
pub(crate) fn restore(dir: &Dir) -> Result<bool, RestoreError> {
    let Some(bytes) = dir.read(JOURNAL_FILE)? else {
        return Ok(false);
    };
    let journal: Journal =
        serde_json::from_slice(&bytes).map_err(|error| RestoreError::Damaged {
            path: dir.join(JOURNAL_FILE),
            why: error.to_string(),
        })?;
    let file = ResolvConf::at(&journal.path);
    let failed = |error| RestoreError::File {
        path: journal.path.clone(),
        error,
    };
    let is_ours = resolv_conf::is_ours(&file.look().map_err(failed)?);
    if is_ours {
        file.restore(&journal.former).map_err(failed)?;
    }
    dir.remove(JOURNAL_FILE)?;
    Ok(is_ours)
}

#[cfg(test)]
mod tests;
