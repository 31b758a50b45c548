use std::time::Duration;

use cardea_credential::{admin::sign_change, key::SoftwareKey};
use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminQuery, AdminRequest, AppPatch, ChangeOrder},
    app::{AppSpec, Principal, Transport},
    codec::Bytes,
    id::GrantId,
    ledger::{Actor, Change, Link},
    message::FromNode,
    policy::PolicyFile,
    refusal::{Refusal, RefusalCode},
};

use super::{SESSIONS_MAX, Sessions};
use crate::{
    CallId, CommitError, Input, Settings,
    policy::default_folder,
    testing::{Bench, SESSION, app, name, sane_facts, settings},
};

#[test]
fn a_change_is_done_when_it_is_committed_and_stands_there_with_its_signature() {
    let mut bench = Bench::new();
    let request = bench.signed(AdminChange::SiteAdd(name("office")));
    let AdminRequest::Change(signed) = request.clone() else {
        panic!("a query");
    };
    let call = CallId(4);
    bench.handle(Input::Admin {
        call,
        session: SESSION,
        request,
        prepared: None,
    });
    assert!(bench.out.answers.is_empty());
    bench.settle();
    let (answered, answer) = bench.out.answers.pop_front().unwrap();
    assert_eq!(answered, call);
    assert!(
        matches!(answer, AdminAnswer::Done { closed: 0, .. }),
        "{answer:?}"
    );
    let draft = &bench.entries.last().unwrap().draft;
    assert_eq!(draft.actor, Actor::Admin(signed.key));
    assert_eq!(draft.signed, Some(signed));
}

#[test]
fn a_change_by_another_key_for_another_domain_or_played_again_is_refused() {
    let mut bench = Bench::new();
    let stranger = SoftwareKey::from_seed(&[8; 32]).unwrap();
    let order = |sequence, domain: &str, nonce| ChangeOrder {
        domain: name(domain),
        nonce,
        sequence,
        at: bench.now.unix,
        change: AdminChange::SiteAdd(name("office")),
    };
    let ours = SESSION.nonce;
    let sign = |key: &SoftwareKey, order: &ChangeOrder| {
        AdminRequest::Change(sign_change(order, key).unwrap())
    };
    let again = sign(&bench.admin, &order(1, "corp.example", ours));
    let AdminRequest::Change(mut touched) = again.clone() else {
        panic!("a query");
    };
    touched.body.0[40] ^= 1;
    let refused = [
        sign(&stranger, &order(1, "corp.example", ours)),
        sign(&bench.admin, &order(1, "other.example", ours)),
        sign(&bench.admin, &order(1, "corp.example", Bytes([6; 16]))),
        AdminRequest::Change(touched),
    ];
    for request in refused {
        let refusal = refusal(bench.ask(request));
        assert_eq!(refusal.code, RefusalCode::NotProven, "{refusal}");
    }
    assert!(matches!(bench.ask(again.clone()), AdminAnswer::Done { .. }));
    assert_eq!(refusal(bench.ask(again)).code, RefusalCode::NotProven);
    assert!(
        bench
            .refused()
            .contains(&"administer not_proven".to_owned())
    );
}

#[test]
fn a_sequence_only_grows_and_old_sessions_are_forgotten() {
    let mut sessions = Sessions::default();
    let nonce = Bytes([1; 16]);
    assert!(sessions.advance(nonce, 1));
    assert!(!sessions.advance(nonce, 1));
    assert!(sessions.advance(nonce, 5));
    assert!(!sessions.advance(nonce, 4));
    for number in 0..3_000_u16 {
        let mut other = [2; 16];
        other[..2].copy_from_slice(&number.to_be_bytes());
        sessions.advance(Bytes(other), 1);
    }
    assert_eq!(sessions.last.len(), SESSIONS_MAX);
}

#[test]
fn every_change_that_cannot_be_made_says_why_and_records_nothing() {
    let (mut bench, _, _) = Bench::office();
    let before = bench.entries.len();
    for (change, expected) in wrong_apps().into_iter().chain(wrong_names()) {
        assert_eq!(refusal(bench.order(change)).to_string(), expected);
    }
    let broken = PolicyFile {
        path: "base.cedar".to_owned(),
        text: "permit (".to_owned(),
    };
    let refusal = refusal(bench.order(AdminChange::PolicyApply(vec![broken])));
    assert!(refusal.message.contains("base.cedar"), "{refusal}");
    assert_eq!(bench.entries.len(), before);
}

