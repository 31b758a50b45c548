//! Proof that a fact is durable: only the fold makes these, so only committed facts have effects.

use cardea_proto::{
    id::{DeviceId, InviteId, NodeId},
    ledger::{CertificateRecord, EndReason, Grant, Invite, Revision},
    name::Name,
};

/// A fact that the store has accepted.
///
/// Whatever admits, withdraws, grants or issues takes one of these by reference; `new` is private
/// to the fold.
#[derive(Clone, Debug)]
pub(crate) struct Committed<R> {
    fact: R,
    revision: Revision,
}

impl<R> Committed<R> {
    pub(super) const fn new(fact: R, revision: Revision) -> Self {
        Self { fact, revision }
    }

    /// The fact.
    pub(crate) const fn fact(&self) -> &R {
        &self.fact
    }

    /// The entry in which it stands.
    pub(crate) const fn revision(&self) -> Revision {
        self.revision
    }
}

/// A grant that is over, and why.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// The grant as it was.
    pub(crate) grant: Grant,
    /// Whether the connector had answered for it.
    pub(crate) admitted: bool,
    /// Why it ended.
    pub(crate) reason: EndReason,
}

/// What one change of an entry did to the state. A change that moved nothing happens not at all.
#[derive(Clone, Debug)]
pub(crate) enum Happened {
    /// A code may be used.
    Invited(Committed<Invite>),
    /// An admin took a code back.
    Uninvited(InviteId),
    /// A device was blocked.
    Blocked(Committed<DeviceId>),
    /// A block was lifted.
    Unblocked(Committed<DeviceId>),
    /// A node is gone.
    Removed(Committed<NodeId>),
    /// A certificate may be issued.
    Issued(Committed<CertificateRecord>),
    /// A device's appraisal is on record.
    Appraised(Committed<(DeviceId, bool)>),
    /// An admin lets the ledger go on after a rollback.
    RollbackAcknowledged,
    /// A user's groups may differ.
    UserSet(Committed<Name>),
    /// An app is new or different.
    AppSet(Committed<AppMoved>),
    /// An app is gone.
    AppRemoved(Committed<Name>),
    /// The policy folder is another.
    PolicySet,
    /// The everyday rules about an app differ.
    Linked(Committed<Name>),
    /// A connector is to be asked.
    Offered(Committed<Grant>),
    /// A connector is ready.
    Admitted(Committed<Grant>),
    /// A grant is over.
    Ended(Committed<Ended>),
}

impl Happened {
    /// The certificate that may be issued, if this is one.
    pub(crate) const fn issued(&self) -> Option<&Committed<CertificateRecord>> {
        if let Self::Issued(committed) = self {
            Some(committed)
        } else {
            None
        }
    }

    /// The device and its appraisal, if this is one.
    pub(crate) const fn appraised(&self) -> Option<(DeviceId, bool)> {
        if let Self::Appraised(committed) = self {
            Some(*committed.fact())
        } else {
            None
        }
    }

    /// The grant that a connector is to be asked for, if this is one.
    pub(crate) const fn offered(&self) -> Option<&Committed<Grant>> {
        if let Self::Offered(committed) = self {
            Some(committed)
        } else {
            None
        }
    }

    /// The grant that a connector is ready for, if this is one.
    pub(crate) const fn admitted(&self) -> Option<&Committed<Grant>> {
        if let Self::Admitted(committed) = self {
            Some(committed)
        } else {
            None
        }
    }
}

/// An app that was set.
#[derive(Clone, Debug)]
pub(crate) struct AppMoved {
    /// Its name.
    pub(crate) name: Name,
    /// Whether open tunnels to it lead elsewhere than it says.
    pub(crate) rerouted: bool,
}
