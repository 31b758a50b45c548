//! How long a grant lives: extensions, absences, certificates, restarts.

use std::time::Duration;

use cardea_proto::admin::AdminChange;

use crate::{
    Settings,
    testing::{Bench, sane_facts, settings},
};

#[test]
fn a_grant_is_extended_by_push_as_long_as_everything_holds() {
    let (mut bench, mut device, connector) = Bench::office();
    let granted = bench.open(&device, &connector, "wiki");
    let committed = bench.entries.len();
    for _ in 0..60 {
        bench.pass(Duration::from_secs(20));
        bench.report(&mut device, sane_facts());
    }
    assert_eq!(bench.entries.len(), committed, "an extension is no record");
    let extended = |words: Vec<String>| words.iter().filter(|word| *word == "extend").count();
    assert_eq!(extended(bench.heard(&connector)), 8, "every 150 s of 1,200");
    assert_eq!(extended(bench.heard(&device)), 8);
    assert!(bench.store.grant(&granted.grant).is_some());
}

#[test]
fn a_grant_whose_device_is_away_ends_with_its_ttl_or_its_posture() {
    let (mut bench, device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    bench.disconnect(&device);
    bench.pass(Duration::from_secs(179));
    assert_eq!(bench.store.grants_count(), 1);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.heard(&connector), ["withdraw: posture_stale"]);
    assert_eq!(bench.store.grants_count(), 0);
}

#[test]
fn a_grant_whose_connector_is_away_ends_with_its_ttl() {
    let (mut bench, mut device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    bench.disconnect(&connector);
    for _ in 0..15 {
        bench.pass(Duration::from_secs(20));
        bench.report(&mut device, sane_facts());
    }
    let ended: Vec<_> = bench
        .heard(&device)
        .into_iter()
        .filter(|word| word.starts_with("withdraw"))
        .collect();
    assert_eq!(ended, ["withdraw: expired"]);
}

#[test]
fn a_node_that_connects_again_is_extended_at_once_for_the_last_extension_may_be_lost() {
    let (mut bench, device, mut connector) = Bench::office();
    let granted = bench.open(&device, &connector, "wiki");
    bench.disconnect(&connector);
    bench.heard(&connector);
    bench.connect(&mut connector, &[granted.grant]);
    assert!(bench.heard(&connector).contains(&"extend".to_owned()));
    assert!(bench.heard(&device).contains(&"extend".to_owned()));
}

#[test]
fn a_grant_is_never_extended_past_the_certificate_it_rests_on() {
    let (mut bench, mut device, connector) = Bench::office();
    bench.pass(Duration::from_secs(3_500));
    bench.report(&mut device, sane_facts());
    assert_eq!(bench.open(&device, &connector, "wiki").ttl_ms, 100_000);
    for _ in 0..5 {
        bench.pass(Duration::from_secs(20));
        bench.report(&mut device, sane_facts());
    }
    assert_eq!(bench.store.grants_count(), 0);
    bench.request(&device, 3, "wiki");
    bench.settle();
    let heard = bench.heard(&device);
    assert!(
        heard.contains(&"denied: certificate_expired".to_owned()),
        "{heard:?}"
    );
}

#[test]
fn a_wall_clock_that_jumps_past_a_certificate_ends_its_grants() {
    let (mut bench, mut device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    bench.now.unix = bench.now.unix.plus(Duration::from_secs(7_200));
    bench.report(&mut device, sane_facts());
    bench.pass(Duration::from_secs(150));
    assert_eq!(bench.heard(&connector), ["withdraw: certificate_expired"]);
}

#[test]
fn a_ttl_is_no_longer_than_the_settings_allow() {
    let mut bench = Bench::with(Settings {
        ttl: Duration::from_secs(86_400),
        ..settings()
    });
    bench.publish("wiki");
    let connector = bench.connector("gate");
    let device = bench.device("laptop");
    assert_eq!(bench.open(&device, &connector, "wiki").ttl_ms, 3_600_000);
}

#[test]
fn after_a_restart_a_grant_lives_on_when_both_ends_name_it() {
    let (mut bench, mut device, mut connector) = Bench::office();
    let grant = bench.open(&device, &connector, "wiki").grant;
    bench.restart(settings());
    bench.connect(&mut connector, &[grant]);
    bench.connect(&mut device, &[grant]);
    assert_eq!(bench.heard(&connector), ["welcome"]);
    bench.report(&mut device, sane_facts());
    assert_eq!(bench.heard(&connector), ["extend"]);
    assert!(bench.heard(&device).contains(&"extend".to_owned()));
    assert!(bench.store.grant(&grant).is_some());
}

#[test]
fn after_a_restart_a_grant_that_an_end_has_lost_is_ended() {
    let (mut bench, mut device, mut connector) = Bench::office();
    let grant = bench.open(&device, &connector, "wiki").grant;
    bench.restart(settings());
    bench.connect(&mut connector, &[grant]);
    bench.connect(&mut device, &[]);
    assert_eq!(bench.heard(&connector), ["welcome", "withdraw: closed"]);
    assert!(bench.store.grant(&grant).is_none());
}

#[test]
fn after_a_restart_nothing_is_left_of_what_was_only_offered_or_is_not_taken_up() {
    let (mut bench, device, connector) = Bench::office();
    bench.publish("mail");
    bench.open(&device, &connector, "wiki");
    bench.request(&device, 2, "mail");
    bench.settle();
    assert_eq!(bench.store.grants_count(), 2);
    bench.restart(settings());
    assert_eq!(bench.store.grants_count(), 1);
    bench.pass(Duration::from_secs(301));
    assert_eq!(bench.store.grants_count(), 0);
}

#[test]
fn what_a_hello_names_and_the_state_has_ended_is_withdrawn_at_once() {
    let (mut bench, device, mut connector) = Bench::office();
    let grant = bench.open(&device, &connector, "wiki").grant;
    bench.disconnect(&connector);
    bench.must(AdminChange::GrantRevoke(grant));
    bench.connect(&mut connector, &[grant]);
    assert_eq!(bench.heard(&connector), ["welcome", "withdraw: expired"]);
}
