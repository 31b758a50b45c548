//! The node as a witness: it remembers how far the ledger had come, and the ledger must go on from
//! there.

use std::time::{Duration, Instant};

use cardea_ledger::{
    checkpoint::{Checkpoint, Verifier},
    tree::is_consistent,
};
use cardea_proto::{message::Checkpointed, time::Now};
use tracing::{error, info, warn};

/// How long a controller may take to show its ledger after its `Welcome`.
const PROOF_TIME: Duration = Duration::from_secs(8);

/// What a node remembers of the ledger.
#[derive(Debug)]
pub(super) struct Witness {
    verifier: Verifier,
    /// The last checkpoint that was accepted, and its note.
    known: Option<(Checkpoint, String)>,
    /// When the controller must have shown its ledger.
    due: Option<Instant>,
    /// Whether the ledger was shown to go on, the last time that it was asked for.
    doubt: Option<Doubt>,
}

/// Why a node does not believe that the ledger is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// The controller shows nothing.
    Silent,
    /// What it shows does not go on from what the node knows.
    Contradicted {
        /// How many entries the node knows of.
        known: u64,
    },
}

impl Witness {
    /// A witness of the ledger that `verifier` checks; `note` is what it remembers.
    pub(super) fn new(verifier: Verifier, note: Option<&str>) -> Self {
        let known = note.and_then(|note| {
            let verified = verifier.verify(note);
            verified
                .inspect_err(|error| warn!(reason = %error, "the checkpoint on disk is not used"))
                .ok()
                .map(|checkpoint| (checkpoint, note.to_owned()))
        });
        Self {
            verifier,
            known,
            due: None,
            doubt: None,
        }
    }

    /// What the node says that it knows.
    pub(super) fn note(&self) -> Option<&str> {
        self.known.as_ref().map(|(_, note)| note.as_str())
    }

    /// The controller has been asked to show its ledger.
    pub(super) fn demand(&mut self, now: Instant) {
        self.due = Some(now + PROOF_TIME);
    }

    /// Nobody is there who could show it.
    pub(super) const fn rest(&mut self) {
        self.due = None;
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn timeout(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            warn!("the controller does not show its ledger");
            self.doubt.get_or_insert(Doubt::Silent);
        }
    }

    /// The controller shows its ledger; answers the note when it is to be remembered.
    pub(super) fn shown(&mut self, now: Now, shown: &Checkpointed) -> Option<String> {
        self.due = None;
        let next = match self.verifier.verify(&shown.note) {
            Ok(next) => next,
            Err(reason) => {
                error!(%reason, at = %now.unix.to_rfc3339(), "the ledger's checkpoint does not hold");
                let known = self.known.as_ref().map_or(0, |(known, _)| known.size);
                self.doubt = Some(Doubt::Contradicted { known });
                return None;
            }
        };
        if let Some((known, note)) = &self.known {
            let (old, new) = ((known.size, &known.root), (next.size, &next.root));
            let goes_on = next.epoch >= known.epoch && is_consistent(old, new, &shown.proof);
            if !goes_on && next.epoch > known.epoch {
                warn!(
                    before = note,
                    now = shown.note,
                    "an admin let the ledger go on after a rollback"
                );
            } else if !goes_on {
                let known = known.size;
                error!(
                    known = note,
                    shown = shown.note,
                    "the ledger does not go on from what this node knows: it was rolled back or forked"
                );
                self.doubt = Some(Doubt::Contradicted { known });
                return None;
            }
        }
        if self.doubt.take().is_some() {
            info!(entries = next.size, "the ledger is shown to go on");
        }
        let moved = self.note() != Some(shown.note.as_str());
        self.known = Some((next, shown.note.clone()));
        moved.then(|| shown.note.clone())
    }

    pub(super) const fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }
}

#[cfg(test)]
mod tests {
    use cardea_ledger::{
        checkpoint::LedgerKey,
        tree::{Tree, leaf},
    };
    use cardea_proto::codec::Digest;

    use super::*;

    struct Ledger {
        leaves: Vec<Digest>,
        tree: Tree,
        epoch: u64,
    }

