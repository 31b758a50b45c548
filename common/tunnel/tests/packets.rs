//! Network stacks at both ends: packets in, packets out, and nothing that was not granted.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "what a test does outside of its test function may panic as well"
)]

#[cfg(test)]
mod pair;

use std::{net::IpAddr, time::Duration};

use cardea_proto::app::{Carrier, Target};
use cardea_tunnel::{
    Bundle, Command, DropReason, Edge, End, Input, Install, bundle::HEADER_BYTES, packet::Packet,
};
use pair::{CARRIERS, GRANT, Pair};

const DEVICE: [&str; 2] = ["100.64.0.1", "fd00::1"];
const APP: [&str; 2] = ["100.65.0.1", "fd00::a"];

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
fn a_network_stack_talks_to_flows_at_a_connector_that_has_none() {
    let mut pair = Pair::bare();
    pair.agent.tunnels.set_edge(Edge::Packets);
    pair.install(pair::keys::wireguard(1));
    pair.pass(Duration::from_secs(1));
    let mut syn = tcp(DEVICE[0], APP[0], (40_000, 80), 0);
    syn[HEADER_BYTES + 33] = 2;
    send(&mut pair, End::Agent, syn);
    let answers = take(&mut pair, End::Agent);
    assert_eq!(
        answers.first().map(|bytes| bytes[33]),
        Some(0x12),
        "SYN and ACK"
    );
    assert_eq!(pair.dials().len(), 1);
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

fn send(pair: &mut Pair, end: End, mut packet: Vec<u8>) {
    let bundle = Bundle::read(&mut packet).unwrap();
    pair.input(
        end,
        Input::Bundle {
            grant: GRANT,
            bundle,
        },
    );
    pair.pass(Duration::from_millis(100));
}

fn take(pair: &mut Pair, end: End) -> Vec<Vec<u8>> {
    pair.pass(Duration::from_millis(100));
    let packets = &mut pair.node(end).out.packets;
    let came = packets.iter().map(|(bytes, _)| bytes.to_vec()).collect();
    packets.clear();
    came
}

/// What a kernel would hand over: a virtio header, and a TCP window with ACK set that is not summed yet.
fn tcp(from: &str, to: &str, (source, destination): (u16, u16), len: usize) -> Vec<u8> {
    let mut packet = match (from.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(40 + len).unwrap().to_be_bytes();
            let mut ip = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0];
            ip.extend(from.octets());
            ip.extend(to.octets());
            let sum: u32 = ip
                .chunks(2)
                .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
                .sum();
            let made = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
            ip[10..12].copy_from_slice(&made.to_be_bytes());
            ip
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let total = u16::try_from(20 + len).unwrap().to_be_bytes();
            let mut ip = vec![0x60, 0, 0, 0, total[0], total[1], 6, 64];
            ip.extend(from.octets());
            ip.extend(to.octets());
            ip
        }
        _ => panic!("two families"),
    };
    let ip_len = u8::try_from(packet.len()).unwrap();
    let mut above = vec![0; 20];
    above[..2].copy_from_slice(&source.to_be_bytes());
    above[2..4].copy_from_slice(&destination.to_be_bytes());
    (above[12], above[13], above[14]) = (0x50, 0x10, 0x20);
    packet.extend(above);
    packet.extend(pair::pattern(len));
    let kind = if len == 0 {
        0
    } else if ip_len == 20 {
        1
    } else {
        4
    };
    let size = 1_300_u16.to_ne_bytes();
    let header = [1, kind, ip_len + 20, 0, size[0], size[1], ip_len, 0, 16, 0];
    [&header[..], &packet].concat()
}
