//! The one queue of everything that will happen.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use cardea_core::ChannelId;
use cardea_proto::message::{FromNode, ToNode};
use cardea_tunnel::{FlowId, Via};

use crate::{
    beside::Between,
    channel::Dial,
    clock::{Clock, Skew},
    relay::RelayFault,
    script::Act,
};

/// An agent or a connector, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// An agent.
    Device(usize),
    /// A connector.
    Site(usize),
}

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A datagram reaches a relay.
    AtRelay {
        relay: usize,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    /// A datagram reaches a node, if it still has that address.
    AtNode {
        who: Who,
        to: SocketAddr,
        from: SocketAddr,
        via: Via,
        bytes: Vec<u8>,
    },
    /// A datagram is on its way between two nodes.
    Between {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// What becomes of such datagrams from here on.
    Changes { between: Between },
    /// A node's attempt at a channel reaches a controller.
    Dialed(Dial),
    /// A node learns that its channel is up.
    ChannelUp { channel: ChannelId },
    /// A node learns that its channel, or its attempt, is gone.
    ChannelDown {
        who: Who,
        attempt: u64,
        why: &'static str,
    },
    /// An end finds out that a channel works in one direction only.
    Noticed { channel: ChannelId },
    /// The controller learns that a channel is gone.
    Disconnected { channel: ChannelId },
    /// A message reaches the controller.
    Said {
        channel: ChannelId,
        message: Box<FromNode>,
    },
    /// A message reaches a node.
    Told {
        channel: ChannelId,
        message: Box<ToNode>,
    },
    /// The store has written what a controller gave it in one of its lives.
    Written { member: usize, life: u64 },
    /// A controller learns that the store has something new, or asks by itself.
    Look { member: usize },
    /// A controller asks the store what there is, and will again.
    Poll,
    /// A controller that was stopped starts.
    Start { member: usize },
    /// A clock is set to what it was.
    ClockSet { clock: Clock, skew: Skew },
    /// The store is within a controller's reach again.
    Joined { member: usize },
    /// An app answers a connector's dial.
    Dial { site: usize, flow: FlowId },
    /// A user does something.
    User { device: usize },
    /// The villain does something.
    Villain,
    /// The stranger does something.
    Stranger,
    /// A fault or a change begins.
    Act(Act),
    /// A device that was away is back.
    Back { who: Who, life: u64 },
    /// A node's network is back, both ways.
    Mended { who: Who },
    /// A node can reach every controller again.
    Heard { who: Who },
    /// The store has room again.
    Room,
    /// A relay fails.
    RelayFails { which: usize, fault: RelayFault },
    /// It sends something.
    FromRelay {
        which: usize,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// It serves again.
    RelayServes { which: usize },
}

/// Events in the order in which they happen; at one moment, in the order in which they were planned.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    events: BTreeMap<(Instant, u64), Event>,
    planned: u64,
}

impl Schedule {
    pub(crate) fn at(&mut self, when: Instant, event: Event) {
        self.planned += 1;
        self.events.insert((when, self.planned), event);
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.events.keys().next().map(|(when, _)| *when)
    }

    /// Takes the next event that is due.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Event> {
        let entry = self.events.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
