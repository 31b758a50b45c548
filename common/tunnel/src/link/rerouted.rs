//! What a carrier must know of a change of its way.

/// Which way datagrams go, now that the one before carried nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rerouted {
    /// One of which nothing is known.
    ByAnotherWay,
    /// By another relay to the same end at the same place: in all that counts it is as it was.
    ByAnotherRelay,
}
