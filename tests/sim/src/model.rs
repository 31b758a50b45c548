//! The reference model: who may reach what, told from the ledger and the wire alone.
//!
//! It shares no code with the controller's decisions. It sees entries as they are committed, messages
//! as they leave the controller and as they reach a connector, and every record that reaches an app.
//! What must not happen becomes a [`Violation`].

mod durable;
mod effects;
mod reach;

pub(crate) use self::reach::Arrival;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use cardea_proto::{
    app::{AppSpec, Principal},
    codec::Digest,
    id::{ConnectorId, DeviceId, GrantId, NodeId},
    ledger::{Actor, Change, Entry, Grant, Link, Revision},
    name::Name,
    time::{Now, UnixMillis},
};

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number in ARCHITECTURE §7; 0 for what every run must do besides.
    pub property: u8,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "property {}: {}", self.property, self.what)
    }
}

/// How long things may take in this run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// A message on a channel that is up.
    pub(crate) push: Duration,
    /// The slowest commit.
    pub(crate) commit: Duration,
    /// Until a controller sees what another one has written, while both reach the store.
    pub(crate) lag: Duration,
    /// How often such a controller asks by itself.
    pub(crate) poll: Duration,
    /// The life of a grant without an extension.
    pub(crate) ttl: Duration,
}

/// What is known for sure, and what was seen.
#[derive(Debug)]
pub(crate) struct Model {
    bounds: Bounds,
    head: Revision,
    devices: BTreeMap<DeviceId, Device>,
    groups: BTreeMap<Name, BTreeSet<Name>>,
    apps: BTreeMap<Name, AppSpec>,
    links: BTreeSet<Link>,
    grants: BTreeMap<GrantId, Known>,
    serials: BTreeSet<(NodeId, String)>,
    nodes: BTreeSet<NodeId>,
    sites: BTreeMap<ConnectorId, Site>,
    store_failed: Option<Instant>,
    clock_moved: Option<Instant>,
    is_strict: bool,
    acknowledged: durable::Acknowledged,
    /// The digest of the offer in each request.
    offers: BTreeMap<(DeviceId, u64), Digest>,
    liar: Option<ConnectorId>,
    villain: Option<DeviceId>,
    violations: Vec<Violation>,
}

/// A device as the ledger and its reports have it.
#[derive(Debug)]
struct Device {
    user: Name,
    is_blocked: bool,
    is_compliant: Option<bool>,
    not_after: UnixMillis,
    /// Whether its latest report has what the strict policy needs, by our own reading of it.
    is_strict: bool,
    /// Since when that report fails under the policy in force.
    failing_since: Option<Instant>,
}

