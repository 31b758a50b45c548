//! Every app that this agent knows of or was asked for.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_proto::{
    access::STANDBY_MAX,
    id::GrantId,
    message::{AppView, Usage},
    name::Name,
};
use cardea_tunnel::{Path, PathReason};

use super::{
    access::{Access, Effect, Held, Step},
    offer::PendingOffer,
};

/// Most apps that somebody may have asked for; a local user could invent names.
const ENTRIES_MAX: usize = 1_024;

/// The controller's snapshot, and the state of each app that was asked for.
#[derive(Debug, Default)]
pub(super) struct Apps {
    views: Vec<AppView>,
    entries: BTreeMap<Name, Entry>,
}

/// One app that was asked for.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where access to it stands.
    pub(super) access: Access,
    /// The offer that waits for its answer; there is one exactly while asking.
    pub(super) offer: Option<PendingOffer>,
    /// What its tunnel told.
    pub(super) traffic: Traffic,
}

/// What a tunnel told: what passed through it, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Payload from the app.
    pub(super) bytes_in: u64,
    /// Payload to the app.
    pub(super) bytes_out: u64,
    /// Latest round trip.
    pub(super) rtt: Option<Duration>,
    /// Which way it goes, and why.
    pub(super) path: Option<(Path, PathReason)>,
    /// Through which relays it could go as well.
    pub(super) standby: [Option<SocketAddr>; STANDBY_MAX],
    /// Whether the other end does not answer.
    pub(super) is_silent: bool,
}

impl Apps {
    pub(super) fn views(&self) -> &[AppView] {
        &self.views
    }

    pub(super) fn entry(&self, app: &Name) -> Option<&Entry> {
        self.entries.get(app)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&Name, &Entry)> {
        self.entries.iter()
    }

    /// Takes the controller's snapshot; the names of apps that may be opened come back.
    pub(super) fn replace_views(&mut self, views: Vec<AppView>) -> Vec<Name> {
        self.views = views;
        let allowed = self.views.iter().filter(|view| view.allowed);
        allowed.map(|view| view.name.clone()).collect()
    }

    /// Makes room for an app; false when too many were asked for.
    pub(super) fn admit(&mut self, app: &Name) -> bool {
        if self.entries.contains_key(app) {
            return true;
        }
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.retain(|_, entry| !entry.is_quiet());
        }
        if self.entries.len() >= ENTRIES_MAX {
            return false;
        }
        self.entries.insert(app.clone(), Entry::new());
        true
    }

    /// Takes one step of one app.
    pub(super) fn step(&mut self, now: Instant, app: &Name, step: Step) -> Vec<Effect> {
        let Some(entry) = self.entries.get_mut(app) else {
            return Vec::new();
        };
        let idle = Access::Idle { ended: None };
        let (access, effects) = std::mem::replace(&mut entry.access, idle).step(now, step);
        entry.access = access;
        if !matches!(entry.access, Access::Asking { .. }) {
            entry.offer = None;
        }
        if effects.contains(&Effect::Install) {
            entry.traffic = Traffic::default();
        }
        effects
    }

    /// Keeps the offer that was sent for an app until its answer comes.
    pub(super) fn offered(&mut self, app: &Name, offer: PendingOffer) {
        if let Some(entry) = self.entries.get_mut(app) {
            entry.offer = Some(offer);
        }
    }

    /// Takes the offer that an answer to `request` is for; any other request finds none.
    pub(super) fn take_offer(&mut self, app: &Name, request: u64) -> Option<PendingOffer> {
        let entry = self.entries.get_mut(app)?;
        let is_asked =
            matches!(entry.access, Access::Asking { request: Some(asked), .. } if asked == request);
        if is_asked { entry.offer.take() } else { None }
    }

    /// The app that was asked for with this request.
    pub(super) fn asked(&self, request: u64) -> Option<Name> {
        let mut entries = self.entries.iter();
        let is_asked = |access: &Access| matches!(access, Access::Asking { request: Some(asked), .. } if *asked == request);
        entries
            .find(|(_, entry)| is_asked(&entry.access))
            .map(|(app, _)| app.clone())
    }

    /// The app that a grant is for.
    pub(super) fn holder(&self, grant: GrantId) -> Option<Name> {
        let mut entries = self.entries.iter();
        entries
            .find(|(_, entry)| entry.access.held().is_some_and(|held| held.grant == grant))
            .map(|(app, _)| app.clone())
    }

    pub(super) fn note(&mut self, app: &Name, usage: &Usage, rtt: Option<Duration>) {
        if let Some(entry) = self.entries.get_mut(app) {
            entry.traffic = Traffic {
                bytes_in: usage.bytes_in,
                bytes_out: usage.bytes_out,
                rtt: rtt.or(entry.traffic.rtt),
                ..entry.traffic
            };
        }
    }

    pub(super) fn note_path(&mut self, app: &Name, path: Path, why: PathReason) {
        if let Some(entry) = self.entries.get_mut(app) {
            entry.traffic.path = Some((path, why));
        }
    }

    pub(super) fn note_standby(&mut self, app: &Name, relays: [Option<SocketAddr>; STANDBY_MAX]) {
        if let Some(entry) = self.entries.get_mut(app) {
            entry.traffic.standby = relays;
        }
    }

    pub(super) fn note_silence(&mut self, app: &Name, is_silent: bool) {
        if let Some(entry) = self.entries.get_mut(app) {
            entry.traffic.is_silent = is_silent;
        }
    }

    pub(super) fn names(&self) -> Vec<Name> {
        self.entries.keys().cloned().collect()
    }

    /// The grants that this agent holds.
    pub(super) fn held(&self) -> impl Iterator<Item = &Held> {
        self.entries
            .values()
            .filter_map(|entry| entry.access.held())
    }

    /// The apps whose own deadline has passed.
    pub(super) fn due(&self, now: Instant) -> Vec<Name> {
        let is_due = |entry: &Entry| entry.access.deadline().is_some_and(|due| due <= now);
        let entries = self.entries.iter().filter(|(_, entry)| is_due(entry));
        entries.map(|(app, _)| app.clone()).collect()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.entries
            .values()
            .filter_map(|entry| entry.access.deadline())
            .min()
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            access: Access::Idle { ended: None },
            offer: None,
            traffic: Traffic::default(),
        }
    }

    /// Whether forgetting it loses nothing but a reason.
    fn is_quiet(&self) -> bool {
        self.access.held().is_none() && self.access.deadline().is_none()
    }
}
