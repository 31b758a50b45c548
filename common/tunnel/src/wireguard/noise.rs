//! boringtun's `noise`, and nothing of it anywhere else.
//!
//! It is used as a sealer and opener alone: when to begin a handshake again is decided in
//! [`super::session`], on the clock we are given. boringtun itself reads the system's clocks, for the
//! timestamp in a handshake (which a responder requires to grow; keys are fresh for each grant, so
//! it guards against nothing else here) and to forget session keys after 180 s in [`Noise::tick`].
//! It draws its ephemeral keys from the system. It does not check inner addresses; our filter does.

use std::{fmt, sync::Arc};

use boringtun::{
    noise::{Tunn, TunnResult, rate_limiter::RateLimiter},
    x25519::{PublicKey, StaticSecret},
};
use cardea_proto::codec::{Bytes, Secret32};

/// The sealed side of one tunnel.
pub(crate) struct Noise(Tunn);

/// What a datagram turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened<'a> {
    /// An inner packet.
    Packet(&'a [u8]),
    /// A sign of life without a packet.
    KeepAlive,
    /// The peer begins a handshake; this answers it.
    Handshake {
        /// To be sent as it is.
        answer: &'a [u8],
    },
    /// The peer has answered our handshake; this lets it trust the new keys.
    Answered {
        /// To be sent as it is.
        confirm: &'a [u8],
    },
    /// Not from the peer, or not new.
    Nothing,
}

impl Noise {
    pub(crate) fn new(private: &Secret32, peer: Bytes<32>, psk: &Secret32, index: u32) -> Self {
        let private = StaticSecret::from(private.0);
        // Its own limit counts by the system's clock and answers with cookies that need addresses;
        // ours is in `session`.
        let limiter = RateLimiter::new(&PublicKey::from(&private), u64::MAX);
        Self(Tunn::new(
            private,
            PublicKey::from(peer.0),
            Some(psk.0),
            None,
            index,
            Some(Arc::new(limiter)),
        ))
    }

    /// Whether a datagram is a handshake's first message: the one that costs us most.
    pub(crate) fn is_handshake(sealed: &[u8]) -> bool {
        sealed.first() == Some(&KIND_INITIATION)
    }

    /// Opens a datagram into `room`, which must be no shorter and hold at least [`ROOM_MIN`] bytes.
    pub(crate) fn open<'a>(&mut self, sealed: &[u8], room: &'a mut [u8]) -> Opened<'a> {
        if sealed.is_empty() || room.len() < sealed.len().max(ROOM_MIN) {
            return Opened::Nothing;
        }
        let kind = sealed.first().copied();
        match self.0.decapsulate(None, sealed, room) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Opened::Packet(packet)
            }
            TunnResult::Done => Opened::KeepAlive,
            TunnResult::WriteToNetwork(answer) if kind == Some(KIND_INITIATION) => {
                Opened::Handshake { answer }
            }
            TunnResult::WriteToNetwork(confirm) => Opened::Answered { confirm },
            TunnResult::Err(_) => Opened::Nothing,
        }
    }

    /// Seals a packet, or an empty one as a sign of life; says how long it became.
    pub(crate) fn seal(&mut self, packet: &[u8], room: &mut [u8]) -> Option<usize> {
        if room.len() < room_for(packet.len()) {
            return None;
        }
        written(self.0.encapsulate(packet, room))
    }

    /// What was to be sealed while there were no keys.
    pub(crate) fn unsent(&mut self, room: &mut [u8]) -> Option<usize> {
        written(self.0.decapsulate(None, &[], room))
    }

    /// Begins a handshake, also while another waits for its answer.
    pub(crate) fn initiate(&mut self, room: &mut [u8]) -> Option<usize> {
        if room.len() < ROOM_MIN {
            return None;
        }
        written(self.0.format_handshake_initiation(room, true))
    }

    /// Forgets keys that are too old by the system's clock; what it would like to send may be sent.
    pub(crate) fn tick(&mut self, room: &mut [u8]) -> Option<usize> {
        written(self.0.update_timers(room))
    }
}

/// Room that sealing a packet of `len` bytes needs.
pub(crate) const fn room_for(len: usize) -> usize {
    let sealed = len + OVERHEAD_BYTES;
    if sealed < ROOM_MIN { ROOM_MIN } else { sealed }
}

impl fmt::Debug for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Noise(…)")
    }
}

fn written(result: TunnResult<'_>) -> Option<usize> {
    match result {
        TunnResult::WriteToNetwork(sealed) => Some(sealed.len()),
        TunnResult::Done
        | TunnResult::Err(_)
        | TunnResult::WriteToTunnelV4(..)
        | TunnResult::WriteToTunnelV6(..) => None,
    }
}

/// First byte of a handshake's first message. Source: the WireGuard paper, §5.4.2.
const KIND_INITIATION: u8 = 1;

/// What sealing adds: header (16) and tag (16). Source: the WireGuard paper, §5.4.6.
pub(crate) const OVERHEAD_BYTES: usize = 32;

/// The longest handshake message. Source: the WireGuard paper, §5.4.2.
pub(crate) const ROOM_MIN: usize = 148;
