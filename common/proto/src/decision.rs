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
                // What ends with a command to type has no full stop, which would be typed with it.
                let ends = remedy.ends_with(['.', '!', '?']) || remedy.contains(": cardea");
                let stop = if ends { "" } else { "." };
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
                    let whose = if check.is_about_device() {
                        " on this device"
                    } else {
                        ""
                    };
                    format!(
                        "{prefix}{} is {}{whose} (needed: {}, rule {})",
                        check.subject, check.observed, check.needed, check.rule
                    )
                },
            )
        };
        match self.reason {
            Reason::Permitted => "permitted".to_owned(),
            Reason::NoRule if self.action == "certify" => {
                format!("no rule permits a certificate for {principal}")
            }
            Reason::NoRule => format!("no rule permits {principal} on app {resource}"),
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

impl Check {
    /// Whether this is about a fact of the device, and not about the request around it.
    #[must_use]
    pub fn is_about_device(&self) -> bool {
        let about = self.subject.split(['.', ' ']).next();
        !matches!(about, Some("context" | "principal" | "resource" | "action"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(reason: Reason, checks: Vec<Check>, remedy: &str) -> Decision {
        Decision {
            action: "connect".to_owned(),
            principal: "alice@corp.example".to_owned(),
            resource: "wiki".to_owned(),
            allowed: false,
            reason,
            rules: vec!["base/certify".to_owned()],
            checks,
            remedy: Some(remedy.to_owned()),
            errors: Vec::new(),
            policy_revision: Revision(7),
        }
    }

    fn check(subject: &str, observed: &str, needed: &str) -> Check {
        Check {
            subject: subject.to_owned(),
            observed: observed.to_owned(),
            needed: needed.to_owned(),
            rule: "base/certify".to_owned(),
            remedy: None,
        }
    }

    #[test]
    fn a_denial_reads_as_the_product_contract_says() {
        let check = check("disk.encrypted", "false", "true");
        let remedy = "Turn on disk encryption, then: cardea posture";
        assert_eq!(
            denied(Reason::NotCompliant, vec![check], remedy).summary(),
            "wiki: denied: disk.encrypted is false on this device (needed: true, rule \
             base/certify). Turn on disk encryption, then: cardea posture"
        );
    }

    #[test]
    fn a_check_of_the_request_is_not_said_to_be_of_the_device() {
        let check = check("context.time.hour", "22", "< 18");
        assert_eq!(
            denied(Reason::CheckFailed, vec![check], "Come back tomorrow").summary(),
            "wiki: denied: context.time.hour is 22 (needed: < 18, rule base/certify). Come back \
             tomorrow."
        );
    }

    #[test]
    fn a_denial_without_a_rule_names_the_user_and_the_app() {
        let remedy = "Ask an admin to run: cardeactl allow user:alice@corp.example wiki";
        assert_eq!(
            denied(Reason::NoRule, Vec::new(), remedy).summary(),
            "wiki: denied: no rule permits alice@corp.example on app wiki. Ask an admin to run: \
             cardeactl allow user:alice@corp.example wiki"
        );
    }
}
