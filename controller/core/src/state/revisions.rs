//! Which entry last moved which record: what a plan is checked against when it is committed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use cardea_proto::{
    id::NodeId,
    ledger::{Change, Entry, RecordKey, Revision},
};

/// The revision of each record that exists. A store keeps them without the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revisions(
    #[serde(deserialize_with = "super::packed::map")] BTreeMap<RecordKey, Revision>,
);

impl Revisions {
    /// The entry that last moved a record; `Revision(0)` for a record that does not exist.
    #[must_use]
    pub fn of(&self, key: &RecordKey) -> Revision {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// How many records there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Folds one entry. Entries come in order, each once.
    pub fn apply(&mut self, entry: &Entry) {
        for change in &entry.draft.changes {
            self.moved(change, entry.revision);
        }
    }

    pub(super) fn moved(&mut self, change: &Change, revision: Revision) {
        match change {
            Change::InviteRemoved(id) => self.gone(&RecordKey::Invite(*id)),
            Change::NodeRemoved(node) => self.node_gone(*node),
            Change::SiteRemoved(name) => self.gone(&RecordKey::Site(name.clone())),
            Change::AppRemoved(name) => {
                self.gone(&RecordKey::App(name.clone()));
                self.gone(&RecordKey::Links(name.clone()));
            }
            Change::GrantEnded { grant, .. } => self.gone(&RecordKey::Grant(*grant)),
            Change::Founded(_)
            | Change::InviteCreated(_)
            | Change::InviteUsed { .. }
            | Change::NodeEnrolled(_)
            | Change::DeviceBlocked(_)
            | Change::DeviceUnblocked(_)
            | Change::CertificateIssued(_)
            | Change::Appraised { .. }
            | Change::SiteAdded(_)
            | Change::UserSet(_)
            | Change::AppSet(_)
            | Change::PolicySet(_)
            | Change::Allowed(_)
            | Change::Disallowed(_)
            | Change::GrantOffered(_)
            | Change::GrantAdmitted(_)
            | Change::RollbackNoticed(_)
            | Change::RollbackAcknowledged
            | Change::Refused(_) => {
                if let Some(key) = change.key() {
                    self.0.insert(key, revision);
                }
            }
        }
    }

    /// A record has gone without a change that says so.
    pub(super) fn gone(&mut self, key: &RecordKey) {
        self.0.remove(key);
    }

    fn node_gone(&mut self, node: NodeId) {
        self.gone(&RecordKey::Node(node));
        self.gone(&RecordKey::Certificate(node));
        if let NodeId::Device(device) = node {
            self.gone(&RecordKey::Appraisal(device));
        }
    }
}
