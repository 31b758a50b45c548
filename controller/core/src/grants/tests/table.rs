//! The machine of `grants`: every input in every stage.

use std::{collections::BTreeSet, time::Duration};

use cardea_proto::{
    access::Admit,
    admin::{AdminChange, AppPatch},
    message::FromNode,
    posture::Value,
    refusal::{Refusal, RefusalCode},
};

use super::link;
use crate::testing::{Bench, TestNode, fact, name, sane_facts};

/// How far the grant of a test has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Offered,
    Admitting,
    Open,
}

type Act = fn(&mut Bench, &mut TestNode, &TestNode, &Admit);

/// What the device hears, then what the connector hears.
type Told = (&'static [&'static str], &'static [&'static str]);

/// An input, and what it comes to while offered, while admitting, and while open.
struct Row {
    what: &'static str,
    act: Act,
    told: [Told; 3],
}

const NOTHING: Told = (&[], &[]);
const GRANTED: Told = (&["granted"], &[]);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row { what: "revoked", act: revoke, told: [
        (&["denied: not_permitted"], &["withdraw: revoked"]),
        (&["denied: not_permitted"], &["withdraw: revoked"]),
        (&["withdraw: revoked"], &["withdraw: revoked"]),
    ]},
    Row { what: "rule taken back", act: disallow, told: [
        (&["denied: not_permitted"], &["withdraw: not_permitted"]),
        (&["denied: not_permitted"], &["withdraw: not_permitted"]),
        (&["withdraw: not_permitted"], &["withdraw: not_permitted"]),
    ]},
    Row { what: "user left the group", act: leave_group, told: [
        (&["denied: not_permitted"], &["withdraw: not_permitted"]),
        (&["denied: not_permitted"], &["withdraw: not_permitted"]),
        (&["withdraw: not_permitted"], &["withdraw: not_permitted"]),
    ]},
    Row { what: "app removed", act: remove_app, told: [
        (&["denied: not_found"], &["withdraw: app_changed"]),
        (&["denied: not_found"], &["withdraw: app_changed"]),
        (&["withdraw: app_changed"], &["withdraw: app_changed"]),
    ]},
    Row { what: "target changed", act: retarget, told: [
        (&["denied: not_found"], &["withdraw: app_changed"]),
        (&["denied: not_found"], &["withdraw: app_changed"]),
        (&["withdraw: app_changed"], &["withdraw: app_changed"]),
    ]},
    Row { what: "device blocked", act: block, told: [
        (&["denied: blocked"], &["withdraw: device_blocked"]),
        (&["denied: blocked"], &["withdraw: device_blocked"]),
        (&["withdraw: device_blocked"], &["withdraw: device_blocked"]),
    ]},
    Row { what: "device removed", act: remove_device, told: [
        (&["denied: blocked"], &["withdraw: device_blocked"]),
        (&["denied: blocked"], &["withdraw: device_blocked"]),
        (&["withdraw: device_blocked"], &["withdraw: device_blocked"]),
    ]},
    Row { what: "connector removed", act: remove_connector, told: [
        (&["denied: no_connector"], &["withdraw: connector_gone"]),
        (&["denied: no_connector"], &["withdraw: connector_gone"]),
        (&["withdraw: connector_gone"], &["withdraw: connector_gone"]),
    ]},
    Row { what: "posture broken", act: break_posture, told: [
        (&["denied: posture_failed"], &["withdraw: posture_failed"]),
        (&["denied: posture_failed"], &["withdraw: posture_failed"]),
        (&["withdraw: posture_failed"], &["withdraw: posture_failed"]),
    ]},
    Row { what: "closed by the device", act: close_by_device, told: [
        (&["denied: busy"], &["withdraw: closed"]),
        (&["denied: busy"], &["withdraw: closed"]),
        (&["withdraw: closed"], &["withdraw: closed"]),
    ]},
    Row { what: "closed by the connector", act: close_by_connector, told: [
        (&["denied: busy"], &["withdraw: closed"]),
        (&["denied: busy"], &["withdraw: closed"]),
        (&["withdraw: closed"], &["withdraw: closed"]),
    ]},
    Row { what: "asked for again", act: ask_again, told: [
        (&["denied: busy"], &["withdraw: replaced", "admit"]),
        (&["denied: busy"], &["withdraw: replaced", "admit"]),
        (&["withdraw: replaced"], &["withdraw: replaced", "admit"]),
    ]},
    Row { what: "device gone", act: device_gone, told: [
        (&[], &["withdraw: closed"]),
        (&[], &["withdraw: closed"]),
        NOTHING,
    ]},
    Row { what: "connector gone", act: connector_gone, told: [
        (&["denied: no_connector"], &[]),
        GRANTED,
        NOTHING,
    ]},
    Row { what: "not admitted", act: not_admitted, told: [
        (&["denied: no_connector"], &["withdraw: connector_gone"]),
        GRANTED,
        NOTHING,
    ]},
    Row { what: "three seconds pass", act: three_seconds, told: [
        (&["denied: no_connector"], &["withdraw: connector_gone"]),
        GRANTED,
        NOTHING,
    ]},
    Row { what: "admitted again", act: admitted_again, told: [GRANTED, GRANTED, NOTHING] },
    Row { what: "nothing", act: nothing, told: [NOTHING, GRANTED, NOTHING] },
];

