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
    /// The device is not enrolled, or no longer.
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
    /// Why the device's appraisal does not pass, where that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appraisal: Option<Reason>,
}

impl fmt::Display for Decision {
    /// The text of every `explain`: one line of verdict, then one line for each check and error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
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
    /// The verdict, why, and what to do: the first line of [`fmt::Display`], which is all that an
    /// error message has room for.
    #[must_use]
    pub fn summary(&self) -> String {
        let headline = self.headline();
        let Some(advice) = self.advice() else {
            return headline;
        };
        // What ends with a command to type has no full stop, which would be typed with it.
        let ends = advice.ends_with(['.', '!', '?']) || advice.contains(": cardea");
        let stop = if ends { "" } else { "." };
        format!("{headline}. {advice}{stop}")
    }

    /// The verdict and why, without a full stop.
    #[must_use]
    pub fn headline(&self) -> String {
        let Self {
            resource,
            principal,
            ..
        } = self;
        if self.allowed {
            format!("{resource}: allowed for {principal}{}", self.by_rules())
        } else {
            format!("{resource}: denied: {}", self.why())
        }
    }

    /// What a person can do about a denial: what the rule says, else whom to ask.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        if self.allowed {
            return None;
        }
        let said = self.remedy.as_ref().filter(|remedy| !remedy.is_empty());
        Some(said.cloned().unwrap_or_else(|| self.usual_advice()))
    }

    fn usual_advice(&self) -> String {
        let Self {
            principal,
            resource,
            ..
        } = self;
        let is_certify = self.action == "certify";
        let is_about_device = is_certify || self.checks.iter().any(Check::is_about_device);
        let of_appraisal = self
            .appraisal
            .filter(|_| self.reason == Reason::NotCompliant);
        match of_appraisal.unwrap_or(self.reason) {
            Reason::NoRule if is_certify || of_appraisal.is_some() => {
                "Ask an admin for a rule that permits it: cardeactl policy show".to_owned()
            }
            Reason::NoRule => {
                format!("Ask an admin to run: cardeactl allow user:{principal} {resource}")
            }
            Reason::CheckFailed if !is_about_device => {
                "Ask an admin what the rule is for: cardeactl policy show".to_owned()
            }
            Reason::Permitted
            | Reason::CheckFailed
            | Reason::NotCompliant
            | Reason::StalePosture => "Look at: cardea posture".to_owned(),
            Reason::Forbidden => {
                "Ask an admin what the rule is for: cardeactl policy show".to_owned()
            }
            Reason::EvaluationError => {
                "Ask an admin to mend the policy: cardeactl policy show".to_owned()
            }
            Reason::Blocked if is_certify => {
                format!("Ask an admin to run: cardeactl device unblock {principal}")
            }
            Reason::Blocked => "Ask an admin to unblock it: cardeactl device ls".to_owned(),
            Reason::CertificateExpired => "Look at: cardea status".to_owned(),
            Reason::Gone => {
                "Ask an admin for a code (cardeactl invite device), then: cardea up CODE".to_owned()
            }
        }
    }

    /// Why, without a full stop.
    #[must_use]
    pub fn why(&self) -> String {
        match self.reason {
            Reason::NotCompliant => self.why_not_compliant(),
            reason @ (Reason::Permitted
            | Reason::NoRule
            | Reason::CheckFailed
            | Reason::Forbidden
            | Reason::EvaluationError
            | Reason::StalePosture
            | Reason::Blocked
            | Reason::CertificateExpired
            | Reason::Gone) => self.why_for(reason),
        }
    }

    /// A failed check speaks for itself; anything else is said to be about the certificate.
    fn why_not_compliant(&self) -> String {
        let appraisal = self.appraisal.unwrap_or(Reason::NotCompliant);
        let why = match appraisal {
            Reason::NoRule => "no rule permits one".to_owned(),
            reason @ (Reason::Permitted
            | Reason::CheckFailed
            | Reason::Forbidden
            | Reason::EvaluationError
            | Reason::NotCompliant
            | Reason::StalePosture
            | Reason::Blocked
            | Reason::CertificateExpired
            | Reason::Gone) => self.why_for(reason),
        };
        if self.checks.is_empty() {
            format!("this device may not hold a certificate: {why}")
        } else {
            why
        }
    }

    fn why_for(&self, reason: Reason) -> String {
        let Self {
            principal,
            resource,
            ..
        } = self;
        match reason {
            // Only what was made wrong denies with this reason.
            Reason::Permitted => "the decision is not complete".to_owned(),
            Reason::NoRule if self.action == "certify" => {
                format!("no rule permits a certificate for {principal}")
            }
            Reason::NoRule => format!("no rule permits {principal} on app {resource}"),
            Reason::CheckFailed | Reason::NotCompliant => self.checks.first().map_or_else(
                || format!("a condition is not met{}", self.of_rules()),
                Check::place,
            ),
            Reason::Forbidden => self.checks.first().map_or_else(
                || format!("forbidden{}", self.by_rules()),
                |check| format!("forbidden: {}", check.place()),
            ),
            Reason::EvaluationError if self.errors.is_empty() => {
                format!("a rule could not be evaluated{}", self.of_rules())
            }
            Reason::EvaluationError => {
                format!("a rule could not be evaluated ({})", self.errors.join("; "))
            }
            Reason::StalePosture => "the device's last posture report is too old".to_owned(),
            Reason::Blocked => "this device is blocked".to_owned(),
            Reason::CertificateExpired => "the device's certificate has expired".to_owned(),
            Reason::Gone => "this device is not enrolled, or was removed".to_owned(),
        }
    }

    fn by_rules(&self) -> String {
        if self.rules.is_empty() {
            " by the policy".to_owned()
        } else {
            format!(" by rule {}", self.rules.join(", "))
        }
    }

    fn of_rules(&self) -> String {
        if self.rules.is_empty() {
            String::new()
        } else {
            format!(" (rule {})", self.rules.join(", "))
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

    /// What was found and needed, and by which rule, with the device where it is about that.
    #[must_use]
    pub fn place(&self) -> String {
        let whose = if self.is_about_device() {
            " on this device"
        } else {
            ""
        };
        let Self {
            subject,
            observed,
            needed,
            rule,
            ..
        } = self;
        format!("{subject} is {observed}{whose} (needed: {needed}, rule {rule})")
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
            appraisal: None,
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

    #[test]
    fn a_certificate_that_no_rule_permits_is_said_and_who_can_change_it() {
        let decision = Decision {
            rules: Vec::new(),
            appraisal: Some(Reason::NoRule),
            remedy: None,
            ..denied(Reason::NotCompliant, Vec::new(), "")
        };
        assert_eq!(
            decision.summary(),
            "wiki: denied: this device may not hold a certificate: no rule permits one. Ask an \
             admin for a rule that permits it: cardeactl policy show"
        );
    }

    #[test]
    fn every_denial_says_why_and_what_to_do() {
        let mut count = 0;
        for reason in REASONS {
            let appraisals = REASONS.map(Some).into_iter().chain([None]);
            for appraisal in appraisals.filter(|_| reason != Reason::Permitted) {
                for decision in shapes(reason, appraisal) {
                    is_a_whole_sentence(&decision);
                    count += 1;
                }
            }
        }
        assert_eq!(count, 9 * 11 * 2 * 3 * 3 * 2 * 4);
    }

    const REASONS: [Reason; 10] = [
        Reason::Permitted,
        Reason::NoRule,
        Reason::CheckFailed,
        Reason::Forbidden,
        Reason::EvaluationError,
        Reason::NotCompliant,
        Reason::StalePosture,
        Reason::Blocked,
        Reason::CertificateExpired,
        Reason::Gone,
    ];

    /// Everything that a denial for this reason may lack or have.
    fn shapes(reason: Reason, appraisal: Option<Reason>) -> Vec<Decision> {
        let rules: [&[&str]; 3] = [&[], &["one"], &["one", "two"]];
        let checks = [
            Vec::new(),
            vec![check("disk.encrypted", "false", "true")],
            vec![check("context.time.hour", "22", "< 18")],
        ];
        let errors: [&[&str]; 2] = [&[], &["rule one: overflow"]];
        let remedies = [None, Some(""), Some("Wait"), Some("Wait.")];
        let mut shapes = Vec::new();
        for action in ["certify", "connect"] {
            for rules in rules {
                for checks in &checks {
                    for errors in errors {
                        shapes.extend(remedies.map(|remedy| Decision {
                            action: action.to_owned(),
                            rules: rules.iter().map(ToString::to_string).collect(),
                            errors: errors.iter().map(ToString::to_string).collect(),
                            remedy: remedy.map(str::to_owned),
                            appraisal,
                            ..denied(reason, checks.clone(), "")
                        }));
                    }
                }
            }
        }
        shapes
    }

    fn is_a_whole_sentence(decision: &Decision) {
        let said = decision.summary();
        let why = decision.headline();
        let why = why.strip_prefix("wiki: denied: ").unwrap();
        assert!(why.len() > 15, "no reason: {said}");
        assert!(
            why.ends_with(|last: char| last.is_ascii_alphanumeric() || last == ')'),
            "{said}"
        );
        for broken in ["  ", "rule .", "rule )", "()", ", )", ": .", "..", " ,"] {
            assert!(!said.contains(broken), "{broken:?} in {said:?}");
        }
        let is_forbidden = decision.reason == Reason::Forbidden
            || (decision.reason == Reason::NotCompliant
                && decision.appraisal == Some(Reason::Forbidden));
        assert_eq!(why.contains("forbidden"), is_forbidden, "{said}");
        let advice = decision.advice().unwrap();
        assert!(said.contains(&format!(". {advice}")), "{said}");
        assert!(
            advice.starts_with("Wait") || advice.contains("cardea"),
            "nothing to do: {said}"
        );
    }
}
