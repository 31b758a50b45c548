//! What goes into an agent and what comes out of it.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use cardea_credential::{key::Signer, trust::Trust};
use cardea_ledger::checkpoint::Verifier;
use cardea_proto::{
    enroll::Certificate,
    id::{DeviceId, GrantId},
    local::{LocalAnswer, LocalRequest},
    message::ToNode,
    name::Name,
    refusal::Refusal,
};
use cardea_tunnel::Event;

use super::posture::Collected;
use crate::outbox::NodeOutbox;

/// What an agent is told once, at its start.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// The device.
    pub device: DeviceId,
    /// Its name.
    pub name: Name,
    /// Its user.
    pub user: Option<Name>,
    /// The trust domain.
    pub domain: Name,
    /// The domain's root.
    pub trust: Trust,
    /// The certificate to begin with.
    pub certificate: Certificate,
    /// The device's key.
    pub signer: Arc<dyn Signer>,
    /// Where controllers are, `HOST:PORT`, in the order in which they are tried.
    pub addresses: Vec<String>,
    /// Whether it carries packets of a network stack, and not flows alone.
    pub packets: bool,
    /// Version of the program.
    pub program: String,
    /// What checks the ledger's checkpoints.
    pub ledger: Verifier,
    /// The last checkpoint that was accepted, a signed note.
    pub checkpoint: Option<String>,
    /// Where its state lies, for a person who is to move it away.
    pub home: String,
}

/// One thing that happened.
#[derive(Debug)]
pub enum AgentInput {
    /// The channel that [`NodeOutbox::connect`] asked for is up.
    ChannelUp {
        /// What binds proofs to this channel.
        exporter: [u8; 32],
        /// Where it leads.
        address: String,
    },
    /// That channel goes on by another way, as a detour that was taken or left.
    ChannelRerouted {
        /// What its address is from here on.
        address: String,
    },
    /// The channel, or the attempt at one, is gone without our asking.
    ChannelDown {
        /// Why, in a few words.
        why: String,
    },
    /// A message from the controller.
    Message(ToNode),
    /// Somebody on this machine wants to reach an app; [`AgentOutbox::opened`] answers.
    Wanted {
        /// The app.
        app: Name,
    },
    /// What the data half has to say.
    Tunnel(Event),
    /// Where the data half may be reached directly, from now on.
    Addresses(Vec<SocketAddr>),
    /// The machine's network changed.
    Moved,
    /// All facts as they stand: those missing here are not known any longer.
    Facts {
        /// The facts.
        facts: Vec<Collected>,
        /// The latest [`AgentOutbox::collect`] that they were read after; 0 for none.
        number: u64,
    },
    /// A request at the local socket; [`AgentOutbox::answers`] answers under the same number.
    Local {
        /// Names this request in the answer.
        call: u64,
        /// The request.
        request: LocalRequest,
    },
    /// [`crate::Agent::deadline`] has come; also the very first input, which begins to connect.
    Timeout,
}

/// What must follow from a turn.
#[derive(Debug, Default)]
pub struct AgentOutbox {
    /// What both roles have.
    pub node: NodeOutbox,
    /// Collect all facts and hand them over, with this number, which grows.
    pub collect: Option<u64>,
    /// Programs whose running is a fact from now on.
    pub watch: Option<Vec<String>>,
    /// Answers to local requests.
    pub answers: VecDeque<(u64, LocalAnswer)>,
    /// Answers to `Wanted`: one for everybody who waits for that app.
    pub opened: VecDeque<(Name, Result<GrantId, Refusal>)>,
}
