//! Everything that must hold before a one-time code is worth a node.

use std::{collections::BTreeSet, net::SocketAddr};

use cardea_credential::{key, proof::VerifiedRequest};
use cardea_proto::{
    PROTOCOL_VERSION_MIN,
    decision::Decision,
    enroll::EnrollRequest,
    id::{InviteId, NodeId},
    identity::Role,
    ledger::{Admits, Node},
    name::{NAME_BYTES_MAX, Name},
    refusal::{Refusal, RefusalCode},
    time::Now,
};

use super::Enrolling;
use crate::{
    api::ChannelId,
    certificates::Basis,
    controller::Controller,
    judge::{self, Applicant, PassingAppraisal},
    nodes::too_old,
    posture::Facts,
    state::InviteRecord,
    verdict,
};

/// Longest name of an operating system, in bytes.
const OS_BYTES_MAX: usize = 64;

/// Why a stranger is refused: the words, what they are about, and the decision if it was one.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) refusal: Refusal,
    pub(super) subject: String,
    pub(super) decision: Option<Box<Decision>>,
}

impl Controller {
    pub(super) fn check_request(
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
            )
            .with_next("Install the current version of Cardea");
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
            let refusal = Refusal::new(RefusalCode::NotProven, error.to_string())
                .with_next("Try again with the same code");
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
    pub(super) fn plan_node(
        &mut self,
        now: Now,
        enrolling: &Enrolling,
    ) -> Result<(InviteRecord, Node, Basis), Denial> {
        if let Some(refusal) = self.safe_mode() {
            return Err(Denial::about("the ledger", refusal));
        }
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
                    )
                    .with_next("Ask an admin for a new code: cardeactl invite connector");
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
            )
            .with_next("Use the code with: cardea up CODE");
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
            refusal: verdict::refusal_before_enrollment(&decision),
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
}

impl Denial {
    pub(super) fn about(subject: &str, refusal: Refusal) -> Self {
        Self {
            refusal,
            subject: subject.to_owned(),
            decision: None,
        }
    }
}
