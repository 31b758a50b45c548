//! What a relay may hear, by shape alone: the kernel drops the rest before the relay is woken for it.
//!
//! Only a relay knows which handles are bound and which tickets are signed. The kernel may have coalesced
//! what an end sent: then the length is that of all, and tells no more than how short the first is not.

use cardea_host::sieve::{
    Sign::{self, AtLeast, Byte, NoBit},
    Step, any_of,
};
use cardea_proto::relay::{ASK_BYTES, BIND_BYTES, DATA_HEADER_BYTES, FrameKind, PROOF_BYTES};

/// Where a ticket behind the kind says its version, which is one, and its side, which is one of two.
/// [`cardea_proto::relay::Ticket::body`] writes them.
const VERSION: Sign = Byte(1, 1);
const SIDE: Sign = NoBit(18, !1);

pub(crate) fn shapes() -> Vec<Step> {
    let is = |kind: FrameKind| Byte(0, kind.byte());
    any_of(&[
        &[AtLeast(DATA_HEADER_BYTES + 1), is(FrameKind::Data)],
        &[AtLeast(BIND_BYTES), is(FrameKind::Bind), VERSION, SIDE],
        &[AtLeast(ASK_BYTES), is(FrameKind::Ask), VERSION, SIDE],
        &[AtLeast(PROOF_BYTES), is(FrameKind::Proof), VERSION, SIDE],
    ])
}

#[cfg(test)]
mod tests;
