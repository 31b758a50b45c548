use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminQuery},
    enroll::EnrollAnswer,
    identity::Role,
    ledger::Admits,
    posture::{Grade, Value},
    refusal::{Refusal, RefusalCode},
};
use std::{collections::BTreeMap, time::Duration};

use crate::{
    CommitError, Settings,
    testing::{Bench, fact, name, sane_facts, settings},
};

#[test]
fn a_device_with_a_code_and_a_sane_posture_gets_a_certificate_of_an_hour() {
    let mut bench = Bench::new();
    let secret = bench.invite_device("alice", &["staff"]);
    let (_, request) = bench.enroll_request(Role::Device, &secret, "laptop");
    let EnrollAnswer::Enrolled(enrolled) = bench.enroll(request) else {
        panic!("refused");
    };
    assert_eq!(enrolled.name, name("laptop"));
    assert_eq!(enrolled.user, Some(name("alice")));
    let life = enrolled.certificate.not_after.since(bench.now.unix);
    assert_eq!(life, Duration::from_secs(3_600));
    let user = bench.store.user(&name("alice")).unwrap();
    assert!(user.groups.contains(&name("staff")));
    assert_eq!(bench.store, *bench.controller.state());
}

#[test]
fn two_hundred_enrollments_with_one_code_at_once_make_exactly_one_node() {
    let mut bench = Bench::new();
    let secret = bench.invite_device("alice", &[]);
    for number in 0..200 {
        let (_, request) = bench.enroll_request(Role::Device, &secret, &format!("host-{number}"));
        bench.send_enroll(request);
    }
    assert_eq!(bench.out.proposals.len(), 200);
    bench.settle();
    let (won, lost) = outcomes(&mut bench);
    assert_eq!((won, lost.len()), (1, 199));
    assert!(
        lost.iter()
            .all(|refusal| refusal.code == RefusalCode::InviteUsed)
    );
    assert_eq!(bench.store.nodes().count(), 1);
}

#[test]
fn two_hundred_devices_of_one_user_with_a_code_each_all_enroll_under_names_of_their_own() {
    let mut bench = Bench::new();
    let secrets: Vec<_> = (0..200)
        .map(|_| bench.invite_device("alice", &["staff"]))
        .collect();
    for secret in &secrets {
        let (_, request) = bench.enroll_request(Role::Device, secret, "laptop");
        bench.send_enroll(request);
    }
    bench.settle();
    let (won, lost) = outcomes(&mut bench);
    assert_eq!((won, lost), (200, Vec::new()));
    assert!(bench.store.device_named(&name("laptop")).is_some());
    assert!(bench.store.device_named(&name("laptop-200")).is_some());
}

#[test]
fn a_code_is_refused_for_what_is_wrong_with_it() {
    let mut bench = Bench::new();
    let used = bench.invite_device("alice", &[]);
    bench.enroll_node(Role::Device, &used, "laptop");
    check(
        &mut bench,
        Role::Device,
        &used,
        "this code was already used",
    );

    let forged = cardea_proto::codec::Secret32([0xee; 32]);
    check(&mut bench, Role::Device, &forged, "not a Cardea code");

    let wrong = bench.invite_device("alice", &[]);
    check(
        &mut bench,
        Role::Connector,
        &wrong,
        "this code admits a device, not a connector",
    );

    bench.pass(Duration::from_secs(3_600));
    check(
        &mut bench,
        Role::Device,
        &wrong,
        "this code expired at 2026-01-01T01:00:00Z",
    );
    assert_eq!(
        bench.refused(),
        [
            "enroll invite_used",
            "enroll invite_unknown",
            "enroll invite_wrong_role",
            "enroll invite_expired"
        ]
    );
}

#[test]
fn a_removed_code_is_no_code() {
    let mut bench = Bench::new();
    let secret = bench.invite_device("alice", &[]);
    let AdminAnswer::Invites(rows) = bench.query(AdminQuery::Invites) else {
        panic!("no rows");
    };
    bench.must(AdminChange::InviteRemove(rows[0].id));
    check(&mut bench, Role::Device, &secret, "not a Cardea code");
}

#[test]
fn a_failing_posture_leaves_the_code_good() {
    let mut bench = Bench::new();
    let secret = bench.invite_device("alice", &[]);
    let (_, mut request) = bench.enroll_request(Role::Device, &secret, "laptop");
    request.report = Some(bench.report_of(1, [0; 16], BTreeMap::new()));
    let refusal = refused(bench.enroll(request));
    assert_eq!(refusal.code, RefusalCode::PostureFailed);
    assert!(
        refusal
            .to_string()
            .ends_with(", then: the same command again"),
        "{refusal}"
    );
    assert_eq!(bench.refused(), ["enroll posture_failed"]);
    bench.enroll_node(Role::Device, &secret, "laptop");
}

#[test]
fn a_device_without_a_report_is_refused() {
    let mut bench = Bench::new();
    let secret = bench.invite_device("alice", &[]);
    let (_, mut request) = bench.enroll_request(Role::Device, &secret, "laptop");
    request.report = None;
    assert_eq!(
        refused(bench.enroll(request)).code,
        RefusalCode::PostureFailed
    );
}

