//! Enrollment: a stranger with a one-time code becomes a node, in one commit.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use cardea_credential::{key, proof::VerifiedRequest};
use cardea_proto::{
    PROTOCOL_VERSION, PROTOCOL_VERSION_MIN,
    codec::Digest,
    decision::Decision,
    enroll::{EnrollAnswer, EnrollRequest, Enrolled},
    id::{InviteId, NodeId},
    identity::Role,
    ledger::{Actor, Admits, Change, Node, RecordKey, User},
    name::{NAME_BYTES_MAX, Name},
    refusal::{Refusal, RefusalCode},
    time::Now,
};

use crate::{
    api::{ChannelId, CommitError},
    certificates::{Basis, no_life_left},
    controller::{Controller, Turn},
    judge::{self, Applicant, PassingAppraisal},
    nodes::too_old,
    posture::Facts,
    proposals::{Intent, Pending},
    refusals::Refused,
    state::{Happened, InviteRecord},
    verdict,
    world::{Expects, draft},
};

/// Longest name of an operating system, in bytes.
const OS_BYTES_MAX: usize = 64;

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
    /// The node as it was last planned.
    planned: Option<Node>,
}

/// Why a stranger is refused: the words, what they are about, and the decision if it was one.
#[derive(Debug)]
struct Denial {
    refusal: Refusal,
    subject: String,
    decision: Option<Box<Decision>>,
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
        enrolling.planned = Some(node);
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
        let planned = enrolling.planned.clone();
        self.enrollment_settled(&mut enrolling);
        let Some(node) = planned else {
            return;
        };
        if let (NodeId::Device(device), Some(facts)) = (node.id, enrolling.facts) {
            let posture = self.postures.entry(device);
            let verdict = verdict::verdict_passed(facts.received_at());
            posture.facts = Some(facts);
            posture.verdict = Some(verdict);
        }
        let certificate = happened
            .iter()
            .filter_map(Happened::issued)
            .find(|committed| committed.fact().node == node.id)
            .and_then(|committed| self.world.issue(committed));
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

    fn check_request(
        &self,
        now: Now,
        channel: ChannelId,
        request: EnrollRequest,
        exporter: &[u8; 32],
        address: SocketAddr,
    ) -> Result<Enrolling, Denial> {
        if request.version < PROTOCOL_VERSION_MIN {
            return Err(Denial::about("its version", too_old(request.version)));
        }
        if request.os.len() > OS_BYTES_MAX || request.os.chars().any(char::is_control) {
            let refusal = Refusal::new(
                RefusalCode::Invalid,
                "that is no name of an operating system",
            );
            return Err(Denial::about("its operating system", refusal));
        }
        if !self.proposals.has_room() {
            let refusal = Refusal::new(RefusalCode::Busy, "too many nodes enroll at once");
            return Err(Denial::about(
                "too many at once",
                refusal.with_next("Try again"),
            ));
        }
        let key = VerifiedRequest::verify(
            exporter,
            request.public_key.as_ref(),
            request.proof.as_ref(),
        )
        .map_err(|error| {
            let refusal = Refusal::new(RefusalCode::NotProven, error.to_string());
            Denial::about("its key", refusal)
        })?;
        let facts = request
            .report
            .map(|report| Facts::accept(report, now))
            .transpose()
            .map_err(|refusal| Denial::about("its report", refusal))?;
        Ok(Enrolling {
            channel,
            address,
            secret_hash: key::digest(&request.invite.0),
            role: request.role,
            wanted: request.name,
            os: request.os,
            key,
            facts,
            planned: None,
        })
    }

