//! A device asks for an app: the offer is verified, the decision taken, a connector chosen.

use std::{collections::BTreeSet, time::Duration};

use cardea_proto::{
    access::{Admit, Offer, Signed},
    codec::Digest,
    decision::Decision,
    id::{ConnectorId, DeviceId, GrantId, NodeId},
    ledger::{Actor, Change, EndReason, Grant, RecordKey},
    message::ToNode,
    name::Name,
    refusal::{Refusal, RefusalCode},
    relay::Side,
    time::Now,
};

use super::{
    Stage,
    choice::{carrier, no_connector, no_host},
    decided::{Decided, Subject},
};
use crate::{
    api::{ChannelId, CommitError},
    controller::{Controller, Turn},
    heard::Statement,
    judge::Allowed,
    nodes::new_code,
    proposals::{Intent, Pending},
    refusals::Refused,
    relays::Chosen,
    state::{Committed, Happened},
    tickets,
    timers::Timer,
    verdict,
    world::{Expects, draft},
};

/// A request on its way: everything that is needed to ask a connector, and then another one.
#[derive(Debug)]
pub(crate) struct Offering {
    /// Where the answer goes, and nowhere else.
    pub(super) channel: ChannelId,
    pub(super) device: DeviceId,
    pub(super) request: u64,
    pub(super) app: Name,
    pub(super) offer: Signed,
    device_key: Digest,
    /// Whether the device has packets to send, and not flows alone.
    packets: bool,
    /// Which of the app's hosts it is for.
    pub(super) host: Option<Name>,
    /// Connectors that did not answer.
    tried: BTreeSet<ConnectorId>,
    /// The grant that the last of those did not admit.
    replaces: Option<GrantId>,
    /// The grant as it was last planned.
    planned: Option<Grant>,
    /// The last decision about it.
    pub(super) decided: Option<Decided>,
    /// The relays of both ends, as they were when the connector was asked.
    pub(super) relays: Chosen,
}

/// How long a connector may take to admit while others could be asked: it answers within
/// milliseconds unless it is dead or overloaded, and then another one is the better choice.
const ADMISSION_TIME_WITH_OTHERS: Duration = Duration::from_secs(1);

/// Shortest ttl worth granting: less than a person would wait.
pub(super) const TTL_WORTH: Duration = Duration::from_secs(1);

impl Offering {
    /// The connector that was asked has not admitted `grant`.
    pub(super) fn without(&mut self, connector: ConnectorId, grant: GrantId) {
        self.tried.insert(connector);
        self.replaces = Some(grant);
        self.planned = None;
    }
}

impl Controller {
    /// An agent asks to open an app.
    pub(crate) fn on_request(
        &mut self,
        turn: &mut Turn<'_>,
        channel: ChannelId,
        device: DeviceId,
        (request, app, offer): (u64, Name, Signed),
        statement: Statement,
    ) {
        let (device_key, Offer { packets, host, .. }) =
            match self.check_offer(device, &app, statement) {
                Ok(checked) => checked,
                Err(refusal) => {
                    self.note_refusal(
                        turn,
                        &Refused {
                            actor: Actor::Node(NodeId::Device(device)),
                            attempt: "connect",
                            code: refusal.code,
                            subject: app.to_string(),
                            decision: None,
                        },
                    );
                    turn.send(channel, denied(request, refusal, None));
                    return;
                }
            };
        let deciding = (device, app.clone(), host.clone());
        if self.live.deciding.contains(&deciding) || !self.proposals.has_room() {
            let busy = Refusal::new(
                RefusalCode::Busy,
                format!("{app}: another request is being decided"),
            );
            turn.send(channel, denied(request, busy.with_next("Try again"), None));
            return;
        }
        let offering = Offering {
            channel,
            device,
            request,
            app,
            offer,
            device_key,
            packets,
            host,
            tried: BTreeSet::new(),
            replaces: None,
            planned: None,
            decided: None,
            relays: Chosen::new(),
        };
        self.plan_offer(turn, Box::new(offering), 0);
    }

