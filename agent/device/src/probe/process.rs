//! Which of the asked programs run, and how well we know it.
//!
//! Anybody may give a file any name, and root of a user namespace may mount it at any path that it
//! sees. So a name or a path alone is a process's own word. It is the system's when the process
//! lives in our user namespace, and what it executes is the very file that this machine has at that path, which
//! only root could have put there. Who asks for a program with a digest, `NAME sha256:HEX`, hears of it
//! only when what it executes has that. That the program does its work is not claimed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use cardea_proto::posture::{Grade, Value};

use super::{Observed, Probe, Subject};
use crate::system::{Entry, Missing, System};

pub(super) const PROBE: Probe = Probe {
    name: "process",
    facts: &["process.running"],
    read,
};

/// Most programs that are looked for.
const PROGRAMS_MAX: usize = 256;

/// Largest executable of which a digest is made, in bytes: the largest agents have a tenth of it.
const EXECUTABLE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What stands between a program and the digest that it must have.
const SHA256: &str = " sha256:";

/// What the kernel appends to the path of a program whose file was replaced while it runs.
const REPLACED: &str = " (deleted)";

fn read(subject: &Subject) -> Vec<Observed> {
    let asked: Vec<&str> = subject
        .watched_processes
        .iter()
        .map(String::as_str)
        .take(PROGRAMS_MAX)
        .collect();
    let running = if asked.is_empty() {
        Ok(BTreeMap::new())
    } else {
        running(&subject.system, &asked)
    };
    // One grade for the whole list: that of the program we know least well.
    let grade = running
        .as_ref()
        .ok()
        .and_then(|found| found.values().min())
        .copied()
        .unwrap_or(Grade::Os);
    let names = running.map(|found| found.into_keys().map(str::to_owned).collect());
    vec![Observed::of("process.running", names.map(Value::List)).at_most(grade)]
}

/// Those of the asked programs that run, each with the grade of the best evidence for it.
fn running<'a>(system: &System, asked: &[&'a str]) -> Result<BTreeMap<&'a str, Grade>, Missing> {
    let ours = users_of(system, "self");
    let mut found: BTreeMap<&str, Grade> = BTreeMap::new();
    for pid in system.entries("/proc")? {
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let program = program(system, &pid);
        let named = named(system, &pid, &program, asked);
        if named.is_empty() {
            continue;
        }
        let sighting = Sighting::of(system, &pid, &program);
        let grade = match (&ours, &sighting) {
            (Ok(ours), Ok(sighting)) => sighting.grade(ours),
            (Ok(_) | Err(_), Ok(_) | Err(_)) => Grade::Own,
        };
        for name in named {
            let best = found.entry(name).or_insert(grade);
            *best = grade.max(*best);
        }
    }
    Ok(found)
}

/// Those of the asked programs that this process is. A digest is made once, and only when it is asked for.
fn named<'a>(system: &System, pid: &str, program: &Program, asked: &[&'a str]) -> Vec<&'a str> {
    let mut digest = None;
    let mut has = |wanted: &str| {
        let digest = digest.get_or_insert_with(|| {
            let executes = Path::new("/proc").join(pid).join("exe");
            system.digest(executes, EXECUTABLE_BYTES_MAX).ok()
        });
        digest.is_some_and(|digest| format!("{digest:?}").eq_ignore_ascii_case(wanted))
    };
    let is_asked = |text: &&str| {
        let (name, wanted) = split(text);
        program.is(name) && wanted.is_none_or(&mut has)
    };
    asked.iter().copied().filter(is_asked).collect()
}

/// A program as it is asked for, and the digest that it must have.
fn split(asked: &str) -> (&str, Option<&str>) {
    match asked.split_once(SHA256) {
        Some((name, digest)) => (name, Some(digest)),
        None => (asked, None),
    }
}

