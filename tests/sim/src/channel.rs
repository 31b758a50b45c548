//! Channels: how a node dials a controller, what each end says on the way, and how it ends.

use std::time::{Duration, Instant};

use cardea_core::{ChannelId, Heard, Input, Peer};
use cardea_credential::knock::{Answer, Knock, WINDOW};
use cardea_node::{AgentInput, ConnectorInput};
use cardea_proto::{
    codec::Blob,
    id::NodeId,
    ledger::Revision,
    message::{FromNode, Purpose, ToNode},
    time::{Now, UnixMillis},
};

use crate::{
    founding::address_of,
    network::{Network, Way},
    schedule::{Event, Who},
    stranger::is_strange,
    world::World,
};

/// How long a node waits for a controller that does not answer.
const SILENCE: Duration = Duration::from_secs(5);

/// A channel as both ends and the wire have it.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) who: Who,
    pub(crate) node: NodeId,
    /// The controller that it leads to.
    pub(crate) member: usize,
    pub(crate) attempt: u64,
    pub(crate) exporter: [u8; 32],
    /// What the node dialed for: on a renewal it hears of no grant.
    pub(crate) purpose: Purpose,
    /// Nothing passes any longer.
    pub(crate) is_dead: bool,
    /// A direction in which something was lost, so that nothing behind it arrives either.
    pub(crate) stalled: Option<Way>,
    /// Messages keep their order each way.
    to_controller: Instant,
    to_node: Instant,
}

/// What a node dials: which attempt of it, for what, and which controller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dial {
    pub(crate) who: Who,
    pub(crate) attempt: u64,
    pub(crate) purpose: Purpose,
    pub(crate) member: usize,
    /// With what it knocks, and when that was made by its maker's idea of the controller's clock.
    pub(crate) knock: (Knock, UnixMillis),
}

impl Channel {
    /// Whether its node hears of every end of its grants.
    pub(crate) fn carries_grants(&self) -> bool {
        !self.is_dead && self.stalled.is_none() && self.purpose == Purpose::Channel
    }

    /// Whether what is said in one direction does not arrive.
    fn loses(&self, network: &Network, way: Way) -> bool {
        self.is_dead || self.stalled == Some(way) || network.is_deaf(self.who, self.member, way)
    }
}

impl World {
    /// The channel that a node has, or thinks it has.
    pub(crate) fn channel_of(&self, who: Who) -> Option<ChannelId> {
        let mut channels = self.control.channels.iter();
        channels
            .find(|(_, channel)| channel.who == who && !channel.is_dead)
            .map(|(id, _)| *id)
    }

    /// The certificate that a node presents, when this attempt is still its latest.
    pub(crate) fn presented(&mut self, who: Who, attempt: u64) -> Option<(Vec<Blob>, NodeId)> {
        if self.attempt(who) != Some(attempt) {
            return None;
        }
        match who {
            Who::Device(index) => self.devices.get(index).map(|device| {
                let chain = device.disk.certificate.chain.clone();
                (chain, NodeId::Device(device.id))
            }),
            Who::Site(index) => self.sites.get(index).map(|site| {
                let chain = site.disk.certificate.chain.clone();
                (chain, NodeId::Connector(site.id))
            }),
        }
    }

    /// A node's attempt arrives: it is heard when its knock opens, and let in when its certificate
    /// holds, as TLS would have it.
    pub(crate) fn dialed(&mut self, dial: Dial) {
        let Dial {
            who,
            attempt,
            purpose,
            member,
            knock,
        } = dial;
        let Some((chain, node)) = self.presented(who, attempt) else {
            return;
        };
        if self.network.reaches(who, member) && !self.opens(who, node, member, knock) {
            let why = "no answer";
            let event = Event::ChannelDown { who, attempt, why };
            return self.schedule.at(self.now.instant + SILENCE, event);
        }
        let is_there = self.acting(member).is_some();
        let at = self.control.unix(member, self.now);
        let leaf = at.map(|at| match purpose {
            Purpose::Channel => self.control.domain.trust.verify(&chain, at),
            Purpose::Renewal => self.control.domain.trust.verify_lapsed(&chain, at),
        });
        let is_reached = is_there && self.network.reaches(who, member);
        let (Some(Ok(leaf)), Some(address), true) = (leaf, self.network.address(who), is_reached)
        else {
            let why = "the certificate is refused, or nobody answers";
            let event = Event::ChannelDown { who, attempt, why };
            let delay = self.network.message(who);
            return self.schedule.at(self.now.instant + delay, event);
        };
        self.control.counted += 1;
        let channel = ChannelId(self.control.counted);
        let exporter = self.control.dice.bytes();
        let up = self.now.instant + self.network.message(who);
        let known = Channel {
            who,
            node,
            member,
            attempt,
            exporter,
            purpose,
            is_dead: false,
            stalled: None,
            to_controller: self.now.instant,
            to_node: up,
        };
        self.control.channels.insert(channel, known);
        self.schedule.at(up, Event::ChannelUp { channel });
        let peer = Peer {
            leaf,
            purpose,
            exporter,
            address,
            knockers: Vec::new(),
        };
        self.control(member, Input::Connected { channel, peer });
    }

