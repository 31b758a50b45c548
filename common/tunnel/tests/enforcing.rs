//! What tunnels refuse, and when they end: the filter, the source check, ttl, removal, strangers.

#[cfg(test)]
mod pair;

use std::time::Duration;

use bytes::Bytes;
use cardea_proto::app::{Carrier, Protocol, Service};
use cardea_tunnel::{
    CarrierKeys, CloseReason, Command, DropReason, End, Event, FlowEvent, Input, Install, Read,
    ResetReason, Via,
};
use pair::{CARRIERS, GRANT, Pair, TTL, keys, pattern};

#[test]
fn an_agent_opens_no_flow_that_its_grant_does_not_name() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        for service in ["81/tcp", "80/udp", "53/tcp"] {
            let flow = pair.open(service);
            assert_eq!(
                pair.agent.reset(flow),
                Some(ResetReason::NotGranted),
                "{carrier:?}"
            );
        }
    }
}

#[test]
fn a_villain_reaches_no_port_that_the_app_does_not_have() {
    for carrier in CARRIERS {
        let mut pair = with_villain(carrier, |install| {
            install.services.extend(
                [(Protocol::Tcp, 81), (Protocol::Udp, 54)]
                    .map(|(protocol, port)| Service { protocol, port }),
            );
        });
        pair.open("81/tcp");
        let flow = pair.open("54/udp");
        pair.input(
            End::Agent,
            Input::Packet {
                flow,
                bytes: Bytes::from_static(b"x"),
            },
        );
        pair.pass(Duration::from_secs(3));
        assert!(pair.dials().is_empty(), "{carrier:?}");
        assert!(
            pair.connector
                .tunnels
                .drops()
                .count(DropReason::WrongService)
                >= 2,
            "{carrier:?}"
        );
        assert_eq!(pair.connector.tunnels.stats(GRANT).unwrap().flows, 0);
    }
}

#[test]
fn a_villain_speaks_from_no_other_address() {
    let mut pair = with_villain(Carrier::WireGuard, |install| {
        install.inner.device_v4 = [100, 64, 0, 2].into();
    });
    nothing_passes(&mut pair, DropReason::SpoofedSource);
}

#[test]
fn a_villain_speaks_to_no_other_address() {
    let mut pair = with_villain(Carrier::WireGuard, |install| {
        install.inner.app_v4 = [10, 9, 0, 10].into();
    });
    nothing_passes(&mut pair, DropReason::WrongDestination);
}

#[test]
fn a_ttl_ends_delivery_even_for_an_agent_that_ignores_it() {
    for carrier in CARRIERS {
        let mut pair = with_villain(carrier, |install| install.ttl = TTL * 10);
        let (mine, theirs) = pair.connect("80/tcp");
        pair.pass(TTL - Duration::from_secs(10));
        assert_eq!(
            pair.transfer(End::Agent, mine, theirs, b"alive"),
            b"alive",
            "{carrier:?}"
        );
        pair.pass(Duration::from_secs(10));
        assert_eq!(
            pair.connector.close_reason(),
            Some(CloseReason::Expired),
            "{carrier:?}"
        );
        let why = Some(ResetReason::TunnelClosed(CloseReason::Expired));
        assert_eq!(pair.connector.reset(theirs), why);
        assert_eq!(pair.read_all(End::Connector, theirs).1, Read::Reset);
        assert_eq!(pair.connector.tunnels.deadline(), None);
    }
}

#[test]
fn a_ttl_holds_also_when_nobody_sweeps() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, theirs) = pair.connect("80/tcp");
        let now = pair.now;
        let connector = &mut pair.connector;
        pair.agent
            .tunnels
            .write(now, mine, Bytes::from_static(b"late"), &mut pair.agent.out);
        let late = now.plus(TTL);
        // The clock jumped, as after a suspend, and the first call is a read.
        assert_eq!(
            connector.tunnels.read(late, theirs, 10, &mut connector.out),
            Read::Reset
        );
        assert_eq!(connector.tunnels.stats(GRANT), None, "{carrier:?}");
    }
}

#[test]
fn an_extension_prolongs_and_comes_too_late_once_the_ttl_is_over() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, theirs) = pair.connect("80/tcp");
        for _ in 0..3 {
            pair.pass(TTL - Duration::from_secs(20));
            extend(&mut pair);
            assert_eq!(
                pair.transfer(End::Agent, mine, theirs, b"on"),
                b"on",
                "{carrier:?}"
            );
        }
        pair.pass(TTL);
        extend(&mut pair);
        assert_eq!(pair.agent.tunnels.stats(GRANT), None);
        assert_eq!(pair.connector.tunnels.stats(GRANT), None);
    }
}

