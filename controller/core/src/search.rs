//! Finding entries: which of them are about a device, a user, an app.
//!
//! An entry that ends a grant names the grant alone. So a search reads the ledger from its
//! beginning and remembers what each open grant, and each name, stands for.

use std::collections::BTreeMap;

use cardea_proto::{
    admin::AuditFilter,
    app::Principal,
    id::{DeviceId, GrantId, NodeId},
    ledger::{Actor, Admits, Change, Entry, Grant},
    name::Name,
};

/// A search on its way through the ledger.
#[derive(Debug)]
pub struct Search {
    filter: AuditFilter,
    grants: BTreeMap<GrantId, Grant>,
    devices: BTreeMap<DeviceId, (Name, Option<Name>)>,
}

impl Search {
    /// A search that begins at the first entry.
    #[must_use]
    pub const fn new(filter: AuditFilter) -> Self {
        Self {
            filter,
            grants: BTreeMap::new(),
            devices: BTreeMap::new(),
        }
    }

    /// Takes the next entry; says whether it is one of those that are looked for.
    pub fn take(&mut self, entry: &Entry) -> bool {
        for change in &entry.draft.changes {
            if let Change::GrantOffered(grant) = change {
                self.grants.insert(grant.id, grant.clone());
            }
            if let Change::NodeEnrolled(node) = change
                && let NodeId::Device(device) = node.id
            {
                let named = (node.name.clone(), node.user.clone());
                self.devices.insert(device, named);
            }
        }
        let found = self.is_wanted(entry);
        for change in &entry.draft.changes {
            if let Change::GrantEnded { grant, .. } = change {
                self.grants.remove(grant);
            }
        }
        found
    }

    fn is_wanted(&self, entry: &Entry) -> bool {
        let AuditFilter {
            device,
            user,
            app,
            actor,
            from,
            to,
            allowed,
        } = &self.filter;
        let draft = &entry.draft;
        let subjects = Subjects::of(entry, self);
        from.is_none_or(|from| draft.at >= from)
            && to.is_none_or(|to| draft.at <= to)
            && allowed.is_none_or(|allowed| {
                draft.decision.as_ref().map(|decision| decision.allowed) == Some(allowed)
                    || (!allowed && draft.changes.iter().any(is_refusal))
            })
            && actor
                .as_ref()
                .is_none_or(|actor| self.is_by(&draft.actor, actor))
            && device.as_ref().is_none_or(|wanted| {
                let is_it = |device: &DeviceId| self.is_called(*device, wanted);
                subjects.devices.iter().any(is_it)
            })
            && user
                .as_ref()
                .is_none_or(|user| subjects.users.contains(user))
            && app.as_ref().is_none_or(|app| subjects.apps.contains(app))
    }

    /// Whether an actor is the one of this id, or the device of this name.
    fn is_by(&self, actor: &Actor, wanted: &str) -> bool {
        if actor.to_string() == wanted {
            return true;
        }
        matches!(actor, Actor::Node(NodeId::Device(device)) if self.is_called(*device, wanted))
    }

    fn is_called(&self, device: DeviceId, wanted: &str) -> bool {
        device.to_string() == wanted
            || self
                .devices
                .get(&device)
                .is_some_and(|(name, _)| name.as_str() == wanted)
    }
}

fn is_refusal(change: &Change) -> bool {
    matches!(change, Change::Refused(_))
}

/// Whom and what an entry is about.
#[derive(Debug, Default)]
struct Subjects {
    devices: Vec<DeviceId>,
    users: Vec<Name>,
    apps: Vec<Name>,
}

impl Subjects {
    fn of(entry: &Entry, search: &Search) -> Self {
        let mut this = Self::default();
        if let Actor::Node(node) = entry.draft.actor {
            this.node(node, search);
        }
        for change in &entry.draft.changes {
            this.change(change, search);
        }
        this
    }

    fn node(&mut self, node: NodeId, search: &Search) {
        if let NodeId::Device(device) = node {
            self.devices.push(device);
            let known = search.devices.get(&device);
            self.users.extend(known.and_then(|(_, user)| user.clone()));
        }
    }

    fn grant(&mut self, grant: &Grant) {
        self.devices.push(grant.device);
        self.users.push(grant.user.clone());
        self.apps.push(grant.app.clone());
    }

