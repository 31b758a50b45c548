//! The store's thread: everything that waits is one group commit, and once a second all of it is
//! signed.
//!
//! ```text
//! loop of the controller ── Proposal ──▶ thread ── commit(all that waits) ──▶ Outcome ──▶ loop
//! admin connections ──────── Tail ─────▶        ── tail ──▶ entries ──▶ connection
//! ```

use std::{
    io,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use cardea_core::{ChannelId, CommitError, Contradicted, ProofRequest, Proposal, ProposalId};
use cardea_host::clock::Clock;
use cardea_ledger::checkpoint::Checkpoint;
use cardea_proto::{
    ledger::{Entry, Revision},
    message::Checkpointed,
};
use cardea_store::{Notary, ShowError, Store, TailError};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
};

/// Proposals in one group commit; more only makes those in front wait longer.
const BATCH_MAX: usize = 4_096;

/// Longest time that an entry waits for a checkpoint that covers it.
const CHECKPOINT_TIME: Duration = Duration::from_millis(900);

/// Time before a checkpoint that could not be kept is tried again.
const RETRY_TIME: Duration = Duration::from_secs(10);

/// Reads between two commits, so that readers cannot hold up a commit for long.
const READS_MAX: usize = 8;

/// What the store says to the controller.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// What became of a proposal.
    Proposed {
        /// The proposal.
        proposal: ProposalId,
        /// Its entry, or why there is none.
        result: Result<Box<Entry>, CommitError>,
    },
    /// The answer to a [`ProofRequest`].
    Proof {
        /// For which channel.
        channel: ChannelId,
        /// What its node knows.
        known: Option<Checkpoint>,
        /// The ledger as it is, when it goes on from there.
        result: Result<Checkpointed, Contradicted>,
    },
}

/// The way to the thread. It ends, after all that was asked of it, when every copy is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    jobs: mpsc::UnboundedSender<Job>,
    latest: watch::Receiver<Option<Arc<str>>>,
}

#[derive(Debug)]
enum Job {
    Commit(Box<Proposal>),
    Prove(Box<ProofRequest>),
    Tail {
        after: Revision,
        limit: usize,
        answer: oneshot::Sender<Result<Vec<Entry>, TailError>>,
    },
}

/// The thread has ended.
#[derive(Debug, thiserror::Error)]
#[error("the store's thread has ended")]
pub(crate) struct Ended;

impl Ledger {
    /// Gives a loaded store its thread, which signs checkpoints with `key`. Outcomes come in the
    /// order of the ledger. Must be called within a runtime.
    pub(crate) fn start(
        store: Box<dyn Store>,
        notary: Notary,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Outcome>, JoinHandle<()>)> {
        let (jobs, waiting) = mpsc::unbounded_channel();
        let (outcomes, results) = mpsc::unbounded_channel();
        let latest = watch::Sender::new(notary.latest().map(Arc::from));
        let followed = latest.subscribe();
        let runtime = Handle::current();
        let keeper = Keeper {
            store,
            notary,
            clock: Clock::system(),
            due: None,
            latest,
            outcomes,
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || keeper.serve(&runtime, waiting))?;
        let this = Self {
            jobs,
            latest: followed,
        };
        Ok((this, results, thread))
    }

    /// Proposes. The caller counts what is on its way and limits it.
    pub(crate) fn commit(&self, proposal: Proposal) -> Result<(), Ended> {
        self.jobs
            .send(Job::Commit(Box::new(proposal)))
            .map_err(|_| Ended)
    }

    /// Asks for a proof, which comes as an [`Outcome`].
    pub(crate) fn prove(&self, wanted: ProofRequest) -> Result<(), Ended> {
        self.jobs
            .send(Job::Prove(Box::new(wanted)))
            .map_err(|_| Ended)
    }

    /// The latest checkpoint, a signed note, as it changes.
    pub(crate) fn checkpoints(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.latest.clone()
    }

