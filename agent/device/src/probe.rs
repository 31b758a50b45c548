//! The probes: each reads a few facts that come from the same place.

use std::path::PathBuf;

use cardea_proto::posture::{Grade, Reading, Value};

use crate::system::{Missing, System, reading};

mod boot;
mod desktop;
mod disk;
mod firewall;
mod os;
mod patch;
mod process;

/// What the probes look at.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) system: System,
    pub(crate) state_dir: PathBuf,
    pub(crate) watched_processes: Vec<String>,
}

/// One fact as a probe found it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) name: &'static str,
    pub(crate) reading: Reading,
    /// The best that this evidence can be, whoever reads it.
    pub(crate) at_most: Grade,
}

/// Something that reads facts and may take its time.
#[derive(Debug)]
pub(crate) struct Probe {
    /// For logs.
    pub(crate) name: &'static str,
    /// All facts that it reports, each time.
    pub(crate) facts: &'static [&'static str],
    /// Reads them.
    pub(crate) read: fn(&Subject) -> Vec<Observed>,
}

/// All of them.
pub(crate) const PROBES: &[Probe] = &[
    os::PROBE,
    patch::PROBE,
    disk::PROBE,
    firewall::PROBE,
    boot::PROBE,
    desktop::PROBE,
    process::PROBE,
];

/// Processes that run one of `programs`.
pub(crate) fn pids(system: &System, programs: &[String]) -> Vec<u32> {
    process::pids(system, programs)
}

/// Homes of the people before this machine's screens.
pub(crate) fn homes(system: &System) -> Vec<PathBuf> {
    desktop::homes(system)
}

impl Observed {
    fn of(name: &'static str, result: Result<Value, Missing>) -> Self {
        Self {
            name,
            reading: reading(result),
            at_most: Grade::Os,
        }
    }

    /// The same, from a source that is no better than `grade`.
    fn at_most(self, grade: Grade) -> Self {
        Self {
            at_most: self.at_most.min(grade),
            ..self
        }
    }
}

/// A section of an INI file: `key=value` lines under `[section]`, comments left out.
pub(crate) fn ini_values(text: &str, wanted: impl Fn(&str) -> bool) -> Vec<(&str, &str)> {
    let mut inside = wanted("");
    let mut values = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            inside = wanted(section.trim());
        } else if inside && let Some((key, value)) = line.split_once('=') {
            values.push((key.trim(), value.trim()));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_fact_belongs_to_one_probe() {
        let all: Vec<&str> = PROBES
            .iter()
            .flat_map(|probe| probe.facts)
            .copied()
            .collect();
        let distinct: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn an_ini_file_is_read_by_section() {
        let text = "a=0\n# c=9\n[one]\na = 1\n[two]\n;a=3\na=2\n";
        assert_eq!(ini_values(text, |section| section == "two"), [("a", "2")]);
        assert_eq!(ini_values(text, str::is_empty), [("a", "0")]);
    }
}

/// Trees that stand for machines.
#[cfg(test)]
pub(crate) mod testing {
    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt};

    use cardea_host::clock::Clock;

    use super::*;

    /// A file system with only what a test puts there.
    pub(crate) struct Tree {
        dir: tempfile::TempDir,
    }

    impl Tree {
        pub(crate) fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
            }
        }

        pub(crate) fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join(path.trim_start_matches('/'))
        }

        pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
            let at = self.path(path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, content).unwrap();
            self
        }

        pub(crate) fn dir(self, path: &str) -> Self {
            std::fs::create_dir_all(self.path(path)).unwrap();
            self
        }

        pub(crate) fn link(self, path: &str, target: &str) -> Self {
            let at = self.path(path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, at).unwrap();
            self
        }

        /// A program that says `stdout` and ends with `status`, complaining when that is not 0.
        pub(crate) fn tool(self, path: &str, stdout: &str, status: u8, stderr: &str) -> Self {
            let script = format!(
                "#!/bin/sh\ncat <<'END'\n{stdout}\nEND\necho '{stderr}' >&2\nexit {status}\n"
            );
            let tree = self.file(path, script);
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(tree.path(path), mode).unwrap();
            tree
        }

        pub(crate) fn subject(&self) -> Subject {
            Subject {
                system: System::new(self.dir.path().to_owned(), Clock::system()),
                state_dir: "/var/lib/cardea/cardea".into(),
                watched_processes: Vec::new(),
            }
        }
    }

    /// What a probe finds in a tree: exactly the facts that it announces.
    pub(crate) fn found(probe: &Probe, tree: &Tree) -> BTreeMap<&'static str, Reading> {
        found_by(probe, &tree.subject())
    }

    pub(crate) fn found_by(probe: &Probe, subject: &Subject) -> BTreeMap<&'static str, Reading> {
        let facts: BTreeMap<_, _> = (probe.read)(subject)
            .into_iter()
            .map(|observed| (observed.name, observed.reading))
            .collect();
        let announced: Vec<&str> = {
            let mut names = probe.facts.to_vec();
            names.sort_unstable();
            names
        };
        assert_eq!(facts.keys().copied().collect::<Vec<_>>(), announced);
        facts
    }

    /// The best grade that a fact can have.
    pub(crate) fn best_grade(probe: &Probe, subject: &Subject, fact: &str) -> Grade {
        let found = (probe.read)(subject);
        found
            .iter()
            .find(|found| found.name == fact)
            .unwrap()
            .at_most
    }
}
