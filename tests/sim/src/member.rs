//! One of the controllers: the real one, its turns, and what it gives the store to write.
//!
//! All controllers stand on one store. Each learns of what the others wrote a moment later, of what
//! it wrote itself in that order too, and of nothing while the store cannot be reached.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use cardea_core::{
    CommitError, Contradicted, Controller, Input, Outbox, ProofRequest, Proposal, ProposalId,
};
use cardea_proto::{
    admin::AdminAnswer,
    codec::Bytes,
    id::NodeId,
    ledger::{Entry, Revision},
};
use cardea_store::{Notary, ShowError, Store};

use crate::{
    clock::Skew, control::Control, dice::Dice, founding::settings, schedule::Event, world::World,
};

/// A controller: what survives its crashes, and the running program.
pub(crate) struct Member {
    /// Its wall clock.
    pub(crate) skew: Skew,
    /// `None` while it is stopped.
    pub(crate) running: Option<Box<Acting>>,
    /// Whether the store is out of its reach.
    pub(crate) is_isolated: bool,
    /// Counts its lives, so that what an earlier one waited for is not taken for this one's.
    life: u64,
}

/// The running program.
pub(crate) struct Acting {
    pub(crate) controller: Controller,
    pub(crate) session: Session,
    notary: Notary,
    waiting: VecDeque<Proposal>,
    writing: Option<Vec<Proposal>>,
    /// Entries in the store that it knows to be its own, and has not been given yet.
    own: BTreeMap<Revision, ProposalId>,
}

/// The admin's connection to it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) nonce: Bytes<16>,
    pub(crate) sequence: u64,
}

impl Member {
    pub(crate) const fn stopped(skew: Skew) -> Self {
        Self {
            skew,
            running: None,
            is_isolated: false,
            life: 0,
        }
    }

    /// When it next has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.running.as_ref()?.controller.deadline()
    }
}

impl Acting {
    /// The program of the member `index`, on what is durable.
    pub(crate) fn start(control: &mut Control, index: usize) -> Result<Self, String> {
        let loaded = control.store.load().map_err(|error| error.to_string())?;
        let key = control.domain.ledger_key();
        let notary =
            Notary::new(key, &mut control.store, &loaded).map_err(|error| error.to_string())?;
        let keys = control.domain.keys(index);
        let settings = settings(control.members.len());
        let controller = Controller::new(settings, loaded.state, keys, control.dice.bytes())
            .map_err(|error| error.to_string())?;
        Ok(Self {
            controller,
            session: Session::new(&mut control.dice),
            notary,
            waiting: VecDeque::new(),
            writing: None,
            own: BTreeMap::new(),
        })
    }

