//! Which proposals of a batch are taken, and as which entries.

use std::collections::BTreeSet;

use cardea_core::{CommitError, Proposal, Revisions};
use cardea_ledger::{entry::Encoded, frame::PAYLOAD_BYTES_MAX};
use cardea_proto::ledger::{Draft, Entry, RecordKey};

use crate::Head;

/// A batch after its proposals were checked.
#[derive(Debug)]
pub(crate) struct Admission {
    /// One outcome for each proposal: `Ok` stands for the next one of `entries`.
    outcomes: Vec<Result<(), CommitError>>,
    /// What to make durable, in order.
    pub(crate) entries: Vec<Encoded>,
}

impl Admission {
    /// Checks a batch against what is recorded, and each proposal against those before it.
    pub(crate) fn of(recorded: &Revisions, head: Head, batch: Vec<Proposal>) -> Self {
        let mut this = Self {
            outcomes: Vec::with_capacity(batch.len()),
            entries: Vec::with_capacity(batch.len()),
        };
        let mut head = head;
        let mut moved = BTreeSet::new();
        for proposal in batch {
            let outcome = this.admit(recorded, &mut head, &mut moved, proposal);
            this.outcomes.push(outcome);
        }
        this
    }

    /// The outcomes once the entries are durable, or once they could not be made so.
    pub(crate) fn conclude(
        self,
        written: Result<(), CommitError>,
    ) -> Vec<Result<Entry, CommitError>> {
        let mut entries = self.entries.into_iter();
        let unwritten =
            || CommitError::Failed("an entry was lost on its way to the store".to_owned());
        self.outcomes
            .into_iter()
            .map(|outcome| {
                outcome?;
                let entry = entries.next().ok_or_else(unwritten)?.entry;
                written.clone().map(|()| entry)
            })
            .collect()
    }

    fn admit(
        &mut self,
        recorded: &Revisions,
        head: &mut Head,
        moved: &mut BTreeSet<RecordKey>,
        proposal: Proposal,
    ) -> Result<(), CommitError> {
        let Proposal { expects, draft, .. } = proposal;
        // Whatever moved earlier in this batch has moved since this proposal was planned.
        let holds = expects
            .iter()
            .all(|(key, revision)| !moved.contains(key) && recorded.of(key) == *revision);
        if !holds {
            return Err(CommitError::Conflict);
        }
        let keys: Vec<RecordKey> = keys(&draft).collect();
        let encoded = Encoded::new(Entry {
            revision: head.revision.next(),
            previous: head.hash,
            draft,
        });
        if encoded.bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(CommitError::Failed(format!(
                "an entry of {} bytes is larger than {PAYLOAD_BYTES_MAX}",
                encoded.bytes.len()
            )));
        }
        *head = Head {
            revision: encoded.entry.revision,
            hash: encoded.hash,
        };
        moved.extend(keys);
        self.entries.push(encoded);
        Ok(())
    }
}

fn keys(draft: &Draft) -> impl Iterator<Item = RecordKey> {
    draft
        .changes
        .iter()
        .filter_map(cardea_proto::ledger::Change::key)
}