/// A grant as the ledger has it, and as its connector was told.
#[derive(Debug)]
struct Known {
    grant: Grant,
    is_admitted: bool,
    ended: Option<Ended>,
    /// Since when nothing allows it, and why, while it has not ended.
    unlawful: Option<(Instant, &'static str)>,
    /// Targets when it was offered.
    spec: AppSpec,
    /// The end of its ttl by the connector's own clock; `None` before it was told.
    until: Option<Instant>,
}

/// The end of a grant, as it was recorded.
#[derive(Clone, Copy, Debug)]
struct Ended {
    at: Instant,
    revision: Revision,
}

/// A connector as its channel is.
#[derive(Debug, Default)]
struct Site {
    up_since: Option<Instant>,
}

impl Model {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            head: Revision(0),
            devices: BTreeMap::new(),
            groups: BTreeMap::new(),
            apps: BTreeMap::new(),
            links: BTreeSet::new(),
            grants: BTreeMap::new(),
            serials: BTreeSet::new(),
            nodes: BTreeSet::new(),
            sites: BTreeMap::new(),
            store_failed: None,
            clock_moved: None,
            is_strict: false,
            acknowledged: durable::Acknowledged::default(),
            offers: BTreeMap::new(),
            liar: None,
            villain: None,
            violations: Vec::new(),
        }
    }

    /// From here on nothing may take any time, which no world can do.
    #[cfg(test)]
    pub(crate) const fn bear_no_delay(&mut self) {
        self.bounds = Bounds {
            push: Duration::ZERO,
            commit: Duration::ZERO,
            lag: Duration::ZERO,
            poll: Duration::ZERO,
            ttl: Duration::ZERO,
        };
    }

    /// What did not hold since this was last asked.
    pub(crate) fn take_violations(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.violations)
    }

    /// An entry is durable from now on.
    pub(crate) fn committed(&mut self, now: Now, entry: &Entry) {
        if entry.revision != self.head.next() {
            let what = format!("entry {} follows {}", entry.revision, self.head);
            self.violate(5, what);
        }
        self.head = entry.revision;
        for change in &entry.draft.changes {
            self.judge_actor(&entry.draft.actor, change);
            self.fold(now, change);
        }
        self.judge_grants(now.instant);
    }

    /// The store takes nothing at this moment.
    pub(crate) fn store_failed(&mut self, now: Instant) {
        self.store_failed = Some(now);
    }

    /// A connector does with its tunnels what it likes.
    pub(crate) fn beware_connector(&mut self, liar: ConnectorId) {
        self.liar = Some(liar);
    }

    /// A device does so.
    pub(crate) fn beware_device(&mut self, villain: DeviceId) {
        self.villain = Some(villain);
    }

    /// A controller's wall clock steps.
    pub(crate) fn clock_moved(&mut self, now: Instant) {
        self.clock_moved = Some(now);
    }

    /// Whether this device may open this app, as far as the ledger says.
    pub(crate) fn allows(&self, device: DeviceId, app: &Name) -> bool {
        self.forbids(device, app).is_none()
    }

    /// Why this device may not open this app, as far as the ledger says.
    fn forbids(&self, device: DeviceId, app: &Name) -> Option<&'static str> {
        let Some(known) = self.devices.get(&device) else {
            return Some("the device is not enrolled");
        };
        let is_linked = self.links.iter().any(|link| {
            link.app == *app
                && match &link.principal {
                    Principal::User(user) => *user == known.user,
                    Principal::Group(group) => self
                        .groups
                        .get(&known.user)
                        .is_some_and(|groups| groups.contains(group)),
                    Principal::Everyone => true,
                }
        });
        if !is_linked {
            Some("no rule permits it")
        } else if !self.apps.contains_key(app) {
            Some("the app is gone")
        } else if known.is_blocked {
            Some("the device is blocked")
        } else if known.is_compliant != Some(true) {
            Some("the device's appraisal fails")
        } else {
            None
        }
    }

    /// Grants that have not ended, for whoever wants to revoke one.
    pub(crate) fn live_grants(&self) -> Vec<GrantId> {
        let live = self
            .grants
            .iter()
            .filter(|(_, known)| known.ended.is_none());
        live.map(|(grant, _)| *grant).collect()
    }

    /// Grants that have not ended, or did so since then.
    pub(crate) fn live_since(&self, since: Instant) -> BTreeSet<GrantId> {
        let lived = self.grants.iter().filter(|(_, known)| {
            let ended = known.ended.as_ref();
            ended.is_none_or(|ended| ended.at >= since)
        });
        lived.map(|(grant, _)| *grant).collect()
    }

    /// The rules in force.
    pub(crate) const fn links(&self) -> &BTreeSet<Link> {
        &self.links
    }

    /// How many grants were ever offered.
    pub(crate) fn grants_seen(&self) -> usize {
        self.grants.len()
    }

    /// How many entries the ledger has.
    pub(crate) const fn entries_seen(&self) -> u64 {
        self.head.0
    }

    fn fold(&mut self, now: Now, change: &Change) {
        match change {
            Change::NodeEnrolled(node) => {
                self.nodes.insert(node.id);
                if let (NodeId::Device(device), Some(user)) = (node.id, &node.user) {
                    self.devices.insert(device, Device::new(user.clone()));
                }
            }
            Change::DeviceBlocked(device) => self.block(*device, true),
            Change::DeviceUnblocked(device) => self.block(*device, false),
            Change::NodeRemoved(node) => {
                self.nodes.remove(node);
                if let NodeId::Device(device) = node {
                    self.devices.remove(device);
                }
            }
            Change::CertificateIssued(record) => self.issued(record),
            Change::Appraised { device, compliant } => {
                if let Some(known) = self.devices.get_mut(device) {
                    known.is_compliant = Some(*compliant);
                }
            }
            Change::UserSet(user) => {
                self.groups.insert(user.name.clone(), user.groups.clone());
            }
            Change::AppSet(app) => {
                self.apps.insert(app.name.clone(), app.clone());
            }
            Change::AppRemoved(app) => {
                self.apps.remove(app);
            }
            Change::Allowed(link) => {
                self.links.insert(link.clone());
            }
            Change::Disallowed(link) => {
                self.links.remove(link);
            }
            Change::GrantOffered(grant) => self.offered(now.instant, grant),
            Change::GrantAdmitted(grant) => self.admitted(*grant),
            Change::GrantEnded { grant, .. } => {
                if let Some(known) = self.grants.get_mut(grant) {
                    known.ended.get_or_insert(Ended {
                        at: now.instant,
                        revision: self.head,
                    });
                }
            }
            Change::PolicySet(files) => {
                let mut rules = files.iter().filter(|file| file.path.ends_with(".cedar"));
                self.is_strict = rules.any(|file| file.text.contains("has disk_encrypted"));
                self.judge_reports(now.instant);
            }
            Change::Founded(_)
            | Change::InviteCreated(_)
            | Change::InviteRemoved(_)
            | Change::InviteUsed { .. }
            | Change::SiteAdded(_)
            | Change::SiteRemoved(_)
            | Change::RollbackNoticed(_)
            | Change::RollbackAcknowledged
            | Change::Refused(_) => {}
        }
    }

    /// A node speaks for its own grants alone.
    fn judge_actor(&mut self, actor: &Actor, change: &Change) {
        let Actor::Node(node) = actor else {
            return;
        };
        let (Change::GrantEnded { grant, .. } | Change::GrantAdmitted(grant)) = change else {
            return;
        };
        let is_known = self.grants.contains_key(grant);
        if is_known && !self.is_party(*node, *grant) {
            let what = format!("{node} speaks for {grant}, which is of others: {change:?}");
            self.violate(5, what);
        }
    }

    fn block(&mut self, device: DeviceId, is_blocked: bool) {
        if let Some(known) = self.devices.get_mut(&device) {
            known.is_blocked = is_blocked;
        }
    }

    fn offered(&mut self, now: Instant, grant: &Grant) {
        if !self.allows(grant.device, &grant.app) {
            let what = format!(
                "{} offered to {} on {}, which no rule allows",
                grant.id, grant.device, grant.app
            );
            self.violate(1, what);
        }
        if self.is_failing(now, grant.device) {
            let what = format!(
                "{} offered to {}, whose posture fails",
                grant.id, grant.device
            );
            self.violate(1, what);
        }
        let Some(spec) = self.apps.get(&grant.app).cloned() else {
            return;
        };
        let known = Known {
            grant: grant.clone(),
            is_admitted: false,
            ended: None,
            unlawful: None,
            spec,
            until: None,
        };
        if self.grants.insert(grant.id, known).is_some() {
            self.violate(5, format!("{} offered twice", grant.id));
        }
    }

    /// Whether a device's latest appraisal fails, or its latest report has for longer than something
    /// that rests on the one before takes to be written.
    fn is_failing(&self, now: Instant, device: DeviceId) -> bool {
        let patience = self.bounds.commit * 2 + self.bounds.lag;
        self.devices.get(&device).is_none_or(|known| {
            let since = known.failing_since;
            known.is_compliant != Some(true) || since.is_some_and(|since| now > since + patience)
        })
    }

    fn admitted(&mut self, grant: GrantId) {
        match self.grants.get_mut(&grant) {
            Some(known) if known.ended.is_none() => known.is_admitted = true,
            Some(_) => self.violate(5, format!("{grant} admitted after its end")),
            None => self.violate(5, format!("{grant} admitted but never offered")),
        }
    }

    /// Marks live grants that no rule allows any longer, and unmarks those that are allowed again.
    fn judge_grants(&mut self, now: Instant) {
        let mut unlawful = BTreeMap::new();
        for (id, known) in self
            .grants
            .iter()
            .filter(|(_, known)| known.ended.is_none())
        {
            let Grant { device, app, .. } = &known.grant;
            let is_moved = self.apps.get(app).is_none_or(|spec| {
                spec.targets != known.spec.targets || spec.site != known.spec.site
            });
            let why = is_moved.then_some("the app has moved");
            unlawful.insert(*id, why.or_else(|| self.forbids(*device, app)));
        }
        for (id, why) in unlawful {
            if let Some(known) = self.grants.get_mut(&id) {
                let since = known.unlawful.map_or(now, |(since, _)| since);
                known.unlawful = why.map(|why| (since, why));
            }
        }
    }

    /// Marks devices whose latest report fails under the policy in force.
    fn judge_reports(&mut self, now: Instant) {
        for known in self.devices.values_mut() {
            let is_failing = self.is_strict && !known.is_strict;
            known.failing_since = is_failing.then(|| known.failing_since.unwrap_or(now));
        }
    }

    fn violate(&mut self, property: u8, what: String) {
        self.violations.push(Violation { property, what });
    }
}

impl Device {
    const fn new(user: Name) -> Self {
        Self {
            user,
            is_blocked: false,
            is_compliant: None,
            not_after: UnixMillis(0),
            is_strict: true,
            failing_since: None,
        }
    }
}

#[cfg(test)]
mod tests;
