//! Why an access ended or could not begin, in words for a person.

use cardea_proto::{
    decision::Check,
    ledger::EndReason,
    name::Name,
    posture::PostureVerdict,
    refusal::{Refusal, RefusalCode},
};
use cardea_tunnel::CloseReason;

/// What a person is told whose grant the controller took back.
pub(crate) fn ended(app: &Name, reason: EndReason, verdict: Option<&PostureVerdict>) -> Refusal {
    let refusal = |code, text: &str, next: &str| {
        Refusal::new(code, format!("{app}: closed: {text}")).with_next(next)
    };
    let explain = format!("See: cardea explain {app}");
    match reason {
        EndReason::Revoked => refusal(RefusalCode::NotPermitted, "an admin revoked it", &explain),
        EndReason::NotPermitted => {
            let text = "no rule permits it any longer";
            refusal(RefusalCode::NotPermitted, text, &explain)
        }
        EndReason::PostureFailed => posture_failed(app, verdict),
        EndReason::PostureStale => refusal(
            RefusalCode::PostureFailed,
            "this device has not reported its posture in time",
            "See: cardea posture",
        ),
        EndReason::DeviceBlocked => {
            refusal(RefusalCode::Blocked, "this device is blocked", &explain)
        }
        EndReason::CertificateExpired => refusal(
            RefusalCode::CertificateExpired,
            "this device's certificate has ended",
            "See: cardea status",
        ),
        EndReason::AppChanged => refusal(
            RefusalCode::NotFound,
            "the app was changed",
            "See: cardea apps",
        ),
        EndReason::ConnectorGone => refusal(
            RefusalCode::NoConnector,
            "its connector is not connected",
            "Ask an admin to look at: cardeactl connector ls",
        ),
        EndReason::Expired => again(app, "its time ended"),
        EndReason::Closed => again(app, "its other end closed it"),
        EndReason::Replaced => again(app, "a newer tunnel took its place"),
        EndReason::ControllerRestarted => again(app, "the controller restarted"),
    }
}

/// What ended without anybody's decision: the next connection opens it again.
fn again(app: &Name, text: &str) -> Refusal {
    Refusal::new(RefusalCode::Unreachable, format!("{app}: closed: {text}"))
        .with_next("Connect again to open it")
}

/// What a person is told whose device does not pass, from the verdict's first failed check.
///
/// For example `wiki: denied: disk.encrypted is false on this device (needed: true, rule
/// base/certify). Turn on disk encryption, then: cardea posture`.
pub(crate) fn posture_failed(app: &Name, verdict: Option<&PostureVerdict>) -> Refusal {
    let code = RefusalCode::PostureFailed;
    let verdict = verdict.filter(|verdict| !verdict.compliant);
    let check = verdict.and_then(|verdict| verdict.failed.first());
    let said = verdict.and_then(|verdict| verdict.why.as_deref());
    let why = check.map_or_else(
        || {
            said.unwrap_or("this device's posture does not pass")
                .to_owned()
        },
        Check::place,
    );
    let remedy = check
        .and_then(|check| check.remedy.as_ref())
        .or_else(|| verdict?.remedy.as_ref());
    let next = match remedy {
        Some(remedy) if remedy.contains(": cardea") => remedy.clone(),
        Some(remedy) => format!("{}, then: cardea posture", remedy.trim_end_matches('.')),
        None => "See: cardea posture".to_owned(),
    };
    Refusal::new(code, format!("{app}: denied: {why}")).with_next(next)
}

/// What a person is told whose tunnel ended by itself.
pub(crate) fn tunnel_closed(app: &Name, reason: CloseReason) -> Refusal {
    let code = match reason {
        CloseReason::PeerRefused => RefusalCode::NotProven,
        CloseReason::Invalid => RefusalCode::Internal,
        CloseReason::Removed
        | CloseReason::Expired
        | CloseReason::Replaced
        | CloseReason::Lost
        | CloseReason::PeerClosed => RefusalCode::Unreachable,
    };
    Refusal::new(code, format!("{app}: tunnel closed: {reason}"))
        .with_next("Connect again to open it")
}

/// Whether a grant that ended for this reason could not be had again by asking.
pub(crate) const fn is_denial(reason: EndReason) -> bool {
    match reason {
        EndReason::Revoked
        | EndReason::NotPermitted
        | EndReason::PostureFailed
        | EndReason::PostureStale
        | EndReason::DeviceBlocked
        | EndReason::CertificateExpired => true,
        EndReason::AppChanged
        | EndReason::ConnectorGone
        | EndReason::Expired
        | EndReason::Closed
        | EndReason::Replaced
        | EndReason::ControllerRestarted => false,
    }
}

/// Whether a refusal is about the device's posture.
pub(crate) const fn is_about_posture(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::PostureFailed | RefusalCode::SimulatedPosture
    )
}

/// Whether a refusal says that there is no way at the moment, not that somebody decided so.
#[must_use]
pub const fn is_no_way(code: RefusalCode) -> bool {
    match code {
        RefusalCode::NoConnector
        | RefusalCode::Unreachable
        | RefusalCode::TargetUnreachable
        | RefusalCode::StorageRefused
        | RefusalCode::StorageFull
        | RefusalCode::Busy
        | RefusalCode::Internal
        | RefusalCode::Version
        | RefusalCode::ClockSkew
        | RefusalCode::Protocol => true,
        RefusalCode::InviteUsed
        | RefusalCode::InviteExpired
        | RefusalCode::InviteUnknown
        | RefusalCode::InviteWrongRole
        | RefusalCode::PostureFailed
        | RefusalCode::SimulatedPosture
        | RefusalCode::NotPermitted
        | RefusalCode::SafeMode
        | RefusalCode::Blocked
        | RefusalCode::CertificateExpired
        | RefusalCode::NotProven
        | RefusalCode::NotFound
        | RefusalCode::Exists
        | RefusalCode::Invalid
        | RefusalCode::PolicyTestFailed
        | RefusalCode::Unauthorized => false,
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::time::UnixMillis;

    use super::*;

    #[test]
    fn a_failed_posture_reads_as_the_product_page_says() {
        let verdict = PostureVerdict {
            compliant: false,
            checked_at: UnixMillis(0),
            failed: vec![Check {
                subject: "disk.encrypted".to_owned(),
                observed: "false".to_owned(),
                needed: "true".to_owned(),
                rule: "base/certify".to_owned(),
                remedy: Some("Turn on disk encryption".to_owned()),
            }],
            remedy: None,
            report: None,
            why: None,
            clock_skew_s: None,
            blocked: false,
        };
        let app = "wiki".parse().unwrap();
        let refusal = ended(&app, EndReason::PostureFailed, Some(&verdict));
        assert_eq!(
            refusal.to_string(),
            "wiki: denied: disk.encrypted is false on this device (needed: true, rule \
             base/certify). Turn on disk encryption, then: cardea posture"
        );
        assert_eq!(refusal.code.exit_code(), 6);
    }
}
