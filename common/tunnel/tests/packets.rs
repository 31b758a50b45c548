//! Network stacks at both ends: packets in, packets out, and nothing that was not granted.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what a test does outside of its test function may panic as well"
)]

#[cfg(test)]
mod pair;

use std::time::Duration;

use cardea_proto::app::{Carrier, Target};
use cardea_tunnel::{
    Command, DropReason, Edge, End, Install, bundle::HEADER_BYTES, packet::Packet,
};
use pair::{
    CARRIERS, GRANT, Pair,
    kernel::{APP, DEVICE, send, take, tcp},
};

#[test]
fn a_window_of_a_device_arrives_at_the_app_and_one_of_the_app_at_the_device() {
    for carrier in CARRIERS {
        carry_both_ways(carrier);
    }
}

fn carry_both_ways(carrier: Carrier) {
    let mut pair = stacked(carrier);
    for v6 in [0, 1] {
        for (end, from, to, ports) in [
            (End::Agent, DEVICE[v6], APP[v6], (40_000, 80)),
            (End::Connector, APP[v6], DEVICE[v6], (80, 40_000)),
        ] {
            send(&mut pair, end, tcp(from, to, ports, 30_000));
            let came = take(&mut pair, pair::other(end));
            let payload: Vec<u8> = came
                .iter()
                .flat_map(|bytes| Packet::parse_head(bytes).unwrap().payload(bytes).to_vec())
                .collect();
            assert_eq!(payload, pair::pattern(30_000));
            assert!(came.iter().all(|bytes| bytes.len() <= 1_400));
        }
    }
    assert_eq!(pair.agent.tunnels.drops().total(), 0);
    assert_eq!(pair.connector.tunnels.drops().total(), 0);
    let stats = pair.agent.tunnels.stats(GRANT).unwrap();
    assert_eq!((stats.bytes_out, stats.bytes_in), (60_000, 60_000));
}

#[test]
fn what_the_grant_does_not_name_does_not_leave() {
    for carrier in CARRIERS {
        refuse_to_send(carrier);
    }
}

fn refuse_to_send(carrier: Carrier) {
    let (device, app) = (DEVICE[0], APP[0]);
    let cases = [
        (
            tcp(device, "100.65.0.2", (40_000, 80), 10),
            DropReason::SpoofedSource,
        ),
        (
            tcp("100.64.0.2", app, (40_000, 80), 10),
            DropReason::SpoofedSource,
        ),
        (tcp(device, app, (40_000, 81), 10), DropReason::WrongService),
        (tcp(device, app, (80, 40_000), 10), DropReason::WrongService),
    ];
    for (packet, reason) in cases {
        let mut pair = stacked(carrier);
        send(&mut pair, End::Agent, packet);
        assert!(take(&mut pair, End::Connector).is_empty());
        assert_eq!(pair.agent.tunnels.drops().count(reason), 1, "{reason:?}");
    }
    let mut pair = stacked(carrier);
    send(
        &mut pair,
        End::Connector,
        tcp(app, device, (81, 40_000), 10),
    );
    assert_eq!(
        pair.connector
            .tunnels
            .drops()
            .count(DropReason::WrongService),
        1
    );
    let mut large = tcp(device, app, (40_000, 80), 1_500);
    large[..HEADER_BYTES].copy_from_slice(&[1, 0, 0, 0, 0, 0, 20, 0, 16, 0]);
    send(&mut pair, End::Agent, large);
    assert_eq!(pair.agent.tunnels.drops().count(DropReason::TooLarge), 1);
}

#[test]
fn what_a_villain_sends_beyond_its_grant_reaches_no_network_stack() {
    for carrier in CARRIERS {
        let villain = |change: fn(&mut Install)| {
            let (agent, connector) = match carrier {
                Carrier::WireGuard => pair::keys::wireguard(1),
                Carrier::Quic => pair::keys::quic(),
            };
            let mut pair = Pair::bare();
            pair.agent.tunnels.set_edge(Edge::Packets);
            let mut install = pair::install(End::Agent, agent);
            change(&mut install);
            let honest = pair::install(End::Connector, connector);
            pair.command(End::Connector, Command::Install(Box::new(honest)));
            pair.command(End::Agent, Command::Install(Box::new(install)));
            pair.connector.tunnels.set_stacked(GRANT, true, true);
            pair.pass(Duration::from_secs(1));
            pair
        };
        let mut source = villain(|install| install.inner.device_v4 = [100, 64, 0, 2].into());
        send(
            &mut source,
            End::Agent,
            tcp("100.64.0.2", APP[0], (40_000, 80), 10),
        );
        let mut place = villain(|install| install.inner.app_v4 = [10, 9, 0, 10].into());
        send(
            &mut place,
            End::Agent,
            tcp(DEVICE[0], "10.9.0.10", (40_000, 80), 10),
        );
        let mut port = villain(|install| {
            install
                .services
                .push("x:81".parse::<Target>().unwrap().service);
        });
        send(
            &mut port,
            End::Agent,
            tcp(DEVICE[0], APP[0], (40_000, 81), 10),
        );
        for (pair, reason) in [
            (&mut source, DropReason::SpoofedSource),
            (&mut place, DropReason::WrongDestination),
            (&mut port, DropReason::WrongService),
        ] {
            assert!(take(pair, End::Connector).is_empty(), "{reason:?}");
            assert_eq!(
                pair.connector.tunnels.drops().count(reason),
                1,
                "{reason:?}"
            );
        }
    }
}

#[test]
fn a_network_stack_and_flows_share_a_tunnel_but_no_port() {
    let mut pair = stacked(Carrier::WireGuard);
    let flow = pair.open("80/tcp");
    let syn = take(&mut pair, End::Connector).remove(0);
    let port = Packet::parse_head(&syn).unwrap().source_port;
    send(
        &mut pair,
        End::Agent,
        tcp(DEVICE[0], APP[0], (port, 80), 10),
    );
    assert_eq!(pair.agent.tunnels.drops().count(DropReason::PortTaken), 1);
    send(
        &mut pair,
        End::Connector,
        tcp(APP[0], DEVICE[0], (80, port), 10),
    );
    pair.pass(Duration::from_secs(1));
    assert!(pair.agent.out.packets.is_empty(), "it was the flow\'s");
    assert_eq!(pair.agent.reset(flow), None);
}

#[test]
fn what_was_opened_under_a_grant_is_gone_with_it() {
    let mut pair = stacked(Carrier::WireGuard);
    send(
        &mut pair,
        End::Agent,
        tcp(DEVICE[0], APP[0], (40_000, 80), 3_000),
    );
    assert!(!pair.connector.out.packets.is_empty());
    pair.command(End::Connector, Command::Remove { grant: GRANT });
    assert!(pair.connector.out.packets.is_empty());
    send(
        &mut pair,
        End::Connector,
        tcp(APP[0], DEVICE[0], (80, 40_000), 10),
    );
    assert_eq!(pair.connector.tunnels.drops().count(DropReason::NotOpen), 1);
}

/// A tunnel with a network stack at each end.
fn stacked(carrier: Carrier) -> Pair {
    let mut pair = Pair::bare();
    pair.agent.tunnels.set_edge(Edge::Packets);
    pair.install(match carrier {
        Carrier::WireGuard => pair::keys::wireguard(1),
        Carrier::Quic => pair::keys::quic(),
    });
    pair.connector.tunnels.set_stacked(GRANT, true, true);
    pair.pass(Duration::from_secs(1));
    assert!(pair.agent.is_open(), "{carrier:?}");
    pair
}
