//! A network stack at the device and sockets at the connector: packets become flows there.
#![expect(
    clippy::indexing_slicing,
    reason = "what a test does outside of its test function may panic as well"
)]

#[cfg(test)]
mod pair;

use std::time::Duration;

use bytes::Bytes;
use cardea_proto::app::{Carrier, Target};
use cardea_tunnel::{
    CloseReason, Command, DialError, DropReason, Drops, Edge, End, FlowId, Input, Install, Read,
    ResetReason,
    packet::{Body, Packet},
};
use pair::{
    CARRIERS, GRANT, Pair,
    kernel::{ACK, APP, Client, DEVICE, RST, echo, round, send, take, tcp, udp},
    pattern,
};

#[test]
fn a_conversation_of_a_network_stack_goes_both_ways_to_its_end() {
    for (carrier, v6) in CARRIERS.into_iter().flat_map(|one| [(one, 0), (one, 1)]) {
        let mut pair = half_stacked(carrier, |_| {});
        let mut client = Client::begin(&mut pair, v6, (40_000, 80));
        round(&mut pair, std::slice::from_mut(&mut client));
        let flow = pair.dials()[0];
        let question = pattern(30_000);
        client.write(&mut pair, &question);
        let mut came = Vec::new();
        for _ in 0..10 {
            round(&mut pair, std::slice::from_mut(&mut client));
            came.extend(pair.read_all(End::Connector, flow).0);
        }
        assert!(came == question, "{carrier:?}");
        let answer = pattern(300_000);
        serve(
            &mut pair,
            std::slice::from_mut(&mut client),
            &[flow],
            &answer,
        );
        pair.input(End::Connector, Input::Finish { flow });
        client.finish(&mut pair);
        for _ in 0..5 {
            round(&mut pair, std::slice::from_mut(&mut client));
        }
        assert_eq!(pair.read_all(End::Connector, flow).1, Read::Finished);
        assert!(client.is_finished && !client.is_reset, "{carrier:?}");
        pair.pass(Duration::from_secs(1));
        assert!(pair.connector.closed(flow), "{carrier:?}");
        assert_eq!(pair.agent.tunnels.drops().total(), 0, "{carrier:?}");
        assert_eq!(pair.connector.tunnels.drops().total(), 0, "{carrier:?}");
        let stats = pair.connector.tunnels.stats(GRANT).unwrap();
        assert_eq!((stats.bytes_out, stats.bytes_in), (30_000, 300_000));
    }
}

#[test]
fn many_downloads_at_once_wait_for_the_path_and_lose_nothing() {
    for carrier in CARRIERS {
        let mut pair = half_stacked(carrier, |_| {});
        let mut clients: Vec<Client> = (0..500)
            .map(|index| Client::begin(&mut pair, 0, (40_000 + index, 80)))
            .collect();
        for _ in 0..5 {
            round(&mut pair, &mut clients);
        }
        let flows = pair.dials();
        assert_eq!(flows.len(), clients.len());
        serve(&mut pair, &mut clients, &flows, &pattern(30_000));
        assert_eq!(
            *pair.connector.tunnels.drops(),
            Drops::default(),
            "{carrier:?}"
        );
    }
}

#[test]
fn a_conversation_survives_a_path_that_loses_and_reorders() {
    for carrier in CARRIERS {
        let mut pair = half_stacked(carrier, |_| {});
        let mut client = Client::begin(&mut pair, 0, (40_000, 80));
        round(&mut pair, std::slice::from_mut(&mut client));
        let flow = pair.dials()[0];
        (pair.loss, pair.jitter) = (30, Duration::from_millis(3));
        serve(
            &mut pair,
            std::slice::from_mut(&mut client),
            &[flow],
            &pattern(100_000),
        );
    }
}

#[test]
fn packets_are_as_long_as_the_path_carries_in_one_datagram() {
    // The largest datagram that arrives, and the longest packet that should.
    let cases = [
        (Carrier::WireGuard, 1_472, 1_400),
        (Carrier::WireGuard, 1_232, 1_180),
        (Carrier::Quic, 1_472, 1_400),
        (Carrier::Quic, 1_232, 1_152),
    ];
    for (carrier, mtu, expected) in cases {
        let mut pair = half_stacked_on(carrier, mtu, |_| {});
        let mut client = Client::begin(&mut pair, 0, (40_000, 80));
        round(&mut pair, std::slice::from_mut(&mut client));
        let flow = pair.dials()[0];
        serve(
            &mut pair,
            std::slice::from_mut(&mut client),
            &[flow],
            &pattern(200_000),
        );
        assert_eq!(client.longest, expected, "{carrier:?} {mtu}");
    }
}

