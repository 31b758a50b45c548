//! What a node said, with what is signed in it already checked.
//!
//! Checking a signature takes longer than all else that a request costs, and needs nothing that the
//! controller knows but its root. So whoever reads a channel does it, many of them at once, and the
//! controller is given what came of it; that the signer is the node that it is on record, and that
//! the statement is about this request, is still for the controller to say.

use cardea_credential::{
    signed::{StatementError, verify_answer, verify_offer},
    trust::{Trust, VerifiedLeaf},
};
use cardea_proto::{
    access::{Answer, Offer},
    message::FromNode,
    time::UnixMillis,
};

/// A message of a node. Only [`Heard::new`] makes one, so every statement in one was checked.
#[derive(Debug)]
pub struct Heard {
    message: FromNode,
    statement: Statement,
}

/// What came of checking the statement in a message.
#[derive(Debug)]
pub(crate) enum Statement {
    /// The message carries none.
    None,
    /// A device's offer.
    Offer(Result<(Offer, VerifiedLeaf), StatementError>),
    /// A connector's answer.
    Answer(Result<(Answer, VerifiedLeaf), StatementError>),
}

impl Heard {
    /// Checks what is signed in a message, at the time at which it came.
    #[must_use]
    pub fn new(message: FromNode, trust: &Trust, at: UnixMillis) -> Self {
        let statement = match &message {
            FromNode::Request { offer, .. } => Statement::Offer(verify_offer(offer, trust, at)),
            FromNode::Admitted { answer, .. } => {
                Statement::Answer(verify_answer(answer, trust, at))
            }
            FromNode::Hello(_)
            | FromNode::Report(_)
            | FromNode::Renew { .. }
            | FromNode::Explain { .. }
            | FromNode::NotAdmitted { .. }
            | FromNode::Closed { .. }
            | FromNode::Usage(_) => Statement::None,
        };
        Self { message, statement }
    }

    pub(crate) fn into_parts(self) -> (FromNode, Statement) {
        (self.message, self.statement)
    }
}
