//! The thread that keeps a device's facts fresh: at every change, when asked, and at the poll.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cardea_host::{clock::Clock, entropy};

use crate::{
    posture::{Collected, Posture, Settings},
    watch::{Waker, Watch, Woken},
};

/// How often facts are read when nobody tells of a change.
///
/// Source: POSTURE §8: 60 s between events.
pub const POLL: Duration = Duration::from_secs(60);

/// How long changes must be quiet before facts are read: one edit is several events.
const SETTLE: Duration = Duration::from_millis(20);

/// Least time between two readings that changes caused, so that a busy file costs little and a
/// change is still told well within a second.
const SPACING: Duration = Duration::from_millis(400);

/// Shortest poll that is accepted.
const POLL_MIN: Duration = Duration::from_secs(1);

/// Reads facts on a thread of its own until it is dropped.
#[derive(Debug)]
pub struct Collector {
    control: Arc<Mutex<Control>>,
    waker: Waker,
}

#[derive(Debug)]
struct Control {
    poll: Duration,
    /// New programs to watch, until the thread has taken them.
    processes: Option<Vec<String>>,
    collect: bool,
    stop: bool,
}

impl Collector {
    /// Starts; `deliver` gets all facts at once at the start, and again after every reading.
    ///
    /// # Errors
    /// When there is no thread or no timer to be had.
    pub fn start(
        settings: Settings,
        poll: Duration,
        deliver: impl FnMut(Vec<Collected>) + Send + 'static,
    ) -> io::Result<Self> {
        let watch = Watch::new(&settings)?;
        let control = Arc::new(Mutex::new(Control {
            poll: poll.max(POLL_MIN),
            processes: None,
            collect: false,
            stop: false,
        }));
        let collector = Self {
            control: Arc::clone(&control),
            waker: watch.waker(),
        };
        let thread = Thread {
            processes: settings.watched_processes.clone(),
            posture: Posture::new(settings),
            watch,
            control,
            clock: Clock::system(),
        };
        std::thread::Builder::new()
            .name("posture".to_owned())
            .spawn(move || thread.run(deliver))?;
        Ok(collector)
    }

    /// Reads the facts now.
    pub fn collect(&self) {
        lock(&self.control).collect = true;
        self.waker.wake();
    }

    /// Sets how often the facts are read and which programs are watched, as the controller asks.
    pub fn configure(&self, poll: Duration, processes: Vec<String>) {
        let mut control = lock(&self.control);
        control.poll = poll.max(POLL_MIN);
        control.processes = Some(processes);
        drop(control);
        self.waker.wake();
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        lock(&self.control).stop = true;
        self.waker.wake();
    }
}

struct Thread {
    posture: Posture,
    watch: Watch,
    processes: Vec<String>,
    control: Arc<Mutex<Control>>,
    clock: Clock,
}

impl Thread {
    fn run(mut self, mut deliver: impl FnMut(Vec<Collected>)) {
        loop {
            let facts = self.posture.collect();
            if !self.processes.is_empty() {
                self.watch.follow(&self.processes);
            }
            deliver(facts);
            let read = self.clock.now().instant;
            match self.until_next(read) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // Without facts the controller ends access, which is what must happen.
                    tracing::error!(%error, "posture is no longer collected");
                    return;
                }
            }
        }
    }

    /// Waits until facts must be read again; false when there is nothing to do any more.
    fn until_next(&mut self, read: Instant) -> io::Result<bool> {
        loop {
            let due = read + jittered(lock(&self.control).poll);
            match self.watch.wait(due)? {
                Woken::Due => return Ok(true),
                Woken::Changed => return self.settle(read),
                Woken::Asked => {
                    if let Some(go_on) = self.asked() {
                        return Ok(go_on);
                    }
                }
            }
        }
    }

    /// Lets a burst of changes end.
    fn settle(&mut self, read: Instant) -> io::Result<bool> {
        let quiet = self.clock.now().instant + SETTLE;
        let due = quiet.max(read + SPACING);
        loop {
            match self.watch.wait(due)? {
                Woken::Due => return Ok(true),
                Woken::Changed => {}
                Woken::Asked => {
                    if let Some(go_on) = self.asked() {
                        return Ok(go_on);
                    }
                }
            }
        }
    }

    /// Does what was asked: whether to go on with a reading, or `None` to go on waiting.
    fn asked(&mut self) -> Option<bool> {
        let mut control = lock(&self.control);
        if control.stop {
            return Some(false);
        }
        let mut collect = std::mem::take(&mut control.collect);
        if let Some(processes) = control.processes.take()
            && processes != self.processes
        {
            self.posture.watch_processes(processes.clone());
            self.processes = processes;
            collect = true;
        }
        collect.then_some(true)
    }
}

/// Nine to eleven tenths, so that devices that started together do not report together.
fn jittered(poll: Duration) -> Duration {
    let [byte] = entropy::bytes::<1>();
    poll * 9 / 10 + poll / 5 * u32::from(byte) / 255
}

fn lock(control: &Mutex<Control>) -> MutexGuard<'_, Control> {
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use cardea_proto::posture::{Reading, Value};

    use super::*;

    /// Generous: what is claimed here is that they come, on a busy machine too.
    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn facts_come_at_the_start_at_a_change_and_when_asked() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("facts.json");
        std::fs::write(&file, "{\"disk.encrypted\": true}").unwrap();
        let mut settings = Settings::new("/var/lib/cardea/cardea");
        settings.root = place.path().join("root");
        settings.facts_from = Some(file.clone());
        let (tell, told) = mpsc::channel();
        let collector =
            Collector::start(settings, POLL, move |facts| tell.send(facts).unwrap()).unwrap();
        assert_eq!(encrypted(&told), Value::Bool(true));

        std::fs::write(&file, "{\"disk.encrypted\": false}").unwrap();
        assert_eq!(encrypted(&told), Value::Bool(false));

        collector.collect();
        assert_eq!(encrypted(&told), Value::Bool(false));

        collector.configure(POLL, vec!["clamd".to_owned()]);
        assert_eq!(encrypted(&told), Value::Bool(false));
        collector.configure(POLL, vec!["clamd".to_owned()]);
        drop(collector);
        assert_eq!(
            told.recv_timeout(SOON),
            Err(mpsc::RecvTimeoutError::Disconnected)
        );
    }

    #[test]
    fn the_poll_is_jittered_by_a_tenth() {
        for _ in 0..1_000 {
            let poll = jittered(POLL);
            assert!(poll >= POLL * 9 / 10 && poll <= POLL * 11 / 10);
        }
    }

    fn encrypted(told: &mpsc::Receiver<Vec<Collected>>) -> Value {
        let facts = told.recv_timeout(SOON).unwrap();
        let fact = facts
            .into_iter()
            .find(|fact| fact.name == "disk.encrypted")
            .unwrap();
        let Reading::Value(value) = fact.reading else {
            panic!("{:?}", fact.reading);
        };
        value
    }
}