    fn head(&self) -> Revision {
        self.controller.state().head()
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

impl World {
    /// One turn of a controller, and everything that follows from it.
    pub(crate) fn control(&mut self, member: usize, input: Input) {
        let Some((acting, now)) = self.acting_now(member) else {
            return;
        };
        let mut out = Outbox::default();
        acting.controller.handle(now, input, &mut out);
        let seen = acting.head();
        acting.waiting.extend(out.proposals);
        self.write(member);
        for (channel, message) in out.messages {
            self.tell(channel, seen, message);
        }
        for (_, answer) in out.enrollments {
            self.model.answers(&answer);
            self.control.enrollments.push(answer);
        }
        for (call, answer) in out.answers {
            self.model.answered(call, &answer);
            let is_done = matches!(answer, AdminAnswer::Done { .. });
            if is_done && self.stranger.asked(call) {
                self.fail(4, "a stranger's change was made".to_owned());
            }
            self.control.answers.insert(call, answer);
        }
        for wanted in out.proofs {
            self.prove(member, wanted);
        }
        for channel in out.close {
            self.close(channel);
        }
        self.check();
    }

    /// A controller stops; `died_writing` says that the store wrote what it was given all the same.
    pub(crate) fn stop_controller(&mut self, member: usize) {
        for channel in self.control.channels_at(member) {
            self.sever(channel, false);
        }
        let stopped = self.control.members.get_mut(member);
        let Some(acting) = stopped.and_then(|stopped| stopped.running.take()) else {
            return;
        };
        // It stopped before the store had written, or after and before it heard of it.
        let writing = acting.writing.unwrap_or_default();
        let is_written = self.control.dice.chance(500) && !self.is_isolated(member);
        for proposal in writing.into_iter().filter(|_| is_written) {
            for entry in self
                .control
                .store
                .commit(vec![proposal])
                .into_iter()
                .flatten()
            {
                self.is_durable(member, &entry);
            }
        }
    }

    /// A controller starts on what is durable.
    pub(crate) fn start_controller(&mut self, member: usize) {
        if self.acting(member).is_some() {
            return;
        }
        match Acting::start(&mut self.control, member) {
            Ok(acting) => {
                let stored = self.control.store.tail(Revision(0), usize::MAX);
                self.model.survived(&stored.unwrap_or_default());
                if let Some(stopped) = self.control.members.get_mut(member) {
                    stopped.running = Some(Box::new(acting));
                    stopped.life += 1;
                }
                self.control(member, Input::Timeout);
                self.look(member);
            }
            Err(why) => self.fail(0, format!("controller {member} does not start: {why}")),
        }
    }

    /// The store is out of a controller's reach, or within it again.
    pub(crate) fn isolate(&mut self, member: usize, is_isolated: bool) {
        if let Some(known) = self.control.members.get_mut(member) {
            known.is_isolated = is_isolated;
        }
        self.look(member);
        for channel in self.control.channels_at(member) {
            let known = self.control.channels.get(&channel);
            let Some(known) = known.filter(|known| !known.is_dead && known.stalled.is_none())
            else {
                continue;
            };
            if let NodeId::Connector(connector) = known.node {
                if is_isolated {
                    self.model.cut_off(connector);
                } else {
                    self.model.informed(self.now.instant, connector);
                }
            }
        }
    }

    /// A controller looks at what the store has that it has not seen.
    pub(crate) fn look(&mut self, member: usize) {
        if self.is_isolated(member) || self.acting(member).is_none() {
            return;
        }
        self.feed(member, Revision(u64::MAX));
        if self.control.members.len() > 1 {
            let asked = self.now.instant;
            self.control(member, Input::CaughtUp { asked });
        }
        self.agree(member);
    }

    /// The store has written what a controller gave it, and says what became of it.
    pub(crate) fn written(&mut self, member: usize, life: u64) {
        let known = self.control.members.get(member);
        if known.is_none_or(|known| known.life != life) {
            return;
        }
        let batch = self.acting(member).and_then(|acting| acting.writing.take());
        for proposal in batch.unwrap_or_default() {
            self.commit(member, proposal);
        }
        self.agree(member);
        self.write(member);
    }

    pub(crate) fn acting(&mut self, member: usize) -> Option<&mut Acting> {
        self.control.members.get_mut(member)?.running.as_deref_mut()
    }

    pub(crate) fn is_isolated(&self, member: usize) -> bool {
        let member = self.control.members.get(member);
        member.is_none_or(|member| member.is_isolated)
    }

    /// One proposal: refused, or taken, and then everybody learns of it, each in their time.
    ///
    /// One after the other, as the controller sees them: what it does about an entry is not held
    /// against one behind it.
    fn commit(&mut self, member: usize, proposal: Proposal) {
        let id = proposal.id;
        if let Some(why) = self.mishap(member, &proposal) {
            if why == CommitError::Conflict {
                self.feed(member, Revision(u64::MAX));
            }
            self.control(member, Input::NotCommitted { proposal: id, why });
            return;
        }
        let is_unanswered = self.control.dice.chance(self.plan.unanswered);
        for outcome in self.control.store.commit(vec![proposal]) {
            match outcome {
                Ok(entry) => {
                    self.is_durable(member, &entry);
                    if is_unanswered {
                        let why = CommitError::Failed("the answer was lost".to_owned());
                        self.control(member, Input::NotCommitted { proposal: id, why });
                    } else if let Some(acting) = self.acting(member) {
                        acting.own.insert(entry.revision, id);
                    }
                    self.feed(member, entry.revision);
                }
                Err(why) => {
                    // What it rested on has moved: it decides again, on what there is by now.
                    self.feed(member, Revision(u64::MAX));
                    self.control(member, Input::NotCommitted { proposal: id, why });
                }
            }
        }
    }

    /// An entry is in the store: the others will see it.
    fn is_durable(&mut self, by: usize, entry: &Entry) {
        let before = Revision(entry.revision.0.saturating_sub(1));
        let stored = self.control.store.tail(before, 1).unwrap_or_default();
        self.model.acknowledged(entry, stored.first());
        self.log.trace.records(entry);
        self.model.committed(self.now, entry);
        for member in (0..self.control.members.len()).filter(|member| *member != by) {
            let lag = self
                .control
                .dice
                .between(std::time::Duration::ZERO, self.plan.lag);
            self.schedule
                .at(self.now.instant + lag, Event::Look { member });
        }
    }

    /// Gives a controller the entries that it has not seen, up to one of them.
    fn feed(&mut self, member: usize, until: Revision) {
        loop {
            let Some(acting) = self.acting(member) else {
                return;
            };
            let head = acting.head();
            if head >= until {
                return;
            }
            let Ok(mut next) = self.control.store.tail(head, 1) else {
                return;
            };
            let Some(entry) = next.pop() else {
                return;
            };
            let Some(acting) = self.acting(member) else {
                return;
            };
            acting.notary.notice(&entry);
            let proposal = acting.own.remove(&entry.revision);
            let revision = entry.revision;
            self.control(member, Input::Committed { proposal, entry });
            if self
                .acting(member)
                .is_some_and(|acting| acting.head() != revision)
            {
                return self.fail(6, format!("controller {member} did not take {revision}"));
            }
        }
    }

    /// A controller that has seen every entry has made of them what a fold makes.
    fn agree(&mut self, member: usize) {
        let Ok(loaded) = self.control.store.load() else {
            return;
        };
        let Some(acting) = self.acting(member) else {
            return;
        };
        let ours = acting.controller.state();
        let (at, head) = (ours.head(), loaded.head.revision);
        if at == head && *ours != loaded.state {
            let what = format!("controller {member}'s state at {at} is not the fold of it");
            self.fail(6, what);
        }
    }

    /// A node is shown the ledger.
    fn prove(&mut self, member: usize, wanted: ProofRequest) {
        if self.is_isolated(member) {
            return;
        }
        let ProofRequest { channel, known } = wanted;
        let Control { members, store, .. } = &mut self.control;
        let acting = members.get_mut(member).and_then(|m| m.running.as_mut());
        let Some(acting) = acting else {
            return;
        };
        let result = match acting.notary.show(store, known.as_ref()) {
            Ok(shown) => Ok(shown),
            Err(ShowError::Contradicted { note, .. }) => Err(Contradicted { note }),
            Err(ShowError::Failed(why)) => return self.fail(0, why),
        };
        let input = Input::Proof {
            channel,
            known,
            result,
        };
        self.control(member, input);
    }

    /// Gives the store everything that waits, unless it is writing.
    fn write(&mut self, member: usize) {
        let (low, high) = self.plan.commit;
        let time = self.control.dice.between(low, high);
        let Some(known) = self.control.members.get_mut(member) else {
            return;
        };
        let life = known.life;
        let Some(acting) = known.running.as_mut() else {
            return;
        };
        if acting.writing.is_some() || acting.waiting.is_empty() {
            return;
        }
        acting.writing = Some(acting.waiting.drain(..).collect());
        let event = Event::Written { member, life };
        self.schedule.at(self.now.instant + time, event);
    }

    /// Why the store does not take a proposal that it could take.
    fn mishap(&mut self, member: usize, proposal: &Proposal) -> Option<CommitError> {
        if self.is_isolated(member) {
            self.model.store_failed(self.now.instant);
            return Some(CommitError::Failed("the store is out of reach".to_owned()));
        }
        if self.control.is_full {
            self.model.store_failed(self.now.instant);
            return Some(CommitError::Full);
        }
        let rests = !proposal.expects.is_empty();
        (rests && self.control.dice.chance(self.plan.conflicts)).then_some(CommitError::Conflict)
    }

    fn acting_now(&mut self, member: usize) -> Option<(&mut Acting, cardea_proto::time::Now)> {
        let now = self.now;
        let member = self.control.members.get_mut(member)?;
        let now = member.skew.show(now);
        Some((member.running.as_deref_mut()?, now))
    }
}
