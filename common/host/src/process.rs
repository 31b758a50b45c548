//! What a long-running program asks of the system at its start, and how it is told to end.

use std::io;

use rustix::process::{Resource, Rlimit};
use tokio::signal::unix::{SignalKind, signal};

/// Makes this process fit to serve: as many descriptors as it may have, no core files, private files.
pub fn prepare() {
    let files = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the number of open files stays as it is");
    }
    keep_no_core();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// How many descriptors this process may have.
#[must_use]
pub fn descriptors_max() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// Has the system write no core file of this process, which would hold keys.
pub fn keep_no_core() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Core, none) {
        tracing::debug!(%error, "core files cannot be switched off");
    }
}

/// The user that this process acts as.
#[must_use]
pub fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The number of a user of this machine, wherever users come from (files, LDAP, …); `None` when
/// there is none of that name.
///
/// # Errors
/// As the system says, when it cannot tell.
pub fn find_user(name: &str) -> io::Result<Option<u32>> {
    let found = nix::unistd::User::from_name(name)?;
    Ok(found.map(|user| user.uid.as_raw()))
}

/// What this machine calls itself; empty when it says nothing that can be read.
#[must_use]
pub fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// Waits until somebody asks this process to end, with Ctrl-C or `SIGTERM`.
///
/// # Errors
/// When the signals cannot be listened to.
pub async fn asked_to_end() -> io::Result<()> {
    listen_for_end()?.await;
    Ok(())
}

/// What comes when somebody asks this process to end; who was told that it is ready may do so at once,
/// so it is listened for when this returns. Must be called within a tokio runtime.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn listen_for_end() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
