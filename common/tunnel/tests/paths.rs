//! Ways past the relay: which NATs let them be found, when they are used, and when they are left.

#[cfg(test)]
mod pair;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use cardea_proto::app::Carrier;
use cardea_tunnel::{Command, End, Event, FlowId, Input, Path, PathReason};
use pair::{
    Beside, CARRIERS, Pair, RELAY, keys,
    nat::{KINDS, Kind},
    pattern,
};

#[test]
fn two_ends_meet_wherever_ice_would_let_them_and_within_a_second() {
    for agent in KINDS {
        for connector in KINDS {
            let mut pair = met(Carrier::Quic, Beside::new(agent, connector));
            let began = pair.now.instant;
            let meets = pair.run(Duration::from_secs(10), Pair::is_direct);
            assert_eq!(
                meets,
                ice_meets(agent, connector),
                "{agent:?} {connector:?}"
            );
            if meets {
                let took = pair.now.instant - began;
                assert!(
                    took <= Duration::from_secs(1),
                    "{agent:?} {connector:?}: {took:?}"
                );
            }
        }
    }
}

#[test]
fn what_moves_to_a_detour_and_back_goes_on_and_status_says_so() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, theirs) = pair.connect("80/tcp");
        pair.transfer(End::Agent, mine, theirs, &pattern(10_000));
        let relay: SocketAddr = RELAY.parse().unwrap();
        let ways = [
            (true, Path::RelayTls(relay), Some(PathReason::UdpBlocked)),
            (false, Path::Relay(relay), None),
        ];
        for (is_used, path, why) in ways {
            // It is another address to the relay.
            pair.forget_bindings();
            pair.input(End::Agent, Input::Detoured { relay, is_used });
            pair.transfer(End::Agent, mine, theirs, &pattern(10_000));
            pair.transfer(End::Connector, theirs, mine, &pattern(10_000));
            let told = pair.node(End::Agent).path().unwrap();
            assert_eq!(told.0, path, "{carrier:?}");
            assert!(why.is_none_or(|why| told.1 == why), "{told:?}");
        }
    }
}

/// Endpoint-independent mapping on one side lets the other one's address be learned from its probes,
/// unless the first side's filter looks at ports (RFC 8445 §2.1 with RFC 4787 §4 and §5).
fn ice_meets(agent: Kind, connector: Kind) -> bool {
    let blind = |one, other| {
        one == Kind::Symmetric && matches!(other, Kind::PortRestricted | Kind::Symmetric)
    };
    !blind(agent, connector) && !blind(connector, agent)
}

#[test]
fn bytes_go_directly_once_a_probe_was_answered_and_the_relay_carries_no_more_of_them() {
    for carrier in CARRIERS {
        let mut pair = met(
            carrier,
            Beside::new(Kind::PortRestricted, Kind::PortRestricted),
        );
        let (mine, theirs) = pair.connect("80/tcp");
        assert!(
            pair.run(Duration::from_secs(2), Pair::is_direct),
            "{carrier:?}"
        );
        pair.transfer(End::Agent, mine, theirs, &pattern(10_000));
        let through_relay = pair.carried;
        let data = pattern(1_000_000);
        assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
        assert!(pair.transfer(End::Connector, theirs, mine, &data) == data);
        let more = pair.carried - through_relay;
        assert!(
            more < 100,
            "{carrier:?}: {more} datagrams through the relay"
        );
        let stats = pair.agent.tunnels.stats(pair::GRANT).unwrap();
        assert!(
            stats.rtt.unwrap() < Duration::from_millis(20),
            "{:?}",
            stats.rtt
        );
    }
}