    /// Reads entries after a revision. Each connection has one reading on its way.
    pub(crate) async fn tail(
        &self,
        after: Revision,
        limit: usize,
    ) -> Result<Result<Vec<Entry>, TailError>, Ended> {
        let (answer, entries) = oneshot::channel();
        let job = Job::Tail {
            after,
            limit,
            answer,
        };
        self.jobs.send(job).map_err(|_| Ended)?;
        entries.await.map_err(|_| Ended)
    }
}

/// What the thread has.
#[derive(Debug)]
struct Keeper {
    store: Box<dyn Store>,
    notary: Notary,
    clock: Clock,
    /// When entries that no checkpoint covers must be covered.
    due: Option<Instant>,
    latest: watch::Sender<Option<Arc<str>>>,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

impl Keeper {
    fn serve(mut self, runtime: &Handle, mut jobs: mpsc::UnboundedReceiver<Job>) {
        self.sign();
        loop {
            let next = match self.due {
                None => jobs.blocking_recv(),
                Some(due) => {
                    let left = self.clock.until(due);
                    let next =
                        runtime.block_on(async { tokio::time::timeout(left, jobs.recv()).await });
                    match next {
                        Ok(next) => next,
                        Err(_) => {
                            self.sign();
                            continue;
                        }
                    }
                }
            };
            let Some(first) = next else {
                break;
            };
            self.turn(first, &mut jobs);
            if self.due.is_some_and(|due| due <= self.clock.now().instant) {
                self.sign();
            }
        }
        self.sign();
    }

    /// Does everything that waits.
    fn turn(&mut self, first: Job, jobs: &mut mpsc::UnboundedReceiver<Job>) {
        let mut proposals = Vec::new();
        let mut reads = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Commit(proposal) => proposals.push(*proposal),
                read @ (Job::Prove(_) | Job::Tail { .. }) => reads.push(read),
            }
            if proposals.len() < BATCH_MAX && reads.len() < READS_MAX {
                next = jobs.try_recv().ok();
            }
        }
        self.commit(proposals);
        for read in reads {
            match read {
                Job::Commit(_) => {}
                Job::Prove(wanted) => self.prove(*wanted),
                Job::Tail {
                    after,
                    limit,
                    answer,
                } => {
                    if answer.send(self.store.tail(after, limit)).is_err() {
                        tracing::debug!("nobody waits any longer for the entries that were read");
                    }
                }
            }
        }
    }

    fn commit(&mut self, proposals: Vec<Proposal>) {
        let ids: Vec<ProposalId> = proposals.iter().map(|proposal| proposal.id).collect();
        if ids.is_empty() {
            return;
        }
        for (proposal, result) in ids.into_iter().zip(self.store.commit(proposals)) {
            if let Ok(entry) = &result {
                self.notary.notice(entry);
            }
            let result = result.map(Box::new);
            self.tell(Outcome::Proposed { proposal, result });
        }
        if self.store.tree().size() > self.notary.covered() {
            // Sooner than another try after a refusal: there was room for an entry now.
            let latest = self.clock.now().instant + CHECKPOINT_TIME;
            self.due = Some(self.due.map_or(latest, |due| due.min(latest)));
        }
    }

    fn prove(&mut self, wanted: ProofRequest) {
        let ProofRequest { channel, known } = wanted;
        let shown = self.notary.show(self.store.as_mut(), known.as_ref());
        self.publish();
        let result = match shown {
            Ok(shown) => Ok(shown),
            Err(ShowError::Contradicted { note, .. }) => Err(Contradicted { note }),
            Err(error @ ShowError::Failed(_)) => {
                tracing::warn!(reason = %error, "a node was not shown the ledger");
                return;
            }
        };
        self.tell(Outcome::Proof {
            channel,
            known,
            result,
        });
    }

    fn tell(&self, outcome: Outcome) {
        if self.outcomes.send(outcome).is_err() {
            tracing::debug!("an outcome came while the controller was leaving");
        }
    }

    /// Signs everything, or tries again later.
    fn sign(&mut self) {
        self.due = match self.notary.sign(self.store.as_mut()) {
            Ok(()) => None,
            Err(reason) => {
                tracing::warn!(reason, "no checkpoint could be kept");
                Some(self.clock.now().instant + RETRY_TIME)
            }
        };
        self.publish();
    }

    fn publish(&self) {
        let latest = self.notary.latest();
        self.latest.send_if_modified(|shown| {
            let moved = shown.as_deref() != latest;
            if moved {
                *shown = latest.map(Arc::from);
            }
            moved
        });
    }
}

