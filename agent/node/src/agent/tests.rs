//! What an agent does, against a scripted controller.

use std::time::Duration;

use cardea_proto::{
    app::Carrier,
    decision::Check,
    local::{AppError, AppState, ControllerState, LocalRequest},
    message::{Purpose, Usage},
    path::Path,
    time::UnixMillis,
};
use cardea_tunnel::{CloseReason, DialError, PathReason, Silence};

use super::*;
use crate::testing::{GRANT, LIFE, TTL, World, down, fact, name, up, view};

mod renewal;
mod silence;

/// Admits and grants what `agent` asks for, through a real connector.
fn grant(world: &World, agent: &mut Agent, carrier: Carrier) -> AgentOutbox {
    let (request, offer) = world.ask(agent);
    let mut connector = world.ready_connector();
    let admit = Box::new(world.admit(carrier, offer));
    let admit = crate::ConnectorInput::Message(ToNode::Admit(admit));
    let answered = world.serve(&mut connector, admit);
    let Some(FromNode::Admitted { answer, .. }) = answered.messages.back() else {
        panic!("not admitted: {:?}", answered.messages);
    };
    let granted = world.granted(carrier, request, answer.clone());
    world.turn(
        agent,
        AgentInput::Message(ToNode::Granted(Box::new(granted))),
    )
}

fn open(world: &World, agent: &mut Agent) {
    grant(world, agent, Carrier::WireGuard);
    let out = world.turn(agent, AgentInput::Tunnel(Event::Opened { grant: GRANT }));
    assert_eq!(out.opened, [(name("wiki"), Ok(GRANT))]);
}

fn state(world: &World, agent: &Agent) -> AppState {
    let status = agent.status(world.now);
    let app = status.apps.iter().find(|app| app.name == name("wiki"));
    app.map_or(AppState::Idle, |app| app.state)
}

fn why(world: &World, agent: &Agent) -> String {
    let status = agent.status(world.now);
    let app = status.apps.into_iter().find(|app| app.name == name("wiki"));
    app.and_then(|app| app.why).unwrap_or_default()
}

fn verdict(compliant: bool) -> PostureVerdict {
    let check = Check {
        subject: "disk.encrypted".to_owned(),
        observed: "false".to_owned(),
        needed: "true".to_owned(),
        rule: "base/certify".to_owned(),
        remedy: Some("Turn on disk encryption".to_owned()),
    };
    PostureVerdict {
        compliant,
        checked_at: UnixMillis(0),
        failed: if compliant { Vec::new() } else { vec![check] },
        remedy: None,
        report: None,
        why: None,
        clock_skew_s: None,
        blocked: false,
    }
}

/// Facts that were collected under `number`.
fn facts(world: &World, encrypted: bool, number: u64) -> AgentInput {
    let facts = vec![fact(world.now, "a", encrypted)];
    AgentInput::Facts { facts, number }
}

#[test]
fn two_hosts_of_one_app_have_a_tunnel_each_and_are_called_by_their_names() {
    let world = World::new();
    let (mut agent, mut connector) = (world.ready_agent(), world.ready_connector());
    let mut told = view("wiki", true);
    told.names = vec!["*.dev.corp.example".parse().unwrap()];
    world.turn(&mut agent, AgentInput::Message(ToNode::Apps(vec![told])));
    let hosts = ["api.dev.corp.example", "web.dev.corp.example"];
    let mut asked = Vec::new();
    for (number, host) in (1..).zip(hosts) {
        let (request, offer) = world.ask_for(&mut agent, host);
        let mut admit = world.admit(Carrier::WireGuard, offer);
        admit.grant = GrantId::from_bytes([number; 10]);
        admit.patterns = vec!["*.dev.corp.example".parse().unwrap()];
        asked.push((request, host, admit));
    }
    for (request, host, admit) in asked {
        let grant = admit.grant;
        let admit = crate::ConnectorInput::Message(ToNode::Admit(Box::new(admit)));
        let answered = world.serve(&mut connector, admit);
        let Some(FromNode::Admitted { answer, .. }) = answered.messages.back() else {
            panic!("not admitted: {:?}", answered.messages);
        };
        let mut granted = world.granted(Carrier::WireGuard, request, answer.clone());
        granted.grant = grant;
        let granted = AgentInput::Message(ToNode::Granted(Box::new(granted)));
        let out = world.turn(&mut agent, granted);
        assert!(
            matches!(out.node.commands.front(), Some(Command::Install(install)) if install.app == name(host)),
            "{host}"
        );
        let out = world.turn(&mut agent, AgentInput::Tunnel(Event::Opened { grant }));
        assert_eq!(out.opened, [(name(host), Ok(grant))]);
        assert!(agent.is_live(&name(host)));
    }
    let status = agent.status(world.now);
    let open = status.apps.iter().filter(|app| app.state == AppState::Open);
    let open: Vec<&str> = open.map(|app| app.name.as_str()).collect();
    assert_eq!(open, hosts);
    let withdraw = ToNode::Withdraw {
        grant: GrantId::from_bytes([1; 10]),
        reason: EndReason::Revoked,
    };
    world.turn(&mut agent, AgentInput::Message(withdraw));
    assert!(!agent.is_live(&name(hosts[0])) && agent.is_live(&name(hosts[1])));
}