    /// Whether a controller's door opens to a node's knock.
    ///
    /// It must, for every node that this controller knows and that has the time about right. One that
    /// was behind when the controller started waits, and so does one that knocks too often.
    fn opens(
        &mut self,
        who: Who,
        node: NodeId,
        member: usize,
        (knock, at): (Knock, UnixMillis),
    ) -> bool {
        let (Some(source), Some(theirs)) = (
            self.network.address(who),
            self.control.unix(member, self.now),
        ) else {
            return true;
        };
        let now = Now {
            unix: theirs,
            ..self.now
        };
        let Some(acting) = self.acting(member) else {
            return true;
        };
        let answer = acting.door.knock(&knock, source, now);
        let is_known = acting.controller.state().node(node).is_some();
        let apart = at.since(theirs).max(theirs.since(at));
        match answer {
            Answer::Open => true,
            Answer::Late | Answer::TooMany => false,
            Answer::Unknown | Answer::Forged | Answer::Early | Answer::Replayed => {
                if is_known && apart < WINDOW {
                    self.fail(0, format!("{node} is enrolled and its knock is {answer:?}"));
                }
                false
            }
        }
    }

    pub(crate) fn channel_up(&mut self, channel: ChannelId) {
        let Some(known) = self.control.channels.get(&channel) else {
            return;
        };
        let (who, attempt, exporter) = (known.who, known.attempt, known.exporter);
        let member = known.member;
        if known.is_dead || self.attempt(who) != Some(attempt) {
            return;
        }
        let address = address_of(member);
        match who {
            Who::Device(index) => {
                if let Some(running) = self.running(index) {
                    running.channel = Some(channel);
                }
                self.agent(index, AgentInput::ChannelUp { exporter, address });
            }
            Who::Site(index) => {
                if let Some(serving) = self.serving(index) {
                    serving.channel = Some(channel);
                }
                self.connector(index, ConnectorInput::ChannelUp { exporter, address });
            }
        }
    }

    /// A node says something on its channel.
    pub(crate) fn say(&mut self, channel: ChannelId, message: FromNode) {
        let Some(known) = self.control.channels.get_mut(&channel) else {
            return;
        };
        self.log.trace.says(channel, &message);
        if known.loses(&self.network, Way::Out) {
            return;
        }
        let arrival = self.now.instant + self.network.message(known.who);
        known.to_controller = known.to_controller.max(arrival);
        let message = Box::new(message);
        let event = Event::Said { channel, message };
        self.schedule.at(known.to_controller, event);
    }

    /// What a node said arrives.
    pub(crate) fn said(&mut self, channel: ChannelId, message: FromNode) {
        let Some(known) = self.control.channels.get(&channel) else {
            return;
        };
        if known.is_dead {
            return;
        }
        let member = known.member;
        if let NodeId::Device(device) = known.node {
            self.model.requested(device, &message);
            if let FromNode::Report(report) = &message {
                self.model.reported(self.now.instant, device, report);
            }
        }
        self.hear(member, channel, message);
    }

    /// A controller hears a message, whose statements are checked by its own clock.
    pub(crate) fn hear(&mut self, member: usize, channel: ChannelId, message: FromNode) {
        let Some(unix) = self.control.unix(member, self.now) else {
            return;
        };
        let message = Heard::new(message, &self.control.domain.trust, unix);
        self.control(member, Input::Message { channel, message });
    }

    /// A controller says something that rests on the entries up to `seen`.
    pub(crate) fn tell(&mut self, channel: ChannelId, seen: Revision, message: ToNode) {
        let Some(known) = self.control.channels.get_mut(&channel) else {
            // It ended a moment ago, or never was.
            if is_strange(channel) {
                self.fail(
                    4,
                    format!("a controller answers on no channel: {message:?}"),
                );
            }
            return;
        };
        self.log.trace.hears(channel, &message);
        self.model.says(self.now, (known.node, seen), &message);
        let (who, member) = (known.who, known.member);
        self.note_told(who, member, &message);
        let Some(known) = self.control.channels.get_mut(&channel) else {
            return;
        };
        if known.loses(&self.network, Way::In) {
            return;
        }
        let arrival = self.now.instant + self.network.message(known.who);
        known.to_node = known.to_node.max(arrival);
        let message = Box::new(message);
        let event = Event::Told { channel, message };
        self.schedule.at(known.to_node, event);
    }

