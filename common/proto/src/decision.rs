//! Decisions that explain themselves, and the one text in which every program shows them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ledger::Revision;

/// One condition of a rule, as observed and as needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at: a fact (`disk.encrypted`) or an attribute (`context.place.country`).
    pub subject: String,
    /// What was found, as text: `false`, `absent`, `grade self`, …
    pub observed: String,
    /// What the rule needs, as text: `true`, `>= 3`, …
    pub needed: String,
    /// The rule, by its `@id`.
    pub rule: String,
    /// What a person can do, from the rule's `@remedy`.
    pub remedy: Option<String>,
}

/// Why a decision came out as it did, in one word that scripts can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// At least one rule permits and none forbids.
    Permitted,
    /// No rule permits this subject on this app, whatever its posture.
    NoRule,
    /// A rule would permit, but a check on the device's posture or the context failed.
    CheckFailed,
    /// A rule forbids.
    Forbidden,
    /// A rule could not be evaluated; that denies.
    EvaluationError,
    /// The device's appraisal does not pass, so it may not connect to anything.
    NotCompliant,
    /// The latest report is older than a decision may rest on.
    StalePosture,
    /// The device is blocked.
    Blocked,
    /// The device's certificate has expired.
    CertificateExpired,
    /// The app, user, device or rule is gone.
    Gone,
}

/// Allow or deny, with the reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What was asked: `certify` or `connect`.
    pub action: String,
    /// Who asked: the device for `certify`, the user for `connect`.
    pub principal: String,
    /// What for: the trust domain or the app.
    pub resource: String,
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why, in one word.
    pub reason: Reason,
    /// The rules that decided, by `@id`.
    pub rules: Vec<String>,
    /// The checks that stood in the way; empty when allowed.
    pub checks: Vec<Check>,
    /// What a person can do about a denial, in one sentence.
    pub remedy: Option<String>,
    /// Texts of evaluation errors, if any.
    pub errors: Vec<String>,
    /// The policy that was in force.
    pub policy_revision: Revision,
}

impl fmt::Display for Decision {
    /// The text of every `explain`: one line of verdict, then one line for each check and error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resource,
            principal,
            ..
        } = self;
        if self.allowed {
            write!(
                f,
                "{resource}: allowed for {principal} by rule {}",
                self.rules.join(", ")
            )?;
        } else {
            write!(f, "{resource}: denied: {}", self.why())?;
            if let Some(remedy) = &self.remedy {
                let stop = if remedy.ends_with(['.', '!', '?']) {
                    ""
                } else {
                    "."
                };
                write!(f, ". {remedy}{stop}")?;
            }
        }
        write!(f, "\n  policy revision {}", self.policy_revision)?;
        for check in &self.checks {
            write!(f, "\n  {check}")?;
        }
        for error in &self.errors {
            write!(f, "\n  error: {error}")?;
        }
        Ok(())
    }
}

impl Decision {
    /// The first line of [`fmt::Display`], which is all that an error message has room for.
    #[must_use]
    pub fn summary(&self) -> String {
        self.to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    fn why(&self) -> String {
        let Self {
            principal,
            resource,
            ..
        } = self;
        let first = self.checks.first();
        let checked = |prefix: &str| {
            first.map_or_else(
                || format!("{prefix}rule {}", self.rules.join(", ")),
                |check| {
                    format!(
                        "{prefix}{} is {} on this device (needed: {}, rule {})",
                        check.subject, check.observed, check.needed, check.rule
                    )
                },
            )
        };
        match self.reason {
            Reason::Permitted => "permitted".to_owned(),
            Reason::NoRule => {
                format!("no rule permits {principal} to {} {resource}", self.action)
            }
            Reason::CheckFailed | Reason::NotCompliant => checked(""),
            Reason::Forbidden => checked("forbidden: "),
            Reason::EvaluationError => {
                format!("a rule could not be evaluated ({})", self.errors.join("; "))
            }
            Reason::StalePosture => "the device's last posture report is too old".to_owned(),
            Reason::Blocked => "this device is blocked".to_owned(),
            Reason::CertificateExpired => "the device's certificate has expired".to_owned(),
            Reason::Gone => "it no longer exists".to_owned(),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subject,
            observed,
            needed,
            rule,
            ..
        } = self;
        write!(f, "{subject} is {observed} (needed: {needed}, rule {rule})")?;
        self.remedy
            .as_ref()
            .map_or(Ok(()), |remedy| write!(f, ": {remedy}"))
    }
}