#[test]
fn simulated_facts_enroll_only_where_they_are_allowed() {
    for allowed in [false, true] {
        let mut bench = Bench::with(Settings {
            allow_simulated_posture: allowed,
            ..settings()
        });
        let secret = bench.invite_device("alice", &[]);
        let (_, mut request) = bench.enroll_request(Role::Device, &secret, "laptop");
        let mut facts = sane_facts();
        let (name, mut simulated) = fact("firewall.enabled", Value::Bool(true));
        simulated.grade = Grade::Simulated;
        facts.insert(name, simulated);
        request.report = Some(bench.report_of(1, [0; 16], facts));
        match bench.enroll(request) {
            EnrollAnswer::Enrolled(_) => assert!(allowed),
            EnrollAnswer::Refused(refusal) => {
                assert!(!allowed);
                assert_eq!(refusal.code, RefusalCode::SimulatedPosture);
            }
        }
    }
}

#[test]
fn a_clock_that_is_off_by_an_hour_is_refused_with_the_offset() {
    let mut bench = Bench::new();
    let secret = bench.invite_device("alice", &[]);
    let (_, mut request) = bench.enroll_request(Role::Device, &secret, "laptop");
    let report = request.report.as_mut().unwrap();
    report.clock = report.clock.plus(Duration::from_secs(3_600));
    let refusal = refused(bench.enroll(request));
    assert_eq!(refusal.code, RefusalCode::ClockSkew);
    assert!(refusal.to_string().contains("3600"), "{refusal}");
}

#[test]
fn a_key_that_is_not_proven_on_this_connection_is_refused() {
    let mut bench = Bench::new();
    let secret = bench.invite_device("alice", &[]);
    let (_, mut request) = bench.enroll_request(Role::Device, &secret, "laptop");
    request.proof.0[5] ^= 1;
    assert_eq!(refused(bench.enroll(request)).code, RefusalCode::NotProven);
    assert_eq!(bench.refused(), ["enroll not_proven"]);
}

#[test]
fn a_key_enrolls_once() {
    let mut bench = Bench::new();
    let (first, second) = (bench.invite_device("a", &[]), bench.invite_device("a", &[]));
    let (_, request) = bench.enroll_request(Role::Device, &first, "laptop");
    let mut again = request.clone();
    again.invite = second;
    assert!(matches!(bench.enroll(request), EnrollAnswer::Enrolled(_)));
    assert_eq!(refused(bench.enroll(again)).code, RefusalCode::Exists);
}

#[test]
fn nothing_is_answered_before_the_commit() {
    let mut bench = Bench::new();
    let secret = bench.invite_device("alice", &[]);
    let (_, request) = bench.enroll_request(Role::Device, &secret, "laptop");
    bench.send_enroll(request);
    assert_eq!(bench.out.proposals.len(), 1);
    assert!(bench.out.enrollments.is_empty());
    bench.settle();
    assert_eq!(bench.out.enrollments.len(), 1);
}

#[test]
fn a_full_store_leaves_the_code_good() {
    let mut bench = Bench::new();
    let secret = bench.invite(Admits::Connector {
        site: name("default"),
    });
    let (_, request) = bench.enroll_request(Role::Connector, &secret, "gate");
    bench.broken = Some(CommitError::Full);
    assert_eq!(
        refused(bench.enroll(request)).code,
        RefusalCode::StorageFull
    );
    bench.broken = None;
    bench.enroll_node(Role::Connector, &secret, "gate");
}

#[test]
fn strangers_cannot_fill_the_ledger() {
    let mut bench = Bench::new();
    let secret = bench.invite_device("alice", &[]);
    let (_, mut request) = bench.enroll_request(Role::Device, &secret, "laptop");
    request.invite = cardea_proto::codec::Secret32([0xee; 32]);
    for _ in 0..500 {
        bench.enroll(request.clone());
    }
    assert_eq!(bench.refused(), ["enroll invite_unknown"]);
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.refused().len(), 2, "the rest is counted once");
}

fn check(bench: &mut Bench, role: Role, secret: &cardea_proto::codec::Secret32, message: &str) {
    let (_, request) = bench.enroll_request(role, secret, "other");
    assert_eq!(refused(bench.enroll(request)).message, message);
}

fn refused(answer: EnrollAnswer) -> Refusal {
    match answer {
        EnrollAnswer::Refused(refusal) => refusal,
        EnrollAnswer::Enrolled(enrolled) => panic!("enrolled as {}", enrolled.name),
    }
}

fn outcomes(bench: &mut Bench) -> (usize, Vec<Refusal>) {
    let mut won = 0;
    let mut lost = Vec::new();
    for (_, answer) in bench.out.enrollments.drain(..) {
        match answer {
            EnrollAnswer::Enrolled(_) => won += 1,
            EnrollAnswer::Refused(refusal) => lost.push(refusal),
        }
    }
    (won, lost)
}