#[test]
fn a_policy_whose_own_tests_fail_is_not_applied() {
    let (mut bench, _, _) = Bench::office();
    let before = bench.entries.len();
    let mut files = default_folder();
    files.push(PolicyFile {
        path: "wrong.test.toml".to_owned(),
        text: r#"
[given.users]
"alice@corp.example" = ["staff"]

[given.devices.laptop]
user = "alice@corp.example"
posture = { "agent.version" = "0.1.0" }

[[test]]
name = "nobody is certified"
ask = { certify = "laptop" }
expect = { allowed = false }
"#
        .to_owned(),
    });
    let refusal = refusal(bench.order(AdminChange::PolicyApply(files.clone())));
    assert_eq!(refusal.code, RefusalCode::PolicyTestFailed, "{refusal}");
    assert!(refusal.message.contains("nobody is certified"), "{refusal}");
    assert_eq!(bench.entries.len(), before);
    files.pop();
    assert!(matches!(
        bench.order(AdminChange::PolicyApply(files)),
        AdminAnswer::Done { .. }
    ));
}

#[test]
fn impact_counts_what_the_change_then_closes() {
    let (mut bench, device, connector) = Bench::office();
    bench.publish("mail");
    let other = bench.device("other");
    bench.open(&device, &connector, "wiki");
    bench.open(&device, &connector, "mail");
    bench.open(&other, &connector, "wiki");
    let link = Link {
        principal: Principal::Group(name("staff")),
        app: name("wiki"),
    };
    for (change, closes) in [
        (AdminChange::Disallow(link), 2),
        (AdminChange::DeviceBlock("laptop".to_owned()), 1),
        (AdminChange::SiteAdd(name("office")), 0),
    ] {
        let impact = bench.query(AdminQuery::Impact(change.clone()));
        assert_eq!(impact, AdminAnswer::Impact { closes });
        assert_eq!(bench.must(change), closes);
    }
    assert_eq!(bench.store.grants_count(), 0);
}

#[test]
fn the_admin_and_the_device_get_the_same_decision() {
    let (mut bench, mut device, _) = Bench::office();
    for facts in [sane_facts(), std::collections::BTreeMap::new()] {
        bench.report(&mut device, facts);
        bench.take(&device);
        bench.say(
            &device,
            FromNode::Explain {
                request: 1,
                app: name("wiki"),
            },
        );
        let messages = bench.take(&device);
        let [cardea_proto::message::ToNode::Explained { decision, .. }] = messages.as_slice()
        else {
            panic!("{messages:?}");
        };
        let to_admin = bench.query(AdminQuery::Explain {
            user: name("alice"),
            device: "laptop".to_owned(),
            app: name("wiki"),
        });
        let to_device = decision.clone().unwrap();
        assert_eq!(to_admin, AdminAnswer::Decision(to_device));
    }
}

#[test]
fn who_has_not_been_seen_since_the_start_was_last_there_for_a_certificate() {
    let (mut bench, _, _) = Bench::office();
    let issued = bench.now.unix.to_rfc3339();
    bench.now = bench.now.plus(Duration::from_secs(60));
    bench.restart(Settings::default());
    let AdminAnswer::Devices(devices) = bench.query(AdminQuery::Devices) else {
        panic!("no rows");
    };
    assert_eq!(devices[0].state, "offline");
    assert_eq!(devices[0].last_seen.as_ref(), Some(&issued));
}

#[test]
fn a_node_was_last_seen_when_it_was_last_heard_and_a_connector_is_silent_after_a_while() {
    let (mut bench, device, connector) = Bench::office();
    let shown = |bench: &mut Bench| {
        let AdminAnswer::Connectors(connectors) = bench.query(AdminQuery::Connectors) else {
            panic!("no rows");
        };
        let AdminAnswer::Devices(devices) = bench.query(AdminQuery::Devices) else {
            panic!("no rows");
        };
        let row = connectors.into_iter().next().unwrap();
        (row.state, row.last_seen, devices[0].last_seen.clone())
    };
    let first = Some(bench.now.unix.to_rfc3339());
    bench.now = bench.now.plus(Duration::from_secs(12));
    let connected = "connected".to_owned();
    assert_eq!(shown(&mut bench), (connected, first.clone(), first.clone()));

    bench.now = bench.now.plus(Duration::from_secs(1));
    let silent = "silent".to_owned();
    assert_eq!(shown(&mut bench), (silent, first.clone(), first.clone()));

    let channel = connector.channel;
    bench.handle(Input::Heard { channel });
    let second = Some(bench.now.unix.to_rfc3339());
    let connected = "connected".to_owned();
    assert_eq!(shown(&mut bench), (connected, second.clone(), first));

    bench.say(&device, FromNode::Usage(Vec::new()));
    bench.now = bench.now.plus(Duration::from_secs(5));
    bench.disconnect(&connector);
    let offline = "offline".to_owned();
    assert_eq!(shown(&mut bench), (offline, second.clone(), second));
}

