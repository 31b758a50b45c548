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

/// Wall time in milliseconds since 1970-01-01T00:00:00Z; RFC 3339 in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl Serialize for UnixMillis {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&self.to_rfc3339())
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for UnixMillis {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            Self::from_rfc3339(&text)
                .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no time")))
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

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

    /// The moment that [`Self::to_rfc3339`] shows; `None` when the text is none since 1970.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Some(Self(number));
        }
        let format = &time::format_description::well_known::Rfc3339;
        let at = time::OffsetDateTime::parse(text, format).ok()?;
        u64::try_from(at.unix_timestamp_nanos() / 1_000_000)
            .ok()
            .map(Self)
    }
}

/// How far another machine's wall clock is from ours, as the last look at it showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockOffset {
    /// Milliseconds that it is ahead; negative when it is behind.
    ahead_ms: i64,
}

impl ClockOffset {
    /// The offset of a clock that shows `theirs` when ours shows `ours`.
    #[must_use]
    pub fn between(ours: UnixMillis, theirs: UnixMillis) -> Self {
        let millis = |at: UnixMillis| i64::try_from(at.0).unwrap_or(i64::MAX);
        Self {
            ahead_ms: millis(theirs).saturating_sub(millis(ours)),
        }
    }

    /// What the other clock shows when ours shows `ours`.
    #[must_use]
    pub const fn theirs(self, ours: UnixMillis) -> UnixMillis {
        UnixMillis(ours.0.saturating_add_signed(self.ahead_ms))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_leads_from_one_clock_to_the_other_and_never_wraps() {
        for (ours, theirs) in [(5_000, 2_000), (2_000, 5_000), (7, 7)] {
            let offset = ClockOffset::between(UnixMillis(ours), UnixMillis(theirs));
            assert_eq!(offset.theirs(UnixMillis(ours)), UnixMillis(theirs));
        }
        let ahead = ClockOffset::between(UnixMillis(0), UnixMillis(u64::MAX));
        assert_eq!(ahead.theirs(UnixMillis(u64::MAX)), UnixMillis(u64::MAX));
        let behind = ClockOffset::between(UnixMillis(u64::MAX), UnixMillis(0));
        assert_eq!(behind.theirs(UnixMillis(1)), UnixMillis(0));
    }

    #[test]
    fn a_moment_reads_back_as_itself_from_its_text() {
        for millis in [0, 1, 999, 1_767_225_600_123, 253_402_300_800_000, u64::MAX] {
            let at = UnixMillis(millis);
            assert_eq!(UnixMillis::from_rfc3339(&at.to_rfc3339()), Some(at));
        }
        assert_eq!(
            UnixMillis(1_767_225_600_120).to_rfc3339(),
            "2026-01-01T00:00:00.12Z"
        );
        for text in ["", "yesterday", "1969-12-31T23:59:59Z", "2026-01-01"] {
            assert_eq!(UnixMillis::from_rfc3339(text), None, "{text}");
        }
    }
}
