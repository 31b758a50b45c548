//! What tunnels carry: bytes both ways, ends and resets, UDP, on both carriers and bad paths.

#[cfg(test)]
mod pair;

use std::time::Duration;

use bytes::Bytes;
use cardea_proto::app::Carrier;
use cardea_tunnel::{DialError, End, Event, Family, FlowEvent, Input, Read, ResetReason};
use pair::{CARRIERS, Pair, keys, pattern};

#[test]
fn bytes_arrive_intact_both_ways() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, theirs) = pair.connect("80/tcp");
        let data = pattern(3_000_000);
        assert!(
            pair.transfer(End::Agent, mine, theirs, &data) == data,
            "{carrier:?}"
        );
        assert!(
            pair.transfer(End::Connector, theirs, mine, &data) == data,
            "{carrier:?}"
        );
        let stats = pair.agent.tunnels.stats(pair::GRANT).unwrap();
        assert!(stats.open);
        assert_eq!(
            (stats.bytes_in, stats.bytes_out, stats.flows),
            (3_000_000, 3_000_000, 1)
        );
        assert_eq!(
            pair.connector.tunnels.stats(pair::GRANT).unwrap().bytes_in,
            3_000_000
        );
        assert!(stats.rtt.unwrap() >= Duration::from_millis(20));
    }
}

#[test]
fn one_side_may_finish_while_the_other_goes_on() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, theirs) = pair.connect("80/tcp");
        assert_eq!(
            pair.transfer(End::Agent, mine, theirs, b"question"),
            b"question"
        );
        pair.input(End::Agent, Input::Finish { flow: mine });
        pair.pass(Duration::from_millis(200));
        assert_eq!(
            pair.read_all(End::Connector, theirs),
            (Vec::new(), Read::Finished)
        );
        let answer = pattern(900_000);
        assert!(pair.transfer(End::Connector, theirs, mine, &answer) == answer);
        pair.input(End::Connector, Input::Finish { flow: theirs });
        pair.pass(Duration::from_millis(200));
        assert_eq!(
            pair.read_all(End::Agent, mine),
            (Vec::new(), Read::Finished)
        );
        pair.pass(Duration::from_millis(200));
        assert!(
            pair.agent.closed(mine) && pair.connector.closed(theirs),
            "{carrier:?}"
        );
        assert_eq!(pair.agent.tunnels.stats(pair::GRANT).unwrap().flows, 0);
    }
}

#[test]
fn what_was_written_before_the_end_still_arrives() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, theirs) = pair.connect("80/tcp");
        pair.pass(Duration::from_millis(50));
        let now = pair.now;
        let data = Bytes::from(pattern(100_000));
        let taken =
            pair.connector
                .tunnels
                .write(now, theirs, data.clone(), &mut pair.connector.out);
        assert_eq!(taken, data.len());
        pair.input(End::Connector, Input::Finish { flow: theirs });
        pair.input(End::Agent, Input::Finish { flow: mine });
        pair.pass(Duration::from_secs(2));
        assert_eq!(
            pair.read_all(End::Agent, mine),
            (data.to_vec(), Read::Finished),
            "{carrier:?}"
        );
    }
}

#[test]
fn a_reset_reaches_the_other_side() {
    for carrier in CARRIERS {
        for end in [End::Agent, End::Connector] {
            let mut pair = Pair::new(carrier);
            let (mine, theirs) = pair.connect("80/tcp");
            let (flow, peers) = match end {
                End::Agent => (mine, theirs),
                End::Connector => (theirs, mine),
            };
            pair.input(end, Input::Reset { flow });
            pair.pass(Duration::from_millis(100));
            let other = pair.node(pair::other(end));
            assert_eq!(
                other.reset(peers),
                Some(ResetReason::Peer),
                "{carrier:?} {end:?}"
            );
            assert_eq!(pair.node(end).reset(flow), None);
            assert_eq!(pair.agent.tunnels.stats(pair::GRANT).unwrap().flows, 0);
        }
    }
}

#[test]
fn a_refused_dial_is_a_refused_connection() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        pair.dial = Err(DialError::Refused);
        let flow = pair.open("80/tcp");
        pair.pass(Duration::from_millis(300));
        let why = match carrier {
            Carrier::Quic => DialError::Refused,
            Carrier::WireGuard => DialError::Unsaid,
        };
        assert_eq!(
            pair.agent.reset(flow),
            Some(ResetReason::Refused(why)),
            "{carrier:?}"
        );
        assert!(!pair.agent.established(flow));
        let grant = pair::GRANT;
        let told = Event::Unreached { grant, why };
        assert!(pair.agent.events.contains(&told), "{carrier:?}");
        let is_such = |event: &Event| matches!(event, Event::Unreached { .. });
        assert!(!pair.connector.events.iter().any(is_such), "{carrier:?}");
    }
}