#[test]
fn an_app_is_open_only_between_opened_and_the_end_of_its_tunnel() {
    for carrier in [Carrier::WireGuard, Carrier::Quic] {
        let world = World::new();
        let mut agent = world.ready_agent();
        assert_eq!(state(&world, &agent), AppState::Idle);
        let out = grant(&world, &mut agent, carrier);
        assert!(
            matches!(out.node.commands.front(), Some(Command::Install(install)) if install.keys.carrier() == carrier)
        );
        assert!(out.opened.is_empty());
        assert_eq!(state(&world, &agent), AppState::Opening);
        let opened = AgentInput::Tunnel(Event::Opened { grant: GRANT });
        assert_eq!(
            world.turn(&mut agent, opened).opened,
            [(name("wiki"), Ok(GRANT))]
        );
        assert_eq!(state(&world, &agent), AppState::Open);
        let closed = Event::Closed {
            grant: GRANT,
            reason: CloseReason::Lost,
        };
        let out = world.turn(&mut agent, AgentInput::Tunnel(closed));
        assert_eq!(out.node.messages, [FromNode::Closed { grant: GRANT }]);
        assert_eq!(state(&world, &agent), AppState::Idle);
    }
}

#[test]
fn a_withdrawn_grant_is_removed_in_the_same_turn_and_the_status_tells_why() {
    let world = World::new();
    let mut agent = world.ready_agent();
    open(&world, &mut agent);
    let withdraw = ToNode::Withdraw {
        grant: GRANT,
        reason: EndReason::PostureFailed,
    };
    let out = world.turn(&mut agent, AgentInput::Message(withdraw));
    assert!(
        matches!(out.node.commands.front(), Some(Command::Remove { grant }) if *grant == GRANT)
    );
    assert_eq!(state(&world, &agent), AppState::Denied);
    world.turn(
        &mut agent,
        AgentInput::Message(ToNode::Posture(verdict(false))),
    );
    assert_eq!(
        why(&world, &agent),
        "wiki: denied: disk.encrypted is false on this device (needed: true, rule base/certify). \
         Turn on disk encryption, then: cardea posture"
    );
    world.turn(
        &mut agent,
        AgentInput::Message(ToNode::Posture(verdict(true))),
    );
    assert_eq!(state(&world, &agent), AppState::Idle);
}

#[test]
fn the_controller_hears_which_way_a_tunnel_goes_and_again_after_the_channel_was_lost() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    open(&world, &mut agent);
    let path = Path::Direct("192.0.2.7:4711".parse().unwrap());
    let event = Event::Path {
        grant: GRANT,
        path,
        why: PathReason::Answered,
    };
    world.turn(&mut agent, AgentInput::Tunnel(event));
    let expected = FromNode::Usage(vec![Usage {
        grant: GRANT,
        bytes_in: 0,
        bytes_out: 0,
        flows: 0,
        path: Some(path),
    }]);
    world.pass(Duration::from_secs(5));
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert!(
        out.node.messages.contains(&expected),
        "{:?}",
        out.node.messages
    );
    world.pass(Duration::from_secs(5));
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert!(!out.node.messages.contains(&expected));
    world.turn(&mut agent, down());
    world.pass(Duration::from_secs(5));
    world.turn(&mut agent, AgentInput::Timeout);
    world.greet(&mut agent);
    world.pass(Duration::from_secs(5));
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert!(
        out.node.messages.contains(&expected),
        "{:?}",
        out.node.messages
    );
}

