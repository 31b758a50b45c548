//! The admin API: what `cardeactl` says to a controller over `admin.sock`.
//!
//! The controller speaks first, with [`AdminHello`]; then each [`AdminRequest`] has one
//! [`AdminAnswer`], but for `AuditFollow`, which has one for each new entry. Rows are what `ls` and
//! `show` print: their field names in JSON are stable.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    app::{AppSpec, Transport},
    codec::{Blob, Bytes, Digest},
    decision::{Check, Decision},
    enroll::Pass,
    id::{AdminKeyId, ConnectorId, ControllerId, DeviceId, GrantId, InviteId},
    ledger::{Admits, Entry, Link, Revision, Rollback},
    name::Name,
    pattern::Pattern,
    policy::{PolicyEffect, PolicyFile, PolicyProblem, PolicyTestResult},
    refusal::Refusal,
    time::UnixMillis,
};

/// Context that the signature over a change also covers.
pub const CHANGE_CONTEXT: &[u8] = b"cardea admin change v1\0";

/// What the controller says first on an admin connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminHello {
    /// The admin protocol, 1.
    pub version: u16,
    /// The trust domain.
    pub domain: Name,
    /// The controller.
    pub controller: ControllerId,
    /// SHA-256 of the root certificate's DER, for invite codes.
    pub root: Digest,
    /// Where nodes reach the controller, `HOST:PORT`, for invite codes.
    pub addresses: Vec<String>,
    /// Must stand in every change of this connection.
    pub nonce: Bytes<16>,
    /// A pass for one invite code, where there are fronts that are not beside the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<Pass>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminRequest {
    /// Reads something.
    Query(AdminQuery),
    /// Changes something.
    Change(SignedChange),
}

/// A change and its admin's signature, stored together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedChange {
    /// CBOR of a [`ChangeOrder`]: the exact bytes that are signed, after [`CHANGE_CONTEXT`].
    pub body: Blob,
    /// The key that signed.
    pub key: AdminKeyId,
    /// Its Ed25519 signature, 64 bytes.
    pub signature: Blob,
}

/// What an admin signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeOrder {
    /// The trust domain, so that a change cannot be played to another one.
    pub domain: Name,
    /// The nonce of the connection, so that it cannot be played again.
    pub nonce: Bytes<16>,
    /// Counts the changes of a connection, from 1.
    pub sequence: u64,
    /// The admin's wall clock.
    pub at: UnixMillis,
    /// The change.
    pub change: AdminChange,
}

/// A change that an admin may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminChange {
    /// A one-time code, whose secret the CLI made and keeps to itself.
    InviteCreate {
        /// Its id.
        id: InviteId,
        /// SHA-256 of its secret.
        secret_hash: Digest,
        /// Whom it admits.
        admits: Admits,
        /// How long it is good, in seconds.
        life_s: u64,
    },
    /// Takes a code back.
    InviteRemove(InviteId),
    /// Adds a site.
    SiteAdd(Name),
    /// Removes a site that has neither apps nor connectors.
    SiteRemove(Name),
    /// Removes a connector, by id or name.
    ConnectorRemove(String),
    /// Blocks a device, by id or name.
    DeviceBlock(String),
    /// Lifts the block.
    DeviceUnblock(String),
    /// Removes a device, by id or name.
    DeviceRemove(String),
    /// Sets a user's groups.
    UserSet {
        /// The user.
        name: Name,
        /// All groups.
        groups: BTreeSet<Name>,
    },
    /// Publishes an app, with rules for everyday use.
    AppAdd {
        /// The app.
        spec: AppSpec,
        /// Who may open it.
        allow: Vec<crate::app::Principal>,
    },
    /// Changes an app that exists: fields that are `None` stay.
    AppSet {
        /// The app.
        name: Name,
        /// New fields.
        patch: AppPatch,
    },
    /// Removes an app.
    AppRemove(Name),
    /// Adds a rule for everyday use.
    Allow(Link),
    /// Takes one back.
    Disallow(Link),
    /// Makes this folder the policy, after its tests passed.
    PolicyApply(Vec<PolicyFile>),
    /// Ends a grant.
    GrantRevoke(GrantId),
    /// Lets the ledger go on from where it was rolled back to.
    RollbackAcknowledge,
}