    pub(crate) fn told(&mut self, channel: ChannelId, message: ToNode) {
        let Some(known) = self.control.channels.get(&channel) else {
            return;
        };
        let (who, node, member) = (known.who, known.node, known.member);
        let purpose = known.purpose;
        if known.is_dead {
            return;
        }
        match who {
            Who::Device(index) => {
                if self.running(index).and_then(|running| running.channel) == Some(channel) {
                    self.agent(index, AgentInput::Message(message));
                }
            }
            Who::Site(index) => {
                if self.serving(index).and_then(|serving| serving.channel) == Some(channel) {
                    if let NodeId::Connector(connector) = node {
                        self.model
                            .reaches_connector(self.now.instant, connector, &message);
                        if purpose == Purpose::Renewal || self.is_isolated(member) {
                            // It is told what its controller knows, which is not all there is; and on
                            // a renewal nothing of grants.
                            self.model.cut_off(connector);
                        }
                    }
                    self.connector(index, ConnectorInput::Message(message));
                }
            }
        }
    }

    /// Nothing passes on a channel any longer; both ends learn it, each in its time.
    pub(crate) fn sever(&mut self, channel: ChannelId, node_knows: bool) {
        let Some(known) = self.control.channels.get_mut(&channel) else {
            return;
        };
        if std::mem::replace(&mut known.is_dead, true) {
            return;
        }
        let (who, attempt) = (known.who, known.attempt);
        if let NodeId::Connector(connector) = known.node {
            self.model.cut_off(connector);
        }
        let later = self.control.dice.millis(5, 4_000);
        self.schedule
            .at(self.now.instant + later, Event::Disconnected { channel });
        if !node_knows {
            let why = "the channel was lost";
            let later = self.control.dice.millis(5, 4_000);
            let event = Event::ChannelDown { who, attempt, why };
            self.schedule.at(self.now.instant + later, event);
        }
    }

    /// The controller closes a channel: what it said before still arrives.
    pub(crate) fn close(&mut self, channel: ChannelId) {
        let Some(known) = self.control.channels.get(&channel) else {
            return;
        };
        if let NodeId::Connector(connector) = known.node {
            self.model.cut_off(connector);
        }
        let (who, attempt) = (known.who, known.attempt);
        let why = "the controller closed the channel";
        let event = Event::ChannelDown { who, attempt, why };
        self.schedule.at(known.to_node, event);
        self.schedule
            .at(known.to_node, Event::Disconnected { channel });
    }

    pub(crate) fn channel_down(&mut self, who: Who, attempt: u64, why: &'static str) {
        if self.attempt(who) != Some(attempt) {
            return;
        }
        let text = why.to_owned();
        match who {
            Who::Device(index) => {
                if self
                    .devices
                    .get(index)
                    .is_some_and(|device| device.is_asleep)
                {
                    let event = Event::ChannelDown { who, attempt, why };
                    let later = self.now.instant + Duration::from_secs(1);
                    return self.schedule.at(later, event);
                }
                if let Some(running) = self.running(index) {
                    running.channel = None;
                    running.attempt += 1;
                }
                self.agent(index, AgentInput::ChannelDown { why: text });
            }
            Who::Site(index) => {
                if let Some(serving) = self.serving(index) {
                    serving.channel = None;
                    serving.attempt += 1;
                }
                self.connector(index, ConnectorInput::ChannelDown { why: text });
            }
        }
    }

    /// The controller learns that a channel is gone.
    pub(crate) fn disconnected(&mut self, channel: ChannelId) {
        if let Some(known) = self.control.channels.remove(&channel) {
            self.control(known.member, Input::Disconnected { channel });
        }
    }

    fn attempt(&mut self, who: Who) -> Option<u64> {
        match who {
            Who::Device(index) => self.running(index).map(|running| running.attempt),
            Who::Site(index) => self.serving(index).map(|serving| serving.attempt),
        }
    }

    /// Certificates and farewells are worth a line to whoever reads a failure.
    fn note_told(&mut self, who: Who, member: usize, message: &ToNode) {
        if let ToNode::Certificate(certificate) = message {
            let ends = certificate.not_after.to_rfc3339();
            self.note(|| format!("controller {member} certifies {who:?} until {ends}"));
        } else if let ToNode::CertificateRefused(refusal) = message {
            self.note(|| format!("controller {member} certifies {who:?} not: {refusal}"));
        } else if let ToNode::Goodbye(refusal) = message {
            self.note(|| format!("controller {member} sends {who:?} away: {refusal}"));
        }
    }
}
