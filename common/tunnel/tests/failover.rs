//! Relays that stand by: when a tunnel goes on with another one, how soon, and when not.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "what a test does outside of its test function may panic as well, and it tells figures"
)]

#[cfg(test)]
mod pair;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use cardea_proto::app::Carrier;
use cardea_tunnel::{Command, End, Event, FlowId, Path, PathReason};
use pair::{CARRIERS, GRANT, Pair, RELAY, RELAY_V6, STANDBY, TTL, pattern, standby, ticket};

/// Within which a dead relay must be left.
const FAILOVER_MAX: Duration = Duration::from_secs(1);

#[test]
fn a_relay_that_dies_in_the_middle_of_a_flow_is_left_within_a_second_and_nothing_is_lost() {
    for carrier in CARRIERS {
        for sender in [End::Agent, End::Connector] {
            let (mut pair, mine, theirs) = opened(carrier);
            kill(&mut pair, End::Agent, RELAY);
            kill(&mut pair, End::Connector, RELAY);
            let gap = flow(&mut pair, sender, (mine, theirs));
            eprintln!("{carrier:?} from {sender:?}: {gap:?} without a byte");
            assert!(gap <= FAILOVER_MAX, "{carrier:?} {sender:?}: {gap:?}");
            check_turned(&pair, carrier);
        }
    }
}

#[test]
fn a_relay_that_answers_tickets_and_forwards_nothing_is_left_as_soon() {
    for carrier in CARRIERS {
        let (mut pair, mine, theirs) = opened(carrier);
        for address in [RELAY, RELAY_V6] {
            pair.lying.insert(at(address));
        }
        let gap = flow(&mut pair, End::Agent, (mine, theirs));
        assert!(gap <= FAILOVER_MAX, "{carrier:?}: {gap:?}");
        check_turned(&pair, carrier);
    }
}

#[test]
fn both_ends_leave_a_relay_that_one_of_them_does_not_reach() {
    for carrier in CARRIERS {
        for cut in [End::Agent, End::Connector] {
            let (mut pair, mine, theirs) = opened(carrier);
            kill(&mut pair, cut, RELAY);
            kill(&mut pair, cut, RELAY_V6);
            let gap = flow(&mut pair, pair::other(cut), (mine, theirs));
            assert!(gap <= FAILOVER_MAX, "{carrier:?} {cut:?}: {gap:?}");
            check_turned(&pair, carrier);
        }
    }
}

#[test]
fn a_relay_that_was_dead_from_the_beginning_keeps_no_tunnel_from_opening() {
    for carrier in CARRIERS {
        let mut pair = Pair::with_standby(carrier);
        for end in [End::Agent, End::Connector] {
            kill(&mut pair, end, RELAY);
            kill(&mut pair, end, RELAY_V6);
        }
        let began = pair.now.instant;
        let (mine, theirs) = pair.connect("80/tcp");
        let took = pair.now.instant - began;
        assert!(
            took <= Duration::from_millis(1_500),
            "{carrier:?}: {took:?}"
        );
        let data = pattern(10_000);
        assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
    }
}

#[test]
fn an_end_that_is_silent_everywhere_moves_nobody() {
    for carrier in CARRIERS {
        let (mut pair, mine, theirs) = opened(carrier);
        pair.is_cut = true;
        let now = pair.now;
        let node = &mut pair.agent;
        assert!(
            node.tunnels
                .write(now, mine, Bytes::from(pattern(1_000)), &mut node.out)
                > 0
        );
        pair.flush(End::Agent);
        pair.pass(Duration::from_secs(5));
        pair.is_cut = false;
        let data = pattern(10_000);
        pair.transfer(End::Connector, theirs, mine, &data);
        assert_eq!(turns(&pair.agent.events), 0, "{carrier:?}");
        assert_eq!(turns(&pair.connector.events), 0, "{carrier:?}");
    }
}

#[test]
fn the_second_relay_may_die_as_well_and_the_first_serves_again_when_it_is_back() {
    for carrier in CARRIERS {
        let (mut pair, mine, theirs) = opened(carrier);
        let dying = [&[RELAY, RELAY_V6][..], &STANDBY[..1], &STANDBY[1..]];
        for relays in dying {
            for relay in relays {
                kill(&mut pair, End::Agent, relay);
                kill(&mut pair, End::Connector, relay);
            }
            // One is always left, or back.
            if relays == &STANDBY[1..] {
                pair.unreached.retain(|(_, relay)| *relay != at(RELAY));
                pair.pass(Duration::from_secs(6));
            }
            let gap = flow(&mut pair, End::Agent, (mine, theirs));
            assert!(gap <= FAILOVER_MAX, "{carrier:?} {relays:?}: {gap:?}");
        }
        let (path, _) = pair.agent.path().unwrap();
        assert_eq!(path, Path::Relay(at(RELAY)), "{carrier:?}");
    }
}