/// New fields of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppPatch {
    /// All targets.
    pub targets: Option<Vec<crate::app::Target>>,
    /// All DNS names.
    pub names: Option<Vec<Pattern>>,
    /// The carrier.
    pub transport: Option<Transport>,
    /// All labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Whether host-scoped targets are meant.
    pub host_scoped: Option<bool>,
}

/// What an admin may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminQuery {
    /// All invites.
    Invites,
    /// All sites.
    Sites,
    /// All connectors.
    Connectors,
    /// All devices.
    Devices,
    /// All users.
    Users,
    /// All apps.
    Apps,
    /// The policy in force, everyday rules included.
    Policy,
    /// Whether a folder parses and agrees with the schema.
    PolicyCheck(Vec<PolicyFile>),
    /// How a folder's tests go.
    PolicyTest(Vec<PolicyFile>),
    /// Whom a folder would give or take access.
    PolicyDiff(Vec<PolicyFile>),
    /// The stricter rules that lie beside the default ones.
    PolicyRecommended,
    /// What a change would cut off; nothing is changed.
    Impact(AdminChange),
    /// The decision now.
    Explain {
        /// The user.
        user: Name,
        /// The device, by id or name.
        device: String,
        /// The app.
        app: Name,
    },
    /// Grants that are open now.
    Grants,
    /// Tunnels with their traffic.
    Tunnels,
    /// Entries from `from` on, at most `limit` (and never more than 1,000) of them.
    Audit {
        /// First revision; 0 for the last `limit` entries.
        from: Revision,
        /// How many.
        limit: u32,
    },
    /// The last `limit` entries (at most 1,000) that a filter lets through.
    AuditSearch {
        /// Which.
        filter: AuditFilter,
        /// How many.
        limit: u32,
    },
    /// Who could reach an app at a time, and by which rule.
    AuditWho {
        /// The app.
        app: Name,
        /// When.
        at: UnixMillis,
    },
    /// The latest checkpoint of the ledger.
    Checkpoint,
    /// Entries as they are committed, from `from` on, until the connection ends.
    AuditFollow {
        /// First revision.
        from: Revision,
    },
    /// How the controller is.
    Status,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminAnswer {
    /// The change is committed at this revision.
    Done {
        /// Where it stands in the ledger.
        revision: Revision,
        /// What it did, in one line.
        message: String,
        /// Grants that it ended.
        closed: u32,
    },
    /// Not done, not answered.
    Refused(Refusal),
    /// Rows of `Invites`.
    Invites(Vec<InviteRow>),
    /// Rows of `Sites`.
    Sites(Vec<SiteRow>),
    /// Rows of `Connectors`.
    Connectors(Vec<ConnectorRow>),
    /// Rows of `Devices`.
    Devices(Vec<DeviceRow>),
    /// Rows of `Users`.
    Users(Vec<UserRow>),
    /// Rows of `Apps`.
    Apps(Vec<AppRow>),
    /// The policy.
    Policy {
        /// The commit that set it.
        revision: Revision,
        /// Its files; everyday rules stand in `links.cedar`.
        files: Vec<PolicyFile>,
    },
    /// Findings of `PolicyCheck`; empty when all is well.
    PolicyProblems(Vec<PolicyProblem>),
    /// Results of `PolicyTest`.
    PolicyTests(Vec<PolicyTestResult>),
    /// Effects of `PolicyDiff`.
    PolicyEffects {
        /// Only those that change.
        effects: Vec<PolicyEffect>,
        /// Enrolled devices that have not reported since the controller started, of which it is not
        /// known what they would gain or lose.
        unjudged: Vec<Name>,
    },
    /// The files of `PolicyRecommended`.
    PolicyFiles(Vec<PolicyFile>),
    /// How many grants a change would end.
    Impact {
        /// Open grants that would end.
        closes: u32,
    },
    /// The decision of `Explain`.
    Decision(Box<Decision>),
    /// Rows of `Grants`.
    Grants(Vec<GrantRow>),
    /// Rows of `Tunnels`.
    Tunnels(Vec<TunnelRow>),
    /// The answer to `AuditWho`.
    Who {
        /// The last entry that was known then.
        revision: Revision,
        /// Who, device by device.
        rows: Vec<WhoRow>,
    },
    /// Entries of `Audit` and `AuditSearch`, or the next of `AuditFollow`.
    Entries(Vec<Entry>),
    /// The answer to `Checkpoint`: a signed note.
    Checkpoint(String),
    /// The answer to `Status`.
    Status(Box<StatusView>),
}

