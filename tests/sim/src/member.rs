//! One of the controllers: the real one, its turns, and what it gives the store to write.
//!
//! All controllers stand on one store. Each learns of what the others wrote a moment later, of what
//! it wrote itself in that order too, and of nothing while the store cannot be reached.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use cardea_core::{Contradicted, Controller, Input, Outbox, ProofRequest, Proposal, ProposalId};
use cardea_credential::knock::Door;
use cardea_proto::{admin::AdminAnswer, codec::Bytes, ledger::Revision, time::Now};
use cardea_store::{Notary, ShowError, Store};

use crate::{clock::Skew, control::Control, dice::Dice, founding::settings, world::World};

/// A controller: what survives its crashes, and the running program.
pub(crate) struct Member {
    /// Its wall clock.
    pub(crate) skew: Skew,
    /// `None` while it is stopped.
    pub(crate) running: Option<Box<Acting>>,
    /// Whether the store is out of its reach.
    pub(crate) is_isolated: bool,
    /// Counts its lives, so that what an earlier one waited for is not taken for this one's.
    pub(crate) life: u64,
}

/// The running program.
pub(crate) struct Acting {
    pub(crate) controller: Controller,
    pub(crate) door: Door,
    pub(crate) session: Session,
    pub(crate) notary: Notary,
    pub(crate) waiting: VecDeque<Proposal>,
    pub(crate) writing: Option<Vec<Proposal>>,
    /// Entries in the store that it knows to be its own, and has not been given yet.
    pub(crate) own: BTreeMap<Revision, ProposalId>,
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
    pub(crate) fn start(control: &mut Control, index: usize, now: Now) -> Result<Self, String> {
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
            door: Door::new(control.domain.trust.root_digest(), now),
            session: Session::new(&mut control.dice),
            notary,
            waiting: VecDeque::new(),
            writing: None,
            own: BTreeMap::new(),
        })
    }

    pub(crate) fn head(&self) -> Revision {
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
        for change in out.door {
            acting.door.change(change);
        }
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
        let Some(stopped) = self.control.members.get(member) else {
            return;
        };
        let now = stopped.skew.show(self.now);
        match Acting::start(&mut self.control, member, now) {
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

    pub(crate) fn acting(&mut self, member: usize) -> Option<&mut Acting> {
        self.control.members.get_mut(member)?.running.as_deref_mut()
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

    fn acting_now(&mut self, member: usize) -> Option<(&mut Acting, Now)> {
        let now = self.now;
        let member = self.control.members.get_mut(member)?;
        let now = member.skew.show(now);
        Some((member.running.as_deref_mut()?, now))
    }
}