    fn change(&mut self, change: &Change, search: &Search) {
        match change {
            Change::InviteCreated(invite) => {
                if let Admits::Device { user, .. } = &invite.admits {
                    self.users.push(user.clone());
                }
            }
            Change::NodeEnrolled(node) => self.node(node.id, search),
            Change::InviteUsed { by: node, .. } | Change::NodeRemoved(node) => {
                self.node(*node, search);
            }
            Change::CertificateIssued(record) => self.node(record.node, search),
            Change::DeviceBlocked(device)
            | Change::DeviceUnblocked(device)
            | Change::Appraised { device, .. } => self.node(NodeId::Device(*device), search),
            Change::UserSet(user) => self.users.push(user.name.clone()),
            Change::AppSet(spec) => self.apps.push(spec.name.clone()),
            Change::AppRemoved(name) => self.apps.push(name.clone()),
            Change::Allowed(link) | Change::Disallowed(link) => {
                self.apps.push(link.app.clone());
                if let Principal::User(user) = &link.principal {
                    self.users.push(user.clone());
                }
            }
            Change::GrantOffered(grant) => self.grant(grant),
            Change::GrantAdmitted(id) | Change::GrantEnded { grant: id, .. } => {
                if let Some(grant) = search.grants.get(id) {
                    self.grant(grant);
                }
            }
            Change::Refused(record) => self.apps.extend(record.subject.parse()),
            Change::RollbackNoticed(rollback) => self.node(rollback.node, search),
            Change::Founded(_)
            | Change::InviteRemoved(_)
            | Change::SiteAdded(_)
            | Change::SiteRemoved(_)
            | Change::PolicySet(_)
            | Change::RollbackAcknowledged => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::{
        admin::AdminChange,
        identity::Role,
        ledger::{Link, Revision},
        time::UnixMillis,
    };

    use super::*;
    use crate::testing::{Bench, app, name, sane_facts};

    /// The revisions that a filter finds in what happened at an office.
    fn found(bench: &Bench, filter: AuditFilter) -> Vec<Revision> {
        let mut search = Search::new(filter);
        let wanted = bench.entries.iter().filter(|entry| search.take(entry));
        wanted.map(|entry| entry.revision).collect()
    }

    fn about(bench: &Bench, is_about: impl Fn(&Change) -> bool) -> Vec<Revision> {
        let entries = bench.entries.iter();
        let about = entries.filter(|entry| entry.draft.changes.iter().any(&is_about));
        about.map(|entry| entry.revision).collect()
    }

    #[test]
    fn the_end_of_a_grant_is_found_by_device_user_and_app() {
        let (mut bench, device, connector) = Bench::office();
        let granted = bench.open(&device, &connector, "wiki");
        bench.publish("mail");
        let others = bench.entries.len();
        let mut phone = {
            let secret = bench.invite_device("bob", &["staff"]);
            bench.enroll_node(Role::Device, &secret, "phone")
        };
        bench.connect(&mut phone, &[]);
        bench.report(&mut phone, sane_facts());
        bench.open(&phone, &connector, "mail");
        let others: Vec<Revision> = bench.entries[others..]
            .iter()
            .map(|entry| entry.revision)
            .collect();
        bench.must(AdminChange::GrantRevoke(granted.grant));
        let ends = about(&bench, |change| matches!(change, Change::GrantEnded { .. }));
        assert_eq!(ends.len(), 1);
        for filter in [
            AuditFilter {
                device: Some("laptop".to_owned()),
                ..AuditFilter::default()
            },
            AuditFilter {
                device: Some(device.device().to_string()),
                ..AuditFilter::default()
            },
            AuditFilter {
                user: Some(name("alice")),
                ..AuditFilter::default()
            },
            AuditFilter {
                app: Some(name("wiki")),
                ..AuditFilter::default()
            },
        ] {
            let found = found(&bench, filter.clone());
            assert!(found.contains(&ends[0]), "{filter:?}");
            let mail = about(
                &bench,
                |change| matches!(change, Change::AppSet(spec) if spec.name.as_str() == "mail"),
            );
            assert!(!found.contains(&mail[0]), "{filter:?}");
            let other = others.iter().find(|other| found.contains(other));
            assert_eq!(other, None, "{filter:?}");
        }
    }

    #[test]
    fn actors_times_and_decisions_narrow_a_search() {
        let (mut bench, device, connector) = Bench::office();
        bench.open(&device, &connector, "wiki");
        bench.must(AdminChange::AppAdd {
            spec: app("mail"),
            allow: Vec::new(),
        });
        bench.request(&device, 9, "mail");
        bench.pass(std::time::Duration::from_secs(3_600));
        let link = Link {
            principal: Principal::User(name("bob")),
            app: name("wiki"),
        };
        bench.must(AdminChange::Allow(link));
        let last = bench.entries.last().unwrap().clone();
        let by = |actor: String| AuditFilter {
            actor: Some(actor),
            ..AuditFilter::default()
        };
        let admins = found(&bench, by(last.draft.actor.to_string()));
        assert!(admins.contains(&last.revision));
        let laptops = found(&bench, by("laptop".to_owned()));
        assert!(!laptops.is_empty() && !laptops.contains(&last.revision));
        let later = AuditFilter {
            from: Some(last.draft.at),
            ..AuditFilter::default()
        };
        assert_eq!(found(&bench, later), [last.revision]);
        let earlier = AuditFilter {
            to: Some(UnixMillis(last.draft.at.0 - 1)),
            ..AuditFilter::default()
        };
        assert_eq!(found(&bench, earlier).len(), bench.entries.len() - 1);
        let decided = |allowed| AuditFilter {
            allowed: Some(allowed),
            ..AuditFilter::default()
        };
        // The device's certificate, and its grant.
        let allowed = about(&bench, |change| {
            let is_device = |node: &NodeId| matches!(node, NodeId::Device(_));
            matches!(change, Change::NodeEnrolled(node) if is_device(&node.id))
                || matches!(change, Change::GrantOffered(_))
        });
        assert_eq!(found(&bench, decided(true)), allowed);
        let denials = about(&bench, is_refusal);
        assert_eq!((allowed.len(), denials.len()), (2, 1));
        assert_eq!(found(&bench, decided(false)), denials);
        let bobs = AuditFilter {
            user: Some(name("bob")),
            ..AuditFilter::default()
        };
        assert_eq!(found(&bench, bobs), [last.revision]);
    }
}
