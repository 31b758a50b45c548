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

/// How long a reading waits for the probes: what has answered by then is delivered, and with it what
/// the others said before. Far more than they take, and a change is still told within a second.
const GATHER: Duration = Duration::from_millis(200);

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
    /// The latest number that was asked for.
    asked: u64,
    stop: bool,
}

/// All facts, as they stand.
#[derive(Debug)]
pub struct Delivery {
    /// The facts.
    pub facts: Vec<Collected>,
    /// The latest [`Collector::collect`] that they were read after; 0 for none.
    pub number: u64,
}

impl Collector {
    /// Starts; `deliver` gets all facts at the start, and again after every reading and whenever a slow
    /// probe has answered.
    ///
    /// # Errors
    /// When there is no thread or no timer to be had.
    pub fn start(
        settings: Settings,
        poll: Duration,
        deliver: impl FnMut(Delivery) + Send + 'static,
    ) -> io::Result<Self> {
        let watch = Watch::new(&settings)?;
        let control = Arc::new(Mutex::new(Control {
            poll: poll.max(POLL_MIN),
            processes: None,
            asked: 0,
            stop: false,
        }));
        let collector = Self {
            control: Arc::clone(&control),
            waker: watch.waker(),
        };
        let thread = Thread {
            processes: settings.watched_processes.clone(),
            posture: {
                let mut posture = Posture::new(settings);
                posture.wake(watch.waker());
                posture
            },
            watch,
            control,
            number: 0,
            clock: Clock::system(),
        };
        std::thread::Builder::new()
            .name("posture".to_owned())
            .spawn(move || thread.run(deliver))?;
        Ok(collector)
    }

    /// Reads the facts now; what is delivered then carries this number, which grows with each call.
    pub fn collect(&self, number: u64) {
        lock(&self.control).asked = number;
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
    /// What had been asked for when the facts were read.
    number: u64,
    clock: Clock,
}

/// What is to be done after a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Read the facts anew.
    Read,
    /// A probe that was slow has answered, or is too slow.
    Deliver,
    /// End.
    Stop,
}

impl Thread {
    fn run(mut self, mut deliver: impl FnMut(Delivery)) {
        // Nothing is known yet, so the first reading waits for all of them.
        let mut facts = self.posture.collect();
        let mut read = self.clock.now().instant;
        let mut next = Next::Read;
        loop {
            if next == Next::Read && !self.processes.is_empty() {
                self.watch.follow(&self.processes);
            }
            let number = self.number;
            deliver(Delivery { facts, number });
            next = self.until_next(read).unwrap_or_else(|error| {
                // Without facts the controller ends access, which is what must happen.
                tracing::error!(%error, "posture is no longer collected");
                Next::Stop
            });
            match next {
                Next::Stop => return,
                Next::Deliver => {}
                Next::Read => {
                    self.number = lock(&self.control).asked;
                    self.posture.ask();
                    self.posture.gather(GATHER);
                    read = self.clock.now().instant;
                }
            }
            facts = self.posture.facts();
        }
    }

    /// Waits until there is something to do.
    fn until_next(&mut self, read: Instant) -> io::Result<Next> {
        loop {
            let due = read + jittered(lock(&self.control).poll);
            let late = self.posture.deadline();
            match self.watch.wait(late.map_or(due, |late| late.min(due)))? {
                Woken::Changed => return self.settle(read),
                Woken::Due => {
                    if self.clock.now().instant >= due {
                        return Ok(Next::Read);
                    }
                }
                Woken::Asked => {
                    if let Some(next) = self.asked() {
                        return Ok(next);
                    }
                }
            }
            if self.posture.take() {
                return Ok(Next::Deliver);
            }
        }
    }

    /// Lets a burst of changes end.
    fn settle(&mut self, read: Instant) -> io::Result<Next> {
        let quiet = self.clock.now().instant + SETTLE;
        let due = quiet.max(read + SPACING);
        loop {
            match self.watch.wait(due)? {
                Woken::Due => return Ok(Next::Read),
                Woken::Changed => {}
                Woken::Asked => {
                    if let Some(next) = self.asked() {
                        return Ok(next);
                    }
                }
            }
        }
    }

