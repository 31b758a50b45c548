//! A restore that is killed on its way, wherever that is.
#![expect(clippy::indexing_slicing, reason = "a header of tar is a block")]

use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    deployment::Deployment,
    program::{PATIENCE, Program, expect, now, run, run_ok},
};
use rustix::{
    fs::{FileType, Mode},
    process::Signal,
};

#[test]
fn a_restore_that_is_killed_leaves_no_ledger_and_the_next_one_says_what_to_do() {
    killed().unwrap();
}

fn killed() -> Result<()> {
    let world = Deployment::new()?;
    let [state, backup, again] = ["state", "backup.tar", "again"].map(|name| world.path(name));
    let init = ["init", "--domain", "corp.example", "--state"];
    let mut command = world.program(None, "cardea-controller", init);
    command.arg(&state);
    run_ok(command)?;
    let backed_up = world.program(None, "cardeactl", ["backup"]);
    run_ok(about(backed_up, &backup, &state))?;
    let bytes = fs::read(&backup)?;
    let files = files(&bytes)?;
    ensure!(files.len() > 8, "{files:?}");
    for (name, end) in &files {
        let given = bytes.get(..*end).context("the backup is shorter")?;
        let beside = kill_after(&world, given, name, &again)?;
        ensure!(!again.exists(), "{name}: there is a state");
        let mut command = world.program(None, "cardea-controller", ["run", "--state"]);
        command.arg(&again);
        expect(&run(command)?, 7, "cardea-controller init")?;
        let refused = run(restore(&world, &backup, &again))?;
        let next = format!("rm -r {}", beside.display());
        expect(&refused, 1, &next).with_context(|| name.clone())?;
        expect(&refused, 1, "interrupted")?;
        fs::remove_dir_all(beside)?;
    }
    expect(
        &run(restore(&world, &backup, &again))?,
        0,
        "The ledger holds",
    )
}

fn restore(world: &Deployment, backup: &Path, state: &Path) -> std::process::Command {
    about(world.program(None, "cardeactl", ["restore"]), backup, state)
}

fn about(mut command: std::process::Command, backup: &Path, state: &Path) -> std::process::Command {
    command.arg(backup).arg("--state").arg(state);
    command
}

/// The files in a backup, and where each ends.
fn files(backup: &[u8]) -> Result<Vec<(String, usize)>> {
    const BLOCK: usize = 512;
    let mut files = Vec::new();
    let mut at = 0;
    // Header: the name, at 124 the length in octal (POSIX ustar).
    while let Some(header) = backup.get(at..at + BLOCK).filter(|block| block[0] != 0) {
        let text = |range| String::from_utf8_lossy(&header[range]).into_owned();
        let name = text(0..100).trim_end_matches('\0').to_owned();
        let length = text(124..135);
        let length = usize::from_str_radix(length.trim_matches(['\0', ' ']), 8)?;
        at += BLOCK + length.next_multiple_of(BLOCK);
        files.push((name, at));
    }
    Ok(files)
}

/// Kills a restore that has been given so much of a backup and has unpacked the file of this name.
fn kill_after(world: &Deployment, given: &[u8], name: &str, state: &Path) -> Result<PathBuf> {
    let fifo = world.path("fifo");
    fs::remove_file(&fifo).ok();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )?;
    // Open for reading as well, so that it need not wait for the other end, which sees no end.
    let mut writer = fs::File::options().read(true).write(true).open(&fifo)?;
    let restoring = restore(world, &fifo, state);
    let mut program = Program::start("cardeactl restore", restoring)?;
    std::io::copy(&mut Cursor::new(given), &mut writer)?;
    writer.flush()?;
    let beside = state.with_extension("restoring");
    let deadline = now() + PATIENCE;
    while !beside.join(name).exists() {
        ensure!(program.is_alive()?, "{name}: {}", program.said());
        ensure!(now() < deadline, "{name} is not unpacked");
        std::thread::yield_now();
    }
    program.signal(Signal::KILL)?;
    program.wait()?;
    Ok(beside)
}
