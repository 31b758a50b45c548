mod broken;
mod denials;
mod group;
mod hosts;
mod lives;
mod relays;
mod silence;
mod table;

use std::{collections::BTreeMap, time::Duration};

use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminQuery, AppPatch},
    app::{Carrier, Principal, Transport},
    identity::Role,
    ledger::{Admits, Change, EndReason, Link},
    message::{FromNode, ToNode, Usage},
    path::Path,
};

use crate::{
    CommitError,
    testing::{Bench, TestNode, name, sane_facts},
};

#[test]
fn a_request_becomes_a_tunnel_that_both_ends_hold() {
    let (mut bench, device, connector) = Bench::office();
    bench.request(&device, 7, "wiki");
    bench.settle();
    let admit = bench.admit_at(&connector);
    assert_eq!(admit.device, device.device());
    assert_eq!(admit.ttl_ms, 300_000);
    assert_eq!(admit.carrier, Carrier::Quic);
    assert!(admit.never.contains(&"192.0.2.1".parse().unwrap()));
    bench.admit(&connector, &admit);
    bench.settle();
    let granted = bench.granted_at(&device);
    assert_eq!((granted.request, granted.grant), (7, admit.grant));
    assert_eq!(granted.connector, connector.connector());
    assert_eq!(granted.inner, admit.inner);
    let record = bench.store.grant(&admit.grant).unwrap();
    assert!(record.admitted);
    assert_eq!(record.rules, ["allow/group:staff/wiki"]);
    assert_eq!(bench.store, *bench.controller.state());
}

#[test]
fn a_device_that_asks_for_a_hundred_thousand_tunnels_gets_few_and_holds_nobody_up() {
    let (mut bench, device, connector) = Bench::office();
    let other = bench.device("other");
    let ask = FromNode::Request {
        request: 1,
        app: name("wiki"),
        offer: bench.offer(&device, "wiki"),
    };
    let before = bench.controller.sizes();
    let mut denied = 0;
    for number in 0..100_000_u32 {
        bench.say(&device, ask.clone());
        if number % 1_000 == 0 {
            bench.settle();
            denied += bench.take(&device).len();
            bench.take(&connector);
        }
    }
    bench.settle();
    denied += bench.take(&device).len();
    bench.take(&connector);
    // What a node may say at once, and no time has passed to earn more.
    assert!(denied >= 100_000 - 300, "{denied}");
    let after = bench.controller.sizes();
    assert!(after.tunnels <= before.tunnels + 1, "{after:?}");
    assert!(after.timers <= before.timers + 8, "{before:?} {after:?}");
    assert!(bench.entries.len() < 1_000, "{}", bench.entries.len());
    bench.request(&other, 7, "wiki");
    bench.settle();
    let admit = bench.admit_at(&connector);
    bench.admit(&connector, &admit);
    bench.settle();
    assert_eq!(bench.granted_at(&other).request, 7);
}

#[test]
fn nothing_is_told_to_anybody_before_the_commit() {
    let (mut bench, mut device, connector) = Bench::office();
    bench.request(&device, 1, "wiki");
    assert!(bench.out.messages.is_empty(), "Admit before GrantOffered");
    bench.settle();
    let admit = bench.admit_at(&connector);
    bench.admit(&connector, &admit);
    assert!(
        bench.out.messages.is_empty(),
        "Granted before GrantAdmitted"
    );
    bench.settle();
    bench.take(&device);

    device.counter += 1;
    let report = bench.report_of(device.counter, device.nonce.0, BTreeMap::new());
    bench.say(&device, FromNode::Report(report));
    assert!(
        bench.out.messages.is_empty(),
        "Withdraw or Posture before Appraised"
    );
    bench.settle();
    bench.report(&mut device, sane_facts());
    bench.open(&device, &connector, "wiki");
    bench.out.messages.clear();

    let request = bench.signed(AdminChange::DeviceBlock("laptop".to_owned()));
    let session = crate::AdminSession {
        nonce: cardea_proto::codec::Bytes([5; 16]),
    };
    bench.handle(crate::Input::Admin {
        call: crate::CallId(9),
        session,
        request,
        prepared: None,
    });
    assert!(
        bench.out.messages.is_empty(),
        "Withdraw before DeviceBlocked"
    );
    assert!(bench.out.answers.is_empty(), "Done before DeviceBlocked");
    bench.settle();
    assert_eq!(bench.out.answers.len(), 1);
    assert_eq!(bench.heard(&connector), ["withdraw: device_blocked"]);
}

