//! What was acknowledged stays (7): it is in the store when it is acknowledged, and after every start.

use std::collections::BTreeMap;

use cardea_core::CallId;
use cardea_proto::{
    admin::{AdminAnswer, SignedChange},
    ledger::{Entry, Revision},
};

use super::Model;

/// What somebody was told that it is on record.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// Every entry of which a controller was told that the store has it.
    entries: BTreeMap<Revision, Entry>,
    /// Orders of admins that wait for their answer.
    orders: BTreeMap<CallId, SignedChange>,
}

impl Model {
    /// The store acknowledges an entry; `stored` is what it has in that place.
    pub(crate) fn acknowledged(&mut self, entry: &Entry, stored: Option<&Entry>) {
        if stored != Some(entry) {
            let what = format!(
                "entry {} is acknowledged and not in the store",
                entry.revision
            );
            self.violate(7, what);
        }
        self.acknowledged
            .entries
            .insert(entry.revision, entry.clone());
    }

    /// An admin orders something.
    pub(crate) fn ordered(&mut self, call: CallId, order: SignedChange) {
        self.acknowledged.orders.insert(call, order);
    }

    /// An admin is answered: what is done is on record, as they signed it.
    pub(crate) fn answered(&mut self, call: CallId, answer: &AdminAnswer) {
        let order = self.acknowledged.orders.remove(&call);
        if let (AdminAnswer::Done { revision, .. }, Some(order)) = (answer, order) {
            let entry = self.acknowledged.entries.get(revision);
            let signed = entry.and_then(|entry| entry.draft.signed.as_ref());
            if signed != Some(&order) {
                let what = format!("an admin was told that entry {revision} has their change");
                self.violate(7, what);
            }
        }
    }

    /// A controller starts on what the store has: everything that was acknowledged is there.
    pub(crate) fn survived(&mut self, stored: &[Entry]) {
        let stored: BTreeMap<Revision, &Entry> =
            stored.iter().map(|entry| (entry.revision, entry)).collect();
        let mut acknowledged = self.acknowledged.entries.iter();
        let lost = acknowledged.find(|(revision, entry)| stored.get(revision) != Some(entry));
        if let Some((revision, _)) = lost {
            let what = format!("entry {revision} was acknowledged and is gone");
            self.violate(7, what);
        }
    }
}
