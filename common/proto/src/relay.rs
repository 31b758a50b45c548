//! What travels between a node and a relay: tickets, and the eight bytes before a sealed datagram.
//!
//! ```text
//! node                                  relay
//!   Bind   ticket               ──▶     signed, but nobody has answered from this address yet
//!          ◀──  Challenge  handle, cookie
//!   Proof  ticket, cookie       ──▶     the cookie went to where this comes from: bound there
//!          ◀──  Bound      handle
//!   Data   own handle, sealed   ──▶     Data  the other end's handle, sealed  ──▶ the other end
//!   Bind   ticket               ──▶     every 20 s, from where it is bound
//!          ◀──  Bound      handle
//!   Ask    ticket               ──▶     from the socket for direct paths; nothing is bound
//!          ◀──  Seen       handle, address from which it came
//! ```
//!
//! A datagram begins with one byte of [`FrameKind`]. A relay sees the random tunnel id in the
//! [`Ticket`] and nothing else.

use std::{fmt, net::SocketAddr};

use crate::{
    codec::Bytes,
    path::{ADDRESS_BYTES, address_bytes, address_of},
    time::UnixMillis,
};

/// Bytes before the sealed part of a `Data` datagram: kind (1) and handle (7).
pub const DATA_HEADER_BYTES: usize = 8;

/// Bytes of a ticket before its signature.
pub const TICKET_BODY_BYTES: usize = 1 + 16 + 1 + 7 + 8;

/// Bytes of a ticket with its Ed25519 signature (RFC 8032).
pub const TICKET_BYTES: usize = TICKET_BODY_BYTES + 64;

/// Bytes of a `Bind` datagram: kind and ticket.
pub const BIND_BYTES: usize = 1 + TICKET_BYTES;

/// Bytes of a `Bound` datagram: kind (1) and handle (7).
pub const BOUND_BYTES: usize = DATA_HEADER_BYTES;

/// Bytes of a cookie: an HMAC-SHA256 tag (RFC 2104), whole.
pub const COOKIE_BYTES: usize = 32;

/// Bytes of a `Challenge` datagram: kind (1), handle (7) and cookie; fewer than a `Bind` has.
///
/// Source: RFC 9000 §8 bounds what is sent to an address that has not been validated; here the
/// bound is what came from it.
pub const CHALLENGE_BYTES: usize = DATA_HEADER_BYTES + COOKIE_BYTES;

/// Bytes of a `Proof` datagram: kind, ticket and cookie.
pub const PROOF_BYTES: usize = BIND_BYTES + COOKIE_BYTES;

/// Bytes of an `Ask` datagram: kind and ticket.
pub const ASK_BYTES: usize = 1 + TICKET_BYTES;

/// Bytes of a `Seen` datagram: kind (1), handle (7) and address; fewer than an `Ask` has.
pub const SEEN_BYTES: usize = DATA_HEADER_BYTES + ADDRESS_BYTES;

/// Context that the ticket's signature also covers, so that it can be taken for nothing else.
pub const TICKET_CONTEXT: &[u8] = b"cardea relay ticket v1\0";

/// First byte of a datagram between a node and a relay.
///
/// The values avoid WireGuard's message types and the first bytes of QUIC packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Node to relay: the ticket for this socket.
    Bind,
    /// Relay to node: the ticket was accepted.
    Bound,
    /// Either way: a sealed datagram.
    Data,
    /// Relay to node: show that you receive at this address.
    Challenge,
    /// Node to relay: the ticket for this socket, and the cookie that was received on it.
    Proof,
    /// Node to relay: where does this come from, who has this ticket?
    Ask,
    /// Relay to node: the address from which an `Ask` came.
    Seen,
}

impl FrameKind {
    /// The byte on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Bind => 0x30,
            Self::Bound => 0x31,
            Self::Data => 0x32,
            Self::Challenge => 0x33,
            Self::Proof => 0x34,
            Self::Ask => 0x36,
            Self::Seen => 0x37,
        }
    }

    /// The kind of a byte, if it is one of ours.
    #[must_use]
    pub const fn of(byte: u8) -> Option<Self> {
        match byte {
            0x30 => Some(Self::Bind),
            0x31 => Some(Self::Bound),
            0x32 => Some(Self::Data),
            0x33 => Some(Self::Challenge),
            0x34 => Some(Self::Proof),
            0x36 => Some(Self::Ask),
            0x37 => Some(Self::Seen),
            _ => None,
        }
    }
}

/// Names one end of one tunnel at the relay: 56 random bits, chosen by the controller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle([u8; 7]);

