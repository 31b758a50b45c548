//! Posture: every fact about this device, read by probes that cannot hold the agent up.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use cardea_host::clock::Clock;
pub use cardea_proto::posture::Collected;
use cardea_proto::posture::{FACT_LIST_MAX, FACT_TEXT_BYTES_MAX, FactName, Grade, Reading, Value};

use crate::{
    facts_file::FactsFile,
    probe::{Observed, PROBES, Probe, Subject},
    system::System,
};

/// How long one probe may take before its facts are reported as errors.
///
/// A tool that reads a large firewall takes well under a second; a network home that is gone takes for ever.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest reason why a fact could not be read, in characters: a line.
const ERROR_CHARACTERS_MAX: usize = 200;

/// What to look at.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agent's state directory: `disk.encrypted` is about it too.
    pub state_dir: PathBuf,
    /// A flat JSON object whose facts take the place of those that are read, graded `simulated`.
    pub facts_from: Option<PathBuf>,
    /// Programs, by name or absolute path, whose running `process.running` reports.
    pub watched_processes: Vec<String>,
    /// Root of the file system that is looked at: `/`, but for tests.
    pub root: PathBuf,
    /// How long one probe may take.
    pub probe_timeout: Duration,
}

impl Settings {
    /// Looks at this machine.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            facts_from: None,
            watched_processes: Vec::new(),
            root: PathBuf::from("/"),
            probe_timeout: PROBE_TIMEOUT,
        }
    }
}

/// Reads facts. Blocks for as long as the slowest probe takes, and never longer than its timeout.
#[derive(Debug)]
pub struct Posture {
    system: System,
    state_dir: PathBuf,
    watched_processes: Vec<String>,
    facts_from: Option<FactsFile>,
    probe_timeout: Duration,
    grade: Grade,
    /// Probes that did not answer in time: they are asked again when they have.
    late: BTreeMap<usize, mpsc::Receiver<Vec<Observed>>>,
}

impl Posture {
    /// A reader of facts with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let system = System::new(settings.root, Clock::system());
        let grade = grade(&system);
        Self {
            grade,
            system,
            state_dir: settings.state_dir,
            watched_processes: settings.watched_processes,
            facts_from: settings.facts_from.map(FactsFile::new),
            probe_timeout: settings.probe_timeout,
            late: BTreeMap::new(),
        }
    }

    /// Replaces the programs that `process.running` is about, because a policy asks for others.
    pub fn watch_processes(&mut self, programs: Vec<String>) {
        self.watched_processes = programs;
    }

    /// Reads every fact, one of each name, in order of their names.
    pub fn collect(&mut self) -> Vec<Collected> {
        let started = self.system.clock().now().instant;
        let mut facts: BTreeMap<FactName, Collected> = BTreeMap::new();
        let (answered, missed) = self.ask(started);
        for observed in answered {
            // The time before the reading, so that no fact looks younger than it is.
            facts.insert(observed.name.to_owned(), self.collected(observed, started));
        }
        for probe in missed {
            for name in probe.facts {
                let observed = Observed {
                    name,
                    reading: Reading::Error("reading it took too long".to_owned()),
                    at_most: self.grade,
                };
                facts.insert((*name).to_owned(), self.collected(observed, started));
            }
        }
        if let Some(file) = &self.facts_from {
            let names = facts.keys().cloned().collect();
            facts.extend(file.read(names, started));
        }
        facts
            .into_values()
            .map(|mut fact| {
                fact.reading = bounded(fact.reading);
                fact
            })
            .collect()
    }

    fn collected(&self, observed: Observed, at: Instant) -> Collected {
        Collected {
            name: observed.name.to_owned(),
            reading: observed.reading,
            grade: self.grade.min(observed.at_most),
            at,
        }
    }

    /// Runs all probes side by side; gives what they found, and those that did not answer in time.
    fn ask(&mut self, started: Instant) -> (Vec<Observed>, Vec<&'static Probe>) {
        let subject = Arc::new(Subject {
            system: self.system.clone(),
            state_dir: self.state_dir.clone(),
            watched_processes: self.watched_processes.clone(),
        });
        let mut waiting: Vec<(usize, &'static Probe, mpsc::Receiver<Vec<Observed>>)> = Vec::new();
        let mut missed = Vec::new();
        for (index, probe) in PROBES.iter().enumerate() {
            if let Some(late) = self.late.remove(&index)
                && late.try_recv() == Err(mpsc::TryRecvError::Empty)
            {
                // One hanging thread for each probe at most; its late answer is not a fact.
                self.late.insert(index, late);
                missed.push(probe);
                continue;
            }
            match start(probe, Arc::clone(&subject)) {
                Some(answer) => waiting.push((index, probe, answer)),
                None => missed.push(probe),
            }
        }
        let clock = self.system.clock();
        let deadline = started + self.probe_timeout;
        let mut found = Vec::new();
        for (index, probe, answer) in waiting {
            match answer.recv_timeout(clock.until(deadline)) {
                Ok(observed) => found.extend(observed),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    tracing::warn!(probe.name, "a posture probe did not answer in time");
                    self.late.insert(index, answer);
                    missed.push(probe);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => missed.push(probe),
            }
        }
        (found, missed)
    }
}

/// Starts a probe on a thread of its own; `None` when there is no thread to be had.
fn start(probe: &'static Probe, subject: Arc<Subject>) -> Option<mpsc::Receiver<Vec<Observed>>> {
    let (answer, answered) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name(format!("probe {}", probe.name))
        .spawn(move || {
            // Nobody waits any more when this fails, which is what being late means.
            answer.send((probe.read)(&subject)).ok();
        })
        .inspect_err(|error| tracing::warn!(probe.name, %error, "no thread for a posture probe"))
        .ok()?;
    Some(answered)
}

/// What a report may carry: a fact that is too large is an error, so that the others arrive.
fn bounded(reading: Reading) -> Reading {
    let too_long = |text: &String| text.len() > FACT_TEXT_BYTES_MAX;
    match reading {
        Reading::Error(why) => Reading::Error(why.chars().take(ERROR_CHARACTERS_MAX).collect()),
        Reading::Value(Value::Text(text)) if too_long(&text) => {
            Reading::Error("its text is too long".to_owned())
        }
        Reading::Value(Value::List(list))
            if list.len() > FACT_LIST_MAX || list.iter().any(too_long) =>
        {
            Reading::Error("its list is too long".to_owned())
        }
        reading
        @ (Reading::Value(_) | Reading::Absent | Reading::Unsupported | Reading::Denied) => reading,
    }
}

/// How good our evidence is where its source is the system's own: `os` from root of the machine itself, `self` from anybody else.
///
/// Root of a user namespace is anybody else, and a tree made for a test is no machine.
fn grade(system: &System) -> Grade {
    if !system.is_real() {
        return Grade::Simulated;
    }
    let all = system
        .text("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    if all && cardea_host::process::effective_user() == 0 {
        Grade::Os
    } else {
        Grade::Own
    }
}

#[cfg(test)]
mod tests;