#[test]
fn a_direct_path_that_dies_costs_no_flow_and_no_more_than_two_seconds() {
    for carrier in CARRIERS {
        let mut pair = met(carrier, Beside::new(Kind::Open, Kind::Open));
        let (mine, theirs) = pair.connect("80/tcp");
        assert!(pair.run(Duration::from_secs(2), Pair::is_direct));
        pair.beside.as_mut().unwrap().is_cut = true;
        let cut = pair.now.instant;
        let data = pattern(200_000);
        assert!(
            pair.transfer(End::Agent, mine, theirs, &data) == data,
            "{carrier:?}"
        );
        let left = pair.now.instant - cut;
        assert!(
            left < Duration::from_secs(2),
            "{carrier:?}: {left:?} until all had come"
        );
        assert!(matches!(
            pair.agent.path(),
            Some((Path::Relay(_), PathReason::Lost(_)))
        ));
        pair.beside.as_mut().unwrap().is_cut = false;
        pair.transfer(End::Agent, mine, theirs, &data);
        assert!(
            pair.run(Duration::from_secs(10), Pair::is_direct),
            "it is found again"
        );
    }
}

#[test]
fn a_hole_that_eats_only_large_datagrams_is_noticed_and_small_ones_do_not_hide_it() {
    for carrier in CARRIERS {
        let mut pair = met(carrier, Beside::new(Kind::Open, Kind::Open));
        let (mine, theirs) = pair.connect("80/tcp");
        pair.transfer(End::Agent, mine, theirs, &pattern(300_000));
        assert!(pair.run(Duration::from_secs(2), Pair::is_direct));
        pair.beside.as_mut().unwrap().mtu = 1_000;
        let cut = pair.now.instant;
        let is_left = |pair: &Pair| !pair.agent.is_direct();
        let now = pair.now;
        let data = Bytes::from(pattern(100_000));
        let node = &mut pair.agent;
        assert!(node.tunnels.write(now, mine, data.clone(), &mut node.out) > 0);
        pair.flush(End::Agent);
        assert!(pair.run(Duration::from_secs(5), is_left), "{carrier:?}");
        let took = pair.now.instant - cut;
        assert!(took <= Duration::from_secs(2), "{carrier:?}: {took:?}");
        pair.pass(Duration::from_secs(3));
        let (came, _) = pair.read_all(End::Connector, theirs);
        assert!(
            data.starts_with(&came) && came.len() > 50_000,
            "{} came",
            came.len()
        );
        pair.pass(Duration::from_secs(10));
        assert!(is_left(&pair), "small probes do not bring it back");
    }
}

#[test]
fn an_address_where_nobody_answers_gets_three_small_probes() {
    let third_party: SocketAddr = "192.0.2.99:53".parse().unwrap();
    let mut pair = Pair::bare();
    pair.input(End::Agent, Input::Controller([203, 0, 113, 10].into()));
    pair.install(keys::wireguard(1));
    pair.beside = Some(Beside::new(Kind::Symmetric, Kind::Symmetric));
    // What a hostile connector says of itself.
    let hostile = vec![
        third_party,
        "127.0.0.1:80".parse().unwrap(),
        "224.0.0.251:5353".parse().unwrap(),
        "255.255.255.255:9".parse().unwrap(),
        "203.0.113.9:7443".parse().unwrap(),
        "203.0.113.10:7443".parse().unwrap(),
        "100.65.0.1:80".parse().unwrap(),
    ];
    pair.input(End::Connector, Input::Addresses(hostile));
    let own = vec!["10.1.0.2:4000".parse().unwrap()];
    pair.input(End::Agent, Input::Addresses(own));
    pair.connect("80/tcp");
    pair.pass(Duration::from_secs(100));
    let mut counts: BTreeMap<SocketAddr, Vec<usize>> = BTreeMap::new();
    for (_, to, len) in &pair.agent.direct {
        counts.entry(*to).or_default().push(*len);
    }
    let third = counts.remove(&third_party).unwrap();
    assert!(
        third.len() <= 3 && third.iter().all(|len| *len <= 42),
        "{third:?}"
    );
    // The relay sees the connector's socket behind its NAT, which takes nothing from us.
    let seen = counts.pop_first().unwrap();
    assert!(seen.0.ip() == IpAddr::from([198, 51, 100, 2]) && seen.1.len() <= 3);
    assert!(counts.is_empty(), "{counts:?}");
}