#[test]
fn rows_show_what_is() {
    let (mut bench, device, connector) = Bench::office();
    let granted = bench.open(&device, &connector, "wiki");
    bench.disconnect(&connector);
    let AdminAnswer::Devices(devices) = bench.query(AdminQuery::Devices) else {
        panic!("no rows");
    };
    assert_eq!(devices[0].state, "connected");
    assert_eq!(devices[0].compliant, Some(true));
    assert_eq!(devices[0].facts.len(), sane_facts().len() + 1, "the clock");
    let AdminAnswer::Connectors(connectors) = bench.query(AdminQuery::Connectors) else {
        panic!("no rows");
    };
    assert_eq!(
        (connectors[0].state.as_str(), connectors[0].tunnels),
        ("offline", 1)
    );
    assert!(connectors[0].last_seen.is_some());
    let AdminAnswer::Grants(grants) = bench.query(AdminQuery::Grants) else {
        panic!("no rows");
    };
    assert_eq!(grants[0].id, granted.grant);
    assert_eq!(grants[0].rules, ["allow/group:staff/wiki"]);
    assert_eq!(grants[0].state, "open");
    let AdminAnswer::Apps(apps) = bench.query(AdminQuery::Apps) else {
        panic!("no rows");
    };
    assert_eq!((apps[0].grants, apps[0].connectors_online), (1, 0));
    assert_eq!(apps[0].allow, [Principal::Group(name("staff"))]);
    let AdminAnswer::Users(users) = bench.query(AdminQuery::Users) else {
        panic!("no rows");
    };
    assert_eq!(users[0].devices, [name("laptop")]);
    let AdminAnswer::Sites(sites) = bench.query(AdminQuery::Sites) else {
        panic!("no rows");
    };
    assert_eq!((sites[0].apps, sites[0].connectors), (1, 1));
    let AdminAnswer::Invites(invites) = bench.query(AdminQuery::Invites) else {
        panic!("no rows");
    };
    assert!(invites.iter().all(|invite| invite.state == "used"));
}

#[test]
fn a_status_tells_what_needs_attention() {
    let (mut bench, _, connector) = Bench::office();
    let AdminAnswer::Status(status) = bench.query(AdminQuery::Status) else {
        panic!("no status");
    };
    assert_eq!((status.devices, status.connectors), ((1, 1), (1, 1)));
    assert_eq!(status.store, "ok");
    assert!(status.warnings.is_empty(), "{:?}", status.warnings);
    assert_eq!(status.revision, bench.store.head());

    bench.disconnect(&connector);
    bench.broken = Some(CommitError::Full);
    let refusal = refusal(bench.order(AdminChange::SiteAdd(name("office"))));
    assert_eq!(refusal.code, RefusalCode::StorageFull);
    bench.pass(Duration::from_secs(24 * 24 * 3_600));
    let AdminAnswer::Status(status) = bench.query(AdminQuery::Status) else {
        panic!("no status");
    };
    let codes: Vec<_> = status
        .warnings
        .iter()
        .map(|warning| warning.code.as_str())
        .collect();
    assert_eq!(codes, ["store", "intermediate", "site_offline"]);
}

fn refusal(answer: AdminAnswer) -> Refusal {
    let AdminAnswer::Refused(refusal) = answer else {
        panic!("not refused: {answer:?}");
    };
    refusal
}

fn wrong_apps() -> Vec<(AdminChange, &'static str)> {
    let add = |name: &str, target: &str, site: &str| {
        let mut spec = app(name);
        spec.targets = vec![target.parse().unwrap()];
        spec.site = site.parse().unwrap();
        let allow = Vec::new();
        AdminChange::AppAdd { spec, allow }
    };
    let link = |principal: &str| Link {
        principal: principal.parse().unwrap(),
        app: name("wiki"),
    };
    let unchanged = AdminChange::AppSet {
        name: name("wiki"),
        patch: AppPatch::default(),
    };
    let mut spec = app("db");
    spec.targets = ["10.0.0.1:80", "10.0.0.1:80/udp", "10.0.0.1:80/tcp"]
        .map(|target| target.parse().unwrap())
        .to_vec();
    let twice = AdminChange::AppAdd {
        spec,
        allow: Vec::new(),
    };
    vec![
        (
            add("wiki", "10.0.0.1:80", "default"),
            "app wiki exists already. Change it: cardeactl app set wiki",
        ),
        (
            add("db", "127.0.0.1:80", "default"),
            "app db: target 127.0.0.1:80/tcp is a loopback address, which leads to the connector's \
             own host or network. If exactly that is meant, add: --allow-host-scoped",
        ),
        (
            add("db", "10.0.0.1:80", "defualt"),
            "no site is called defualt. Did you mean default? List them: cardeactl site \
             ls, or add it: cardeactl site add defualt",
        ),
        (
            AdminChange::AppRemove(name("wkii")),
            "no app is called wkii. Did you mean wiki? List them: cardeactl app ls",
        ),
        (
            unchanged,
            "app wiki is so already. Look at: cardeactl app show wiki",
        ),
        (
            twice,
            "app db: target 10.0.0.1:80/tcp is given twice. Leave one out",
        ),
        (
            AdminChange::Allow(link("group:staff")),
            "group:staff may open wiki already. Look at: cardeactl app show wiki",
        ),
        (
            AdminChange::Disallow(link("everyone")),
            "no everyday rule lets everyone open wiki. Look at: cardeactl policy show",
        ),
    ]
}

