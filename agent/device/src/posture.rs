//! Posture: every fact about this device, read by probes that cannot hold the agent up.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::mpsc,
    time::{Duration, Instant},
};

use cardea_host::clock::Clock;
pub use cardea_proto::posture::Collected;
use cardea_proto::posture::{FACT_LIST_MAX, FACT_TEXT_BYTES_MAX, FactName, Grade, Reading, Value};

use crate::{
    facts_file::FactsFile,
    probe::{Observed, PROBES, Subject},
    system::System,
    watch::Waker,
};

use readings::Readings;

mod readings;

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
    /// Programs, by name or absolute path and either with a digest (`clamd sha256:HEX`), whose running
    /// `process.running` reports.
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

/// Reads facts, every probe on a thread of its own.
#[derive(Debug)]
pub struct Posture {
    system: System,
    state_dir: PathBuf,
    watched_processes: Vec<String>,
    facts_from: Option<FactsFile>,
    probe_timeout: Duration,
    grade: Grade,
    readings: Readings,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    /// Woken by every answer.
    waker: Option<Waker>,
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
            readings: Readings::new(PROBES.len(), settings.probe_timeout),
            answers: mpsc::channel(),
            waker: None,
        }
    }

    /// Replaces the programs that `process.running` is about, because a policy asks for others.
    pub fn watch_processes(&mut self, programs: Vec<String>) {
        self.watched_processes = programs;
    }

    /// Has every answer of a probe wake somebody.
    pub(crate) fn wake(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    /// Reads every fact, one of each name, in order of their names.
    ///
    /// Blocks for as long as the slowest probe takes, and never longer than its timeout.
    pub fn collect(&mut self) -> Vec<Collected> {
        self.ask();
        self.gather(self.probe_timeout);
        self.facts()
    }

    /// Has all probes read anew, without waiting for them.
    pub(crate) fn ask(&mut self) {
        let now = self.system.clock().now().instant;
        for index in self.readings.ask(now) {
            self.start(index);
        }
    }

    /// Waits until all have answered, but no longer than `time`.
    pub(crate) fn gather(&mut self, time: Duration) {
        let clock = self.system.clock();
        let end = clock.now().instant + time;
        while let Some(late) = self.readings.deadline() {
            let until = late.min(end);
            if let Ok(answer) = self.answers.1.recv_timeout(clock.until(until)) {
                self.answered(answer);
            } else {
                self.readings.expire(clock.now().instant);
                if until == end {
                    return;
                }
            }
        }
    }

    /// Takes the answers that came, and gives up those that are late; whether a fact may have changed.
    pub(crate) fn take(&mut self) -> bool {
        let mut is_news = false;
        while let Ok(answer) = self.answers.1.try_recv() {
            is_news |= self.answered(answer);
        }
        self.readings.expire(self.system.clock().now().instant) || is_news
    }

    /// When a probe that is asked is late.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.readings.deadline()
    }

    /// Every fact as it was last read, in order of their names.
    pub(crate) fn facts(&self) -> Vec<Collected> {
        let mut facts: BTreeMap<FactName, Collected> = BTreeMap::new();
        for (index, last) in self.readings.last() {
            match &last.found {
                Ok(found) => {
                    facts.extend(found.iter().map(|observed| {
                        (observed.name.to_owned(), self.collected(observed, last.at))
                    }))
                }
                Err(why) => {
                    let names = PROBES.get(index).map(|probe| probe.facts);
                    for name in names.into_iter().flatten() {
                        let observed = Observed {
                            name,
                            reading: Reading::Error((*why).to_owned()),
                            at_most: self.grade,
                        };
                        facts.insert((*name).to_owned(), self.collected(&observed, last.at));
                    }
                }
            }
        }
        if let Some(file) = &self.facts_from {
            let names = facts.keys().cloned().collect();
            facts.extend(file.read(names, self.system.clock().now().instant));
        }
        facts
            .into_values()
            .map(|mut fact| {
                fact.reading = bounded(fact.reading);
                fact
            })
            .collect()
    }

    fn collected(&self, observed: &Observed, at: Instant) -> Collected {
        Collected {
            name: observed.name.to_owned(),
            reading: observed.reading.clone(),
            grade: self.grade.min(observed.at_most),
            at,
        }
    }

    /// Takes an answer; whether a fact may have changed.
    fn answered(&mut self, answer: Answer) -> bool {
        let now = self.system.clock().now().instant;
        let after = self.readings.answered(now, answer.probe, answer.found);
        if after.is_asked {
            self.start(answer.probe);
        }
        after.is_news
    }

    /// Starts a probe on a thread of its own. One of each hangs at most: it is asked again only after
    /// it has answered.
    fn start(&self, index: usize) {
        let Some(probe) = PROBES.get(index) else {
            return;
        };
        let subject = Subject {
            system: self.system.clone(),
            state_dir: self.state_dir.clone(),
            watched_processes: self.watched_processes.clone(),
        };
        // It answers when it is dropped, so also when the probe fails or there is no thread for it.
        let reply = Reply {
            probe: index,
            found: None,
            to: self.answers.0.clone(),
            waker: self.waker.clone(),
        };
        let thread = std::thread::Builder::new().name(format!("probe {}", probe.name));
        let started = thread.spawn(move || {
            let mut reply = reply;
            reply.found = Some((probe.read)(&subject));
        });
        if let Err(error) = started {
            tracing::warn!(probe.name, %error, "no thread for a posture probe");
        }
    }
}

/// What a probe said: nothing when it failed.
#[derive(Debug)]
struct Answer {
    probe: usize,
    found: Option<Vec<Observed>>,
}

/// Sends a probe's answer at the end of its thread, however that ends.
struct Reply {
    probe: usize,
    found: Option<Vec<Observed>>,
    to: mpsc::Sender<Answer>,
    waker: Option<Waker>,
}

impl Drop for Reply {
    fn drop(&mut self) {
        let answer = Answer {
            probe: self.probe,
            found: self.found.take(),
        };
        // Nobody waits any more when this fails.
        self.to.send(answer).ok();
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }
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