#[test]
fn a_peer_that_names_new_addresses_all_the_time_makes_few_probes() {
    let mut pair = Pair::new(Carrier::WireGuard);
    pair.beside = Some(Beside::new(Kind::Symmetric, Kind::Symmetric));
    let own = vec!["10.1.0.2:4000".parse().unwrap()];
    pair.input(End::Agent, Input::Addresses(own));
    pair.connect("80/tcp");
    for round in 0..100_u8 {
        let named = (0..8).map(|port| ([192, 0, 2, round], 1_000 + port).into());
        pair.input(End::Connector, Input::Addresses(named.collect()));
        pair.pass(Duration::from_millis(600));
    }
    // A minute's worth: two dozen addresses and one each ten seconds.
    let sent = pair.agent.direct.len();
    assert!((3..=3 * (24 + 6 + 1)).contains(&sent), "{sent}");
}

#[test]
fn who_roams_goes_through_the_relay_until_a_path_from_there_is_proven() {
    for carrier in CARRIERS {
        let mut pair = met(
            carrier,
            Beside::new(Kind::PortRestricted, Kind::PortRestricted),
        );
        let (mine, theirs) = pair.connect("80/tcp");
        assert!(pair.run(Duration::from_secs(2), Pair::is_direct));
        pair.beside.as_mut().unwrap().agent.forget();
        pair.input(End::Agent, Input::Roamed);
        assert!(!pair.agent.is_direct());
        let data = pattern(50_000);
        assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
        let meets = pair.run(Duration::from_secs(3), Pair::is_direct);
        assert!(
            meets,
            "{carrier:?} {:#?} {:#?}",
            pair.agent.events, pair.connector.events
        );
        assert!(pair.transfer(End::Connector, theirs, mine, &data) == data);
    }
}

#[test]
fn what_was_lost_before_a_new_way_was_found_is_there_two_round_trips_later() {
    for carrier in CARRIERS {
        for (speaker, hearer) in [(End::Agent, End::Connector), (End::Connector, End::Agent)] {
            let mut pair = Pair::new(carrier);
            let (mine, theirs) = pair.connect("80/tcp");
            let (from, to) = directed(speaker, (mine, theirs));
            pair.pass(Duration::from_secs(1));
            pair.is_cut = true;
            let data = Bytes::from_static(&[7; 500]);
            let now = pair.now;
            let node = pair.node(speaker);
            assert_eq!(node.tunnels.write(now, from, data, &mut node.out), 500);
            // Timers double and double.
            pair.pass(Duration::from_secs(4));
            pair.is_cut = false;
            pair.forget_binding(End::Agent);
            pair.input(End::Agent, Input::Roamed);
            // The relay's question; QUIC asks what arrived before it sends anything again.
            pair.pass(pair.delay * 5 + Duration::from_millis(5));
            assert_eq!(
                pair.read_all(hearer, to).0.len(),
                500,
                "{carrier:?} {speaker:?}"
            );
        }
    }
}

#[test]
fn what_was_lost_is_sent_again_at_once_also_where_a_direct_way_is_back_before_the_relay_is() {
    for carrier in CARRIERS {
        for (speaker, hearer) in [(End::Agent, End::Connector), (End::Connector, End::Agent)] {
            let mut beside = Beside::new(Kind::FullCone, Kind::Open);
            beside.delay = Duration::from_millis(1);
            let mut pair = met(carrier, beside);
            let (mine, theirs) = pair.connect("80/tcp");
            assert!(pair.run(Duration::from_secs(2), Pair::is_direct));
            pair.pass(Duration::from_secs(1));
            let (from, to) = directed(speaker, (mine, theirs));
            pair.is_cut = true;
            pair.beside.as_mut().unwrap().is_cut = true;
            let data = Bytes::from_static(&[7; 500]);
            let now = pair.now;
            let node = pair.node(speaker);
            assert_eq!(node.tunnels.write(now, from, data, &mut node.out), 500);
            pair.input(End::Agent, Input::Roamed);
            pair.pass(Duration::from_secs(4));
            pair.is_cut = false;
            pair.delay = Duration::from_millis(100);
            let beside = pair.beside.as_mut().unwrap();
            beside.is_cut = false;
            beside.agent.forget();
            pair.forget_binding(End::Agent);
            pair.input(End::Agent, Input::Roamed);
            pair.pass(pair.delay * 5 + Duration::from_millis(10));
            assert_eq!(
                pair.read_all(hearer, to).0.len(),
                500,
                "{carrier:?} {speaker:?} {:?} {:?}",
                pair.agent.path(),
                pair.connector.path()
            );
        }
    }
}

