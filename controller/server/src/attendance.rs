//! Notices soon that a connector is gone, because devices are sent to it.

use std::time::{Duration, Instant};

use cardea_host::channel::Traffic;

/// How long what was said to a connector may go without any sign of life from it.
///
/// QUIC repeats itself five times in this on most paths, so that loss alone does not look like a death.
const UNANSWERED_MAX: Duration = Duration::from_secs(3);

/// How long a connector may be quiet that nothing is said to: one keepalive, and the time in which it
/// is said again when it is lost.
const QUIET_MAX: Duration = Duration::from_secs(15);

/// How often to look. A connector is one of a few.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// What a connector's channel was seen to carry.
#[derive(Debug)]
pub(crate) struct Attendance {
    before: Traffic,
    heard_at: Instant,
    unanswered_since: Option<Instant>,
}

/// What a look has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Something came since the last look.
    Heard,
    /// Nothing came, which means nothing yet.
    Quiet,
    /// It is gone, or cannot be reached, which is the same to whoever needs it.
    Gone,
}

impl Attendance {
    pub(crate) const fn new(now: Instant, traffic: Traffic) -> Self {
        Self {
            before: traffic,
            heard_at: now,
            unanswered_since: None,
        }
    }

    /// Looks at what the channel has carried up to now.
    pub(crate) fn look(&mut self, now: Instant, traffic: Traffic) -> Sign {
        let before = std::mem::replace(&mut self.before, traffic);
        if traffic.heard != before.heard {
            self.heard_at = now;
            self.unanswered_since = None;
            return Sign::Heard;
        }
        if traffic.sent != before.sent {
            self.unanswered_since.get_or_insert(now);
        }
        let is_unanswered = self
            .unanswered_since
            .is_some_and(|since| now >= since + UNANSWERED_MAX);
        if is_unanswered || now >= self.heard_at + QUIET_MAX {
            Sign::Gone
        } else {
            Sign::Quiet
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_gone_sooner_than_who_was_not_asked() {
        let start = cardea_proto::time::testing::start().instant;
        let second = |count: u32| start + LOOK * count;
        let traffic = |heard, sent| Traffic { heard, sent };
        for (asked, gone) in [(Some(2), 5), (None, 15)] {
            let mut attendance = Attendance::new(start, traffic(9, 9));
            for at in 1..gone {
                let sent = if asked.is_some_and(|asked| at >= asked) {
                    10
                } else {
                    9
                };
                let sign = attendance.look(second(at), traffic(9, sent));
                assert_eq!(sign, Sign::Quiet, "asked {asked:?}, after {at} s");
            }
            let sent = if asked.is_some() { 10 } else { 9 };
            assert_eq!(attendance.look(second(gone), traffic(9, sent)), Sign::Gone);
        }
    }

    #[test]
    fn a_sign_of_life_answers_everything_that_was_said() {
        let start = cardea_proto::time::testing::start().instant;
        let mut attendance = Attendance::new(start, Traffic { heard: 0, sent: 0 });
        for count in 1..100 {
            let (heard, sent) = (u64::from(count / 2), u64::from(count));
            let sign = attendance.look(start + LOOK * count, Traffic { heard, sent });
            let expected = if count % 2 == 0 {
                Sign::Heard
            } else {
                Sign::Quiet
            };
            assert_eq!(sign, expected);
        }
    }
}
