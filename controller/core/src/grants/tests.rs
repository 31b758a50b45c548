mod table;

use std::{collections::BTreeMap, time::Duration};

use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminQuery, AppPatch},
    app::{Carrier, Principal, Transport},
    decision::Reason,
    identity::Role,
    ledger::{Admits, Change, EndReason, Link},
    message::{FromNode, ToNode, Usage},
    refusal::{Refusal, RefusalCode},
};

use crate::{
    CommitError, Settings,
    testing::{Bench, TestNode, name, sane_facts, settings},
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
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.heard(silent), ["withdraw: connector_gone"]);
    let admit = bench.admit_at(other);
    bench.admit(other, &admit);
    bench.settle();
    assert_eq!(bench.granted_at(&device).connector, other.connector());
    assert_eq!(bench.store.grants_count(), 1);
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
fn traffic_is_shown_where_its_own_ends_report_it() {
    let (mut bench, device, connector) = Bench::office();
    let grant = bench.open(&device, &connector, "wiki").grant;
    let other = bench.device("other");
    let usage = |bytes_in| {
        FromNode::Usage(vec![Usage {
            grant,
            bytes_in,
            bytes_out: 2,
            flows: 1,
        }])
    };
    bench.say(&connector, usage(1));
    bench.say(&other, usage(99));
    let AdminAnswer::Tunnels(rows) = bench.query(AdminQuery::Tunnels) else {
        panic!("no rows")
    };
    assert_eq!(
        (rows[0].bytes_in, rows[0].bytes_out, rows[0].flows),
        (1, 2, 1)
    );
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
