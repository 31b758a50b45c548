//! Which of the asked programs run, and how well we know it.
//!
//! Anybody may give a file any name, and root of a user namespace may mount it at any path that it
//! sees. So a name or a path alone is a process's own word. It is the system's when the process
//! lives where we do, and what it executes is the very file that this machine has at that path, which
//! only root could have put there. That the program does its work is not claimed.

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
    let ours = Namespaces::of(system, "self");
    let mut found: BTreeMap<&str, Grade> = BTreeMap::new();
    for pid in system.entries("/proc")? {
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let program = program(system, &pid);
        let named: Vec<&str> = asked
            .iter()
            .copied()
            .filter(|asked| program.is(asked))
            .collect();
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

/// Where a process lives: what paths mean to it, and what its root may do.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Namespaces {
    mounts: PathBuf,
    users: PathBuf,
}

impl Namespaces {
    /// Source: namespaces(7): two processes are in one namespace when these links read the same.
    fn of(system: &System, pid: &str) -> Result<Self, Missing> {
        let dir = Path::new("/proc").join(pid).join("ns");
        Ok(Self {
            mounts: system.link(dir.join("mnt"))?,
            users: system.link(dir.join("user"))?,
        })
    }
}

/// What we see of a process that bears the right name.
#[derive(Clone, Debug)]
struct Sighting {
    namespaces: Namespaces,
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
            namespaces: Namespaces::of(system, pid)?,
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
    fn grade(&self, ours: &Namespaces) -> Grade {
        let is_the_file = self.executes.id == self.file.id;
        let is_roots = self.file.is_roots() && self.above.iter().all(|dir| dir.is_roots());
        if self.namespaces == *ours && is_the_file && is_roots {
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
mod tests {
    use std::process::{Command, Stdio};

    use cardea_host::clock::Clock;
    use cardea_proto::posture::Reading;

    use super::*;
    use crate::probe::testing::{Tree, best_grade, found, found_by};

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
    fn only_what_root_alone_could_arrange_is_the_systems_word() {
        let ours = namespaces("mnt:[1]", "user:[2]");
        let entry = |inode, mode| Entry {
            id: (8, inode),
            owner: 0,
            mode,
        };
        let genuine = Sighting {
            namespaces: ours.clone(),
            executes: entry(7, 0o100_755),
            file: entry(7, 0o100_755),
            above: vec![entry(3, 0o40_755), entry(2, 0o40_755)],
        };
        assert_eq!(genuine.grade(&ours), Grade::Os);
        type Forgery = (&'static str, fn(&mut Sighting));
        let forgeries: &[Forgery] = &[
            ("other mounts", |seen| {
                seen.namespaces.mounts = "mnt:[9]".into()
            }),
            ("other users", |seen| {
                seen.namespaces.users = "user:[9]".into()
            }),
            ("another file", |seen| seen.executes.id.1 = 8),
            ("another disk", |seen| seen.executes.id.0 = 9),
            ("somebody's file", |seen| seen.file.owner = 1000),
            ("the group's file", |seen| seen.file.mode = 0o100_775),
            ("anybody's file", |seen| seen.file.mode = 0o100_757),
            ("a link", |seen| seen.file.mode = 0o120_755),
            ("somebody's directory", |seen| seen.above[1].owner = 1000),
            ("the group's directory", |seen| {
                seen.above[0].mode = 0o40_775
            }),
            ("anybody's directory", |seen| seen.above[0].mode = 0o41_777),
            ("a linked directory", |seen| seen.above[0].mode = 0o120_755),
        ];
        for (what, forge) in forgeries {
            let mut seen = genuine.clone();
            forge(&mut seen);
            assert_eq!(seen.grade(&ours), Grade::Own, "{what}");
        }
    }

    #[test]
    fn a_copy_under_the_right_name_runs_by_its_own_word() {
        let place = tempfile::tempdir().unwrap();
        let copy = place.path().join("cardea-test-daemon");
        // By another process: a file that we wrote ourselves may still be open in a fork of ours.
        let copied = Command::new("/bin/cp")
            .arg("/bin/sleep")
            .arg(&copy)
            .status();
        assert!(copied.unwrap().success());
        let running = Running::start(&copy);
        let subject = on_this_machine("cardea-test-daemon");
        assert_eq!(
            found_by(&PROBE, &subject)["process.running"],
            Reading::Value(Value::List(vec!["cardea-test-daemon".to_owned()]))
        );
        assert_eq!(best_grade(&PROBE, &subject, "process.running"), Grade::Own);
        drop(running);
    }

    #[test]
    fn a_program_of_this_machine_runs_by_the_systems_word() {
        let running = Running::start(Path::new("/bin/sleep"));
        let path = std::fs::read_link(format!("/proc/{}/exe", running.0.id())).unwrap();
        let subject = on_this_machine(path.to_str().unwrap());
        // Where the tests run in a user namespace, root's files may belong to nobody.
        let expected = match subject.system.entry(&path).unwrap().owner {
            0 => Grade::Os,
            _ => Grade::Own,
        };
        assert_eq!(best_grade(&PROBE, &subject, "process.running"), expected);
        drop(running);
    }

    #[test]
    fn one_program_that_is_known_badly_lowers_the_list() {
        let tree = Tree::new().link("/proc/1/exe", "/usr/sbin/clamd");
        let mut subject = tree.subject();
        assert_eq!(best_grade(&PROBE, &subject, "process.running"), Grade::Os);
        subject.watched_processes = vec!["clamd".to_owned(), "auditd".to_owned()];
        assert_eq!(best_grade(&PROBE, &subject, "process.running"), Grade::Own);
        subject.watched_processes = vec!["auditd".to_owned()];
        assert_eq!(best_grade(&PROBE, &subject, "process.running"), Grade::Os);
    }

    #[test]
    fn where_the_path_may_not_be_read_a_process_is_taken_at_its_word() {
        use std::os::unix::process::CommandExt;

        const NOBODY: u32 = 65_534;
        if cardea_host::process::effective_user() == 0 {
            // Root may read everything: this test again, as somebody who may not.
            let again = Command::new("/proc/self/exe")
                .args(["--exact", "probe::process::tests::where_the_path_may_not_be_read_a_process_is_taken_at_its_word"])
                .uid(NOBODY)
                .gid(NOBODY)
                .stdout(Stdio::null())
                .status();
            assert!(again.unwrap().success());
            return;
        }
        let system = System::new("/".into(), Clock::system());
        let others = system.entries("/proc").unwrap().into_iter().find(|pid| {
            system.link(format!("/proc/{pid}/exe")) == Err(Missing::Denied)
                && system
                    .bytes(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.starts_with(b"/"))
        });
        // A container with one user hides nothing from it.
        let Some(pid) = others else { return };
        let program = program(&system, &pid);
        let word = system.text(format!("/proc/{pid}/comm")).unwrap();
        assert!(program.is(word.trim_end()));
        assert!(program.path.as_deref().is_some_and(|path| program.is(path)));
        assert!(!program.is("/opt/no-such-program"));
        assert!(Sighting::of(&system, &pid, &program).is_err());
    }

    struct Running(std::process::Child);

    impl Running {
        fn start(program: &Path) -> Self {
            Self(Command::new(program).arg("60").spawn().unwrap())
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn namespaces(mounts: &str, users: &str) -> Namespaces {
        Namespaces {
            mounts: mounts.into(),
            users: users.into(),
        }
    }

    fn on_this_machine(program: &str) -> Subject {
        Subject {
            system: System::new("/".into(), Clock::system()),
            state_dir: "/tmp".into(),
            watched_processes: vec![program.to_owned()],
        }
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
