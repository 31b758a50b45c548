//! Checking a whole ledger, frame by frame, with the ledger's public key alone.

use std::collections::{BTreeMap, BTreeSet};

use cardea_credential::admin::{ChangeError, verify_change};
use cardea_proto::{
    admin::{AdminChange, SignedChange},
    codec::{Blob, Bytes, Digest},
    id::AdminKeyId,
    ledger::{Actor, Change, Entry, Revision},
    name::Name,
    time::UnixMillis,
};

use crate::{
    asked::is_asked,
    checkpoint::{Checkpoint, CheckpointError, Verifier},
    entry::{self, Encoded, Outline, Record},
    segment,
    tree::{self, Tree},
};

/// Longest time, in milliseconds, between the entries that follow the last checkpoint: one is made
/// every second while entries come, so a longer row without one had its checkpoints taken out.
const UNSIGNED_MS_MAX: u64 = 60_000;

/// What is wrong with a ledger.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A segment that does not continue the one before.
    #[error("the segment does not follow the one before")]
    Segment,
    /// A frame that holds neither an entry nor a checkpoint.
    #[error("the frame holds neither an entry nor a checkpoint")]
    NoRecord,
    /// An entry out of its place.
    #[error("entry {got} stands where entry {expected} must")]
    Order {
        /// The revision it says.
        got: Revision,
        /// The revision it should have.
        expected: Revision,
    },
    /// An entry that does not carry the hash of the one before.
    #[error("it does not carry the hash of entry {0}: one of the two was changed")]
    Chain(Revision),
    /// An entry that is needed whole and cannot be decoded.
    #[error("the entry cannot be read: {0}")]
    Unreadable(String),
    /// The first entry does not begin this ledger.
    #[error("the ledger begins with another key than the one given: {0}")]
    OtherKey(String),
    /// The first entry begins no ledger.
    #[error("the first entry does not found a trust domain")]
    NotFounded,
    /// An admin's entry without the admin's signature.
    #[error("it is an admin's and carries no signature of that admin")]
    Unsigned,
    /// A change that only an admin may make, made by somebody else.
    #[error("it changes what only an admin may change, and carries no admin's request")]
    NotAnAdmin,
    /// A request for something else than what was changed.
    #[error("it changes something else than what the admin's signed request asks for")]
    NotAsked,
    /// A request that was carried out before.
    #[error("the admin's signed request was carried out before")]
    Replayed,
    /// A request for another trust domain.
    #[error("the admin's signed request is for trust domain {0}")]
    OtherDomain(Name),
    /// An admin's signature that does not hold.
    #[error("the admin's signed request does not hold: {0}")]
    Signature(#[from] ChangeError),
    /// An entry by an admin who never existed.
    #[error("admin key {0} is not in the ledger")]
    UnknownAdmin(AdminKeyId),
    /// A checkpoint that is not to be believed.
    #[error("the checkpoint does not hold: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint that was signed over other entries.
    #[error("the checkpoint was signed over other entries than these")]
    OtherEntries,
    /// A checkpoint over no more entries than the one before.
    #[error("the checkpoint covers no more entries than the one before")]
    Repeated,
    /// A checkpoint of another epoch than the entries tell.
    #[error(
        "the checkpoint says epoch {said}, but {acknowledged} rollbacks were acknowledged by an admin"
    )]
    Epoch {
        /// What it says.
        said: u64,
        /// What it should say.
        acknowledged: u64,
    },
    /// The ledger is not a continuation of the checkpoint that is known.
    #[error("the first {0} entries are not those that the known checkpoint was signed over")]
    Forked(u64),
    /// The ledger ends before the checkpoint that is known.
    #[error("the ledger ends here, but a checkpoint of {0} entries is known: it was rolled back")]
    RolledBack(u64),
    /// The ledger ends before what the controller had acknowledged.
    #[error("the ledger ends here, but entry {0} was acknowledged")]
    Truncated(Revision),
    /// No checkpoint covers the last entries.
    #[error("no checkpoint covers the entries from {0} on, and one is signed every second")]
    NotCovered(Revision),
}

/// What was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Entries in all.
    pub entries: u64,
    /// Checkpoints among them.
    pub checkpoints: u64,
    /// Requests of admins.
    pub signatures: u64,
    /// The last checkpoint.
    pub last: Option<Checkpoint>,
}

