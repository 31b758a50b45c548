//! What a change of a record means for devices: grants are decided again at once, snapshots of apps
//! and appraisals in small portions.

use std::collections::{BTreeMap, BTreeSet};

use cardea_credential::key;
use cardea_proto::{
    codec::{self, Digest},
    id::{DeviceId, GrantId, NodeId},
    ledger::EndReason,
    message::{AppView, ToNode},
    name::Name,
};

use crate::{
    controller::{Controller, Turn},
    state::AppMoved,
    timers::Timer,
    verdict,
};

/// Decisions that one turn takes for snapshots; the next turn goes on.
///
/// A decision takes some 60 µs, so that a request waits no longer than 15 ms behind these.
const DECISIONS_PER_TURN: usize = 256;

/// Devices to be looked at again, and what each was last sent.
#[derive(Debug, Default)]
pub(crate) struct Reviews {
    waiting: BTreeSet<DeviceId>,
    sent: BTreeMap<DeviceId, Digest>,
}

impl Reviews {
    pub(crate) fn count(&self) -> usize {
        self.waiting.len().max(self.sent.len())
    }

    /// Forgets what a device was sent: it is a new channel.
    pub(crate) fn forget(&mut self, device: DeviceId) {
        self.sent.remove(&device);
    }
}

impl Controller {
    /// Looks at a device again soon.
    pub(crate) fn review(&mut self, turn: &Turn<'_>, device: DeviceId) {
        self.reviews.waiting.insert(device);
        self.timers.set_no_later(Timer::Reviews, turn.now.instant);
    }

    /// Looks at the devices that wait, as many as fit in a turn.
    pub(crate) fn review_some(&mut self, turn: &mut Turn<'_>) {
        let mut decisions = 0;
        while decisions < DECISIONS_PER_TURN {
            let Some(device) = self.reviews.waiting.pop_first() else {
                return;
            };
            self.assess(turn, device, false);
            // Before its first report, nothing can be said of a device.
            let reported = self.postures.facts(device).is_some();
            if reported && self.channels.of_device(device).is_some() {
                decisions += 1 + self.world.state.apps_count();
                self.push_apps(turn, device);
            } else {
                decisions += 1;
                self.reviews.forget(device);
            }
        }
        if !self.reviews.waiting.is_empty() {
            self.timers.set(Timer::Reviews, turn.now.instant);
        }
    }

    /// A device was blocked.
    pub(crate) fn blocked(&mut self, turn: &mut Turn<'_>, device: DeviceId) {
        self.end_device(turn, device, EndReason::DeviceBlocked);
        self.tell_of_block(turn, device);
        self.review(turn, device);
    }

    /// A block was lifted.
    pub(crate) fn unblocked(&mut self, turn: &mut Turn<'_>, device: DeviceId) {
        self.tell_of_block(turn, device);
        self.review(turn, device);
    }

    /// A user's groups may differ.
    pub(crate) fn user_moved(&mut self, turn: &mut Turn<'_>, user: &Name) {
        let devices: Vec<DeviceId> = self.world.state.devices_of(user).collect();
        for device in devices {
            let grants = self.world.state.grants_of_device(device).collect();
            self.redecide(turn, grants);
            self.review(turn, device);
        }
    }

    /// An app is new or different.
    pub(crate) fn app_moved(&mut self, turn: &mut Turn<'_>, moved: &AppMoved) {
        if moved.rerouted {
            self.app_gone(turn, &moved.name);
        } else {
            self.links_moved(turn, &moved.name);
        }
    }

    /// An app is gone, or leads elsewhere.
    pub(crate) fn app_gone(&mut self, turn: &mut Turn<'_>, app: &Name) {
        let grants = self.world.state.grants_of_app(app);
        let ends: Vec<_> = grants.map(|grant| (grant, EndReason::AppChanged)).collect();
        let actor = self.world.itself();
        self.end_grants(turn, &actor, ends);
        self.review_connected(turn);
    }

    /// The everyday rules about an app differ.
    pub(crate) fn links_moved(&mut self, turn: &mut Turn<'_>, app: &Name) {
        let grants = self.world.state.grants_of_app(app).collect();
        self.redecide(turn, grants);
        self.review_connected(turn);
    }

    /// The policy is another.
    pub(crate) fn policy_moved(&mut self, turn: &mut Turn<'_>) {
        let grants: Vec<GrantId> = self.world.state.grants().map(|r| r.grant.id).collect();
        self.redecide(turn, grants);
        for device in self.postures.devices() {
            self.review(turn, device);
        }
        self.review_connected(turn);
    }

    fn review_connected(&mut self, turn: &Turn<'_>) {
        self.reviews.waiting.extend(self.channels.devices());
        if !self.reviews.waiting.is_empty() {
            self.timers.set_no_later(Timer::Reviews, turn.now.instant);
        }
    }

    /// Sends a device the apps that it may know of, if they differ from what it has.
    fn push_apps(&mut self, turn: &mut Turn<'_>, device: DeviceId) {
        let apps = self.apps_of(turn, device);
        let digest = key::digest(&codec::encode(&apps));
        if self.reviews.sent.insert(device, digest) != Some(digest) {
            let node = NodeId::Device(device);
            self.channels.send(node, ToNode::Apps(apps), turn.out);
        }
    }

    fn apps_of(&self, turn: &Turn<'_>, device: DeviceId) -> Vec<AppView> {
        let known = self.judge(turn.now).survey(device);
        known
            .into_iter()
            .map(|(app, denied)| AppView {
                name: app.name.clone(),
                names: app.names.clone(),
                services: app.services(),
                transport: app.transport,
                allowed: denied.is_none(),
                why: denied.map(|decision| verdict::refusal_of(&decision).to_string()),
            })
            .collect()
    }
}
