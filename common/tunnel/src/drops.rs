//! Why packets are not forwarded, and how often that happened.

use std::collections::BTreeMap;

/// Why something was dropped. Every drop has one of these, and is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// A datagram of the relay's socket from an address that is not the tunnel's relay.
    NotFromRelay,
    /// A datagram that is neither `Bound` nor `Data`, or too short.
    NotAFrame,
    /// A datagram for a handle that no tunnel has.
    UnknownTunnel,
    /// A datagram that does not open with the tunnel's keys.
    NotAuthentic,
    /// More handshakes in a second than a peer needs.
    HandshakeFlood,
    /// An inner packet that is not well-formed IP, UDP or TCP.
    Malformed,
    /// An inner packet in fragments.
    Fragmented,
    /// An inner packet with options of IPv4, which may lead it elsewhere than its header says.
    Options,
    /// An inner packet of another protocol than UDP and TCP, and no echo.
    WrongProtocol,
    /// A packet of the local network stack whose offload header does not fit it.
    WrongOffload,
    /// A packet of the local network stack on a port that a flow of ours has.
    PortTaken,
    /// A packet for a tunnel that is not open.
    NotOpen,
    /// An inner packet that does not come from the granted address.
    SpoofedSource,
    /// An inner packet to an address that is not the app's.
    WrongDestination,
    /// A flow to a port that the app does not have.
    WrongService,
    /// An inner packet of no known flow that may not begin one.
    UnknownFlow,
    /// More flows than one tunnel may have.
    FlowLimit,
    /// A payload longer than the path carries.
    TooLarge,
    /// A UDP payload while the queue of its flow or tunnel is full.
    QueueFull,
    /// An address that a connector never dials.
    NotPermitted,
}

/// Counts of what was dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops(BTreeMap<DropReason, u64>);

impl Drops {
    /// How often this happened.
    #[must_use]
    pub fn count(&self, reason: DropReason) -> u64 {
        self.0.get(&reason).copied().unwrap_or(0)
    }

    /// Every reason that happened, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        self.0.iter().map(|(reason, count)| (*reason, *count))
    }

    /// Everything that was dropped.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Counts one drop.
    pub fn note(&mut self, reason: DropReason) {
        tracing::trace!(?reason, "dropped");
        let count = self.0.entry(reason).or_default();
        *count = count.saturating_add(1);
    }
}
