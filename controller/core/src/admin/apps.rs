//! Changes of apps and of the everyday rules about them.

use std::collections::BTreeSet;

use cardea_proto::{
    admin::AppPatch,
    app::{AppSpec, Principal},
    id::GrantId,
    ledger::{Change, EndReason, Link, RecordKey},
    name::Name,
    pattern::Pattern,
    refusal::{Refusal, RefusalCode},
    time::Now,
};

use super::{
    find::{self, counted},
    inventory::invalid,
    plan::Plan,
    targets,
};
use crate::{State, controller::Controller, judge::Foreseen};

/// Most everyday rules about one app.
const LINKS_MAX: usize = 1_024;

impl Controller {
    pub(super) fn plan_app_add(
        &self,
        spec: &AppSpec,
        allow: &[Principal],
    ) -> Result<Plan, Refusal> {
        let state = &self.world.state;
        let name = &spec.name;
        if state.app(name).is_some() {
            let next = format!("Change it: cardeactl app set {name}");
            return Err(find::exists("app", name.as_str()).with_next(next));
        }
        find::site_for(state, &spec.site)?;
        targets::check(spec)?;
        names_are_free(state, spec)?;
        if allow.len() > LINKS_MAX {
            return Err(invalid(format!("app {name} has too many everyday rules"))
                .with_next("Put people into a group, and allow the group"));
        }
        let allow: BTreeSet<&Principal> = allow.iter().collect();
        let expects = [
            RecordKey::App(name.clone()),
            RecordKey::Site(spec.site.clone()),
            RecordKey::Links(name.clone()),
        ];
        let message = if allow.is_empty() {
            format!("app {name} added; nobody may open it until a rule says so")
        } else {
            let listed: Vec<String> = allow.iter().map(ToString::to_string).collect();
            format!("app {name} added for {}", listed.join(", "))
        };
        let mut plan = Plan::new(Change::AppSet(spec.clone()), expects, message);
        plan.changes.extend(allow.into_iter().map(|principal| {
            Change::Allowed(Link {
                principal: principal.clone(),
                app: name.clone(),
            })
        }));
        Ok(plan)
    }

    pub(super) fn plan_app_set(
        &self,
        now: Now,
        name: &Name,
        patch: &AppPatch,
    ) -> Result<Plan, Refusal> {
        let record = find::app(&self.world.state, name)?;
        let spec = patched(&record.spec, patch);
        targets::check(&spec)?;
        if spec.names != record.spec.names {
            names_are_free(&self.world.state, &spec)?;
        }
        if spec == record.spec {
            return Err(invalid(format!("app {name} is so already"))
                .with_next(format!("Look at: cardeactl app show {name}")));
        }
        let grants = self.world.state.grants_of_app(name);
        let ends: Vec<(GrantId, EndReason)> = if record.leads_elsewhere(&spec) {
            grants.map(|grant| (grant, EndReason::AppChanged)).collect()
        } else {
            let foreseen = Foreseen {
                app: Some(&spec),
                ..Foreseen::default()
            };
            self.would_end(now, foreseen, grants)
        };
        let message = format!("app {name} changed");
        let expects = [RecordKey::App(name.clone())];
        Ok(Plan::new(Change::AppSet(spec), expects, message).ending(ends))
    }

    pub(super) fn plan_app_remove(&self, name: &Name) -> Result<Plan, Refusal> {
        find::app(&self.world.state, name)?;
        let links: Vec<Link> = self
            .world
            .state
            .links_of(name)
            .map(|principal| Link {
                principal: principal.clone(),
                app: name.clone(),
            })
            .collect();
        let grants = self.world.state.grants_of_app(name);
        let ends = grants.map(|grant| (grant, EndReason::AppChanged)).collect();
        let message = match links.len() {
            0 => format!("app {name} removed"),
            count => format!(
                "app {name} removed, with {}",
                counted(count, "everyday rule")
            ),
        };
        let mut changes: Vec<Change> = links.into_iter().map(Change::Disallowed).collect();
        changes.push(Change::AppRemoved(name.clone()));
        let expects = [RecordKey::App(name.clone()), RecordKey::Links(name.clone())];
        let plan = Plan::new(Change::AppRemoved(name.clone()), expects, message).ending(ends);
        Ok(Plan { changes, ..plan })
    }

