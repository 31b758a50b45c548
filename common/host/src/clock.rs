//! The one place that reads the clock.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cardea_proto::time::{Now, UnixMillis};
use rustix::time::{ClockId, clock_gettime};

/// The machine's clocks; copies of it agree with each other.
///
/// Its instants also count the time that the machine was suspended (`CLOCK_BOOTTIME`), which the
/// standard library's do not: a laptop that slept past a ttl wakes up past that ttl.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Base,
}

impl Clock {
    /// The clock of this process.
    #[must_use]
    pub fn system() -> Self {
        static BASE: OnceLock<Base> = OnceLock::new();
        Self {
            base: *BASE.get_or_init(Base::read),
        }
    }

    /// Both clocks now.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            instant: self.base.instant + since_boot().saturating_sub(self.base.since_boot),
            unix: wall(),
        }
    }

    /// How long from now until `deadline`; zero when it has passed.
    ///
    /// Timers of the system do not count suspended time, so a waiter asks again when it wakes up.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Duration {
        deadline.saturating_duration_since(self.now().instant)
    }
}

/// TLS asks for the time when it checks a certificate.
impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let since = Duration::from_millis(wall().0);
        Some(rustls::pki_types::UnixTime::since_unix_epoch(since))
    }
}

#[derive(Clone, Copy, Debug)]
struct Base {
    instant: Instant,
    since_boot: Duration,
}

impl Base {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant has no other origin, and this is read once in a process"
    )]
    fn read() -> Self {
        Self {
            instant: Instant::now(),
            since_boot: since_boot(),
        }
    }
}

/// How long this machine has been suspended since it was started, all times together.
///
/// The clocks are read one after the other, so that two calls may differ by a little without a sleep
/// between them.
#[must_use]
pub fn suspended() -> Duration {
    since_boot().saturating_sub(read(ClockId::Monotonic))
}

fn since_boot() -> Duration {
    read(ClockId::Boottime)
}

fn read(clock: ClockId) -> Duration {
    let at = clock_gettime(clock);
    Duration::new(
        u64::try_from(at.tv_sec).unwrap_or(0),
        u32::try_from(at.tv_nsec).unwrap_or(0),
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one reader of the wall clock"
)]
fn wall() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_the_clock_never_go_back() {
        let first = Clock::system().now();
        let second = Clock::system().now();
        assert!(second.instant >= first.instant);
        assert!(second.unix.0 > 1_700_000_000_000);
    }

    #[test]
    fn while_this_runs_the_machine_is_not_suspended() {
        let first = suspended();
        assert!(suspended().abs_diff(first) < Duration::from_secs(1));
    }

    #[test]
    fn a_deadline_that_passed_is_due_at_once() {
        let clock = Clock::system();
        let now = clock.now().instant;
        assert_eq!(clock.until(now), Duration::ZERO);
        assert!(clock.until(now + Duration::from_secs(60)) > Duration::from_secs(59));
    }
}
