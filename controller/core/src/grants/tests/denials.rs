//! What is not granted, and why; decisions that are taken again.

use std::{collections::BTreeMap, time::Duration};

use cardea_proto::{
    admin::AdminChange,
    app::Principal,
    decision::Reason,
    ledger::Link,
    message::{FromNode, ToNode},
    refusal::{Refusal, RefusalCode},
};

use super::link;
use crate::{
    CommitError,
    testing::{Bench, TestNode, name, sane_facts},
};

#[test]
fn requests_are_denied_with_the_decision_and_recorded() {
    let (mut bench, mut device, _connector) = Bench::office();
    bench.must(AdminChange::AppAdd {
        spec: crate::testing::app("secret"),
        allow: vec![],
    });
    let (refusal, decision) = denied(&mut bench, &device, "secret");
    assert_eq!(refusal.code, RefusalCode::NotPermitted);
    assert_eq!(decision, Some(Reason::NoRule));
    let (unknown, _) = denied(&mut bench, &device, "nothing-like-that");
    let same = |refusal: &Refusal, app: &str| refusal.to_string().replace(app, "X");
    assert_eq!(
        same(&unknown, "nothing-like-that"),
        same(&refusal, "secret"),
        "existence is not told"
    );
    let (typo, _) = denied(&mut bench, &device, "wkii");
    assert_eq!(typo.next.as_deref(), Some("Did you mean wiki?"));

    bench.report(&mut device, BTreeMap::new());
    let (refusal, decision) = denied(&mut bench, &device, "wiki");
    assert_eq!(
        (refusal.code, decision),
        (RefusalCode::PostureFailed, Some(Reason::NotCompliant))
    );
    assert!(
        refusal.to_string().ends_with("then: cardea posture"),
        "{refusal}"
    );
    assert!(
        bench
            .refused()
            .contains(&"connect not_permitted".to_owned())
    );
    assert!(
        bench
            .refused()
            .contains(&"connect posture_failed".to_owned())
    );

    bench.report(&mut device, sane_facts());
    bench.must(AdminChange::DeviceBlock("laptop".to_owned()));
    let (refusal, _) = denied(&mut bench, &device, "wiki");
    assert_eq!(refusal.code, RefusalCode::Blocked);
    bench.must(AdminChange::DeviceUnblock("laptop".to_owned()));
    bench.pass(Duration::from_secs(181));
    let (refusal, decision) = denied(&mut bench, &device, "wiki");
    assert_eq!(
        (refusal.code, decision),
        (RefusalCode::PostureFailed, Some(Reason::StalePosture))
    );
}

#[test]
fn without_a_connector_a_request_is_refused_at_once() {
    let mut bench = Bench::new();
    bench.publish("wiki");
    let device = bench.device("laptop");
    bench.take(&device);
    let (refusal, _) = denied(&mut bench, &device, "wiki");
    assert_eq!(refusal.code, RefusalCode::NoConnector);
}

#[test]
fn an_offer_of_another_device_or_for_another_app_is_not_believed() {
    let (mut bench, device, _connector) = Bench::office();
    let other = bench.device("other");
    bench.publish("mail");
    bench.out.messages.clear();
    let mut changed = bench.offer(&device, "wiki");
    changed.body.0[20] ^= 1;
    for (app, offer) in [
        ("wiki", bench.offer(&other, "wiki")),
        ("wiki", bench.offer(&device, "mail")),
        ("wiki", changed),
    ] {
        bench.say(
            &device,
            FromNode::Request {
                request: 1,
                app: name(app),
                offer,
            },
        );
        bench.settle();
        assert_eq!(bench.heard(&device), ["denied: not_proven"]);
    }
    assert!(bench.refused().contains(&"connect not_proven".to_owned()));
}

#[test]
fn an_answer_that_is_not_the_connectors_own_passes_it_over() {
    let (mut bench, device, connector) = Bench::office();
    let mut other = bench.connector("gate2");
    bench.disconnect(&other);
    bench.request(&device, 1, "wiki");
    bench.settle();
    let admit = bench.admit_at(&connector);
    let answer = bench.answer(&other, &admit);
    bench.say(
        &connector,
        FromNode::Admitted {
            grant: admit.grant,
            answer: answer.clone(),
        },
    );
    bench.settle();
    assert_eq!(bench.heard(&device), ["denied: no_connector"]);
    assert!(
        bench
            .refused()
            .contains(&"authenticate not_proven".to_owned())
    );
    bench.connect(&mut other, &[]);
    bench.take(&other);
    bench.say(
        &other,
        FromNode::Admitted {
            grant: admit.grant,
            answer,
        },
    );
    bench.settle();
    assert_eq!(bench.heard(&other), ["withdraw: expired"], "not its grant");
}

