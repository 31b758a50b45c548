//! Changes of invites, sites, nodes and users.

use std::{collections::BTreeSet, time::Duration};

use cardea_proto::{
    codec::Digest,
    id::{GrantId, InviteId, NodeId},
    invite::INVITE_DAYS_MAX,
    ledger::{Admits, Change, EndReason, Invite, RecordKey, User},
    name::Name,
    refusal::{Refusal, RefusalCode},
    time::Now,
};

use super::{
    find::{self, counted},
    plan::Plan,
};
use crate::{controller::Controller, judge::Foreseen};

/// Longest life of an invite.
const INVITE_LIFE_MAX: Duration = Duration::from_secs(INVITE_DAYS_MAX * 24 * 3_600);

/// Most groups of one user.
const GROUPS_MAX: usize = 256;

impl Controller {
    pub(super) fn plan_invite(
        &self,
        now: Now,
        (id, secret_hash): (InviteId, Digest),
        admits: &Admits,
        life_s: u64,
    ) -> Result<Plan, Refusal> {
        let state = &self.world.state;
        let life = Duration::from_secs(life_s);
        if life.is_zero() || life > INVITE_LIFE_MAX {
            return Err(invalid(format!(
                "an invite lives 1 s to {INVITE_DAYS_MAX} days, not {life_s} s"
            ))
            .with_next("For example: --expires 1h"));
        }
        if state.invite(&id).is_some() || state.invite_by_hash(&secret_hash).is_some() {
            return Err(find::exists("invite", &id.to_string()));
        }
        let mut expects = vec![RecordKey::Invite(id)];
        let message = match admits {
            Admits::Device { user, groups } => {
                check_groups(groups)?;
                format!("invite {id} for a device of {user}")
            }
            Admits::Connector { site } => {
                find::site_for(state, site)?;
                expects.push(RecordKey::Site(site.clone()));
                format!("invite {id} for a connector of site {site}")
            }
        };
        let invite = Invite {
            id,
            secret_hash,
            admits: admits.clone(),
            expires_at: now.unix.plus(life),
        };
        Ok(Plan::new(Change::InviteCreated(invite), expects, message))
    }

    pub(super) fn plan_invite_remove(&self, id: InviteId) -> Result<Plan, Refusal> {
        if self.world.state.invite(&id).is_none() {
            let refusal = Refusal::new(RefusalCode::NotFound, format!("no invite is called {id}"));
            return Err(refusal.with_next("Look at: cardeactl invite ls"));
        }
        let change = Change::InviteRemoved(id);
        let message = format!("invite {id} removed");
        Ok(Plan::new(change, [RecordKey::Invite(id)], message))
    }

    pub(super) fn plan_site_add(&self, name: &Name) -> Result<Plan, Refusal> {
        if self.world.state.has_site(name) {
            return Err(find::exists("site", name.as_str()));
        }
        let change = Change::SiteAdded(name.clone());
        let message = format!("site {name} added");
        Ok(Plan::new(change, [RecordKey::Site(name.clone())], message))
    }

    pub(super) fn plan_site_remove(&self, name: &Name) -> Result<Plan, Refusal> {
        let state = &self.world.state;
        find::site(state, name)?;
        let apps = state.apps().filter(|app| app.spec.site == *name).count();
        let connectors = state.connectors_of(name).count();
        if apps + connectors > 0 {
            return Err(invalid(format!(
                "site {name} still has {} and {}",
                counted(apps, "app"),
                counted(connectors, "connector")
            ))
            .with_next(format!(
                "Remove those first: cardeactl app ls, cardeactl connector ls, then: cardeactl site rm {name}"
            )));
        }
        let change = Change::SiteRemoved(name.clone());
        let message = format!("site {name} removed");
        Ok(Plan::new(change, [RecordKey::Site(name.clone())], message))
    }