#[test]
fn a_nat_that_maps_anew_costs_a_conversation_a_few_round_trips() {
    for carrier in CARRIERS {
        for (speaker, hearer) in [(End::Agent, End::Connector), (End::Connector, End::Agent)] {
            let mut beside = Beside::new(Kind::PortRestricted, Kind::Open);
            beside.delay = Duration::from_millis(5);
            let mut pair = met(carrier, beside);
            let (mine, theirs) = pair.connect("80/tcp");
            assert!(pair.run(Duration::from_secs(2), Pair::is_direct));
            pair.pass(Duration::from_secs(1));
            let (from, to) = directed(speaker, (mine, theirs));
            // Both speak all the time, and the one whose turn it is speaks as the mapping goes.
            let (there, back) = (pattern(2_000), pattern(3_000));
            for _ in 0..10 {
                assert_eq!(pair.transfer(speaker, from, to, &there), there);
                assert_eq!(pair.transfer(hearer, to, from, &back), back);
            }
            pair.beside.as_mut().unwrap().agent.forget();
            let since = pair.now.instant;
            assert_eq!(pair.transfer(speaker, from, to, &there), there);
            assert_eq!(pair.transfer(hearer, to, from, &back), back);
            let took = pair.now.instant - since;
            assert!(
                took <= Duration::from_millis(300),
                "{carrier:?} {speaker:?} {took:?}"
            );
            assert!(pair.run(Duration::from_secs(2), Pair::is_direct));
        }
    }
}

#[test]
fn who_loses_a_family_of_addresses_goes_on_by_the_other_at_once() {
    for carrier in CARRIERS {
        for is_known in [true, false] {
            let mut pair = Pair::new(carrier);
            let (mine, theirs) = pair.connect("80/tcp");
            pair.unreached.insert((true, RELAY.parse().unwrap()));
            if is_known {
                let own = vec!["[2001:db8::7]:4000".parse().unwrap()];
                pair.beside = Some(Beside::new(Kind::Symmetric, Kind::Symmetric));
                pair.input(End::Agent, Input::Addresses(own));
            }
            let began = pair.now.instant;
            pair.input(End::Agent, Input::Roamed);
            let data = pattern(5_000);
            assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
            assert!(pair.transfer(End::Connector, theirs, mine, &data) == data);
            let took = pair.now.instant - began;
            // Where our addresses are not known, three Binds tell.
            let limit = Duration::from_millis(if is_known { 200 } else { 2_500 });
            assert!(took < limit, "{carrier:?} {is_known} {took:?}");
        }
    }
}

#[test]
fn a_way_of_1280_bytes_carries_both_carriers_without_a_word_of_its_size() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        // Behind the headers of IPv6 and UDP.
        pair.mtu = 1_280 - 40 - 8;
        let (mine, theirs) = pair.connect("80/tcp");
        let data = pattern(50_000);
        let began = pair.now.instant;
        assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
        assert!(pair.transfer(End::Connector, theirs, mine, &data) == data);
        let took = pair.now.instant - began;
        assert!(took < Duration::from_secs(3), "{carrier:?} {took:?}");
    }
}

