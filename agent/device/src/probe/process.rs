//! Which of the asked programs run.

use std::{collections::BTreeSet, path::Path};

use cardea_proto::posture::Value;

use super::{Observed, Probe, Subject};
use crate::system::{Missing, System};

pub(super) const PROBE: Probe = Probe {
    name: "process",
    facts: &["process.running"],
    read,
};

/// Most programs that are looked for.
const PROGRAMS_MAX: usize = 256;

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
        Ok(Vec::new())
    } else {
        running(&subject.system, &asked)
    };
    vec![Observed::of("process.running", running.map(Value::List))]
}

fn running(system: &System, asked: &[&str]) -> Result<Vec<String>, Missing> {
    let mut found: BTreeSet<&str> = BTreeSet::new();
    for pid in system.entries("/proc")? {
        if pid.bytes().all(|byte| byte.is_ascii_digit()) {
            let program = program(system, &pid);
            found.extend(asked.iter().copied().filter(|asked| program.is(asked)));
        }
    }
    Ok(found.into_iter().map(str::to_owned).collect())
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
            programs.iter().any(|asked| program.is(asked))
        })
        .map(|(pid, _)| pid)
        .collect()
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
mod tests {
    use cardea_proto::posture::Reading;

    use super::*;
    use crate::probe::testing::{Tree, found, found_by};

    #[test]
    fn programs_are_found_by_path_and_by_name() {
        let tree = Tree::new()
            .link("/proc/1/exe", "/usr/lib/systemd/systemd")
            .link("/proc/20/exe", "/usr/sbin/clamd (deleted)")
            .link("/proc/self/exe", "/usr/bin/falcon-sensor")
            .dir("/proc/21");
        check(&tree, &["clamd", "falcon-sensor"], &["clamd"]);
        check(&tree, &["/usr/sbin/clamd"], &["/usr/sbin/clamd"]);
        check(&tree, &["/tmp/clamd", "system"], &[]);
    }

    #[test]
    fn a_name_on_the_command_line_is_not_the_program_that_runs() {
        let tree = Tree::new()
            .link("/proc/1/exe", "/usr/bin/sleep")
            .file("/proc/1/cmdline", "/usr/sbin/clamd\0")
            .file("/proc/1/comm", "clamd\n");
        check(&tree, &["clamd", "/usr/sbin/clamd"], &[]);
    }

    #[test]
    fn without_a_question_there_is_an_empty_answer() {
        let facts = found(&PROBE, &Tree::new());
        assert_eq!(
            facts["process.running"],
            Reading::Value(Value::List(Vec::new()))
        );
    }

    #[test]
    fn where_the_path_may_not_be_read_a_process_is_taken_at_its_word() {
        let own = Program {
            path: Some("/usr/sbin/clamd".to_owned()),
            word: Some("clamd".to_owned()),
        };
        assert!(own.is("clamd") && own.is("/usr/sbin/clamd"));
        assert!(!own.is("/opt/clamd"));
    }

    fn check(tree: &Tree, asked: &[&str], expected: &[&str]) {
        let mut subject = tree.subject();
        subject.watched_processes = asked.iter().map(|name| (*name).to_owned()).collect();
        let expected = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(
            found_by(&PROBE, &subject)["process.running"],
            Reading::Value(Value::List(expected))
        );
    }
}