#[test]
fn the_status_names_the_apps_there_are_and_for_a_while_what_was_refused() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    let views = ToNode::Apps(vec![view("wiki", true)]);
    world.turn(&mut agent, AgentInput::Message(views));
    let listed = |world: &World, agent: &Agent| -> Vec<(String, AppState)> {
        let apps = agent.status(world.now).apps.into_iter();
        apps.map(|app| (app.name.to_string(), app.state)).collect()
    };
    let wiki = |state| ("wiki".to_owned(), state);
    let ghost = |state| ("ghost".to_owned(), state);
    let ask = AgentInput::Wanted { app: name("ghost") };
    let out = world.turn(&mut agent, ask);
    assert_eq!(
        listed(&world, &agent),
        [ghost(AppState::Opening), wiki(AppState::Idle)]
    );
    let request = out.node.messages.iter().find_map(|message| {
        if let FromNode::Request { request, .. } = message {
            Some(*request)
        } else {
            None
        }
    });
    let denied = ToNode::Denied {
        request: request.unwrap(),
        refusal: Refusal::new(RefusalCode::NotPermitted, "no rule permits it"),
        decision: None,
    };
    world.turn(&mut agent, AgentInput::Message(denied));
    assert_eq!(
        listed(&world, &agent),
        [ghost(AppState::Denied), wiki(AppState::Idle)]
    );
    world.pass(Duration::from_secs(61));
    assert_eq!(listed(&world, &agent), [wiki(AppState::Idle)]);

    open(&world, &mut agent);
    world.turn(&mut agent, AgentInput::Message(ToNode::Apps(Vec::new())));
    assert_eq!(listed(&world, &agent), [wiki(AppState::Open)]);
    let closed = Event::Closed {
        grant: GRANT,
        reason: CloseReason::Lost,
    };
    world.turn(&mut agent, AgentInput::Tunnel(closed));
    assert_eq!(listed(&world, &agent), []);
}

#[test]
fn a_connection_that_did_not_reach_its_app_leaves_a_trace_while_the_tunnel_is_open() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    let last_error = |world: &World, agent: &Agent| {
        let mut apps = agent.status(world.now).apps.into_iter();
        apps.find(|app| app.name == name("wiki"))?.last_error
    };
    open(&world, &mut agent);
    assert_eq!(last_error(&world, &agent), None);
    for count in 1..=2 {
        world.pass(Duration::from_secs(1));
        let unreached = Event::Unreached {
            grant: GRANT,
            why: DialError::TimedOut,
        };
        world.turn(&mut agent, AgentInput::Tunnel(unreached));
        assert_eq!(state(&world, &agent), AppState::Open);
        let expected = AppError {
            message: "the connector did not reach the app: the target did not answer in time"
                .to_owned(),
            at: world.now.unix.to_rfc3339(),
            count,
        };
        assert_eq!(last_error(&world, &agent), Some(expected));
    }
    let closed = Event::Closed {
        grant: GRANT,
        reason: CloseReason::Lost,
    };
    world.turn(&mut agent, AgentInput::Tunnel(closed));
    assert_eq!(last_error(&world, &agent), None);
}

#[test]
fn names_that_somebody_invents_are_not_kept() {
    let world = World::new();
    let mut agent = world.ready_agent();
    for number in 0..3 {
        let app = name(&format!("ghost{number}"));
        world.turn(&mut agent, AgentInput::Wanted { app });
        let call = AgentInput::Local {
            call: 1,
            request: LocalRequest::Down,
        };
        world.turn(&mut agent, call);
        assert_eq!(agent.status(world.now).apps, []);
    }
    assert_eq!(agent.apps.names().len(), 1);
}

