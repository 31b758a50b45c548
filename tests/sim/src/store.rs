//! What the controllers have in common: the store, when it writes, and who sees it when.

use std::time::Duration;

use cardea_core::{CommitError, Input, Proposal};
use cardea_proto::{
    id::NodeId,
    ledger::{Entry, Revision},
};
use cardea_store::Store;

use crate::{schedule::Event, world::World};

impl World {
    /// Gives the store everything that waits, unless it is writing.
    pub(crate) fn write(&mut self, member: usize) {
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

    /// An entry is in the store: the others will see it.
    pub(crate) fn is_durable(&mut self, by: usize, entry: &Entry) {
        let before = Revision(entry.revision.0.saturating_sub(1));
        let stored = self.control.store.tail(before, 1).unwrap_or_default();
        self.model.acknowledged(entry, stored.first());
        self.log.trace.records(entry);
        self.model.committed(self.now, entry);
        for member in (0..self.control.members.len()).filter(|member| *member != by) {
            let lag = self.control.dice.between(Duration::ZERO, self.plan.lag);
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

    /// The store is out of a controller's reach, or within it again.
    pub(crate) fn isolate(&mut self, member: usize, is_isolated: bool) {
        if let Some(known) = self.control.members.get_mut(member) {
            known.is_isolated = is_isolated;
        }
        self.look(member);
        for channel in self.control.channels_at(member) {
            let known = self.control.channels.get(&channel);
            let Some(known) = known.filter(|known| known.carries_grants()) else {
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

    pub(crate) fn is_isolated(&self, member: usize) -> bool {
        let member = self.control.members.get(member);
        member.is_none_or(|member| member.is_isolated)
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
}
