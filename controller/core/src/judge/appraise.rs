//! One report against the controller's own conditions and the policy.

use std::time::Duration;

use cardea_proto::{
    decision::{Check, Decision, Reason},
    name::Name,
    time::Now,
};

use super::{Applicant, PassingAppraisal};
use crate::{
    policy::{CLOCK_SKEW, CertifyAsk, Circumstances, DeviceFacts, Engine},
    posture::Facts,
    settings::{CLOCK_SKEW_MAX, Settings},
};

/// The rule under which a clock that is far off fails an appraisal, whatever the policy says.
pub(crate) const RULE_CLOCK: &str = "controller/clock";

/// The rule under which simulated facts fail an appraisal, unless the controller accepts them.
pub(crate) const RULE_SIMULATED: &str = "controller/simulated-posture";

/// Appraises one report: the controller's own conditions, then the policy.
pub(crate) fn appraise(
    engine: &Engine,
    settings: &Settings,
    domain: &Name,
    applicant: Applicant<'_>,
    facts: &Facts,
    now: Now,
) -> Result<PassingAppraisal, Box<Decision>> {
    let builtin = clock_check(facts).or_else(|| simulated_check(settings, facts));
    if let Some(check) = builtin {
        let mut decision = denial(
            "certify",
            applicant.id.to_string(),
            domain.to_string(),
            Reason::CheckFailed,
            engine,
        );
        decision.rules = vec![check.rule.clone()];
        decision.remedy.clone_from(&check.remedy);
        decision.checks = vec![check];
        return Err(decision);
    }
    let decision = engine.decide_certify(&CertifyAsk {
        domain,
        device: DeviceFacts {
            id: applicant.id,
            name: applicant.name,
            os: applicant.os,
            owner: applicant.owner,
            posture: facts.facts(),
            report_age: facts.age(now),
            clock_skew_s: Some(facts.skew_s()),
        },
        groups: applicant.groups,
        circumstances: Circumstances {
            address: applicant.address,
            time: now.unix,
        },
    });
    if decision.allowed {
        Ok(PassingAppraisal {
            reported_at: facts.received_at(),
            decision,
        })
    } else {
        Err(Box::new(decision))
    }
}

fn clock_check(facts: &Facts) -> Option<Check> {
    let skew = Duration::from_millis(facts.skew_ms().unsigned_abs());
    if skew <= CLOCK_SKEW_MAX {
        return None;
    }
    let direction = if facts.skew_ms() > 0 {
        "ahead of"
    } else {
        "behind"
    };
    Some(Check {
        subject: CLOCK_SKEW.to_owned(),
        observed: (facts.skew_s()).to_string(),
        needed: format!("within {} s", CLOCK_SKEW_MAX.as_secs()),
        rule: RULE_CLOCK.to_owned(),
        remedy: Some(format!(
            "Set this device's clock: it is {} s {direction} the controller's",
            skew.as_secs()
        )),
    })
}

fn simulated_check(settings: &Settings, facts: &Facts) -> Option<Check> {
    if settings.allow_simulated_posture {
        return None;
    }
    facts.simulated().map(|name| Check {
        subject: name.clone(),
        observed: "grade simulated".to_owned(),
        needed: "collected on the device".to_owned(),
        rule: RULE_SIMULATED.to_owned(),
        remedy: Some(
            "Run the agent without --facts-from, or the controller with --allow-simulated-posture"
                .to_owned(),
        ),
    })
}

pub(super) fn denial(
    action: &str,
    principal: String,
    resource: String,
    reason: Reason,
    engine: &Engine,
) -> Box<Decision> {
    let mut decision = Decision {
        action: action.to_owned(),
        principal,
        resource,
        allowed: false,
        reason,
        rules: Vec::new(),
        checks: Vec::new(),
        remedy: None,
        errors: Vec::new(),
        policy_revision: engine.revision(),
        appraisal: None,
    };
    decision.remedy = decision.advice();
    Box::new(decision)
}