    /// Does what was asked, and says what comes next; `None` to go on waiting.
    fn asked(&mut self) -> Option<Next> {
        let mut control = lock(&self.control);
        if control.stop {
            return Some(Next::Stop);
        }
        let mut collect = control.asked > self.number;
        if let Some(processes) = control.processes.take()
            && processes != self.processes
        {
            self.posture.watch_processes(processes.clone());
            self.processes = processes;
            collect = true;
        }
        collect.then_some(Next::Read)
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
    use std::{io::Write as _, os::unix::fs::PermissionsExt, process::Command, sync::mpsc};

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
            Collector::start(settings, POLL, move |told| tell.send(told).unwrap()).unwrap();
        assert_eq!(encrypted(&told), (Value::Bool(true), 0));

        std::fs::write(&file, "{\"disk.encrypted\": false}").unwrap();
        assert_eq!(encrypted(&told), (Value::Bool(false), 0));

        collector.collect(1);
        assert_eq!(encrypted(&told), (Value::Bool(false), 1));

        collector.configure(POLL, vec!["clamd".to_owned()]);
        assert_eq!(encrypted(&told), (Value::Bool(false), 1));
        collector.configure(POLL, vec!["clamd".to_owned()]);
        drop(collector);
        let end = told.recv_timeout(SOON).unwrap_err();
        assert_eq!(end, mpsc::RecvTimeoutError::Disconnected);
    }

    #[test]
    fn the_poll_is_jittered_by_a_tenth() {
        for _ in 0..1_000 {
            let poll = jittered(POLL);
            assert!(poll >= POLL * 9 / 10 && poll <= POLL * 11 / 10);
        }
    }

    #[test]
    fn a_slow_probe_holds_no_change_up_and_keeps_what_it_said() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        for dir in ["etc", "usr/sbin"] {
            std::fs::create_dir_all(at(dir)).unwrap();
        }
        let (gate, open) = (at("gate"), at("open"));
        let made = Command::new("/usr/bin/mkfifo").arg(&gate).status();
        assert!(made.unwrap().success());
        // A firewall that is on, until there is `open`: then it takes its time, and is off.
        let script = format!(
            "#!/bin/sh\nif [ -e {open} ]; then read x < {gate}; p=accept; else p=drop; fi\n\
             echo 'table ip filter {{\nchain INPUT {{'\n\
             echo \"type filter hook input priority filter; policy $p;\"\necho '}}\n}}'\n",
            open = open.display(),
            gate = gate.display()
        );
        let nft = at("usr/sbin/nft");
        std::fs::write(&nft, script).unwrap();
        std::fs::set_permissions(&nft, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(at("etc/os-release"), "ID=first\n").unwrap();

        let mut settings = Settings::new("/tmp");
        settings.root = place.path().to_owned();
        let (tell, told) = mpsc::channel();
        let collector =
            Collector::start(settings, POLL, move |facts| drop(tell.send(facts))).unwrap();
        let on = Reading::Value(Value::Bool(true));
        let first = told.recv_timeout(SOON).unwrap();
        assert_eq!(reading(&first, "firewall.enabled"), &on);

        std::fs::write(&open, "").unwrap();
        std::fs::write(at("etc/os-release"), "ID=second\n").unwrap();
        let second = Reading::Value(Value::Text("second".to_owned()));
        loop {
            let next = told.recv_timeout(SOON).unwrap();
            assert_eq!(reading(&next, "firewall.enabled"), &on);
            if reading(&next, "os.name") == &second {
                break;
            }
        }

        let mut opened = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&gate)
            .unwrap();
        // One line for each time that it was asked meanwhile.
        opened.write_all(b"\n\n\n\n").unwrap();
        let off = Reading::Value(Value::Bool(false));
        while reading(&told.recv_timeout(SOON).unwrap(), "firewall.enabled") != &off {}
        drop(collector);
    }

    fn reading<'a>(told: &'a Delivery, name: &str) -> &'a Reading {
        let fact = told.facts.iter().find(|fact| fact.name == name);
        &fact.unwrap().reading
    }

    fn encrypted(told: &mpsc::Receiver<Delivery>) -> (Value, u64) {
        let told = told.recv_timeout(SOON).unwrap();
        let Reading::Value(value) = reading(&told, "disk.encrypted").clone() else {
            panic!("{told:?}");
        };
        (value, told.number)
    }
}
