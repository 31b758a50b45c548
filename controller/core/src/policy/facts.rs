//! The facts that policies know, and what each device's report says about them.

use std::{borrow::Cow, collections::BTreeMap, sync::LazyLock};

use cardea_proto::posture::{FACT_LIST_MAX, FACT_TEXT_BYTES_MAX, Grade, Reading, Value};

use super::ask::DeviceFacts;

/// What kind of value a fact has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Yes or no.
    Bool,
    /// A whole number, in the unit that ends the fact's name.
    Long,
    /// Text.
    Text,
    /// Text that begins with up to three numbers.
    Version,
    /// A set of texts.
    List,
}

impl Kind {
    /// The kind as people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Long => "a number",
            Self::Text => "text",
            Self::Version => "a version",
            Self::List => "a list",
        }
    }
}

/// A fact that policies may look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFact {
    /// Its name in reports, such as `disk.encrypted`.
    pub name: &'static str,
    /// Its name in policies, such as `disk_encrypted`.
    pub attribute: String,
    /// The kind of its value; a report that says another kind has no value for it.
    pub kind: Kind,
}

/// The name of the fact that the controller computes itself.
pub const CLOCK_SKEW: &str = "clock.skew_s";

/// Every fact that policies may look at, with the kind of its value; the schema says the same.
pub const CATALOGUE: &[(&str, Kind)] = &[
    ("agent.version", Kind::Version),
    ("auto.update", Kind::Bool),
    ("autologin", Kind::Bool),
    ("av.active", Kind::Bool),
    ("av.signature.age_days", Kind::Long),
    (CLOCK_SKEW, Kind::Long),
    ("debug.mode", Kind::Bool),
    ("disk.encrypted", Kind::Bool),
    ("disk.method", Kind::Text),
    ("disk.unencrypted", Kind::List),
    ("domain.joined", Kind::Bool),
    ("edr.running", Kind::Bool),
    ("firewall.enabled", Kind::Bool),
    ("jailbroken", Kind::Bool),
    ("kernel.lockdown", Kind::Text),
    ("mdm.enrolled", Kind::Bool),
    ("os.build", Kind::Text),
    ("os.name", Kind::Text),
    ("os.version", Kind::Version),
    ("patch.age_days", Kind::Long),
    ("process.running", Kind::List),
    ("reboot.pending", Kind::Bool),
    ("screen.lock", Kind::Bool),
    ("screen.lock_delay_s", Kind::Long),
    ("secure.boot", Kind::Bool),
    ("swap.encrypted", Kind::Bool),
    ("system.integrity", Kind::Bool),
    ("tpm.present", Kind::Bool),
    ("tpm.version", Kind::Version),
    ("uptime_s", Kind::Long),
    ("virtual.machine", Kind::Bool),
];

static KNOWN: LazyLock<Vec<KnownFact>> = LazyLock::new(|| {
    let known = |&(name, kind): &(&'static str, Kind)| KnownFact {
        name,
        attribute: name.replace('.', "_"),
        kind,
    };
    CATALOGUE.iter().map(known).collect()
});

static BY_ATTRIBUTE: LazyLock<BTreeMap<&'static str, usize>> = LazyLock::new(|| {
    let numbered = KNOWN.iter().enumerate();
    numbered
        .map(|(number, fact)| (fact.attribute.as_str(), number))
        .collect()
});

/// Every fact that policies may look at, in the order of the [`CATALOGUE`].
#[must_use]
pub fn known() -> &'static [KnownFact] {
    &KNOWN
}

/// A fact by its name in policies, with its place in the catalogue.
pub(super) fn find(attribute: &str) -> Option<(usize, &'static KnownFact)> {
    let number = *BY_ATTRIBUTE.get(attribute)?;
    KNOWN.get(number).map(|fact| (number, fact))
}

/// What a report says about one fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Observed<'a> {
    /// A value of the right kind.
    Value(Cow<'a, Value>, Grade, i64),
    /// No value, and why: `absent`, `unsupported`, `denied`, `error`, or what is wrong with it.
    Nothing(Cow<'static, str>),
}

/// Looks a fact up in a device's report.
pub(super) fn observe<'a>(device: &DeviceFacts<'a>, known: &KnownFact) -> Observed<'a> {
    if known.name == CLOCK_SKEW {
        return device
            .clock_skew_s
            .map_or(Observed::Nothing("absent".into()), |skew| {
                let age = saturating_seconds(device.report_age.as_millis());
                Observed::Value(Cow::Owned(Value::Integer(skew)), Grade::Os, age)
            });
    }
    let Some(fact) = device.posture.get(known.name) else {
        return Observed::Nothing("absent".into());
    };
    match &fact.reading {
        Reading::Value(value) if fits(value, known.kind) => {
            let age = device
                .report_age
                .as_millis()
                .saturating_add(u128::from(fact.age_ms));
            Observed::Value(Cow::Borrowed(value), fact.grade, saturating_seconds(age))
        }
        Reading::Value(_) => Observed::Nothing(format!("not {}", known.kind.as_str()).into()),
        Reading::Absent => Observed::Nothing("absent".into()),
        Reading::Unsupported => Observed::Nothing("unsupported".into()),
        Reading::Denied => Observed::Nothing("denied".into()),
        Reading::Error(_) => Observed::Nothing("error".into()),
    }
}

/// The numbers with which a version begins: `12.4-rc1` is 12, 4, 0.
pub(super) fn version_numbers(text: &str) -> Option<[i64; 3]> {
    let mut numbers = [0; 3];
    let mut rest = text;
    for (at, number) in numbers.iter_mut().enumerate() {
        if at > 0 {
            match rest.strip_prefix('.') {
                Some(after) if after.starts_with(|c: char| c.is_ascii_digit()) => rest = after,
                _ => break,
            }
        }
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        *number = digits.parse().ok()?;
        rest = after;
    }
    Some(numbers)
}

fn fits(value: &Value, kind: Kind) -> bool {
    match value {
        Value::Bool(_) => kind == Kind::Bool,
        Value::Integer(_) => kind == Kind::Long,
        Value::Text(text) => {
            matches!(kind, Kind::Text | Kind::Version) && text.len() <= FACT_TEXT_BYTES_MAX
        }
        Value::List(texts) => {
            kind == Kind::List
                && texts.len() <= FACT_LIST_MAX
                && texts.iter().all(|text| text.len() <= FACT_TEXT_BYTES_MAX)
        }
    }
}

fn saturating_seconds(millis: u128) -> i64 {
    i64::try_from(millis / 1_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_give_their_leading_numbers_or_none() {
        assert_eq!(version_numbers("12"), Some([12, 0, 0]));
        assert_eq!(version_numbers("12.4-rc1"), Some([12, 4, 0]));
        assert_eq!(version_numbers("10.0.22631.3880"), Some([10, 0, 22_631]));
        assert_eq!(version_numbers("6.1.0-18-amd64"), Some([6, 1, 0]));
        assert_eq!(version_numbers("7."), Some([7, 0, 0]));
        for text in ["", "rolling", ".1", "-1", "99999999999999999999999", "１２"] {
            assert_eq!(version_numbers(text), None, "{text:?}");
        }
    }
}
