//! The store's thread: everything that waits is one group commit, and once a second all of it is
//! signed.
//!
//! ```text
//! loop of the controller ── Proposal ──▶ thread ── commit(all that waits) ──▶ Outcome ──▶ loop
//! admin connections ──────── Tail ─────▶        ── tail ──▶ entries ──▶ connection
//! ```

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use cardea_core::{CommitError, Proposal, ProposalId};
use cardea_ledger::checkpoint::{Checkpoint, LedgerKey};
use cardea_proto::ledger::{Entry, Revision};
use cardea_store::{Loaded, Store, TailError};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// Proposals in one group commit; more only makes those in front wait longer.
const BATCH_MAX: usize = 4_096;

/// Longest time that an entry waits for a checkpoint that covers it.
const CHECKPOINT_TIME: Duration = Duration::from_millis(900);

/// Time before a checkpoint that could not be kept is tried again.
const RETRY_TIME: Duration = Duration::from_secs(10);

/// Reads between two commits, so that readers cannot hold up a commit for long.
const READS_MAX: usize = 8;

/// What became of a proposal.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The proposal.
    pub(crate) proposal: ProposalId,
    /// Its entry, or why there is none.
    pub(crate) result: Result<Entry, CommitError>,
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
        let latest = notary.latest.subscribe();
        let runtime = Handle::current();
        let keeper = Keeper {
            store,
            notary,
            outcomes,
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || keeper.serve(&runtime, waiting))?;
        Ok((Self { jobs, latest }, results, thread))
    }

    /// Proposes. The caller counts what is on its way and limits it.
    pub(crate) fn commit(&self, proposal: Proposal) -> Result<(), Ended> {
        self.jobs
            .send(Job::Commit(Box::new(proposal)))
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

/// Signs what the store has.
#[derive(Debug)]
pub(crate) struct Notary {
    key: LedgerKey,
    /// How many entries the last checkpoint covers.
    covered: u64,
    /// When entries that came since must be covered.
    due: Option<Instant>,
    latest: watch::Sender<Option<Arc<str>>>,
}

/// The last checkpoint of a ledger is none of its own.
#[derive(Debug, thiserror::Error)]
#[error("the last checkpoint does not hold: {0}")]
pub(crate) struct Disproved(String);

impl Notary {
    /// A notary for a store that has loaded.
    ///
    /// # Errors
    /// [`Disproved`] when the last checkpoint was not signed by `key`, or over other entries than
    /// those in the store.
    pub(crate) fn new(
        key: LedgerKey,
        store: &mut dyn Store,
        loaded: &Loaded,
    ) -> Result<Self, Disproved> {
        let covered = match &loaded.checkpoint {
            None => 0,
            Some(note) => {
                let checkpoint = key.verifier().verify(note);
                let checkpoint = checkpoint.map_err(|error| Disproved(error.to_string()))?;
                contains(store, &checkpoint)?;
                checkpoint.size
            }
        };
        Ok(Self {
            key,
            covered,
            due: None,
            latest: watch::Sender::new(loaded.checkpoint.as_deref().map(Arc::from)),
        })
    }

    /// Notices that the ledger may have grown.
    fn notice(&mut self, size: u64) {
        if size > self.covered && self.due.is_none() {
            self.due = Some(Instant::now() + CHECKPOINT_TIME);
        }
    }

    /// Signs everything, or tries again later.
    fn sign(&mut self, store: &mut dyn Store) {
        self.due = None;
        let (size, root) = (store.tree().size(), store.tree().root());
        if size == self.covered {
            return;
        }
        let signed = self.key.sign(size, root).map_err(|error| error.to_string());
        let kept = signed.and_then(|note| {
            let kept = store.checkpoint(&note);
            kept.map(|()| note).map_err(|error| error.to_string())
        });
        match kept {
            Ok(note) => {
                self.covered = size;
                self.latest.send_replace(Some(note.into()));
            }
            Err(reason) => {
                tracing::warn!(reason, "no checkpoint could be kept");
                self.due = Some(Instant::now() + RETRY_TIME);
            }
        }
    }
}

/// Whether a store has what a checkpoint was signed over.
fn contains(store: &mut dyn Store, checkpoint: &Checkpoint) -> Result<(), Disproved> {
    let tree = store.tree().clone();
    if checkpoint.size > tree.size() {
        return Err(Disproved(format!(
            "it covers {} entries, and there are {}",
            checkpoint.size,
            tree.size()
        )));
    }
    let root = tree
        .root_at(checkpoint.size, |range| {
            let limit = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
            store.leaves(Revision(range.start), limit)
        })
        .map_err(|error| Disproved(error.to_string()))?;
    if root != checkpoint.root {
        return Err(Disproved("it was signed over other entries".to_owned()));
    }
    Ok(())
}

/// What the thread has.
#[derive(Debug)]
struct Keeper {
    store: Box<dyn Store>,
    notary: Notary,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

impl Keeper {
    fn serve(mut self, runtime: &Handle, mut jobs: mpsc::UnboundedReceiver<Job>) {
        self.notary.sign(self.store.as_mut());
        loop {
            let next = match self.notary.due {
                None => jobs.blocking_recv(),
                Some(due) => {
                    let next =
                        runtime.block_on(async { tokio::time::timeout_at(due, jobs.recv()).await });
                    match next {
                        Ok(next) => next,
                        Err(_) => {
                            self.notary.sign(self.store.as_mut());
                            continue;
                        }
                    }
                }
            };
            let Some(first) = next else {
                break;
            };
            self.turn(first, &mut jobs);
            if self.notary.due.is_some_and(|due| due <= Instant::now()) {
                self.notary.sign(self.store.as_mut());
            }
        }
        self.notary.sign(self.store.as_mut());
    }

    /// Does everything that waits.
    fn turn(&mut self, first: Job, jobs: &mut mpsc::UnboundedReceiver<Job>) {
        let mut proposals = Vec::new();
        let mut reads = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Commit(proposal) => proposals.push(*proposal),
                Job::Tail {
                    after,
                    limit,
                    answer,
                } => reads.push((after, limit, answer)),
            }
            if proposals.len() < BATCH_MAX && reads.len() < READS_MAX {
                next = jobs.try_recv().ok();
            }
        }
        let ids: Vec<ProposalId> = proposals.iter().map(|proposal| proposal.id).collect();
        if !ids.is_empty() {
            for (proposal, result) in ids.into_iter().zip(self.store.commit(proposals)) {
                if self.outcomes.send(Outcome { proposal, result }).is_err() {
                    tracing::debug!("an outcome came while the controller was leaving");
                }
            }
            self.notary.notice(self.store.tree().size());
        }
        for (after, limit, answer) in reads {
            if answer.send(self.store.tail(after, limit)).is_err() {
                tracing::debug!("nobody waits any longer for the entries that were read");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::{
        codec::Bytes,
        id::ControllerId,
        ledger::{Actor, Change, Draft, RecordKey},
        time::UnixMillis,
    };
    use cardea_store::{EmbeddedStore, MemoryStore};

    use super::*;

    #[tokio::test]
    async fn outcomes_come_in_order_and_the_tail_shows_them() {
        let (ledger, mut outcomes, thread) = started(Box::new(MemoryStore::new()));
        for id in 0..100 {
            ledger.commit(site(id, id % 10)).unwrap();
        }
        let mut taken: usize = 0;
        for id in 0..100 {
            let outcome = outcomes.recv().await.unwrap();
            assert_eq!(outcome.proposal, ProposalId(id));
            assert_eq!(outcome.result.is_ok(), id < 10, "{id}");
            taken += usize::from(outcome.result.is_ok());
        }
        let entries = ledger.tail(Revision(3), 100).await.unwrap().unwrap();
        assert_eq!(entries.len() + 3, taken);
        drop(ledger);
        assert!(outcomes.recv().await.is_none());
        thread.join().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn entries_are_covered_by_a_checkpoint_within_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, _outcomes, thread) = started(Box::new(EmbeddedStore::new(dir.path())));
        let mut checkpoints = ledger.checkpoints();
        for id in 0..3 {
            ledger.commit(site(id, id)).unwrap();
            let asked = Instant::now();
            checkpoints.changed().await.unwrap();
            assert!(asked.elapsed() <= Duration::from_secs(1));
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

    #[test]
    fn a_checkpoint_over_other_entries_or_by_another_key_is_noticed() {
        let other = LedgerKey::from_seed(&"corp.example".parse().unwrap(), &[2; 32]).unwrap();
        for (note, fault) in [
            (key().sign(1, Bytes([9; 32])), "other entries"),
            (key().sign(2, Bytes([9; 32])), "there are 1"),
            (other.sign(1, Bytes([9; 32])), "not signed"),
        ] {
            let mut store = MemoryStore::new();
            store.commit(vec![site(0, 0)]);
            store.checkpoint(&note.unwrap()).unwrap();
            let loaded = store.load().unwrap();
            let error = Notary::new(key(), &mut store, &loaded).unwrap_err();
            assert!(error.to_string().contains(fault), "{error}");
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