#[test]
fn udp_payloads_come_and_go_and_the_first_waits_for_nothing() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let flow = pair.open("53/udp");
        let question = Bytes::from_static(b"who is it");
        pair.input(
            End::Agent,
            Input::Packet {
                flow,
                bytes: question.clone(),
            },
        );
        pair.pass(Duration::from_secs(1));
        let theirs = pair.dials()[0];
        assert_eq!(pair.connector.packets(theirs), [question]);
        let answer = Bytes::from(pattern(1_300));
        pair.input(
            End::Connector,
            Input::Packet {
                flow: theirs,
                bytes: answer.clone(),
            },
        );
        pair.pass(Duration::from_secs(1));
        assert_eq!(pair.agent.packets(flow), [answer], "{carrier:?}");
        pair.pass(Duration::from_secs(125));
        assert!(pair.agent.closed(flow) && pair.connector.closed(theirs));
    }
}

#[test]
fn udp_payloads_that_are_longer_than_the_path_are_carried_both_ways() {
    for carrier in CARRIERS {
        for family in [Family::V4, Family::V6] {
            for len in [1_373, 9_000, 65_507] {
                let mut pair = Pair::bare();
                pair.agent.tunnels.prefer(family);
                pair.install(match carrier {
                    Carrier::WireGuard => keys::wireguard(1),
                    Carrier::Quic => keys::quic(),
                });
                let flow = pair.open("53/udp");
                let bytes = Bytes::from(pattern(len));
                let packet = |flow| {
                    let bytes = bytes.clone();
                    Input::Packet { flow, bytes }
                };
                pair.input(End::Agent, packet(flow));
                pair.pass(Duration::from_secs(2));
                let what = format!("{carrier:?} {family:?} {len}");
                assert_eq!(pair.dials().len(), 1, "{what}");
                let theirs = pair.dials()[0];
                assert!(pair.connector.packets(theirs) == [bytes.clone()], "{what}");
                pair.input(End::Connector, packet(theirs));
                pair.pass(Duration::from_secs(2));
                assert!(pair.agent.packets(flow) == [bytes.clone()], "{what}");
            }
        }
    }
}

#[test]
fn flows_may_use_ipv6_inside() {
    let mut pair = Pair::bare();
    pair.agent.tunnels.prefer(Family::V6);
    pair.install(keys::wireguard(1));
    let (mine, theirs) = pair.connect("5432/tcp");
    let data = pattern(300_000);
    assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
    let flow = pair.open("53/udp");
    pair.input(
        End::Agent,
        Input::Packet {
            flow,
            bytes: Bytes::from_static(b"six"),
        },
    );
    pair.pass(Duration::from_millis(50));
    assert_eq!(
        pair.connector.packets(pair.dials()[1]),
        [Bytes::from_static(b"six")]
    );
}

#[test]
fn a_bad_path_opens_soon_and_carries_everything() {
    for carrier in CARRIERS {
        let mut pair = Pair::bare();
        pair.loss = 200;
        pair.jitter = Duration::from_millis(5);
        let keys = match carrier {
            Carrier::WireGuard => keys::wireguard(1),
            Carrier::Quic => keys::quic(),
        };
        pair.install(keys);
        assert!(
            pair.run(Duration::from_secs(5), |pair| pair.agent.is_open()),
            "{carrier:?}"
        );
        let (mine, theirs) = pair.connect("80/tcp");
        let data = pattern(1_000_000);
        let began = pair.now.instant;
        assert!(
            pair.transfer(End::Agent, mine, theirs, &data) == data,
            "{carrier:?}"
        );
        assert!(
            pair.now.instant - began < Duration::from_secs(40),
            "{carrier:?}"
        );
    }
}

#[test]
fn a_reader_that_stops_stops_its_writer_and_goes_on_later() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, theirs) = pair.connect("80/tcp");
        let chunk = Bytes::from(pattern(64 * 1_024));
        let mut written = Vec::new();
        for _ in 0..2_000 {
            let now = pair.now;
            let taken = pair
                .agent
                .tunnels
                .write(now, mine, chunk.clone(), &mut pair.agent.out);
            written.extend_from_slice(&chunk[..taken]);
            pair.pass(Duration::from_millis(5));
        }
        assert_eq!(pair.agent.tunnels.writable(mine), 0, "{carrier:?}");
        assert!(
            written.len() < 12_000_000,
            "{carrier:?} took {}",
            written.len()
        );
        let before = pair.agent.flows.len();
        let mut came = Vec::new();
        for _ in 0..2_000 {
            came.extend(pair.read_all(End::Connector, theirs).0);
            pair.pass(Duration::from_millis(5));
        }
        assert!(came == written, "{carrier:?}");
        assert!(pair.agent.flows[before..].contains(&FlowEvent::Writable { flow: mine }));
    }
}