#[test]
fn every_input_in_every_stage_does_what_the_table_says() {
    for row in TABLE {
        let stages = [Reached::Offered, Reached::Admitting, Reached::Open];
        for (reached, told) in stages.into_iter().zip(row.told) {
            check(row, reached, told);
        }
    }
}

fn check(row: &Row, reached: Reached, (at_device, at_connector): Told) {
    let (mut bench, mut device, connector) = Bench::office();
    let admit = reach(&mut bench, &device, &connector, reached);
    (row.act)(&mut bench, &mut device, &connector, &admit);
    bench.settle();
    let context = format!("{} while {reached:?}", row.what);
    assert_eq!(
        about_grants(bench.heard(&device)),
        at_device,
        "{context}, at the device"
    );
    assert_eq!(
        about_grants(bench.heard(&connector)),
        at_connector,
        "{context}, at the connector"
    );
    let is_over = |words: &[&str]| {
        words
            .iter()
            .any(|word| word.starts_with("withdraw") || word.starts_with("denied"))
    };
    let over = is_over(at_device) || is_over(at_connector);
    assert_eq!(
        bench.store.grant(&admit.grant).is_none(),
        over,
        "{context}, on record"
    );
    assert_eq!(bench.store, *bench.controller.state());
}

fn about_grants(words: Vec<String>) -> Vec<String> {
    let others = ["posture", "apps", "welcome", "goodbye"];
    words
        .into_iter()
        .filter(|word| !others.iter().any(|other| word.starts_with(other)))
        .collect()
}

fn reach(bench: &mut Bench, device: &TestNode, connector: &TestNode, reached: Reached) -> Admit {
    bench.request(device, 1, "wiki");
    bench.settle();
    let admit = bench.admit_at(connector);
    if reached != Reached::Offered {
        bench.admit(connector, &admit);
    }
    if reached == Reached::Open {
        bench.settle();
    }
    // What was said so far is not what a test looks at.
    bench.out.messages.clear();
    admit
}

fn revoke(bench: &mut Bench, _: &mut TestNode, _: &TestNode, admit: &Admit) {
    first(bench, AdminChange::GrantRevoke(admit.grant));
}

fn disallow(bench: &mut Bench, _: &mut TestNode, _: &TestNode, _: &Admit) {
    first(bench, AdminChange::Disallow(link()));
}

fn remove_app(bench: &mut Bench, _: &mut TestNode, _: &TestNode, _: &Admit) {
    first(bench, AdminChange::AppRemove(name("wiki")));
}

