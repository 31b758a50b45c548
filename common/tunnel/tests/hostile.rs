//! Datagrams from an adversary on the path: of every size, in every phase, at both ends.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what a test does outside of its test function may panic as well"
)]

#[cfg(test)]
mod pair;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use boringtun::{
    noise::{Tunn, TunnResult},
    x25519::{PublicKey, StaticSecret},
};
use cardea_proto::{
    app::Carrier,
    path::PathFrame,
    relay::{DATA_HEADER_BYTES, Handle},
};
use cardea_tunnel::{CarrierKeys, Command, DropReason, End, Via};
use pair::{
    Beside, CARRIERS, Captured, GRANT, OTHER, OTHER_GRANT, Pair, RELAY, STANDBY, insider::Insider,
    nat::Kind, pattern,
};
use proptest::prelude::*;

/// Somebody who is no end of any tunnel.
const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 66)), 666);

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
fn junk_and_copies_that_look_like_handshakes_keep_no_rekey_out() {
    let mut pair = Pair::bare();
    pair.captured = Some(Vec::new());
    pair.install(pair::keys::wireguard(1));
    pair.meet(Beside::new(Kind::Open, Kind::Open));
    let (mine, theirs) = pair.connect("80/tcp");
    assert!(pair.run(Duration::from_secs(2), |pair| pair.agent.is_direct()));
    pair.pass(Duration::from_secs(1));
    let header = |pair: &Pair, via| {
        let mut seen = pair.captured.iter().flatten().rev();
        let one = seen.find(|one| one.to == End::Connector && one.via == via);
        one.unwrap().datagram[..DATA_HEADER_BYTES].to_vec()
    };
    let headers = [Via::Relay, Via::Direct].map(|via| (via, header(&pair, via)));
    let copy = first_messages(&pair).remove(0);
    let begun = pair.now.instant;
    // From one key's birth past its end.
    while pair.now.instant < begun + Duration::from_secs(250) {
        pair.pass(Duration::from_millis(50));
        for (via, header) in headers.iter().cycle().take(6) {
            let from = match via {
                Via::Relay => RELAY.parse().unwrap(),
                Via::Direct => STRANGER,
            };
            for junk in [
                [&[1, 0, 0, 0][..], &[9; 144]].concat(),
                vec![1; 148],
                copy.clone(),
            ] {
                let datagram = [&header[..], &junk].concat();
                pair.deliver_from(End::Connector, from, *via, &datagram);
            }
        }
        pair.flush(End::Connector);
    }
    assert!(first_messages(&pair).len() >= 3, "keys were made anew");
    let data = pattern(3_000);
    assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
    assert!(pair.transfer(End::Connector, theirs, mine, &data) == data);
    let drops = pair.connector.tunnels.drops();
    assert_eq!(drops.count(DropReason::HandshakeFlood), 0);
    assert!(drops.count(DropReason::NotAuthentic) > 20_000);
}

/// The first messages of handshakes that somebody has seen, without what stands before them.
fn first_messages(pair: &Pair) -> Vec<Vec<u8>> {
    let seen = pair.captured.iter().flatten();
    let sealed = seen.filter_map(|one| Some(Handle::split_data(&one.datagram)?.1.to_vec()));
    let mut first: Vec<_> = sealed
        .filter(|sealed| sealed.len() == 148 && sealed.first() == Some(&1))
        .collect();
    first.dedup();
    first
}