    /// Decides, chooses a connector and proposes the grant: the first time, after a conflict, or
    /// after a connector that did not answer.
    pub(crate) fn plan_offer(
        &mut self,
        turn: &mut Turn<'_>,
        mut offering: Box<Offering>,
        tries: u8,
    ) {
        self.offer_settled(&mut offering);
        if let Some(refusal) = self.safe_mode() {
            self.deny(turn, *offering, refusal, None);
            return;
        }
        let user = self.world.state.device(offering.device);
        let Some(user) = user.and_then(|record| record.node.user.clone()) else {
            let node = NodeId::Device(offering.device);
            let gone = Refusal::new(RefusalCode::NotFound, "this device is no longer enrolled")
                .with_next(new_code(node));
            self.deny(turn, *offering, gone, None);
            return;
        };
        let subject = Subject {
            device: offering.device,
            user: &user,
            app: &offering.app,
        };
        let decided = match self.decide_grant(turn.now, subject, None) {
            Ok(decided) => decided,
            Err(decision) => {
                let refusal = self.refusal_of(turn.now, offering.device, &decision);
                self.deny(turn, *offering, refusal, Some(*decision));
                return;
            }
        };
        let Some(spec) = self.world.state.app(&offering.app) else {
            return;
        };
        if let Err(error) = spec.spec.targets_for(offering.host.as_ref()) {
            let refusal = no_host(&offering.app, offering.host.as_ref(), error);
            self.deny(turn, *offering, refusal, None);
            return;
        }
        let (site, carrier) = (
            spec.spec.site.clone(),
            carrier(&spec.spec, offering.packets),
        );
        let Some(connector) = self.choose(&site, &offering.tried) else {
            let refusal = no_connector(&offering.app, &site, !offering.tried.is_empty());
            self.deny(turn, *offering, refusal, None);
            return;
        };
        let ttl = self.ttl(decided.allowed());
        offering.relays = self.world.relays.choose(&self.world.settings);
        let grant = Grant {
            id: self.world.dice.grant_id(),
            device: offering.device,
            user,
            app: offering.app.clone(),
            host: offering.host.clone(),
            connector,
            carrier,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        };
        offering.decided = Some(decided);
        self.propose_offer(turn, offering, grant, tries);
    }

    fn propose_offer(
        &mut self,
        turn: &mut Turn<'_>,
        mut offering: Box<Offering>,
        grant: Grant,
        tries: u8,
    ) {
        let mut draft = draft(turn.now.unix, Actor::Node(NodeId::Device(grant.device)));
        draft.decision = offering
            .decided
            .as_ref()
            .map(|decided| decided.allowed().decision().clone());
        draft.changes.extend(self.unrecorded_pass(grant.device));
        let state = &self.world.state;
        let is_same = |id: &GrantId| {
            let before = state.grant(id);
            before.is_some_and(|before| before.grant.host == grant.host)
        };
        let between = state.grants_between(grant.device, &grant.app);
        for before in between.filter(is_same) {
            let reason = if offering.replaces == Some(before) {
                EndReason::ConnectorGone
            } else {
                EndReason::Replaced
            };
            draft.changes.push(Change::GrantEnded {
                grant: before,
                reason,
            });
        }
        draft.changes.push(Change::GrantOffered(grant.clone()));
        let expects = expects(&grant)
            .and(RecordKey::Node(NodeId::Connector(grant.connector)))
            .and(RecordKey::Grant(grant.id))
            .and(RecordKey::Rollback);
        let deciding = (grant.device, grant.app.clone(), grant.host.clone());
        self.live.deciding.insert(deciding);
        self.live.promise(grant.connector);
        offering.planned = Some(grant);
        let intent = Intent::Offer(offering);
        self.propose(turn, expects, draft, Pending { intent, tries });
    }

    /// The grant is on record: its connector is asked to admit the device.
    pub(crate) fn offered(
        &mut self,
        turn: &mut Turn<'_>,
        mut offering: Offering,
        happened: &[Happened],
    ) {
        let planned = offering.planned.as_ref().map(|grant| grant.id);
        self.offer_settled(&mut offering);
        let committed = happened
            .iter()
            .filter_map(Happened::offered)
            .find(|committed| Some(committed.fact().id) == planned);
        let Some(committed) = committed else {
            return;
        };
        let grant = committed.fact();
        if self.channels.get(offering.channel).is_none() {
            self.live.insert(grant.id, Stage::Abandoned);
            let actor = self.world.itself();
            self.end_grants(turn, &actor, [(grant.id, EndReason::Closed)]);
            return;
        }
        let Some(decided) = self.still_allowed(turn, committed, &offering) else {
            return;
        };
        let admit = self.admit(committed, &decided, &offering, turn.now);
        offering.decided = Some(decided);
        self.live
            .insert(grant.id, Stage::Offered(Box::new(offering)));
        match (self.channels.of_connector(grant.connector), admit) {
            (Some(channel), Some(admit)) => {
                turn.send(channel, ToNode::Admit(Box::new(admit)));
                let at = turn.now.instant + self.admission_time(grant);
                self.timers.set(Timer::Grant(grant.id), at);
            }
            (None, _) | (_, None) => self.ask_another(turn, grant.id, "went away"),
        }
    }