#[test]
fn an_idle_tunnel_leaves_a_dead_relay_when_its_keepalive_is_not_answered() {
    let (mut pair, ..) = opened(Carrier::WireGuard);
    for address in [RELAY, RELAY_V6] {
        kill(&mut pair, End::Agent, address);
        kill(&mut pair, End::Connector, address);
    }
    pair.pass(Duration::from_secs(30));
    check_turned(&pair, Carrier::WireGuard);
}

#[test]
fn loss_reordering_and_idle_minutes_move_a_tunnel_seldom_and_cost_no_flow() {
    for carrier in CARRIERS {
        let (mut pair, mine, theirs) = opened(carrier);
        pair.loss = 100;
        pair.jitter = Duration::from_millis(30);
        for _ in 0..20 {
            let data = pattern(20_000);
            assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
            pair.pass(Duration::from_secs(3));
        }
        let turned = turns(&pair.agent.events);
        eprintln!("{carrier:?}: turned {turned} times in a minute at 10 % loss");
        assert!(turned <= 3, "{carrier:?}: {turned}");
    }
}

#[test]
fn tickets_of_every_relay_are_renewed_with_a_grant_wherever_the_tunnel_is() {
    let (mut pair, mine, theirs) = opened(Carrier::Quic);
    for address in [RELAY, RELAY_V6] {
        kill(&mut pair, End::Agent, address);
        kill(&mut pair, End::Connector, address);
    }
    flow(&mut pair, End::Agent, (mine, theirs));
    for end in [End::Agent, End::Connector] {
        let standby = standby(end).into_iter().map(|standby| standby.ticket);
        let extend = Command::Extend {
            grant: GRANT,
            ttl: TTL,
            ticket: ticket(end),
            standby: standby.collect(),
        };
        pair.command(end, extend);
    }
    let data = pattern(10_000);
    assert!(pair.transfer(End::Connector, theirs, mine, &data) == data);
    for node in [&pair.agent, &pair.connector] {
        assert_eq!(node.tunnels.sizes().tunnels, 1);
        assert!(node.tunnels.sizes().handles <= 3, "no handle is left over");
    }
}

/// A tunnel with an open flow, whose relays all know both ends.
fn opened(carrier: Carrier) -> (Pair, FlowId, FlowId) {
    let mut pair = Pair::with_standby(carrier);
    let (mine, theirs) = pair.connect("80/tcp");
    let data = pattern(50_000);
    assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
    pair.pass(Duration::from_secs(1));
    (pair, mine, theirs)
}

/// Datagrams between an end and a relay are lost from here on.
fn kill(pair: &mut Pair, end: End, relay: &str) {
    pair.unreached.insert((end == End::Agent, at(relay)));
}

/// Sends 300 KB from `sender` and says for how long nothing came at the most.
fn flow(pair: &mut Pair, sender: End, (mine, theirs): (FlowId, FlowId)) -> Duration {
    let (from, to) = match sender {
        End::Agent => (mine, theirs),
        End::Connector => (theirs, mine),
    };
    let data = pattern(300_000);
    let (mut rest, mut came) = (Bytes::from(data.clone()), Vec::new());
    let (mut last, mut longest) = (pair.now.instant, Duration::ZERO);
    while came.len() < data.len() && pair.now.instant - last < Duration::from_secs(30) {
        let now = pair.now;
        let node = pair.node(sender);
        let taken = node.tunnels.write(now, from, rest.clone(), &mut node.out);
        rest = rest.slice(taken..);
        pair.flush(sender);
        pair.pass(Duration::from_millis(5));
        let (more, _) = pair.read_all(pair::other(sender), to);
        if !more.is_empty() {
            longest = longest.max(pair.now.instant - last);
            last = pair.now.instant;
            came.extend(more);
        }
    }
    assert!(came == data, "{} of {} bytes came", came.len(), data.len());
    longest
}

/// Both ends are at the first standby and say why.
fn check_turned(pair: &Pair, carrier: Carrier) {
    for node in [&pair.agent, &pair.connector] {
        let (path, why) = node.path().unwrap();
        assert_eq!(path, Path::Relay(at(STANDBY[0])), "{carrier:?}");
        let is_told = matches!(why, PathReason::RelaySilent(left) | PathReason::PeerTurned(left)
            if [at(RELAY), at(RELAY_V6)].contains(&left));
        assert!(is_told, "{carrier:?}: {why}");
    }
}

fn turns(events: &[Event]) -> usize {
    let is_turn = |event: &&Event| {
        matches!(
            event,
            Event::Path {
                why: PathReason::RelaySilent(_),
                ..
            }
        )
    };
    events.iter().filter(is_turn).count()
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}
