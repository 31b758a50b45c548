//! One of several controllers on the same ledger: what the others did is known only from it.

use std::time::Duration;

use cardea_credential::{key::Signer, proof::prove};
use cardea_proto::{
    admin::AdminChange,
    ledger::{Change, EndReason},
    message::{FromNode, ToNode},
};

use crate::{
    Input, Settings,
    testing::{Bench, EXPORTER, TestNode, sane_facts, settings},
    world::draft,
};

#[test]
fn a_grant_is_taken_over_when_both_its_ends_come_and_not_before_the_ledger_is_known() {
    let (mut bench, mut device, mut connector) = office();
    let granted = bench.open(&device, &connector, "wiki");
    bench.restart(shared());
    bench.connect(&mut connector, &[granted.grant]);
    bench.connect(&mut device, &[granted.grant]);
    bench.report(&mut device, sane_facts());
    bench.out.messages.clear();
    assert_eq!(bench.heard(&connector), Vec::<String>::new());
    catch_up(&mut bench);
    assert_eq!(bench.heard(&connector), ["extend"]);
}

#[test]
fn a_grant_that_is_not_known_yet_is_not_withdrawn() {
    let (mut bench, device, mut connector) = office();
    let granted = bench.open(&device, &connector, "wiki");
    let known = bench.entries.len() - 2;
    bench.restart_behind(shared(), known);
    bench.connect(&mut connector, &[granted.grant]);
    let heard = bench.heard(&connector);
    assert!(
        !heard.iter().any(|word| word.starts_with("withdraw")),
        "{heard:?}"
    );
    bench.see_from(known);
    catch_up(&mut bench);
    let heard = bench.heard(&connector);
    assert!(
        !heard.iter().any(|word| word.starts_with("withdraw")),
        "{heard:?}"
    );
    assert!(bench.store.grant(&granted.grant).is_some());
}

#[test]
fn an_answer_for_a_grant_that_is_not_known_yet_withdraws_it_only_when_it_has_ended() {
    for has_ended in [false, true] {
        let (mut bench, device, mut connector) = office();
        bench.request(&device, 1, "wiki");
        bench.settle();
        let admit = bench.admit_at(&connector);
        let known = bench.entries.len() - 1;
        if has_ended {
            bench.must(AdminChange::GrantRevoke(admit.grant));
        }
        bench.restart_behind(shared(), known);
        bench.connect(&mut connector, &[]);
        bench.take(&connector);
        bench.admit(&connector, &admit);
        assert_eq!(bench.heard(&connector), Vec::<String>::new());
        bench.see_from(known);
        catch_up(&mut bench);
        let heard = bench.heard(&connector);
        assert_eq!(
            heard.contains(&"withdraw: expired".to_owned()),
            has_ended,
            "{heard:?}"
        );
    }
}

#[test]
fn what_is_held_and_has_ended_is_withdrawn_once_the_ledger_is_known() {
    let (mut bench, device, mut connector) = office();
    let granted = bench.open(&device, &connector, "wiki");
    bench.must(AdminChange::GrantRevoke(granted.grant));
    bench.connect(&mut connector, &[granted.grant]);
    bench.take(&connector);
    catch_up(&mut bench);
    assert_eq!(bench.heard(&connector), ["withdraw: expired"]);
}

#[test]
fn an_extension_is_shorter_by_what_may_have_been_recorded_unseen() {
    let (mut bench, mut device, connector) = office();
    bench.open(&device, &connector, "wiki");
    bench.take(&connector);
    bench.pass(Duration::from_secs(149));
    catch_up(&mut bench);
    bench.report(&mut device, sane_facts());
    bench.pass(Duration::from_secs(3));
    assert_eq!(extensions(&mut bench, &connector), [299_000]);
}

#[test]
fn a_controller_that_hears_nothing_from_its_store_extends_nothing_past_a_ttl() {
    let (mut bench, mut device, connector) = office();
    bench.open(&device, &connector, "wiki");
    bench.take(&connector);
    catch_up(&mut bench);
    let known = bench.now;
    for _ in 0..20 {
        let before = bench.now.instant - known.instant;
        bench.pass(Duration::from_secs(30));
        bench.report(&mut device, sane_facts());
        for ttl_ms in extensions(&mut bench, &connector) {
            assert!(before + Duration::from_millis(ttl_ms) <= Duration::from_secs(300));
        }
    }
}

