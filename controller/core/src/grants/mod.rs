//! Grants: from a request to a tunnel that both ends hold, and to its end.
//!
//! ```text
//!            commit              Admitted             commit
//!  request ─────────▶ Offered ───────────▶ Admitting ────────▶ Open ─┐ extended by push
//!     ▲                  │ no answer, refused,                 │  ▲   │ at half of its ttl,
//!     └── another ◀──────┘ connector gone                      │  └───┘ while everything holds
//!         connector      (Abandoned until its end is recorded) │
//!                                                              │ revoked, not permitted, posture,
//!  any stage ──────────────────── commit ─────────▶ ended ◀────┘ certificate, expired, closed …
//! ```
//!
//! The state knows whether a grant is offered or admitted; the stages here add what is never
//! recorded: who waits for it, the offer itself, and when it is due. An end is wanted first, then
//! committed, and only then withdrawn from both ends.

mod admission;
mod choice;
mod decided;
mod ending;
mod extension;
mod request;
mod statements;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use cardea_proto::{
    id::{ConnectorId, DeviceId, GrantId, NodeId},
    ledger::EndReason,
    message::Usage,
    name::Name,
    path::Path,
    time::{Now, UnixMillis},
};

pub(crate) use self::{
    admission::Admitting,
    ending::{ENDS_PER_ENTRY, changes as end_changes, withdraw},
    request::Offering,
};
use crate::{
    api::ChannelId,
    channels::Named,
    controller::{Controller, Turn},
    sizes::Sizes,
    timers::Timer,
};

/// What this controller knows of live grants besides the state.
#[derive(Debug, Default)]
pub(crate) struct Live {
    tunnels: BTreeMap<GrantId, Tunnel>,
    endings: BTreeMap<GrantId, Ending>,
    deciding: BTreeSet<(DeviceId, Name, Option<Name>)>,
    promised: BTreeMap<ConnectorId, usize>,
}

/// A grant on its way, or the tunnel made from it.
#[derive(Debug)]
struct Tunnel {
    stage: Stage,
    told: Option<Told>,
}

/// What the ends of a tunnel told of it; no record, and unknown after a start until they tell again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// The last count of either end.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) flows: u32,
    /// Which way the device sends.
    pub(crate) path: Option<Path>,
    /// When that was told; without it, when the count was.
    pub(crate) at: UnixMillis,
}

/// How far a grant has come.
#[derive(Debug)]
enum Stage {
    /// The connector was asked.
    Offered(Box<Offering>),
    /// The connector has answered; that is being recorded.
    Admitting(Box<Offering>),
    /// The connector did not answer; another one is asked, and this grant only waits for its end.
    Abandoned,
    /// Both ends were told.
    Open(Open),
}

/// A grant that both ends were told of.
#[derive(Clone, Copy, Debug)]
struct Open {
    expires: Instant,
    extend_at: Instant,
    /// Whether the device is known to hold it since this controller started.
    device_holds: bool,
    /// Whether the connector is.
    connector_holds: bool,
}

/// An end that is not on record yet.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The store did not take it; it is proposed again.
    Wanted(EndReason),
    /// It is on its way to the store.
    Proposed(EndReason),
}

impl Live {
    /// What the ends of a tunnel told of it.
    pub(crate) fn told(&self, grant: &GrantId) -> Option<Told> {
        self.tunnels.get(grant)?.told
    }

    /// Whether both ends were told of a grant.
    pub(crate) fn is_open(&self, grant: &GrantId) -> bool {
        let tunnel = self.tunnels.get(grant);
        tunnel.is_some_and(|tunnel| matches!(tunnel.stage, Stage::Open(_)))
    }

