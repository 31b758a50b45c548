//! From decisions to the words, codes and reasons in which others hear of them.

use cardea_proto::{
    decision::{Decision, Reason},
    ledger::EndReason,
    posture::PostureVerdict,
    refusal::{Refusal, RefusalCode},
    time::UnixMillis,
};

use crate::{
    api::CommitError,
    judge::{PassingAppraisal, RULE_CLOCK, RULE_SIMULATED},
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
    let mut bare = decision.clone();
    let remedy = bare.remedy.take();
    let refusal = Refusal::new(code, bare.summary());
    match (remedy, code) {
        (Some(remedy), RefusalCode::PostureFailed) if !remedy.contains("cardea posture") => {
            let remedy = remedy.trim_end_matches('.').to_owned();
            refusal.with_next(format!("{remedy}, then: cardea posture"))
        }
        (Some(remedy), _) => refusal.with_next(remedy),
        (None, RefusalCode::PostureFailed) => refusal.with_next("Look at: cardea posture"),
        (None, _) => refusal,
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
    let (code, why) = match reason {
        EndReason::Revoked => (RefusalCode::NotPermitted, "an admin revoked the grant"),
        EndReason::NotPermitted => (RefusalCode::NotPermitted, "it is no longer permitted"),
        EndReason::PostureFailed => (RefusalCode::PostureFailed, "posture does not pass"),
        EndReason::PostureStale => (
            RefusalCode::PostureFailed,
            "the device's last posture report is too old",
        ),
        EndReason::DeviceBlocked => (RefusalCode::Blocked, "this device is blocked"),
        EndReason::CertificateExpired => (
            RefusalCode::CertificateExpired,
            "the device's certificate has expired",
        ),
        EndReason::AppChanged => (RefusalCode::NotFound, "the app was changed or removed"),
        EndReason::ConnectorGone => (RefusalCode::NoConnector, "its connector went away"),
        EndReason::Replaced => (RefusalCode::Busy, "a newer request took its place"),
        EndReason::Expired | EndReason::Closed | EndReason::ControllerRestarted => {
            (RefusalCode::Busy, "the request was given up")
        }
    };
    Refusal::new(code, format!("{app}: denied: {why}"))
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
    checked_at: UnixMillis,
) -> PostureVerdict {
    match appraisal {
        Ok(_) => PostureVerdict {
            compliant: true,
            checked_at,
            failed: Vec::new(),
            remedy: None,
            report: None,
        },
        Err(decision) => PostureVerdict {
            compliant: false,
            checked_at,
            failed: decision.checks.clone(),
            remedy: decision
                .remedy
                .clone()
                .or_else(|| decision.checks.is_empty().then(|| decision.summary())),
            report: None,
        },
    }
}

/// What a device that has just enrolled is told.
pub(crate) const fn verdict_passed(checked_at: UnixMillis) -> PostureVerdict {
    PostureVerdict {
        compliant: true,
        checked_at,
        failed: Vec::new(),
        remedy: None,
        report: None,
    }
}