#[cfg(test)]
mod tests {
    use cardea_ledger::checkpoint::LedgerKey;
    use cardea_ledger::tree::Tree;
    use cardea_proto::codec::Digest;
    use cardea_proto::{
        id::ControllerId,
        ledger::{Actor, Change, Draft, RecordKey},
        time::UnixMillis,
    };
    use cardea_store::{EmbeddedStore, LoadError, Loaded, MemoryStore};

    use super::*;

    #[tokio::test]
    async fn outcomes_come_in_order_and_the_tail_shows_them() {
        let (ledger, mut outcomes, thread) = started(Box::new(MemoryStore::new()));
        for id in 0..100 {
            ledger.commit(site(id, id % 10)).unwrap();
        }
        let mut taken: usize = 0;
        for id in 0..100 {
            let Outcome::Proposed { proposal, result } = outcomes.recv().await.unwrap() else {
                panic!("nobody asked for a proof");
            };
            assert_eq!(proposal, ProposalId(id));
            assert_eq!(result.is_ok(), id < 10, "{id}");
            taken += usize::from(result.is_ok());
        }
        let entries = ledger.tail(Revision(3), 100).await.unwrap().unwrap();
        assert_eq!(entries.len() + 3, taken);
        drop(ledger);
        assert!(outcomes.recv().await.is_none());
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn entries_are_covered_by_a_checkpoint_by_themselves() {
        const { assert!(CHECKPOINT_TIME.as_millis() < 1_000) }
        let dir = tempfile::tempdir().unwrap();
        let (ledger, _outcomes, thread) = started(Box::new(EmbeddedStore::new(dir.path())));
        let mut checkpoints = ledger.checkpoints();
        for id in 0..3 {
            ledger.commit(site(id, id)).unwrap();
            checkpoints.changed().await.unwrap();
            let note = checkpoints.borrow().clone().unwrap();
            assert_eq!(key().verifier().verify(&note).unwrap().size, id + 1);
        }
        drop(ledger);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn what_is_not_covered_when_the_thread_ends_is_covered_last() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, mut outcomes, thread) = started(Box::new(EmbeddedStore::new(dir.path())));
        ledger.commit(site(0, 0)).unwrap();
        outcomes.recv().await.unwrap();
        drop(ledger);
        thread.join().unwrap();
        let loaded = EmbeddedStore::new(dir.path()).load().unwrap();
        let checkpoint = key().verifier().verify(&loaded.checkpoint.unwrap());
        assert_eq!(checkpoint.unwrap().size, 1);
    }

    #[tokio::test]
    async fn what_comes_while_a_commit_is_made_durable_shares_the_next_one_and_hears_of_it_after() {
        let dir = tempfile::tempdir().unwrap();
        let (begun, begins) = std::sync::mpsc::channel();
        let (goes_on, go_on) = std::sync::mpsc::channel();
        let store = EmbeddedStore::new(dir.path());
        let (ledger, mut outcomes, thread) = started(Box::new(Held {
            store,
            begun,
            go_on,
            refusal: None,
        }));
        ledger.commit(site(0, 0)).unwrap();
        assert_eq!(begins.recv().unwrap(), 1);
        let mut writers = tokio::task::JoinSet::new();
        for id in 1..64 {
            let ledger = ledger.clone();
            writers.spawn(async move { ledger.commit(site(id, id)).unwrap() });
        }
        while let Some(written) = writers.join_next().await {
            written.unwrap();
        }
        assert!(outcomes.try_recv().is_err(), "told before it was durable");
        goes_on.send(()).unwrap();
        assert_eq!(begins.recv().unwrap(), 63, "one commit for all that waited");
        assert!(is_taken(outcomes.recv().await));
        assert!(outcomes.try_recv().is_err(), "told before it was durable");
        goes_on.send(()).unwrap();
        for _ in 1..64 {
            assert!(is_taken(outcomes.recv().await));
        }
        drop(ledger);
        thread.join().unwrap();
        assert!(begins.try_recv().is_err(), "a third commit");
        let loaded = EmbeddedStore::new(dir.path()).load().unwrap();
        assert_eq!(loaded.head.revision, Revision(64));
    }

