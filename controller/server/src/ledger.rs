//! The store's thread: everything that waits is one group commit.
//!
//! ```text
//! loop of the controller ── Proposal ──▶ thread ── commit(all that waits) ──▶ Outcome ──▶ loop
//! admin connections ──────── Tail ─────▶        ── tail ──▶ entries ──▶ connection
//! ```

use std::{io, thread::JoinHandle};

use cardea_core::{CommitError, Proposal, ProposalId};
use cardea_proto::ledger::{Entry, Revision};
use cardea_store::{Store, TailError};
use tokio::sync::{mpsc, oneshot};

/// Proposals in one group commit; more only makes those in front wait longer.
const BATCH_MAX: usize = 4_096;

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
pub(crate) struct Ledger(mpsc::UnboundedSender<Job>);

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
    /// Gives a loaded store its thread. Outcomes come in the order of the ledger.
    pub(crate) fn start(
        store: Box<dyn Store>,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Outcome>, JoinHandle<()>)> {
        let (jobs, waiting) = mpsc::unbounded_channel();
        let (outcomes, results) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || serve(store, waiting, &outcomes))?;
        Ok((Self(jobs), results, thread))
    }

    /// Proposes. The caller counts what is on its way and limits it.
    pub(crate) fn commit(&self, proposal: Proposal) -> Result<(), Ended> {
        self.0
            .send(Job::Commit(Box::new(proposal)))
            .map_err(|_| Ended)
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
        self.0.send(job).map_err(|_| Ended)?;
        entries.await.map_err(|_| Ended)
    }
}

fn serve(
    mut store: Box<dyn Store>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    outcomes: &mpsc::UnboundedSender<Outcome>,
) {
    while let Some(first) = jobs.blocking_recv() {
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
            for (proposal, result) in ids.into_iter().zip(store.commit(proposals)) {
                if outcomes.send(Outcome { proposal, result }).is_err() {
                    tracing::debug!("an outcome came while the controller was leaving");
                }
            }
        }
        for (after, limit, answer) in reads {
            if answer.send(store.tail(after, limit)).is_err() {
                tracing::debug!("nobody waits any longer for the entries that were read");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::{
        id::ControllerId,
        ledger::{Actor, Change, Draft, RecordKey},
        time::UnixMillis,
    };
    use cardea_store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn outcomes_come_in_order_and_the_tail_shows_them() {
        let (ledger, mut outcomes, thread) = Ledger::start(Box::new(MemoryStore::new())).unwrap();
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
