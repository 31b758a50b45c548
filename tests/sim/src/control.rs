//! The controller's shell: its store with the time that a commit takes, and its channels.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use cardea_core::{
    AdminSession, CallId, ChannelId, CommitError, Contradicted, Controller, Heard, Input, Outbox,
    Peer, ProofRequest, Proposal,
};
use cardea_credential::admin::sign_change;
use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminRequest, ChangeOrder},
    codec::Bytes,
    enroll::{EnrollAnswer, EnrollRequest},
    id::NodeId,
    ledger::Entry,
    message::{FromNode, Purpose, ToNode},
};
use cardea_store::{MemoryStore, Notary, ShowError, Store};

use crate::{
    dice::Dice,
    founding::{Domain, name, settings},
    schedule::{Event, Who},
    world::World,
};

/// The controller and everything that it stands on.
pub(crate) struct Control {
    pub(crate) domain: Domain,
    pub(crate) controller: Controller,
    pub(crate) store: MemoryStore,
    notary: Notary,
    pub(crate) channels: BTreeMap<ChannelId, Channel>,
    pub(crate) answers: BTreeMap<CallId, AdminAnswer>,
    pub(crate) enrollments: Vec<EnrollAnswer>,
    pub(crate) is_full: bool,
    waiting: VecDeque<Proposal>,
    writing: Option<Vec<Proposal>>,
    session: Session,
    counted: u64,
    dice: Dice,
}

/// The admin's connection.
#[derive(Debug)]
struct Session {
    nonce: Bytes<16>,
    sequence: u64,
}

/// A channel as both ends and the wire have it.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) who: Who,
    pub(crate) node: NodeId,
    pub(crate) attempt: u64,
    pub(crate) exporter: [u8; 32],
    /// Nothing passes any longer.
    pub(crate) is_dead: bool,
    /// Messages keep their order each way.
    to_controller: Instant,
    to_node: Instant,
}

impl Control {
    pub(crate) fn new(
        seed: u64,
        domain: Domain,
        mut store: MemoryStore,
    ) -> Result<(Self, Vec<Entry>), String> {
        let mut dice = Dice::new(seed, "controller");
        let loaded = store.load().map_err(|error| error.to_string())?;
        let notary = Notary::new(domain.ledger_key(), &mut store, &loaded)
            .map_err(|error| error.to_string())?;
        let entries = store
            .tail(cardea_proto::ledger::Revision(0), usize::MAX)
            .map_err(|error| error.to_string())?;
        let controller = Controller::new(settings(), loaded.state, domain.keys(), dice.bytes())
            .map_err(|error| error.to_string())?;
        let control = Self {
            domain,
            controller,
            store,
            notary,
            channels: BTreeMap::new(),
            answers: BTreeMap::new(),
            enrollments: Vec::new(),
            is_full: false,
            waiting: VecDeque::new(),
            writing: None,
            session: Session::new(&mut dice),
            counted: 0,
            dice,
        };
        Ok((control, entries))
    }
}

impl World {
    /// One turn of the controller, and everything that follows from it.
    pub(crate) fn control(&mut self, input: Input) {
        let mut out = Outbox::default();
        self.control.controller.handle(self.now, input, &mut out);
        self.control.waiting.extend(out.proposals);
        self.write();
        for (channel, message) in out.messages {
            self.tell(channel, message);
        }
        for (_, answer) in out.enrollments {
            self.model.answers(&answer);
            self.control.enrollments.push(answer);
        }
        self.control.answers.extend(out.answers);
        for wanted in out.proofs {
            self.prove(wanted);
        }
        for channel in out.close {
            self.close(channel);
        }
        self.check();
    }

    /// A node is shown the ledger.
    fn prove(&mut self, wanted: ProofRequest) {
        let ProofRequest { channel, known } = wanted;
        let Control { notary, store, .. } = &mut self.control;
        let result = match notary.show(store, known.as_ref()) {
            Ok(shown) => Ok(shown),
            Err(ShowError::Contradicted { note, .. }) => Err(Contradicted { note }),
            Err(ShowError::Failed(why)) => return self.fail(0, why),
        };
        self.control(Input::Proof {
            channel,
            known,
            result,
        });
    }

