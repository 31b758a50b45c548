//! Wakes the collector when the kernel tells that a fact may have changed.
//!
//! Files are watched by inotify, through their directories, so that a replacement by rename and a
//! file that appears later are seen. Mounts and swaps are polled descriptors of `/proc`; block
//! devices, TPMs, firewall rules and the network speak by netlink; a watched program's end by its
//! pidfd; a set clock by a timer, and a machine that woke up by the time that it slept. What the
//! kernel does not tell, the next poll finds.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use cardea_host::clock::{self, Clock};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    process::{Pid, PidfdFlags, pidfd_open},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create,
        timerfd_settime,
    },
};

use crate::{posture::Settings, probe, system::System};

use files::FileWatch;

mod files;
mod kernel;

/// Why the collector was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Something changed that a fact is read from.
    Changed,
    /// A [`Waker`] asked.
    Asked,
    /// The time has come.
    Due,
}

/// Wakes a [`Watch`] from another thread.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<OwnedFd>,
}

impl Waker {
    /// Makes the next wait, or the one that goes on, end with [`Woken::Asked`].
    pub fn wake(&self) {
        // Full means that it will wake anyway.
        rustix::io::write(&self.event, &1_u64.to_ne_bytes()).ok();
    }
}

/// Waits for changes.
#[derive(Debug)]
pub struct Watch {
    system: System,
    facts_from: Option<PathBuf>,
    woken: Arc<OwnedFd>,
    /// Counts suspended time, so that a machine that slept past the poll is looked at when it wakes.
    timer: OwnedFd,
    files: Option<FileWatch>,
    sources: Vec<kernel::Source>,
    /// Watched programs that run.
    processes: Vec<OwnedFd>,
    sleeps: Sleeps,
}

/// Most processes whose end is waited for.
const PROCESSES_MAX: usize = 64;

impl Watch {
    /// Watches what the facts of these settings are read from, as far as the kernel lets us.
    ///
    /// # Errors
    /// When there is not even a timer to be had.
    pub fn new(settings: &Settings) -> io::Result<Self> {
        let system = System::new(settings.root.clone(), Clock::system());
        let timer = timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let sources = if system.is_real() {
            kernel::sources()
        } else {
            Vec::new()
        };
        let files = FileWatch::new()
            .inspect_err(
                |error| tracing::warn!(%error, "files are not watched; the poll finds changes"),
            )
            .ok();
        let mut watch = Self {
            system,
            facts_from: settings.facts_from.clone(),
            woken: Arc::new(event),
            timer,
            files,
            sources,
            processes: Vec::new(),
            sleeps: Sleeps::new(clock::suspended),
        };
        watch.arm();
        Ok(watch)
    }

    /// What wakes it from another thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker {
            event: Arc::clone(&self.woken),
        }
    }

    /// Waits for a change, a call, or `due`.
    ///
    /// # Errors
    /// When the kernel does not let us wait.
    pub fn wait(&mut self, due: Instant) -> io::Result<Woken> {
        loop {
            self.set_timer(due)?;
            let ready = self.poll()?;
            if ready.called {
                return Ok(Woken::Asked);
            }
            let mut changed = self.sleeps.woke() || !ready.ended.is_empty();
            for index in ready.ended.into_iter().rev() {
                self.processes.swap_remove(index);
            }
            if ready.files
                && let Some(files) = &mut self.files
            {
                changed |= files.changed();
            }
            for index in ready.sources {
                if let Some(source) = self.sources.get_mut(index) {
                    changed |= source.changed();
                }
            }
            if changed {
                self.arm();
                return Ok(Woken::Changed);
            }
            if self.system.clock().now().instant >= due {
                return Ok(Woken::Due);
            }
        }
    }

    /// Waits from now on for the end of those of `programs` that run.
    pub fn follow(&mut self, programs: &[String]) {
        self.processes = probe::pids(&self.system, programs)
            .into_iter()
            .take(PROCESSES_MAX)
            .filter_map(|pid| {
                let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
                pidfd_open(pid, PidfdFlags::empty()).ok()
            })
            .collect();
    }

    /// Watches the places anew: some of them may have appeared.
    fn arm(&mut self) {
        if let Some(files) = &mut self.files {
            files.arm(&files::places(&self.system, self.facts_from.as_deref()));
        }
    }

    fn set_timer(&self, due: Instant) -> io::Result<()> {
        // A timer of zero is one that is off.
        let left = self.system.clock().until(due).max(Duration::from_nanos(1));
        let timer = Itimerspec {
            it_interval: rustix::time::Timespec::default(),
            it_value: rustix::time::Timespec::try_from(left).map_err(io::Error::other)?,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
        Ok(())
    }

    fn poll(&self) -> io::Result<Ready> {
        let mut fds = vec![
            PollFd::new(&self.woken, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
        ];
        fds.extend(
            self.files
                .iter()
                .map(|files| PollFd::from_borrowed_fd(files.as_fd(), PollFlags::IN)),
        );
        fds.extend(self.sources.iter().map(kernel::Source::poll_fd));
        fds.extend(
            self.processes
                .iter()
                .map(|process| PollFd::new(process, PollFlags::IN)),
        );
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let called = ready.next().unwrap_or(false);
        let _due = ready.next();
        let files = self.files.is_some() && ready.next().unwrap_or(false);
        let which = |count: usize, ready: &mut dyn Iterator<Item = bool>| -> Vec<usize> {
            ready
                .take(count)
                .enumerate()
                .filter_map(|(index, is_ready)| is_ready.then_some(index))
                .collect()
        };
        let found = Ready {
            called,
            files,
            sources: which(self.sources.len(), &mut ready),
            ended: which(self.processes.len(), &mut ready),
        };
        drop(ready);
        if called {
            let mut count = [0_u8; 8];
            rustix::io::read(&self.woken, &mut count).ok();
        }
        Ok(found)
    }
}

/// Tells that the machine slept since it was asked last: in what it woke up to, anything may be another.
#[derive(Debug)]
struct Sleeps {
    suspended: fn() -> Duration,
    seen: Duration,
}

/// Shortest sleep that counts. Two clocks cannot be read at one moment, and nobody sleeps less.
const SLEEP_MIN: Duration = Duration::from_secs(1);

impl Sleeps {
    /// Begins to look at how long this machine has been suspended in all.
    fn new(suspended: fn() -> Duration) -> Self {
        Self {
            suspended,
            seen: suspended(),
        }
    }

    fn woke(&mut self) -> bool {
        let suspended = (self.suspended)();
        let is_news = suspended >= self.seen + SLEEP_MIN;
        if is_news {
            self.seen = suspended;
        }
        is_news
    }
}

/// What a poll found.
struct Ready {
    called: bool,
    files: bool,
    sources: Vec<usize>,
    ended: Vec<usize>,
}

/// The path and, where it is a link, what it leads to.
fn with_target(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let target = std::fs::canonicalize(path).ok();
    [Some(path.to_owned()), target].into_iter().flatten()
}

#[cfg(test)]
mod tests;