    impl Ledger {
        fn of(name: &str, size: u64) -> Self {
            let mut this = Self {
                leaves: Vec::new(),
                tree: Tree::new(),
                epoch: 0,
            };
            this.grow(name, size);
            this
        }

        fn grow(&mut self, name: &str, by: u64) {
            for at in 0..by {
                let leaf = leaf(format!("{name} {at}").as_bytes());
                self.leaves.push(leaf);
                self.tree.push(leaf);
            }
        }

        fn shown(&self, known: u64) -> Checkpointed {
            let size = self.tree.size();
            let proof = self.tree.prove(known, size, |range| {
                let range = range.start.try_into().unwrap()..range.end.try_into().unwrap();
                Ok::<_, ()>(self.leaves[range].to_vec())
            });
            Checkpointed {
                note: key(1).sign(size, self.tree.root(), self.epoch).unwrap(),
                proof: proof.unwrap(),
            }
        }
    }

    fn key(seed: u8) -> LedgerKey {
        LedgerKey::from_seed(&"corp.example".parse().unwrap(), &[seed; 32]).unwrap()
    }

    fn witness() -> Witness {
        Witness::new(key(1).verifier().clone(), None)
    }

    fn now() -> Now {
        cardea_proto::time::testing::start()
    }

    #[test]
    fn a_ledger_that_goes_on_is_remembered_each_time() {
        let mut ledger = Ledger::of("a", 10);
        let mut witness = witness();
        let mut known = 0;
        for _ in 0..5 {
            let note = witness.shown(now(), &ledger.shown(known)).unwrap();
            assert_eq!(witness.note(), Some(note.as_str()));
            assert_eq!(witness.doubt(), None);
            let again = Witness::new(key(1).verifier().clone(), Some(&note));
            assert_eq!(again.note(), Some(note.as_str()));
            known = ledger.tree.size();
            assert_eq!(witness.shown(now(), &ledger.shown(known)), None);
            ledger.grow("a", 7);
        }
    }

    #[test]
    fn a_rollback_a_fork_and_another_key_are_noticed_and_nothing_is_forgotten() {
        let ledger = Ledger::of("a", 10);
        let mut witness = witness();
        let note = witness.shown(now(), &ledger.shown(0)).unwrap();
        let mut other_key = ledger.shown(10);
        other_key.note = key(2).sign(10, ledger.tree.root(), 0).unwrap();
        for wrong in [
            Ledger::of("a", 9).shown(9),
            Ledger::of("b", 12).shown(10),
            other_key,
        ] {
            assert_eq!(witness.shown(now(), &wrong), None);
            assert_eq!(witness.doubt(), Some(Doubt::Contradicted { known: 10 }));
            assert_eq!(witness.note(), Some(note.as_str()));
            witness.shown(now(), &ledger.shown(10));
            assert_eq!(witness.doubt(), None);
        }
    }

    #[test]
    fn only_a_later_epoch_need_not_go_on() {
        let mut witness = witness();
        witness.shown(now(), &Ledger::of("a", 10).shown(0)).unwrap();
        let mut other = Ledger::of("b", 5);
        other.epoch = 1;
        let mut shown = other.shown(0);
        shown.proof.clear();
        assert_eq!(witness.shown(now(), &shown), Some(shown.note));
        let shown = Ledger::of("a", 10).shown(0);
        assert_eq!(witness.shown(now(), &shown), None);
        assert!(witness.doubt().is_some());
    }

    #[test]
    fn a_controller_that_shows_nothing_is_doubted_after_a_while() {
        let mut witness = witness();
        let begin = now().instant;
        witness.demand(begin);
        assert_eq!(witness.deadline(), Some(begin + PROOF_TIME));
        witness.timeout(begin);
        assert_eq!(witness.doubt(), None);
        witness.timeout(begin + PROOF_TIME);
        assert_eq!(witness.doubt(), Some(Doubt::Silent));
        witness.shown(now(), &Ledger::of("a", 1).shown(0));
        assert_eq!(witness.doubt(), None);
    }
}
