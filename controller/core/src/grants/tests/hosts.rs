//! Apps with wildcard names: a grant for each host.

use cardea_proto::{
    access::Admit,
    admin::{AdminChange, AppPatch},
    ledger::EndReason,
    message::{FromNode, ToNode},
    refusal::{Refusal, RefusalCode},
};

use crate::testing::{Bench, TestNode, name};

const API: &str = "api.dev.corp.example";
const WEB: &str = "web.dev.corp.example";

#[test]
fn each_host_has_a_grant_of_its_own_and_a_newer_one_replaces_its_own_alone() {
    let (mut bench, device, connector) = wild();
    let (api, web) = (
        open(&mut bench, &device, &connector, API),
        open(&mut bench, &device, &connector, WEB),
    );
    assert_eq!(api.patterns, ["*.dev.corp.example".parse().unwrap()]);
    assert_eq!(api.targets, ["*.dev.internal.example:80".parse().unwrap()]);
    let host = |bench: &Bench, admit: &Admit| bench.store.grant(&admit.grant)?.grant.host.clone();
    assert_eq!(host(&bench, &api), Some(name(API)));
    assert_eq!(host(&bench, &web), Some(name(WEB)));
    let again = open(&mut bench, &device, &connector, API);
    assert!(bench.store.grant(&api.grant).is_none(), "replaced");
    assert!(bench.store.grant(&web.grant).is_some() && bench.store.grant(&again.grant).is_some());
}

#[test]
fn a_host_that_no_wildcard_covers_is_refused_and_so_is_none() {
    let (mut bench, device, connector) = wild();
    for host in [
        Some("api.prod.corp.example"),
        Some("a.b.dev.corp.example"),
        Some("dev.corp.example"),
        Some("10.0.0.1"),
        None,
    ] {
        let refusal = ask(&mut bench, &device, host).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::NotFound, "{host:?}: {refusal}");
        assert!(bench.take(&connector).is_empty(), "{host:?}");
    }
}

#[test]
fn a_wildcard_that_is_taken_back_ends_the_grants_of_its_hosts() {
    let (mut bench, device, connector) = wild();
    let admit = open(&mut bench, &device, &connector, API);
    let names = Some(vec!["*.lab.corp.example".parse().unwrap()]);
    let patch = AppPatch {
        names,
        ..AppPatch::default()
    };
    bench.must(AdminChange::AppSet {
        name: name("wiki"),
        patch,
    });
    let withdrawn = bench.take(&connector).into_iter().any(|message| {
        matches!(message, ToNode::Withdraw { grant, reason: EndReason::AppChanged } if grant == admit.grant)
    });
    assert!(withdrawn);
}

fn wild() -> (Bench, TestNode, TestNode) {
    let (mut bench, device, connector) = Bench::office();
    let patch = AppPatch {
        targets: Some(vec!["*.dev.internal.example:80".parse().unwrap()]),
        names: Some(vec!["*.dev.corp.example".parse().unwrap()]),
        ..AppPatch::default()
    };
    bench.must(AdminChange::AppSet {
        name: name("wiki"),
        patch,
    });
    bench.take(&device);
    bench.take(&connector);
    (bench, device, connector)
}

fn ask(bench: &mut Bench, device: &TestNode, host: Option<&str>) -> Result<(), Refusal> {
    let offer = bench.offer_for(device, "wiki", host);
    let (request, app) = (1, name("wiki"));
    let request = FromNode::Request {
        request,
        app,
        offer,
    };
    bench.say(device, request);
    bench.settle();
    let denied = bench.take(device).into_iter().find_map(|message| {
        if let ToNode::Denied { refusal, .. } = message {
            Some(refusal)
        } else {
            None
        }
    });
    denied.map_or(Ok(()), Err)
}

fn open(bench: &mut Bench, device: &TestNode, connector: &TestNode, host: &str) -> Admit {
    ask(bench, device, Some(host)).unwrap();
    let admit = bench.admit_at(connector);
    bench.admit(connector, &admit);
    bench.settle();
    assert_eq!(bench.granted_at(device).grant, admit.grant);
    admit
}
