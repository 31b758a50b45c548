//! Datagrams from an adversary on the path: of every size, in every phase, at both ends.

#[cfg(test)]
mod pair;

use std::time::Duration;

use cardea_proto::app::Carrier;
use cardea_tunnel::{End, Input};
use pair::{CARRIERS, GRANT, Pair, pattern};
use proptest::prelude::*;

/// One datagram, and how it begins.
#[derive(Clone, Debug)]
struct Garbage {
    at_agent: bool,
    with_handle: bool,
    kind: u8,
    bytes: Vec<u8>,
}

fn garbage() -> impl Strategy<Value = Garbage> {
    // Few kinds of first byte, so that WireGuard's messages and QUIC's headers are among them.
    let kind = prop_oneof![0_u8..6, Just(0x40), Just(0xc3), Just(0xe0), any::<u8>()];
    let len = prop_oneof![0_usize..200, 1_150_usize..1_300, 0_usize..65_499];
    (
        any::<bool>(),
        prop::bool::weighted(0.8),
        kind,
        len,
        any::<u8>(),
    )
        .prop_map(|(at_agent, with_handle, kind, len, seed)| Garbage {
            at_agent,
            with_handle,
            kind,
            bytes: pattern(len)
                .into_iter()
                .map(|byte| byte.wrapping_mul(seed | 1))
                .collect(),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_datagram_ends_a_tunnel_or_a_transfer(
        before in prop::collection::vec(garbage(), 0..6),
        during in prop::collection::vec(garbage(), 0..12),
        quic in any::<bool>(),
    ) {
        let mut pair = Pair::new(if quic { Carrier::Quic } else { Carrier::WireGuard });
        for garbage in before {
            throw(&mut pair, garbage);
            pair.pass(Duration::from_millis(3));
        }
        let (mine, theirs) = pair.connect("80/tcp");
        for garbage in during {
            throw(&mut pair, garbage);
            let data = pattern(3_000);
            prop_assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
            prop_assert!(pair.transfer(End::Connector, theirs, mine, &data) == data);
        }
        prop_assert!(pair.agent.tunnels.stats(GRANT).unwrap().open);
        let stranger = pair.dials();
        prop_assert_eq!(stranger.len(), 1);
    }
}

#[test]
fn damaged_and_repeated_datagrams_change_nothing() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        pair.damage = true;
        let (mine, theirs) = pair.connect("80/tcp");
        let data = pattern(400_000);
        assert!(
            pair.transfer(End::Agent, mine, theirs, &data) == data,
            "{carrier:?}"
        );
        assert!(
            pair.transfer(End::Connector, theirs, mine, &data) == data,
            "{carrier:?}"
        );
        assert!(pair.connector.tunnels.drops().total() > 100);
    }
}

#[test]
fn a_flood_of_handshakes_costs_a_few() {
    let mut pair = Pair::new(Carrier::WireGuard);
    pair.pass(Duration::from_secs(1));
    for _ in 0..1_000 {
        let mut datagram = pair::handle(End::Connector).data_header().to_vec();
        datagram.extend_from_slice(&[1, 0, 0, 0]);
        datagram.extend_from_slice(&[9; 144]);
        pair.deliver(End::Connector, &datagram);
    }
    let flood = cardea_tunnel::DropReason::HandshakeFlood;
    assert!(pair.connector.tunnels.drops().count(flood) > 980);
    pair.input(End::Connector, Input::Timeout);
    pair.connect("80/tcp");
}

fn throw(pair: &mut Pair, garbage: Garbage) {
    let end = if garbage.at_agent {
        End::Agent
    } else {
        End::Connector
    };
    let mut datagram = Vec::new();
    if garbage.with_handle {
        datagram.extend_from_slice(&pair::handle(end).data_header());
    }
    datagram.push(garbage.kind);
    datagram.extend_from_slice(&garbage.bytes);
    datagram.truncate(65_507);
    pair.deliver(end, &datagram);
    pair.flush(end);
}
