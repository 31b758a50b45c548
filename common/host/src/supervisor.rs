//! What started this program and watches it: systemd, or whoever else speaks its protocol.
//!
//! Source: `sd_notify(3)`, `sd_watchdog_enabled(3)`: words in a datagram to the socket that the
//! environment names. Without one nothing is said.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::{Duration, Instant},
};

/// Whoever wants to know how this program is.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it must be told that this program lives; half of that is how often it is.
    watchdog: Option<Duration>,
    next: Option<Instant>,
}

/// What the environment says of a supervisor.
#[derive(Clone, Debug, Default)]
struct Environment {
    socket: Option<OsString>,
    watchdog_us: Option<OsString>,
    watchdog_pid: Option<OsString>,
}

impl Supervisor {
    /// The one that the environment names, if any.
    #[must_use]
    pub fn of_environment() -> Self {
        Self::of(
            &Environment {
                socket: std::env::var_os("NOTIFY_SOCKET"),
                watchdog_us: std::env::var_os("WATCHDOG_USEC"),
                watchdog_pid: std::env::var_os("WATCHDOG_PID"),
            },
            std::process::id(),
        )
    }

    fn of(environment: &Environment, pid: u32) -> Self {
        let socket = environment.socket.as_deref().and_then(|name| {
            let opened = address(name).and_then(|address| Ok((UnixDatagram::unbound()?, address)));
            opened
                .inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET cannot be used"))
                .ok()
        });
        let number = |text: &Option<OsString>| text.as_deref()?.to_str()?.parse::<u64>().ok();
        let is_other =
            number(&environment.watchdog_pid).is_some_and(|meant| meant != u64::from(pid));
        let watchdog = number(&environment.watchdog_us)
            .filter(|us| *us > 0 && !is_other && socket.is_some())
            .map(Duration::from_micros);
        Self {
            socket,
            watchdog,
            next: None,
        }
    }

    /// This program serves.
    pub fn ready(&self) {
        self.say("READY=1\n");
    }

    /// This program is about to end.
    pub fn stopping(&self) {
        self.say("STOPPING=1\n");
    }

    /// When [`Supervisor::is_due`] is next true; `None` when nobody watches.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.watchdog.and(self.next)
    }

    /// Whether it is time to find out that this program works, and then to say so; the first time at once.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let Some(watchdog) = self.watchdog else {
            return false;
        };
        let is_due = self.next.is_none_or(|next| next <= now);
        if is_due {
            self.next = Some(now + watchdog / 2);
        }
        is_due
    }

    /// This program works.
    pub fn alive(&self) {
        self.say("WATCHDOG=1\n");
    }

    fn say(&self, words: &str) {
        let Some((socket, address)) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send_to_addr(words.as_bytes(), address) {
            tracing::warn!(%error, words = words.trim(), "whoever started this program was not told");
        }
    }
}

/// A path, or with `@` before it a name of the abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        Some((b'/', _)) => SocketAddr::from_pathname(name),
        Some(_) | None => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_at_half_of_the_time_that_it_gave() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        let environment = Environment {
            socket: Some(path.into()),
            watchdog_us: Some("3000000".into()),
            watchdog_pid: Some("7".into()),
        };
        let mut supervisor = Supervisor::of(&environment, 7);
        let start = crate::clock::Clock::system().now().instant;
        let after = |ms| start + Duration::from_millis(ms);
        assert!(supervisor.is_due(start) && !supervisor.is_due(after(1_499)));
        assert!(supervisor.is_due(after(1_500)) && !supervisor.is_due(after(2_999)));
        assert_eq!(supervisor.deadline(), Some(after(3_000)));
        supervisor.ready();
        supervisor.alive();
        supervisor.stopping();
        for expected in ["READY=1\n", "WATCHDOG=1\n", "STOPPING=1\n"] {
            let mut buffer = [0; 64];
            let len = heard.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], expected.as_bytes());
        }
    }

    #[test]
    fn nobody_watches_who_was_not_named() {
        let watched = Environment {
            socket: Some("@cardea-nobody".into()),
            watchdog_us: Some("3000000".into()),
            watchdog_pid: None,
        };
        let start = crate::clock::Clock::system().now().instant;
        let is_due = |environment: &Environment| Supervisor::of(environment, 7).is_due(start);
        assert!(is_due(&watched));
        let mut other = watched.clone();
        other.watchdog_pid = Some("8".into());
        assert!(!is_due(&other), "another process is meant");
        for socket in [None, Some("relative".into()), Some("".into())] {
            let environment = Environment {
                socket,
                ..watched.clone()
            };
            assert!(!is_due(&environment));
            Supervisor::of(&environment, 7).ready();
        }
        for us in ["0", "x", "-1"] {
            let mut wrong = watched.clone();
            wrong.watchdog_us = Some(us.into());
            assert!(!is_due(&wrong), "{us}");
        }
    }
}
