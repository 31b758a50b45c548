//! Enrolled nodes and the indexes over them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use cardea_proto::{
    codec::Digest,
    id::{ConnectorId, DeviceId, NodeId},
    ledger::{CertificateRecord, Node},
    name::Name,
    time::UnixMillis,
};

use super::{packed, pairs::Pairs};

/// A node and what is on record about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// As it was enrolled.
    pub node: Node,
    /// When.
    pub enrolled_at: UnixMillis,
    /// Counts nodes in the order in which they enrolled, from 1; inner addresses are made from it.
    pub number: u32,
    /// Whether an admin has blocked it.
    pub blocked: bool,
    /// The appraisal on record; `None` before the first, and for connectors.
    pub compliant: Option<bool>,
    /// Its latest certificate.
    pub certificate: Option<CertificateRecord>,
}

/// The records, and indexes that are made from them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Saved")]
pub(super) struct Nodes {
    by_id: BTreeMap<NodeId, NodeRecord>,
    numbered: u32,
    #[serde(skip_serializing)]
    devices: BTreeMap<Name, DeviceId>,
    #[serde(skip_serializing)]
    connectors: BTreeMap<Name, ConnectorId>,
    #[serde(skip_serializing)]
    keys: BTreeMap<Digest, NodeId>,
    #[serde(skip_serializing)]
    owned: Pairs<Name, DeviceId>,
    #[serde(skip_serializing)]
    serving: BTreeMap<Name, BTreeSet<ConnectorId>>,
}

/// What a snapshot has of them.
#[derive(Deserialize)]
struct Saved {
    #[serde(deserialize_with = "packed::map")]
    by_id: BTreeMap<NodeId, NodeRecord>,
    numbered: u32,
}

impl From<Saved> for Nodes {
    fn from(saved: Saved) -> Self {
        let Saved { by_id, numbered } = saved;
        let mut this = Self {
            numbered,
            ..Self::default()
        };
        for record in by_id.values() {
            this.index(&record.node);
        }
        Self { by_id, ..this }
    }
}

impl Nodes {
    pub(super) fn iter(&self) -> impl Iterator<Item = &NodeRecord> {
        self.by_id.values()
    }

    pub(super) fn get(&self, id: NodeId) -> Option<&NodeRecord> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: NodeId) -> Option<&mut NodeRecord> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn device_named(&self, name: &Name) -> Option<DeviceId> {
        self.devices.get(name).copied()
    }

    pub(super) fn connector_named(&self, name: &Name) -> Option<ConnectorId> {
        self.connectors.get(name).copied()
    }

    pub(super) fn of_key(&self, key: &Digest) -> Option<NodeId> {
        self.keys.get(key).copied()
    }

    pub(super) fn devices_of(&self, user: &Name) -> impl Iterator<Item = DeviceId> {
        self.owned.of(user)
    }

    pub(super) fn connectors_of(&self, site: &Name) -> impl Iterator<Item = ConnectorId> {
        self.serving.get(site).into_iter().flatten().copied()
    }

    pub(super) fn insert(&mut self, node: Node, at: UnixMillis) {
        self.numbered = self.numbered.saturating_add(1);
        self.index(&node);
        let record = NodeRecord {
            number: self.numbered,
            enrolled_at: at,
            blocked: false,
            compliant: None,
            certificate: None,
            node,
        };
        self.by_id.insert(record.node.id, record);
    }

    fn index(&mut self, node: &Node) {
        self.keys.insert(node.key, node.id);
        match node.id {
            NodeId::Device(id) => {
                self.devices.insert(node.name.clone(), id);
                if let Some(user) = &node.user {
                    self.owned.insert(user, id);
                }
            }
            NodeId::Connector(id) => {
                self.connectors.insert(node.name.clone(), id);
                if let Some(site) = &node.site {
                    self.serving.entry(site.clone()).or_default().insert(id);
                }
            }
        }
    }

    /// Forgets a node; answers whether there was one.
    pub(super) fn remove(&mut self, id: NodeId) -> bool {
        let Some(NodeRecord { node, .. }) = self.by_id.remove(&id) else {
            return false;
        };
        if self.keys.get(&node.key) == Some(&id) {
            self.keys.remove(&node.key);
        }
        match id {
            NodeId::Device(id) => {
                remove_if(&mut self.devices, &node.name, &id);
                if let Some(user) = &node.user {
                    self.owned.remove(user, id);
                }
            }
            NodeId::Connector(id) => {
                remove_if(&mut self.connectors, &node.name, &id);
                if let Some(site) = &node.site {
                    remove_from(&mut self.serving, site, &id);
                }
            }
        }
        true
    }
}

fn remove_if<T: PartialEq>(map: &mut BTreeMap<Name, T>, name: &Name, value: &T) {
    if map.get(name) == Some(value) {
        map.remove(name);
    }
}

/// Takes one value out of a set in a map of sets, and the set when it was the last.
pub(super) fn remove_from<K: Ord, T: Ord>(map: &mut BTreeMap<K, BTreeSet<T>>, key: &K, value: &T) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
