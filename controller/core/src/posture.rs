//! The latest report of each device: what was accepted, and how old it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use cardea_proto::{
    codec::Bytes,
    id::DeviceId,
    posture::{
        FACT_LIST_MAX, FACT_TEXT_BYTES_MAX, FACTS_MAX, Fact, FactName, Grade, PostureVerdict,
        Reading, Report, Value,
    },
    refusal::{Refusal, RefusalCode},
    time::{Now, UnixMillis},
};

use crate::policy::CLOCK_SKEW;

/// Longest name of a fact, in bytes.
const FACT_NAME_BYTES_MAX: usize = 128;

/// A report whose form was checked, and when it came.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    facts: BTreeMap<FactName, Fact>,
    received: Now,
    skew_ms: i64,
}

/// What the controller remembers of one device between its reports; nothing of it is durable.
#[derive(Debug, Default)]
pub(crate) struct Posture {
    /// The latest report; `None` before the first since this controller started.
    pub(crate) facts: Option<Facts>,
    /// The nonce and the counter of that report.
    pub(crate) last: Option<(Bytes<16>, u64)>,
    /// What the device was told.
    pub(crate) verdict: Option<PostureVerdict>,
    /// Whether a change of the appraisal is on its way to the store.
    pub(crate) recording: bool,
    /// What its entry measures, in bytes.
    pub(crate) recording_bytes: u64,
}

/// All devices that have reported.
#[derive(Debug, Default)]
pub(crate) struct Postures(BTreeMap<DeviceId, Posture>);

impl Facts {
    /// Checks the form of a report: how many facts, how long, and nothing absurd in them.
    ///
    /// No grade above [`Grade::Os`] is taken from a device's own mouth: `mdm` and `hardware` are
    /// for facts that somebody else vouches for, and nobody does yet.
    ///
    /// # Errors
    /// A refusal that names the fact.
    pub(crate) fn accept(mut report: Report, received: Now) -> Result<Self, Refusal> {
        if report.facts.len() > FACTS_MAX {
            return Err(malformed(format!(
                "a report has at most {FACTS_MAX} facts, not {}",
                report.facts.len()
            )));
        }
        for (name, fact) in &mut report.facts {
            check(name, fact)?;
            fact.grade = fact.grade.min(Grade::Os);
        }
        Ok(Self {
            skew_ms: skew_ms(report.clock, received.unix),
            facts: report.facts,
            received,
        })
    }

    /// What a report keeps in memory and costs to look at, in bytes.
    pub(crate) fn size(report: &Report) -> usize {
        report
            .facts
            .iter()
            .map(|(name, fact)| size(name, fact))
            .sum()
    }

    /// The facts of a device that has said nothing.
    pub(crate) const fn nothing(now: Now) -> Self {
        Self {
            facts: BTreeMap::new(),
            received: now,
            skew_ms: 0,
        }
    }

    pub(crate) const fn facts(&self) -> &BTreeMap<FactName, Fact> {
        &self.facts
    }

    /// The facts as an admin reads them, with the one that only a controller can know.
    pub(crate) fn shown(&self) -> BTreeMap<FactName, Fact> {
        let skew = Fact {
            reading: Reading::Value(Value::Integer(self.skew_s())),
            grade: Grade::Os,
            age_ms: 0,
        };
        let mut shown = self.facts.clone();
        shown.insert(CLOCK_SKEW.to_owned(), skew);
        shown
    }

    /// When it came, by the wall clock.
    pub(crate) const fn received_at(&self) -> UnixMillis {
        self.received.unix
    }

    /// When it came, by the clock of deadlines.
    pub(crate) const fn received(&self) -> Instant {
        self.received.instant
    }

    /// How old it is.
    pub(crate) fn age(&self, now: Now) -> Duration {
        now.instant.saturating_duration_since(self.received.instant)
    }

    /// The device's clock minus ours, when it came.
    pub(crate) const fn skew_ms(&self) -> i64 {
        self.skew_ms
    }

    /// The same in whole seconds.
    pub(crate) const fn skew_s(&self) -> i64 {
        self.skew_ms / 1_000
    }

    /// The first fact that only a test or a demo would send.
    pub(crate) fn simulated(&self) -> Option<&FactName> {
        self.facts
            .iter()
            .find(|(_, fact)| fact.grade == Grade::Simulated)
            .map(|(name, _)| name)
    }

    /// Whether a decision could come out differently than on `other`, ages aside.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        self.facts.len() != other.facts.len()
            || self
                .facts
                .iter()
                .zip(&other.facts)
                .any(|((name, fact), (other_name, other))| {
                    name != other_name || fact.reading != other.reading || fact.grade != other.grade
                })
    }
}

impl Postures {
    pub(crate) fn get(&self, device: DeviceId) -> Option<&Posture> {
        self.0.get(&device)
    }

