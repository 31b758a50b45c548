//! What a certificate that does not hold at our time tells about our clock.

use std::{fmt, time::Duration};

/// How far a clock is off at least, by which a certificate does not hold that holds for its owner.
///
/// Whoever presented the certificate may have made it up: enough to say what to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockOff {
    /// The certificate has ended this long ago.
    Ahead(Duration),
    /// It begins this much later.
    Behind(Duration),
}

impl ClockOff {
    /// What the text of a failed handshake says of it, which is all that is left of rustls's error
    /// where it gets to us; `None` when that failed for another reason.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let [ended, begins] = [
            ("certificate expired: ", " seconds ago)"),
            ("certificate not valid yet: ", " seconds in future)"),
        ]
        .map(|(before, after)| {
            let (_, rest) = text.split_once(before)?;
            let (rest, _) = rest.split_once(after)?;
            let (_, seconds) = rest.rsplit_once('(')?;
            seconds.parse().ok().map(Duration::from_secs)
        });
        ended.map(Self::Ahead).or(begins.map(Self::Behind))
    }
}

impl fmt::Display for ClockOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ahead(time) => write!(f, "at least {} s ahead of", time.as_secs()),
            Self::Behind(time) => write!(f, "at least {} s behind", time.as_secs()),
        }
    }
}
