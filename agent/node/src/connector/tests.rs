//! What a connector does, against a scripted controller and real offers.

use std::time::Duration;

use cardea_proto::{app::Carrier, message::Purpose};
use cardea_tunnel::{CarrierKeys, CloseReason, Install};

use super::*;
use crate::testing::{GRANT, TTL, World, name, view};

fn install(out: &NodeOutbox) -> Option<&Install> {
    match out.commands.front() {
        Some(Command::Install(install)) => Some(install),
        _ => None,
    }
}

fn admit(world: &World, connector: &mut Connector, admit: Admit) -> NodeOutbox {
    let message = ToNode::Admit(Box::new(admit));
    world.serve(connector, ConnectorInput::Message(message))
}

#[test]
fn both_ends_come_to_the_same_keys_over_a_controller_that_sees_none() {
    let world = World::new();
    let (mut agent, mut connector) = (world.ready_agent(), world.ready_connector());
    let (request, offer) = world.ask(&mut agent);
    let out = admit(
        &world,
        &mut connector,
        world.admit(Carrier::WireGuard, offer),
    );
    let ours = install(&out).unwrap();
    let Some(FromNode::Admitted { answer, .. }) = out.messages.front() else {
        panic!("{:?}", out.messages);
    };
    let granted = world.granted(Carrier::WireGuard, request, answer.clone());
    let granted = crate::AgentInput::Message(ToNode::Granted(Box::new(granted)));
    let theirs = world.turn(&mut agent, granted).node;
    let theirs = install(&theirs).unwrap();
    let (
        CarrierKeys::WireGuard { psk, private, .. },
        CarrierKeys::WireGuard {
            psk: their_psk,
            private: their_private,
            ..
        },
    ) = (&ours.keys, &theirs.keys)
    else {
        panic!("not WireGuard");
    };
    assert!(psk == their_psk && private != their_private);
    assert_eq!(ours.services, theirs.services);
    assert!(ours.egress.is_some() && theirs.egress.is_none());
    assert_eq!(
        ours.relay,
        ["127.0.0.1:7444", "[::1]:7444"].map(|at| at.parse().unwrap())
    );
}

#[test]
fn an_offer_that_does_not_hold_is_not_admitted() {
    type Break = fn(&mut Admit);
    let breaks: [(&str, Break, RefusalCode); 8] = [
        (
            "another app",
            |admit| admit.app = name("mail"),
            RefusalCode::NotProven,
        ),
        (
            "another device",
            |admit| {
                admit.device = cardea_proto::id::DeviceId::from_bytes([9; 10]);
            },
            RefusalCode::NotProven,
        ),
        (
            "another key",
            |admit| admit.device_key = cardea_proto::codec::Bytes([9; 32]),
            RefusalCode::NotProven,
        ),
        (
            "another signature",
            |admit| admit.offer.signature.0[9] ^= 1,
            RefusalCode::NotProven,
        ),
        (
            "another body",
            |admit| admit.offer.body.0[40] ^= 1,
            RefusalCode::NotProven,
        ),
        (
            "a filler chain",
            |admit| {
                let filler = admit.offer.chain[1].clone();
                admit.offer.chain.push(filler);
            },
            RefusalCode::NotProven,
        ),
        (
            "no target",
            |admit| admit.targets.clear(),
            RefusalCode::Invalid,
        ),
        (
            "no relay",
            |admit| admit.rendezvous.relay.clear(),
            RefusalCode::Invalid,
        ),
    ];
    for (label, break_it, code) in breaks {
        let world = World::new();
        let (mut agent, mut connector) = (world.ready_agent(), world.ready_connector());
        let (_, offer) = world.ask(&mut agent);
        let mut broken = world.admit(Carrier::Quic, offer);
        break_it(&mut broken);
        let out = admit(&world, &mut connector, broken);
        assert!(out.commands.is_empty(), "{label}");
        let Some(FromNode::NotAdmitted { grant, refusal }) = out.messages.front() else {
            panic!("{label}: {:?}", out.messages);
        };
        assert_eq!((*grant, refusal.code), (GRANT, code), "{label}");
        assert!(connector.grants().is_empty(), "{label}");
    }
}