    /// How long a connector may take to admit: less where another one of its site could be asked,
    /// because somebody waits and this one may be dead.
    fn admission_time(&self, grant: &Grant) -> Duration {
        let settings = &self.world.settings;
        let Some(Stage::Offered(offering)) = self.live.tunnels.get(&grant.id).map(|t| &t.stage)
        else {
            return settings.admission_timeout;
        };
        let mut tried = offering.tried.clone();
        tried.insert(grant.connector);
        let site = self.world.state.app(&grant.app).map(|app| &app.spec.site);
        match site.and_then(|site| self.choose(site, &tried)) {
            Some(_) => settings.admission_timeout.min(ADMISSION_TIME_WITH_OTHERS),
            None => settings.admission_timeout,
        }
    }

    /// The store did not take the grant.
    pub(crate) fn offer_failed(
        &mut self,
        turn: &mut Turn<'_>,
        mut offering: Offering,
        why: &CommitError,
    ) {
        self.offer_settled(&mut offering);
        self.deny(turn, offering, verdict::refusal_of_commit(why), None);
    }

    /// Answers a request with a denial, and ends the grant that it leaves behind.
    pub(super) fn deny(
        &mut self,
        turn: &mut Turn<'_>,
        offering: Offering,
        refusal: Refusal,
        decision: Option<Decision>,
    ) {
        if decision.is_some() {
            let refused = Refused {
                actor: Actor::Node(NodeId::Device(offering.device)),
                attempt: "connect",
                code: refusal.code,
                subject: offering.app.to_string(),
                decision: decision.clone(),
            };
            self.note_refusal(turn, &refused);
        }
        let Offering {
            channel,
            request,
            replaces,
            ..
        } = offering;
        if self.channels.get(channel).is_some() {
            turn.send(channel, denied(request, refusal, decision));
        }
        let left = replaces.map(|grant| (grant, EndReason::ConnectorGone));
        let actor = self.world.itself();
        self.end_grants(turn, &actor, left);
    }

    /// How long a grant lives from now: never past the certificate that it rests on.
    pub(super) fn ttl(&self, allowed: &Allowed) -> Duration {
        self.world
            .settings
            .ttl
            .min(allowed.certificate_life())
            .max(TTL_WORTH)
    }

    /// Decides once more about a grant that has just been recorded: a report may have come since it
    /// was planned. A denial is told, and the grant ends.
    pub(super) fn still_allowed(
        &mut self,
        turn: &mut Turn<'_>,
        committed: &Committed<Grant>,
        offering: &Offering,
    ) -> Option<Decided> {
        let grant = committed.fact();
        match self.decide_grant(turn.now, Subject::of(grant), offering.decided.as_ref()) {
            Ok(decided) => Some(decided),
            Err(decision) => {
                let refusal = self.refusal_of(turn.now, grant.device, &decision);
                let reason = verdict::end_reason(&decision);
                let denial = denied(offering.request, refusal, Some(*decision));
                turn.send(offering.channel, denial);
                self.live.insert(grant.id, Stage::Abandoned);
                let actor = self.world.itself();
                self.end_grants(turn, &actor, [(grant.id, reason)]);
                None
            }
        }
    }

    fn admit(
        &self,
        committed: &Committed<Grant>,
        _decided: &Decided,
        offering: &Offering,
        now: Now,
    ) -> Option<Admit> {
        let grant = committed.fact();
        let app = self.world.state.app(&grant.app)?;
        let device = self.world.state.device(grant.device)?;
        let settings = &self.world.settings;
        let ttl = Duration::from_millis(grant.ttl_ms);
        let mut never = settings.never.clone();
        let relays = settings.relays.iter().flatten();
        never.extend(relays.map(std::net::SocketAddr::ip));
        never.sort_unstable();
        never.dedup();
        Some(Admit {
            grant: grant.id,
            app: grant.app.clone(),
            carrier: grant.carrier,
            ttl_ms: grant.ttl_ms,
            device: grant.device,
            device_key: offering.device_key,
            offer: offering.offer.clone(),
            targets: app.spec.targets.clone(),
            patterns: app.spec.wildcards().cloned().collect(),
            host_scoped: app.spec.host_scoped,
            never,
            inner: tickets::inner_addresses(self.world.domain(), device.number, app.number),
            rendezvous: self.world.rendezvous(
                &offering.relays,
                (grant.id, Side::Connector),
                ttl,
                now,
            )?,
        })
    }

    /// The proposal for an offer has come back, or is made for the first time.
    fn offer_settled(&mut self, offering: &mut Offering) {
        if let Some(grant) = offering.planned.take() {
            self.live.release(grant.connector);
            let decided = (grant.device, grant.app, grant.host);
            self.live.deciding.remove(&decided);
        }
    }
}

/// The records on which a grant rests, besides itself and its connector.
pub(super) fn expects(grant: &Grant) -> Expects {
    Expects::of(Subject::of(grant).records())
}

pub(super) fn denied(request: u64, refusal: Refusal, decision: Option<Decision>) -> ToNode {
    ToNode::Denied {
        request,
        refusal,
        decision: decision.map(Box::new),
    }
}