    /// Everything that must hold before a code is worth a node.
    fn plan_node(
        &mut self,
        now: Now,
        enrolling: &Enrolling,
    ) -> Result<(InviteRecord, Node, Basis), Denial> {
        let invite = self.usable_invite(now, enrolling)?.clone();
        let key = key::digest(enrolling.key.public_key());
        if let Some(node) = self.world.state.node_of_key(&key) {
            let refusal = Refusal::new(
                RefusalCode::Exists,
                format!("this key is enrolled already, as {node}"),
            );
            return Err(Denial::about(
                &invite.invite.id.to_string(),
                refusal.with_next("Start again with an empty state directory"),
            ));
        }
        let name = self.free_name(enrolling.role, &enrolling.wanted);
        let (id, user, site, basis) = match &invite.invite.admits {
            Admits::Device { user, groups } => {
                let id = self.world.dice.device_id();
                let known = self.world.state.user(user).map(|user| &user.groups);
                let groups: BTreeSet<Name> = groups
                    .iter()
                    .chain(known.into_iter().flatten())
                    .cloned()
                    .collect();
                let applicant = Applicant {
                    id,
                    name: &name,
                    os: &enrolling.os,
                    owner: user,
                    groups: &groups,
                    address: Some(enrolling.address.ip()),
                };
                let appraisal =
                    self.appraise_stranger(now, enrolling, applicant, invite.invite.id)?;
                let basis = Basis::Device(appraisal);
                (NodeId::Device(id), Some(user.clone()), None, basis)
            }
            Admits::Connector { site } => {
                if !self.world.state.has_site(site) {
                    let refusal = Refusal::new(
                        RefusalCode::NotFound,
                        format!("site {site} no longer exists"),
                    );
                    return Err(Denial::about(&invite.invite.id.to_string(), refusal));
                }
                let id = self.world.dice.connector_id();
                let site = Some(site.clone());
                (NodeId::Connector(id), None, site, Basis::Connector)
            }
        };
        let node = Node {
            id,
            name,
            key,
            user,
            site,
            os: enrolling.os.clone(),
        };
        Ok((invite, node, basis))
    }

    fn usable_invite(&self, now: Now, enrolling: &Enrolling) -> Result<&InviteRecord, Denial> {
        let Some(record) = self.world.state.invite_by_hash(&enrolling.secret_hash) else {
            let refusal = Refusal::new(RefusalCode::InviteUnknown, "not a Cardea code");
            return Err(Denial::about(
                "a code that was never made here",
                refusal.with_next("Ask an admin for a new code"),
            ));
        };
        let id = record.invite.id.to_string();
        let ask = "Ask an admin for a new code";
        if record.used_by.is_some() {
            let refusal = Refusal::new(RefusalCode::InviteUsed, "this code was already used");
            return Err(Denial::about(&id, refusal.with_next(ask)));
        }
        if record.invite.expires_at <= now.unix {
            let refusal = Refusal::new(
                RefusalCode::InviteExpired,
                format!(
                    "this code expired at {}",
                    record.invite.expires_at.to_rfc3339()
                ),
            );
            return Err(Denial::about(&id, refusal.with_next(ask)));
        }
        let admits = record.invite.admits.role();
        if admits != enrolling.role {
            let refusal = Refusal::new(
                RefusalCode::InviteWrongRole,
                format!("this code admits a {admits}, not a {}", enrolling.role),
            );
            let program = match admits {
                Role::Connector => "cardea-connector up CODE",
                Role::Device | Role::Controller | Role::Relay => "cardea up CODE",
            };
            return Err(Denial::about(
                &id,
                refusal.with_next(format!("Use it with: {program}")),
            ));
        }
        Ok(record)
    }

    fn appraise_stranger(
        &self,
        now: Now,
        enrolling: &Enrolling,
        applicant: Applicant<'_>,
        invite: InviteId,
    ) -> Result<PassingAppraisal, Denial> {
        let Some(facts) = &enrolling.facts else {
            let refusal = Refusal::new(
                RefusalCode::PostureFailed,
                "a device enrolls with a report of its posture, and this one sent none",
            );
            return Err(Denial::about(&invite.to_string(), refusal));
        };
        judge::appraise(
            &self.world.engine,
            &self.world.settings,
            self.world.domain(),
            applicant,
            facts,
            now,
        )
        .map_err(|decision| Denial {
            refusal: verdict::refusal_of(&decision),
            subject: invite.to_string(),
            decision: Some(decision),
        })
    }

    /// The wanted name, or the first of `name-2`, `name-3`, … that nobody has.
    fn free_name(&self, role: Role, wanted: &Name) -> Name {
        let is_free = |name: &Name| {
            let taken = match role {
                Role::Connector => self.world.state.connector_named(name).is_some(),
                Role::Device | Role::Controller | Role::Relay => {
                    self.world.state.device_named(name).is_some()
                }
            };
            !taken && !self.reserved.contains(&(role, name.clone()))
        };
        if is_free(wanted) {
            return wanted.clone();
        }
        (2_u64..)
            .filter_map(|number| {
                let tail = format!("-{number}");
                let mut head = wanted.to_string();
                head.truncate(NAME_BYTES_MAX - tail.len());
                format!("{head}{tail}").parse().ok()
            })
            .find(is_free)
            .unwrap_or_else(|| wanted.clone())
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
        if let Some(node) = &enrolling.planned {
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

impl Denial {
    fn about(subject: &str, refusal: Refusal) -> Self {
        Self {
            refusal,
            subject: subject.to_owned(),
            decision: None,
        }
    }
}

fn shown(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

#[cfg(test)]
mod tests;