#[test]
fn a_flood_of_one_insiders_handshakes_costs_five_a_second_and_keeps_nobody_else_out() {
    let mut pair = Pair::bare();
    pair.captured = Some(Vec::new());
    let (insider, connector) = pair::keys::wireguard(2);
    let install = pair::install_other(End::Connector, connector);
    pair.command(End::Connector, Command::Install(Box::new(install)));
    let to_insider = pair::handle_at(OTHER, End::Agent);
    pair.bind(to_insider);
    pair.pass(Duration::from_secs(1));
    let mut mine = None;
    for number in 0..4_000 {
        if number == 1_000 {
            pair.install(pair::keys::wireguard(1));
            mine = Some(pair.open("80/tcp"));
        }
        let first = first_message(&insider, number);
        let header = pair::handle_at(OTHER, End::Connector).data_header();
        pair.deliver(End::Connector, &[&header[..], &first].concat());
        pair.flush(End::Connector);
        pair.pass(Duration::from_millis(1));
        if number == 3_000 {
            assert!(pair.agent.established(mine.unwrap()), "within two seconds");
        }
    }
    let seen = pair.captured.iter().flatten();
    let answers = seen.filter(|one| {
        Handle::split_data(&one.datagram)
            .is_some_and(|(handle, sealed)| handle == to_insider && sealed.first() == Some(&2))
    });
    assert_eq!(answers.count(), 4 * 5);
    let drops = pair.connector.tunnels.drops();
    assert_eq!(drops.count(DropReason::HandshakeFlood), 4_000 - 4 * 5);
}

#[test]
fn a_relay_that_swaps_what_two_tunnels_say_moves_nothing_between_them() {
    for carrier in CARRIERS {
        for is_near in [false, true] {
            swap(carrier, is_near);
        }
    }
}

/// Also with paths beside the relay, whose datagrams somebody swaps as well. Under WireGuard it does so from
/// the first datagrams on; who swaps those of QUIC, which prove nobody yet, keeps both tunnels from opening, as
/// by dropping them.
fn swap(carrier: Carrier, is_near: bool) {
    let what = format!("{carrier:?}, direct {is_near}");
    let mut pair = Pair::bare();
    pair.swaps = carrier == Carrier::WireGuard;
    pair.captured = Some(Vec::new());
    if is_near {
        pair.meet(Beside::new(Kind::Open, Kind::Open));
    }
    let keys = |seed| match carrier {
        Carrier::WireGuard => pair::keys::wireguard(seed),
        Carrier::Quic => pair::keys::quic(),
    };
    pair.install(keys(1));
    let (agent, connector) = keys(2);
    for (end, keys) in [(End::Connector, connector), (End::Agent, agent)] {
        let install = pair::install_other(end, keys);
        pair.command(end, Command::Install(Box::new(install)));
    }
    let flows = [GRANT, OTHER_GRANT].map(|grant| pair.connect_in(grant, "80/tcp"));
    pair.pass(Duration::from_secs(2));
    assert_eq!(pair.agent.is_direct(), is_near, "{what}");
    pair.swaps = true;
    for round in 0..20_u8 {
        for (place, (mine, theirs)) in (1..).zip(flows) {
            let data = vec![round * 3 + place; 4_000];
            assert!(
                pair.transfer(End::Agent, mine, theirs, &data) == data,
                "{what}"
            );
            assert!(
                pair.transfer(End::Connector, theirs, mine, &data) == data,
                "{what}"
            );
        }
        swap_direct(&mut pair);
    }
    for end in [End::Agent, End::Connector] {
        let node = pair.node(end);
        assert!(
            node.tunnels.drops().count(DropReason::NotAuthentic) > 100,
            "{what}"
        );
        assert_eq!(node.close_reason(), None, "{what}");
    }
    assert_eq!(pair.dials().len(), 2, "{what}");
}

/// Hands over what went directly lately, each time under the handle of the other tunnel.
fn swap_direct(pair: &mut Pair) {
    let seen = pair.captured.replace(Vec::new()).unwrap_or_default();
    let direct: Vec<Captured> = seen
        .into_iter()
        .filter(|one| one.via == Via::Direct)
        .collect();
    for one in &direct {
        let Some((own, sealed)) = Handle::split_data(&one.datagram) else {
            continue;
        };
        let mut handles = direct.iter().filter(|other| other.to == one.to);
        let other = handles.find_map(|other| {
            Handle::split_data(&other.datagram).filter(|(handle, _)| *handle != own)
        });
        if let Some((other, _)) = other {
            let swapped = [&other.data_header()[..], sealed].concat();
            pair.deliver_from(one.to, STRANGER, Via::Direct, &swapped);
            pair.flush(one.to);
        }
    }
}

