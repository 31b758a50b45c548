//! What passes between two nodes without the relay.

use std::{net::SocketAddr, time::Duration};

use cardea_node::{AgentInput, ConnectorInput};
use cardea_proto::relay::{FrameKind, Handle};
use cardea_tunnel::{Input, Via};

use crate::{
    dice::Dice,
    founding::{RELAY, relay_at},
    network::Way,
    schedule::{Event, Who},
    stranger,
    world::World,
};

/// Longest datagram to an address from which nobody has answered.
const PROBE_BYTES_MAX: usize = 42;

/// Longest pause between two changes of what passes directly.
const PAUSE_MAX_MS: u64 = 15_000;

/// What becomes of datagrams between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Between {
    /// They pass.
    #[default]
    Open,
    /// Somebody between drops all of them.
    Shut,
    /// Somebody between drops those that are longer than this.
    Narrow(usize),
}

impl World {
    /// Tells a node that just started where it may be reached, if it has a socket for that.
    pub(crate) fn give_address(&mut self, who: Who) {
        let Some(host) = self.network.host(who) else {
            return;
        };
        let mut addresses = vec![host];
        if matches!(who, Who::Site(index) if self.plan.liar == Some(index)) {
            // A liar would like others to send to whom they please.
            let named = [stranger::ADDRESS, "127.0.0.1:1", "224.0.0.1:1", RELAY];
            addresses.extend(
                named
                    .iter()
                    .filter_map(|text| text.parse::<SocketAddr>().ok()),
            );
        }
        let told = addresses.clone();
        match who {
            Who::Device(index) => {
                self.tunnels(index, |tunnels, now, out| {
                    tunnels.handle(now, Input::Addresses(addresses), out);
                });
                self.agent(index, AgentInput::Addresses(told));
            }
            Who::Site(index) => {
                self.serve(index, |tunnels, now, out| {
                    tunnels.handle(now, Input::Addresses(addresses), out);
                });
                self.connector(index, ConnectorInput::Addresses(told));
            }
        }
    }

    /// Sends a datagram from a node's socket for direct paths.
    pub(crate) fn send_directly(&mut self, who: Who, to: SocketAddr, bytes: Vec<u8>) {
        self.heard(&bytes);
        let relay = relay_at(to);
        self.judge_directly(to, relay.is_some(), &bytes);
        let Some(from) = self.network.outbound(who, to) else {
            return self.fail(4, format!("{who:?} sends to {to} without a socket for it"));
        };
        let sent = (who, Way::Out);
        for at in self.network.datagram(self.now.instant, sent, bytes.len()) {
            let bytes = bytes.clone();
            let event = match relay {
                Some(relay) => Event::AtRelay { relay, from, bytes },
                None => Event::Between { from, to, bytes },
            };
            self.schedule.at(at, event);
        }
    }

    /// A node sends to nodes. Whoever else is named to it gets little, and some get nothing.
    fn judge_directly(&mut self, to: SocketAddr, is_relay: bool, bytes: &[u8]) {
        let is_question = bytes.first() == Some(&FrameKind::Ask.byte());
        let is_nobody = self.network.behind(to).is_none();
        let ip = to.ip();
        if is_relay != is_question || ip.is_loopback() || ip.is_multicast() {
            self.fail(4, format!("a node sends {} bytes to {to}", bytes.len()));
        } else if !is_relay && is_nobody && bytes.len() > PROBE_BYTES_MAX {
            // Whoever moved away is still sent to until a probe shows it.
            let was_somebody = self.network.was_behind(to);
            if !was_somebody {
                self.fail(
                    4,
                    format!("{} bytes go to {to}, who is nobody", bytes.len()),
                );
            }
        }
    }

    /// A lying relay tells an end that it is somewhere else, so that the other end will send there.
    pub(crate) fn misplace(&mut self, bytes: &mut Vec<u8>) {
        if let Some((handle, _)) = Handle::of_seen(bytes)
            && let Some(lie) = self.network.lie()
        {
            *bytes = handle.seen(lie).to_vec();
        }
    }

    /// A datagram is on its way between two nodes.
    pub(crate) fn between(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let passes = match self.network.between {
            Between::Open => true,
            Between::Shut => false,
            Between::Narrow(most) => bytes.len() <= most,
        };
        self.log.beside += u64::from(passes && bytes.len() > PROBE_BYTES_MAX);
        let Some(who) = self.network.behind(to).filter(|_| passes) else {
            return;
        };
        self.come_in(who, (from, to), bytes);
    }

    /// A datagram comes to the NAT of a node.
    pub(crate) fn come_in(&mut self, who: Who, (from, to): (SocketAddr, SocketAddr), bytes: &[u8]) {
        if !self.network.admits(who, from, to) {
            return;
        }
        let sent = (who, Way::In);
        for at in self.network.datagram(self.now.instant, sent, bytes.len()) {
            let event = Event::AtNode {
                who,
                to,
                from,
                via: Via::Direct,
                bytes: bytes.to_vec(),
            };
            self.schedule.at(at, event);
        }
    }

    /// Plans how what passes directly changes in this run, beside the other faults.
    pub(crate) fn plan_between(&mut self, seed: u64) {
        let mut dice = Dice::new(seed, "between");
        let mut at = self.now.instant;
        let end = at + self.plan.chaos;
        while at < end {
            at += dice.millis(500, PAUSE_MAX_MS);
            let between = match dice.below(4) {
                0 => Between::Shut,
                1 => Between::Narrow(dice.below(1_400)),
                _ => Between::Open,
            };
            self.schedule.at(at, Event::Changes { between });
        }
        let healed = end + Duration::from_millis(PAUSE_MAX_MS);
        let between = Between::Open;
        self.schedule.at(healed, Event::Changes { between });
    }
}