#[test]
fn only_a_host_that_a_wildcard_covers_is_admitted_and_only_it_is_dialed() {
    for (host, dialed) in [
        (
            "api.dev.corp.example",
            Some("api.dev.internal.example:80/tcp"),
        ),
        // The agent lies, or the controller: neither is believed.
        ("api.prod.corp.example", None),
        ("a.b.dev.corp.example", None),
        ("evil.bad.example", None),
        ("wiki", None),
    ] {
        let world = World::new();
        let (mut agent, mut connector) = (world.ready_agent(), world.ready_connector());
        let parent = host
            .split_once('.')
            .map_or("corp.example", |(_, parent)| parent);
        let mut told = view("wiki", true);
        if host != "wiki" {
            told.names = vec![format!("*.{parent}").parse().unwrap()];
        }
        world.turn(
            &mut agent,
            crate::AgentInput::Message(ToNode::Apps(vec![told])),
        );
        let (_, offer) = world.ask_for(&mut agent, host);
        let mut admitted = world.admit(Carrier::WireGuard, offer);
        admitted.targets = vec!["*.dev.internal.example:80".parse().unwrap()];
        admitted.patterns = vec!["*.dev.corp.example".parse().unwrap()];
        let out = admit(&world, &mut connector, admitted);
        let egress = install(&out).and_then(|install| install.egress.clone());
        let targets = egress.map(|egress| egress.targets);
        let dialed = dialed.map(|dialed| vec![dialed.parse().unwrap()]);
        assert_eq!(targets, dialed, "{host}");
        let refused = matches!(
            out.messages.front(),
            Some(FromNode::NotAdmitted { refusal, .. }) if refusal.code == RefusalCode::Invalid
        );
        assert_eq!(refused, dialed.is_none(), "{host}");
    }
}

#[test]
fn an_offer_of_an_expired_certificate_is_not_admitted() {
    let mut world = World::new();
    let (mut agent, mut connector) = (world.ready_agent(), world.ready_connector());
    let (_, offer) = world.ask(&mut agent);
    world.pass(crate::testing::LIFE * 2);
    let out = admit(&world, &mut connector, world.admit(Carrier::Quic, offer));
    assert!(out.commands.is_empty());
}

#[test]
fn a_replayed_admission_installs_nothing_new() {
    let world = World::new();
    let (mut agent, mut connector) = (world.ready_agent(), world.ready_connector());
    let (_, offer) = world.ask(&mut agent);
    admit(
        &world,
        &mut connector,
        world.admit(Carrier::Quic, offer.clone()),
    );
    let out = admit(&world, &mut connector, world.admit(Carrier::Quic, offer));
    assert!(out.commands.is_empty());
    assert!(matches!(
        out.messages.front(),
        Some(FromNode::NotAdmitted { refusal, .. }) if refusal.code == RefusalCode::Exists
    ));
}

#[test]
fn a_withdrawn_grant_is_removed_in_the_same_turn() {
    let world = World::new();
    let (mut agent, mut connector) = (world.ready_agent(), world.ready_connector());
    let (_, offer) = world.ask(&mut agent);
    admit(&world, &mut connector, world.admit(Carrier::Quic, offer));
    let withdraw = ToNode::Withdraw {
        grant: GRANT,
        reason: EndReason::Revoked,
    };
    let out = world.serve(&mut connector, ConnectorInput::Message(withdraw));
    assert!(matches!(out.commands.front(), Some(Command::Remove { grant }) if *grant == GRANT));
    assert!(connector.grants().is_empty());
}

#[test]
fn a_ttl_ends_with_the_controller_gone_and_hello_names_what_is_left() {
    let mut world = World::new();
    let (mut agent, mut connector) = (world.ready_agent(), world.ready_connector());
    let (_, offer) = world.ask(&mut agent);
    admit(&world, &mut connector, world.admit(Carrier::Quic, offer));
    let why = "gone".to_owned();
    world.serve(&mut connector, ConnectorInput::ChannelDown { why });
    world.pass(Duration::from_secs(1));
    world.serve(&mut connector, ConnectorInput::Timeout);
    let (exporter, address) = ([7; 32], "c:7443".to_owned());
    let out = world.serve(
        &mut connector,
        ConnectorInput::ChannelUp { exporter, address },
    );
    assert!(
        matches!(out.messages.front(), Some(FromNode::Hello(hello)) if hello.grants == [GRANT])
    );
    let why = "gone again".to_owned();
    world.serve(&mut connector, ConnectorInput::ChannelDown { why });
    world.pass(TTL);
    let out = world.serve(&mut connector, ConnectorInput::Timeout);
    assert!(
        out.commands
            .iter()
            .any(|command| matches!(command, Command::Remove { .. }))
    );
    assert!(connector.grants().is_empty());
}

#[test]
fn a_longer_ttl_than_any_controller_may_give_is_cut() {
    let world = World::new();
    let (mut agent, mut connector) = (world.ready_agent(), world.ready_connector());
    let (_, offer) = world.ask(&mut agent);
    let mut forever = world.admit(Carrier::Quic, offer);
    forever.ttl_ms = u64::MAX;
    let out = admit(&world, &mut connector, forever);
    assert_eq!(install(&out).unwrap().ttl, limits::TTL_MAX);
    let extend = ToNode::Extend(Extend {
        grant: GRANT,
        ttl_ms: u64::MAX,
        ticket: Vec::new().into(),
        standby: Vec::new(),
    });
    let out = world.serve(&mut connector, ConnectorInput::Message(extend));
    assert!(
        matches!(out.commands.front(), Some(Command::Extend { ttl, .. }) if *ttl == limits::TTL_MAX)
    );
}

