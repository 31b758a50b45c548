//! The ledger: what is recorded, by whom, and in which order.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    admin::SignedChange,
    app::{AppSpec, Carrier, Principal},
    codec::{Blob, Digest},
    decision::Decision,
    id::{AdminKeyId, ConnectorId, ControllerId, DeviceId, GrantId, InviteId, NodeId},
    identity::Role,
    name::Name,
    policy::PolicyFile,
    refusal::RefusalCode,
    time::UnixMillis,
};

/// Position of an entry in the ledger, from 1; 0 is the empty ledger.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who caused an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// An admin, by the key that signed.
    Admin(AdminKeyId),
    /// An enrolled node.
    Node(NodeId),
    /// The controller itself: a timer, an appraisal, a grant that no longer holds.
    Controller(ControllerId),
    /// Somebody who is not enrolled, by the address that was seen.
    Stranger(String),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin(id) => id.fmt(f),
            Self::Node(id) => id.fmt(f),
            Self::Controller(id) => id.fmt(f),
            Self::Stranger(address) => write!(f, "stranger {}", address.escape_default()),
        }
    }
}

/// A set of changes before it is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// Wall time of the controller that planned it.
    pub at: UnixMillis,
    /// Who caused it.
    pub actor: Actor,
    /// What changes, in order.
    pub changes: Vec<Change>,
    /// The decision behind it, where there was one.
    pub decision: Option<Decision>,
    /// The admin's signed request, where there was one.
    pub signed: Option<SignedChange>,
}

/// One commit: a set of changes taken together, chained to the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its position.
    pub revision: Revision,
    /// The hash of the entry before, as a leaf of the ledger's tree (RFC 6962 §2.1): SHA-256 over a
    /// zero byte and its encoding; zeros at revision 1.
    pub previous: Digest,
    /// What was accepted.
    pub draft: Draft,
}

/// One durable fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The trust domain begins: always the first change of a ledger.
    Founded(Founded),
    /// A one-time code was made; only its hash is here.
    InviteCreated(Invite),
    /// A code was taken back.
    InviteRemoved(InviteId),
    /// A code admitted a node; it admits no other.
    InviteUsed {
        /// The code.
        invite: InviteId,
        /// Whom it admitted.
        by: NodeId,
    },
    /// A node may ask for certificates.
    NodeEnrolled(Node),
    /// A device may not hold a certificate or a grant until unblocked.
    DeviceBlocked(DeviceId),
    /// The block is lifted.
    DeviceUnblocked(DeviceId),
    /// A node is gone for good; its key is worth nothing.
    NodeRemoved(NodeId),
    /// A certificate was issued.
    CertificateIssued(CertificateRecord),
    /// A device's appraisal changed.
    Appraised {
        /// The device.
        device: DeviceId,
        /// Whether it passes.
        compliant: bool,
    },
    /// A site exists.
    SiteAdded(Name),
    /// A site is gone.
    SiteRemoved(Name),
    /// A user exists with exactly these groups.
    UserSet(User),
    /// An app exists with exactly this specification.
    AppSet(AppSpec),
    /// An app is gone.
    AppRemoved(Name),
    /// The policy folder is exactly this.
    PolicySet(Vec<PolicyFile>),
    /// A rule for everyday use was added.
    Allowed(Link),
    /// A rule for everyday use was taken back.
    Disallowed(Link),
    /// A connector is asked to admit a subject to an app.
    GrantOffered(Grant),
    /// The connector is ready; the subject is told.
    GrantAdmitted(GrantId),
    /// The grant is over.
    GrantEnded {
        /// The grant.
        grant: GrantId,
        /// Why.
        reason: EndReason,
    },
    /// Something was refused that an auditor wants to know of.
    Refused(RefusedRecord),
    /// A node holds a checkpoint that this ledger does not go on from: nothing new is granted until
    /// an admin has seen it.
    RollbackNoticed(Rollback),
    /// An admin has seen it, and the ledger goes on as it is.
    RollbackAcknowledged,
}

/// What shows that a ledger was rolled back or written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The node that holds the checkpoint.
    pub node: NodeId,
    /// How many entries its checkpoint covers, which this ledger's key signed.
    pub size: u64,
    /// The root of their tree.
    pub root: Digest,
}

/// How a trust domain begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founded {
    /// The trust domain.
    pub domain: Name,
    /// The controller that founded it.
    pub controller: ControllerId,
    /// SHA-256 of the root certificate's DER.
    pub root: Digest,
    /// The first admin's key: its id and its Ed25519 public key, 32 bytes.
    pub admin: (AdminKeyId, Blob),
    /// The Ed25519 public key with which relay tickets are verified, 32 bytes.
    pub ticket_key: Blob,
    /// The Ed25519 public key with which the ledger's checkpoints are verified, 32 bytes.
    pub ledger_key: Blob,
}

/// A one-time code as the controller keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Its id, shown in lists.
    pub id: InviteId,
    /// SHA-256 of the 256-bit secret.
    pub secret_hash: Digest,
    /// Whom it admits.
    pub admits: Admits,
    /// When it ends.
    pub expires_at: UnixMillis,
}

/// Whom an invite admits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admits {
    /// A device of this user, who also joins these groups.
    Device {
        /// The owner.
        user: Name,
        /// Groups that the user joins.
        groups: BTreeSet<Name>,
    },
    /// A connector of this site.
    Connector {
        /// The site.
        site: Name,
    },
}