    /// How much of each there is.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            tunnels: self.tunnels.len(),
            endings: self.endings.len(),
            deciding: self.deciding.len(),
            promised: self.promised.values().sum(),
            ..Sizes::default()
        }
    }

    fn insert(&mut self, grant: GrantId, stage: Stage) {
        self.tunnels.insert(grant, Tunnel { stage, told: None });
    }

    fn is_ending(&self, grant: &GrantId) -> bool {
        self.endings.contains_key(grant)
    }

    fn open_mut(&mut self, grant: &GrantId) -> Option<&mut Open> {
        match &mut self.tunnels.get_mut(grant)?.stage {
            Stage::Open(open) => Some(open),
            Stage::Offered(_) | Stage::Admitting(_) | Stage::Abandoned => None,
        }
    }

    /// Takes the request out of a grant that was offered or is being admitted.
    fn abandon(&mut self, grant: &GrantId) -> Option<Box<Offering>> {
        let tunnel = self.tunnels.get_mut(grant)?;
        match std::mem::replace(&mut tunnel.stage, Stage::Abandoned) {
            Stage::Offered(offering) | Stage::Admitting(offering) => Some(offering),
            stage @ (Stage::Abandoned | Stage::Open(_)) => {
                tunnel.stage = stage;
                None
            }
        }
    }

    fn promise(&mut self, connector: ConnectorId) {
        *self.promised.entry(connector).or_default() += 1;
    }

    fn release(&mut self, connector: ConnectorId) {
        if let Some(count) = self.promised.get_mut(&connector) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.promised.remove(&connector);
            }
        }
    }
}

impl Open {
    const fn is_held(&self) -> bool {
        self.device_holds && self.connector_holds
    }
}

impl Controller {
    /// Takes the grants of an earlier run over: those that were admitted live on for their ttl.
    pub(crate) fn adopt_grants(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.instant;
        let stale = now + self.world.settings.posture_stale_after();
        let mut lost = Vec::new();
        let mut devices = BTreeSet::new();
        for record in self.world.state.grants() {
            let grant = &record.grant;
            if !record.admitted && self.world.settings.shared {
                // It may be another controller's, which waits for the answer.
                devices.insert(grant.device);
                continue;
            }
            if !record.admitted {
                lost.push((grant.id, EndReason::ControllerRestarted));
                continue;
            }
            let expires = now + Duration::from_millis(grant.ttl_ms);
            self.live.insert(
                grant.id,
                Stage::Open(Open {
                    expires,
                    extend_at: now,
                    device_holds: false,
                    connector_holds: false,
                }),
            );
            self.timers.set(Timer::Grant(grant.id), expires);
            self.timers.set(Timer::Posture(grant.device), stale);
            devices.insert(grant.device);
        }
        for device in devices {
            self.watch_certificate(device, turn.now);
        }
        let actor = self.world.itself();
        self.end_grants(turn, &actor, lost);
    }

    /// Everything is known here that was recorded up to a moment: what nodes said before can be held
    /// against it.
    pub(crate) fn caught_up(&mut self, turn: &mut Turn<'_>, asked: Instant) {
        self.health.caught_up = Some(asked);
        for (channel, named) in self.channels.take_named(asked) {
            self.held(turn, channel, &named);
        }
        for (channel, node, grant) in self.channels.take_answered(asked) {
            if !self.owns(node, &grant) {
                turn.send(channel, withdraw(grant, EndReason::Expired));
            }
        }
    }

    /// A node says which grants it holds: what ended is withdrawn, what it lost is ended.
    pub(crate) fn held(&mut self, turn: &mut Turn<'_>, channel: ChannelId, named: &Named) {
        let Some(node) = self.channels.get(channel).map(|open| open.node) else {
            return;
        };
        let mut mine: BTreeSet<GrantId> = match node {
            NodeId::Device(device) => self.world.state.grants_of_device(device).collect(),
            NodeId::Connector(connector) => {
                self.world.state.grants_of_connector(connector).collect()
            }
        };
        for grant in &named.grants {
            if !mine.contains(grant) {
                turn.send(channel, withdraw(*grant, EndReason::Expired));
            }
        }
        let seen = named.seen;
        let named: BTreeSet<GrantId> = named.grants.iter().copied().collect();
        // What was offered since it spoke, it could not name.
        mine.retain(|grant| {
            let record = self.world.state.grant(grant);
            named.contains(grant) || record.is_some_and(|record| record.revision <= seen)
        });
        let mut lost = Vec::new();
        for grant in mine {
            let holds = named.contains(&grant);
            self.take_over(turn, grant);
            let Some(open) = self.live.open_mut(&grant) else {
                let admitting = self.live.tunnels.get(&grant);
                let admitting =
                    admitting.is_some_and(|tunnel| matches!(tunnel.stage, Stage::Admitting(_)));
                // It restarted after it had answered: the agent must not be told to come.
                if admitting && !holds && matches!(node, NodeId::Connector(_)) {
                    lost.push((grant, EndReason::ConnectorGone));
                }
                continue;
            };
            let reason = match node {
                NodeId::Device(_) => {
                    open.device_holds = holds;
                    EndReason::Closed
                }
                NodeId::Connector(_) => {
                    open.connector_holds = holds;
                    EndReason::ConnectorGone
                }
            };
            if holds {
                // The last extension may have been lost with the channel, and its count is ours alone.
                open.extend_at = turn.now.instant;
                self.extend_if_due(turn, grant);
            } else {
                lost.push((grant, reason));
            }
        }
        self.end_grants(turn, &cardea_proto::ledger::Actor::Node(node), lost);
    }