#[test]
fn a_plan_that_never_stops_conflicting_is_given_up() {
    let (mut bench, device, connector) = Bench::office();
    bench.broken = Some(CommitError::Conflict);
    let (refusal, _) = denied(&mut bench, &device, "wiki");
    assert_eq!(refusal.code, RefusalCode::Busy);
    bench.broken = None;
    bench.open(&device, &connector, "wiki");
}

#[test]
fn a_full_store_refuses_new_grants_and_leaves_open_ones() {
    let (mut bench, device, connector) = Bench::office();
    bench.publish("mail");
    bench.open(&device, &connector, "wiki");
    bench.broken = Some(CommitError::Full);
    let (refusal, _) = denied(&mut bench, &device, "mail");
    assert_eq!(refusal.code, RefusalCode::StorageFull);
    assert_eq!(bench.heard(&connector), Vec::<String>::new());
    bench.broken = None;
    let granted = bench.open(&device, &connector, "mail");
    assert_eq!(granted.app, name("mail"));
    assert_eq!(bench.store.grants_count(), 2);
}

#[test]
fn a_report_that_fails_while_a_grant_is_being_recorded_keeps_it_from_both_ends() {
    let (mut bench, mut device, connector) = Bench::office();
    let fail = |bench: &mut Bench, device: &mut TestNode| {
        device.counter += 1;
        let report = bench.report_of(device.counter, device.nonce.0, BTreeMap::new());
        bench.say(device, FromNode::Report(report));
        bench.settle();
    };
    bench.request(&device, 1, "wiki");
    fail(&mut bench, &mut device);
    assert!(!bench.heard(&connector).contains(&"admit".to_owned()));
    assert!(
        bench
            .heard(&device)
            .contains(&"denied: posture_failed".to_owned())
    );

    bench.report(&mut device, sane_facts());
    bench.request(&device, 2, "wiki");
    bench.settle();
    let admit = bench.admit_at(&connector);
    bench.admit(&connector, &admit);
    fail(&mut bench, &mut device);
    assert_eq!(bench.heard(&connector), ["withdraw: posture_failed"]);
    let heard = bench.heard(&device);
    assert!(!heard.contains(&"granted".to_owned()), "{heard:?}");
    assert!(
        heard.contains(&"denied: posture_failed".to_owned()),
        "{heard:?}"
    );
    assert_eq!(bench.store.grants_count(), 0);
}

#[test]
fn a_change_between_plan_and_commit_is_decided_again() {
    let (mut bench, device, connector) = Bench::office();
    bench.request(&device, 1, "wiki");
    let offer = bench.out.proposals.pop_front().unwrap();
    bench.must(AdminChange::Disallow(link()));
    bench.out.proposals.push_back(offer);
    bench.settle();
    let heard = bench.heard(&device);
    assert!(
        heard.contains(&"denied: not_permitted".to_owned()),
        "{heard:?}"
    );
    assert_eq!(bench.heard(&connector), Vec::<String>::new());

    bench.must(AdminChange::Allow(link()));
    bench.take(&device);
    bench.request(&device, 2, "wiki");
    bench.settle();
    let admit = bench.admit_at(&connector);
    bench.admit(&connector, &admit);
    let admission = bench.out.proposals.pop_front().unwrap();
    bench.must(AdminChange::Disallow(link()));
    bench.out.proposals.push_back(admission);
    bench.settle();
    let heard = bench.heard(&device);
    assert!(!heard.contains(&"granted".to_owned()), "{heard:?}");
    assert_eq!(bench.heard(&connector), ["withdraw: not_permitted"]);
}

#[test]
fn a_change_that_takes_nothing_away_lets_a_planned_grant_through() {
    let (mut bench, device, connector) = Bench::office();
    bench.request(&device, 1, "wiki");
    let offer = bench.out.proposals.pop_front().unwrap();
    let everyone = Link {
        principal: Principal::Everyone,
        app: name("wiki"),
    };
    bench.must(AdminChange::Allow(everyone));
    bench.out.proposals.push_back(offer);
    bench.settle();
    assert_eq!(bench.heard(&connector), ["admit"]);
}

fn denied(bench: &mut Bench, device: &TestNode, app: &str) -> (Refusal, Option<Reason>) {
    bench.take(device);
    bench.request(device, 1, app);
    bench.settle();
    let messages = bench.take(device);
    let found = messages.iter().find_map(|message| {
        if let ToNode::Denied {
            refusal, decision, ..
        } = message
        {
            Some((
                refusal.clone(),
                decision.as_ref().map(|decision| decision.reason),
            ))
        } else {
            None
        }
    });
    found.unwrap_or_else(|| panic!("not denied: {messages:?}"))
}
