//! What admins ask: changes that they signed, and questions.

mod apps;
mod find;
mod inventory;
mod plan;
mod policies;
mod rows;
mod targets;

use std::collections::BTreeMap;

use cardea_credential::admin::{ChangeError, verify_change};
use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminRequest, ChangeOrder, SignedChange},
    codec::Bytes,
    id::AdminKeyId,
    ledger::{Actor, Revision},
    refusal::{Refusal, RefusalCode},
};

use crate::{
    api::{AdminSession, CallId, CommitError, Outbox},
    controller::{Controller, Turn},
    grants::{ENDS_PER_ENTRY, end_changes},
    policy::Prepared,
    proposals::{Intent, Pending},
    refusals::Refused,
    state::Happened,
    verdict,
    world::draft,
};

/// Admin connections whose sequence is remembered; the longest silent one is forgotten first.
const SESSIONS_MAX: usize = 1_024;

/// The last sequence of each admin connection, so that no change is played twice on it.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    last: BTreeMap<Bytes<16>, (u64, u64)>,
    changes: u64,
}

/// An admin's order that waits for the store.
#[derive(Debug)]
pub(crate) struct Ordered {
    call: CallId,
    signed: SignedChange,
    by: AdminKeyId,
    change: AdminChange,
    message: String,
    closes: usize,
    prepared: Option<Prepared>,
}

impl Sessions {
    /// Takes the next number of a connection; `false` when it did not grow.
    fn advance(&mut self, nonce: Bytes<16>, sequence: u64) -> bool {
        let last = self.last.get(&nonce).map_or(0, |(last, _)| *last);
        if sequence <= last {
            return false;
        }
        self.changes += 1;
        self.last.insert(nonce, (sequence, self.changes));
        if self.last.len() > SESSIONS_MAX {
            let oldest = self.last.iter().min_by_key(|(_, (_, at))| *at);
            if let Some(nonce) = oldest.map(|(nonce, _)| *nonce) {
                self.last.remove(&nonce);
            }
        }
        true
    }
}

impl Ordered {
    /// The policy folder that the order brought.
    pub(crate) const fn prepared(&self) -> Option<&Prepared> {
        self.prepared.as_ref()
    }

    /// The change is on record: the admin is told.
    pub(crate) fn done(self, revision: Revision, happened: &[Happened], out: &mut Outbox) {
        let ended = happened
            .iter()
            .filter(|happened| matches!(happened, Happened::Ended(_)))
            .count();
        let closed = u32::try_from(ended.max(self.closes)).unwrap_or(u32::MAX);
        tracing::info!(%revision, admin.id = %self.by, closed, "admin change");
        let answer = AdminAnswer::Done {
            revision,
            message: self.message,
            closed,
        };
        out.answers.push_back((self.call, answer));
    }

    /// The store did not take it.
    pub(crate) fn failed(&self, why: &CommitError, out: &mut Outbox) {
        let refusal = verdict::refusal_of_commit(why);
        out.answers
            .push_back((self.call, AdminAnswer::Refused(refusal)));
    }
}

impl Controller {
    /// An admin asks.
    pub(crate) fn on_admin(
        &mut self,
        turn: &mut Turn<'_>,
        call: CallId,
        session: AdminSession,
        (request, prepared): (AdminRequest, Option<Prepared>),
    ) {
        let signed = match request {
            AdminRequest::Query(query) => {
                let answer = self.answer(turn.now, &query, prepared.as_ref());
                let answer = answer.unwrap_or_else(AdminAnswer::Refused);
                turn.out.answers.push_back((call, answer));
                return;
            }
            AdminRequest::Change(signed) => signed,
        };
        match self.check_order(session, &signed) {
            Ok(order) => {
                let ordered = Ordered {
                    call,
                    by: signed.key,
                    signed,
                    change: order.change,
                    message: String::new(),
                    closes: 0,
                    prepared,
                };
                self.plan_order(turn, Box::new(ordered), 0);
            }
            Err(refusal) => {
                let refused = Refused {
                    actor: Actor::Stranger("admin socket".to_owned()),
                    attempt: "administer",
                    code: refusal.code,
                    subject: format!("change signed as {}", signed.key),
                    decision: None,
                };
                turn.out
                    .answers
                    .push_back((call, AdminAnswer::Refused(refusal)));
                self.note_refusal(turn, &refused);
            }
        }
    }

    /// Proposes an admin's change: the first time, or after a conflict.
    pub(crate) fn plan_order(&mut self, turn: &mut Turn<'_>, mut ordered: Box<Ordered>, tries: u8) {
        let plan = match self.plan_change(turn.now, &ordered.change, ordered.prepared()) {
            Ok(plan) => plan,
            Err(refusal) => {
                turn.out
                    .answers
                    .push_back((ordered.call, AdminAnswer::Refused(refusal)));
                return;
            }
        };
        let mut draft = draft(turn.now.unix, Actor::Admin(ordered.by));
        // What does not fit ends right after, when the change that ends it is applied.
        let ends: Vec<_> = plan.ends.iter().copied().take(ENDS_PER_ENTRY).collect();
        draft.changes = end_changes(&ends);
        draft.changes.extend(plan.changes);
        draft.signed = Some(ordered.signed.clone());
        ordered.message = plan.message;
        ordered.closes = plan.ends.len();
        let intent = Intent::Order(ordered);
        self.propose(turn, plan.expects, draft, Pending { intent, tries });
    }

    /// Reads an order that an admin of this trust domain signed for this very connection.
    fn check_order(
        &mut self,
        session: AdminSession,
        signed: &SignedChange,
    ) -> Result<ChangeOrder, Refusal> {
        let (_, public) = &self.world.founded.admin;
        let public: &[u8; 32] = public.as_ref().try_into().map_err(|_| {
            Refusal::new(
                RefusalCode::Internal,
                "the ledger names no usable admin key",
            )
        })?;
        let order = verify_change(public, signed).map_err(|error| match error {
            ChangeError::OtherKey { .. } => Refusal::new(
                RefusalCode::NotProven,
                format!(
                    "signed by {}, which is no admin key of {}",
                    signed.key,
                    self.world.domain()
                ),
            )
            .with_next("Give the key that init made: --admin-key FILE"),
            ChangeError::NotProven => Refusal::new(
                RefusalCode::NotProven,
                "the admin's signature does not hold",
            )
            .with_next("Give the key that init made: --admin-key FILE"),
            ChangeError::Unreadable(error) => Refusal::new(
                RefusalCode::Invalid,
                format!("the signed change cannot be read: {error}"),
            )
            .with_next("Use the cardeactl of the controller's version"),
        })?;
        if order.domain != *self.world.domain() {
            return Err(Refusal::new(
                RefusalCode::NotProven,
                format!(
                    "the change was signed for {}, and this is {}",
                    order.domain,
                    self.world.domain()
                ),
            )
            .with_next("Name the other controller: --admin unix:PATH"));
        }
        if order.nonce != session.nonce || !self.sessions.advance(session.nonce, order.sequence) {
            return Err(Refusal::new(
                RefusalCode::NotProven,
                "the change was signed for another connection, or was used already",
            )
            .with_next("Give the command again"));
        }
        Ok(order)
    }
}

#[cfg(test)]
mod tests;
