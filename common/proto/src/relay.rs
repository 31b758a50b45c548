//! What travels between a node and a relay: tickets, and the eight bytes before a sealed datagram.
//!
//! A datagram begins with one byte of [`FrameKind`]. `Bind` carries a signed [`Ticket`] and nothing
//! else; `Bound` answers it with the ticket's handle; `Data` carries the sender's own handle, which
//! the relay replaces by the receiver's. A relay sees the random tunnel id in the ticket and nothing else.

use std::fmt;

use crate::{codec::Bytes, time::UnixMillis};

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
}

impl FrameKind {
    /// The byte on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Bind => 0x30,
            Self::Bound => 0x31,
            Self::Data => 0x32,
        }
    }

    /// The kind of a byte, if it is one of ours.
    #[must_use]
    pub const fn of(byte: u8) -> Option<Self> {
        match byte {
            0x30 => Some(Self::Bind),
            0x31 => Some(Self::Bound),
            0x32 => Some(Self::Data),
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
    fn a_bound_names_its_handle_and_has_one_length() {
        let handle = Handle([1, 2, 3, 4, 5, 6, 7]);
        let bound = handle.bound();
        assert_eq!(Handle::of_bound(&bound), Some(handle));
        assert_eq!(Handle::split_data(&bound), None);
        assert_eq!(Handle::of_bound(&bound[1..]), None);
        assert_eq!(Handle::of_bound(&[&bound[..], &[0]].concat()), None);
    }
}
