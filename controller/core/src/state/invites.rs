//! One-time codes as the fold keeps them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use cardea_proto::{
    codec::Digest,
    id::{InviteId, NodeId},
    ledger::Invite,
    time::UnixMillis,
};

/// An invite and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRecord {
    /// As it was made.
    pub invite: Invite,
    /// The node that it admitted; it admits no other.
    pub used_by: Option<NodeId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Invites {
    by_id: BTreeMap<InviteId, InviteRecord>,
    // Finds candidates by eight bytes of the hash; the whole hash is then compared in constant time.
    by_prefix: BTreeMap<u64, BTreeSet<InviteId>>,
}

/// How long an invite stays in lists after its end, so that its holder still learns what became of it.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

impl Invites {
    pub(super) fn iter(&self) -> impl Iterator<Item = &InviteRecord> {
        self.by_id.values()
    }

    pub(super) fn get(&self, id: &InviteId) -> Option<&InviteRecord> {
        self.by_id.get(id)
    }

    pub(super) fn by_hash(&self, hash: &Digest) -> Option<&InviteRecord> {
        self.by_prefix
            .get(&prefix(hash))?
            .iter()
            .filter_map(|id| self.by_id.get(id))
            .find(|record| same(&record.invite.secret_hash, hash))
    }

    /// Adds an invite and forgets those that ended long before `at`; answers whom it forgot.
    pub(super) fn insert(&mut self, invite: Invite, at: UnixMillis) -> Vec<InviteId> {
        let old: Vec<InviteId> = self
            .by_id
            .values()
            .filter(|record| at.since(record.invite.expires_at) > KEPT)
            .map(|record| record.invite.id)
            .collect();
        for id in &old {
            self.remove(id);
        }
        self.remove(&invite.id);
        self.by_prefix
            .entry(prefix(&invite.secret_hash))
            .or_default()
            .insert(invite.id);
        self.by_id.insert(
            invite.id,
            InviteRecord {
                invite,
                used_by: None,
            },
        );
        old
    }

    pub(super) fn remove(&mut self, id: &InviteId) {
        let Some(record) = self.by_id.remove(id) else {
            return;
        };
        let prefix = prefix(&record.invite.secret_hash);
        if let Some(ids) = self.by_prefix.get_mut(&prefix) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_prefix.remove(&prefix);
            }
        }
    }

    pub(super) fn used(&mut self, id: &InviteId, by: NodeId) {
        if let Some(record) = self.by_id.get_mut(id) {
            record.used_by.get_or_insert(by);
        }
    }
}

fn prefix(hash: &Digest) -> u64 {
    hash.0
        .first_chunk::<8>()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Whether two hashes are equal, in a time that does not depend on where they differ.
fn same(left: &Digest, right: &Digest) -> bool {
    let differing = left
        .0
        .iter()
        .zip(&right.0)
        .fold(0_u8, |bits, (left, right)| bits | (left ^ right));
    std::hint::black_box(differing) == 0
}