#[test]
fn an_insider_who_always_says_that_something_is_lost_is_believed_at_the_pace_of_round_trips() {
    let lost = |_| (0, PathFrame::Lost { size: 0 });
    let narrow = |_| (0, PathFrame::Lost { size: 1_200 });
    // By the relay in use and by the one that stands by, whichever that is at the moment.
    let turned = |number: u32| (u8::from(number.is_multiple_of(2)), PathFrame::Turned);
    let floods: [fn(u32) -> (u8, PathFrame); 3] = [lost, narrow, turned];
    for carrier in CARRIERS {
        for victim in [End::Agent, End::Connector] {
            let quiet = cost_of_words(carrier, victim, None);
            for (kind, flood) in floods.into_iter().enumerate() {
                let cost = cost_of_words(carrier, victim, Some(flood));
                let what = format!("{carrier:?} {victim:?} {kind}: {quiet} became {cost}");
                assert!(cost <= quiet + BELIEVED_MAX * WORD_COST_MAX, "{what}");
            }
        }
    }
}

/// How many datagrams `victim` sends while something of its waits for an answer, and the other end
/// says 10,000 times in two seconds what `flood` makes.
fn cost_of_words(carrier: Carrier, victim: End, flood: Option<fn(u32) -> (u8, PathFrame)>) -> u64 {
    let mut pair = Pair::with_standby(carrier);
    let (mine, theirs) = pair.connect("80/tcp");
    pair.pass(Duration::from_secs(2));
    let mut insider = Insider::of(victim);
    let (from, to) = match victim {
        End::Agent => (mine, theirs),
        End::Connector => (theirs, mine),
    };
    pair.asleep = Some(pair::other(victim));
    let data = pattern(100_000);
    let now = pair.now;
    let node = pair.node(victim);
    let written = node
        .tunnels
        .write(now, from, data.clone().into(), &mut node.out);
    pair.flush(victim);
    let before = pair.carried;
    for number in 0..10_000 {
        if let Some((rank, frame)) = flood.map(|flood| flood(number)) {
            let relay = if rank == 0 { RELAY } else { STANDBY[0] };
            let header = pair::handle_at(rank, victim).data_header();
            let datagram = [&header[..], &insider.seal(Via::Relay, &frame)].concat();
            pair.deliver_from(victim, relay.parse().unwrap(), Via::Relay, &datagram);
            pair.flush(victim);
        }
        pair.pass(Duration::from_micros(200));
    }
    let cost = pair.carried - before;
    pair.asleep = None;
    let mut came = Vec::new();
    let limit = pair.now.instant + Duration::from_secs(10);
    while came.len() < written && pair.now.instant < limit {
        pair.pass(Duration::from_millis(5));
        came.extend(pair.read_all(pair::other(victim), to).0);
    }
    came.extend(pair.transfer(victim, from, to, &data[written..]));
    assert!(came == data, "the tunnel goes on");
    assert_eq!(pair.node(victim).close_reason(), None);
    cost
}

/// Words that are believed in two seconds: four at once, and one each tenth of a second.
const BELIEVED_MAX: u64 = 4 + 20;

/// Datagrams that each of them may cost.
const WORD_COST_MAX: u64 = 4;

/// A first message that is the insider's and new, from another implementation of the protocol.
fn first_message(keys: &CarrierKeys, number: u32) -> Vec<u8> {
    let CarrierKeys::WireGuard { private, peer, psk } = keys else {
        return Vec::new();
    };
    let private = StaticSecret::from(private.0);
    let mut tunnel = Tunn::new(
        private,
        PublicKey::from(peer.0),
        Some(psk.0),
        None,
        number,
        None,
    );
    let mut room = [0; 148];
    let made = tunnel.format_handshake_initiation(&mut room, true);
    assert!(matches!(made, TunnResult::WriteToNetwork(_)), "{made:?}");
    room.to_vec()
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