impl Handle {
    /// A handle of random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 7]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 7] {
        self.0
    }

    /// The header of a `Data` datagram with this handle.
    #[must_use]
    pub const fn data_header(self) -> [u8; DATA_HEADER_BYTES] {
        self.after(FrameKind::Data)
    }

    /// The whole `Bound` datagram that answers a ticket with this handle.
    #[must_use]
    pub const fn bound(self) -> [u8; BOUND_BYTES] {
        self.after(FrameKind::Bound)
    }

    /// The handle that a `Bound` datagram confirms; `None` when it is no such datagram.
    #[must_use]
    pub fn of_bound(datagram: &[u8]) -> Option<Self> {
        let [kind, a, b, c, d, e, f, g] = *<&[u8; BOUND_BYTES]>::try_from(datagram).ok()?;
        (kind == FrameKind::Bound.byte()).then_some(Self([a, b, c, d, e, f, g]))
    }

    /// The whole `Challenge` datagram for a ticket with this handle.
    #[must_use]
    pub fn challenge(self, cookie: &Cookie) -> [u8; CHALLENGE_BYTES] {
        let mut challenge = [0; CHALLENGE_BYTES];
        if let Some((header, rest)) = challenge.split_first_chunk_mut::<DATA_HEADER_BYTES>() {
            *header = self.after(FrameKind::Challenge);
            rest.copy_from_slice(&cookie.0);
        }
        challenge
    }

    /// The handle and the cookie of a `Challenge` datagram; `None` when it is no such datagram.
    #[must_use]
    pub fn of_challenge(datagram: &[u8]) -> Option<(Self, Cookie)> {
        let datagram = <&[u8; CHALLENGE_BYTES]>::try_from(datagram).ok()?;
        let (header, cookie) = datagram.split_first_chunk::<DATA_HEADER_BYTES>()?;
        let [kind, a, b, c, d, e, f, g] = *header;
        let cookie = Cookie(cookie.try_into().ok()?);
        (kind == FrameKind::Challenge.byte()).then_some((Self([a, b, c, d, e, f, g]), cookie))
    }

    /// The whole `Seen` datagram for an end with this handle.
    #[must_use]
    pub fn seen(self, from: SocketAddr) -> [u8; SEEN_BYTES] {
        let mut seen = [0; SEEN_BYTES];
        if let Some((header, rest)) = seen.split_first_chunk_mut::<DATA_HEADER_BYTES>() {
            *header = self.after(FrameKind::Seen);
            rest.copy_from_slice(&address_bytes(from));
        }
        seen
    }

    /// The handle and the address of a `Seen` datagram; `None` when it is no such datagram.
    #[must_use]
    pub fn of_seen(datagram: &[u8]) -> Option<(Self, SocketAddr)> {
        let datagram = <&[u8; SEEN_BYTES]>::try_from(datagram).ok()?;
        let (header, address) = datagram.split_first_chunk::<DATA_HEADER_BYTES>()?;
        let [kind, a, b, c, d, e, f, g] = *header;
        let address = address_of(address.first_chunk()?);
        (kind == FrameKind::Seen.byte()).then_some((Self([a, b, c, d, e, f, g]), address))
    }

    /// The handle of a `Data` datagram and its sealed part; `None` when it is no such datagram.
    #[must_use]
    pub fn split_data(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (header, sealed) = datagram.split_first_chunk::<DATA_HEADER_BYTES>()?;
        let [kind, a, b, c, d, e, f, g] = *header;
        (kind == FrameKind::Data.byte()).then_some((Self([a, b, c, d, e, f, g]), sealed))
    }

    const fn after(self, kind: FrameKind) -> [u8; DATA_HEADER_BYTES] {
        let [a, b, c, d, e, f, g] = self.0;
        [kind.byte(), a, b, c, d, e, f, g]
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What a relay sent to an address, for nobody but it to read; a node gives it back as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie(pub [u8; COOKIE_BYTES]);

impl Cookie {
    /// The whole `Proof` datagram with which a node gives the cookie back.
    #[must_use]
    pub fn proof(&self, ticket: &[u8; TICKET_BYTES]) -> [u8; PROOF_BYTES] {
        let mut proof = [0; PROOF_BYTES];
        let (kind, rest) = proof.split_at_mut(1);
        let (place, cookie) = rest.split_at_mut(TICKET_BYTES);
        kind.copy_from_slice(&[FrameKind::Proof.byte()]);
        place.copy_from_slice(ticket);
        cookie.copy_from_slice(&self.0);
        proof
    }

    /// The ticket and the cookie of a `Proof` datagram; `None` when it is no such datagram.
    #[must_use]
    pub fn of_proof(datagram: &[u8]) -> Option<(&[u8; TICKET_BYTES], Self)> {
        let datagram = <&[u8; PROOF_BYTES]>::try_from(datagram).ok()?;
        let (kind, rest) = datagram.split_first()?;
        let (ticket, cookie) = rest.split_first_chunk::<TICKET_BYTES>()?;
        let cookie = Self(cookie.try_into().ok()?);
        (*kind == FrameKind::Proof.byte()).then_some((ticket, cookie))
    }
}

/// Which end of a tunnel a ticket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The agent's.
    Agent,
    /// The connector's.
    Connector,
}

