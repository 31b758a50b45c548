//! An end whose machine sleeps for minutes, under a conversation that goes on.

#[cfg(test)]
mod pair;

use std::time::Duration;

use bytes::Bytes;
use cardea_proto::app::Carrier;
use cardea_tunnel::{CloseReason, Command, End, FlowId};
use pair::{Beside, CARRIERS, GRANT, Pair, nat::Kind, pattern};

const TTL: Duration = Duration::from_secs(3_600);

/// Longer than a relay, a NAT and the keys of WireGuard last.
const SLEEP: Duration = Duration::from_secs(300);

/// When a NAT, and a relay, have forgotten who says nothing.
const NAT_FORGETS: Duration = Duration::from_secs(30);
const RELAY_FORGETS: Duration = Duration::from_secs(90);

/// How long bytes may stand still after an end woke up: a round trip and 200 ms.
const GAP_MAX: Duration = Duration::from_millis(220);

#[test]
fn a_flow_survives_five_minutes_in_which_an_end_was_asleep() {
    for carrier in CARRIERS {
        for is_near in [false, true] {
            for sleeper in [End::Agent, End::Connector] {
                for time in [20, 60, 300].map(Duration::from_secs) {
                    sleep(carrier, is_near, sleeper, time);
                }
            }
        }
    }
}

fn sleep(carrier: Carrier, is_near: bool, sleeper: End, time: Duration) {
    let what = format!("{carrier:?}, direct {is_near}, {sleeper:?}, {time:?}");
    let (mut pair, flows) = talking(carrier, is_near);
    let other = pair::other(sleeper);
    pair.asleep = Some(sleeper);
    // It goes nowhere, and comes again for as long as it takes.
    write(&mut pair, other, flow_of(other, flows), b"while you slept");
    pair.pass(time);
    if let Some(beside) = pair.beside.as_mut().filter(|_| time > NAT_FORGETS) {
        beside.nat_mut(sleeper).forget();
    }
    if time > RELAY_FORGETS {
        pair.forget_binding(sleeper);
    }
    pair.asleep = None;
    let woke = pair.now.instant;
    write(&mut pair, sleeper, flow_of(sleeper, flows), b"good morning");
    let mut heard = [Vec::new(), Vec::new()];
    while heard.iter().any(|heard| heard.len() < 12) {
        pair.pass(Duration::from_millis(1));
        for (heard, end) in heard.iter_mut().zip([other, sleeper]) {
            heard.extend(pair.read_all(end, flow_of(end, flows)).0);
        }
        let gap = pair.now.instant - woke;
        assert!(gap <= GAP_MAX, "{what}: {gap:?} {heard:?}");
    }
    assert_eq!(heard, [&b"good morning"[..], b"while you slept"], "{what}");
    let (mine, theirs) = flows;
    let data = pattern(100_000);
    assert!(pair.transfer(End::Agent, mine, theirs, &data) == data);
    assert!(pair.transfer(End::Connector, theirs, mine, &data) == data);
    assert_eq!(pair.agent.is_direct(), is_near, "{what}");
}

#[test]
fn what_sleeps_longer_than_its_ttl_has_no_tunnel_when_it_wakes_up() {
    for carrier in CARRIERS {
        let (mut pair, flows) = talking(carrier, false);
        pair.asleep = Some(End::Agent);
        pair.pass(TTL);
        assert_eq!(pair.connector.close_reason(), Some(CloseReason::Expired));
        pair.asleep = None;
        write(&mut pair, End::Agent, flows.0, b"late");
        pair.pass(Duration::from_millis(1));
        assert_eq!(pair.agent.close_reason(), Some(CloseReason::Expired));
        assert!(pair.read_all(End::Connector, flows.1).0.is_empty());
    }
}

#[test]
fn a_removal_ends_the_tunnel_of_an_end_that_sleeps() {
    for carrier in CARRIERS {
        let (mut pair, flows) = talking(carrier, false);
        pair.asleep = Some(End::Agent);
        pair.pass(SLEEP);
        pair.command(End::Connector, Command::Remove { grant: GRANT });
        pair.asleep = None;
        write(&mut pair, End::Agent, flows.0, b"late");
        pair.pass(Duration::from_secs(1));
        assert!(pair.read_all(End::Connector, flows.1).0.is_empty());
        assert_eq!(pair.connector.tunnels.stats(GRANT), None);
    }
}

#[test]
fn to_wait_for_an_end_that_sleeps_costs_few_timers() {
    for carrier in CARRIERS {
        for is_near in [false, true] {
            let (mut pair, flows) = talking(carrier, is_near);
            pair.pass(SLEEP);
            pair.timeouts = [0; 2];
            pair.pass(SLEEP);
            let idle = pair.timeouts;
            pair.asleep = Some(End::Agent);
            write(&mut pair, End::Connector, flows.1, b"anybody?");
            pair.pass(SLEEP);
            pair.timeouts = [0; 2];
            pair.pass(SLEEP);
            let waiting = pair.timeouts;
            let what = format!("{carrier:?}, direct {is_near}: {idle:?} {waiting:?}");
            // A keepalive of quinn's every nine seconds, one of the relay's or a direct path's every twenty.
            let limit = match carrier {
                Carrier::WireGuard => 50,
                Carrier::Quic => 90,
            };
            assert!(idle.iter().all(|timers| *timers < limit), "{what}");
            assert!(waiting[1] < 110, "{what}");
        }
    }
}

/// A tunnel that lives for an hour, with a flow in which something was said.
fn talking(carrier: Carrier, is_near: bool) -> (Pair, (FlowId, FlowId)) {
    let mut pair = Pair::bare();
    let (agent, connector) = match carrier {
        Carrier::WireGuard => pair::keys::wireguard(1),
        Carrier::Quic => pair::keys::quic(),
    };
    if is_near {
        pair.meet(Beside::new(Kind::PortRestricted, Kind::PortRestricted));
    }
    for (end, keys) in [(End::Connector, connector), (End::Agent, agent)] {
        let mut install = pair::install(end, keys);
        install.ttl = TTL;
        pair.command(end, Command::Install(Box::new(install)));
    }
    let flows = pair.connect("80/tcp");
    let said = pair.transfer(End::Agent, flows.0, flows.1, b"good night");
    assert_eq!(said, b"good night");
    pair.pass(Duration::from_secs(5));
    assert_eq!(pair.agent.is_direct(), is_near);
    (pair, flows)
}

fn flow_of(end: End, (mine, theirs): (FlowId, FlowId)) -> FlowId {
    match end {
        End::Agent => mine,
        End::Connector => theirs,
    }
}

fn write(pair: &mut Pair, end: End, flow: FlowId, data: &'static [u8]) {
    let now = pair.now;
    let node = pair.node(end);
    let data = Bytes::from_static(data);
    node.tunnels.write(now, flow, data, &mut node.out);
    pair.flush(end);
}