#[test]
fn a_relay_that_dies_is_not_missed_where_a_direct_path_is_in_use() {
    for carrier in CARRIERS {
        let mut pair = met(carrier, Beside::new(Kind::PortRestricted, Kind::FullCone));
        let (mine, theirs) = pair.connect("80/tcp");
        let data = pattern(30_000);
        pair.transfer(End::Agent, mine, theirs, &data);
        assert!(pair.run(Duration::from_secs(2), Pair::is_direct));
        pair.pass(Duration::from_secs(2));
        pair.is_cut = true;
        for _ in 0..50 {
            assert!(pair.transfer(End::Connector, theirs, mine, &data) == data);
            pair.pass(Duration::from_secs(1));
            pair.input(End::Agent, Input::Check);
        }
        pair.pass(Duration::from_secs(2));
        assert!(pair.is_direct() && !pair.agent.is_silent(), "{carrier:?}");
    }
}

#[test]
fn a_longer_way_is_not_taken_and_a_shorter_one_is() {
    let mut pair = met(Carrier::Quic, Beside::new(Kind::Open, Kind::Open));
    pair.beside.as_mut().unwrap().delay = Duration::from_millis(60);
    pair.connect("80/tcp");
    pair.pass(Duration::from_secs(5));
    assert!(!pair.agent.is_direct(), "{:?}", pair.agent.path());
}

#[test]
fn a_path_that_grows_long_is_left_for_the_relay_and_taken_again() {
    for carrier in CARRIERS {
        let mut pair = met(carrier, Beside::new(Kind::Open, Kind::Open));
        let (mine, theirs) = pair.connect("80/tcp");
        assert!(pair.run(Duration::from_secs(2), Pair::is_direct));
        let talk = |pair: &mut Pair, seconds: u64| {
            for _ in 0..seconds * 4 {
                pair.transfer(End::Agent, mine, theirs, b"something");
                pair.pass(Duration::from_millis(250));
            }
        };
        let set = |pair: &mut Pair, delay| pair.beside.as_mut().unwrap().delay = delay;
        set(&mut pair, Duration::from_millis(80));
        talk(&mut pair, 40);
        let path = pair.agent.path();
        assert!(
            matches!(path, Some((Path::Relay(_), PathReason::Shorter))),
            "{carrier:?}: {path:?}"
        );
        set(&mut pair, Duration::from_millis(5));
        talk(&mut pair, 60);
        assert!(pair.agent.is_direct(), "{carrier:?}");
    }
}

#[test]
fn a_path_that_loses_a_third_is_left_for_a_relay_that_loses_nothing_and_does_not_flap() {
    for carrier in CARRIERS {
        let mut pair = met(carrier, Beside::new(Kind::Open, Kind::Open));
        let flows = pair.connect("80/tcp");
        talk(&mut pair, flows, 100);
        assert!(pair.is_direct());
        pair.beside.as_mut().unwrap().loss = 330;
        talk(&mut pair, flows, 400);
        let before = changes(&pair);
        talk(&mut pair, flows, 600);
        assert!(
            !pair.agent.is_direct() && !pair.connector.is_direct(),
            "{carrier:?}"
        );
        assert_eq!(changes(&pair), before, "{carrier:?}");
        // A third of that would not make it leave, and does not let it come back.
        for (loss, comes_back) in [(120, false), (0, true)] {
            pair.beside.as_mut().unwrap().loss = loss;
            for _ in 0..6 {
                pair.pass(Duration::from_secs(150));
                extend(&mut pair);
            }
            talk(&mut pair, flows, 10);
            assert_eq!(pair.is_direct(), comes_back, "{carrier:?}, {loss}");
        }
    }
}

#[test]
fn a_path_that_was_away_is_taken_again_soon() {
    for carrier in CARRIERS {
        let mut pair = met(carrier, Beside::new(Kind::Open, Kind::Open));
        let flows = pair.connect("80/tcp");
        talk(&mut pair, flows, 100);
        for _ in 0..5 {
            pair.beside.as_mut().unwrap().is_cut = true;
            talk(&mut pair, flows, 100);
            assert!(matches!(pair.agent.path(), Some((_, PathReason::Lost(_)))));
            pair.beside.as_mut().unwrap().is_cut = false;
            let back = pair.run(Duration::from_secs(30), Pair::is_direct);
            assert!(back, "{carrier:?}");
            talk(&mut pair, flows, 100);
            assert!(pair.is_direct(), "{carrier:?}");
        }
    }
}