#[test]
fn a_tunnel_ends_with_its_ttl_and_an_extension_moves_that() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    open(&world, &mut agent);
    world.pass(TTL / 2);
    let extend = ToNode::Extend(Extend {
        grant: GRANT,
        ttl_ms: 300_000,
        ticket: Vec::new().into(),
        standby: Vec::new(),
    });
    let out = world.turn(&mut agent, AgentInput::Message(extend));
    assert!(matches!(out.node.commands.front(), Some(Command::Extend { ttl, .. }) if *ttl == TTL));
    world.pass(TTL - Duration::from_millis(1));
    world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(state(&world, &agent), AppState::Open);
    world.pass(Duration::from_millis(1));
    assert_eq!(
        state(&world, &agent),
        AppState::Idle,
        "before the timeout is handled"
    );
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert!(matches!(
        out.node.commands.front(),
        Some(Command::Remove { .. })
    ));
}

#[test]
fn a_laptop_that_slept_past_its_ttl_wakes_without_a_tunnel_and_asks_again() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    open(&world, &mut agent);
    world.pass(TTL * 2);
    let out = world.turn(&mut agent, AgentInput::Wanted { app: name("wiki") });
    assert!(out.opened.is_empty());
    assert!(matches!(
        out.node.commands.front(),
        Some(Command::Remove { .. })
    ));
    let is_request = |message: &FromNode| matches!(message, FromNode::Request { .. });
    assert!(out.node.messages.iter().any(is_request));
}

#[test]
fn an_answer_that_does_not_hold_installs_nothing() {
    type Break = fn(&mut Granted, &World);
    let breaks: [(&str, Break); 5] = [
        ("another grant", |granted, _| {
            granted.grant = GrantId::from_bytes([9; 10])
        }),
        ("another connector", |granted, _| {
            granted.connector = cardea_proto::id::ConnectorId::from_bytes([9; 10]);
        }),
        ("another key", |granted, _| {
            granted.connector_key = cardea_proto::codec::Bytes([9; 32])
        }),
        ("another signature", |granted, _| {
            granted.answer.signature.0[9] ^= 1
        }),
        ("another body", |granted, _| granted.answer.body.0[40] ^= 1),
    ];
    for (label, break_it) in breaks {
        let world = World::new();
        let mut agent = world.ready_agent();
        let (request, offer) = world.ask(&mut agent);
        let mut connector = world.ready_connector();
        let admit = Box::new(world.admit(Carrier::WireGuard, offer));
        let out = world.serve(
            &mut connector,
            crate::ConnectorInput::Message(ToNode::Admit(admit)),
        );
        let Some(FromNode::Admitted { answer, .. }) = out.messages.back() else {
            panic!("not admitted");
        };
        let mut granted = world.granted(Carrier::WireGuard, request, answer.clone());
        break_it(&mut granted, &world);
        let grant = granted.grant;
        let out = world.turn(
            &mut agent,
            AgentInput::Message(ToNode::Granted(Box::new(granted))),
        );
        assert!(out.node.commands.is_empty(), "{label}");
        assert_eq!(out.node.messages, [FromNode::Closed { grant }], "{label}");
        assert_eq!(
            out.opened[0].1.as_ref().unwrap_err().code,
            RefusalCode::NotProven,
            "{label}"
        );
    }
}

#[test]
fn a_grant_that_comes_too_late_or_twice_is_given_back() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    let (request, offer) = world.ask(&mut agent);
    let mut connector = world.ready_connector();
    let admit = Box::new(world.admit(Carrier::WireGuard, offer));
    let out = world.serve(
        &mut connector,
        crate::ConnectorInput::Message(ToNode::Admit(admit)),
    );
    let Some(FromNode::Admitted { answer, .. }) = out.messages.back() else {
        panic!("not admitted");
    };
    let granted = world.granted(Carrier::WireGuard, request, answer.clone());
    world.pass(access::ANSWER_TIMEOUT);
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(
        out.opened[0].1.as_ref().unwrap_err().code,
        RefusalCode::Unreachable
    );
    let out = world.turn(
        &mut agent,
        AgentInput::Message(ToNode::Granted(Box::new(granted))),
    );
    assert!(out.node.commands.is_empty());
    assert_eq!(out.node.messages, [FromNode::Closed { grant: GRANT }]);
}

