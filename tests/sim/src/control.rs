//! The controllers as one group: their store, and the channels that nodes have with them.

use std::{collections::BTreeMap, time::Instant};

use cardea_core::{AdminSession, CallId, ChannelId, Input, Peer};
use cardea_credential::admin::sign_change;
use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminRequest, ChangeOrder},
    enroll::{EnrollAnswer, EnrollRequest},
    id::NodeId,
    ledger::{Entry, Revision},
    message::{FromNode, Purpose, ToNode},
};
use cardea_store::{MemoryStore, Store};

use crate::{
    clock::Skew,
    dice::Dice,
    founding::{Domain, name},
    member::Member,
    network::{Network, Way},
    schedule::{Event, Who},
    stranger::is_strange,
    world::World,
};

/// The controllers and everything that they stand on.
pub(crate) struct Control {
    pub(crate) domain: Domain,
    pub(crate) members: Vec<Member>,
    pub(crate) store: MemoryStore,
    pub(crate) channels: BTreeMap<ChannelId, Channel>,
    pub(crate) answers: BTreeMap<CallId, AdminAnswer>,
    pub(crate) enrollments: Vec<EnrollAnswer>,
    pub(crate) is_full: bool,
    pub(crate) dice: Dice,
    counted: u64,
}

/// A channel as both ends and the wire have it.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) who: Who,
    pub(crate) node: NodeId,
    /// The controller that it leads to.
    pub(crate) member: usize,
    pub(crate) attempt: u64,
    pub(crate) exporter: [u8; 32],
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
}

impl Channel {
    /// Whether what is said in one direction does not arrive.
    fn loses(&self, network: &Network, way: Way) -> bool {
        self.is_dead || self.stalled == Some(way) || network.is_deaf(self.who, self.member, way)
    }
}

impl Control {
    /// The controllers of a seed, none of them running, and the entries that there are already.
    pub(crate) fn new(
        seed: u64,
        domain: Domain,
        mut store: MemoryStore,
        skews: Vec<Skew>,
    ) -> Result<(Self, Vec<Entry>), String> {
        let entries = store
            .tail(Revision(0), usize::MAX)
            .map_err(|error| error.to_string())?;
        let control = Self {
            domain,
            members: skews.into_iter().map(Member::stopped).collect(),
            store,
            channels: BTreeMap::new(),
            answers: BTreeMap::new(),
            enrollments: Vec::new(),
            is_full: false,
            counted: 0,
            dice: Dice::new(seed, "controller"),
        };
        Ok((control, entries))
    }

    /// The channels that lead to a controller.
    pub(crate) fn channels_at(&self, member: usize) -> Vec<ChannelId> {
        let channels = self.channels.iter();
        channels
            .filter(|(_, channel)| channel.member == member)
            .map(|(id, _)| *id)
            .collect()
    }

    /// A controller that runs and reaches the store, the lucky one of several.
    fn someone(&mut self) -> Option<usize> {
        let able: Vec<usize> = self
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.running.is_some() && !member.is_isolated)
            .map(|(index, _)| index)
            .collect();
        self.dice.pick(&able).copied()
    }
}

impl World {
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
        self.control(member, Input::Message { channel, message });
    }

    /// A node's attempt arrives: it is let in when its certificate holds, as TLS would have it.
    pub(crate) fn dialed(&mut self, dial: Dial) {
        let Dial {
            who,
            attempt,
            purpose,
            member,
        } = dial;
        let Some((chain, node)) = self.presented(who, attempt) else {
            return;
        };
        let is_there = self.acting(member).is_some();
        let at = self
            .control
            .members
            .get(member)
            .map(|m| m.skew.show(self.now).unix);
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
        };
        self.control(member, Input::Connected { channel, peer });
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

    /// The controller learns that a channel is gone.
    pub(crate) fn disconnected(&mut self, channel: ChannelId) {
        if let Some(known) = self.control.channels.remove(&channel) {
            self.control(known.member, Input::Disconnected { channel });
        }
    }

    /// An admin's signed change, to any controller; its answer comes when it is written.
    pub(crate) fn order(&mut self, change: AdminChange) -> Option<CallId> {
        let member = self.control.someone()?;
        let session = &mut self.acting(member)?.session;
        session.sequence += 1;
        let (nonce, sequence) = (session.nonce, session.sequence);
        let order = ChangeOrder {
            domain: name("corp.example"),
            nonce,
            sequence,
            at: self.now.unix,
            change,
        };
        let signed = sign_change(&order, &self.control.domain.admin).ok()?;
        self.control.counted += 1;
        let call = CallId(self.control.counted);
        self.model.ordered(call, signed.clone());
        self.stranger.overhear(&signed);
        let input = Input::Admin {
            call,
            session: AdminSession { nonce },
            request: AdminRequest::Change(signed),
        };
        self.control(member, input);
        Some(call)
    }

    /// A stranger asks to enroll, on a connection of its own.
    pub(crate) fn enroll(&mut self, who: Who, request: EnrollRequest, exporter: [u8; 32]) {
        let (Some(address), Some(member)) = (self.network.address(who), self.control.someone())
        else {
            return;
        };
        self.control.counted += 1;
        let input = Input::Enroll {
            channel: ChannelId(self.control.counted),
            request: Box::new(request),
            exporter,
            address,
        };
        self.control(member, input);
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
        match &message {
            ToNode::Certificate(certificate) => {
                let ends = certificate.not_after.to_rfc3339();
                self.note(|| format!("controller {member} certifies {who:?} until {ends}"));
            }
            ToNode::CertificateRefused(refusal) => {
                self.note(|| format!("controller {member} certifies {who:?} not: {refusal}"));
            }
            ToNode::Goodbye(refusal) => {
                self.note(|| format!("controller {member} sends {who:?} away: {refusal}"));
            }
            _ => {}
        }
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
}