#[test]
fn a_removal_ends_everything_in_the_same_call_and_tells_the_peer() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, theirs) = pair.connect("80/tcp");
        let udp = pair.open("53/udp");
        pair.input(
            End::Agent,
            Input::Packet {
                flow: udp,
                bytes: Bytes::from_static(b"x"),
            },
        );
        let now = pair.now;
        pair.agent.tunnels.write(
            now,
            mine,
            Bytes::from(pattern(200_000)),
            &mut pair.agent.out,
        );
        pair.pass(Duration::from_millis(100));
        let connector = &mut pair.connector;
        let remove = Command::Remove { grant: GRANT };
        connector
            .tunnels
            .handle(pair.now, Input::Command(remove), &mut connector.out);
        // Bytes had arrived and were waiting to be read.
        assert_eq!(
            connector
                .tunnels
                .read(pair.now, theirs, 10, &mut connector.out),
            Read::Reset
        );
        assert_eq!(connector.tunnels.stats(GRANT), None);
        let resets = connector.out.flows.iter().filter(|event| {
            matches!(
                event,
                FlowEvent::Reset {
                    why: ResetReason::TunnelClosed(CloseReason::Removed),
                    ..
                }
            )
        });
        assert_eq!(resets.count(), 2, "{carrier:?}");
        let closed = Event::Closed {
            grant: GRANT,
            reason: CloseReason::Removed,
        };
        assert_eq!(connector.out.events.back(), Some(&closed));
        pair.pass(Duration::from_millis(50));
        assert!(pair.agent.reset(mine).is_some(), "{carrier:?}");
        assert!(pair.connector.packets(theirs).is_empty());
        pair.pass(Duration::from_secs(20));
        assert_eq!(pair.connector.tunnels.deadline(), None);
    }
}

#[test]
fn a_stranger_opens_nothing() {
    let mut pair = Pair::bare();
    pair.install(keys::quic_of_a_stranger());
    pair.open("80/tcp");
    pair.pass(Duration::from_secs(20));
    assert!(!pair.agent.is_open() && !pair.connector.is_open());
    assert_eq!(pair.agent.close_reason(), Some(CloseReason::PeerRefused));
    assert!(pair.dials().is_empty());
    assert!(
        pair.connector.tunnels.stats(GRANT).is_some(),
        "whom it is for may still come"
    );
}

#[test]
fn another_preshared_key_opens_nothing() {
    let mut pair = Pair::bare();
    let (agent, _) = keys::wireguard(1);
    let (_, mut connector) = keys::wireguard(1);
    if let CarrierKeys::WireGuard { psk, .. } = &mut connector {
        psk.0[0] ^= 1;
    }
    pair.install((agent, connector));
    pair.open("80/tcp");
    pair.pass(Duration::from_secs(20));
    assert!(!pair.agent.is_open() && !pair.connector.is_open());
    assert_eq!(pair.agent.close_reason(), Some(CloseReason::Lost));
}

#[test]
fn only_the_relay_is_heard() {
    let mut pair = Pair::new(Carrier::WireGuard);
    let now = pair.now;
    let mut datagram = pair::handle(End::Agent).data_header().to_vec();
    datagram.extend_from_slice(&[4; 60]);
    let agent = &mut pair.agent;
    let from = "198.51.100.1:7444".parse().unwrap();
    let mut hear = |bytes: &[u8]| {
        let via = Via::Relay;
        let input = Input::Datagram { from, via, bytes };
        agent.tunnels.handle(now, input, &mut agent.out);
    };
    hear(&datagram);
    hear(&datagram[..7]);
    datagram[1] ^= 1;
    hear(&datagram);
    let drops = agent.tunnels.drops();
    assert_eq!(drops.count(DropReason::NotFromRelay), 1);
    assert_eq!(drops.count(DropReason::NotAFrame), 1);
    assert_eq!(drops.count(DropReason::UnknownTunnel), 1);
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let mut pair = Pair::bare();
    let mut wrong = pair::install(End::Agent, keys::wireguard(1).0);
    wrong.ticket.0.pop();
    pair.command(End::Agent, Command::Install(Box::new(wrong)));
    let swapped = pair::install(End::Agent, keys::quic().1);
    pair.command(End::Agent, Command::Install(Box::new(swapped)));
    let invalid = Event::Closed {
        grant: GRANT,
        reason: CloseReason::Invalid,
    };
    assert_eq!(pair.agent.events, [invalid.clone(), invalid]);
    assert_eq!(pair.agent.tunnels.deadline(), None);
}

