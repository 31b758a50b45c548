//! What goes into a controller and what comes out of it.

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use cardea_credential::{
    knock::{DoorChange, Knocker},
    trust::VerifiedLeaf,
};
use cardea_ledger::checkpoint::Checkpoint;
use cardea_proto::{
    admin::{AdminAnswer, AdminRequest},
    codec::Bytes,
    enroll::{EnrollAnswer, EnrollRequest},
    ledger::{Draft, Entry, RecordKey, Revision},
    message::{Checkpointed, Purpose, ToNode},
};

use crate::{heard::Heard, policy::Prepared};

/// One connection of a node or of a stranger who enrolls; the shell counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u64);

/// One admin request that waits for its answer; the shell counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// One proposal to the store; the controller counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// Who is at the other end of a channel, as its handshake proved.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The leaf certificate that signed the handshake.
    pub leaf: VerifiedLeaf,
    /// What the connection may be used for; the leaf may have ended on a renewal.
    pub purpose: Purpose,
    /// The TLS exporter of this connection under [`cardea_proto::EXPORTER_PROOF`].
    pub exporter: [u8; 32],
    /// Where it comes from.
    pub address: SocketAddr,
    /// Who knocked there before it came; nobody where there is no door.
    pub knockers: Vec<Knocker>,
}

/// The admin connection over which a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminSession {
    /// The nonce that the shell gave in its hello; every change must name it.
    pub nonce: Bytes<16>,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Input {
    /// A node has connected with a certificate that verified.
    Connected {
        /// Its channel.
        channel: ChannelId,
        /// Who it is.
        peer: Peer,
    },
    /// A stranger asks to enroll; the one message of its connection.
    Enroll {
        /// Its connection.
        channel: ChannelId,
        /// What it asks.
        request: Box<EnrollRequest>,
        /// The TLS exporter of this connection under [`cardea_proto::EXPORTER_PROOF`].
        exporter: [u8; 32],
        /// Where it comes from.
        address: SocketAddr,
    },
    /// Somebody has knocked and then proved nothing: its certificate does not hold. Its connection is
    /// over.
    Unproven {
        /// Where it came from.
        address: SocketAddr,
        /// Who knocked there before it came.
        knockers: Vec<Knocker>,
        /// What does not hold.
        why: String,
    },
    /// A message of a connected node.
    Message {
        /// Its channel.
        channel: ChannelId,
        /// The message.
        message: Heard,
    },
    /// Something was heard of a connected node, be it that it lives and no more.
    Heard {
        /// Its channel.
        channel: ChannelId,
    },
    /// A connection is gone, of a node or of a stranger.
    Disconnected {
        /// Its channel.
        channel: ChannelId,
    },
    /// An admin asks. What begins with `Audit`, and `Checkpoint`, never gets here: the shell
    /// answers it from the store.
    Admin {
        /// Names the answer.
        call: CallId,
        /// The connection.
        session: AdminSession,
        /// What is asked.
        request: AdminRequest,
        /// The policy folder in it, as [`Prepared::of`] makes it of the request.
        prepared: Option<Prepared>,
    },
    /// Nobody waits for this answer any longer; what was planned goes on.
    AdminGone {
        /// The call.
        call: CallId,
    },
    /// The store has an entry: in order, each once, whoever proposed it.
    Committed {
        /// The proposal of this controller that it came from.
        proposal: Option<ProposalId>,
        /// The entry.
        entry: Entry,
    },
    /// The store did not take a proposal.
    NotCommitted {
        /// Which.
        proposal: ProposalId,
        /// Why.
        why: CommitError,
    },
    /// The store answers a [`ProofRequest`].
    Proof {
        /// For which channel.
        channel: ChannelId,
        /// What its node knows.
        known: Option<Checkpoint>,
        /// The ledger as it is, when it goes on from there.
        result: Result<Checkpointed, Contradicted>,
    },
    /// Every entry that the store had at a moment was given. Only a controller that shares its store
    /// ([`crate::Settings::shared`]) must be told; about once a second is often enough.
    CaughtUp {
        /// When the store was asked: what was recorded later may be unknown here.
        asked: Instant,
    },
    /// What a [`crate::Watch`] found of a relay.
    Relay {
        /// Its place in [`crate::Settings::relays`].
        place: usize,
        /// Whether it does not answer.
        is_silent: bool,
    },
    /// [`crate::Controller::deadline`] has come; also the first input of all.
    Timeout,
}

/// A node wants to see that the ledger goes on from what it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofRequest {
    /// Its channel.
    pub channel: ChannelId,
    /// The last checkpoint that it accepted, which this ledger's key signed.
    pub known: Option<Checkpoint>,
}

/// The ledger does not contain what a checkpoint was signed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradicted {
    /// The latest checkpoint, a signed note that the node will not accept.
    pub note: String,
}

/// Why the store did not take a proposal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A record on which it rests has moved.
    #[error("a record on which the change rests has moved")]
    Conflict,
    /// There is no room; the store recovers when there is.
    #[error("the store is full")]
    Full,
    /// It could not be made durable.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// A set of changes that the store takes together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Names the outcome.
    pub id: ProposalId,
    /// The records on which it rests; `Revision(0)` for one that must not exist.
    pub expects: Vec<(RecordKey, Revision)>,
    /// What is to be recorded.
    pub draft: Draft,
}

/// What must follow from the inputs so far, in order within each queue. The shell owns and empties it.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Changes to who may knock, before anybody is told anything: a node may use its next seed as
    /// soon as it has it.
    pub door: VecDeque<DoorChange>,
    /// Messages to nodes.
    pub messages: VecDeque<(ChannelId, ToNode)>,
    /// Answers to strangers; the connection ends after its answer.
    pub enrollments: VecDeque<(ChannelId, EnrollAnswer)>,
    /// Channels to close once their messages are sent.
    pub close: VecDeque<ChannelId>,
    /// Proposals to the store.
    pub proposals: VecDeque<Proposal>,
    /// Proofs that nodes wait for.
    pub proofs: VecDeque<ProofRequest>,
    /// Answers to admins.
    pub answers: VecDeque<(CallId, AdminAnswer)>,
}
