//! A grant lives on while everything that it rests on still holds.

use std::time::Duration;

use cardea_proto::{
    decision::Reason,
    id::{DeviceId, GrantId, NodeId},
    message::ToNode,
    relay::Side,
    time::Now,
};

use super::request::TTL_WORTH;
use crate::{
    controller::{Controller, Turn},
    timers::Timer,
    verdict,
};

/// Certificates that live no longer than this extend nothing: their renewal does.
const LIFE_WORTH: Duration = Duration::from_secs(5);

impl Controller {
    /// Extends the grants of a device that are due, now that it has reported.
    pub(crate) fn extend_due(&mut self, turn: &mut Turn<'_>, device: DeviceId) {
        let grants: Vec<GrantId> = self.world.state.grants_of_device(device).collect();
        for grant in grants {
            self.extend_if_due(turn, grant);
        }
    }

    pub(super) fn extend_if_due(&mut self, turn: &mut Turn<'_>, grant: GrantId) {
        let open = self.live.open_mut(&grant);
        if open.is_some_and(|open| open.is_held() && open.extend_at <= turn.now.instant) {
            self.extend(turn, grant);
        }
    }

    /// For how long something may be on record that is not known here.
    ///
    /// An extension that is shorter by as much never outlives a revocation by more than its ttl,
    /// however long this controller has been cut off from its store.
    fn ignorance(&self, now: Now) -> Duration {
        if self.world.settings.shared {
            let known = self.health.caught_up;
            known.map_or(Duration::MAX, |at| {
                now.instant.saturating_duration_since(at)
            })
        } else {
            Duration::ZERO
        }
    }

    /// Decides again and tells both ends, or ends the grant.
    ///
    /// An end that is away, or a report that is late, only postpones: the grant ends by itself, by
    /// the ends' own clocks, if neither comes.
    pub(super) fn extend(&mut self, turn: &mut Turn<'_>, id: GrantId) {
        let Some(record) = self.world.state.grant(&id) else {
            return;
        };
        let grant = record.grant.clone();
        let held = self.live.open_mut(&id).copied();
        let Some(open) = held.filter(|_| !self.live.is_ending(&id)) else {
            return;
        };
        self.timers.set(Timer::Grant(id), open.expires);
        let both = open.is_held()
            && self.channels.of_device(grant.device).is_some()
            && self.channels.of_connector(grant.connector).is_some();
        if !both {
            return;
        }
        let decided = self
            .judge(turn.now)
            .connect(grant.device, &grant.user, &grant.app);
        let allowed = match decided {
            Ok(allowed) if allowed.certificate_life() > LIFE_WORTH => allowed,
            Ok(_) => return,
            Err(decision) if decision.reason == Reason::StalePosture => return,
            Err(decision) => {
                let actor = self.world.itself();
                self.end_grants(turn, &actor, [(id, verdict::end_reason(&decision))]);
                return;
            }
        };
        let Some(ttl) = self.ttl(&allowed).checked_sub(self.ignorance(turn.now)) else {
            return;
        };
        if ttl < TTL_WORTH {
            return;
        }
        let extend = |side| {
            let extend = self.world.extension((id, side), ttl, turn.now)?;
            Some(ToNode::Extend(extend))
        };
        let (Some(connector), Some(agent)) = (extend(Side::Connector), extend(Side::Agent)) else {
            return;
        };
        let to = NodeId::Connector(grant.connector);
        self.channels.send(to, connector, turn.out);
        self.channels
            .send(NodeId::Device(grant.device), agent, turn.out);
        if let Some(open) = self.live.open_mut(&id) {
            open.expires = turn.now.instant + ttl;
            open.extend_at = turn.now.instant + ttl / 2;
            self.timers.set(Timer::Grant(id), open.extend_at);
        }
    }
}