#[test]
fn a_tunnel_that_ends_by_itself_is_told_and_one_that_was_withdrawn_is_not() {
    let world = World::new();
    let (mut agent, mut connector) = (world.ready_agent(), world.ready_connector());
    let (_, offer) = world.ask(&mut agent);
    admit(&world, &mut connector, world.admit(Carrier::Quic, offer));
    let closed = || {
        ConnectorInput::Tunnel(Event::Closed {
            grant: GRANT,
            reason: CloseReason::PeerClosed,
        })
    };
    let out = world.serve(&mut connector, closed());
    assert_eq!(out.messages, [FromNode::Closed { grant: GRANT }]);
    assert!(world.serve(&mut connector, closed()).messages.is_empty());
}

#[test]
fn an_extension_of_a_grant_that_has_ended_here_is_answered_with_its_end() {
    let mut world = World::new();
    let (mut agent, mut connector) = (world.ready_agent(), world.ready_connector());
    let (_, offer) = world.ask(&mut agent);
    admit(&world, &mut connector, world.admit(Carrier::Quic, offer));
    let extend = || {
        ConnectorInput::Message(ToNode::Extend(Extend {
            grant: GRANT,
            ttl_ms: 1_000,
            ticket: Vec::new().into(),
            standby: Vec::new(),
        }))
    };
    assert_eq!(world.serve(&mut connector, extend()).messages, []);
    world.pass(Duration::from_secs(1));
    let out = world.serve(&mut connector, extend());
    let extends = |command: &Command| matches!(command, Command::Extend { .. });
    assert!(!out.commands.iter().any(extends));
    assert_eq!(out.messages, [FromNode::Closed { grant: GRANT }]);
}

#[test]
fn what_only_an_agent_is_told_ends_the_channel() {
    let world = World::new();
    let mut connector = world.ready_connector();
    let apps = ConnectorInput::Message(ToNode::Apps(Vec::new()));
    assert!(world.serve(&mut connector, apps).disconnect);
}

#[test]
fn knocks_are_timed_by_the_controllers_clock_whatever_becomes_of_ours_and_by_ours_in_other_rounds()
{
    let mut world = World::new();
    let mut connector = world.ready_connector();
    let ToNode::Welcome(mut welcome) = world.welcome() else {
        panic!("no welcome");
    };
    let ahead = Duration::from_secs(600);
    welcome.clock = welcome.clock.plus(ahead);
    let again = |world: &mut World, connector: &mut Connector| {
        let why = "no answer".to_owned();
        world.serve(connector, ConnectorInput::ChannelDown { why });
        world.pass(Duration::from_secs(60));
        let connect = world.serve(connector, ConnectorInput::Timeout).connect;
        connect.unwrap().clock.theirs(world.now.unix)
    };
    world.serve(
        &mut connector,
        ConnectorInput::Message(ToNode::Welcome(welcome)),
    );
    world.pass(Duration::from_secs(60));
    let theirs = world.now.unix.plus(Duration::from_secs(60)).plus(ahead);
    // Somebody sets our clock back by an hour; the moment goes on.
    world.now.unix.0 -= 3_600_000;
    assert_eq!(again(&mut world, &mut connector), theirs);
    assert_eq!(again(&mut world, &mut connector), world.now.unix);
    let theirs = theirs.plus(Duration::from_secs(120));
    assert_eq!(again(&mut world, &mut connector), theirs);
}

#[test]
fn a_connector_whose_certificate_has_ended_renews_it_first_and_admits_nobody_meanwhile() {
    let mut world = World::new();
    let mut connector = world.connector();
    world.pass(crate::testing::LIFE * 2);
    let out = world.serve(&mut connector, ConnectorInput::Timeout);
    assert_eq!(out.connect.unwrap().purpose, Purpose::Renewal);
    let (exporter, address) = ([7; 32], "c:7443".to_owned());
    let up = ConnectorInput::ChannelUp { exporter, address };
    world.serve(&mut connector, up);
    let out = world.serve(&mut connector, ConnectorInput::Message(world.welcome()));
    assert!(matches!(out.messages.front(), Some(FromNode::Renew { .. })));

    let mut agent = World::new().ready_agent();
    let (_, offer) = world.ask(&mut agent);
    let admit = world.admit(Carrier::WireGuard, offer);
    let admit = ConnectorInput::Message(ToNode::Admit(Box::new(admit)));
    let out = world.serve(&mut connector, admit);
    assert!(out.messages.is_empty() && out.commands.is_empty());

    let next = world.next_certificate(&world.connector);
    let message = ConnectorInput::Message(ToNode::Certificate(next.clone()));
    let out = world.serve(&mut connector, message);
    assert!(out.disconnect);
    let connect = out.connect.unwrap();
    assert_eq!(connect.purpose, Purpose::Channel);
    // The next seed opens the next channel, by the clock that the controller has shown.
    assert_eq!(connect.knock, next.knock);
    let theirs = connect.clock.theirs(world.now.unix);
    assert!(matches!(world.welcome(), ToNode::Welcome(welcome) if welcome.clock == theirs));
    assert_eq!(out.save, Some(next));
}
