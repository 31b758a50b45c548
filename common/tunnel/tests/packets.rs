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
    Bundle, Command, DropReason, Edge, End, Input, Install, bundle::HEADER_BYTES, packet::Packet,
};
use pair::{
    CARRIERS, GRANT, Pair,
    kernel::{APP, DEVICE, send, take, tcp, udp},
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

/// What one turn may bring of a network stack that sends as fast as it can.
const TURN_BUNDLES: usize = 64;

#[test]
fn nothing_is_lost_of_what_a_network_stack_has_at_hand_in_one_turn() {
    for carrier in CARRIERS {
        let mut pair = stacked(carrier);
        let now = pair.now;
        let mut bytes = 0;
        let mut packet = tcp(DEVICE[0], APP[0], (40_000, 80), 60_000);
        for _ in 0..TURN_BUNDLES {
            let bundle = Bundle::read(&mut packet).unwrap();
            let grant = GRANT;
            let pair::Node { tunnels, out, .. } = pair.node(End::Agent);
            tunnels.handle(now, Input::Bundle { grant, bundle }, out);
            // As the shell does between two of them: its sockets take all that there is.
            bytes += out
                .transmits
                .drain(..)
                .map(|sent| sent.bytes.len())
                .sum::<usize>();
        }
        assert_eq!(pair.agent.tunnels.drops().total(), 0, "{carrier:?}");
        assert!(
            bytes > (TURN_BUNDLES - 2) * 60_000,
            "{carrier:?}: {bytes} bytes"
        );
    }
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

/// What a network of 1,280 bytes leaves, behind the headers of IPv6 and UDP.
const NARROW: usize = 1_232;

#[test]
fn on_a_path_of_1280_bytes_packets_of_every_length_that_a_network_stack_makes_arrive() {
    for carrier in CARRIERS {
        let mut pair = stacked_on(carrier, NARROW);
        pass_every_length(&mut pair, carrier);
    }
}

fn pass_every_length(pair: &mut Pair, carrier: Carrier) {
    for v6 in [0, 1] {
        for (end, from, to, ports) in [
            (End::Agent, DEVICE[v6], APP[v6], (40_000, 80)),
            (End::Connector, APP[v6], DEVICE[v6], (80, 40_000)),
        ] {
            for len in [1_119, 1_120, 1_140, 1_141, 1_340, 30_000] {
                // One packet, and a window in one piece.
                let mut given = tcp(from, to, ports, len);
                if len <= 1_340 {
                    (given[1], given[4], given[5]) = (0, 0, 0);
                }
                send(pair, end, given);
                let came = take(pair, pair::other(end));
                check_segments(&came, len, carrier);
            }
            let ports = match ports {
                (80, device) => (53, device),
                (device, _) => (device, 53),
            };
            for len in [1_132, 1_133, 1_152, 1_153, 1_352] {
                let payload = pair::pattern(len);
                send(pair, end, udp(from, to, ports, &payload));
                let came = take(pair, pair::other(end));
                assert_eq!(came.len(), 1, "{carrier:?} {end:?} {v6} {len}");
                let packet = Packet::parse(&came[0]).unwrap();
                assert_eq!(packet.payload(&came[0]), payload);
            }
        }
    }
}

/// That what came is the stream that was sent, in segments without a gap.
fn check_segments(came: &[Vec<u8>], len: usize, carrier: Carrier) {
    let mut next = 0;
    let mut payload = Vec::new();
    for bytes in came {
        let packet = Packet::parse_head(bytes).unwrap();
        let at = packet.ip_len + 4;
        let sequence = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(sequence, next);
        payload.extend_from_slice(packet.payload(bytes));
        next = u32::try_from(payload.len()).unwrap();
        assert!(bytes.len() <= 1_180, "each in one datagram");
    }
    assert!(
        payload == pair::pattern(len),
        "{carrier:?} {len}: {} came",
        payload.len()
    );
}

#[test]
fn a_path_that_grows_narrow_costs_two_seconds_and_is_wide_again_when_it_is() {
    for carrier in CARRIERS {
        let mut pair = stacked(carrier);
        let lasts = pair.now.instant;
        let pours = |pair: &mut Pair| {
            let given = tcp(DEVICE[0], APP[0], (40_000, 80), 10_000);
            send(pair, End::Agent, given);
            let came = take(pair, End::Connector);
            let bytes: usize = came.iter().map(|bytes| bytes.len() - 40).sum();
            (bytes == 10_000, came.iter().map(Vec::len).max())
        };
        while pair.now.instant - lasts < Duration::from_secs(2) {
            assert!(pours(&mut pair).0);
        }
        assert_eq!(pours(&mut pair).1, Some(1_340));
        pair.mtu = NARROW;
        let shrunk = pair.now.instant;
        while !pours(&mut pair).0 {
            let took = pair.now.instant - shrunk;
            assert!(took < Duration::from_millis(2_300), "{carrier:?}: {took:?}");
        }
        pair.mtu = 1_472;
        for _ in 0..4 {
            pair.pass(Duration::from_secs(200));
            extend(&mut pair);
            assert!(pours(&mut pair).0, "{carrier:?}");
        }
        assert_eq!(pours(&mut pair).1, Some(1_340), "{carrier:?}");
    }
}

fn extend(pair: &mut Pair) {
    for end in [End::Agent, End::Connector] {
        let extend = Command::Extend {
            grant: GRANT,
            ttl: Duration::from_secs(3_600),
            ticket: pair::ticket(end),
            standby: Vec::new(),
        };
        pair.command(end, extend);
    }
}

/// A tunnel with a network stack at each end.
fn stacked(carrier: Carrier) -> Pair {
    stacked_on(carrier, 1_472)
}

/// The same on a path that carries datagrams of `mtu` bytes.
fn stacked_on(carrier: Carrier, mtu: usize) -> Pair {
    let mut pair = Pair::bare();
    pair.mtu = mtu;
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
