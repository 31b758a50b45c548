//! DATAGRAM frames of a connection, for whatever may be lost: UDP payloads and inner packets.

use quinn_proto::{Connection, SendDatagramError};

use super::{
    config::DATAGRAM_BUFFER,
    wire::{self, PACKETS, PART_HEADER_BYTES, UdpName},
};
use crate::{
    context::Context,
    drops::DropReason,
    inner::{Mtu, Sink},
    link::Link,
    packets::PACKET_BYTES_MAX,
};

/// What sending needs.
pub(super) struct Datagrams<'a> {
    pub(super) connection: &'a mut Connection,
    /// Counts what was sent.
    pub(super) sent: &'a mut u16,
}

impl Datagrams<'_> {
    /// Queues a payload, in parts when the path is too narrow.
    pub(super) fn queue(&mut self, name: UdpName, payload: &[u8]) -> Result<(), DropReason> {
        *self.sent = self.sent.wrapping_add(1);
        let mut datagrams = self.connection.datagrams();
        let room = datagrams.max_size().ok_or(DropReason::NotOpen)?;
        let parts = wire::split(name, *self.sent, payload, room).ok_or(DropReason::TooLarge)?;
        for part in parts {
            datagrams.send(part, false).map_err(|error| match error {
                SendDatagramError::Blocked(_) => DropReason::QueueFull,
                SendDatagramError::TooLarge
                | SendDatagramError::Disabled
                | SendDatagramError::UnsupportedByPeer => DropReason::TooLarge,
            })?;
        }
        Ok(())
    }
}

impl Sink for Datagrams<'_> {
    fn send(&mut self, context: &mut Context<'_>, packet: &[u8]) {
        if let Err(reason) = self.queue(PACKETS, packet) {
            context.drop(reason);
        }
    }

    fn send_udp(&mut self, context: &mut Context<'_>, packet: &[u8]) {
        self.send(context, packet);
    }

    fn mtu(&self, _: &Link) -> usize {
        if usize::from(self.connection.current_mtu()) >= MTU.wide + OVERHEAD_BYTES_MAX {
            MTU.wide
        } else {
            MTU.narrow
        }
    }

    /// What waits here waits behind quinn's congestion window, and flows should see that of theirs.
    fn is_full(&mut self, _: &Context<'_>) -> bool {
        let free = self.connection.datagrams().send_buffer_space();
        DATAGRAM_BUFFER.saturating_sub(free) >= WAITING_BYTES_MAX
    }
}

/// What the packets of flows have for a length, so that each is one DATAGRAM.
pub(super) const MTU: Mtu = Mtu {
    wide: PACKET_BYTES_MAX,
    narrow: QUIC_BYTES_MIN - OVERHEAD_BYTES_MAX,
};

/// Bytes of a QUIC packet that every path carries. Source: RFC 9000 §14.
const QUIC_BYTES_MIN: usize = 1_200;

/// Bytes of a QUIC packet around an inner one: a short header with our 8-byte connection ids and
/// a packet number of 4 (RFC 9000 §17.3.1), the tag of 16, a DATAGRAM's head (RFC 9221 §4), which
/// quinn takes for 9, and a part's.
const OVERHEAD_BYTES_MAX: usize = 1 + 8 + 4 + 16 + 9 + PART_HEADER_BYTES;

/// Bytes that may wait before flows hold back: with the turn of one flow still less than a GSO batch
/// or two, so that a small packet behind them waits for little.
const WAITING_BYTES_MAX: usize = 64 * 1024;