    /// A node says something on its channel.
    pub(crate) fn say(&mut self, channel: ChannelId, message: FromNode) {
        let Some(known) = self.control.channels.get_mut(&channel) else {
            return;
        };
        if known.is_dead || self.network.is_deaf(known.who) {
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
        if let (FromNode::Report(report), NodeId::Device(device)) = (&message, known.node) {
            self.model.reported(self.now.instant, device, report);
        }
        let message = Heard::new(message, &self.control.domain.trust, self.now.unix);
        self.control(Input::Message { channel, message });
    }

    /// A node's attempt arrives: it is let in when its certificate holds, as TLS would have it.
    pub(crate) fn dialed(&mut self, who: Who, attempt: u64, purpose: Purpose) {
        let Some((chain, node)) = self.presented(who, attempt) else {
            return;
        };
        let (trust, at) = (&self.control.domain.trust, self.now.unix);
        let leaf = match purpose {
            Purpose::Channel => trust.verify(&chain, at),
            Purpose::Renewal => trust.verify_lapsed(&chain, at),
        };
        let (Ok(leaf), Some(address), false) =
            (leaf, self.network.address(who), self.network.is_deaf(who))
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
            attempt,
            exporter,
            is_dead: false,
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
        self.control(Input::Connected { channel, peer });
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
        self.control.channels.remove(&channel);
        self.control(Input::Disconnected { channel });
    }

    /// The store has written what it was given, and says what became of it.
    pub(crate) fn written(&mut self) {
        let Some(batch) = self.control.writing.take() else {
            return;
        };
        let mut inputs = Vec::new();
        for proposal in batch {
            let id = proposal.id;
            if let Some(why) = self.mishap(&proposal) {
                inputs.push(Input::NotCommitted { proposal: id, why });
                continue;
            }
            let is_unanswered = self.control.dice.chance(self.plan.unanswered);
            for outcome in self.control.store.commit(vec![proposal]) {
                match outcome {
                    Ok(entry) => {
                        self.control.notary.notice(&entry);
                        if is_unanswered {
                            let why = CommitError::Failed("the answer was lost".to_owned());
                            inputs.push(Input::NotCommitted { proposal: id, why });
                        }
                        let proposal = (!is_unanswered).then_some(id);
                        inputs.push(Input::Committed { proposal, entry });
                    }
                    Err(why) => inputs.push(Input::NotCommitted { proposal: id, why }),
                }
            }
        }
        for input in inputs {
            // One after the other, as the controller sees them: what it does about an entry is not
            // held against one behind it.
            if let Input::Committed { entry, .. } = &input {
                self.model.committed(self.now, entry);
            }
            self.control(input);
        }
        self.agree();
        self.write();
    }

    /// The controller has seen every entry, and has made of them what a fold makes.
    fn agree(&mut self) {
        let Ok(loaded) = self.control.store.load() else {
            return;
        };
        let ours = self.control.controller.state();
        if *ours != loaded.state {
            let (ours, head) = (ours.head(), loaded.head.revision);
            let what = format!("the controller's state at entry {ours} is not the fold of {head}");
            self.fail(6, what);
        }
    }

    /// The controller stops and starts again on what is durable; every channel is lost.
    pub(crate) fn restart_controller(&mut self) {
        let channels: Vec<ChannelId> = self.control.channels.keys().copied().collect();
        for channel in channels {
            self.sever(channel, false);
        }
        self.control.waiting.clear();
        let writing = self.control.writing.take().unwrap_or_default();
        // It stopped before the store had written, or after and before it heard of it.
        if self.control.dice.chance(500) {
            for entry in self.control.store.commit(writing).into_iter().flatten() {
                self.model.committed(self.now, &entry);
            }
        }
        self.control.session = Session::new(&mut self.control.dice);
        let entropy = self.control.dice.bytes();
        let keys = self.control.domain.keys();
        let started = self
            .control
            .store
            .load()
            .map_err(|error| error.to_string())
            .and_then(|loaded| {
                let key = self.control.domain.ledger_key();
                let notary = Notary::new(key, &mut self.control.store, &loaded)
                    .map_err(|error| error.to_string())?;
                let controller = Controller::new(settings(), loaded.state, keys, entropy)
                    .map_err(|error| error.to_string())?;
                Ok((notary, controller))
            });
        match started {
            Ok((notary, controller)) => {
                self.control.notary = notary;
                self.control.controller = controller;
            }
            Err(why) => self.fail(0, format!("the controller does not start again: {why}")),
        }
        self.control(Input::Timeout);
    }

    /// An admin's signed change; its answer comes when it is written.
    pub(crate) fn order(&mut self, change: AdminChange) -> Option<CallId> {
        let session = &mut self.control.session;
        session.sequence += 1;
        let order = ChangeOrder {
            domain: name("corp.example"),
            nonce: session.nonce,
            sequence: session.sequence,
            at: self.now.unix,
            change,
        };
        let nonce = session.nonce;
        let signed = sign_change(&order, &self.control.domain.admin).ok()?;
        self.control.counted += 1;
        let call = CallId(self.control.counted);
        self.control(Input::Admin {
            call,
            session: AdminSession { nonce },
            request: AdminRequest::Change(signed),
            prepared: None,
        });
        Some(call)
    }

    /// A stranger asks to enroll, on a connection of its own.
    pub(crate) fn enroll(&mut self, who: Who, request: EnrollRequest, exporter: [u8; 32]) {
        let Some(address) = self.network.address(who) else {
            return;
        };
        self.control.counted += 1;
        self.control(Input::Enroll {
            channel: ChannelId(self.control.counted),
            request: Box::new(request),
            exporter,
            address,
        });
    }

    fn tell(&mut self, channel: ChannelId, message: ToNode) {
        let Some(known) = self.control.channels.get_mut(&channel) else {
            return;
        };
        self.model.says(self.now, known.node, &message);
        if known.is_dead || self.network.is_deaf(known.who) {
            return;
        }
        let arrival = self.now.instant + self.network.message(known.who);
        known.to_node = known.to_node.max(arrival);
        let message = Box::new(message);
        let event = Event::Told { channel, message };
        self.schedule.at(known.to_node, event);
    }

    /// The controller closes a channel: what it said before still arrives.
    fn close(&mut self, channel: ChannelId) {
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

    /// Gives the store everything that waits, unless it is writing.
    fn write(&mut self) {
        if self.control.writing.is_some() || self.control.waiting.is_empty() {
            return;
        }
        let (low, high) = self.plan.commit;
        let time = self.control.dice.between(low, high);
        self.control.writing = Some(self.control.waiting.drain(..).collect());
        self.schedule.at(self.now.instant + time, Event::Written);
    }

    /// Why the store does not take a proposal that it could take.
    fn mishap(&mut self, proposal: &Proposal) -> Option<CommitError> {
        if self.control.is_full {
            self.model.store_failed(self.now.instant);
            return Some(CommitError::Full);
        }
        let rests = !proposal.expects.is_empty();
        (rests && self.control.dice.chance(self.plan.conflicts)).then_some(CommitError::Conflict)
    }
}

impl Session {
    fn new(dice: &mut Dice) -> Self {
        Self {
            nonce: Bytes(dice.bytes()),
            sequence: 0,
        }
    }
}
