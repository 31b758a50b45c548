//! Grants end: wanted, recorded, withdrawn from the connector first, then from the agent.

use std::{collections::BTreeMap, time::Duration};

use cardea_proto::{
    id::{DeviceId, GrantId, NodeId},
    ledger::{Actor, Change, EndReason},
    message::ToNode,
};

use super::{Ending, Stage, request::denied};
use crate::{
    controller::{Controller, Turn},
    judge::Judge,
    proposals::{Intent, Pending},
    state::{Committed, Ended},
    timers::Timer,
    verdict,
    world::{Expects, draft},
};

/// Ends that one entry of the ledger holds: a few dozen bytes each.
pub(crate) const ENDS_PER_ENTRY: usize = 1_000;

/// How long until an end is proposed again that the store did not take.
const RETRY: Duration = Duration::from_secs(1);

impl Controller {
    /// Wants grants ended; what is on its way already is left alone.
    ///
    /// An end rests on nothing: it can never be wrong to record one.
    pub(crate) fn end_grants(
        &mut self,
        turn: &mut Turn<'_>,
        actor: &Actor,
        ends: impl IntoIterator<Item = (GrantId, EndReason)>,
    ) {
        let mut wanted = Vec::new();
        for (grant, reason) in ends {
            let proposed = matches!(self.live.endings.get(&grant), Some(Ending::Proposed(_)));
            if !proposed && self.world.state.grant(&grant).is_some() {
                self.live.endings.insert(grant, Ending::Proposed(reason));
                wanted.push((grant, reason));
            }
        }
        for chunk in wanted.chunks(ENDS_PER_ENTRY) {
            let mut draft = draft(turn.now.unix, actor.clone());
            draft.changes = changes(chunk);
            let intent = Intent::End(chunk.iter().map(|(grant, _)| *grant).collect());
            let pending = Pending { intent, tries: 0 };
            self.propose(turn, Expects::default(), draft, pending);
        }
    }

    /// Decides again about grants that a change may concern, and ends those that no longer hold.
    pub(crate) fn redecide(&mut self, turn: &mut Turn<'_>, grants: Vec<GrantId>) {
        let ends = self.no_longer(&self.judge(turn.now), grants.into_iter());
        let actor = self.world.itself();
        self.end_grants(turn, &actor, ends);
    }

    /// The grants among these that would not be given any longer, and why.
    ///
    /// A change says nothing about a report that is late or, after a restart, has not come yet: that
    /// ends grants by a timer of its own. What no report could make right ends at once all the same.
    pub(crate) fn no_longer(
        &self,
        judge: &Judge<'_>,
        grants: impl Iterator<Item = GrantId>,
    ) -> Vec<(GrantId, EndReason)> {
        let mut standings = BTreeMap::new();
        grants
            .filter_map(|id| {
                let grant = &self.world.state.grant(&id)?.grant;
                let standing = standings
                    .entry(grant.device)
                    .or_insert_with(|| judge.standing(grant.device));
                let denied = judge.connect_as(standing, &grant.user, &grant.app).err()?;
                let reason = verdict::end_reason(&denied);
                if reason != EndReason::PostureStale {
                    return Some((id, reason));
                }
                let hopeless = !judge.may_ever(grant.device, &grant.user, &grant.app);
                hopeless.then_some((id, EndReason::NotPermitted))
            })
            .collect()
    }

    /// Ends all grants of a device.
    pub(crate) fn end_device(&mut self, turn: &mut Turn<'_>, device: DeviceId, reason: EndReason) {
        let ends: Vec<_> = self
            .world
            .state
            .grants_of_device(device)
            .map(|grant| (grant, reason))
            .collect();
        let actor = self.world.itself();
        self.end_grants(turn, &actor, ends);
    }

    /// A node ended a tunnel.
    pub(crate) fn on_closed(&mut self, turn: &mut Turn<'_>, node: NodeId, grant: GrantId) {
        if self.owns(node, &grant) {
            self.end_grants(turn, &Actor::Node(node), [(grant, EndReason::Closed)]);
        }
    }

    /// A device's channel is gone: nobody waits for what it asked there.
    pub(crate) fn device_left(&mut self, turn: &mut Turn<'_>, device: DeviceId) {
        let unanswered: Vec<_> = self
            .world
            .state
            .grants_of_device(device)
            .filter(|grant| {
                let tunnel = self.live.tunnels.get(grant);
                tunnel.is_some_and(|tunnel| match &tunnel.stage {
                    Stage::Offered(offering) | Stage::Admitting(offering) => {
                        self.channels.get(offering.channel).is_none()
                    }
                    Stage::Abandoned | Stage::Open(_) => false,
                })
            })
            .map(|grant| (grant, EndReason::Closed))
            .collect();
        self.end_grants(turn, &Actor::Node(NodeId::Device(device)), unanswered);
    }

    /// A connector's channel is gone: what it has not answered goes to another one.
    pub(crate) fn connector_left(
        &mut self,
        turn: &mut Turn<'_>,
        connector: cardea_proto::id::ConnectorId,
    ) {
        let grants: Vec<GrantId> = self.world.state.grants_of_connector(connector).collect();
        for grant in grants {
            self.ask_another(turn, grant, "went away");
        }
    }

    /// The end of a grant is on record: both ends are told, in the order in which it matters.
    pub(crate) fn ended(&mut self, turn: &mut Turn<'_>, committed: &Committed<Ended>) {
        let Ended {
            grant,
            admitted,
            reason,
        } = committed.fact();
        tracing::info!(
            grant.id = %grant.id, app.id = %grant.app, connector.id = %grant.connector,
            revision = %committed.revision(), %reason, "grant ended"
        );
        self.live.endings.remove(&grant.id);
        self.timers.clear(Timer::Grant(grant.id));
        let connector = NodeId::Connector(grant.connector);
        let device = NodeId::Device(grant.device);
        self.channels
            .send(connector, withdraw(grant.id, *reason), turn.out);
        let stage = self
            .live
            .tunnels
            .remove(&grant.id)
            .map(|tunnel| tunnel.stage);
        match stage {
            Some(Stage::Offered(offering) | Stage::Admitting(offering)) => {
                if self.channels.get(offering.channel).is_some() {
                    let refusal = verdict::refusal_of_end(grant.app.as_str(), *reason);
                    turn.send(offering.channel, denied(offering.request, refusal, None));
                }
            }
            Some(Stage::Open(_)) => {
                self.channels
                    .send(device, withdraw(grant.id, *reason), turn.out);
            }
            None if *admitted => {
                self.channels
                    .send(device, withdraw(grant.id, *reason), turn.out);
            }
            Some(Stage::Abandoned) | None => {}
        }
    }

    /// The store did not take the end of these grants; it stays wanted.
    pub(crate) fn end_failed(&mut self, turn: &mut Turn<'_>, grants: &[GrantId]) {
        for grant in grants {
            if let Some(ending) = self.live.endings.get_mut(grant) {
                if let Ending::Proposed(reason) = *ending {
                    *ending = Ending::Wanted(reason);
                }
                self.timers
                    .set(Timer::Grant(*grant), turn.now.instant + RETRY);
            }
        }
    }
}

pub(crate) const fn withdraw(grant: GrantId, reason: EndReason) -> ToNode {
    ToNode::Withdraw { grant, reason }
}

/// The changes that record these ends.
pub(crate) fn changes(ends: &[(GrantId, EndReason)]) -> Vec<Change> {
    ends.iter()
        .map(|(grant, reason)| Change::GrantEnded {
            grant: *grant,
            reason: *reason,
        })
        .collect()
}
