//! From decisions to the words, codes and reasons in which others hear of them.

use cardea_proto::{
    decision::{Decision, Reason},
    ledger::EndReason,
    posture::PostureVerdict,
    refusal::{Refusal, RefusalCode},
};

use crate::{
    api::CommitError,
    judge::{PassingAppraisal, RULE_CLOCK, RULE_SIMULATED},
    posture::Facts,
};

/// The code of a denial, from which scripts get their exit code.
pub(crate) fn code_of(decision: &Decision) -> RefusalCode {
    let by_rule = |rule: &str| decision.rules.iter().any(|other| other == rule);
    match decision.reason {
        Reason::CheckFailed | Reason::NotCompliant if by_rule(RULE_CLOCK) => RefusalCode::ClockSkew,
        Reason::CheckFailed | Reason::NotCompliant if by_rule(RULE_SIMULATED) => {
            RefusalCode::SimulatedPosture
        }
        Reason::CheckFailed | Reason::NotCompliant | Reason::StalePosture => {
            RefusalCode::PostureFailed
        }
        Reason::Blocked => RefusalCode::Blocked,
        Reason::CertificateExpired => RefusalCode::CertificateExpired,
        Reason::Gone => RefusalCode::NotFound,
        // A certificate that no rule permits is one that this posture does not earn.
        Reason::NoRule | Reason::Forbidden if decision.action == "certify" => {
            RefusalCode::PostureFailed
        }
        Reason::Permitted | Reason::NoRule | Reason::Forbidden | Reason::EvaluationError => {
            RefusalCode::NotPermitted
        }
    }
}

/// A denial as a person reads it: why, then what to do.
pub(crate) fn refusal_of(decision: &Decision) -> Refusal {
    let code = code_of(decision);
    let refusal = Refusal::new(code, decision.headline());
    match decision.advice() {
        Some(advice) if code == RefusalCode::PostureFailed && !advice.contains(": cardea") => {
            let advice = advice.trim_end_matches('.');
            refusal.with_next(format!("{advice}, then: cardea posture"))
        }
        Some(advice) => refusal.with_next(advice),
        None => refusal,
    }
}

/// The same for a device that is not enrolled yet, of which `cardea posture` knows nothing: its code
/// is still good.
pub(crate) fn refusal_before_enrollment(decision: &Decision) -> Refusal {
    let mut refusal = refusal_of(decision);
    refusal.next = refusal.next.map(|next| {
        next.replace(
            "Look at: cardea posture",
            "Mend that, then: the same command again",
        )
        .replace("cardea posture", "the same command again")
    });
    refusal
}

/// Why a grant ends whose decision no longer allows it.
pub(crate) fn end_reason(decision: &Decision) -> EndReason {
    match decision.reason {
        Reason::CheckFailed | Reason::NotCompliant => EndReason::PostureFailed,
        Reason::StalePosture => EndReason::PostureStale,
        Reason::Blocked => EndReason::DeviceBlocked,
        Reason::CertificateExpired => EndReason::CertificateExpired,
        Reason::Permitted
        | Reason::NoRule
        | Reason::Forbidden
        | Reason::EvaluationError
        | Reason::Gone => EndReason::NotPermitted,
    }
}

/// Why a request is not granted whose grant ended before it was.
pub(crate) fn refusal_of_end(app: &str, reason: EndReason) -> Refusal {
    use RefusalCode::{
        Blocked, Busy, CertificateExpired, NoConnector, NotFound, NotPermitted, PostureFailed,
    };
    let explain = format!("Look at: cardea explain {app}");
    let (code, why, next) = match reason {
        EndReason::Revoked => (NotPermitted, "an admin revoked the grant", explain),
        EndReason::NotPermitted => (NotPermitted, "it is no longer permitted", explain),
        EndReason::PostureFailed => (
            PostureFailed,
            "posture does not pass",
            "Look at: cardea posture".to_owned(),
        ),
        EndReason::PostureStale => (
            PostureFailed,
            "the device's last posture report is too old",
            "Look at: cardea posture".to_owned(),
        ),
        EndReason::DeviceBlocked => (Blocked, "this device is blocked", explain),
        EndReason::CertificateExpired => (
            CertificateExpired,
            "the device's certificate has expired",
            "Look at: cardea status".to_owned(),
        ),
        EndReason::AppChanged => (
            NotFound,
            "the app was changed or removed",
            "Look at: cardea apps".to_owned(),
        ),
        EndReason::ConnectorGone => (
            NoConnector,
            "its connector went away",
            "Ask an admin to look at: cardeactl connector ls".to_owned(),
        ),
        EndReason::Replaced => (
            Busy,
            "a newer request took its place",
            "Try again".to_owned(),
        ),
        EndReason::Expired | EndReason::Closed | EndReason::ControllerRestarted => {
            (Busy, "the request was given up", "Try again".to_owned())
        }
    };
    Refusal::new(code, format!("{app}: denied: {why}")).with_next(next)
}

/// Why something was not done that the store did not take.
pub(crate) fn refusal_of_commit(why: &CommitError) -> Refusal {
    match why {
        CommitError::Conflict => Refusal::new(
            RefusalCode::Busy,
            "the records on which this rests keep changing",
        )
        .with_next("Try again"),
        CommitError::Full => Refusal::new(
            RefusalCode::StorageFull,
            "the controller's disk is full: nothing new is granted",
        )
        .with_next("Free space on the controller's disk; it recovers alone"),
        CommitError::Failed(_) => Refusal::new(
            RefusalCode::StorageRefused,
            "the controller cannot record anything at the moment",
        )
        .with_next("Look at: cardeactl status"),
    }
}

/// What a device is told about its latest report.
pub(crate) fn verdict_of(
    appraisal: &Result<PassingAppraisal, Box<Decision>>,
    facts: &Facts,
) -> PostureVerdict {
    let passed = verdict_passed(facts);
    match appraisal {
        Ok(_) => passed,
        Err(decision) => PostureVerdict {
            compliant: false,
            failed: decision.checks.clone(),
            remedy: decision.advice(),
            why: decision.checks.is_empty().then(|| decision.why()),
            ..passed
        },
    }
}

/// What a device that has just enrolled is told.
pub(crate) const fn verdict_passed(facts: &Facts) -> PostureVerdict {
    PostureVerdict {
        compliant: true,
        checked_at: facts.received_at(),
        failed: Vec::new(),
        remedy: None,
        report: None,
        why: None,
        clock_skew_s: Some(facts.skew_s()),
        blocked: false,
    }
}
