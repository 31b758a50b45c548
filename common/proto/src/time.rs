//! The two clocks, as values that shells read and cores are given.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time that also counts while the machine is suspended; every deadline is on it.
    pub instant: Instant,
    /// Wall time, for certificate validity and ledger stamps alone.
    pub unix: UnixMillis,
}

/// Wall time in milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000
    }

    /// This moment and `duration` more; stops at the end of the range.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero when it is before.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// RFC 3339 in UTC with milliseconds; a moment past the year 9999 shows as its number.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let nanos = i128::from(self.0) * 1_000_000;
        time::OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .ok()
            .and_then(|at| {
                at.format(&time::format_description::well_known::Rfc3339)
                    .ok()
            })
            .unwrap_or_else(|| self.0.to_string())
    }
}

impl Now {
    /// Both clocks, `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self {
            instant: self.instant + duration,
            unix: self.unix.plus(duration),
        }
    }
}

/// The one place where tests of pure crates get their first [`Now`] from.
pub mod testing {
    use super::{Instant, Now, UnixMillis};

    /// A moment to start a virtual clock at: 2026-01-01T00:00:00Z.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant has no other origin; tests add to it"
    )]
    pub fn start() -> Now {
        Now {
            instant: Instant::now(),
            unix: UnixMillis(1_767_225_600_000),
        }
    }
}
