//! What a device knows about itself, and when the controller hears of it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cardea_proto::{
    codec::Bytes,
    message::Welcome,
    posture::{FACTS_MAX, Fact, FactName, Grade, PostureVerdict, Reading, Report, Value},
    time::Now,
};
use rand_chacha::ChaCha20Rng;

use crate::entropy::full_jitter;

/// Shortest and longest interval between two polls that a controller may ask for.
const POLL_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));

/// Facts whose value only counts time: that it went on is no news, and the next report carries it.
const COUNT_TIME: &[&str] = &["uptime_s"];

/// One fact as the shell read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// Its name, such as `disk.encrypted`.
    pub name: FactName,
    /// The value, or why there is none.
    pub reading: Reading,
    /// How good the evidence is.
    pub grade: Grade,
    /// When it was read.
    pub at: Instant,
}

/// Facts, the report of them, and the controller's verdict.
#[derive(Debug)]
pub(super) struct Posture {
    facts: BTreeMap<FactName, Collected>,
    reported: BTreeMap<FactName, (Reading, Grade)>,
    counter: u64,
    nonce: Bytes<16>,
    poll: Duration,
    next_poll: Option<Instant>,
    polled: bool,
    verdict: Option<PostureVerdict>,
}

impl Posture {
    pub(super) const fn new() -> Self {
        Self {
            facts: BTreeMap::new(),
            reported: BTreeMap::new(),
            counter: 0,
            nonce: Bytes([0; 16]),
            poll: Duration::from_secs(60),
            next_poll: None,
            polled: false,
            verdict: None,
        }
    }

    /// A channel is ready: its reports carry its nonce, and the controller has none of them yet.
    pub(super) fn welcome(&mut self, now: Now, welcome: &Welcome, rng: &mut ChaCha20Rng) {
        let (shortest, longest) = POLL_RANGE;
        self.nonce = welcome.nonce;
        self.poll = Duration::from_millis(welcome.posture_poll_ms).clamp(shortest, longest);
        self.reported.clear();
        self.polled = true;
        self.plan(now.instant, rng);
    }

    /// The channel is gone: nothing is polled without one.
    pub(super) fn lost(&mut self) {
        self.next_poll = None;
    }

    /// Takes all facts as they stand; true when the controller should hear of them.
    pub(super) fn collected(&mut self, facts: Vec<Collected>) -> bool {
        self.facts = facts
            .into_iter()
            .take(FACTS_MAX)
            .map(|fact| (fact.name.clone(), fact))
            .collect();
        std::mem::take(&mut self.polled) || self.has_changed()
    }

    /// Whether the facts differ from those that the controller knows.
    pub(super) fn has_changed(&self) -> bool {
        self.facts.len() != self.reported.len()
            || self
                .facts
                .values()
                .zip(&self.reported)
                .any(|(fact, (name, (reading, grade)))| {
                    fact.name != *name
                        || fact.grade != *grade
                        || differs(name, reading, &fact.reading)
                })
    }

    /// Whether anything was collected yet.
    pub(super) fn is_known(&self) -> bool {
        !self.facts.is_empty()
    }

    /// The next report of this channel.
    pub(super) fn report(&mut self, now: Now) -> Report {
        self.counter += 1;
        self.reported = self
            .facts
            .iter()
            .map(|(name, fact)| (name.clone(), (fact.reading.clone(), fact.grade)))
            .collect();
        self.shown(now)
    }

    /// The report as it would be sent at this moment.
    pub(super) fn shown(&self, now: Now) -> Report {
        let fact = |fact: &Collected| Fact {
            reading: fact.reading.clone(),
            grade: fact.grade,
            age_ms: u64::try_from(now.instant.saturating_duration_since(fact.at).as_millis())
                .unwrap_or(u64::MAX),
        };
        Report {
            counter: self.counter,
            nonce: self.nonce,
            clock: now.unix,
            facts: self
                .facts
                .iter()
                .map(|(name, collected)| (name.clone(), fact(collected)))
                .collect(),
        }
    }

    /// Whether it is time to collect; what is collected next is reported in any case.
    pub(super) fn poll(&mut self, now: Instant, rng: &mut ChaCha20Rng) -> bool {
        let due = self.next_poll.is_some_and(|due| due <= now);
        if due {
            self.polled = true;
            self.plan(now, rng);
        }
        due
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.next_poll
    }

    pub(super) fn judged(&mut self, verdict: PostureVerdict) {
        self.verdict = Some(verdict);
    }

