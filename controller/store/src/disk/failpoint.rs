//! Where a crash campaign kills the process: before an operation of the disk, in the middle of a
//! write, or behind it; and how a test breaks the disk under a running one. A release has nothing of
//! this but with the feature `failpoints`; a debug build always has it.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Names the moment: the number of the point at which the process ends, from 1.
const VARIABLE: &str = "CARDEA_FAILPOINT";

/// The point at which the process ends; 0 for none.
#[expect(
    clippy::disallowed_methods,
    reason = "a campaign tells the process it will kill by its environment"
)]
static LAST: LazyLock<u64> = LazyLock::new(|| {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    text.parse().unwrap_or(0)
});

/// Names a file: for as long as it is there, the operation that it holds the name of fails.
const FAULT: &str = "CARDEA_DISK_FAULT";

#[expect(
    clippy::disallowed_methods,
    reason = "a test tells the process whose disk it will break by its environment"
)]
static BROKEN: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| std::env::var(FAULT).ok().map(Into::into));

static PASSED: AtomicU64 = AtomicU64::new(0);

/// Passes a point, or ends here as `kill -9` would end it.
pub(super) fn pass() {
    if is_last() {
        die();
    }
}

/// Passes a point in the middle of a write: the disk gets the first half of it.
pub(super) fn pass_write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let half = |file: &File| {
        let (half, _) = bytes.split_at(bytes.len() / 2);
        file.write_all_at(half, offset)
    };
    if is_last() {
        half(file)?;
        die();
    }
    if is_broken("write") {
        half(file)?;
        return Err(rustix::io::Errno::IO.into());
    }
    Ok(())
}

/// Passes a point before a sync, which fails on a broken disk.
pub(super) fn pass_sync() -> io::Result<()> {
    pass();
    match is_broken("sync") {
        true => Err(rustix::io::Errno::IO.into()),
        false => Ok(()),
    }
}

fn is_broken(operation: &str) -> bool {
    let fault = BROKEN.as_ref();
    let fault = fault.and_then(|path| std::fs::read_to_string(path).ok());
    fault.is_some_and(|fault| fault == operation)
}

fn is_last() -> bool {
    PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *LAST
}

fn die() -> ! {
    let _sent =
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}