#[test]
fn the_connector_hears_of_an_end_before_the_device() {
    let (mut bench, device, connector) = Bench::office();
    let granted = bench.open(&device, &connector, "wiki");
    bench.must(AdminChange::GrantRevoke(granted.grant));
    let order: Vec<_> = bench
        .out
        .messages
        .iter()
        .map(|(channel, _)| *channel)
        .collect();
    assert_eq!(order, [connector.channel, device.channel]);
}

#[test]
fn a_posture_that_breaks_ends_its_grants_in_the_entry_that_records_it() {
    let (mut bench, mut device, connector) = Bench::office();
    let granted = bench.open(&device, &connector, "wiki");
    bench.report(&mut device, BTreeMap::new());
    let entry = bench.entries.last().unwrap();
    let appraised = Change::Appraised {
        device: device.device(),
        compliant: false,
    };
    let ended = Change::GrantEnded {
        grant: granted.grant,
        reason: EndReason::PostureFailed,
    };
    assert_eq!(entry.draft.changes, [appraised, ended]);
    assert!(
        entry
            .draft
            .decision
            .as_ref()
            .is_some_and(|decision| !decision.allowed)
    );
}

#[test]
fn when_a_connector_does_not_answer_another_one_of_the_site_is_asked() {
    let (mut bench, device, first) = Bench::office();
    let second = bench.connector("gate2");
    bench.request(&device, 1, "wiki");
    bench.settle();
    let (silent, other) = if bench.take(&first).is_empty() {
        (&second, &first)
    } else {
        (&first, &second)
    };
    bench.take(silent);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.heard(silent), ["withdraw: connector_gone"]);
    let admit = bench.admit_at(other);
    bench.admit(other, &admit);
    bench.settle();
    assert_eq!(bench.granted_at(&device).connector, other.connector());
    assert_eq!(bench.store.grants_count(), 1);
}

#[test]
fn a_connector_that_is_the_only_one_has_longer_to_answer() {
    let (mut bench, device, connector) = Bench::office();
    bench.request(&device, 1, "wiki");
    bench.settle();
    bench.take(&connector);
    bench.pass(Duration::from_millis(2_999));
    assert!(bench.heard(&connector).is_empty());
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.heard(&connector), ["withdraw: connector_gone"]);
    let heard = bench.heard(&device);
    assert!(
        heard.contains(&"denied: no_connector".to_owned()),
        "{heard:?}"
    );
}

#[test]
fn when_a_connector_goes_new_requests_go_to_the_other_and_its_grants_stay() {
    let (mut bench, device, first) = Bench::office();
    bench.publish("mail");
    let second = bench.connector("gate2");
    bench.disconnect(&second);
    bench.open(&device, &first, "wiki");
    let mut second = second;
    bench.connect(&mut second, &[]);
    bench.disconnect(&first);
    let granted = bench.open(&device, &second, "mail");
    assert_eq!(granted.connector, second.connector());
    assert_eq!(bench.store.grants_count(), 2);
}

#[test]
fn a_thousand_tunnels_to_fifty_apps_from_a_hundred_agents_open_at_once() {
    let mut bench = Bench::new();
    let apps: Vec<String> = (0..50).map(|number| format!("app-{number}")).collect();
    for app in &apps {
        bench.publish(app);
    }
    let connectors = [bench.connector("gate1"), bench.connector("gate2")];
    let devices: Vec<TestNode> = (0..100)
        .map(|number| bench.device(&format!("host-{number}")))
        .collect();
    bench.out.messages.clear();
    for (number, device) in devices.iter().enumerate() {
        for step in 0..10 {
            bench.request(
                device,
                step,
                &apps[(number * 10 + usize::try_from(step).unwrap()) % 50],
            );
        }
    }
    bench.commit_all();
    for connector in &connectors {
        let admits = bench.take(connector);
        assert_eq!(admits.len(), 500, "the load is shared");
        for message in admits {
            if let ToNode::Admit(admit) = message {
                bench.admit(connector, &admit);
            }
        }
    }
    bench.commit_all();
    for device in &devices {
        let heard = bench.heard(device);
        assert_eq!(
            heard.iter().filter(|word| *word == "granted").count(),
            10,
            "{heard:?}"
        );
    }
    assert_eq!(bench.store.grants_count(), 1_000);
}

