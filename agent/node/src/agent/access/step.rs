//! What can happen to the access to an app, and what must follow.

use std::time::Instant;

use cardea_proto::{
    app::Carrier,
    id::{ConnectorId, GrantId},
    ledger::EndReason,
    refusal::Refusal,
};

/// A grant in this agent's hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) struct Held {
    /// The grant.
    pub(in crate::agent) grant: GrantId,
    /// The other end.
    pub(in crate::agent) connector: ConnectorId,
    /// The carrier.
    pub(in crate::agent) carrier: Carrier,
    /// When its ttl ends.
    pub(in crate::agent) until: Instant,
}

/// The channel, as somebody sees it who wants an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Way {
    /// A request can be sent, under this number.
    Ready(u64),
    /// It is being set up.
    Soon,
    /// There is none, and why.
    Closed(Refusal),
}

/// What can happen to an [`Access`](super::Access).
#[derive(Clone, Debug)]
pub(in crate::agent) enum Step {
    /// Somebody wants to reach the app.
    Wanted(Way),
    /// The channel is ready; this is the number of the next request.
    Ready(u64),
    /// The channel is gone; another is being set up.
    Lost,
    /// No controller can be reached.
    NoWay(Refusal),
    /// The controller granted it, and the answer holds.
    Granted(Held),
    /// The controller refused, or its answer does not hold.
    Denied(Refusal),
    /// The tunnel passes bytes.
    Opened(GrantId),
    /// The tunnel ended by itself.
    TunnelClosed(GrantId, Refusal),
    /// Nothing comes through its tunnel, which is not waited for.
    GivenUp(GrantId, Refusal),
    /// The controller took the grant back.
    Withdrawn(GrantId, EndReason, Refusal),
    /// The controller gave it more life.
    Extended(GrantId, Instant),
    /// The controller says that the app may be opened.
    Cleared,
    /// The device's posture passes.
    Mended,
    /// The device's posture does not pass, for this reason.
    Failing(Refusal),
    /// The person disconnects.
    Cut(Refusal),
    /// The state's own deadline has passed.
    Due,
}

/// What must follow from a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Effect {
    /// Make an offer and send it as this request.
    Ask(u64),
    /// Install the tunnel of the grant that was just verified.
    Install,
    /// Tell the tunnel of its new ttl.
    Extend(GrantId),
    /// Remove the tunnel, in this same turn.
    Remove(GrantId),
    /// Tell the controller that the grant is not needed.
    Tell(GrantId),
    /// Answer those who wait.
    Answer(Result<GrantId, Refusal>),
}
