//! Certificates: planned on a proof of possession and a passing appraisal, issued from the record.

use cardea_credential::{
    authority::{Leaf, backdated, serial_text},
    key,
    proof::VerifiedRequest,
};
use cardea_proto::{
    codec::Blob,
    decision::Decision,
    enroll::Certificate,
    id::{DeviceId, NodeId},
    identity::Identity,
    ledger::{Actor, CertificateRecord, Change, EndReason, RecordKey},
    message::ToNode,
    refusal::{Refusal, RefusalCode},
    time::{Now, UnixMillis},
};

use crate::{
    api::{ChannelId, CommitError},
    controller::{Controller, Turn},
    judge::PassingAppraisal,
    proposals::{Intent, Pending},
    refusals::Refused,
    state::{Committed, Happened},
    timers::Timer,
    verdict,
    world::{Expects, World, draft},
};

/// What a node's certificate rests on, besides its key.
#[derive(Debug)]
pub(crate) enum Basis {
    /// A device's posture.
    Device(PassingAppraisal),
    /// A connector reports none.
    Connector,
}

/// A renewal that waits for the store.
#[derive(Debug)]
pub(crate) struct Renewing {
    channel: ChannelId,
    node: NodeId,
    key: VerifiedRequest,
}

impl World {
    /// Plans a certificate for a proven key; `None` when our own certificate has no life left.
    pub(crate) fn plan_certificate(
        &mut self,
        node: NodeId,
        request: &VerifiedRequest,
        basis: &Basis,
        now: Now,
    ) -> Option<CertificateRecord> {
        let wanted = now.unix.plus(self.settings.certificate_life);
        let posture_ends = match basis {
            Basis::Device(appraisal) => appraisal.reported_at().plus(self.settings.posture_life),
            Basis::Connector => wanted,
        };
        let not_after = wanted
            .min(posture_ends)
            .min(self.keys.intermediate.not_after());
        // X.509 counts whole seconds; the record must say what the certificate says.
        let whole = |at: UnixMillis| UnixMillis(at.as_secs() * 1_000);
        (whole(not_after) > now.unix).then(|| CertificateRecord {
            node,
            serial: self.dice.serial(),
            public_key: request.public_key().to_vec().into(),
            not_before: whole(backdated(now.unix)),
            not_after: whole(not_after),
        })
    }

    /// Issues a certificate that is on record, to a node that still deserves it; `None` when the key
    /// of the intermediate refuses.
    pub(crate) fn issue(
        &self,
        committed: &Committed<CertificateRecord>,
        _basis: &Basis,
        now: Now,
    ) -> Option<Certificate> {
        let record = committed.fact();
        let leaf = Leaf {
            identity: Identity {
                domain: self.domain().clone(),
                holder: record.node.into(),
            },
            public_key: record.public_key.clone(),
            serial: record.serial,
            not_before: record.not_before,
            not_after: record.not_after,
        };
        match self.keys.intermediate.issue(&leaf) {
            Ok(chain) => Some(Certificate {
                chain,
                serial: serial_text(&record.serial),
                not_before: record.not_before,
                not_after: record.not_after,
                knock: self.knock_seed(record.node, now),
                pass: self.front_pass(record, now),
                relays: self.relay_tickets(record.node, record.not_after),
            }),
            Err(error) => {
                tracing::error!(node.id = %record.node, %error, "certificate not issued");
                None
            }
        }
    }
}

impl Controller {
    /// A node asks for its next certificate.
    pub(crate) fn on_renew(
        &mut self,
        turn: &mut Turn<'_>,
        channel: ChannelId,
        public_key: &Blob,
        proof: &Blob,
    ) {
        let has_budget = self.channels.spend(channel, turn.now.instant);
        let Some(open) = self.channels.get(channel) else {
            return;
        };
        let node = open.node;
        if open.renewing || !has_budget {
            let busy = Refusal::new(RefusalCode::Busy, "a certificate is being made already");
            turn.send(channel, ToNode::CertificateRefused(busy));
            return;
        }
        let request = VerifiedRequest::verify(&open.exporter, public_key.as_ref(), proof.as_ref());
        let enrolled = self.world.state.node(node).map(|record| record.node.key);
        match request {
            Ok(request) if enrolled == Some(key::digest(request.public_key())) => {
                let renewing = Renewing {
                    channel,
                    node,
                    key: request,
                };
                self.plan_renewal(turn, Box::new(renewing), 0);
            }
            Ok(_) | Err(_) => {
                let refusal = Refusal::new(
                    RefusalCode::NotProven,
                    "the key is not the one that this node enrolled with",
                );
                self.refuse_renewal(turn, channel, node, refusal, None);
            }
        }
    }

