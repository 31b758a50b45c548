//! The one loop that owns the controller: collect what is ready, handle it, do what must follow.

use std::{collections::BTreeMap, time::Duration};

use cardea_core::{
    AdminSession, CallId, ChannelId, CommitError, Controller, Heard, Input, Outbox, Peer,
    ProposalId, policy::Prepared,
};
use cardea_host::{
    channel::{CloseCode, Gate, Sender, Unproven},
    clock::Clock,
    knock_log::KnockLog,
    supervisor::Supervisor,
};
use cardea_proto::{
    admin::{AdminAnswer, AdminRequest},
    enroll::EnrollRequest,
    ledger::Revision,
    message::ToNode,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::ledger::{Ledger, Outcome};

/// Events that wait for the loop; who brings more waits with them.
pub(crate) const EVENTS_MAX: usize = 4_096;

/// Inputs of one kind in one turn, so that no kind starves another.
const TURN_MAX: usize = 256;

/// Proposals that wait for the store; more are refused, which a store that works never sees.
const PROPOSALS_MAX: usize = 65_536;

/// Longest sleep: timers do not count suspended time, deadlines do.
const SLEEP_MAX: Duration = Duration::from_secs(5);

/// Something that a connection brings.
#[derive(Debug)]
pub(crate) enum Event {
    /// A node's channel is up.
    Connected {
        channel: ChannelId,
        sender: Sender,
        peer: Peer,
    },
    /// A stranger asks to enroll.
    Enroll {
        channel: ChannelId,
        sender: Sender,
        request: Box<EnrollRequest>,
        exporter: [u8; 32],
        address: std::net::SocketAddr,
    },
    /// Somebody knocked and showed nothing that holds.
    Unproven(Unproven),
    /// A node's message.
    Message { channel: ChannelId, message: Heard },
    /// A node's channel lives.
    Heard { channel: ChannelId },
    /// A connection is gone.
    Disconnected { channel: ChannelId },
    /// An admin asks.
    Call {
        call: CallId,
        session: AdminSession,
        request: AdminRequest,
        prepared: Option<Prepared>,
        answer: oneshot::Sender<AdminAnswer>,
    },
    /// The admin has gone before the answer came.
    CallGone { call: CallId },
    /// A relay elsewhere fell silent, or answers again.
    Relay { place: usize, is_silent: bool },
}

/// The controller with its connections.
#[derive(Debug)]
pub(crate) struct Turn {
    controller: Controller,
    outbox: Outbox,
    clock: Clock,
    ledger: Ledger,
    /// Proposals that the store has not answered.
    proposed: usize,
    channels: BTreeMap<ChannelId, Sender>,
    calls: BTreeMap<CallId, oneshot::Sender<AdminAnswer>>,
    head: watch::Sender<Revision>,
    gate: Gate,
    supervisor: Supervisor,
    knock_log: KnockLog,
}

/// Why the loop ended without being asked to.
#[derive(Debug, thiserror::Error)]
#[error("the store's thread has ended")]
pub(crate) struct StoreEnded;

impl Turn {
    /// A loop for a controller. `head` shows the last committed revision to those who follow; `gate`
    /// opens to those who may knock before this returns.
    pub(crate) fn new(
        controller: Controller,
        ledger: Ledger,
        head: watch::Sender<Revision>,
        gate: Gate,
    ) -> Self {
        let mut this = Self {
            controller,
            outbox: Outbox::default(),
            clock: Clock::system(),
            ledger,
            proposed: 0,
            channels: BTreeMap::new(),
            calls: BTreeMap::new(),
            head,
            gate,
            supervisor: Supervisor::of_environment(),
            knock_log: KnockLog::default(),
        };
        this.handle(Input::Timeout);
        this.gate.change(this.outbox.door.drain(..));
        this
    }

    /// Runs until `events` ends.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut outcomes: mpsc::UnboundedReceiver<Outcome>,
    ) -> Result<(), StoreEnded> {
        let mut brought = Vec::with_capacity(TURN_MAX);
        let mut committed = Vec::with_capacity(TURN_MAX);
        self.flush()?;
        self.supervisor.ready();
        loop {
            if self.supervisor.is_due(self.clock.now().instant) {
                self.supervisor.alive();
            }
            let sleep = self.sleep();
            // What was committed comes first: effects are what people wait for.
            tokio::select! {
                biased;
                count = outcomes.recv_many(&mut committed, TURN_MAX) => {
                    if count == 0 {
                        return Err(StoreEnded);
                    }
                    for outcome in committed.drain(..) {
                        self.outcome(outcome);
                    }
                }
                () = tokio::time::sleep(sleep), if sleep.is_zero() => {}
                count = events.recv_many(&mut brought, TURN_MAX) => {
                    if count == 0 {
                        return Ok(());
                    }
                    for event in brought.drain(..) {
                        self.event(event);
                    }
                }
                () = tokio::time::sleep(sleep), if !sleep.is_zero() => {}
            }
            let due = self.controller.deadline();
            if due.is_some_and(|due| due <= self.clock.now().instant) {
                self.handle(Input::Timeout);
            }
            self.flush()?;
            let now = self.clock.now().instant;
            self.knock_log.tell(now, || self.gate.knocks());
        }
    }

    fn sleep(&self) -> Duration {
        let deadlines = [self.controller.deadline(), self.supervisor.deadline()];
        let deadline = deadlines.into_iter().flatten().min();
        deadline.map_or(SLEEP_MAX, |deadline| {
            self.clock.until(deadline).min(SLEEP_MAX)
        })
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected {
                channel,
                sender,
                peer,
            } => {
                self.channels.insert(channel, sender);
                self.handle(Input::Connected { channel, peer });
            }
            Event::Enroll {
                channel,
                sender,
                request,
                exporter,
                address,
            } => {
                self.channels.insert(channel, sender);
                self.handle(Input::Enroll {
                    channel,
                    request,
                    exporter,
                    address,
                });
            }
            Event::Unproven(Unproven {
                address,
                knockers,
                why,
            }) => self.handle(Input::Unproven {
                address,
                knockers,
                why,
            }),
            Event::Message { channel, message } => {
                self.handle(Input::Message { channel, message });
            }
            Event::Heard { channel } => self.handle(Input::Heard { channel }),
            Event::Disconnected { channel } => {
                self.channels.remove(&channel);
                self.handle(Input::Disconnected { channel });
            }
            Event::Call {
                call,
                session,
                request,
                prepared,
                answer,
            } => {
                self.calls.insert(call, answer);
                self.handle(Input::Admin {
                    call,
                    session,
                    request,
                    prepared,
                });
            }
            Event::Relay { place, is_silent } => {
                self.handle(Input::Relay { place, is_silent });
            }
            Event::CallGone { call } => {
                if self.calls.remove(&call).is_some() {
                    self.handle(Input::AdminGone { call });
                }
            }
        }
    }

    fn outcome(&mut self, outcome: Outcome) {
        let (proposal, result) = match outcome {
            Outcome::Proposed { proposal, result } => (proposal, result),
            Outcome::Proof {
                channel,
                known,
                result,
            } => {
                return self.handle(Input::Proof {
                    channel,
                    known,
                    result,
                });
            }
        };
        self.proposed = self.proposed.saturating_sub(1);
        match result {
            Ok(entry) => {
                let revision = entry.revision;
                self.handle(Input::Committed {
                    proposal: Some(proposal),
                    entry: *entry,
                });
                self.head.send_replace(revision);
            }
            Err(why) => self.handle(Input::NotCommitted { proposal, why }),
        }
    }

    fn handle(&mut self, input: Input) {
        let now = self.clock.now();
        self.controller.handle(now, input, &mut self.outbox);
    }

    /// Does what must follow, until nothing more does.
    fn flush(&mut self) -> Result<(), StoreEnded> {
        if !self.outbox.door.is_empty() {
            self.gate.change(self.outbox.door.drain(..));
        }
        while let Some(proposal) = self.outbox.proposals.pop_front() {
            if self.proposed >= PROPOSALS_MAX {
                self.refuse(proposal.id);
                continue;
            }
            self.proposed = self.proposed.saturating_add(1);
            self.ledger.commit(proposal).map_err(|_| StoreEnded)?;
        }
        while let Some(wanted) = self.outbox.proofs.pop_front() {
            self.ledger.prove(wanted).map_err(|_| StoreEnded)?;
        }
        for (channel, messages) in self.by_channel() {
            self.send(channel, &messages);
        }
        while let Some((channel, answer)) = self.outbox.enrollments.pop_front() {
            self.send(channel, &[answer]);
            self.close(channel);
        }
        while let Some(channel) = self.outbox.close.pop_front() {
            self.close(channel);
        }
        while let Some((call, mut answer)) = self.outbox.answers.pop_front() {
            // The door stands before the controller, which hears of those alone whom it let in.
            if let AdminAnswer::Status(status) = &mut answer {
                status.knocks = self.gate.knocks();
            }
            let waiting = self.calls.remove(&call);
            if waiting.is_some_and(|waiting| waiting.send(answer).is_err()) {
                tracing::debug!("an admin left before the answer came");
            }
        }
        Ok(())
    }

    fn refuse(&mut self, proposal: ProposalId) {
        let why = CommitError::Failed(format!("{PROPOSALS_MAX} changes wait for the store"));
        self.handle(Input::NotCommitted { proposal, why });
    }

    /// The turn's messages, those of one channel together and the channels in the order in which
    /// they were first written to: a connector hears of a withdrawal before the agent does.
    fn by_channel(&mut self) -> Vec<(ChannelId, Vec<ToNode>)> {
        let mut places: BTreeMap<ChannelId, usize> = BTreeMap::new();
        let mut batches: Vec<(ChannelId, Vec<ToNode>)> = Vec::new();
        for (channel, message) in self.outbox.messages.drain(..) {
            let place = *places.entry(channel).or_insert(batches.len());
            match batches.get_mut(place) {
                Some((_, messages)) => messages.push(message),
                None => batches.push((channel, vec![message])),
            }
        }
        batches
    }

    /// A slow reader is cut off by its own queue; that it is gone comes as an event of its own.
    fn send<M: serde::Serialize>(&self, channel: ChannelId, messages: &[M]) {
        let Some(sender) = self.channels.get(&channel) else {
            return;
        };
        if let Err(error) = sender.send_all(messages) {
            tracing::debug!(channel.id = channel.0, reason = %error, "messages were not sent");
        }
    }

    fn close(&mut self, channel: ChannelId) {
        if let Some(sender) = self.channels.remove(&channel) {
            sender.finish(CloseCode::Done, "");
        }
    }
}