    #[tokio::test]
    async fn entries_are_covered_as_soon_as_ever_after_a_checkpoint_was_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (begun, _begins) = std::sync::mpsc::channel();
        let (goes_on, go_on) = std::sync::mpsc::channel();
        let (refused, mut refusals) = mpsc::unbounded_channel();
        let (ledger, _outcomes, thread) = started(Box::new(Held {
            store: EmbeddedStore::new(dir.path()),
            begun,
            go_on,
            refusal: Some(refused),
        }));
        let mut checkpoints = ledger.checkpoints();
        goes_on.send(()).unwrap();
        ledger.commit(site(0, 0)).unwrap();
        refusals.recv().await.unwrap();
        goes_on.send(()).unwrap();
        ledger.commit(site(1, 1)).unwrap();
        let soon = tokio::time::timeout(RETRY_TIME / 2, checkpoints.changed());
        soon.await.unwrap().unwrap();
        drop(ledger);
        thread.join().unwrap();
    }

    fn is_taken(outcome: Option<Outcome>) -> bool {
        matches!(outcome, Some(Outcome::Proposed { result: Ok(_), .. }))
    }

    /// The embedded store, which says how much a commit holds and waits for a word before it, and
    /// refuses a checkpoint once, where that is wanted.
    #[derive(Debug)]
    struct Held {
        store: EmbeddedStore,
        begun: std::sync::mpsc::Sender<usize>,
        go_on: std::sync::mpsc::Receiver<()>,
        refusal: Option<mpsc::UnboundedSender<()>>,
    }

    impl Store for Held {
        fn load(&mut self) -> Result<Loaded, LoadError> {
            self.store.load()
        }

        fn commit(&mut self, batch: Vec<Proposal>) -> Vec<Result<Entry, CommitError>> {
            self.begun.send(batch.len()).unwrap();
            self.go_on.recv().unwrap();
            self.store.commit(batch)
        }

        fn tail(&mut self, after: Revision, limit: usize) -> Result<Vec<Entry>, TailError> {
            self.store.tail(after, limit)
        }

        fn tree(&self) -> &Tree {
            self.store.tree()
        }

        fn leaves(&mut self, after: Revision, limit: usize) -> Result<Vec<Digest>, TailError> {
            self.store.leaves(after, limit)
        }

        fn checkpoint(&mut self, note: &str) -> Result<(), CommitError> {
            if let Some(refused) = self.refusal.take() {
                refused.send(()).unwrap();
                return Err(CommitError::Full);
            }
            self.store.checkpoint(note)
        }
    }

    fn key() -> LedgerKey {
        LedgerKey::from_seed(&"corp.example".parse().unwrap(), &[1; 32]).unwrap()
    }

    fn started(
        mut store: Box<dyn Store>,
    ) -> (Ledger, mpsc::UnboundedReceiver<Outcome>, JoinHandle<()>) {
        let loaded = store.load().unwrap();
        let notary = Notary::new(key(), store.as_mut(), &loaded).unwrap();
        Ledger::start(store, notary).unwrap()
    }

    fn site(id: u64, name: u64) -> Proposal {
        let name: cardea_proto::name::Name = format!("s{name}").parse().unwrap();
        Proposal {
            id: ProposalId(id),
            expects: vec![(RecordKey::Site(name.clone()), Revision(0))],
            draft: Draft {
                at: UnixMillis(1),
                actor: Actor::Controller(ControllerId::from_bytes([1; 10])),
                changes: vec![Change::SiteAdded(name)],
                decision: None,
                signed: None,
            },
        }
    }
}