#[test]
fn of_two_ways_that_lose_a_tenth_each_the_shorter_one_stays() {
    for carrier in CARRIERS {
        let mut pair = met(carrier, Beside::new(Kind::Open, Kind::Open));
        let flows = pair.connect("80/tcp");
        assert!(pair.run(Duration::from_secs(5), Pair::is_direct));
        pair.loss = 100;
        talk(&mut pair, flows, 1_000);
        let events = pair.agent.events.iter().chain(&pair.connector.events);
        let cleaner = events.filter(|event| {
            matches!(
                event,
                Event::Path {
                    why: PathReason::Cleaner,
                    ..
                }
            )
        });
        assert!(cleaner.count() <= 2, "{carrier:?}");
    }
}

/// Says something there and back that many times, ten times a second.
fn talk(pair: &mut Pair, (mine, theirs): (FlowId, FlowId), times: u32) {
    for _ in 0..times {
        assert!(pair.transfer(End::Agent, mine, theirs, b"hello") == b"hello");
        assert!(pair.transfer(End::Connector, theirs, mine, b"hello") == b"hello");
        pair.pass(Duration::from_millis(100));
    }
    extend(pair);
}

/// How often either end has changed its path.
fn changes(pair: &Pair) -> usize {
    let events = pair.agent.events.iter().chain(&pair.connector.events);
    events
        .filter(|event| matches!(event, Event::Path { .. }))
        .count()
}

fn extend(pair: &mut Pair) {
    for end in [End::Agent, End::Connector] {
        let extend = Command::Extend {
            grant: pair::GRANT,
            ttl: Duration::from_secs(3_600),
            ticket: pair::ticket(end),
            standby: Vec::new(),
        };
        pair.command(end, extend);
    }
}

#[test]
fn an_open_tunnel_whose_other_end_hangs_is_silent_within_two_seconds() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        let (mine, _) = pair.connect("80/tcp");
        pair.pass(Duration::from_secs(8));
        assert!(!pair.agent.is_silent());
        pair.is_cut = true;
        let now = pair.now;
        let node = &mut pair.agent;
        node.tunnels
            .write(now, mine, Bytes::from_static(b"x"), &mut node.out);
        pair.flush(End::Agent);
        assert!(pair.run(Duration::from_secs(9), |pair| pair.agent.is_silent()));
        let took = pair.now.instant - now.instant;
        assert!(
            took <= Duration::from_millis(2_100),
            "{carrier:?}: {took:?}"
        );
        pair.is_cut = false;
        assert!(pair.run(Duration::from_secs(5), |pair| !pair.agent.is_silent()));
    }
}

#[test]
fn who_asks_how_an_idle_tunnel_is_learns_the_truth() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier);
        pair.connect("80/tcp");
        pair.pass(Duration::from_secs(20));
        let check = |pair: &mut Pair| {
            let before = pair.now.instant;
            pair.input(End::Agent, Input::Check);
            let is_done = |pair: &Pair| !pair.agent.tunnels.is_checking();
            assert!(pair.run(Duration::from_secs(2), is_done), "it is bounded");
            pair.now.instant - before
        };
        assert!(check(&mut pair) <= pair.delay * 4);
        assert!(!pair.agent.is_silent());
        pair.is_cut = true;
        check(&mut pair);
        assert!(pair.agent.is_silent(), "{carrier:?}");
    }
}

