//! What is made on disk is there after a loss of power: each file is synced, and each name in its folder,
//! before the program says that it is done.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{deployment::Deployment, needs, program::run_ok};

/// The calls that make names, take them away, and write them out.
const CALLS: &str =
    "trace=mkdir,mkdirat,openat,rename,renameat,renameat2,unlink,unlinkat,rmdir,fsync,fdatasync";

#[test]
fn what_is_founded_backed_up_and_restored_is_synced_with_every_name() {
    if needs::installed(&["strace"]) {
        synced().unwrap();
    }
}

fn synced() -> Result<()> {
    let world = Deployment::new()?;
    let shown = |name: &str| world.path(name).display().to_string();
    let [state, key, backup, again] =
        ["deep/state", "key", "backup.tar", "deeper/again"].map(shown);
    let commands = [
        format!("cardea-controller init --domain corp.example --unlock file:{key} --state {state}"),
        format!("cardeactl backup {backup} --state {state}"),
        format!("cardeactl restore {backup} --unlock file:{key} --state {again}"),
    ];
    for (number, line) in commands.iter().enumerate() {
        let mut words = line.split(' ');
        let program = words.next().context("no program")?;
        let program = world.program(None, program, words);
        let made = traced(&program, &world.path(&format!("trace-{number}")))?;
        ensure!(made.unsynced.is_empty(), "{line}: {:#?}", made.unsynced);
        let all = if line.contains("backup ") { 1 } else { 15 };
        ensure!(made.count >= all, "{line}: {} names", made.count);
    }
    Ok(())
}

/// What a program made, as its calls tell.
#[derive(Default)]
struct Made {
    /// How many names.
    count: usize,
    /// Files whose content, and paths whose name, was not synced since.
    unsynced: BTreeSet<(&'static str, PathBuf)>,
}

/// Runs a command to its end and looks at what it asked of the system.
fn traced(command: &Command, folder: &Path) -> Result<Made> {
    fs::create_dir(folder)?;
    let mut strace = Command::new("strace");
    strace
        .args(["-ff", "-ttt", "-y", "-s", "4096", "-e", "status=successful"])
        .args(["-e", CALLS, "-o"])
        .arg(folder.join("calls"))
        .arg(command.get_program())
        .args(command.get_args());
    run_ok(strace)?;
    let mut calls = Vec::new();
    for thread in fs::read_dir(folder)? {
        let said = fs::read_to_string(thread?.path())?;
        calls.extend(said.lines().map(str::to_owned));
    }
    // Each begins with its time.
    calls.sort();
    let mut made = Made::default();
    for call in &calls {
        let call = call.split_once(' ').map(|(_, call)| call);
        made.take(call.context("a line without a call")?)
            .with_context(|| format!("{call:?}"))?;
    }
    Ok(made)
}

impl Made {
    fn take(&mut self, call: &str) -> Result<()> {
        let (name, rest) = call.split_once('(').unwrap_or((call, ""));
        match name {
            "mkdir" | "mkdirat" => self.named(paths(rest)?.remove(0)),
            "openat" if rest.contains("O_EXCL") => {
                let path = paths(rest)?.remove(0);
                self.unsynced.insert(("content", path.clone()));
                self.named(path);
            }
            "rename" | "renameat" | "renameat2" => {
                let mut paths = paths(rest)?;
                let to = paths.pop().context("no new name")?;
                self.unsynced.remove(&("name", paths.remove(0)));
                self.named(to);
            }
            "unlink" | "unlinkat" | "rmdir" => {
                let path = paths(rest)?.remove(0);
                self.unsynced.remove(&("name", path.clone()));
                self.unsynced.remove(&("content", path));
            }
            "fsync" | "fdatasync" => {
                let synced = rest
                    .split_once('<')
                    .and_then(|(_, rest)| rest.split_once('>'));
                let synced = PathBuf::from(synced.context("what is synced?")?.0);
                self.unsynced.retain(|(what, path)| match *what {
                    "content" => *path != synced,
                    _ => path.parent() != Some(&synced),
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn named(&mut self, path: PathBuf) {
        // The index is made again wherever it is missing.
        if !path.components().any(|part| part.as_os_str() == "index") {
            self.count += 1;
            self.unsynced.insert(("name", path));
        }
    }
}

/// The paths among the arguments of a call, such as `5</a>, "b", 0600` or `"/a/b"`.
fn paths(arguments: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut folder = PathBuf::new();
    let mut rest = arguments;
    while let Some(at) = rest.find(['<', '"']) {
        let (is_folder, end) = match rest.get(at..=at) {
            Some("<") => (true, '>'),
            _ => (false, '"'),
        };
        let behind = rest.get(at + 1..).context("nothing follows")?;
        let (text, more) = behind.split_once(end).context("it does not end")?;
        rest = more;
        match is_folder {
            true => folder = PathBuf::from(text),
            false => paths.push(folder.join(text)),
        }
    }
    ensure!(!paths.is_empty(), "no path in {arguments}");
    Ok(paths)
}