fn retarget(bench: &mut Bench, _: &mut TestNode, _: &TestNode, _: &Admit) {
    let targets = Some(vec!["10.9.0.11:80".parse().unwrap()]);
    let patch = AppPatch {
        targets,
        ..AppPatch::default()
    };
    first(
        bench,
        AdminChange::AppSet {
            name: name("wiki"),
            patch,
        },
    );
}

fn leave_group(bench: &mut Bench, _: &mut TestNode, _: &TestNode, _: &Admit) {
    let groups = BTreeSet::new();
    first(
        bench,
        AdminChange::UserSet {
            name: name("alice"),
            groups,
        },
    );
}

fn block(bench: &mut Bench, _: &mut TestNode, _: &TestNode, _: &Admit) {
    first(bench, AdminChange::DeviceBlock("laptop".to_owned()));
}

fn break_posture(bench: &mut Bench, device: &mut TestNode, _: &TestNode, _: &Admit) {
    let waiting = std::mem::take(&mut bench.out.proposals);
    device.counter += 1;
    let mut facts = sane_facts();
    facts.extend([fact("agent.version", Value::Text("0.0.1".to_owned()))]);
    let report = bench.report_of(device.counter, device.nonce.0, facts);
    bench.say(device, FromNode::Report(report));
    bench.out.proposals.extend(waiting);
}

fn close_by_device(bench: &mut Bench, device: &mut TestNode, _: &TestNode, admit: &Admit) {
    let waiting = std::mem::take(&mut bench.out.proposals);
    bench.say(device, FromNode::Closed { grant: admit.grant });
    bench.out.proposals.extend(waiting);
}

fn close_by_connector(bench: &mut Bench, _: &mut TestNode, connector: &TestNode, admit: &Admit) {
    let waiting = std::mem::take(&mut bench.out.proposals);
    bench.say(connector, FromNode::Closed { grant: admit.grant });
    bench.out.proposals.extend(waiting);
}

fn device_gone(bench: &mut Bench, device: &mut TestNode, _: &TestNode, _: &Admit) {
    let waiting = std::mem::take(&mut bench.out.proposals);
    bench.handle(crate::Input::Disconnected {
        channel: device.channel,
    });
    bench.out.proposals.extend(waiting);
}

fn connector_gone(bench: &mut Bench, _: &mut TestNode, connector: &TestNode, _: &Admit) {
    bench.handle(crate::Input::Disconnected {
        channel: connector.channel,
    });
}

fn not_admitted(bench: &mut Bench, _: &mut TestNode, connector: &TestNode, admit: &Admit) {
    let refusal = Refusal::new(RefusalCode::Internal, "no room");
    bench.say(
        connector,
        FromNode::NotAdmitted {
            grant: admit.grant,
            refusal,
        },
    );
}

fn admitted_again(bench: &mut Bench, _: &mut TestNode, connector: &TestNode, admit: &Admit) {
    bench.admit(connector, admit);
}

fn three_seconds(bench: &mut Bench, _: &mut TestNode, _: &TestNode, _: &Admit) {
    bench.pass(Duration::from_secs(3));
}

fn ask_again(bench: &mut Bench, device: &mut TestNode, _: &TestNode, _: &Admit) {
    let waiting = std::mem::take(&mut bench.out.proposals);
    bench.request(device, 2, "wiki");
    bench.out.proposals.extend(waiting);
}

/// An admin's change that reaches the store before what waits for it already.
fn first(bench: &mut Bench, change: AdminChange) {
    let waiting = std::mem::take(&mut bench.out.proposals);
    bench.must(change);
    bench.out.proposals.extend(waiting);
}

fn remove_device(bench: &mut Bench, _: &mut TestNode, _: &TestNode, _: &Admit) {
    first(bench, AdminChange::DeviceRemove("laptop".to_owned()));
}

fn remove_connector(bench: &mut Bench, _: &mut TestNode, _: &TestNode, _: &Admit) {
    first(bench, AdminChange::ConnectorRemove("gate".to_owned()));
}

const fn nothing(_: &mut Bench, _: &mut TestNode, _: &TestNode, _: &Admit) {}
