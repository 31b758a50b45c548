//! Grants that have not ended, and the indexes that say what a change can affect.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use cardea_proto::{
    id::{ConnectorId, DeviceId, GrantId},
    ledger::{Grant, Revision},
    name::Name,
    time::UnixMillis,
};

use super::{nodes::remove_from, packed, pairs::Pairs};

/// A grant that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    /// As it was offered.
    pub grant: Grant,
    /// Whether the connector has answered for it.
    pub admitted: bool,
    /// The entry that granted it.
    pub revision: Revision,
    /// When it was granted.
    pub since: UnixMillis,
    /// The rules that permitted it.
    pub rules: Vec<String>,
}

/// The records, and indexes that are made from them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Saved")]
pub(super) struct Grants {
    live: BTreeMap<GrantId, GrantRecord>,
    #[serde(skip_serializing)]
    by_device: Pairs<DeviceId, GrantId>,
    #[serde(skip_serializing)]
    by_app: BTreeMap<Name, BTreeSet<GrantId>>,
    #[serde(skip_serializing)]
    by_connector: BTreeMap<ConnectorId, BTreeSet<GrantId>>,
}

/// What a snapshot has of them.
#[derive(Deserialize)]
struct Saved {
    #[serde(deserialize_with = "packed::map")]
    live: BTreeMap<GrantId, GrantRecord>,
}

impl From<Saved> for Grants {
    fn from(saved: Saved) -> Self {
        let mut this = Self::default();
        for record in saved.live.values() {
            this.index(&record.grant);
        }
        Self {
            live: saved.live,
            ..this
        }
    }
}

impl Grants {
    pub(super) fn iter(&self) -> impl Iterator<Item = &GrantRecord> {
        self.live.values()
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn get(&self, id: &GrantId) -> Option<&GrantRecord> {
        self.live.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &GrantId) -> Option<&mut GrantRecord> {
        self.live.get_mut(id)
    }

    pub(super) fn of_device(&self, device: DeviceId) -> impl Iterator<Item = GrantId> {
        self.by_device.of(&device)
    }

    pub(super) fn between(&self, device: DeviceId, app: &Name) -> impl Iterator<Item = GrantId> {
        let is_on = |id: &GrantId| self.live.get(id).is_some_and(|live| live.grant.app == *app);
        self.by_device.of(&device).filter(is_on)
    }

    pub(super) fn of_app(&self, app: &Name) -> impl Iterator<Item = GrantId> {
        self.by_app.get(app).into_iter().flatten().copied()
    }

    pub(super) fn of_connector(&self, connector: ConnectorId) -> impl Iterator<Item = GrantId> {
        self.by_connector
            .get(&connector)
            .into_iter()
            .flatten()
            .copied()
    }

    pub(super) fn load(&self, connector: ConnectorId) -> usize {
        self.by_connector.get(&connector).map_or(0, BTreeSet::len)
    }

    pub(super) fn insert(&mut self, record: GrantRecord) {
        self.index(&record.grant);
        self.live.insert(record.grant.id, record);
    }

    fn index(&mut self, grant: &Grant) {
        self.by_device.insert(&grant.device, grant.id);
        self.by_app
            .entry(grant.app.clone())
            .or_default()
            .insert(grant.id);
        self.by_connector
            .entry(grant.connector)
            .or_default()
            .insert(grant.id);
    }

    pub(super) fn remove(&mut self, id: &GrantId) -> Option<GrantRecord> {
        let record = self.live.remove(id)?;
        let grant = &record.grant;
        self.by_device.remove(&grant.device, grant.id);
        remove_from(&mut self.by_app, &grant.app, &grant.id);
        remove_from(&mut self.by_connector, &grant.connector, &grant.id);
        Some(record)
    }
}
