//! The fold: one entry after the other, whoever planned it.

use cardea_proto::{
    app::AppSpec,
    id::{DeviceId, GrantId, NodeId},
    ledger::{CertificateRecord, Change, EndReason, Entry, Grant, Invite, RecordKey, Revision},
    name::Name,
    time::UnixMillis,
};

use super::{
    AppRecord, Committed, Ended, GrantRecord, Happened, NodeRecord, State, committed::AppMoved,
};

/// What an entry says about each of its changes.
#[derive(Clone, Copy)]
struct At<'a> {
    revision: Revision,
    time: UnixMillis,
    rules: &'a [String],
}

impl State {
    /// Folds one committed entry into the state. Entries come in order, each once.
    pub fn apply(&mut self, entry: &Entry) {
        self.fold(entry);
    }

    /// The same, and says what happened, as proofs from which effects may be built.
    pub(crate) fn fold(&mut self, entry: &Entry) -> Vec<Happened> {
        let rules = entry
            .draft
            .decision
            .as_ref()
            .map_or(&[][..], |decision| decision.rules.as_slice());
        let at = At {
            revision: entry.revision,
            time: entry.draft.at,
            rules,
        };
        self.head = entry.revision;
        entry
            .draft
            .changes
            .iter()
            .filter_map(|change| {
                self.revisions.moved(change, at.revision);
                self.fold_change(change, at)
            })
            .collect()
    }

    /// Moves one record; a change that moved nothing happens not at all.
    fn fold_change(&mut self, change: &Change, at: At<'_>) -> Option<Happened> {
        match change {
            Change::Founded(founded) => {
                // Once: whoever could found it anew would choose its admin.
                self.founded.get_or_insert_with(|| founded.clone());
                None
            }
            Change::InviteCreated(invite) => self.invite_created(invite, at),
            Change::InviteRemoved(id) => {
                self.invites.remove(id);
                Some(Happened::Uninvited(*id))
            }
            Change::InviteUsed { invite, by } => {
                self.invites.used(invite, *by);
                None
            }
            Change::NodeEnrolled(node) => {
                self.nodes.insert(node.clone(), at.time);
                None
            }
            Change::DeviceBlocked(id) => {
                self.device_mut(*id)?.blocked = true;
                Some(Happened::Blocked(at.proof(*id)))
            }
            Change::DeviceUnblocked(id) => {
                self.device_mut(*id)?.blocked = false;
                Some(Happened::Unblocked(at.proof(*id)))
            }
            Change::NodeRemoved(id) => self.node_removed(*id, at),
            Change::CertificateIssued(record) => self.certificate_issued(record, at),
            Change::Appraised { device, compliant } => {
                self.device_mut(*device)?.compliant = Some(*compliant);
                Some(Happened::Appraised(at.proof((*device, *compliant))))
            }
            Change::SiteAdded(name) => {
                self.sites.insert(name.clone());
                None
            }
            Change::SiteRemoved(name) => {
                self.sites.remove(name);
                None
            }
            Change::UserSet(user) => {
                self.users.insert(user.name.clone(), user.clone());
                Some(Happened::UserSet(at.proof(user.name.clone())))
            }
            Change::AppSet(spec) => self.app_set(spec, at),
            Change::AppRemoved(name) => self.app_removed(name, at),
            Change::PolicySet(files) => {
                self.policy.clone_from(files);
                Some(Happened::PolicySet)
            }
            Change::Allowed(link) => {
                let moved = self.links.insert(link.clone());
                moved.then(|| Happened::Linked(at.proof(link.app.clone())))
            }
            Change::Disallowed(link) => {
                let moved = self.links.remove(link);
                moved.then(|| Happened::Linked(at.proof(link.app.clone())))
            }
            Change::GrantOffered(grant) => Some(self.grant_offered(grant, at)),
            Change::GrantAdmitted(id) => self.grant_admitted(id, at),
            Change::GrantEnded { grant, reason } => self.grant_ended(grant, *reason, at),
            Change::RollbackNoticed(rollback) => {
                self.rollback = Some(rollback.clone());
                None
            }
            Change::RollbackAcknowledged => Some(self.rollback_acknowledged()),
            Change::Refused(_) => None,
        }
    }

