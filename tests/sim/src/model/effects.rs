//! What leaves the controller: every effect has a committed entry before it (5), and no certificate
//! goes to a device whose latest appraisal fails (3).

use std::time::Instant;

use cardea_credential::{authority::serial_text, signed::offer_digest};
use cardea_proto::{
    access::{Answer, Granted},
    codec,
    enroll::{Certificate, EnrollAnswer},
    id::{ConnectorId, DeviceId, NodeId},
    ledger::{CertificateRecord, Revision},
    message::{FromNode, ToNode},
    posture::{Reading, Report, Value},
    time::Now,
};

use super::Model;

impl Model {
    /// A certificate is on record: never for a device that fails, or is blocked.
    pub(super) fn issued(&mut self, record: &CertificateRecord) {
        let serial = serial_text(&record.serial);
        if let NodeId::Device(device) = record.node {
            if let Some(known) = self.devices.get_mut(&device) {
                known.not_after = record.not_after;
            }
            // The first certificate stands in the entry of the first appraisal.
            let known = self.devices.get(&device);
            let is_failing = known.is_none_or(|known| known.is_compliant == Some(false));
            if is_failing || known.is_some_and(|known| known.is_blocked) {
                self.violate(3, format!("certificate {serial} recorded for {device}"));
            }
        }
        self.serials.insert((record.node, serial));
    }

    /// A report reaches the controller: read by rules of our own.
    pub(crate) fn reported(&mut self, now: Instant, device: DeviceId, report: &Report) {
        let passes = |name: &str| {
            report
                .facts
                .get(name)
                .is_some_and(|fact| fact.reading == Reading::Value(Value::Bool(true)))
        };
        let is_strict = passes("disk.encrypted") && passes("firewall.enabled");
        if let Some(known) = self.devices.get_mut(&device) {
            known.is_strict = is_strict;
        }
        self.judge_reports(now);
    }

    /// A controller that has seen the entries up to `seen` says something to a node.
    ///
    /// What another controller has recorded since is not held against it: the bounds of property 2
    /// say for how long it may not know.
    pub(crate) fn says(&mut self, now: Now, (node, seen): (NodeId, Revision), message: &ToNode) {
        match message {
            ToNode::Certificate(certificate) => self.certifies(now, node, certificate),
            ToNode::Admit(admit) => {
                let is_offered = self.grants.get(&admit.grant).is_some_and(|known| {
                    NodeId::Connector(known.grant.connector) == node
                        && known.grant.device == admit.device
                        && known.grant.app == admit.app
                        && known.grant.carrier == admit.carrier
                        && known.spec.targets == admit.targets
                        && known.lives_at(seen)
                });
                self.require(is_offered, || format!("{} to be admitted", admit.grant));
            }
            ToNode::Granted(granted) => {
                let is_admitted = self.grants.get(&granted.grant).is_some_and(|known| {
                    NodeId::Device(known.grant.device) == node
                        && known.is_admitted
                        && known.lives_at(seen)
                        && known.grant.connector == granted.connector
                        && self.is_answer(known.grant.device, granted)
                });
                self.require(is_admitted, || format!("{} granted", granted.grant));
            }
            ToNode::Extend(extend) => {
                let is_live = self
                    .grants
                    .get(&extend.grant)
                    .is_some_and(|known| known.is_admitted && known.lives_at(seen));
                self.require(is_live, || format!("{} extended", extend.grant));
            }
            ToNode::Withdraw { grant, .. } => {
                let is_ended = self
                    .grants
                    .get(grant)
                    .is_none_or(|known| !known.lives_at(seen) || !self.is_party(node, *grant));
                self.require(is_ended, || format!("{grant} withdrawn from {node}"));
            }
            ToNode::Welcome(_)
            | ToNode::CertificateRefused(_)
            | ToNode::Posture(_)
            | ToNode::Apps(_)
            | ToNode::Denied { .. }
            | ToNode::Explained { .. }
            | ToNode::Checkpoint(_)
            | ToNode::Goodbye(_) => {}
        }
    }