#[test]
fn what_the_connector_cannot_reach_is_refused_and_a_late_segment_too() {
    for carrier in CARRIERS {
        let mut pair = half_stacked(carrier, |_| {});
        pair.dial = Err(DialError::Refused);
        let mut client = Client::begin(&mut pair, 0, (40_000, 80));
        round(&mut pair, std::slice::from_mut(&mut client));
        assert!(client.is_reset, "{carrier:?}");
        send(
            &mut pair,
            End::Agent,
            tcp(DEVICE[0], APP[0], (40_001, 80), 10),
        );
        let answers = take(&mut pair, End::Agent);
        assert_eq!(answers.len(), 1, "{carrier:?}");
        assert_eq!(answers[0][33] & (RST | ACK), RST, "{carrier:?}");
        let drops = pair.connector.tunnels.drops();
        assert_eq!(drops.count(DropReason::UnknownFlow), 1, "{carrier:?}");
        assert_eq!(pair.connector.tunnels.stats(GRANT).unwrap().flows, 0);
    }
}

#[test]
fn udp_and_echoes_of_a_network_stack_are_answered_at_any_length() {
    for (carrier, v6) in CARRIERS.into_iter().flat_map(|one| [(one, 0), (one, 1)]) {
        let mut pair = half_stacked(carrier, |_| {});
        let (from, to) = (DEVICE[v6], APP[v6]);
        send(
            &mut pair,
            End::Agent,
            udp(from, to, (40_000, 53), b"who is it"),
        );
        pair.pass(Duration::from_millis(100));
        let flow = pair.dials()[0];
        assert_eq!(
            pair.connector.packets(flow),
            [Bytes::from_static(b"who is it")]
        );
        for len in [1, 1_300, 9_000, 65_507] {
            let bytes = Bytes::from(pattern(len));
            pair.input(End::Connector, Input::Packet { flow, bytes });
            let answers = take(&mut pair, End::Agent);
            let what = format!("{carrier:?} {to} {len}");
            assert_eq!(answers.len(), 1, "{what}");
            let packet = Packet::parse(&answers[0]).unwrap();
            let ports = (packet.source_port, packet.destination_port);
            assert_eq!((packet.body, ports), (Body::Udp, (53, 40_000)), "{what}");
            assert!(packet.payload(&answers[0]) == pattern(len), "{what}");
        }
        send(&mut pair, End::Agent, echo(from, to, &pattern(1_300)));
        let answers = take(&mut pair, End::Agent);
        let packet = Packet::parse(&answers[0]).unwrap();
        assert_eq!(packet.body, Body::Echo { asks: false });
        assert!(packet.payload(&answers[0]) == pattern(1_300));
        pair.pass(Duration::from_secs(125));
        assert!(pair.connector.closed(flow), "{carrier:?}");
        assert_eq!(pair.connector.tunnels.drops().total(), 0, "{carrier:?}");
    }
}

#[test]
fn what_a_villain_sends_beyond_its_grant_dials_nothing_and_is_not_answered() {
    type Change = fn(&mut Install);
    let source: Change = |install| install.inner.device_v4 = [100, 64, 0, 2].into();
    let place: Change = |install| install.inner.app_v4 = [10, 9, 0, 10].into();
    let ports: Change = |install| {
        let more = ["x:81", "x:54/udp"].map(|text| text.parse::<Target>().unwrap().service);
        install.services.extend(more);
    };
    let other = "100.64.0.2";
    let cases = [
        (
            source,
            DropReason::SpoofedSource,
            all(other, APP[0], (80, 53)),
        ),
        (
            place,
            DropReason::WrongDestination,
            all(DEVICE[0], "10.9.0.10", (80, 53)),
        ),
        (
            ports,
            DropReason::WrongService,
            all(DEVICE[0], APP[0], (81, 54))[..2].to_vec(),
        ),
    ];
    for carrier in CARRIERS {
        for (change, reason, packets) in &cases {
            let mut pair = half_stacked(carrier, change);
            for packet in packets {
                send(&mut pair, End::Agent, packet.clone());
            }
            assert!(
                take(&mut pair, End::Agent).is_empty(),
                "{carrier:?} {reason:?}"
            );
            assert!(pair.dials().is_empty(), "{carrier:?} {reason:?}");
            let drops = pair.connector.tunnels.drops();
            let count = u64::try_from(packets.len()).unwrap();
            assert_eq!(drops.count(*reason), count, "{carrier:?} {reason:?}");
            assert_eq!(drops.total(), count, "{carrier:?} {reason:?}");
            assert_eq!(pair.connector.tunnels.stats(GRANT).unwrap().bytes_out, 0);
        }
    }
}