#[test]
fn without_a_controller_open_tunnels_go_on_and_new_ones_are_refused_with_the_reason() {
    let mut world = World::new();
    let mut agent = world.agent(&["c:7443", "d:7443"]);
    let first = world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(first.node.connect.unwrap().address, "c:7443");
    world.greet(&mut agent);
    open(&world, &mut agent);
    world.turn(&mut agent, down());
    for _ in 0..2 {
        let due = agent.deadline().unwrap();
        world.pass(due - world.now.instant);
        let out = world.turn(&mut agent, AgentInput::Timeout);
        assert!(out.node.connect.is_some());
        world.turn(&mut agent, down());
    }
    let out = world.turn(&mut agent, AgentInput::Wanted { app: name("mail") });
    let refusal = out.opened[0].1.clone().unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Unreachable);
    assert_eq!(
        refusal.to_string(),
        "controller c:7443 not reachable since 00:00 (2 addresses tried, UDP: refused)"
    );
    let status = agent.status(world.now);
    assert_eq!(status.controller.state, ControllerState::Unreachable);
    assert_eq!(state(&world, &agent), AppState::Open);
}

#[test]
fn on_another_network_the_controller_is_tried_at_once_and_who_needs_it_waits_for_that() {
    let mut world = World::new();
    let mut agent = world.agent(&["c:7443", "d:7443"]);
    world.turn(&mut agent, AgentInput::Timeout);
    for _ in 0..20 {
        world.turn(&mut agent, down());
        let due = agent.deadline().unwrap();
        world.pass(due - world.now.instant);
        world.turn(&mut agent, AgentInput::Timeout);
    }
    world.turn(&mut agent, down());
    let wanted = || AgentInput::Wanted { app: name("mail") };
    assert_eq!(world.turn(&mut agent, wanted()).opened.len(), 1, "refused");
    let out = world.turn(&mut agent, AgentInput::Moved);
    assert!(out.node.connect.is_some());
    world.pass(Duration::from_secs(5));
    assert!(world.turn(&mut agent, wanted()).opened.is_empty());
}

#[test]
fn who_loses_a_channel_that_held_begins_again_with_the_first_controller() {
    let mut world = World::new();
    let mut agent = world.agent(&["c:7443", "d:7443"]);
    let first = world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(first.node.connect.unwrap().address, "c:7443");
    // One that dies at once is passed over.
    for (held, address) in [(1, "d:7443"), (60, "c:7443"), (60, "c:7443")] {
        world.greet(&mut agent);
        world.pass(Duration::from_secs(held));
        world.turn(&mut agent, down());
        let due = agent.deadline().unwrap();
        world.pass(due - world.now.instant);
        let out = world.turn(&mut agent, AgentInput::Timeout);
        assert_eq!(out.node.connect.unwrap().address, address);
    }
}

#[test]
fn a_request_that_waits_for_a_channel_is_sent_with_it_or_refused_within_three_seconds() {
    let mut world = World::new();
    let mut agent = world.agent(&["c:7443"]);
    let out = world.turn(&mut agent, AgentInput::Wanted { app: name("wiki") });
    assert!(out.opened.is_empty() && out.node.messages.is_empty());
    let out = world.greet(&mut agent);
    let is_request = |message: &FromNode| matches!(message, FromNode::Request { .. });
    assert!(out.node.messages.iter().any(is_request));

    let mut agent = world.agent(&["c:7443"]);
    world.turn(&mut agent, AgentInput::Wanted { app: name("wiki") });
    world.pass(Duration::from_secs(3));
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(
        out.opened[0].1.as_ref().unwrap_err().code,
        RefusalCode::Unreachable
    );
}

