//! A connector answers for a grant, or does not.

use std::time::Duration;

use cardea_credential::signed::offer_digest;
use cardea_proto::{
    access::{Granted, Signed},
    codec::Digest,
    id::{ConnectorId, GrantId, NodeId},
    ledger::{Actor, Change, EndReason, Grant, RecordKey},
    message::ToNode,
    refusal::{Refusal, RefusalCode},
    relay::Side,
    time::Now,
};

use super::{
    Offering, Open, Stage,
    decided::{Decided, Subject},
    ending::withdraw,
    request::expects,
};
use crate::{
    api::{ChannelId, CommitError},
    controller::{Controller, Turn},
    heard::Statement,
    proposals::{Intent, Pending},
    refusals::Refused,
    state::{Committed, Happened},
    tickets,
    timers::Timer,
    verdict,
    world::draft,
};

/// An answer that waits for the store.
#[derive(Debug)]
pub(crate) struct Admitting {
    grant: GrantId,
    answer: Signed,
    connector_key: Digest,
}

impl Controller {
    /// A connector is ready for a grant.
    pub(crate) fn on_admitted(
        &mut self,
        turn: &mut Turn<'_>,
        channel: ChannelId,
        connector: ConnectorId,
        (grant, answer): (GrantId, Signed),
        statement: Statement,
    ) {
        let node = NodeId::Connector(connector);
        if !self.owns(node, &grant) {
            if self.world.settings.shared {
                // Another controller may have offered it, in an entry that was not seen here yet.
                self.channels.answered(channel, grant, turn.now.instant);
            } else {
                turn.send(channel, withdraw(grant, EndReason::Expired));
            }
            return;
        }
        let Some(Stage::Offered(offering)) = self.live.tunnels.get(&grant).map(|t| &t.stage) else {
            // It answered twice, or after another one was asked; an end follows in that case.
            return;
        };
        let offer = offer_digest(&offering.offer);
        match self.check_answer(connector, (grant, offer), statement) {
            Ok(connector_key) => {
                if let Some(offering) = self.live.abandon(&grant) {
                    self.live.insert(grant, Stage::Admitting(offering));
                }
                self.timers.clear(Timer::Grant(grant));
                let admitting = Admitting {
                    grant,
                    answer,
                    connector_key,
                };
                self.plan_admission(turn, Box::new(admitting), 0);
            }
            Err(why) => {
                let refused = Refused {
                    actor: Actor::Node(node),
                    attempt: "authenticate",
                    code: RefusalCode::NotProven,
                    subject: format!("answer to {grant}: {why}"),
                    decision: None,
                };
                self.note_refusal(turn, &refused);
                self.ask_another(turn, grant, "gave an answer that is not to be believed");
            }
        }
    }

    /// A connector cannot serve a grant.
    pub(crate) fn on_not_admitted(
        &mut self,
        turn: &mut Turn<'_>,
        connector: ConnectorId,
        grant: GrantId,
        refusal: &Refusal,
    ) {
        tracing::debug!(grant.id = %grant, connector.id = %connector, %refusal, "not admitted");
        if self.owns(NodeId::Connector(connector), &grant) {
            self.ask_another(turn, grant, "refused");
        }
    }

    /// Proposes to record that a connector is ready: the first time, or after a conflict.
    pub(crate) fn plan_admission(
        &mut self,
        turn: &mut Turn<'_>,
        admitting: Box<Admitting>,
        tries: u8,
    ) {
        let id = admitting.grant;
        let Some(record) = self.world.state.grant(&id) else {
            // It ended meanwhile, and whoever asked for it was told then.
            return;
        };
        let grant = record.grant.clone();
        let before = match self.live.tunnels.get(&id).map(|tunnel| &tunnel.stage) {
            Some(Stage::Admitting(offering)) => offering.decided.as_ref(),
            Some(Stage::Offered(_) | Stage::Abandoned | Stage::Open(_)) | None => None,
        };
        if let Err(decision) = self.decide_grant(turn.now, Subject::of(&grant), before) {
            let reason = verdict::end_reason(&decision);
            if let Some(offering) = self.live.abandon(&id) {
                let refusal = self.refusal_of(turn.now, grant.device, &decision);
                self.deny(turn, *offering, refusal, Some(*decision));
            }
            let actor = self.world.itself();
            self.end_grants(turn, &actor, [(id, reason)]);
            return;
        }
        let mut draft = draft(
            turn.now.unix,
            Actor::Node(NodeId::Connector(grant.connector)),
        );
        draft.changes.push(Change::GrantAdmitted(id));
        let expects = expects(&grant).and(RecordKey::Grant(id));
        let intent = Intent::Admit(admitting);
        self.propose(turn, expects, draft, Pending { intent, tries });
    }