#[test]
fn an_idle_tunnel_is_not_asked_often() {
    for carrier in CARRIERS {
        let mut pair = met(carrier, Beside::new(Kind::PortRestricted, Kind::Open));
        pair.connect("80/tcp");
        assert!(pair.run(Duration::from_secs(2), Pair::is_direct));
        pair.pass(Duration::from_secs(30));
        let before = (pair.agent.direct.len(), pair.carried);
        pair.pass(Duration::from_secs(100));
        let probes = pair.agent.direct.len() - before.0;
        assert!(probes <= 60, "{carrier:?}: {probes} datagrams in 100 s");
        assert!(pair.agent.is_direct() && pair.connector.is_direct());
        assert!(
            !pair
                .agent
                .events
                .iter()
                .any(|event| matches!(event, Event::Silent { .. }))
        );
    }
}

/// As on a machine where a thousand tunnels open at once: whoever asks more for every late answer makes
/// all of them later.
#[test]
fn late_answers_do_not_make_a_tunnel_ask_more() {
    for carrier in CARRIERS {
        let mut beside = Beside::new(Kind::Open, Kind::Open);
        beside.delay = Duration::from_millis(400);
        let mut pair = Pair::new(carrier);
        pair.delay = Duration::from_millis(400);
        pair.meet(beside);
        pair.connect("80/tcp");
        let (asked, carried) = (pair.agent.direct.len(), pair.carried);
        pair.pass(Duration::from_secs(10));
        let asked = pair.agent.direct.len() - asked;
        let carried = pair.carried - carried;
        assert!(
            asked <= 14,
            "{carrier:?}: {asked} datagrams beside the relay"
        );
        assert!(carried <= 20, "{carrier:?}: {carried} through it");
    }
}

#[test]
fn paths_are_found_where_a_tenth_is_lost() {
    let mut found = 0;
    for seed in 0..20_u64 {
        let mut pair = met(
            Carrier::Quic,
            Beside::new(Kind::PortRestricted, Kind::Restricted),
        );
        pair.loss = 100;
        pair.delay = Duration::from_millis(10 + seed);
        pair.connect("80/tcp");
        found += u32::from(pair.run(Duration::from_secs(5), Pair::is_direct));
    }
    assert!(found >= 18, "{found} of 20");
}

#[test]
fn the_handshake_takes_no_more_than_one_and_a_half_round_trips_longer_through_the_relay() {
    for carrier in CARRIERS {
        for delay in [5, 10, 100].map(Duration::from_millis) {
            // On a path as long that asks for no proof of an address, as a direct one.
            let direct = until_the_first_byte(carrier, delay, Duration::ZERO);
            let relayed = until_the_first_byte(carrier, delay, delay);
            let round_trip = delay * 2;
            for (direct, relayed) in direct.into_iter().zip(relayed) {
                assert!(direct >= round_trip, "{carrier:?} {direct:?}");
                assert!(
                    relayed - direct <= round_trip * 3 / 2,
                    "{carrier:?} {delay:?}: {relayed:?} and {direct:?}"
                );
            }
        }
    }
}

/// How long until the agent's tunnel is open, and until the app has heard something, where datagrams
/// between the ends take `delay` and a question to the relay takes `bind_delay`.
fn until_the_first_byte(carrier: Carrier, delay: Duration, bind_delay: Duration) -> [Duration; 2] {
    let mut pair = Pair::bare();
    (pair.delay, pair.bind_delay) = (delay, Some(bind_delay));
    let began = pair.now.instant;
    pair.install(match carrier {
        Carrier::WireGuard => keys::wireguard(1),
        Carrier::Quic => keys::quic(),
    });
    assert!(pair.run(Duration::from_secs(5), |pair| pair.agent.is_open()));
    let open = pair.now.instant - began;
    let (mine, theirs) = pair.connect("80/tcp");
    let data = pattern(100);
    assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
    [open, pair.now.instant - began]
}

fn met(carrier: Carrier, beside: Beside) -> Pair {
    let mut pair = Pair::new(carrier);
    pair.meet(beside);
    pair
}

/// The two flows of a connection, that of `speaker` first.
fn directed(speaker: End, (agent, connector): (FlowId, FlowId)) -> (FlowId, FlowId) {
    match speaker {
        End::Agent => (agent, connector),
        End::Connector => (connector, agent),
    }
}
