//! The header before each packet of a TUN with `IFF_VNET_HDR`.
//!
//! Source: virtio 1.2 §5.1.6, `struct virtio_net_hdr`; Linux' TUN writes it in the machine's own order.

use crate::drops::DropReason;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 10;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) parts: Parts,
    pub(super) sum: Sum,
}

/// Whether a packet stands for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    One,
    Tcp { size: usize, v6: bool },
    Udp { size: usize },
}

/// How far the checksum above IP has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sum {
    /// It stands in the packet, and nobody has looked at it.
    Made,
    /// It stands in the packet, and the kernel has found it right.
    Checked,
    /// The sum over the pseudo header stands where the checksum belongs.
    Partial { start: usize, offset: usize },
}

impl Header {
    pub(super) fn read(header: &[u8; HEADER_BYTES]) -> Result<Self, DropReason> {
        let [flags, kind, _, _, g0, g1, s0, s1, o0, o1] = *header;
        let word = |a, b| usize::from(u16::from_ne_bytes([a, b]));
        let size = word(g0, g1);
        let parts = match kind & !KIND_ECN {
            KIND_NONE => Parts::One,
            KIND_TCP4 => Parts::Tcp { size, v6: false },
            KIND_TCP6 => Parts::Tcp { size, v6: true },
            KIND_UDP_PARTS => Parts::Udp { size },
            _ => return Err(DropReason::WrongOffload),
        };
        let sum = match flags {
            0 => Sum::Made,
            FLAG_VALID => Sum::Checked,
            flags if flags & FLAG_PARTIAL != 0 => Sum::Partial {
                start: word(s0, s1),
                offset: word(o0, o1),
            },
            _ => return Err(DropReason::WrongOffload),
        };
        Ok(Self { parts, sum })
    }

    /// The header of a packet whose headers are `head_len` long.
    pub(super) fn write(self, head_len: usize) -> [u8; HEADER_BYTES] {
        let word = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_ne_bytes();
        let (kind, size) = match self.parts {
            Parts::One => (KIND_NONE, 0),
            Parts::Tcp { size, v6: false } => (KIND_TCP4, size),
            Parts::Tcp { size, v6: true } => (KIND_TCP6, size),
            Parts::Udp { size } => (KIND_UDP_PARTS, size),
        };
        let (flags, start, offset) = match self.sum {
            Sum::Made => (0, 0, 0),
            Sum::Checked => (FLAG_VALID, 0, 0),
            Sum::Partial { start, offset } => (FLAG_PARTIAL, start, offset),
        };
        let head_len = if self.parts == Parts::One {
            0
        } else {
            head_len
        };
        let ([h0, h1], [g0, g1]) = (word(head_len), word(size));
        let ([s0, s1], [o0, o1]) = (word(start), word(offset));
        [flags, kind, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

const FLAG_PARTIAL: u8 = 1;
const FLAG_VALID: u8 = 2;
const KIND_NONE: u8 = 0;
const KIND_TCP4: u8 = 1;
const KIND_TCP6: u8 = 4;
const KIND_UDP_PARTS: u8 = 5;
/// TCP with congestion notification: says nothing that the packet does not.
const KIND_ECN: u8 = 0x80;