#[test]
fn packets_begin_no_flow_at_a_device_that_has_sockets() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        pair.connector.tunnels.set_stacked(GRANT, true, true);
        pair.pass(Duration::from_secs(1));
        let segment = tcp(APP[0], DEVICE[0], (80, 40_000), 10);
        send(&mut pair, End::Connector, segment);
        send(
            &mut pair,
            End::Connector,
            udp(APP[0], DEVICE[0], (53, 40_000), b"x"),
        );
        pair.pass(Duration::from_millis(100));
        let drops = pair.agent.tunnels.drops();
        assert_eq!(drops.count(DropReason::UnknownFlow), 2, "{carrier:?}");
        assert_eq!(pair.agent.tunnels.stats(GRANT).unwrap().flows, 0);
        assert!(pair.agent.flows.is_empty(), "{carrier:?}");
    }
}

#[test]
fn flows_made_of_packets_end_with_their_tunnel_and_not_a_byte_follows() {
    for carrier in CARRIERS {
        let mut pair = half_stacked(carrier, |_| {});
        let mut clients = [Client::begin(&mut pair, 0, (40_000, 80))];
        round(&mut pair, &mut clients);
        send(
            &mut pair,
            End::Agent,
            udp(DEVICE[0], APP[0], (40_000, 53), b"x"),
        );
        pair.pass(Duration::from_millis(100));
        let flows = pair.dials();
        let now = pair.now;
        let data = Bytes::from(pattern(400_000));
        let connector = &mut pair.connector;
        let out = &mut connector.out;
        assert!(connector.tunnels.write(now, flows[0], data, out) > 300_000);
        pair.command(End::Connector, Command::Remove { grant: GRANT });
        let why = Some(ResetReason::TunnelClosed(CloseReason::Removed));
        for flow in flows {
            assert_eq!(pair.connector.reset(flow), why, "{carrier:?}");
            assert_eq!(pair.read_all(End::Connector, flow).1, Read::Reset);
        }
        let came = take(&mut pair, End::Agent);
        let payload = |bytes: &Vec<u8>| Packet::parse_head(bytes).unwrap().payload(bytes).len();
        assert_eq!(came.iter().map(payload).sum::<usize>(), 0, "{carrier:?}");
    }
}

/// The first packet of each kind, for ports of TCP and UDP.
fn all(from: &str, to: &str, (over_tcp, over_udp): (u16, u16)) -> Vec<Vec<u8>> {
    let mut syn = tcp(from, to, (40_000, over_tcp), 0);
    syn[cardea_tunnel::bundle::HEADER_BYTES + 33] = pair::kernel::SYN;
    let payload = udp(from, to, (40_000, over_udp), b"x");
    vec![syn, payload, echo(from, to, b"x")]
}

/// Has every flow send `data`, until every client has it.
fn serve(pair: &mut Pair, clients: &mut [Client], flows: &[FlowId], data: &[u8]) {
    let mut rest = vec![Bytes::copy_from_slice(data); flows.len()];
    for _ in 0..4_000 {
        for (flow, rest) in flows.iter().zip(&mut rest) {
            let (now, connector) = (pair.now, &mut pair.connector);
            let out = &mut connector.out;
            let taken = connector.tunnels.write(now, *flow, rest.clone(), out);
            let _written = rest.split_to(taken);
        }
        pair.flush(End::Connector);
        round(pair, clients);
        if clients.iter().all(|client| client.came.len() >= data.len()) {
            break;
        }
    }
    assert!(clients.iter().all(|client| client.came == data));
}

/// A tunnel with a network stack at the device alone, whose grant says what `change` makes of it.
fn half_stacked(carrier: Carrier, change: impl Fn(&mut Install)) -> Pair {
    half_stacked_on(carrier, 1_472, change)
}

/// The same on a path whose largest datagram has `mtu` bytes.
fn half_stacked_on(carrier: Carrier, mtu: usize, change: impl Fn(&mut Install)) -> Pair {
    let (agent, connector) = match carrier {
        Carrier::WireGuard => pair::keys::wireguard(1),
        Carrier::Quic => pair::keys::quic(),
    };
    let mut pair = Pair::bare();
    pair.mtu = mtu;
    pair.agent.tunnels.set_edge(Edge::Packets);
    let mut install = pair::install(End::Agent, agent);
    change(&mut install);
    let honest = pair::install(End::Connector, connector);
    pair.command(End::Connector, Command::Install(Box::new(honest)));
    pair.command(End::Agent, Command::Install(Box::new(install)));
    pair.pass(Duration::from_secs(1));
    assert!(pair.agent.is_open(), "{carrier:?}");
    pair
}