    pub(super) fn plan_connector_remove(&self, text: &str) -> Result<Plan, Refusal> {
        let (id, record) = find::connector(&self.world.state, text)?;
        let node = NodeId::Connector(id);
        let ends: Vec<_> = self
            .world
            .state
            .grants_of_connector(id)
            .map(|grant| (grant, EndReason::ConnectorGone))
            .collect();
        let message = format!("connector {} removed", record.node.name);
        let plan = Plan::new(Change::NodeRemoved(node), [RecordKey::Node(node)], message);
        Ok(plan.ending(ends))
    }

    pub(super) fn plan_device_block(&self, text: &str) -> Result<Plan, Refusal> {
        let (id, record) = find::device(&self.world.state, text)?;
        let name = &record.node.name;
        if record.blocked {
            let refusal = Refusal::new(
                RefusalCode::Exists,
                format!("device {name} is blocked already"),
            );
            let next = format!("To let it in again: cardeactl device unblock {name}");
            return Err(refusal.with_next(next));
        }
        let message = format!("device {name} blocked");
        let expects = [RecordKey::Node(NodeId::Device(id))];
        let ends = self.ends_of_device(id);
        Ok(Plan::new(Change::DeviceBlocked(id), expects, message).ending(ends))
    }

    pub(super) fn plan_device_unblock(&self, text: &str) -> Result<Plan, Refusal> {
        let (id, record) = find::device(&self.world.state, text)?;
        let name = &record.node.name;
        if !record.blocked {
            return Err(invalid(format!("device {name} is not blocked"))
                .with_next(format!("Look at: cardeactl device show {name}")));
        }
        let message = format!("device {name} unblocked");
        let expects = [RecordKey::Node(NodeId::Device(id))];
        Ok(Plan::new(Change::DeviceUnblocked(id), expects, message))
    }

    pub(super) fn plan_device_remove(&self, text: &str) -> Result<Plan, Refusal> {
        let (id, record) = find::device(&self.world.state, text)?;
        let node = NodeId::Device(id);
        let message = format!("device {} removed", record.node.name);
        let plan = Plan::new(Change::NodeRemoved(node), [RecordKey::Node(node)], message);
        Ok(plan.ending(self.ends_of_device(id)))
    }

    pub(super) fn plan_user_set(
        &self,
        now: Now,
        name: &Name,
        groups: &BTreeSet<Name>,
    ) -> Result<Plan, Refusal> {
        check_groups(groups)?;
        let user = User {
            name: name.clone(),
            groups: groups.clone(),
        };
        let foreseen = Foreseen {
            user: Some(&user),
            ..Foreseen::default()
        };
        let grants: Vec<GrantId> = self
            .world
            .state
            .devices_of(name)
            .flat_map(|device| self.world.state.grants_of_device(device))
            .collect();
        let ends = self.would_end(now, foreseen, grants.into_iter());
        let listed: Vec<&str> = groups.iter().map(Name::as_str).collect();
        let message = if listed.is_empty() {
            format!("user {name} is in no group")
        } else {
            format!("user {name} is in {}", listed.join(", "))
        };
        let expects = [RecordKey::User(name.clone())];
        Ok(Plan::new(Change::UserSet(user), expects, message).ending(ends))
    }

    fn ends_of_device(&self, id: cardea_proto::id::DeviceId) -> Vec<(GrantId, EndReason)> {
        let grants = self.world.state.grants_of_device(id);
        grants
            .map(|grant| (grant, EndReason::DeviceBlocked))
            .collect()
    }
}

/// A refusal of something that is not valid as written.
pub(super) fn invalid(message: String) -> Refusal {
    Refusal::new(RefusalCode::Invalid, message)
}

fn check_groups(groups: &BTreeSet<Name>) -> Result<(), Refusal> {
    if groups.len() > GROUPS_MAX {
        return Err(invalid(format!(
            "a user is in at most {GROUPS_MAX} groups, not {}",
            groups.len()
        ))
        .with_next("Give fewer: cardeactl user set USER --group GROUP"));
    }
    Ok(())
}