    pub(super) const fn verdict(&self) -> Option<&PostureVerdict> {
        self.verdict.as_ref()
    }

    /// Whether the controller has said that an admin blocked this device.
    pub(super) fn is_blocked(&self) -> bool {
        self.verdict().is_some_and(|verdict| verdict.blocked)
    }

    /// Polls come up to a tenth early, never late: a report must not go stale for our jitter.
    fn plan(&mut self, now: Instant, rng: &mut ChaCha20Rng) {
        self.next_poll = Some(now + self.poll - full_jitter(rng, self.poll / 10));
    }
}

/// Whether a reading tells more than that time went on.
fn differs(name: &str, known: &Reading, read: &Reading) -> bool {
    match (known, read) {
        // One that counts from the start again has been started again.
        (Reading::Value(Value::Integer(known)), Reading::Value(Value::Integer(read)))
            if COUNT_TIME.contains(&name) =>
        {
            read < known
        }
        (known, read) => known != read,
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::time::testing;
    use rand_core::SeedableRng;

    use super::*;

    fn facts(now: Now, values: &[(&str, bool)]) -> Vec<Collected> {
        values
            .iter()
            .map(|(name, value)| Collected {
                name: (*name).to_owned(),
                reading: Reading::Value(Value::Bool(*value)),
                grade: Grade::Own,
                at: now.instant,
            })
            .collect()
    }

    fn welcome() -> Welcome {
        Welcome {
            version: 1,
            program: "0".to_owned(),
            clock: testing::start().unix,
            name: "laptop".parse().unwrap(),
            user: None,
            nonce: Bytes([9; 16]),
            posture_poll_ms: 60_000,
            watched_processes: Vec::new(),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn facts_are_reported_when_a_value_changes_appears_or_goes_and_not_otherwise() {
        let now = testing::start();
        let mut posture = Posture::new();
        assert!(posture.collected(facts(now, &[("a", true)])));
        posture.report(now);
        let later = now.plus(Duration::from_secs(5));
        for (values, changed) in [
            (&[("a", true)][..], false),
            (&[("a", false)], true),
            (&[("a", false), ("b", true)], true),
            (&[("b", true)], true),
            (&[("b", true)], false),
        ] {
            assert_eq!(
                posture.collected(facts(later, values)),
                changed,
                "{values:?}"
            );
            posture.report(later);
        }
    }

    #[test]
    fn time_that_goes_on_is_no_change() {
        let now = testing::start();
        let mut posture = Posture::new();
        let mut changed = |reading: Reading, grade: Grade| {
            let changed = posture.collected(vec![Collected {
                name: "uptime_s".to_owned(),
                reading,
                grade,
                at: now.instant,
            }]);
            posture.report(now);
            changed
        };
        let seconds = |count| Reading::Value(Value::Integer(count));
        assert!(changed(seconds(100), Grade::Own));
        assert!(!changed(seconds(160), Grade::Own));
        assert!(changed(seconds(161), Grade::Os));
        assert!(changed(seconds(3), Grade::Os));
        assert!(changed(Reading::Denied, Grade::Os));
        assert!(changed(seconds(4), Grade::Os));
        let mut posture = Posture::new();
        posture.collected(facts(now, &[("a", true)]));
        posture.report(now);
        let mut other = facts(now, &[("a", true)]);
        other[0].reading = seconds(1);
        assert!(posture.collected(other));
    }

    #[test]
    fn every_poll_is_reported_even_when_nothing_changed_and_the_counter_grows() {
        let now = testing::start();
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let mut posture = Posture::new();
        posture.welcome(now, &welcome(), &mut rng);
        assert!(posture.collected(facts(now, &[("a", true)])));
        assert_eq!(posture.report(now).counter, 1);
        assert!(!posture.poll(now.instant, &mut rng));
        let later = now.plus(Duration::from_secs(60));
        assert!(posture.poll(later.instant, &mut rng));
        assert!(posture.collected(facts(now, &[("a", true)])));
        let report = posture.report(later);
        assert_eq!((report.counter, report.nonce), (2, Bytes([9; 16])));
        assert_eq!(report.facts["a"].age_ms, 60_000);
    }

    #[test]
    fn a_new_channel_hears_of_facts_that_did_not_change() {
        let now = testing::start();
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let mut posture = Posture::new();
        posture.collected(facts(now, &[("a", true)]));
        posture.report(now);
        posture.welcome(now, &welcome(), &mut rng);
        assert!(posture.has_changed());
    }
}