#[test]
fn an_entry_of_another_controller_has_the_same_effects_here() {
    let (mut bench, device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    let mut draft = bench.entries.last().unwrap().draft.clone();
    draft.changes = vec![Change::DeviceBlocked(device.device())];
    let entry = bench.append(draft);
    bench.handle(crate::Input::Committed {
        proposal: None,
        entry: entry.clone(),
    });
    bench.settle();
    assert_eq!(bench.heard(&connector), ["withdraw: device_blocked"]);
    bench.handle(crate::Input::Committed {
        proposal: None,
        entry,
    });
    assert_eq!(bench.store, *bench.controller.state(), "once is enough");
}

#[test]
fn an_end_that_could_not_be_recorded_is_recorded_later() {
    let (mut bench, mut device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    bench.broken = Some(CommitError::Failed("I/O".to_owned()));
    bench.report(&mut device, BTreeMap::new());
    assert_eq!(
        bench.heard(&connector),
        Vec::<String>::new(),
        "no effect without a record"
    );
    bench.pass(Duration::from_secs(5));
    bench.broken = None;
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.heard(&connector), ["withdraw: posture_failed"]);
}

#[test]
fn wireguard_is_the_carrier_where_the_app_says_so() {
    let (mut bench, device, connector) = Bench::office();
    let patch = AppPatch {
        transport: Some(Transport::WireGuard),
        ..AppPatch::default()
    };
    bench.must(AdminChange::AppSet {
        name: name("wiki"),
        patch,
    });
    assert_eq!(
        bench.open(&device, &connector, "wiki").carrier,
        Carrier::WireGuard
    );
}

#[test]
fn traffic_and_path_are_shown_as_its_own_ends_report_them_and_since_when() {
    let (mut bench, device, connector) = Bench::office();
    let grant = bench.open(&device, &connector, "wiki").grant;
    let other = bench.device("other");
    let usage = |bytes_in, path: Option<&str>| {
        FromNode::Usage(vec![Usage {
            grant,
            bytes_in,
            bytes_out: 2,
            flows: 1,
            path: path.map(|address| Path::Direct(address.parse().unwrap())),
        }])
    };
    let shown = |bench: &mut Bench| {
        let AdminAnswer::Tunnels(rows) = bench.query(AdminQuery::Tunnels) else {
            panic!("no rows")
        };
        let row = rows.into_iter().next().unwrap();
        (row.bytes_in, row.path, row.told_at)
    };
    assert_eq!(shown(&mut bench), (0, "unknown".to_owned(), None));
    bench.say(&connector, usage(1, Some("192.0.2.1:1")));
    bench.say(&other, usage(99, Some("192.0.2.2:1")));
    let first = bench.now.unix.to_rfc3339();
    assert_eq!(shown(&mut bench), (1, "unknown".to_owned(), Some(first)));

    bench.pass(Duration::from_secs(1));
    let second = bench.now.unix.to_rfc3339();
    bench.say(&device, usage(2, Some("192.0.2.3:1")));
    let path = "direct 192.0.2.3:1".to_owned();
    let expected = |bytes_in| (bytes_in, path.clone(), Some(second.clone()));
    assert_eq!(shown(&mut bench), expected(2));

    bench.pass(Duration::from_secs(1));
    bench.say(&connector, usage(3, None));
    assert_eq!(shown(&mut bench), expected(3));
}

fn link() -> Link {
    Link {
        principal: Principal::Group(name("staff")),
        app: name("wiki"),
    }
}

#[test]
fn a_connector_that_is_removed_loses_its_tunnels_and_its_channel() {
    let (mut bench, device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    assert_eq!(
        bench.must(AdminChange::ConnectorRemove("gate".to_owned())),
        1
    );
    assert_eq!(
        bench.heard(&connector),
        ["withdraw: connector_gone", "goodbye: not_proven"]
    );
    assert_eq!(bench.heard(&device), ["withdraw: connector_gone"]);
    assert!(bench.out.close.contains(&connector.channel));
    let site = name("default");
    let secret = bench.invite(Admits::Connector { site });
    bench.enroll_node(Role::Connector, &secret, "gate");
}