/// An invite as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRow {
    /// Its id.
    pub id: InviteId,
    /// For `device`, the user; for `connector`, the site.
    pub name: Name,
    /// `device` or `connector`.
    pub role: crate::identity::Role,
    /// `open`, `used` or `expired`.
    pub state: String,
    /// When it ends, RFC 3339.
    pub expires_at: String,
    /// The node it admitted.
    pub used_by: Option<String>,
}

/// A site as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteRow {
    /// Its name, which is its id.
    pub id: Name,
    /// Its name.
    pub name: Name,
    /// Apps in it.
    pub apps: u32,
    /// Connectors in it.
    pub connectors: u32,
    /// Connectors that are connected.
    pub connectors_online: u32,
}

/// A connector as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorRow {
    /// Its id.
    pub id: ConnectorId,
    /// Its name.
    pub name: Name,
    /// Its site.
    pub site: Name,
    /// `connected`, `silent` when nothing was heard of it for longer than it keeps quiet, or `offline`.
    pub state: String,
    /// When it was last heard of, RFC 3339.
    pub last_seen: Option<String>,
    /// When its certificate ends, RFC 3339.
    pub certificate_not_after: Option<String>,
    /// Version of its program.
    pub program: Option<String>,
    /// Tunnels open at it.
    pub tunnels: u32,
}

/// A device as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// Its id.
    pub id: DeviceId,
    /// Its name.
    pub name: Name,
    /// Its user.
    pub user: Name,
    /// `connected`, `offline` or `blocked`.
    pub state: String,
    /// Whether its latest appraisal passes; `None` before the first.
    pub compliant: Option<bool>,
    /// The checks that failed.
    pub failed: Vec<Check>,
    /// Why its appraisal fails, where no check says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When posture was last reported, RFC 3339.
    pub checked_at: Option<String>,
    /// When it was last heard of, RFC 3339: of a device, its last message.
    pub last_seen: Option<String>,
    /// When its certificate ends, RFC 3339.
    pub certificate_not_after: Option<String>,
    /// Version of its program.
    pub program: Option<String>,
    /// Operating system.
    pub os: String,
    /// Facts of the latest report, by name, and how far its clock is ahead; `show` prints them.
    pub facts: BTreeMap<String, crate::posture::Fact>,
}

/// A user as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    /// Their name, which is their id.
    pub id: Name,
    /// Their name.
    pub name: Name,
    /// Their groups.
    pub groups: BTreeSet<Name>,
    /// Their devices, by name.
    pub devices: Vec<Name>,
}

/// An app as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRow {
    /// Its name, which is its id.
    pub id: Name,
    /// All that was published.
    #[serde(flatten)]
    pub spec: AppSpec,
    /// Everyday rules about it.
    pub allow: Vec<crate::app::Principal>,
    /// Grants open on it.
    pub grants: u32,
    /// Connectors that could serve it now.
    pub connectors_online: u32,
}

