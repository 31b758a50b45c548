//! Somebody who is no end of a tunnel, and knows what its ends have said and where: nobody answers him.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what a test does outside of its test function may panic as well"
)]

#[cfg(test)]
mod pair;

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use cardea_proto::{app::Carrier, path::PATH_FRAME, relay::Handle};
use cardea_tunnel::{CarrierKeys, Command, DropReason, End, Via};
use pair::{Beside, CARRIERS, Pair, keys, nat::Kind, pattern};

#[test]
fn strangers_on_the_direct_socket_hear_nothing_and_move_nothing() {
    let mut pair = Pair::new(Carrier::Quic);
    pair.meet(Beside::new(Kind::Open, Kind::Open));
    pair.connect("80/tcp");
    assert!(pair.run(Duration::from_secs(2), Pair::is_direct));
    pair.pass(Duration::from_secs(1));
    let before = (pair.agent.path(), pair.agent.direct.len());
    let captured = [
        vec![0x32; 8],
        [&[0x32][..], &[7; 50]].concat(),
        [&[0x35][..], &[7; 50]].concat(),
        [&[0x37][..], &[7; 25]].concat(),
        pair::handle(End::Agent).seen(STRANGER).to_vec(),
        [&pair::handle(End::Agent).data_header()[..], &[0x35; 34]].concat(),
        pair::handle(End::Agent).bound().to_vec(),
    ];
    for bytes in &captured {
        pair.deliver_from(End::Agent, STRANGER, Via::Direct, bytes);
        pair.flush(End::Agent);
    }
    assert_eq!((pair.agent.path(), pair.agent.direct.len()), before);
}

#[test]
fn neither_carrier_answers_a_stranger_behind_the_right_header_in_any_phase() {
    for carrier in CARRIERS {
        let headers = direct_headers(carrier);
        // What another tunnel begins with, whose keys are not this one's.
        let foreign = seen_of(&mut opened(carrier));
        let mut pair = Pair::bare();
        pair.captured = Some(Vec::new());
        pair.meet(Beside::new(Kind::Open, Kind::Open));
        pair.install(keys_of(carrier, 1));
        let (mut seen, mut flying) = (Vec::new(), VecDeque::new());
        while !pair.is_direct() {
            pair.pass(Duration::from_millis(1));
            flying.push_back(seen_of(&mut pair));
            // Whoever is faster than the original is taken for the peer elsewhere, and probed three times.
            if flying.len() > 11 {
                seen.extend(flying.pop_front().unwrap_or_default());
            }
            say_as_stranger(&mut pair, &headers, &foreign);
            say_as_stranger(&mut pair, &headers, &seen);
            assert!(pair.agent.close_reason().is_none(), "{carrier:?}");
        }
        pair.pass(Duration::from_millis(11));
        seen.extend(flying.into_iter().flatten());
        let (mine, theirs) = pair.connect("80/tcp");
        for _ in 0..3 {
            say_as_stranger(&mut pair, &headers, &foreign);
            say_as_stranger(&mut pair, &headers, &seen);
            let data = pattern(3_000);
            assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
            assert!(pair.transfer(End::Connector, theirs, mine, &data) == data);
        }
        let grant = pair::GRANT;
        for end in [End::Connector, End::Agent] {
            pair.command(end, Command::Remove { grant });
            say_as_stranger(&mut pair, &headers, &seen);
        }
        say_as_stranger(&mut pair, &headers, &seen);
        say_as_stranger(&mut pair, &headers, &foreign);
        pair.pass(Duration::from_secs(60));
        for node in [&pair.agent, &pair.connector] {
            assert!(
                node.direct.iter().all(|(_, to, _)| *to != STRANGER),
                "{carrier:?}"
            );
            assert!(node.tunnels.drops().count(DropReason::NotAuthentic) > 100);
        }
    }
}

/// Hands each of these to the end that it is for, and what it could be taken for, from an address of nobody's.
fn say_as_stranger(pair: &mut Pair, headers: &[(End, [u8; 8]); 2], seen: &[(End, Vec<u8>)]) {
    for (to, sealed) in seen.iter().rev().take(8) {
        let mut all = vec![sealed.clone(), sealed[..sealed.len() / 2].to_vec()];
        // A long header of QUIC: versions, lengths of ids, and what would be a token.
        for (at, value) in [
            (1, 0),
            (4, 0),
            (4, 2),
            (5, 3),
            (5, 20),
            (0, 0x40),
            (0, 0xf0),
            (0, 1),
        ] {
            let mut changed = sealed.clone();
            changed[at] = value;
            all.push(changed);
        }
        let mut with_token = sealed.clone();
        with_token.splice(14..15, [5, 1, 2, 3, 4, 5]);
        all.push(with_token);
        let (_, header) = headers.iter().find(|(end, _)| end == to).unwrap();
        for sealed in all {
            let datagram = [&header[..], &sealed].concat();
            pair.deliver_from(*to, STRANGER, Via::Direct, &datagram);
            pair.flush(*to);
        }
    }
}

/// What the carriers said lately, without what stands before it, and for whom it was.
fn seen_of(pair: &mut Pair) -> Vec<(End, Vec<u8>)> {
    let seen = pair.captured.replace(Vec::new()).unwrap();
    let sealed = seen.iter().filter_map(|one| {
        let (_, sealed) = Handle::split_data(&one.datagram)?;
        (sealed.len() > 30 && sealed[0] != PATH_FRAME).then(|| (one.to, sealed.to_vec()))
    });
    sealed.collect()
}

/// What stands before datagrams that go directly: it follows from what the ends agreed on.
fn direct_headers(carrier: Carrier) -> [(End, [u8; 8]); 2] {
    let pair = opened(carrier);
    let mut seen = pair.captured.iter().flatten();
    [End::Agent, End::Connector].map(|end| {
        let one =
            seen.find(|one| one.to == end && one.via == Via::Direct && one.datagram[0] == 0x32);
        (end, *one.unwrap().datagram.first_chunk().unwrap())
    })
}

/// A tunnel with a direct path, of which everything was seen.
fn opened(carrier: Carrier) -> Pair {
    let mut pair = Pair::bare();
    pair.captured = Some(Vec::new());
    pair.meet(Beside::new(Kind::Open, Kind::Open));
    pair.install(keys_of(carrier, 2));
    assert!(pair.run(Duration::from_secs(2), Pair::is_direct));
    pair.connect("80/tcp");
    pair.pass(Duration::from_secs(1));
    pair
}

fn keys_of(carrier: Carrier, seed: u8) -> (CarrierKeys, CarrierKeys) {
    match carrier {
        Carrier::WireGuard => keys::wireguard(seed),
        Carrier::Quic => keys::quic(),
    }
}

/// Somebody who is no end of any tunnel.
const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 66)), 666);
