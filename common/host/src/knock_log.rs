//! What the log says of knocks.

use std::time::{Duration, Instant};

use cardea_proto::admin::Knocks;

/// Tells the log what was knocked, when that is more than the last time.
#[derive(Debug, Default)]
pub struct KnockLog {
    told: Knocks,
    at: Option<Instant>,
}

impl KnockLog {
    /// Tells how often each answer was given so far, at most once in ten seconds: each of them may be a
    /// stranger's doing, and strangers must not fill a log.
    pub fn tell(&mut self, now: Instant, knocks: impl FnOnce() -> Knocks) {
        if self.at.is_some_and(|at| now < at + EVERY) {
            return;
        }
        let knocks = knocks();
        self.at = Some(now);
        if std::mem::replace(&mut self.told, knocks) == knocks {
            return;
        }
        tracing::debug!(
            knock.opened = knocks.opened,
            knock.unknown = knocks.unknown,
            knock.forged = knocks.forged,
            knock.early = knocks.early,
            knock.late = knocks.late,
            knock.replayed = knocks.replayed,
            knock.too_many = knocks.too_many,
            "knocks"
        );
    }
}

const EVERY: Duration = Duration::from_secs(10);
