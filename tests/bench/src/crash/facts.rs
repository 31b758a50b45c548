//! What was acknowledged, and what the ledger has.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use anyhow::{Result, bail};
use cardea_proto::{
    admin::{AdminAnswer, AdminQuery},
    ledger::{Change, Entry, Revision},
};
use rand_core::{OsRng, RngCore};

use super::clients::{Admin, Code};

/// Everything that somebody was told, and everything that is on record.
#[derive(Debug, Default)]
pub(crate) struct Facts(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    acknowledged: BTreeSet<String>,
    recorded: BTreeSet<String>,
    read: Revision,
    /// Enrollments without the end of their code in the same entry, or the other way round.
    half_applied: Vec<Revision>,
    /// How often each code was used.
    uses: BTreeMap<String, u32>,
    used_twice: Vec<String>,
    /// Codes that admitted somebody, by their invites.
    codes: Vec<(String, Code)>,
}

impl Facts {
    /// Somebody was told that this is so.
    pub(super) fn acknowledge(&self, fact: String) {
        self.book(|book| book.acknowledged.insert(fact));
    }

    /// A code has admitted somebody.
    pub(super) fn used(&self, name: String, code: Code) {
        self.book(|book| book.codes.push((name, code)));
    }

    /// One of the codes that have.
    pub(super) fn some_used_code(&self) -> Option<(String, Code)> {
        self.book(|book| {
            let count = u64::try_from(book.codes.len()).ok()?;
            let at = OsRng.next_u64().checked_rem(count)?;
            book.codes.get(usize::try_from(at).ok()?).cloned()
        })
    }

    /// A code that had admitted somebody admitted somebody else.
    pub(super) fn misuse(&self, code: String) {
        self.book(|book| book.used_twice.push(code));
    }

    /// Reads what the ledger has gained.
    pub(super) async fn read(&self, admin: &mut Admin) -> Result<()> {
        loop {
            let from = self.book(|book| book.read.next());
            let query = AdminQuery::Audit { from, limit: 1_000 };
            let entries = match admin.query(query).await? {
                AdminAnswer::Entries(entries) => entries,
                other => bail!("no entries: {other:?}"),
            };
            if entries.is_empty() {
                return Ok(());
            }
            self.book(|book| entries.iter().for_each(|entry| book.record(entry)));
        }
    }

    pub(super) fn acknowledged(&self) -> f64 {
        count(self.book(|book| book.acknowledged.len()))
    }

    pub(super) fn lost(&self) -> f64 {
        count(self.book(|book| book.acknowledged.difference(&book.recorded).count()))
    }

    pub(super) fn half_applied(&self) -> f64 {
        count(self.book(|book| book.half_applied.len()))
    }

    pub(super) fn used_twice(&self) -> f64 {
        count(self.book(|book| {
            let twice = book.uses.values().filter(|uses| **uses > 1).count();
            twice + book.used_twice.len()
        }))
    }

    /// What must not be, in words; empty when all is well.
    pub(super) fn describe(&self) -> String {
        self.book(|book| {
            let lost = book.acknowledged.difference(&book.recorded);
            let lost = lost.map(|fact| format!("acknowledged and lost: {fact}"));
            let halves = book.half_applied.iter();
            let halves = halves.map(|revision| format!("half of it: entry {revision}"));
            let twice = book.uses.iter().filter(|(_, uses)| **uses > 1);
            let twice = twice.map(|(code, _)| format!("used twice: {code}"));
            let misused = book
                .used_twice
                .iter()
                .map(|code| format!("taken again: {code}"));
            let all = lost.chain(halves).chain(twice).chain(misused);
            all.take(20).collect::<Vec<_>>().join("\n")
        })
    }

    fn book<T>(&self, turn: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        turn(&mut book)
    }
}

impl Book {
    fn record(&mut self, entry: &Entry) {
        self.read = entry.revision;
        let changes = &entry.draft.changes;
        let enrolls = changes
            .iter()
            .any(|change| matches!(change, Change::NodeEnrolled(_)));
        let uses = changes
            .iter()
            .any(|change| matches!(change, Change::InviteUsed { .. }));
        let certifies = changes
            .iter()
            .any(|change| matches!(change, Change::CertificateIssued(_)));
        if enrolls != uses || (enrolls && !certifies) {
            self.half_applied.push(entry.revision);
        }
        for change in changes {
            if let Change::InviteUsed { invite, .. } = change {
                *self.uses.entry(invite.to_string()).or_default() += 1;
            }
            self.recorded.extend(fact(change));
        }
    }
}

/// A count as the report has it.
fn count(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

/// A change as the one who was told of it names it.
fn fact(change: &Change) -> Option<String> {
    match change {
        Change::InviteCreated(invite) => Some(invited(&invite.id)),
        Change::NodeEnrolled(node) => Some(enrolled(&node.id)),
        Change::CertificateIssued(record) => {
            let serial = data_encoding::HEXLOWER.encode(&record.serial.0);
            Some(certified(&serial))
        }
        Change::GrantAdmitted(grant) => Some(granted(grant)),
        Change::GrantEnded { grant, .. } => Some(ended(grant)),
        _ => None,
    }
}

pub(super) fn invited(id: &impl std::fmt::Display) -> String {
    format!("{id} invites")
}

pub(super) fn enrolled(id: &impl std::fmt::Display) -> String {
    format!("{id} enrolled")
}

pub(super) fn certified(serial: &str) -> String {
    format!("certificate {serial}")
}

pub(super) fn granted(id: &impl std::fmt::Display) -> String {
    format!("{id} granted")
}

pub(super) fn ended(id: &impl std::fmt::Display) -> String {
    format!("{id} ended")
}