fn wrong_names() -> Vec<(AdminChange, &'static str)> {
    vec![
        (
            AdminChange::DeviceBlock("labtop".to_owned()),
            "no device is called labtop. Did you mean laptop? List them: cardeactl device ls",
        ),
        (
            AdminChange::DeviceUnblock("laptop".to_owned()),
            "device laptop is not blocked. Look at: cardeactl device show laptop",
        ),
        (
            AdminChange::ConnectorRemove("laptop".to_owned()),
            "no connector is called laptop. List them: cardeactl connector ls",
        ),
        (
            AdminChange::SiteAdd(name("default")),
            "site default exists already. Look at: cardeactl site ls",
        ),
        (
            AdminChange::SiteRemove(name("nosuch")),
            "no site is called nosuch. List them: cardeactl site ls",
        ),
        (
            AdminChange::SiteRemove(name("default")),
            "site default still has 1 app and 1 connector. Remove those first: cardeactl app ls, \
             cardeactl connector ls, then: cardeactl site rm default",
        ),
        (
            AdminChange::GrantRevoke(GrantId::from_bytes([1; 10])),
            "no grant grt_aeaqcaibaeaqcaib is open; it ended or never was. Look at: cardeactl grant ls",
        ),
    ]
}

#[test]
fn a_revoked_grant_that_is_given_again_says_so_with_what_ends_that() {
    let (mut bench, device, connector) = Bench::office();
    let grant = bench.open(&device, &connector, "wiki").grant;
    let AdminAnswer::Done { message, .. } = bench.order(AdminChange::GrantRevoke(grant)) else {
        panic!("refused");
    };
    assert!(
        message.contains("the next connection gets another. To end that: cardeactl disallow "),
        "{message}"
    );
    assert!(
        message.ends_with("or: cardeactl device block laptop"),
        "{message}"
    );
}

#[test]
fn a_dns_name_is_of_one_app_and_a_ledger_with_two_still_goes_on() {
    let mut bench = Bench::new();
    let named = |name: &str, dns: &str| AppSpec {
        names: vec![dns.parse().unwrap()],
        ..app(name)
    };
    let add = |spec| AdminChange::AppAdd {
        spec,
        allow: Vec::new(),
    };
    bench.must(add(named("wiki", "wiki.corp.example")));
    for taken in [
        "wiki.corp.example",
        "WIKI.corp.example",
        "wiki.corp.example.",
    ] {
        let refused = refusal(bench.order(add(named("other", taken))));
        assert_eq!(refused.code, RefusalCode::Exists, "{taken}");
        assert!(
            refused.to_string().contains("is that of app wiki"),
            "{refused}"
        );
    }
    bench.must(add(named("mail", "mail.corp.example")));
    let patch = |dns: &str| AdminChange::AppSet {
        name: name("mail"),
        patch: AppPatch {
            names: Some(vec![dns.parse().unwrap()]),
            ..AppPatch::default()
        },
    };
    let refused = refusal(bench.order(patch("Wiki.Corp.Example")));
    assert!(
        refused.to_string().contains("is that of app wiki"),
        "{refused}"
    );
    bench.must(patch("post.corp.example"));

    let mut draft = bench.first_entry().draft;
    draft.changes = vec![Change::AppSet(named("mail", "wiki.corp.example"))];
    bench.append(draft);
    bench.restart(settings());
    bench.must(AdminChange::AppSet {
        name: name("mail"),
        patch: AppPatch {
            transport: Some(Transport::Quic),
            ..AppPatch::default()
        },
    });
}

#[test]
fn an_explanation_of_what_is_unknown_has_a_next_step() {
    let (mut bench, device, _) = Bench::office();
    let asked = bench.query(AdminQuery::Explain {
        user: name("nobody"),
        device: "laptop".to_owned(),
        app: name("wiki"),
    });
    let refused = refusal(asked).to_string();
    assert!(
        refused.contains("cardeactl invite device --user nobody"),
        "{refused}"
    );
    let decision = bench
        .controller
        .explain_to(bench.now, device.device(), &name("wki"));
    assert!(
        decision.to_string().contains("Did you mean wiki?"),
        "{decision}"
    );
}