impl Admits {
    /// The role that the invite admits.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::Device { .. } => Role::Device,
            Self::Connector { .. } => Role::Connector,
        }
    }
}

/// An enrolled node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name, unique among nodes of its kind.
    pub name: Name,
    /// SHA-256 of its public key (SubjectPublicKeyInfo, DER).
    pub key: Digest,
    /// A device's user; a connector has none.
    pub user: Option<Name>,
    /// A connector's site; a device has none.
    pub site: Option<Name>,
    /// Operating system as it said at enrollment, such as `linux`.
    pub os: String,
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Whose.
    pub node: NodeId,
    /// Its serial number, 16 random bytes with the top bit clear.
    pub serial: crate::codec::Bytes<16>,
    /// The public key in it (SubjectPublicKeyInfo, DER).
    pub public_key: Blob,
    /// When it begins.
    pub not_before: UnixMillis,
    /// When it ends.
    pub not_after: UnixMillis,
}

/// A person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Their name, such as an e-mail address.
    pub name: Name,
    /// Their groups.
    pub groups: BTreeSet<Name>,
}

/// A rule for everyday use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// Who.
    pub principal: Principal,
    /// May open which app.
    pub app: Name,
}

/// A grant as the ledger keeps it; keys and tickets are never recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// The device that asked.
    pub device: DeviceId,
    /// Its user.
    pub user: Name,
    /// The app.
    pub app: Name,
    /// Which of its hosts, where it has a wildcard name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// The connector that serves it.
    pub connector: ConnectorId,
    /// The carrier.
    pub carrier: Carrier,
    /// How long it lives without an extension, in milliseconds.
    pub ttl_ms: u64,
}

/// Why a grant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// An admin revoked it.
    Revoked,
    /// The decision no longer allows it: policy, rule or app changed.
    NotPermitted,
    /// The device's posture no longer passes.
    PostureFailed,
    /// The device's posture was not reported in time.
    PostureStale,
    /// The device was blocked or removed.
    DeviceBlocked,
    /// The device's certificate ended.
    CertificateExpired,
    /// The app was removed or changed.
    AppChanged,
    /// The connector went away or refused.
    ConnectorGone,
    /// Its ttl ended.
    Expired,
    /// The agent no longer needs it.
    Closed,
    /// A newer grant of the same device and app took its place.
    Replaced,
    /// The controller that made it restarted.
    ControllerRestarted,
}

impl fmt::Display for EndReason {
    /// The reason as it stands in JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A refusal worth an auditor's time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRecord {
    /// What was attempted: `enroll`, `connect`, `certify`, `administer`, `authenticate`.
    pub attempt: String,
    /// Why it was refused.
    pub code: RefusalCode,
    /// About what: an invite, an app, a key. Escaped and cut at 256 bytes; never a secret.
    pub subject: String,
}

/// Names a record for conflict checks: a commit is refused when one of those it rests on has moved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKey {
    /// The founding.
    Domain,
    /// An invite.
    Invite(InviteId),
    /// A node: its enrollment, block or removal.
    Node(NodeId),
    /// A device's appraisal.
    Appraisal(DeviceId),
    /// A node's latest certificate.
    Certificate(NodeId),
    /// A site.
    Site(Name),
    /// A user.
    User(Name),
    /// An app.
    App(Name),
    /// The policy folder.
    Policy,
    /// The everyday rules about an app.
    Links(Name),
    /// A grant.
    Grant(GrantId),
    /// Whether the ledger is known to have been rolled back.
    Rollback,
}

impl Change {
    /// The record that this change moves; `None` for one that nothing can rest on.
    #[must_use]
    pub fn key(&self) -> Option<RecordKey> {
        Some(match self {
            Self::Founded(_) => RecordKey::Domain,
            Self::InviteCreated(invite) => RecordKey::Invite(invite.id),
            Self::InviteRemoved(id) | Self::InviteUsed { invite: id, .. } => RecordKey::Invite(*id),
            Self::NodeEnrolled(node) => RecordKey::Node(node.id),
            Self::DeviceBlocked(id) | Self::DeviceUnblocked(id) => {
                RecordKey::Node(NodeId::Device(*id))
            }
            Self::NodeRemoved(id) => RecordKey::Node(*id),
            Self::CertificateIssued(record) => RecordKey::Certificate(record.node),
            Self::Appraised { device, .. } => RecordKey::Appraisal(*device),
            Self::SiteAdded(name) | Self::SiteRemoved(name) => RecordKey::Site(name.clone()),
            Self::UserSet(user) => RecordKey::User(user.name.clone()),
            Self::AppSet(app) => RecordKey::App(app.name.clone()),
            Self::AppRemoved(name) => RecordKey::App(name.clone()),
            Self::PolicySet(_) => RecordKey::Policy,
            Self::Allowed(link) | Self::Disallowed(link) => RecordKey::Links(link.app.clone()),
            Self::GrantOffered(grant) => RecordKey::Grant(grant.id),
            Self::GrantAdmitted(id) | Self::GrantEnded { grant: id, .. } => RecordKey::Grant(*id),
            Self::RollbackNoticed(_) | Self::RollbackAcknowledged => RecordKey::Rollback,
            Self::Refused(_) => return None,
        })
    }
}