/// An audit on its way through a ledger.
#[derive(Debug)]
pub struct Audit {
    verifier: Verifier,
    since: Option<Checkpoint>,
    head: (Revision, Digest),
    tree: Tree,
    domain: Option<Name>,
    admins: BTreeMap<AdminKeyId, [u8; 32]>,
    /// The requests that were carried out: the nonce of their connection, and their number there.
    requests: BTreeSet<(Bytes<16>, u64)>,
    /// Rollbacks that an admin acknowledged.
    epoch: u64,
    /// First and last time of the entries behind the last checkpoint.
    uncovered: Option<(UnixMillis, UnixMillis)>,
    report: Report,
}

impl Audit {
    /// An audit of the ledger whose checkpoints `verifier` checks. With `since`, the ledger must also
    /// contain what that checkpoint was signed over.
    #[must_use]
    pub fn new(verifier: Verifier, since: Option<Checkpoint>) -> Self {
        Self {
            verifier,
            since,
            head: (Revision(0), Bytes([0; 32])),
            tree: Tree::default(),
            domain: None,
            admins: BTreeMap::new(),
            requests: BTreeSet::new(),
            epoch: 0,
            uncovered: None,
            report: Report {
                entries: 0,
                checkpoints: 0,
                signatures: 0,
                last: None,
            },
        }
    }

    /// The last entry that holds.
    #[must_use]
    pub const fn head(&self) -> Revision {
        self.head.0
    }

    /// Takes the header of the next segment, which is the `number`th.
    ///
    /// # Errors
    /// [`Fault::Segment`] when it does not continue the one before.
    pub fn segment(&self, number: u64, header: Option<segment::Header>) -> Result<(), Fault> {
        let expected = segment::Header {
            number,
            first: self.head.0.next(),
            previous: self.head.1,
            is_sealed: header.is_some_and(|header| header.is_sealed),
        };
        (header == Some(expected))
            .then_some(())
            .ok_or(Fault::Segment)
    }

    /// Takes the next frame's payload.
    ///
    /// # Errors
    /// The [`Fault`] of what is in it.
    pub fn record(&mut self, payload: &[u8]) -> Result<(), Fault> {
        match Record::of(payload).ok_or(Fault::NoRecord)? {
            Record::Entry(outline) => self.entry(outline, payload),
            Record::Checkpoint(note) => self.checkpoint(note),
        }
    }

    /// Ends the audit. `acknowledged` is how far the controller had acknowledged, where that is
    /// known.
    ///
    /// # Errors
    /// [`Fault`] when entries or checkpoints are missing from the end.
    pub fn finish(self, acknowledged: Option<Revision>) -> Result<Report, Fault> {
        let (revision, _) = self.head;
        if revision.0 == 0 {
            return Err(Fault::NotFounded);
        }
        if let Some(acknowledged) = acknowledged.filter(|acknowledged| *acknowledged > revision) {
            return Err(Fault::Truncated(acknowledged));
        }
        if let Some(since) = self.since.filter(|since| since.size > revision.0) {
            return Err(Fault::RolledBack(since.size));
        }
        let covered = self.report.last.as_ref().map_or(0, |last| last.size);
        let long = self
            .uncovered
            .is_some_and(|(first, last)| last.0.saturating_sub(first.0) > UNSIGNED_MS_MAX);
        if long {
            return Err(Fault::NotCovered(Revision(covered).next()));
        }
        Ok(self.report)
    }

    fn entry(&mut self, outline: Outline, payload: &[u8]) -> Result<(), Fault> {
        let (before, hash) = self.head;
        let expected = before.next();
        if outline.revision != expected {
            return Err(Fault::Order {
                got: outline.revision,
                expected,
            });
        }
        if outline.previous != hash {
            return Err(Fault::Chain(before));
        }
        if before.0 == 0 {
            self.founded(&decode(payload)?)?;
        }
        if outline.signed {
            self.asked(&decode(payload)?)?;
        } else if outline.by_admin {
            return Err(Fault::Unsigned);
        } else if outline.needs_admin && before.0 > 0 {
            unsigned(&decode(payload)?)?;
        }
        let leaf = tree::leaf(payload);
        self.head = (expected, leaf);
        self.tree.push(leaf);
        self.report.entries = self.report.entries.saturating_add(1);
        let first = self.uncovered.map_or(outline.at, |(first, _)| first);
        self.uncovered = Some((first, outline.at));
        self.agrees_with_the_known()
    }

