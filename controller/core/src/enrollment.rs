//! Enrollment: a stranger with a one-time code becomes a node, in one commit.

mod check;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use cardea_credential::proof::VerifiedRequest;
use cardea_proto::{
    PROTOCOL_VERSION,
    codec::Digest,
    enroll::{EnrollAnswer, EnrollRequest, Enrolled},
    id::NodeId,
    identity::Role,
    ledger::{Actor, Admits, Change, Node, RecordKey, User},
    name::Name,
};

use self::check::Denial;
use crate::{
    api::{ChannelId, CommitError},
    certificates::{Basis, no_life_left},
    controller::{Controller, Turn},
    posture::Facts,
    proposals::{Intent, Pending},
    refusals::Refused,
    state::Happened,
    verdict,
    world::{Expects, draft},
};

/// A stranger whose key is proven, on the way to become a node.
#[derive(Debug)]
pub(crate) struct Enrolling {
    channel: ChannelId,
    address: SocketAddr,
    /// SHA-256 of the code's secret; the secret itself is not kept.
    secret_hash: Digest,
    role: Role,
    wanted: Name,
    os: String,
    key: VerifiedRequest,
    facts: Option<Facts>,
    /// The node as it was last planned, and what its certificate rests on.
    planned: Option<(Node, Basis)>,
}

impl Controller {
    /// A stranger asks to enroll.
    pub(crate) fn on_enroll(
        &mut self,
        turn: &mut Turn<'_>,
        channel: ChannelId,
        request: EnrollRequest,
        exporter: &[u8; 32],
        address: SocketAddr,
    ) {
        match self.check_request(turn.now, channel, request, exporter, address) {
            Ok(enrolling) => self.plan_enrollment(turn, Box::new(enrolling), 0),
            Err(denial) => self.refuse_enrollment(turn, channel, address, denial),
        }
    }

    /// Proposes the node, its first certificate and the end of its code: the first time, or after a
    /// conflict.
    pub(crate) fn plan_enrollment(
        &mut self,
        turn: &mut Turn<'_>,
        mut enrolling: Box<Enrolling>,
        tries: u8,
    ) {
        self.enrollment_settled(&mut enrolling);
        let planned = self.plan_node(turn.now, &enrolling);
        let (invite, node, basis) = match planned {
            Ok(planned) => planned,
            Err(denial) => {
                self.refuse_enrollment(turn, enrolling.channel, enrolling.address, denial);
                return;
            }
        };
        let Some(certificate) =
            self.world
                .plan_certificate(node.id, &enrolling.key, &basis, turn.now)
        else {
            let denial = Denial::about("the intermediate certificate", no_life_left());
            self.refuse_enrollment(turn, enrolling.channel, enrolling.address, denial);
            return;
        };
        let mut draft = draft(turn.now.unix, Actor::Node(node.id));
        let mut expects = Expects::of([
            RecordKey::Invite(invite.invite.id),
            RecordKey::Node(node.id),
            RecordKey::Rollback,
        ]);
        let invite_id = invite.invite.id;
        draft.changes.push(Change::InviteUsed {
            invite: invite_id,
            by: node.id,
        });
        draft.changes.push(Change::NodeEnrolled(node.clone()));
        match (&invite.invite.admits, &basis, node.id) {
            (Admits::Device { user, groups }, Basis::Device(appraisal), NodeId::Device(device)) => {
                expects = expects
                    .and(RecordKey::User(user.clone()))
                    .and(RecordKey::Policy);
                draft.changes.extend(self.joined(user, groups));
                draft.changes.push(Change::Appraised {
                    device,
                    compliant: true,
                });
                draft.decision = Some(appraisal.decision().clone());
            }
            (Admits::Connector { site }, _, _) => {
                expects = expects.and(RecordKey::Site(site.clone()));
            }
            (Admits::Device { .. }, _, _) => return,
        }
        draft.changes.push(Change::CertificateIssued(certificate));
        self.reserved.insert((enrolling.role, node.name.clone()));
        enrolling.planned = Some((node, basis));
        let intent = Intent::Enroll(enrolling);
        self.propose(turn, expects, draft, Pending { intent, tries });
    }

    /// The node is on record: it gets its certificate.
    pub(crate) fn enrolled(
        &mut self,
        turn: &mut Turn<'_>,
        mut enrolling: Enrolling,
        happened: &[Happened],
    ) {
        self.release_name(&enrolling);
        let Some((node, basis)) = enrolling.planned.take() else {
            return;
        };
        if let (NodeId::Device(device), Some(facts)) = (node.id, enrolling.facts) {
            let posture = self.postures.entry(device);
            let verdict = verdict::verdict_passed(&facts);
            posture.facts = Some(facts);
            posture.verdict = Some(verdict);
            self.watch_posture(turn, device);
        }
        let certificate = happened
            .iter()
            .filter_map(Happened::issued)
            .find(|committed| committed.fact().node == node.id)
            .and_then(|committed| self.world.issue(committed, &basis, turn.now));
        let answer = match certificate {
            Some(certificate) => EnrollAnswer::Enrolled(Box::new(Enrolled {
                version: PROTOCOL_VERSION,
                domain: self.world.domain().clone(),
                node: node.id,
                name: node.name,
                user: node.user,
                certificate,
                root: self.world.keys.root_der.clone().into(),
                addresses: self.world.settings.addresses.clone(),
                ledger_key: self.world.founded.ledger_key.clone(),
            })),
            None => EnrollAnswer::Refused(no_life_left()),
        };
        tracing::info!(node.id = %node.id, "enrolled");
        turn.out.enrollments.push_back((enrolling.channel, answer));
    }

    /// The store did not take the node: the code stays good.
    pub(crate) fn enrollment_failed(
        &mut self,
        turn: &mut Turn<'_>,
        enrolling: &Enrolling,
        why: &CommitError,
    ) {
        self.release_name(enrolling);
        let answer = EnrollAnswer::Refused(verdict::refusal_of_commit(why));
        turn.out.enrollments.push_back((enrolling.channel, answer));
    }

    /// The user with the groups that a code lets them join, if that differs from the record.
    fn joined(&self, user: &Name, groups: &BTreeSet<Name>) -> Option<Change> {
        let known = self.world.state.user(user);
        let mut joined = known.map_or_else(BTreeSet::new, |user| user.groups.clone());
        joined.extend(groups.iter().cloned());
        let same = known.is_some_and(|known| known.groups == joined);
        (!same).then(|| {
            Change::UserSet(User {
                name: user.clone(),
                groups: joined,
            })
        })
    }

    fn enrollment_settled(&mut self, enrolling: &mut Enrolling) {
        self.release_name(enrolling);
        enrolling.planned = None;
    }

    fn release_name(&mut self, enrolling: &Enrolling) {
        if let Some((node, _)) = &enrolling.planned {
            self.reserved.remove(&(enrolling.role, node.name.clone()));
        }
    }

    fn refuse_enrollment(
        &mut self,
        turn: &mut Turn<'_>,
        channel: ChannelId,
        address: SocketAddr,
        denial: Denial,
    ) {
        let Denial {
            refusal,
            subject,
            decision,
        } = denial;
        let refused = Refused {
            actor: Actor::Stranger(shown(address.ip())),
            attempt: "enroll",
            code: refusal.code,
            subject,
            decision: decision.map(|decision| *decision),
        };
        let answer = EnrollAnswer::Refused(refusal);
        turn.out.enrollments.push_back((channel, answer));
        self.note_refusal(turn, &refused);
    }
}

fn shown(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

#[cfg(test)]
mod tests;
