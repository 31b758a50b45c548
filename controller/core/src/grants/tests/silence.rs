//! Nodes that say nothing, or that come back with less than they had.

use std::time::Duration;

use cardea_proto::{
    admin::AdminChange,
    ledger::Link,
    posture::{Grade, Value},
};

use crate::testing::{Bench, fact, name, sane_facts};

#[test]
fn a_device_that_never_reports_after_enrolling_loses_its_grant_when_its_facts_are_stale() {
    let (mut bench, device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    bench.take(&connector);
    bench.pass(Duration::from_secs(185));
    let heard = bench.heard(&connector);
    assert!(
        heard.contains(&"withdraw: posture_stale".to_owned()),
        "{heard:?}"
    );
}

#[test]
fn a_change_before_the_first_report_after_a_restart_ends_nothing() {
    let (mut bench, mut device, mut connector) = Bench::office();
    let granted = bench.open(&device, &connector, "wiki");
    bench.restart(crate::testing::settings());
    bench.connect(&mut connector, &[granted.grant]);
    bench.connect(&mut device, &[granted.grant]);
    bench.take(&connector);
    bench.must(AdminChange::Allow(Link {
        principal: "everyone".parse().unwrap(),
        app: name("wiki"),
    }));
    let heard = bench.heard(&connector);
    assert!(
        !heard.iter().any(|word| word.starts_with("withdraw")),
        "{heard:?}"
    );
    bench.must(AdminChange::AppRemove(name("wiki")));
    assert!(
        bench
            .heard(&connector)
            .contains(&"withdraw: app_changed".to_owned())
    );
}

#[test]
fn a_rule_taken_back_before_the_first_report_after_a_restart_ends_what_it_allowed() {
    let (mut bench, mut device, mut connector) = Bench::office();
    let granted = bench.open(&device, &connector, "wiki");
    bench.restart(crate::testing::settings());
    bench.connect(&mut connector, &[granted.grant]);
    bench.connect(&mut device, &[granted.grant]);
    bench.take(&connector);
    let rules: Vec<Link> = bench.store.links().iter().cloned().collect();
    for link in rules {
        bench.must(AdminChange::Disallow(link));
    }
    assert!(
        bench
            .heard(&connector)
            .contains(&"withdraw: not_permitted".to_owned())
    );
}

#[test]
fn a_connector_that_forgot_a_grant_before_it_was_open_ends_it() {
    let (mut bench, device, mut connector) = Bench::office();
    bench.request(&device, 1, "wiki");
    bench.settle();
    let admit = bench.admit_at(&connector);
    bench.admit(&connector, &admit);
    let waiting = std::mem::take(&mut bench.out.proposals);
    bench.connect(&mut connector, &[]);
    bench.out.proposals.extend(waiting);
    bench.settle();
    assert!(
        bench
            .store
            .grant(&admit.grant)
            .is_none_or(|grant| !grant.admitted)
    );
    let heard = bench.heard(&device);
    assert!(!heard.contains(&"granted".to_owned()), "{heard:?}");
}

#[test]
fn a_removed_connector_is_told_to_drop_every_grant_before_its_channel_ends() {
    let (mut bench, device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    bench.take(&connector);
    bench.must(AdminChange::ConnectorRemove("gate".to_owned()));
    let heard = bench.heard(&connector);
    let withdrawn = heard
        .iter()
        .position(|word| word == "withdraw: connector_gone");
    let goodbye = heard.iter().position(|word| word.starts_with("goodbye"));
    assert!(withdrawn.is_some() && withdrawn < goodbye, "{heard:?}");
}

#[test]
fn a_device_cannot_vouch_for_its_own_facts() {
    let (mut bench, mut device, _) = Bench::office();
    let mut facts = sane_facts();
    let (fact_name, mut claimed) = fact("disk.encrypted", Value::Bool(true));
    claimed.grade = Grade::Hardware;
    facts.insert(fact_name.clone(), claimed);
    bench.report(&mut device, facts);
    let kept = bench.facts_of(&device);
    assert_eq!(kept[&fact_name].grade, Grade::Os);
}