    /// Takes a grant over that another controller had until one of its ends came here.
    ///
    /// It is extended once the other end is here too, and ends by itself if that does not come.
    fn take_over(&mut self, turn: &mut Turn<'_>, id: GrantId) {
        let record = self.world.state.grant(&id);
        let is_foreign = self.world.settings.shared && !self.live.tunnels.contains_key(&id);
        let Some(record) = record.filter(|record| record.admitted && is_foreign) else {
            return;
        };
        let ttl = Duration::from_millis(record.grant.ttl_ms);
        let open = Open {
            expires: turn.now.instant + ttl,
            extend_at: turn.now.instant,
            device_holds: false,
            connector_holds: false,
        };
        self.live.insert(id, Stage::Open(open));
        self.timers.set(Timer::Grant(id), open.expires);
    }

    /// Whether it is for this controller to say that a grant has run out.
    ///
    /// Extensions are no records, so that among several controllers only the one that the connector
    /// is connected to can know of none. Where there is no such one, the connector says what it
    /// holds when it comes back, and the certificate's end ends the grant everywhere.
    fn keeps(&self, grant: GrantId) -> bool {
        let record = self.world.state.grant(&grant);
        record.is_some_and(|record| {
            let connector = self.channels.of_connector(record.grant.connector);
            !self.world.settings.shared || connector.is_some()
        })
    }

    /// A timer of a grant has come.
    pub(crate) fn grant_due(&mut self, turn: &mut Turn<'_>, grant: GrantId) {
        if let Some(Ending::Wanted(reason)) = self.live.endings.get(&grant).copied() {
            let actor = self.world.itself();
            self.end_grants(turn, &actor, [(grant, reason)]);
            return;
        }
        let Some(tunnel) = self.live.tunnels.get(&grant) else {
            return;
        };
        match &tunnel.stage {
            Stage::Offered(_) => self.ask_another(turn, grant, "did not answer in time"),
            Stage::Open(open) if open.expires <= turn.now.instant => {
                if self.keeps(grant) {
                    let actor = self.world.itself();
                    self.end_grants(turn, &actor, [(grant, EndReason::Expired)]);
                }
            }
            Stage::Open(_) => self.extend(turn, grant),
            // Its commit comes back, or fails; nothing is due before.
            Stage::Admitting(_) | Stage::Abandoned => {}
        }
    }

    /// Counts of what passed, from either end, and the path of the device's.
    pub(crate) fn on_usage(&mut self, now: Now, node: NodeId, usages: Vec<Usage>) {
        for usage in usages {
            if self.owns(node, &usage.grant)
                && let Some(tunnel) = self.live.tunnels.get_mut(&usage.grant)
            {
                let path = usage.path.filter(|_| matches!(node, NodeId::Device(_)));
                let before = tunnel.told.filter(|told| told.path.is_some());
                tunnel.told = Some(Told {
                    bytes_in: usage.bytes_in,
                    bytes_out: usage.bytes_out,
                    flows: usage.flows,
                    path: path.or_else(|| before?.path),
                    at: match before {
                        Some(before) if path.is_none() => before.at,
                        Some(_) | None => now.unix,
                    },
                });
            }
        }
    }

    /// Whether a node is one of the two ends of a live grant.
    fn owns(&self, node: NodeId, grant: &GrantId) -> bool {
        let record = self.world.state.grant(grant);
        record.is_some_and(|record| match node {
            NodeId::Device(device) => record.grant.device == device,
            NodeId::Connector(connector) => record.grant.connector == connector,
        })
    }
}

#[cfg(test)]
mod tests;