#[test]
fn many_short_flows_pass_and_nothing_of_them_stays() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        for _ in 0..20 {
            let flows: Vec<_> = (0..40).map(|_| pair.open("80/tcp")).collect();
            let ready = |pair: &Pair| flows.iter().all(|flow| pair.agent.established(*flow));
            assert!(pair.run(Duration::from_secs(5), ready), "{carrier:?}");
            let dials = pair.dials();
            for (mine, theirs) in flows.iter().zip(&dials[dials.len() - 40..]) {
                pair.input(End::Agent, Input::Finish { flow: *mine });
                pair.input(End::Connector, Input::Finish { flow: *theirs });
            }
            pair.pass(Duration::from_millis(100));
            for (mine, theirs) in flows.iter().zip(&dials[dials.len() - 40..]) {
                assert_eq!(pair.read_all(End::Agent, *mine).1, Read::Finished);
                assert_eq!(pair.read_all(End::Connector, *theirs).1, Read::Finished);
            }
            pair.pass(Duration::from_millis(100));
        }
        assert_eq!(
            pair.agent.tunnels.stats(pair::GRANT).unwrap().flows,
            0,
            "{carrier:?}"
        );
        assert_eq!(
            pair.connector.tunnels.stats(pair::GRANT).unwrap().flows,
            0,
            "{carrier:?}"
        );
    }
}
#[test]
fn a_flow_begins_in_one_round_trip_as_soon_as_the_tunnel_is_open() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        assert!(pair.run(Duration::from_secs(1), |pair| pair.agent.is_open()));
        let began = pair.now.instant;
        pair.connect("80/tcp");
        assert_eq!(pair.now.instant - began, pair.delay * 2, "{carrier:?}");
    }
}

#[test]
fn a_short_flow_waits_for_no_timer() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        pair.pass(Duration::from_secs(1));
        let (mine, theirs) = pair.connect("80/tcp");
        for (end, flow) in [(End::Agent, mine), (End::Connector, theirs)] {
            // One round trip for the last of the handshake; one way for the bytes.
            pair.pass(pair.delay);
            let now = pair.now;
            let node = pair.node(end);
            let taken = node
                .tunnels
                .write(now, flow, Bytes::from_static(b"!"), &mut node.out);
            assert_eq!(taken, 1);
            pair.input(end, Input::Finish { flow });
            pair.pass(pair.delay);
            let peers = if end == End::Agent { theirs } else { mine };
            let came = pair.read_all(pair::other(end), peers);
            assert_eq!(came, (b"!".to_vec(), Read::Finished), "{carrier:?} {end:?}");
        }
        // QUIC may hold the last acknowledgment back for so long (RFC 9000 §18.2, max_ack_delay).
        pair.pass(pair.delay * 2 + Duration::from_millis(25));
        assert!(
            pair.agent.closed(mine) && pair.connector.closed(theirs),
            "{carrier:?}"
        );
    }
}

#[test]
fn readers_that_stop_cost_a_tunnel_a_bounded_amount_and_all_go_on_later() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let flows: Vec<_> = (0..150).map(|_| pair.connect("80/tcp")).collect();
        let chunk = Bytes::from(pattern(256 * 1_024));
        let mut written = vec![0; flows.len()];
        for _ in 0..40 {
            for ((_, theirs), written) in flows.iter().zip(&mut written) {
                let now = pair.now;
                let node = &mut pair.connector;
                *written += node
                    .tunnels
                    .write(now, *theirs, chunk.clone(), &mut node.out);
            }
            pair.pass(Duration::from_millis(20));
        }
        let total: usize = written.iter().sum();
        assert!(total < 150_000_000, "{carrier:?} took {total}");
        let mut came = vec![0; flows.len()];
        for _ in 0..400 {
            for ((mine, _), came) in flows.iter().zip(&mut came) {
                *came += pair.read_all(End::Agent, *mine).0.len();
            }
            pair.pass(Duration::from_millis(20));
        }
        assert!(came == written, "{carrier:?}");
    }
}
/// The agent's first word comes to the relay before the connector's proof here, which is the worst
/// order: it costs the way back of the connector's nudge as well, and no carrier's timer.
#[test]
fn a_proof_to_the_relay_costs_a_new_tunnel_a_round_trip_and_no_timer() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let began = pair.now.instant;
        pair.connect("80/tcp");
        // The pair's relay is next to whoever sends, so that the round trip to it is one way.
        let (proof, nudge, handshakes) = (pair.delay, pair.delay, pair.delay * 4);
        let took = pair.now.instant - began;
        assert!(took <= proof + nudge + handshakes, "{carrier:?} {took:?}");
    }
}

#[test]
fn a_path_that_grows_narrow_under_a_transfer_delays_it_by_little() {
    for carrier in CARRIERS {
        for (speaker, place) in [(End::Agent, 0), (End::Connector, 1)] {
            let mut pair = Pair::new(carrier);
            let (mine, theirs) = pair.connect("80/tcp");
            let flows = [mine, theirs];
            let (from, to) = (flows[place], flows[1 - place]);
            let data = pattern(2_000_000);
            assert!(pair.transfer(speaker, from, to, &data) == data);
            pair.mtu = 1_232;
            let shrunk = pair.now.instant;
            let data = pattern(100_000);
            assert!(pair.transfer(speaker, from, to, &data) == data);
            let took = pair.now.instant - shrunk;
            assert!(
                took < Duration::from_millis(3_500),
                "{carrier:?} {speaker:?}: {took:?}"
            );
        }
    }
}