#[test]
fn a_grant_whose_connector_is_elsewhere_is_not_said_to_have_run_out() {
    let (mut bench, mut device, connector) = office();
    let granted = bench.open(&device, &connector, "wiki");
    bench.disconnect(&connector);
    for _ in 0..20 {
        bench.pass(Duration::from_secs(30));
        bench.report(&mut device, sane_facts());
    }
    assert!(bench.store.grant(&granted.grant).is_some());
}

#[test]
fn reports_of_a_device_that_is_elsewhere_end_nothing_when_they_are_old() {
    let (mut bench, device, connector) = office();
    let granted = bench.open(&device, &connector, "wiki");
    bench.disconnect(&device);
    bench.pass(Duration::from_secs(200));
    assert!(bench.store.grant(&granted.grant).is_some());
}

#[test]
fn a_certificate_rests_on_no_report_from_before_the_device_was_elsewhere() {
    let (mut bench, mut device, _connector) = office();
    bench.disconnect(&device);
    bench.connect(&mut device, &[]);
    bench.take(&device);
    let proof = prove(&EXPORTER, &device.key).unwrap();
    let renew = FromNode::Renew {
        public_key: device.key.public_key().to_vec().into(),
        proof: proof.into(),
    };
    bench.say(&device, renew);
    bench.settle();
    let heard = bench.heard(&device);
    assert!(!heard.contains(&"certificate".to_owned()), "{heard:?}");
}

#[test]
fn an_appraisal_that_another_controller_recorded_outweighs_an_earlier_report() {
    let (mut bench, device, _connector) = office();
    let mut entry = draft(bench.now.unix, bench.controller.world.itself());
    entry.changes.push(Change::Appraised {
        device: device.device(),
        compliant: false,
    });
    let entry = bench.append(entry);
    bench.handle(Input::Committed {
        proposal: None,
        entry,
    });
    bench.settle();
    let record = bench.store.device(device.device()).unwrap();
    assert_eq!(record.compliant, Some(false));
}

#[test]
fn a_controller_that_starts_leaves_alone_what_another_one_has_offered() {
    let (mut bench, device, connector) = office();
    bench.request(&device, 1, "wiki");
    bench.settle();
    let grant = bench.admit_at(&connector).grant;
    bench.restart(shared());
    assert!(bench.store.grant(&grant).is_some());
}

#[test]
fn a_grant_that_nobody_admits_ends_with_the_certificate_of_its_device() {
    let (mut bench, device, connector) = office();
    bench.request(&device, 1, "wiki");
    bench.settle();
    let grant = bench.admit_at(&connector).grant;
    bench.out.proposals.clear();
    // The controller that asked for it is gone; this one has only its entries.
    let known = bench.entries.len() - 1;
    bench.restart_behind(shared(), known);
    bench.see_from(known);
    assert!(bench.store.grant(&grant).is_some());
    bench.pass(Duration::from_secs(3_700));
    assert!(bench.store.grant(&grant).is_none());
    let ended = Change::GrantEnded {
        grant,
        reason: EndReason::CertificateExpired,
    };
    assert!(
        bench
            .entries
            .iter()
            .any(|entry| entry.draft.changes.contains(&ended))
    );
}

fn shared() -> Settings {
    Settings {
        shared: true,
        ..settings()
    }
}

fn office() -> (Bench, TestNode, TestNode) {
    let (mut bench, device, connector) = Bench::office_with(shared());
    catch_up(&mut bench);
    bench.take(&device);
    bench.take(&connector);
    (bench, device, connector)
}

fn catch_up(bench: &mut Bench) {
    let asked = bench.now.instant;
    bench.handle(Input::CaughtUp { asked });
    bench.settle();
}

fn extensions(bench: &mut Bench, connector: &TestNode) -> Vec<u64> {
    let told = bench.take(connector);
    told.iter()
        .filter_map(|message| {
            if let ToNode::Extend(extend) = message {
                Some(extend.ttl_ms)
            } else {
                None
            }
        })
        .collect()
}
