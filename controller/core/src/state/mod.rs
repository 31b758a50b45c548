//! Everything the controller knows for sure: the fold of what the store accepted.

mod apply;
mod committed;
mod grants;
mod invites;
mod nodes;
mod packed;
mod pairs;
mod revisions;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use cardea_proto::{
    app::{AppSpec, Principal},
    codec::Digest,
    id::{ConnectorId, DeviceId, GrantId, NodeId},
    ledger::{Founded, Link, RecordKey, Revision, Rollback, User},
    name::Name,
    policy::PolicyFile,
};

pub(crate) use self::committed::{AppMoved, Committed, Ended, Happened};
pub use self::{
    grants::GrantRecord, invites::InviteRecord, nodes::NodeRecord, revisions::Revisions,
};
use self::{grants::Grants, invites::Invites, nodes::Nodes};

/// All records, as of one revision. Two states that applied the same entries are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    head: Revision,
    founded: Option<Founded>,
    invites: Invites,
    nodes: Nodes,
    sites: BTreeSet<Name>,
    #[serde(deserialize_with = "packed::map")]
    users: BTreeMap<Name, User>,
    apps: BTreeMap<Name, AppRecord>,
    apps_numbered: u32,
    policy: Vec<PolicyFile>,
    links: BTreeSet<Link>,
    grants: Grants,
    rollback: Option<Rollback>,
    epoch: u64,
    revisions: Revisions,
}

/// An app and the number from which its inner addresses are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRecord {
    /// As it was published.
    pub spec: AppSpec,
    /// Counts apps in the order in which they were first published, from 1.
    pub number: u32,
}

impl State {
    /// The revision of the last entry that was applied.
    #[must_use]
    pub const fn head(&self) -> Revision {
        self.head
    }

    /// The entry that last moved a record; `Revision(0)` for a record that does not exist.
    #[must_use]
    pub fn revision_of(&self, key: &RecordKey) -> Revision {
        self.revisions.of(key)
    }

    /// The revisions of all records.
    #[must_use]
    pub const fn revisions(&self) -> &Revisions {
        &self.revisions
    }

    /// How the trust domain began; `None` for an empty ledger.
    #[must_use]
    pub const fn founded(&self) -> Option<&Founded> {
        self.founded.as_ref()
    }

    /// The invites, by id.
    pub fn invites(&self) -> impl Iterator<Item = &InviteRecord> {
        self.invites.iter()
    }

    /// The invite with this id.
    #[must_use]
    pub fn invite(&self, id: &cardea_proto::id::InviteId) -> Option<&InviteRecord> {
        self.invites.get(id)
    }

    /// The invite whose secret has this hash, compared in constant time.
    #[must_use]
    pub fn invite_by_hash(&self, hash: &Digest) -> Option<&InviteRecord> {
        self.invites.by_hash(hash)
    }

    /// All enrolled nodes: devices, then connectors.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.iter()
    }

    /// The node with this id.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(id)
    }

    /// The device with this id.
    #[must_use]
    pub fn device(&self, id: DeviceId) -> Option<&NodeRecord> {
        self.nodes.get(NodeId::Device(id))
    }

    /// The device with this name.
    #[must_use]
    pub fn device_named(&self, name: &Name) -> Option<DeviceId> {
        self.nodes.device_named(name)
    }

    /// The connector with this name.
    #[must_use]
    pub fn connector_named(&self, name: &Name) -> Option<ConnectorId> {
        self.nodes.connector_named(name)
    }

    /// The node that holds this public key, by its SHA-256.
    #[must_use]
    pub fn node_of_key(&self, key: &Digest) -> Option<NodeId> {
        self.nodes.of_key(key)
    }

    /// The devices of a user.
    pub fn devices_of(&self, user: &Name) -> impl Iterator<Item = DeviceId> {
        self.nodes.devices_of(user)
    }

    /// The connectors of a site.
    pub fn connectors_of(&self, site: &Name) -> impl Iterator<Item = ConnectorId> {
        self.nodes.connectors_of(site)
    }

    /// All sites, by name.
    pub fn sites(&self) -> impl Iterator<Item = &Name> {
        self.sites.iter()
    }

    /// Whether a site exists.
    #[must_use]
    pub fn has_site(&self, name: &Name) -> bool {
        self.sites.contains(name)
    }

    /// All users, by name.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// The user with this name.
    #[must_use]
    pub fn user(&self, name: &Name) -> Option<&User> {
        self.users.get(name)
    }

    /// All apps, by name.
    pub fn apps(&self) -> impl Iterator<Item = &AppRecord> {
        self.apps.values()
    }

    /// How many apps there are.
    #[must_use]
    pub fn apps_count(&self) -> usize {
        self.apps.len()
    }

    /// The app with this name.
    #[must_use]
    pub fn app(&self, name: &Name) -> Option<&AppRecord> {
        self.apps.get(name)
    }

    /// The policy folder in force.
    #[must_use]
    pub fn policy(&self) -> &[PolicyFile] {
        &self.policy
    }

    /// The everyday rules in force.
    #[must_use]
    pub const fn links(&self) -> &BTreeSet<Link> {
        &self.links
    }

    /// Whom the everyday rules let open an app.
    pub fn links_of(&self, app: &Name) -> impl Iterator<Item = &Principal> {
        // `Link` orders by principal first, so links of one app are not neighbors; there are few.
        self.links
            .iter()
            .filter(move |link| link.app == *app)
            .map(|link| &link.principal)
    }

    /// All grants that have not ended, by id.
    pub fn grants(&self) -> impl Iterator<Item = &GrantRecord> {
        self.grants.iter()
    }

    /// How many grants have not ended.
    #[must_use]
    pub fn grants_count(&self) -> usize {
        self.grants.len()
    }

    /// The grant with this id, unless it has ended.
    #[must_use]
    pub fn grant(&self, id: &GrantId) -> Option<&GrantRecord> {
        self.grants.get(id)
    }

    /// The live grants of a device.
    pub fn grants_of_device(&self, device: DeviceId) -> impl Iterator<Item = GrantId> {
        self.grants.of_device(device)
    }

    /// The live grants of one device on one app: one for each host, but for a moment between two controllers.
    pub fn grants_between(&self, device: DeviceId, app: &Name) -> impl Iterator<Item = GrantId> {
        self.grants.between(device, app)
    }

    /// The live grants on an app.
    pub fn grants_of_app(&self, app: &Name) -> impl Iterator<Item = GrantId> {
        self.grants.of_app(app)
    }

    /// The live grants that a connector serves.
    pub fn grants_of_connector(&self, connector: ConnectorId) -> impl Iterator<Item = GrantId> {
        self.grants.of_connector(connector)
    }

    /// What shows that the ledger was rolled back, until an admin acknowledges it.
    #[must_use]
    pub const fn rollback(&self) -> Option<&Rollback> {
        self.rollback.as_ref()
    }

    /// How often a rollback was acknowledged: the epoch of the checkpoints to come.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many live grants a connector serves.
    #[must_use]
    pub fn connector_load(&self, connector: ConnectorId) -> usize {
        self.grants.load(connector)
    }
}

#[cfg(test)]
mod tests;