    /// Plans a renewal, the first time or after a conflict.
    pub(crate) fn plan_renewal(&mut self, turn: &mut Turn<'_>, renewing: Box<Renewing>, tries: u8) {
        let Renewing { channel, node, .. } = *renewing;
        let basis = match self.basis(turn.now, node) {
            Ok(basis) => basis,
            Err(decision) => {
                let refusal = verdict::refusal_of(&decision);
                self.refuse_renewal(turn, channel, node, refusal, Some(*decision));
                return;
            }
        };
        let planned = self.world.state.node(node).is_some().then(|| {
            self.world
                .plan_certificate(node, &renewing.key, &basis, turn.now)
        });
        let Some(Some(record)) = planned else {
            let refusal = no_life_left();
            self.refuse_renewal(turn, channel, node, refusal, None);
            return;
        };
        let mut draft = draft(turn.now.unix, Actor::Node(node));
        let mut expects = Expects::of([RecordKey::Node(node)]);
        if let (NodeId::Device(device), Basis::Device(appraisal)) = (node, &basis) {
            expects = expects
                .and(RecordKey::Appraisal(device))
                .and(RecordKey::Policy);
            draft.changes.extend(self.unrecorded_pass(device));
            draft.decision = Some(appraisal.decision().clone());
        }
        draft.changes.push(Change::CertificateIssued(record));
        if let Some(open) = self.channels.get_mut(channel) {
            open.renewing = true;
        }
        let intent = Intent::Renew(renewing);
        self.propose(turn, expects, draft, Pending { intent, tries });
    }

    /// The renewal is on record: the node gets its certificate.
    pub(crate) fn renewed(
        &mut self,
        turn: &mut Turn<'_>,
        renewing: &Renewing,
        happened: &[Happened],
    ) {
        self.renewal_over(renewing);
        let issued = happened
            .iter()
            .filter_map(Happened::issued)
            .filter(|committed| committed.fact().node == renewing.node);
        for committed in issued {
            // A report may have come since this was planned.
            let message = match self.basis(turn.now, renewing.node) {
                Ok(basis) => self.world.issue(committed, &basis, turn.now).map_or_else(
                    || ToNode::CertificateRefused(no_life_left()),
                    ToNode::Certificate,
                ),
                Err(decision) => ToNode::CertificateRefused(verdict::refusal_of(&decision)),
            };
            let revision = committed.revision();
            tracing::info!(node.id = %renewing.node, %revision, "certificate issued");
            // It may have connected anew since it asked.
            let asked_on = self
                .channels
                .get(renewing.channel)
                .map(|_| renewing.channel);
            if let Some(channel) = asked_on.or_else(|| self.channels.of(renewing.node)) {
                let is_done = matches!(message, ToNode::Certificate(_));
                turn.send(channel, message);
                if is_done {
                    self.close_renewal(turn, channel);
                }
            }
        }
    }

    /// The store did not take the renewal.
    pub(crate) fn renewal_failed(
        &mut self,
        turn: &mut Turn<'_>,
        renewing: &Renewing,
        why: &CommitError,
    ) {
        self.renewal_over(renewing);
        let refusal = verdict::refusal_of_commit(why);
        turn.send(renewing.channel, ToNode::CertificateRefused(refusal));
    }

    /// Sets the moment at which a device's certificate ends, while it has grants that end with it.
    pub(crate) fn watch_certificate(&mut self, device: DeviceId, now: Now) {
        let not_after = self
            .world
            .state
            .device(device)
            .and_then(|record| record.certificate.as_ref())
            .map(|certificate| certificate.not_after);
        let needed = self.world.state.grants_of_device(device).next().is_some();
        match not_after {
            Some(not_after) if needed => {
                let at = now.instant + not_after.since(now.unix);
                self.timers.set(Timer::Certificate(device), at);
            }
            Some(_) | None => self.timers.clear(Timer::Certificate(device)),
        }
    }

    /// A device's certificate may have ended.
    pub(crate) fn certificate_due(&mut self, turn: &mut Turn<'_>, device: DeviceId) {
        let record = self.world.state.device(device);
        let held = record.and_then(|record| record.certificate.as_ref());
        if held.is_some_and(|held| held.not_after > turn.now.unix) {
            // Renewed since, or the wall clock was set back.
            self.watch_certificate(device, turn.now);
        } else {
            self.end_device(turn, device, EndReason::CertificateExpired);
            self.review(turn, device);
        }
    }

    /// What a certificate of this node would rest on now.
    fn basis(&self, now: Now, node: NodeId) -> Result<Basis, Box<Decision>> {
        match node {
            NodeId::Device(device) => self.judge(now).certify(device).map(Basis::Device),
            NodeId::Connector(_) => Ok(Basis::Connector),
        }
    }

    fn renewal_over(&mut self, renewing: &Renewing) {
        if let Some(open) = self.channels.get_mut(renewing.channel) {
            open.renewing = false;
        }
    }

    fn refuse_renewal(
        &mut self,
        turn: &mut Turn<'_>,
        channel: ChannelId,
        node: NodeId,
        refusal: Refusal,
        decision: Option<Decision>,
    ) {
        let refused = Refused {
            actor: Actor::Node(node),
            attempt: "certify",
            code: refusal.code,
            subject: node.to_string(),
            decision,
        };
        if let Some(open) = self.channels.get_mut(channel) {
            open.renewing = false;
        }
        turn.send(channel, ToNode::CertificateRefused(refusal));
        self.note_refusal(turn, &refused);
    }
}

/// The refusal when the controller's own certificate ends before any leaf could begin.
pub(crate) fn no_life_left() -> Refusal {
    Refusal::new(
        RefusalCode::Internal,
        "the controller's intermediate certificate has ended or its key is gone",
    )
    .with_next("On the controller: cardea-controller renew --root DIR")
}

#[cfg(test)]
mod tests;