    fn rollback_acknowledged(&mut self) -> Happened {
        self.epoch = self.epoch.saturating_add(1);
        self.rollback = None;
        Happened::RollbackAcknowledged
    }

    fn invite_created(&mut self, invite: &Invite, at: At<'_>) -> Option<Happened> {
        for forgotten in self.invites.insert(invite.clone(), at.time) {
            self.revisions.gone(&RecordKey::Invite(forgotten));
        }
        Some(Happened::Invited(at.proof(invite.clone())))
    }

    fn node_removed(&mut self, id: NodeId, at: At<'_>) -> Option<Happened> {
        let moved = self.nodes.remove(id);
        moved.then(|| Happened::Removed(at.proof(id)))
    }

    fn certificate_issued(&mut self, record: &CertificateRecord, at: At<'_>) -> Option<Happened> {
        self.nodes.get_mut(record.node)?.certificate = Some(record.clone());
        Some(Happened::Issued(at.proof(record.clone())))
    }

    fn app_set(&mut self, spec: &AppSpec, at: At<'_>) -> Option<Happened> {
        let before = self.apps.get(&spec.name);
        let rerouted = before.is_some_and(|before| before.leads_elsewhere(spec));
        let number = before.map(|before| before.number).unwrap_or_else(|| {
            self.apps_numbered = self.apps_numbered.saturating_add(1);
            self.apps_numbered
        });
        let spec = spec.clone();
        let name = spec.name.clone();
        self.apps.insert(name.clone(), AppRecord { spec, number });
        Some(Happened::AppSet(at.proof(AppMoved { name, rerouted })))
    }

    fn app_removed(&mut self, name: &Name, at: At<'_>) -> Option<Happened> {
        self.apps.remove(name)?;
        Some(Happened::AppRemoved(at.proof(name.clone())))
    }

    fn grant_offered(&mut self, grant: &Grant, at: At<'_>) -> Happened {
        self.grants.insert(GrantRecord {
            grant: grant.clone(),
            admitted: false,
            revision: at.revision,
            since: at.time,
            rules: at.rules.to_vec(),
        });
        Happened::Offered(at.proof(grant.clone()))
    }

    fn grant_admitted(&mut self, id: &GrantId, at: At<'_>) -> Option<Happened> {
        let Some(record) = self.grants.get_mut(id) else {
            self.revisions.gone(&RecordKey::Grant(*id));
            return None;
        };
        record.admitted = true;
        Some(Happened::Admitted(at.proof(record.grant.clone())))
    }

    fn grant_ended(&mut self, id: &GrantId, reason: EndReason, at: At<'_>) -> Option<Happened> {
        let GrantRecord {
            grant, admitted, ..
        } = self.grants.remove(id)?;
        let ended = Ended {
            grant,
            admitted,
            reason,
        };
        Some(Happened::Ended(at.proof(ended)))
    }

    fn device_mut(&mut self, id: DeviceId) -> Option<&mut NodeRecord> {
        self.nodes.get_mut(NodeId::Device(id))
    }
}

impl At<'_> {
    const fn proof<R>(self, fact: R) -> Committed<R> {
        Committed::new(fact, self.revision)
    }
}

impl AppRecord {
    /// Whether tunnels made for this app would lead elsewhere than the new specification says.
    #[must_use]
    pub fn leads_elsewhere(&self, new: &AppSpec) -> bool {
        let old = &self.spec;
        old.site != new.site
            || old.targets != new.targets
            || old.transport != new.transport
            || old.host_scoped != new.host_scoped
            || !old.wildcards().eq(new.wildcards())
    }
}
