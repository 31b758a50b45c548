//! What was proposed to the store and has not come back, and why it was.

use std::collections::BTreeMap;

use cardea_proto::ledger::{Draft, RecordKey, Revision};

use crate::{
    admin::Ordered,
    api::{Outbox, Proposal, ProposalId},
    certificates::Renewing,
    enrollment::Enrolling,
    grants::{Admitting, Offering},
    policy::Prepared,
};

use cardea_proto::id::{DeviceId, GrantId};

/// How often a plan is made again after conflicts.
///
/// Two hundred devices of one user who enroll at once conflict once or twice; a plan that conflicts
/// this often competes with somebody who writes the same record without pause.
pub(crate) const TRIES_MAX: u8 = 16;

/// Proposals that may wait at once; past that, what is new is refused as busy.
const PENDING_MAX: usize = 16_384;

/// What a proposal is for: what its outcome is told to, and from what it is planned again.
#[derive(Debug)]
pub(crate) enum Intent {
    /// A stranger enrolls.
    Enroll(Box<Enrolling>),
    /// A node renews its certificate.
    Renew(Box<Renewing>),
    /// A device's appraisal changed.
    Appraise(DeviceId),
    /// A device asks for an app.
    Offer(Box<Offering>),
    /// A connector answered for a grant.
    Admit(Box<Admitting>),
    /// Grants are over.
    End(Vec<GrantId>),
    /// An admin orders a change.
    Order(Box<Ordered>),
    /// Something is only to be remembered.
    Note,
}

/// An intent and how often it was planned before.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) intent: Intent,
    pub(crate) tries: u8,
}

impl Pending {
    /// The policy folder that an order brought.
    pub(crate) fn prepared(&self) -> Option<&Prepared> {
        match &self.intent {
            Intent::Order(ordered) => ordered.prepared(),
            Intent::Enroll(_)
            | Intent::Renew(_)
            | Intent::Appraise(_)
            | Intent::Offer(_)
            | Intent::Admit(_)
            | Intent::End(_)
            | Intent::Note => None,
        }
    }
}

/// The proposals that wait.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    last: u64,
    pending: BTreeMap<ProposalId, Pending>,
}

impl Proposals {
    /// Whether more may be proposed on behalf of others.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.len() < PENDING_MAX
    }

    pub(crate) fn propose(
        &mut self,
        expects: Vec<(RecordKey, Revision)>,
        draft: Draft,
        pending: Pending,
        out: &mut Outbox,
    ) {
        self.last += 1;
        let id = ProposalId(self.last);
        self.pending.insert(id, pending);
        out.proposals.push_back(Proposal { id, expects, draft });
    }

    pub(crate) fn count(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn take(&mut self, id: ProposalId) -> Option<Pending> {
        self.pending.remove(&id)
    }
}