    fn founded(&mut self, entry: &Entry) -> Result<(), Fault> {
        let founded = entry.draft.changes.iter().find_map(|change| {
            let Change::Founded(founded) = change else {
                return None;
            };
            Some(founded)
        });
        let founded = founded.ok_or(Fault::NotFounded)?;
        let own = raw(&founded.ledger_key).ok_or(Fault::NotFounded)?;
        let own = Verifier::new(crate::checkpoint::origin(&founded.domain), own);
        if own != self.verifier {
            return Err(Fault::OtherKey(own.to_string()));
        }
        self.domain = Some(founded.domain.clone());
        let (id, public) = &founded.admin;
        self.admins
            .insert(*id, raw(public).ok_or(Fault::NotFounded)?);
        Ok(())
    }

    /// Checks an entry that seems to carry an admin's request: an encoding other than ours may only
    /// look so.
    fn asked(&mut self, entry: &Entry) -> Result<(), Fault> {
        match (&entry.draft.signed, &entry.draft.actor) {
            (Some(signed), _) => self.signed(entry, signed),
            (None, Actor::Admin(_)) => Err(Fault::Unsigned),
            (None, _) if self.head.0.0 == 0 => Ok(()),
            (None, _) => unsigned(entry),
        }
    }

    fn signed(&mut self, entry: &Entry, signed: &SignedChange) -> Result<(), Fault> {
        if entry.draft.actor != Actor::Admin(signed.key) {
            return Err(Fault::Unsigned);
        }
        let public = self
            .admins
            .get(&signed.key)
            .ok_or(Fault::UnknownAdmin(signed.key))?;
        let order = verify_change(public, signed)?;
        if self.domain.as_ref() != Some(&order.domain) {
            return Err(Fault::OtherDomain(order.domain));
        }
        if !self.requests.insert((order.nonce, order.sequence)) {
            return Err(Fault::Replayed);
        }
        if !is_asked(&order.change, entry.draft.at, &entry.draft.changes) {
            return Err(Fault::NotAsked);
        }
        if order.change == AdminChange::RollbackAcknowledge {
            self.epoch = self.epoch.saturating_add(1);
        }
        self.report.signatures = self.report.signatures.saturating_add(1);
        Ok(())
    }

    fn checkpoint(&mut self, note: &str) -> Result<(), Fault> {
        let checkpoint = self.verifier.verify(note)?;
        let before = self.report.last.as_ref().map_or(0, |last| last.size);
        if checkpoint.size == before {
            return Err(Fault::Repeated);
        }
        if checkpoint.size != self.tree.size() || checkpoint.root != self.tree.root() {
            return Err(Fault::OtherEntries);
        }
        if checkpoint.epoch != self.epoch {
            return Err(Fault::Epoch {
                said: checkpoint.epoch,
                acknowledged: self.epoch,
            });
        }
        self.report.checkpoints = self.report.checkpoints.saturating_add(1);
        self.report.last = Some(checkpoint);
        self.uncovered = None;
        Ok(())
    }

    fn agrees_with_the_known(&self) -> Result<(), Fault> {
        match &self.since {
            Some(since) if since.size == self.tree.size() && since.root != self.tree.root() => {
                Err(Fault::Forked(since.size))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// An entry without an admin's request must change nothing that needs one.
fn unsigned(entry: &Entry) -> Result<(), Fault> {
    let encoded = Encoded::new(entry.clone());
    match Outline::of(&encoded.bytes) {
        Some(outline) if !outline.needs_admin => Ok(()),
        Some(_) | None => Err(Fault::NotAnAdmin),
    }
}

fn decode(payload: &[u8]) -> Result<Entry, Fault> {
    entry::decode(payload).map_err(|error| Fault::Unreadable(error.to_string()))
}

fn raw(key: &Blob) -> Option<[u8; 32]> {
    key.as_ref().try_into().ok()
}