    /// A device asks for an app with an offer.
    pub(crate) fn requested(&mut self, device: DeviceId, message: &FromNode) {
        if let FromNode::Request { request, offer, .. } = message {
            self.offers.insert((device, *request), offer_digest(offer));
        }
    }

    /// The controller answers a stranger.
    pub(crate) fn answers(&mut self, answer: &EnrollAnswer) {
        match answer {
            EnrollAnswer::Enrolled(enrolled) => {
                let node = enrolled.node;
                let is_known =
                    self.nodes.contains(&node) && self.knows(node, &enrolled.certificate);
                self.require(is_known, || format!("{node} enrolled"));
            }
            EnrollAnswer::Refused(_) => {}
        }
    }

    /// A message reaches a connector: its clock for a grant begins, or begins anew.
    pub(crate) fn reaches_connector(
        &mut self,
        now: Instant,
        connector: ConnectorId,
        message: &ToNode,
    ) {
        let (grant, ttl_ms) = match message {
            ToNode::Admit(admit) => (admit.grant, admit.ttl_ms),
            ToNode::Extend(extend) => (extend.grant, extend.ttl_ms),
            ToNode::Welcome(_) => {
                // What it holds is compared when its controller has asked the store again.
                self.sites.entry(connector).or_default().up_since = Some(now + self.bounds.poll);
                return;
            }
            ToNode::Withdraw { grant, .. } => {
                // A liar names grants of others, and is told that it has none.
                let known = self.grants.get_mut(grant);
                if let Some(known) = known.filter(|known| known.grant.connector == connector) {
                    known.until = known.until.map(|until| until.min(now));
                }
                return;
            }
            ToNode::Certificate(_)
            | ToNode::CertificateRefused(_)
            | ToNode::Posture(_)
            | ToNode::Apps(_)
            | ToNode::Granted(_)
            | ToNode::Denied { .. }
            | ToNode::Explained { .. }
            | ToNode::Checkpoint(_)
            | ToNode::Goodbye(_) => return,
        };
        if let Some(known) = self.grants.get_mut(&grant) {
            let is_over = known.until.is_some_and(|until| until <= now);
            if !is_over {
                known.until = Some(now + std::time::Duration::from_millis(ttl_ms));
            }
        }
    }

    /// A connector's controller sees everything again.
    pub(crate) fn informed(&mut self, now: Instant, connector: ConnectorId) {
        self.sites.entry(connector).or_default().up_since = Some(now);
    }

    /// A connector's channel is gone, at either end, or its controller does not see what is recorded.
    pub(crate) fn cut_off(&mut self, connector: ConnectorId) {
        self.sites.entry(connector).or_default().up_since = None;
    }

    fn certifies(&mut self, now: Now, node: NodeId, certificate: &Certificate) {
        let is_known = self.knows(node, certificate);
        self.require(is_known, || {
            format!("certificate {} issued", certificate.serial)
        });
        let NodeId::Device(device) = node else {
            return;
        };
        if self.is_failing(now.instant, device) {
            self.violate(
                3,
                format!("certificate {} sent to {device}", certificate.serial),
            );
        }
    }

    fn knows(&self, node: NodeId, certificate: &Certificate) -> bool {
        self.serials.contains(&(node, certificate.serial.clone()))
    }

    pub(super) fn is_party(&self, node: NodeId, grant: cardea_proto::id::GrantId) -> bool {
        self.grants.get(&grant).is_some_and(|known| match node {
            NodeId::Device(device) => known.grant.device == device,
            NodeId::Connector(connector) => known.grant.connector == connector,
        })
    }

    /// Whether the answer is by the connector of the grant, to the offer that the device made for it.
    fn is_answer(&self, device: DeviceId, granted: &Granted) -> bool {
        let offer = self.offers.get(&(device, granted.request));
        let body = granted.answer.body.as_ref();
        let answer: Option<Answer> = codec::decode(body, body.len()).ok();
        answer.is_some_and(|answer| {
            answer.connector == granted.connector
                && answer.grant == granted.grant
                && Some(&answer.offer) == offer
        })
    }

    fn require(&mut self, is_committed: bool, what: impl FnOnce() -> String) {
        if !is_committed {
            let what = format!("{} without a committed entry", what());
            self.violate(5, what);
        }
    }
}
