//! Where a crash campaign kills the process: before an operation of the disk, in the middle of a
//! write, or behind it. A release has nothing of this but with the feature
//! `failpoints`; a debug build always has it.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
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

static PASSED: AtomicU64 = AtomicU64::new(0);

/// Passes a point, or ends here as `kill -9` would end it.
pub(super) fn pass() {
    if is_last() {
        die();
    }
}

/// Passes a point in the middle of a write: the disk gets the first half of it.
pub(super) fn pass_write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    if is_last() {
        let (half, _) = bytes.split_at(bytes.len() / 2);
        file.write_all_at(half, offset)?;
        die();
    }
    Ok(())
}

fn is_last() -> bool {
    PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *LAST
}

fn die() -> ! {
    let _sent =
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}
