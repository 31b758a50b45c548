//! Nodes as witnesses of the ledger: each remembers a checkpoint, and the ledger must go on from it.
//!
//! ```text
//! hello with a checkpoint ─▶ proof wanted ─▶ store ─┬─ it goes on: checkpoint and proof to the node
//! once a minute ───────────▶                        └─ it does not: RollbackNoticed, safe mode
//! ```
//!
//! A node cannot make such a checkpoint up, for the ledger's own key signed it. In safe mode nothing
//! is granted and nobody is enrolled: what this ledger says of used codes, blocks and revocations is
//! known to be out of date. What takes access away still works.

use std::time::Duration;

use cardea_ledger::checkpoint::{Checkpoint, Verifier, origin};
use cardea_proto::{
    id::NodeId,
    ledger::{Actor, Change, RecordKey, Rollback},
    message::{Checkpointed, ToNode},
    refusal::{Refusal, RefusalCode},
};

use crate::{
    api::{ChannelId, Contradicted, ProofRequest},
    controller::{Controller, Turn},
    proposals::{Intent, Pending},
    timers::Timer,
    world::{Expects, draft},
};

/// How often connected nodes are shown the ledger.
const SHOWN_EVERY: Duration = Duration::from_secs(60);

impl Controller {
    /// A node has said which checkpoint it knows.
    pub(crate) fn witness(&mut self, turn: &mut Turn<'_>, channel: ChannelId, known: Option<&str>) {
        let known = known.and_then(|note| {
            // Signed by another key: the node will see for itself that this is another ledger.
            let verified = self.verifier()?.verify(note);
            verified
                .inspect_err(|error| tracing::warn!(reason = %error, "a node knows another ledger"))
                .ok()
        });
        if let Some(open) = self.channels.get_mut(channel) {
            open.known.clone_from(&known);
        }
        turn.out.proofs.push_back(ProofRequest { channel, known });
        self.timers
            .set_no_later(Timer::Witnesses, turn.now.instant + SHOWN_EVERY);
    }

    /// Shows the ledger to all nodes that are connected.
    pub(crate) fn show_witnesses(&mut self, turn: &mut Turn<'_>) {
        let wanted = self.channels.greeted_channels();
        let wanted = wanted.map(|(channel, open)| ProofRequest {
            channel,
            known: open.known.clone(),
        });
        turn.out.proofs.extend(wanted);
        if self.channels.greeted_channels().next().is_some() {
            self.timers
                .set(Timer::Witnesses, turn.now.instant + SHOWN_EVERY);
        }
    }

    /// The store has looked.
    pub(crate) fn on_proof(
        &mut self,
        turn: &mut Turn<'_>,
        channel: ChannelId,
        known: Option<Checkpoint>,
        result: Result<Checkpointed, Contradicted>,
    ) {
        let node = self.channels.get(channel).map(|open| open.node);
        match (result, known, node) {
            (Ok(shown), _, Some(_)) => {
                let accepted = self.verifier().and_then(|key| key.verify(&shown.note).ok());
                if let Some(open) = self.channels.get_mut(channel) {
                    open.known = accepted;
                }
                turn.send(channel, ToNode::Checkpoint(Box::new(shown)));
            }
            (Err(Contradicted { note }), Some(known), Some(node)) => {
                let proof = Vec::new();
                turn.send(
                    channel,
                    ToNode::Checkpoint(Box::new(Checkpointed { note, proof })),
                );
                self.contradicted(turn, node, &known);
            }
            (Err(_), None, _) | (_, _, None) => {}
        }
    }

    /// Why nothing new is given while the ledger is known to have been rolled back.
    pub(crate) fn safe_mode(&self) -> Option<Refusal> {
        let rollback = self.world.state.rollback()?;
        let why = format!(
            "the controller is in safe mode: its ledger was rolled back or written anew, for {} knows {} entries of another one",
            rollback.node, rollback.size
        );
        let next = "Ask an admin to look, and then to run: cardeactl status --acknowledge-rollback";
        Some(Refusal::new(RefusalCode::SafeMode, why).with_next(next))
    }

    fn contradicted(&mut self, turn: &mut Turn<'_>, node: NodeId, known: &Checkpoint) {
        if self.world.state.rollback().is_some() {
            return;
        }
        tracing::error!(node.id = %node, entries = known.size, "the ledger was rolled back or written anew");
        let mut draft = draft(turn.now.unix, Actor::Node(node));
        draft.changes.push(Change::RollbackNoticed(Rollback {
            node,
            size: known.size,
            root: known.root,
        }));
        let pending = Pending {
            intent: Intent::Note,
            tries: 0,
        };
        self.propose(turn, Expects::of([RecordKey::Rollback]), draft, pending);
    }

    fn verifier(&self) -> Option<Verifier> {
        let founded = &self.world.founded;
        let key = founded.ledger_key.as_ref().try_into().ok()?;
        Some(Verifier::new(origin(&founded.domain), key))
    }
}

#[cfg(test)]
mod tests;
