//! What travels on a channel, each way. The version is in the first message of each side.

use serde::{Deserialize, Serialize};

use crate::{
    access::{Admit, Extend, Granted, Signed},
    app::{Service, Transport},
    codec::{Blob, Bytes, Digest},
    decision::Decision,
    enroll::Certificate,
    id::GrantId,
    ledger::EndReason,
    name::Name,
    path::Path,
    pattern::Pattern,
    posture::{PostureVerdict, Report},
    refusal::Refusal,
    time::UnixMillis,
};

/// What a node connects for, as its ALPN says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Everything that a node does: [`crate::ALPN_CHANNEL`].
    #[default]
    Channel,
    /// The next certificate and nothing else, with one that may have ended: [`crate::ALPN_RENEW`].
    ///
    /// `Hello`, `Report` and `Renew` go one way, `Welcome`, `Posture`, `Certificate`,
    /// `CertificateRefused` and `Goodbye` the other.
    Renewal,
}

/// From a node to its controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromNode {
    /// First on every channel.
    Hello(Hello),
    /// Facts, on an event or a poll.
    Report(Report),
    /// Asks for the next certificate.
    Renew {
        /// The public key (SubjectPublicKeyInfo, DER).
        public_key: Blob,
        /// Signature by that key over the exporter bytes of this channel, then the public key.
        proof: Blob,
    },
    /// An agent asks to open an app.
    Request {
        /// Names this request in the answer.
        request: u64,
        /// The app.
        app: Name,
        /// The agent's signed [`crate::access::Offer`].
        offer: Signed,
    },
    /// An agent asks why it may or may not open an app.
    Explain {
        /// Names this request in the answer.
        request: u64,
        /// The app.
        app: Name,
    },
    /// A connector is ready for a grant.
    Admitted {
        /// The grant.
        grant: GrantId,
        /// The connector's signed [`crate::access::Answer`].
        answer: Signed,
    },
    /// A connector cannot serve a grant.
    NotAdmitted {
        /// The grant.
        grant: GrantId,
        /// Why.
        refusal: Refusal,
    },
    /// A node ended a tunnel: it is idle, or its other end is gone.
    Closed {
        /// The grant.
        grant: GrantId,
    },
    /// What passed since the last of these; neither durable nor exact.
    Usage(Vec<Usage>),
}

/// From a controller to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToNode {
    /// First on every channel.
    Welcome(Welcome),
    /// The node's next certificate.
    Certificate(Certificate),
    /// No certificate.
    CertificateRefused(Refusal),
    /// The controller's verdict on the latest report, when it changed and after each `Welcome`.
    Posture(PostureVerdict),
    /// All apps that a device may know of: a snapshot, sent again when it changes.
    Apps(Vec<AppView>),
    /// A request is granted.
    Granted(Box<Granted>),
    /// A request is not granted.
    Denied {
        /// The agent's request.
        request: u64,
        /// What to show.
        refusal: Refusal,
        /// The decision, where there was one.
        decision: Option<Box<Decision>>,
    },
    /// The answer to `Explain`.
    Explained {
        /// The agent's request.
        request: u64,
        /// The decision now, or why there is none.
        decision: Result<Box<Decision>, Refusal>,
    },
    /// A connector must admit a subject.
    Admit(Box<Admit>),
    /// A grant lives on.
    Extend(Extend),
    /// A grant is over: everything of it goes in the same call.
    Withdraw {
        /// The grant.
        grant: GrantId,
        /// Why.
        reason: EndReason,
    },
    /// The ledger as it is now, and that it goes on from what the node knows.
    Checkpoint(Box<Checkpointed>),
    /// The channel ends.
    Goodbye(Refusal),
}

/// How a node begins a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The channel protocol that the node speaks.
    pub version: u16,
    /// Version of its program.
    pub program: String,
    /// Its wall clock.
    pub clock: UnixMillis,
    /// Grants that it still holds, so that those which ended meanwhile are withdrawn at once.
    pub grants: Vec<GrantId>,
    /// The last checkpoint of the ledger that it accepted, a signed note: the ledger must go on from
    /// it.
    pub checkpoint: Option<String>,
}

/// How a controller begins a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The channel protocol that the controller speaks.
    pub version: u16,
    /// Version of its program.
    pub program: String,
    /// Its wall clock.
    pub clock: UnixMillis,
    /// The node's name.
    pub name: Name,
    /// A device's user.
    pub user: Option<Name>,
    /// Stands in every report of this channel.
    pub nonce: Bytes<16>,
    /// How often posture is polled, in milliseconds.
    pub posture_poll_ms: u64,
    /// Programs whose running is reported as `process.running`, because policies ask for them.
    pub watched_processes: Vec<String>,
    /// Where the controller can be reached from now on, `HOST:PORT`.
    pub addresses: Vec<String>,
}

/// A checkpoint, for a node that remembers the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpointed {
    /// The signed note.
    pub note: String,
    /// Hashes that lead from the checkpoint which the node knows to this one (RFC 6962 §2.1.2).
    pub proof: Vec<Digest>,
}

/// An app as a device sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppView {
    /// Its name.
    pub name: Name,
    /// DNS names.
    pub names: Vec<Pattern>,
    /// Its ports.
    pub services: Vec<Service>,
    /// Which carrier it asks for.
    pub transport: Transport,
    /// Whether it could be opened now.
    pub allowed: bool,
    /// Why not, in one line.
    pub why: Option<String>,
}

/// Bytes and round trip of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The grant.
    pub grant: GrantId,
    /// Payload from the app to the device, in bytes, since the tunnel began.
    pub bytes_in: u64,
    /// Payload from the device to the app, in bytes, since the tunnel began.
    pub bytes_out: u64,
    /// Flows open at the moment.
    pub flows: u32,
    /// Which way the end that reports sends, once its tunnel is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Path>,
}
