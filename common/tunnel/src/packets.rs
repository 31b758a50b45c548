//! Inner packets for a local network stack, opened and checked, in one piece of memory.

use std::{fmt, ops::Range};

use cardea_proto::id::GrantId;

use crate::inner::packet::Packet;

/// Packets that wait for the shell to hand them on, the oldest first.
///
/// It is bounded: whoever finds no room drops. A shell empties it before there is less room than
/// one receive call fills.
#[derive(Default)]
pub struct Packets {
    /// None until there is a packet.
    bytes: Vec<u8>,
    taken: Vec<Taken>,
    /// Where the room begins.
    tail: usize,
    /// Behind the last packet that was kept.
    end: usize,
}

struct Taken {
    grant: GrantId,
    packet: Packet,
    at: Range<usize>,
}

impl Packets {
    /// Whether there is nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Whether less is free than a receive call may bring.
    #[must_use]
    pub const fn is_nearly_full(&self) -> bool {
        self.tail + NEARLY_FULL_BYTES > ROOM_BYTES
    }

    /// Lets `change` see each packet with the grant that it came under; those for which it is false go.
    pub fn retain(&mut self, mut change: impl FnMut(GrantId, &mut Packet, &mut [u8]) -> bool) {
        let bytes = &mut self.bytes;
        self.taken.retain_mut(|taken| {
            bytes
                .get_mut(taken.at.clone())
                .is_some_and(|bytes| change(taken.grant, &mut taken.packet, bytes))
        });
    }

    /// Each packet, with its headers.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Packet)> {
        self.taken
            .iter()
            .filter_map(|taken| Some((self.bytes.get(taken.at.clone())?, taken.packet)))
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.taken.clear();
        self.tail = 0;
        self.end = 0;
    }

    /// Forgets those of one grant.
    pub(crate) fn forget(&mut self, grant: GrantId) {
        self.taken.retain(|taken| taken.grant != grant);
    }

    /// The room behind the last packet.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = vec![0; ROOM_BYTES];
        }
        self.bytes.get_mut(self.tail..).unwrap_or_default()
    }

    /// What stands at `at` in the room.
    pub(crate) fn opened(&self, at: Range<usize>) -> Option<&[u8]> {
        self.bytes.get(self.tail + at.start..self.tail + at.end)
    }

    /// Keeps the packet at `at` in the room, which stays where it is until [`Packets::close_room`].
    pub(crate) fn keep(&mut self, grant: GrantId, packet: Packet, at: Range<usize>) {
        let at = self.tail + at.start..self.tail + at.end;
        self.end = self.end.max(at.end);
        self.taken.push(Taken { grant, packet, at });
    }

    /// Begins the room behind what was kept.
    pub(crate) const fn close_room(&mut self) {
        self.tail = self.end;
    }
}

impl fmt::Debug for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packets")
            .field("packets", &self.taken.len())
            .finish_non_exhaustive()
    }
}

/// Bytes of the longest inner packet that a network stack's end of a tunnel should send.
///
/// As long as those that flows are made into on a real path: see the carrier.
pub const PACKET_BYTES_MAX: usize = crate::wireguard::INNER_MTU;

/// Three buffers of a receive call, and what may have to be there for one more.
const ROOM_BYTES: usize = 512 * 1024;

/// The most that one buffer of a receive call brings, and as much for each packet that waits for
/// its last fragment.
const NEARLY_FULL_BYTES: usize = (1 + crate::wireguard::fragments::WAITING_MAX) * 64 * 1024;
