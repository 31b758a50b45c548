//! Every app that this agent knows of or was asked for.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_proto::{
    access::{Granted, STANDBY_MAX},
    id::GrantId,
    message::{AppView, Usage},
    name::Name,
    pattern,
    time::{Now, UnixMillis},
};
use cardea_tunnel::{DialError, Path, PathReason};

use super::{
    access::{Access, Effect, Held, Step},
    offer::PendingOffer,
};

/// Most apps that somebody may have asked for; a local user could invent names.
const ENTRIES_MAX: usize = 1_024;

/// How long the status shows why a name was refused that the controller tells nothing of: a person
/// who mistyped it has read the error by then.
const REFUSAL_SHOWN: Duration = Duration::from_secs(60);

/// How long a silent tunnel is kept while the controller answers, so that this device's network is
/// not why: longer than a report of it takes to be sent (5 s) and to go unanswered (2 s), and shorter
/// than a person waits.
const SILENCE_MAX: Duration = Duration::from_secs(8);

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
    /// Flows open at the last count.
    pub(super) flows: u32,
    /// Latest round trip.
    pub(super) rtt: Option<Duration>,
    /// Which way it goes, and why.
    pub(super) path: Option<(Path, PathReason)>,
    /// Through which relays it could go as well.
    pub(super) standby: [Option<SocketAddr>; STANDBY_MAX],
    /// Since when the other end is known not to answer.
    pub(super) silent_since: Option<Instant>,
    /// Whether that is so although the relay answers.
    pub(super) is_alone_silent: bool,
    /// How the last flow failed that the connector did not bring to the app.
    pub(super) failure: Option<Failure>,
}

/// Flows of a tunnel that did not reach the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Why the last one did not.
    pub(super) why: DialError,
    /// When that was.
    pub(super) at: UnixMillis,
    /// How many there were since the tunnel began.
    pub(super) count: u64,
}

impl Traffic {
    /// Another flow did not reach the app.
    pub(super) fn note_failure(&mut self, now: Now, why: DialError) {
        let before = self.failure.map_or(0, |failure| failure.count);
        self.failure = Some(Failure {
            why,
            at: now.unix,
            count: before.saturating_add(1),
        });
    }
}

impl Apps {
    pub(super) fn views(&self) -> &[AppView] {
        &self.views
    }

    pub(super) fn entry(&self, app: &Name) -> Option<&Entry> {
        self.entries.get(app)
    }

    /// The app that a name of an entry is for.
    pub(super) fn view(&self, name: &Name) -> Option<&AppView> {
        pattern::meant(&self.views, name.as_str()).map(|meant| meant.view)
    }

    /// Whether the controller told of an app of this name.
    pub(super) fn is_known(&self, app: &Name) -> bool {
        self.views.iter().any(|view| view.name == *app)
    }

    /// The names that the controller told nothing of and a person should still see: what is on its
    /// way or open, and what was refused a short while ago.
    pub(super) fn others(&self, now: Instant) -> impl Iterator<Item = &Name> {
        self.entries
            .iter()
            .filter(move |(app, entry)| !self.is_known(app) && !entry.is_over(now))
            .map(|(app, _)| app)
    }

    /// Takes the controller's snapshot.
    pub(super) fn replace_views(&mut self, views: Vec<AppView>) {
        self.views = views;
    }

    /// What was asked for and may be opened, as the controller last said.
    pub(super) fn allowed(&self) -> Vec<Name> {
        let is_allowed = |name: &&Name| self.view(name).is_some_and(|view| view.allowed);
        self.entries.keys().filter(is_allowed).cloned().collect()
    }

    /// Makes room for an app; false when too many were asked for.
    pub(super) fn admit(&mut self, now: Instant, app: &Name) -> bool {
        if self.entries.contains_key(app) {
            return true;
        }
        let views = &self.views;
        let is_known = |app: &Name| views.iter().any(|view| view.name == *app);
        self.entries
            .retain(|app, entry| is_known(app) || !entry.is_over(now));
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

    /// Takes the offer that a grant is for; any other finds none.
    pub(super) fn take_offer(&mut self, name: &Name, granted: &Granted) -> Option<PendingOffer> {
        let entry = self.entries.get_mut(name)?;
        let is_asked = matches!(entry.access, Access::Asking { request: Some(asked), .. } if asked == granted.request);
        let is_its = |offer: &mut PendingOffer| is_asked && *offer.app() == granted.app;
        entry.offer.take_if(is_its)
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

    pub(super) fn note_traffic(&mut self, app: &Name, told: impl FnOnce(&mut Traffic)) {
        if let Some(entry) = self.entries.get_mut(app) {
            told(&mut entry.traffic);
        }
    }

    /// What the controller is told of the tunnels of these apps.
    pub(super) fn usages(&self) -> impl Iterator<Item = Usage> {
        self.entries.values().filter_map(Entry::usage)
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

    /// The tunnels that have been silent for as long as they may.
    pub(super) fn silent_too_long(&self, now: Instant) -> Vec<(Name, GrantId)> {
        let is_due = |entry: &Entry| entry.given_up_at().is_some_and(|due| due <= now);
        let entries = self.entries.iter().filter(|(_, entry)| is_due(entry));
        entries
            .filter_map(|(app, entry)| Some((app.clone(), entry.access.held()?.grant)))
            .collect()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.entries
            .values()
            .flat_map(|entry| [entry.access.deadline(), entry.given_up_at()])
            .flatten()
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

    /// Whether its tunnel's other end does not answer.
    pub(super) fn is_silent(&self) -> bool {
        self.access.held().is_some() && self.traffic.silent_since.is_some()
    }

    /// The grant of a tunnel whose other end alone does not answer: another may do.
    pub(super) fn deserted(&self) -> Option<GrantId> {
        let held = self.access.held()?;
        (self.is_silent() && self.traffic.is_alone_silent).then_some(held.grant)
    }

    fn given_up_at(&self) -> Option<Instant> {
        self.access.held()?;
        Some(self.traffic.silent_since? + SILENCE_MAX)
    }

    /// What its tunnel told, for the controller; nothing before it is open.
    pub(super) fn usage(&self) -> Option<Usage> {
        let grant = self.access.held()?.grant;
        let (path, _) = self.traffic.path?;
        Some(Usage {
            grant,
            bytes_in: self.traffic.bytes_in,
            bytes_out: self.traffic.bytes_out,
            flows: self.traffic.flows,
            path: Some(path).filter(|_| self.traffic.silent_since.is_none()),
        })
    }

    /// Whether nothing of it is left to tell, if the controller knows of no such app.
    fn is_over(&self, now: Instant) -> bool {
        match self.access {
            Access::Idle { .. } => true,
            Access::Denied { at, .. } | Access::Unreachable { at, .. } => now >= at + REFUSAL_SHOWN,
            Access::Asking { .. } | Access::Opening { .. } | Access::Open { .. } => false,
        }
    }

    /// Whether there is a tunnel, or one is on its way.
    pub(super) const fn is_live(&self) -> bool {
        match self.access {
            Access::Asking { .. } | Access::Opening { .. } | Access::Open { .. } => true,
            Access::Idle { .. } | Access::Denied { .. } | Access::Unreachable { .. } => false,
        }
    }

    /// Whether forgetting it loses nothing but a reason.
    fn is_quiet(&self) -> bool {
        self.access.held().is_none() && self.access.deadline().is_none()
    }
}
