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
        let mut decision = match user {
            Some(user) => self.explain(now, device, &user, app),
            // Only a connector has no user, and none gets here: its device id is unknown.
            None => self.explain(now, device, app, app),
        };
        if let Some(meant) = self.meant(now, device, &decision) {
            decision.remedy = Some(meant);
        }
        decision
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
        match self.meant(now, device, decision) {
            Some(meant) => refusal.with_next(meant),
            None => refusal,
        }
    }

    /// The app that was perhaps meant, where no rule permits the one that was named.
    fn meant(&self, now: Now, device: DeviceId, decision: &Decision) -> Option<String> {
        let is_unknown = decision.reason == Reason::NoRule
            && verdict::code_of(decision) == RefusalCode::NotPermitted;
        if !is_unknown {
            return None;
        }
        let judge = self.judge(now);
        let names = self.world.state.apps().map(|app| app.spec.name.as_str());
        suggest::nearest(&decision.resource, names)
            .and_then(|name| self.world.state.app(&name.parse().ok()?))
            .filter(|app| judge.may_know(device, &app.spec))
            .map(|app| format!("Did you mean {}?", app.spec.name))
    }
}
