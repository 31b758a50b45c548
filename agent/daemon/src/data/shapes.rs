//! What the sockets for relays and for direct paths may hear, by shape alone: the kernel drops the rest
//! before the data half is woken for it.
//!
//! What is sealed begins as WireGuard, QUIC or a frame about paths does. The kernel may have coalesced what
//! one sender sent: then the length is that of all, and tells no more than how short the first is not.

use cardea_host::sieve::{
    Sign::{self, AnyBit, AtLeast, Byte, NoBit, Word},
    Step, any_of,
};
use cardea_proto::{
    path::{PATH_FRAME, PATH_SEAL_BYTES, PROBE_BYTES},
    relay::{BOUND_BYTES, CHALLENGE_BYTES, DATA_HEADER_BYTES, FrameKind, SEEN_BYTES},
};

/// The three messages of WireGuard that an end hears, by their first four bytes, and how long they are;
/// cookies are never sent. Source: the WireGuard paper §5.4, where a datagram of data has 32 bytes at least.
const WIREGUARD: [(u32, usize); 3] = [(0x0100_0000, 148), (0x0200_0000, 92), (0x0400_0000, 32)];

/// Bits of the first byte of QUIC. Source: RFC 9000 §17.2, §17.3.
const FIXED_BIT: u8 = 0x40;
const LONG_HEADER: u8 = 0x80;

/// The one version of QUIC that is spoken. Source: RFC 9000 §15.
const VERSION: u32 = 1;

/// Fewest bytes of a packet of QUIC: its header, and a sample of 16 bytes which begins four bytes behind
/// where its number begins. Source: RFC 9001 §5.4.2.
const QUIC_BYTES: usize = 1 + 4 + 16;

/// Where what is sealed begins.
const SEALED: u32 = 8;
const _: () = assert!(DATA_HEADER_BYTES == 8);

const DATA: Sign = Byte(0, FrameKind::Data.byte());

/// A datagram of data with so many bytes sealed, or more.
const fn sealed(bytes: usize) -> Sign {
    AtLeast(DATA_HEADER_BYTES + bytes)
}

/// What comes to a direct path's socket: what the other end sealed, and where a relay has seen us.
pub(super) fn direct() -> Vec<Step> {
    let seen = [AtLeast(SEEN_BYTES), Byte(0, FrameKind::Seen.byte())];
    with_data(&[&seen])
}

/// What comes from a relay: what the other end sealed, or nothing sealed, and what a relay says itself.
pub(super) fn from_relay() -> Vec<Step> {
    let bound = [AtLeast(BOUND_BYTES), Byte(0, FrameKind::Bound.byte())];
    let challenge = [
        AtLeast(CHALLENGE_BYTES),
        Byte(0, FrameKind::Challenge.byte()),
    ];
    // "Say once more what you said first".
    let nudge = [sealed(1), DATA, Byte(SEALED, 0)];
    with_data(&[&bound, &challenge, &nudge])
}

/// These kinds, and data in which something is sealed.
fn with_data(others: &[&[Sign]]) -> Vec<Step> {
    let path = [
        sealed(PATH_SEAL_BYTES + PROBE_BYTES),
        DATA,
        Byte(SEALED, PATH_FRAME),
    ];
    let quic = [sealed(QUIC_BYTES), DATA, AnyBit(SEALED, FIXED_BIT)];
    let [short, long] = [
        [&quic[..], &[NoBit(SEALED, LONG_HEADER)]].concat(),
        [
            &quic[..],
            &[AnyBit(SEALED, LONG_HEADER), Word(SEALED + 1, VERSION)],
        ]
        .concat(),
    ];
    let wireguard = WIREGUARD.map(|(begin, bytes)| [sealed(bytes), DATA, Word(SEALED, begin)]);
    let [initiation, response, data] = &wireguard;
    any_of(
        &[
            &[&data[..], &short, initiation, response, &long, &path],
            others,
        ]
        .concat(),
    )
}

#[cfg(test)]
pub(super) mod tests;