    pub(super) fn plan_allow(&self, link: &Link) -> Result<Plan, Refusal> {
        let state = &self.world.state;
        let Link { principal, app } = link;
        find::app(state, app)?;
        if state.links().contains(link) {
            return Err(Refusal::new(
                RefusalCode::Exists,
                format!("{principal} may open {app} already"),
            )
            .with_next(format!("Look at: cardeactl app show {app}")));
        }
        if state.links_of(app).count() >= LINKS_MAX {
            return Err(
                invalid(format!("app {app} has {LINKS_MAX} everyday rules already"))
                    .with_next("Put people into a group, and allow the group"),
            );
        }
        let unknown = match principal {
            Principal::User(user) => state.user(user).is_none().then(|| format!("user {user}")),
            Principal::Group(group) => {
                let known = state.users().any(|user| user.groups.contains(group));
                (!known).then(|| format!("anybody in group {group}"))
            }
            Principal::Everyone => None,
        };
        let message = match unknown {
            Some(who) => format!("{principal} may open {app}; there is not yet {who}"),
            None => format!("{principal} may open {app}"),
        };
        let expects = [RecordKey::App(app.clone()), RecordKey::Links(app.clone())];
        Ok(Plan::new(Change::Allowed(link.clone()), expects, message))
    }

    pub(super) fn plan_disallow(&self, now: Now, link: &Link) -> Result<Plan, Refusal> {
        let state = &self.world.state;
        let Link { principal, app } = link;
        find::app(state, app)?;
        let mut links = state.links().clone();
        if !links.remove(link) {
            let refusal = Refusal::new(
                RefusalCode::NotFound,
                format!("no everyday rule lets {principal} open {app}"),
            );
            return Err(refusal.with_next("Look at: cardeactl policy show"));
        }
        let engine = self.world.engine.with_links(&links).map_err(|problems| {
            invalid(crate::world::first_problem(&problems))
                .with_next("Look at: cardeactl policy show")
        })?;
        let foreseen = Foreseen {
            engine: Some(&engine),
            ..Foreseen::default()
        };
        let ends = self.would_end(now, foreseen, state.grants_of_app(app));
        let message = format!("the everyday rule for {principal} on {app} is taken back");
        let expects = [RecordKey::Links(app.clone())];
        let change = Change::Disallowed(link.clone());
        Ok(Plan::new(change, expects, message).ending(ends))
    }
}

/// A DNS name leads to one app. Names are compared as DNS compares them (RFC 4343), with or without
/// the dot of the root.
fn names_are_free(state: &State, spec: &AppSpec) -> Result<(), Refusal> {
    let same = |a: &Pattern, b: &Pattern| {
        let (a, b) = (a.as_str(), b.as_str());
        a.trim_end_matches('.')
            .eq_ignore_ascii_case(b.trim_end_matches('.'))
    };
    let taken = state
        .apps()
        .map(|app| &app.spec)
        .filter(|other| other.name != spec.name)
        .find_map(|other| {
            let mut wanted = spec.names.iter();
            let name = wanted.find(|name| other.names.iter().any(|taken| same(taken, name)))?;
            Some((name, &other.name))
        });
    let Some((name, holder)) = taken else {
        return Ok(());
    };
    let refusal = Refusal::new(
        RefusalCode::Exists,
        format!("the DNS name {name} is that of app {holder}"),
    );
    Err(refusal.with_next(format!(
        "Give another --name, or take it from there: cardeactl app set {holder} --no-names"
    )))
}

fn patched(before: &AppSpec, patch: &AppPatch) -> AppSpec {
    let patch = patch.clone();
    AppSpec {
        name: before.name.clone(),
        site: before.site.clone(),
        targets: patch.targets.unwrap_or_else(|| before.targets.clone()),
        names: patch.names.unwrap_or_else(|| before.names.clone()),
        transport: patch.transport.unwrap_or(before.transport),
        labels: patch.labels.unwrap_or_else(|| before.labels.clone()),
        host_scoped: patch.host_scoped.unwrap_or(before.host_scoped),
    }
}
