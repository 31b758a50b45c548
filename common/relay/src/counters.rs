//! What a relay did, in numbers.

use std::{collections::BTreeMap, fmt};

use crate::Verdict;

/// Why a relay sent nothing for a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Its first byte is none of ours, or it is empty.
    NotOurs,
    /// Data without anything sealed in it.
    Short,
    /// A bind or a proof of another length than it has.
    Malformed,
    /// A ticket that our controller did not sign.
    Forged,
    /// A ticket, or a binding, that has ended.
    Expired,
    /// A ticket whose handle or side another one holds.
    Conflict,
    /// No room for one more end.
    Full,
    /// No budget left to check tickets in this second, or none for this sender.
    Busy,
    /// Data under a handle that is not bound.
    Unbound,
    /// Data from another address than the one that is bound.
    WrongSource,
    /// The other end is not bound.
    PeerUnbound,
    /// More than an end may send.
    TooFast,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOurs => "not_ours",
            Self::Short => "short",
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::Expired => "expired",
            Self::Conflict => "conflict",
            Self::Full => "full",
            Self::Busy => "busy",
            Self::Unbound => "unbound",
            Self::WrongSource => "wrong_source",
            Self::PeerUnbound => "peer_unbound",
            Self::TooFast => "too_fast",
        })
    }
}

/// Sums since the relay began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that went to the other end.
    pub forwarded: u64,
    /// Their bytes, headers included.
    pub forwarded_bytes: u64,
    /// Binds and proofs of ends that are bound where they came from.
    pub bound: u64,
    /// Those that were asked to show that they receive there.
    pub challenged: u64,
    /// Ends that asked where they are and were told.
    pub asked: u64,
    /// Datagrams for which nothing was sent, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Counters {
    /// How many datagrams were dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(&reason).copied().unwrap_or(0)
    }

    pub(crate) fn count(&mut self, verdict: &Verdict, bytes: usize) {
        match verdict {
            Verdict::Forward { .. } => {
                self.forwarded += 1;
                self.forwarded_bytes += u64::try_from(bytes).unwrap_or(0);
            }
            // Whoever answers counts, because there are three answers.
            Verdict::Answer { .. } => {}
            Verdict::Drop(reason) => *self.dropped.entry(*reason).or_default() += 1,
        }
    }
}