#[test]
fn flows_survive_new_keys_and_hours() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, theirs) = pair.connect("80/tcp");
        for _ in 0..40 {
            pair.pass(Duration::from_secs(100));
            extend(&mut pair);
            assert_eq!(
                pair.transfer(End::Connector, theirs, mine, b"tick"),
                b"tick",
                "{carrier:?}"
            );
        }
        assert_eq!(pair.agent.close_reason(), None);
    }
}

#[test]
fn a_peer_that_vanishes_is_noticed_and_waited_for_until_the_ttl() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, theirs) = pair.connect("80/tcp");
        pair.loss = 1_000;
        let now = pair.now;
        pair.agent.tunnels.write(
            now,
            mine,
            Bytes::from_static(b"anybody?"),
            &mut pair.agent.out,
        );
        pair.pass(Duration::from_secs(2));
        assert!(pair.agent.is_silent(), "{carrier:?}");
        pair.pass(TTL - Duration::from_secs(30));
        assert_eq!(pair.agent.close_reason(), None, "{carrier:?}");
        // It takes as long as the rarest question, and what follows it.
        pair.loss = 0;
        let back = pair.run(Duration::from_secs(12), |pair| !pair.agent.is_silent());
        assert!(back, "{carrier:?}");
        pair.pass(Duration::from_millis(200));
        let came = pair.read_all(End::Connector, theirs).0;
        assert_eq!(came, b"anybody?", "{carrier:?}");
        pair.loss = 1_000;
        pair.pass(Duration::from_secs(30));
        let why = CloseReason::Expired;
        assert_eq!(pair.agent.close_reason(), Some(why), "{carrier:?}");
        let why = Some(ResetReason::TunnelClosed(why));
        assert_eq!(pair.agent.reset(mine), why);
    }
}

#[test]
fn a_relay_that_forgot_its_bindings_is_told_again() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, theirs) = pair.connect("80/tcp");
        pair.pass(Duration::from_secs(5));
        pair.forget_bindings();
        let began = pair.now.instant;
        assert_eq!(pair.transfer(End::Agent, mine, theirs, b"still"), b"still");
        pair.forget_bindings();
        assert_eq!(
            pair.transfer(End::Connector, theirs, mine, b"there"),
            b"there"
        );
        let took = pair.now.instant - began;
        assert!(took < Duration::from_secs(25), "{carrier:?} {took:?}");
    }
}

#[test]
fn a_new_address_is_announced_at_once() {
    let mut pair = Pair::new(Carrier::Quic);
    pair.pass(Duration::from_secs(3));
    pair.forget_bindings();
    pair.input(End::Agent, Input::Roamed);
    pair.input(End::Connector, Input::Roamed);
    let (mine, theirs) = pair.connect("80/tcp");
    let began = pair.now.instant;
    assert_eq!(pair.transfer(End::Agent, mine, theirs, b"here"), b"here");
    assert!(pair.now.instant - began < Duration::from_millis(200));
}

/// A tunnel whose agent is not what the connector was told.
fn with_villain(carrier: Carrier, change: impl FnOnce(&mut Install)) -> Pair {
    let mut pair = Pair::bare();
    let (agent, connector) = match carrier {
        Carrier::WireGuard => keys::wireguard(1),
        Carrier::Quic => keys::quic(),
    };
    let connector = pair::install(End::Connector, connector);
    let mut agent = pair::install(End::Agent, agent);
    change(&mut agent);
    pair.command(End::Connector, Command::Install(Box::new(connector)));
    pair.command(End::Agent, Command::Install(Box::new(agent)));
    pair.pass(Duration::from_secs(1));
    assert!(pair.agent.is_open(), "{carrier:?}");
    pair
}

fn nothing_passes(pair: &mut Pair, reason: DropReason) {
    pair.open("80/tcp");
    let flow = pair.open("53/udp");
    pair.input(
        End::Agent,
        Input::Packet {
            flow,
            bytes: Bytes::from_static(b"x"),
        },
    );
    pair.pass(Duration::from_secs(3));
    assert!(pair.dials().is_empty());
    assert!(pair.connector.tunnels.drops().count(reason) >= 2);
    let flows = pair.connector.tunnels.stats(GRANT).map(|stats| stats.flows);
    assert_eq!(flows, Some(0));
}

fn extend(pair: &mut Pair) {
    for end in [End::Agent, End::Connector] {
        let extend = Command::Extend {
            grant: GRANT,
            ttl: TTL,
            ticket: pair::ticket(end),
            standby: Vec::new(),
        };
        pair.command(end, extend);
    }
}