/// A grant as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRow {
    /// Its id.
    pub id: GrantId,
    /// `APP for USER`, for people.
    pub name: String,
    /// The user.
    pub user: Name,
    /// The device's name.
    pub device: Name,
    /// The app.
    pub app: Name,
    /// The connector's name.
    pub connector: Name,
    /// The carrier.
    pub carrier: crate::app::Carrier,
    /// `offered` or `open`.
    pub state: String,
    /// When it was granted, RFC 3339.
    pub since: String,
    /// How long it lives without an extension, in seconds.
    pub ttl_s: u64,
    /// The entry that granted it.
    pub revision: Revision,
    /// The rules that permitted it.
    pub rules: Vec<String>,
}

/// Which entries a search is for: those that all given fields let through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditFilter {
    /// About this device, by id or name.
    pub device: Option<String>,
    /// About this user.
    pub user: Option<Name>,
    /// About this app.
    pub app: Option<Name>,
    /// Caused by this admin's key, node or controller, by id; a device by its name too.
    pub actor: Option<String>,
    /// Not before.
    pub from: Option<UnixMillis>,
    /// Not after.
    pub to: Option<UnixMillis>,
    /// With a decision that allowed, or that denied.
    pub allowed: Option<bool>,
}

/// Somebody who could reach an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoRow {
    /// The user.
    pub user: Name,
    /// The device's name.
    pub device: Name,
    /// The rules that permitted it.
    pub rules: Vec<String>,
    /// The grant that was open then, if one was.
    pub grant: Option<GrantId>,
}

/// A tunnel as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelRow {
    /// The grant.
    pub id: GrantId,
    /// `APP for USER`, for people.
    pub name: String,
    /// The user.
    pub user: Name,
    /// The device's name.
    pub device: Name,
    /// The app.
    pub app: Name,
    /// The carrier.
    pub carrier: crate::app::Carrier,
    /// `relay ADDRESS`, `relay-tls ADDRESS` or `direct ADDRESS`, as an end of it told last; `unknown`
    /// until one did.
    pub path: String,
    /// Payload from the app to the device.
    pub bytes_in: u64,
    /// Payload from the device to the app.
    pub bytes_out: u64,
    /// Flows open at the last count.
    pub flows: u32,
    /// When an end last told of it, RFC 3339: path, bytes and flows are as they were then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_at: Option<String>,
}

/// How a controller is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// The trust domain.
    pub domain: Name,
    /// The controller.
    pub controller: ControllerId,
    /// Version of its program.
    pub program: String,
    /// Where nodes reach it.
    pub addresses: Vec<String>,
    /// The ledger's last revision.
    pub revision: Revision,
    /// The policy's revision.
    pub policy_revision: Revision,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// `ok` or why nothing is accepted.
    pub store: String,
    /// Devices: enrolled, connected.
    pub devices: (u32, u32),
    /// Connectors: enrolled, connected.
    pub connectors: (u32, u32),
    /// Grants open.
    pub grants: u32,
    /// When its intermediate certificate ends, RFC 3339.
    pub intermediate_not_after: String,
    /// Whether simulated posture is accepted.
    pub simulated_posture: bool,
    /// What shows that the ledger was rolled back, while no admin has acknowledged it.
    pub rollback: Option<Rollback>,
    /// What was knocked at the port for channels since the start.
    #[serde(default)]
    pub knocks: Knocks,
    /// The relays, in the order in which grants prefer them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<RelayRow>,
    /// What needs an admin's attention.
    pub warnings: Vec<Warning>,
}

/// A relay, as the controller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRow {
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Whether it answers the controller; new grants go to one that does.
    pub answers: bool,
}

/// How often which knock came; all but the first remained unanswered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knocks {
    /// Handshakes that were let in.
    pub opened: u64,
    /// Of nobody whom the ledger names: strangers', mostly.
    pub unknown: u64,
    /// With a tag that is not their knocker's.
    pub forged: u64,
    /// By a clock that is ahead.
    pub early: u64,
    /// By a clock that is behind, or from before the start.
    pub late: u64,
    /// Heard before.
    pub replayed: u64,
    /// More than one knocker may.
    pub too_many: u64,
}

/// Something that needs a person's attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// A word for scripts.
    pub code: String,
    /// What is wrong.
    pub title: String,
    /// What to do.
    pub fix: String,
}