#[test]
fn facts_are_reported_at_once_when_they_change_and_at_each_poll() {
    let mut world = World::new();
    let mut agent = world.agent(&["c:7443"]);
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(out.collect, Some(1));
    let first = facts(&world, true, 1);
    world.turn(&mut agent, first);
    let out = world.greet(&mut agent);
    assert_eq!(out.watch, Some(vec!["edr".to_owned()]));
    let reports = |out: &AgentOutbox| {
        let messages = out.node.messages.iter();
        messages
            .filter_map(|message| {
                let FromNode::Report(report) = message else {
                    return None;
                };
                Some(report.counter)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(reports(&out), [1]);
    let mut reported = |world: &World, value| {
        let facts = facts(world, value, 2);
        reports(&world.turn(&mut agent, facts))
    };
    assert_eq!(reported(&world, true), [2], "collected for the welcome");
    assert_eq!(reported(&world, true), [0_u64; 0]);
    assert_eq!(reported(&world, false), [3]);
    world.pass(Duration::from_secs(60));
    assert!(
        world
            .turn(&mut agent, AgentInput::Timeout)
            .collect
            .is_some()
    );
    let again = facts(&world, false, 3);
    assert_eq!(reports(&world.turn(&mut agent, again)), [4]);
}

#[test]
fn a_certificate_is_renewed_from_half_of_its_life_and_only_its_own_is_taken() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    world.pass(LIFE * 6 / 10);
    let out = world.turn(&mut agent, AgentInput::Timeout);
    let is_renew = |message: &FromNode| matches!(message, FromNode::Renew { .. });
    assert!(out.node.messages.iter().any(is_renew));
    let other = world.next_certificate(&world.connector);
    let out = world.turn(&mut agent, AgentInput::Message(ToNode::Certificate(other)));
    assert_eq!(out.node.save, None);
    let next = world.next_certificate(&world.device);
    let out = world.turn(
        &mut agent,
        AgentInput::Message(ToNode::Certificate(next.clone())),
    );
    assert_eq!(out.node.save, Some(next));
    assert!(agent.status(world.now).warnings.is_empty());
}

#[test]
fn local_requests_are_answered_from_state() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    let apps = ToNode::Apps(vec![view("wiki", true), view("mail", false)]);
    world.turn(&mut agent, AgentInput::Message(apps));
    assert!(agent.find_app("WIKI.corp.example").is_some());
    let local = |call, request| AgentInput::Local { call, request };
    let out = world.turn(&mut agent, local(1, LocalRequest::Apps));
    let Some((1, LocalAnswer::Apps(apps))) = out.answers.front() else {
        panic!("{:?}", out.answers);
    };
    let states: Vec<AppState> = apps.iter().map(|app| app.state).collect();
    assert_eq!(states, [AppState::Denied, AppState::Idle]);

    let out = world.turn(&mut agent, local(3, LocalRequest::Explain(name("wiki"))));
    assert!(matches!(
        out.node.messages.front(),
        Some(FromNode::Explain { .. })
    ));
    world.pass(Duration::from_secs(11));
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert!(matches!(
        out.answers.front(),
        Some((3, LocalAnswer::Refused(_)))
    ));
}

/// The verdict that a person reads is on facts which were collected after the question.
#[test]
fn posture_is_answered_with_the_verdict_on_facts_that_were_read_for_it() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    let ask = |call| AgentInput::Local {
        call,
        request: LocalRequest::Posture,
    };
    let judged = |compliant, report| {
        let report = Some(report);
        AgentInput::Message(ToNode::Posture(PostureVerdict {
            report,
            ..verdict(compliant)
        }))
    };
    let counter = |out: &AgentOutbox| match out.node.messages.front() {
        Some(FromNode::Report(report)) => Some(report.counter),
        _ => None,
    };
    let answer = |out: &AgentOutbox| match out.answers.front() {
        Some((call, LocalAnswer::Posture { verdict, .. })) => {
            let passes = verdict.as_ref().map(|verdict| verdict.compliant);
            Some((*call, passes))
        }
        _ => None,
    };

    // Broken and reported, and not judged when the question comes.
    let broken = facts(&world, false, 0);
    let first = counter(&world.turn(&mut agent, broken)).unwrap();
    let out = world.turn(&mut agent, ask(1));
    let number = out.collect.unwrap();
    assert_eq!(answer(&out), None);
    let before = facts(&world, false, number - 1);
    let out = world.turn(&mut agent, before);
    assert_eq!(answer(&out), None, "read before the question");
    let fresh = facts(&world, false, number);
    let second = counter(&world.turn(&mut agent, fresh)).unwrap();
    assert!(second > first, "reported again, though nothing changed");
    let out = world.turn(&mut agent, judged(true, first));
    assert_eq!(answer(&out), None, "on an earlier report");
    let out = world.turn(
        &mut agent,
        AgentInput::Message(ToNode::Posture(verdict(true))),
    );
    assert_eq!(answer(&out), None, "on a report of an earlier channel");
    let out = world.turn(&mut agent, judged(false, second));
    assert_eq!(answer(&out), Some((1, Some(false))));

    // Nobody judges, or nobody is there: what is known is the answer.
    let number = world.turn(&mut agent, ask(2)).collect.unwrap();
    let fresh = facts(&world, true, number);
    world.turn(&mut agent, fresh);
    world.pass(Duration::from_secs(5));
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(answer(&out), Some((2, Some(false))));
    let why = "the link broke".to_owned();
    world.turn(&mut agent, AgentInput::ChannelDown { why });
    let number = world.turn(&mut agent, ask(3)).collect.unwrap();
    let fresh = facts(&world, true, number);
    let out = world.turn(&mut agent, fresh);
    assert_eq!(answer(&out), Some((3, Some(false))));
}