    /// The admission is on record: the device gets its grant.
    pub(crate) fn admitted(
        &mut self,
        turn: &mut Turn<'_>,
        admitting: &Admitting,
        happened: &[Happened],
    ) {
        let committed = happened
            .iter()
            .filter_map(Happened::admitted)
            .find(|committed| committed.fact().id == admitting.grant);
        let Some(committed) = committed else {
            return;
        };
        let grant = committed.fact();
        let Some(offering) = self.live.abandon(&grant.id) else {
            return;
        };
        let Some(decided) = self.still_allowed(turn, committed, &offering) else {
            return;
        };
        let ttl = Duration::from_millis(grant.ttl_ms);
        let open = Open {
            expires: turn.now.instant + ttl,
            extend_at: turn.now.instant + ttl / 2,
            device_holds: true,
            connector_holds: true,
        };
        self.live.insert(grant.id, Stage::Open(open));
        self.timers.set(Timer::Grant(grant.id), open.extend_at);
        let granted = self.granted((committed, &decided), &offering, admitting, turn.now);
        match (self.channels.get(offering.channel), granted) {
            (Some(_), Some(granted)) => {
                tracing::info!(grant.id = %grant.id, device.id = %grant.device, app.id = %grant.app, "granted");
                turn.send(offering.channel, ToNode::Granted(Box::new(granted)));
            }
            (None, _) | (_, None) => {
                let actor = self.world.itself();
                self.end_grants(turn, &actor, [(grant.id, EndReason::Closed)]);
            }
        }
    }

    /// The store did not take the admission.
    pub(crate) fn admission_failed(
        &mut self,
        turn: &mut Turn<'_>,
        admitting: Admitting,
        why: &CommitError,
    ) {
        if let Some(offering) = self.live.abandon(&admitting.grant) {
            self.deny(turn, *offering, verdict::refusal_of_commit(why), None);
        }
        let actor = self.world.itself();
        self.end_grants(turn, &actor, [(admitting.grant, EndReason::Closed)]);
    }

    /// The connector of a grant did not admit it: another one of the site is asked.
    pub(crate) fn ask_another(&mut self, turn: &mut Turn<'_>, grant: GrantId, why: &str) {
        let Some(connector) = self.world.state.grant(&grant).map(|r| r.grant.connector) else {
            return;
        };
        let waits = matches!(
            self.live.tunnels.get(&grant).map(|tunnel| &tunnel.stage),
            Some(Stage::Offered(_))
        );
        if !waits || self.live.is_ending(&grant) {
            return;
        }
        let Some(mut offering) = self.live.abandon(&grant) else {
            return;
        };
        tracing::info!(grant.id = %grant, connector.id = %connector, reason = why, "connector passed over");
        self.timers.clear(Timer::Grant(grant));
        offering.without(connector, grant);
        self.plan_offer(turn, offering, 0);
    }

    fn granted(
        &self,
        (committed, _decided): (&Committed<Grant>, &Decided),
        offering: &Offering,
        admitting: &Admitting,
        now: Now,
    ) -> Option<Granted> {
        let grant = committed.fact();
        let app = self.world.state.app(&grant.app)?;
        let device = self.world.state.device(grant.device)?;
        let ttl = Duration::from_millis(grant.ttl_ms);
        Some(Granted {
            request: offering.request,
            grant: grant.id,
            app: grant.app.clone(),
            carrier: grant.carrier,
            ttl_ms: grant.ttl_ms,
            connector: grant.connector,
            connector_key: admitting.connector_key,
            answer: admitting.answer.clone(),
            services: app.spec.services(),
            inner: tickets::inner_addresses(self.world.domain(), device.number, app.number),
            rendezvous: self.world.rendezvous(
                &offering.relays,
                (grant.id, Side::Agent),
                ttl,
                now,
            )?,
        })
    }
}