    pub(crate) fn entry(&mut self, device: DeviceId) -> &mut Posture {
        self.0.entry(device).or_default()
    }

    pub(crate) fn facts(&self, device: DeviceId) -> Option<&Facts> {
        self.0.get(&device)?.facts.as_ref()
    }

    pub(crate) fn forget(&mut self, device: DeviceId) {
        self.0.remove(&device);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The devices that have reported.
    pub(crate) fn devices(&self) -> BTreeSet<DeviceId> {
        self.0.keys().copied().collect()
    }
}

fn check(name: &str, fact: &Fact) -> Result<(), Refusal> {
    let fits = |text: &str| text.len() <= FACT_TEXT_BYTES_MAX;
    let name_fits = !name.is_empty()
        && name.len() <= FACT_NAME_BYTES_MAX
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !name_fits {
        let shown: String = name.escape_default().take(40).collect();
        return Err(malformed(format!("{shown} is no name of a fact")));
    }
    let value_fits = match &fact.reading {
        Reading::Value(Value::Text(text)) | Reading::Error(text) => fits(text),
        Reading::Value(Value::List(texts)) => {
            texts.len() <= FACT_LIST_MAX && texts.iter().all(|text| fits(text))
        }
        Reading::Value(Value::Bool(_) | Value::Integer(_))
        | Reading::Absent
        | Reading::Unsupported
        | Reading::Denied => true,
    };
    if value_fits {
        Ok(())
    } else {
        Err(malformed(format!("the value of {name} is too long")))
    }
}

fn size(name: &str, fact: &Fact) -> usize {
    let value = match &fact.reading {
        Reading::Value(Value::Text(text)) | Reading::Error(text) => text.len(),
        Reading::Value(Value::List(texts)) => {
            let held = texts.len() * size_of::<String>();
            held + texts.iter().map(String::len).sum::<usize>()
        }
        Reading::Value(Value::Bool(_) | Value::Integer(_))
        | Reading::Absent
        | Reading::Unsupported
        | Reading::Denied => 0,
    };
    name.len() + value
}

fn malformed(message: String) -> Refusal {
    Refusal::new(RefusalCode::Invalid, message)
}

/// `theirs` minus `ours`, in milliseconds; stops at the ends of the range.
pub(crate) fn skew_ms(theirs: UnixMillis, ours: UnixMillis) -> i64 {
    let ahead = i64::try_from(theirs.0.saturating_sub(ours.0)).unwrap_or(i64::MAX);
    let behind = i64::try_from(ours.0.saturating_sub(theirs.0)).unwrap_or(i64::MAX);
    ahead.saturating_sub(behind)
}

#[cfg(test)]
mod tests {
    use cardea_proto::time::testing::start;

    use super::*;

    #[test]
    fn a_report_is_refused_for_what_is_too_many_too_long_or_no_name() {
        let text = |length: usize| Reading::Value(Value::Text("x".repeat(length)));
        check_report(&[("disk.encrypted", Reading::Absent)], true);
        check_report(&[("os.name", text(FACT_TEXT_BYTES_MAX))], true);
        check_report(&[("os.name", text(FACT_TEXT_BYTES_MAX + 1))], false);
        check_report(&[("", Reading::Absent)], false);
        check_report(&[("os\u{1b}", Reading::Absent)], false);
        let list = Reading::Value(Value::List(vec![String::new(); FACT_LIST_MAX + 1]));
        check_report(&[("process.running", list)], false);
        let names: Vec<String> = (0..=FACTS_MAX).map(|n| format!("fact.{n}")).collect();
        let many: Vec<(&str, Reading)> = names
            .iter()
            .map(|name| (name.as_str(), Reading::Absent))
            .collect();
        check_report(&many, false);
    }

    #[test]
    fn skew_is_signed_and_does_not_wrap() {
        assert_eq!(skew_ms(UnixMillis(10), UnixMillis(4)), 6);
        assert_eq!(skew_ms(UnixMillis(4), UnixMillis(10)), -6);
        assert_eq!(skew_ms(UnixMillis(u64::MAX), UnixMillis(0)), i64::MAX);
        assert!(skew_ms(UnixMillis(0), UnixMillis(u64::MAX)) <= -i64::MAX);
    }

    fn check_report(facts: &[(&str, Reading)], accepted: bool) {
        let facts = facts
            .iter()
            .map(|(name, reading)| {
                let fact = Fact {
                    reading: reading.clone(),
                    grade: Grade::Own,
                    age_ms: 0,
                };
                ((*name).to_owned(), fact)
            })
            .collect();
        let report = Report {
            counter: 1,
            nonce: Bytes([0; 16]),
            clock: start().unix,
            facts,
        };
        assert_eq!(Facts::accept(report, start()).is_ok(), accepted);
    }
}
