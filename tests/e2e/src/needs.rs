//! What a test needs of the machine; without it the test is left out, and says so.

use std::{
    env,
    fs::OpenOptions,
    io::{Write as _, stderr},
    thread,
};

/// Whether this process is root's and these programs are installed.
#[must_use]
pub fn root_and(programs: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        leave_out("it needs root");
        return false;
    }
    installed(programs)
}

/// Whether all of these programs are installed.
#[must_use]
pub fn installed(programs: &[&str]) -> bool {
    let folders = env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|program| !env::split_paths(&folders).any(|folder| folder.join(program).is_file()))
        .collect();
    if !missing.is_empty() {
        leave_out(&format!("it needs {}", missing.join(", ")));
    }
    missing.is_empty()
}

/// Says what is not tested, and why: past the harness, which shows only what failing tests print, and
/// in the file that `tests/run` names, which tells it at the end.
pub fn leave_out(why: &str) {
    let thread = thread::current();
    let line = format!("left out: {}: {why}", thread.name().unwrap_or("a test"));
    drop(writeln!(stderr(), "{line}"));
    if let Some(list) = env::var_os("CARDEA_LEFT_OUT") {
        let list = OpenOptions::new().append(true).create(true).open(list);
        drop(list.and_then(|mut list| writeln!(list, "{line}")));
    }
}
