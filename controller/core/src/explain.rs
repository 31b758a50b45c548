//! Why a subject may or may not open an app, to the device and to the admin alike.

use cardea_proto::{
    decision::{Decision, Reason},
    id::DeviceId,
    name::Name,
    refusal::{Refusal, RefusalCode},
    time::Now,
};

use crate::{controller::Controller, suggest, verdict};

impl Controller {
    /// The decision for a device and its own user.
    pub(crate) fn explain_to(&self, now: Now, device: DeviceId, app: &Name) -> Decision {
        let user = self
            .world
            .state
            .device(device)
            .and_then(|record| record.node.user.clone());
        match user {
            Some(user) => self.explain(now, device, &user, app),
            // Only a connector has no user, and none gets here: its device id is unknown.
            None => self.explain(now, device, app, app),
        }
    }

    /// The decision now.
    pub(crate) fn explain(&self, now: Now, device: DeviceId, user: &Name, app: &Name) -> Decision {
        match self.judge(now).connect(device, user, app) {
            Ok(allowed) => allowed.decision().clone(),
            Err(decision) => *decision,
        }
    }

    /// A denial in words, with the app that was perhaps meant among those the device may know of.
    pub(crate) fn refusal_of(&self, now: Now, device: DeviceId, decision: &Decision) -> Refusal {
        let refusal = verdict::refusal_of(decision);
        if decision.reason != Reason::NoRule || refusal.code != RefusalCode::NotPermitted {
            return refusal;
        }
        let judge = self.judge(now);
        let names = self.world.state.apps().map(|app| app.spec.name.as_str());
        let meant = suggest::nearest(&decision.resource, names)
            .and_then(|name| self.world.state.app(&name.parse().ok()?))
            .filter(|app| judge.may_know(device, &app.spec));
        match meant {
            Some(app) => refusal.with_next(format!("Did you mean {}?", app.spec.name)),
            None => refusal,
        }
    }
}
