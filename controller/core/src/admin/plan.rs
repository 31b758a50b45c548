//! Each change of an admin as the changes of the ledger that it takes, and the grants that it ends.

use cardea_proto::{
    admin::AdminChange,
    app::Principal,
    id::GrantId,
    ledger::{Change, EndReason, Grant, RecordKey},
    refusal::{Refusal, RefusalCode},
    time::Now,
};

use super::find;
use crate::{controller::Controller, judge::Foreseen, policy::Prepared, world::Expects};

/// What a change takes.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    pub(super) expects: Expects,
    pub(super) ends: Vec<(GrantId, EndReason)>,
    /// What it does, in one line.
    pub(super) message: String,
}

impl Plan {
    /// A plan that ends nothing.
    pub(super) fn new(
        change: Change,
        expects: impl IntoIterator<Item = RecordKey>,
        message: String,
    ) -> Self {
        Self {
            changes: vec![change],
            expects: Expects::of(expects),
            ends: Vec::new(),
            message,
        }
    }

    pub(super) fn ending(mut self, ends: Vec<(GrantId, EndReason)>) -> Self {
        self.ends = ends;
        self
    }
}

impl Controller {
    /// Plans a change without making it.
    pub(super) fn plan_change(
        &self,
        now: Now,
        change: &AdminChange,
        prepared: Option<&Prepared>,
    ) -> Result<Plan, Refusal> {
        match change {
            AdminChange::InviteCreate {
                id,
                secret_hash,
                admits,
                life_s,
            } => self.plan_invite(now, (*id, *secret_hash), admits, *life_s),
            AdminChange::InviteRemove(id) => self.plan_invite_remove(*id),
            AdminChange::SiteAdd(name) => self.plan_site_add(name),
            AdminChange::SiteRemove(name) => self.plan_site_remove(name),
            AdminChange::ConnectorRemove(text) => self.plan_connector_remove(text),
            AdminChange::DeviceBlock(text) => self.plan_device_block(text),
            AdminChange::DeviceUnblock(text) => self.plan_device_unblock(text),
            AdminChange::DeviceRemove(text) => self.plan_device_remove(text),
            AdminChange::UserSet { name, groups } => self.plan_user_set(now, name, groups),
            AdminChange::AppAdd { spec, allow } => self.plan_app_add(spec, allow),
            AdminChange::AppSet { name, patch } => self.plan_app_set(now, name, patch),
            AdminChange::AppRemove(name) => self.plan_app_remove(name),
            AdminChange::Allow(link) => self.plan_allow(link),
            AdminChange::Disallow(link) => self.plan_disallow(now, link),
            AdminChange::PolicyApply(files) => self.plan_policy(now, files, prepared),
            AdminChange::GrantRevoke(id) => self.plan_revoke(now, *id),
            AdminChange::RollbackAcknowledge => self.plan_acknowledge(),
        }
    }

    /// Grants among `grants` that would not be given any longer if a change were made.
    pub(super) fn would_end(
        &self,
        now: Now,
        foreseen: Foreseen<'_>,
        grants: impl Iterator<Item = GrantId>,
    ) -> Vec<(GrantId, EndReason)> {
        self.no_longer(&self.judge(now).foreseeing(foreseen), grants)
    }

    fn plan_acknowledge(&self) -> Result<Plan, Refusal> {
        if self.world.state.rollback().is_none() {
            let why = "no rollback of the ledger is known";
            return Err(Refusal::new(RefusalCode::NotFound, why)
                .with_next("There is nothing to do. Look at: cardeactl status"));
        }
        Ok(Plan::new(
            Change::RollbackAcknowledged,
            [RecordKey::Rollback],
            "rollback acknowledged: the ledger goes on from here".to_owned(),
        ))
    }

    fn plan_revoke(&self, now: Now, id: GrantId) -> Result<Plan, Refusal> {
        let record = find::grant(&self.world.state, &id)?;
        let grant = &record.grant;
        let again = self.again(now, grant);
        Ok(Plan {
            changes: Vec::new(),
            expects: Expects::of([RecordKey::Grant(id)]),
            ends: vec![(id, EndReason::Revoked)],
            message: format!(
                "grant {id} of {} on {} revoked{again}",
                grant.user, grant.app
            ),
        })
    }

    /// That a grant is given again to whoever asks, where a rule still permits it, and what ends that.
    fn again(&self, now: Now, grant: &Grant) -> String {
        let Grant {
            device, user, app, ..
        } = grant;
        if self.judge(now).connect(*device, user, app).is_err() {
            return String::new();
        }
        let state = &self.world.state;
        let groups = state.user(user).map(|user| &user.groups);
        let rules = state.links_of(app).filter(|principal| match principal {
            Principal::User(name) => name == user,
            Principal::Group(group) => groups.is_some_and(|groups| groups.contains(group)),
            Principal::Everyone => true,
        });
        let mut ways: Vec<String> = rules
            .map(|principal| format!("cardeactl disallow {principal} {app}"))
            .collect();
        if let Some(record) = state.device(*device) {
            ways.push(format!("cardeactl device block {}", record.node.name));
        }
        format!(
            "; policy still permits it, so the next connection gets another. To end that: {}",
            ways.join(", or: ")
        )
    }
}