#[test]
fn down_closes_every_tunnel_and_stays_down_until_up() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    open(&world, &mut agent);
    let local = |request| AgentInput::Local { call: 1, request };
    let out = world.turn(&mut agent, local(LocalRequest::Down));
    assert!(matches!(
        out.node.commands.front(),
        Some(Command::Remove { .. })
    ));
    assert_eq!(out.node.messages, [FromNode::Closed { grant: GRANT }]);
    assert!(out.node.disconnect);
    world.pass(Duration::from_secs(3_600));
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert!(out.node.connect.is_none());
    let out = world.turn(&mut agent, AgentInput::Wanted { app: name("wiki") });
    let refusal = out.opened[0].1.clone().unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "this device is disconnected. Connect: cardea up"
    );
    let out = world.turn(&mut agent, local(LocalRequest::Up));
    assert!(out.node.connect.is_some());
}

#[test]
fn a_controller_that_speaks_no_version_of_ours_is_left_and_named() {
    let world = World::new();
    let mut agent = world.agent(&["c:7443"]);
    world.turn(&mut agent, AgentInput::Timeout);
    world.turn(&mut agent, up());
    let ToNode::Welcome(mut welcome) = world.welcome() else {
        panic!("no welcome");
    };
    welcome.version = 0;
    let out = world.turn(&mut agent, AgentInput::Message(ToNode::Welcome(welcome)));
    assert!(out.node.disconnect);
    let status = agent.status(world.now);
    assert!(
        status
            .warnings
            .iter()
            .any(|warning| warning.code == "version")
    );
}

#[test]
fn clocks_that_differ_by_an_hour_are_a_warning() {
    let mut world = World::new();
    let mut agent = world.agent(&["c:7443"]);
    world.turn(&mut agent, AgentInput::Timeout);
    world.turn(&mut agent, up());
    let welcome = world.welcome();
    world.now.unix = world.now.unix.plus(Duration::from_secs(3_600));
    world.turn(&mut agent, AgentInput::Message(welcome));
    let warnings = agent.status(world.now).warnings;
    let skew = warnings
        .iter()
        .find(|warning| warning.code == "clock_skew")
        .unwrap();
    assert_eq!(
        skew.title,
        "this device's clock is 3600 s ahead of the controller's"
    );
}

#[test]
fn whoever_cannot_reach_the_controller_is_told_what_may_be_wrong() {
    for (why, fix) in [
        ("no answer", "that the clock is right"),
        (
            "error 45: invalid peer certificate: certificate expired: verification time 1767229300 \
             (UNIX), but certificate is not valid after 1767229200 (100 seconds ago)",
            "is at least 100 s ahead of the controller's: set the clock",
        ),
        (
            "invalid peer certificate: certificate not valid yet: verification time 1767229300 \
             (UNIX), but certificate is not valid before 1767232900 (3600 seconds in future)",
            "is at least 3600 s behind the controller's: set the clock",
        ),
        ("network is unreachable", "Check the network"),
    ] {
        let world = World::new();
        let mut agent = world.agent(&["c:7443"]);
        world.turn(&mut agent, AgentInput::Timeout);
        let why = why.to_owned();
        world.turn(&mut agent, AgentInput::ChannelDown { why });
        let warnings = agent.status(world.now).warnings;
        let [warning] = &warnings[..] else {
            panic!("{warnings:?}")
        };
        assert_eq!(warning.code, "controller_unreachable");
        assert!(warning.fix.contains(fix), "{}", warning.fix);
    }
}