/// The processes that run one of `programs`.
pub(super) fn pids(system: &System, programs: &[String]) -> Vec<u32> {
    system
        .entries("/proc")
        .unwrap_or_default()
        .into_iter()
        .filter_map(|name| Some((name.parse::<u32>().ok()?, name)))
        .filter(|(_, name)| {
            let program = program(system, name);
            programs.iter().any(|asked| program.is(split(asked).0))
        })
        .map(|(pid, _)| pid)
        .collect()
}

/// The user namespace in which a process lives: what its root may do.
///
/// Its mounts may be its own, as a supervisor arranges for many a service; which file it executes is
/// asked for apart. Source: namespaces(7): two processes are in one namespace when these links read
/// the same.
fn users_of(system: &System, pid: &str) -> Result<PathBuf, Missing> {
    system.link(Path::new("/proc").join(pid).join("ns/user"))
}

/// What we see of a process that bears the right name.
#[derive(Clone, Debug)]
struct Sighting {
    /// Its user namespace.
    users: PathBuf,
    /// What it executes.
    executes: Entry,
    /// The file that this machine has at the path of that.
    file: Entry,
    /// Every directory above the file, up to the root.
    above: Vec<Entry>,
}

impl Sighting {
    fn of(system: &System, pid: &str, program: &Program) -> Result<Self, Missing> {
        let path = program
            .path
            .as_deref()
            .map(Path::new)
            .ok_or(Missing::Absent)?;
        Ok(Self {
            users: users_of(system, pid)?,
            executes: system.target(Path::new("/proc").join(pid).join("exe"))?,
            file: system.entry(path)?,
            above: path
                .ancestors()
                .skip(1)
                .map(|dir| system.entry(dir))
                .collect::<Result<Vec<Entry>, Missing>>()?,
        })
    }

    /// The system's word when only root could have made it look like this, else the process's own.
    fn grade(&self, ours: &Path) -> Grade {
        let is_the_file = self.executes.id == self.file.id;
        let is_roots = self.file.is_roots() && self.above.iter().all(|dir| dir.is_roots());
        if self.users == ours && is_the_file && is_roots {
            Grade::Os
        } else {
            Grade::Own
        }
    }
}

/// What a process runs, as well as we may know it.
struct Program {
    path: Option<String>,
    /// Its own word, 15 bytes at most; used only where the path may not be read.
    word: Option<String>,
}

fn program(system: &System, pid: &str) -> Program {
    let dir = Path::new("/proc").join(pid);
    match system.link(dir.join("exe")) {
        Ok(path) => {
            let path = path.to_string_lossy();
            Program {
                path: Some(path.strip_suffix(REPLACED).unwrap_or(&path).to_owned()),
                word: None,
            }
        }
        // Another user's process: root would know its path, and our grade says that we are not root.
        Err(Missing::Denied) => {
            let arguments = system.bytes(dir.join("cmdline")).unwrap_or_default();
            let first = arguments
                .split(|byte| *byte == 0)
                .next()
                .unwrap_or_default();
            Program {
                path: String::from_utf8(first.to_vec())
                    .ok()
                    .filter(|path| path.starts_with('/')),
                word: system
                    .text(dir.join("comm"))
                    .ok()
                    .map(|text| text.trim_end().to_owned()),
            }
        }
        // It ended meanwhile, or is the kernel's own.
        Err(Missing::Absent | Missing::Error(_)) => Program {
            path: None,
            word: None,
        },
    }
}

impl Program {
    /// Whether this is what `asked` names: an absolute path, or the last part of one.
    fn is(&self, asked: &str) -> bool {
        if asked.starts_with('/') {
            return self.path.as_deref() == Some(asked);
        }
        let named = self
            .path
            .as_deref()
            .and_then(|path| path.rsplit('/').next())
            .is_some_and(|name| name == asked);
        named || self.word.as_deref().is_some_and(|word| word == asked)
    }
}

#[cfg(test)]
mod tests;