/// What a relay needs to know before it forwards: signed by the controller, worth nothing elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Random; the same at both ends.
    pub tunnel: Bytes<16>,
    /// Which end.
    pub side: Side,
    /// This end's handle.
    pub handle: Handle,
    /// When the relay forgets it.
    pub not_after: UnixMillis,
}

impl Ticket {
    /// The bytes that are signed, without [`TICKET_CONTEXT`].
    #[must_use]
    pub fn body(&self) -> [u8; TICKET_BODY_BYTES] {
        let mut body = [0; TICKET_BODY_BYTES];
        let (version, rest) = body.split_at_mut(1);
        let (tunnel, rest) = rest.split_at_mut(16);
        let (side, rest) = rest.split_at_mut(1);
        let (handle, not_after) = rest.split_at_mut(7);
        version.copy_from_slice(&[1]);
        tunnel.copy_from_slice(&self.tunnel.0);
        side.copy_from_slice(&[match self.side {
            Side::Agent => 0,
            Side::Connector => 1,
        }]);
        handle.copy_from_slice(&self.handle.0);
        not_after.copy_from_slice(&self.not_after.0.to_be_bytes());
        body
    }

    /// Reads the body of a ticket; says nothing about its signature.
    #[must_use]
    pub fn from_body(body: &[u8; TICKET_BODY_BYTES]) -> Option<Self> {
        let (version, rest) = body.split_first_chunk::<1>()?;
        let (tunnel, rest) = rest.split_first_chunk::<16>()?;
        let (side, rest) = rest.split_first_chunk::<1>()?;
        let (handle, rest) = rest.split_first_chunk::<7>()?;
        let not_after = rest.first_chunk::<8>()?;
        let side = match side {
            [0] => Side::Agent,
            [1] => Side::Connector,
            _ => return None,
        };
        (*version == [1]).then_some(Self {
            tunnel: Bytes(*tunnel),
            side,
            handle: Handle(*handle),
            not_after: UnixMillis(u64::from_be_bytes(*not_after)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_reads_back_as_itself() {
        let ticket = Ticket {
            tunnel: Bytes([3; 16]),
            side: Side::Connector,
            handle: Handle([9; 7]),
            not_after: UnixMillis(1_234_567),
        };
        assert_eq!(Ticket::from_body(&ticket.body()), Some(ticket));
    }

    #[test]
    fn a_data_header_is_found_again_and_short_datagrams_are_not_data() {
        let handle = Handle([1, 2, 3, 4, 5, 6, 7]);
        let mut datagram = handle.data_header().to_vec();
        assert_eq!(Handle::split_data(&datagram), Some((handle, &[][..])));
        assert_eq!(Handle::of_bound(&datagram), None);
        datagram.pop();
        assert_eq!(Handle::split_data(&datagram), None);
    }

    #[test]
    fn a_challenge_and_its_proof_read_back_and_have_one_length_each() {
        let (handle, cookie) = (Handle([1, 2, 3, 4, 5, 6, 7]), Cookie([8; COOKIE_BYTES]));
        let challenge = handle.challenge(&cookie);
        assert_eq!(Handle::of_challenge(&challenge), Some((handle, cookie)));
        assert!(challenge.len() <= BIND_BYTES, "no more than was asked with");
        let ticket = [9; TICKET_BYTES];
        let proof = cookie.proof(&ticket);
        assert_eq!(Cookie::of_proof(&proof), Some((&ticket, cookie)));
        for wrong in [&challenge[1..], &[&challenge[..], &[0]].concat(), &proof] {
            assert_eq!(Handle::of_challenge(wrong), None);
        }
        for wrong in [&proof[1..], &[&proof[..], &[0]].concat(), &challenge] {
            assert_eq!(Cookie::of_proof(wrong), None);
        }
        assert_eq!(Handle::split_data(&challenge), None);
        assert_eq!(Handle::of_bound(&challenge[..BOUND_BYTES]), None);
    }

    #[test]
    fn an_end_learns_where_it_was_seen_with_fewer_bytes_than_it_asked_with() {
        let handle = Handle([1, 2, 3, 4, 5, 6, 7]);
        for from in ["192.0.2.7:4711", "[2001:db8::7]:1"] {
            let from = from.parse().unwrap();
            let seen = handle.seen(from);
            assert_eq!(Handle::of_seen(&seen), Some((handle, from)));
            assert!(seen.len() < ASK_BYTES);
            assert_eq!(Handle::of_seen(&seen[1..]), None);
            assert_eq!(Handle::split_data(&seen), None);
        }
    }

    #[test]
    fn a_bound_names_its_handle_and_has_one_length() {
        let handle = Handle([1, 2, 3, 4, 5, 6, 7]);
        let bound = handle.bound();
        assert_eq!(Handle::of_bound(&bound), Some(handle));
        assert_eq!(Handle::split_data(&bound), None);
        assert_eq!(Handle::of_bound(&bound[1..]), None);
        assert_eq!(Handle::of_bound(&[&bound[..], &[0]].concat()), None);
    }
}
