//! What a shell must do for a node after a turn.

use std::collections::VecDeque;

use cardea_proto::{
    codec::{Blob, Secret32},
    enroll::{Certificate, Pass},
    message::{FromNode, Purpose},
    time::ClockOffset,
};
use cardea_tunnel::Command;

/// What must follow from a turn of either role. The shell flushes it in the order of the fields.
#[derive(Debug, Default)]
pub struct NodeOutbox {
    /// The node's next certificate, to be kept on disk.
    pub save: Option<Certificate>,
    /// The checkpoint of the ledger that the node accepted last, to be kept on disk.
    pub checkpoint: Option<String>,
    /// Where controllers are from now on, to be kept on disk.
    pub addresses: Option<Vec<String>>,
    /// For the data half, before anything is sent: an answer may promise what a command does.
    pub commands: VecDeque<Command>,
    /// For the channel that is up.
    pub messages: VecDeque<FromNode>,
    /// Drop the channel, or the attempt at one, after the messages. Nothing more of it may be
    /// handed to the node, not even its end.
    pub disconnect: bool,
    /// Set up a channel. There is none at that moment.
    pub connect: Option<Connect>,
}

/// A channel to set up, with the certificate of this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// `HOST:PORT`.
    pub address: String,
    /// Where its front may be, `HOST:PORT`, for when UDP does not pass.
    pub fronts: Vec<String>,
    /// What for, which its ALPN says: the certificate has ended when it is a renewal.
    pub purpose: Purpose,
    /// Leaf, then intermediate; DER.
    pub chain: Vec<Blob>,
    /// The seed of the knock that the controller answers.
    pub knock: Secret32,
    /// What opens fronts that are not beside the controller.
    pub pass: Option<Pass>,
    /// How far the controller's clock, by which a knock is timed, was from ours when it last said.
    pub clock: ClockOffset,
}
