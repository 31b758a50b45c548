//! From an inner packet to a sealed datagram in the outbox.

use cardea_aead::Sealing;

use crate::{
    bundle::Bundle,
    context::Context,
    inner::{Mtu, Sink},
    link::Link,
    outbox::{Piece, Room},
    wireguard::{
        fragments::Fragments,
        noise::{self, Noise},
        session::Session,
    },
};

/// Largest inner packet, in bytes.
///
/// With the seal (32), the relay's header (8), UDP (8) and IPv6 (40) it makes 1,488 of Ethernet's 1,500.
pub(crate) const INNER_MTU: usize = 1_400;

/// The same when the relay is on this machine: three of them fill the largest GSO batch.
const INNER_MTU_LOCAL: usize = 21_700;

/// The same where no larger datagram has come through: with all of that it makes 1,268, and every
/// network carries 1,280. Source: RFC 8200 §5.
pub(crate) const INNER_MTU_MIN: usize = 1_180;

/// Bytes of the datagram that [`INNER_MTU`] makes.
pub(crate) const FULL_DATAGRAM_BYTES: usize =
    cardea_proto::relay::DATA_HEADER_BYTES + noise::OVERHEAD_BYTES + INNER_MTU;

/// What the packets of flows have for a length.
pub(crate) const fn mtu(link: &Link) -> Mtu {
    Mtu {
        wide: if link.is_local() {
            INNER_MTU_LOCAL
        } else {
            INNER_MTU
        },
        narrow: INNER_MTU_MIN,
    }
}

/// Whether the largest packets are known to come through.
pub(crate) fn is_wide(link: &Link) -> bool {
    link.is_local() || link.carries(FULL_DATAGRAM_BYTES)
}

/// What sealing needs.
pub(crate) struct Seal<'a> {
    pub(crate) noise: &'a mut Noise,
    pub(crate) session: &'a mut Session,
    pub(crate) fragments: &'a mut Fragments,
}

impl Sink for Seal<'_> {
    fn send(&mut self, context: &mut Context<'_>, packet: &[u8]) {
        let mut sealer = Sealer {
            noise: self.noise,
            session: self.session,
            context,
        };
        sealer.send(packet);
    }

    fn send_udp(&mut self, context: &mut Context<'_>, packet: &[u8]) {
        let mtu = self.mtu(context.link);
        let mut sealer = Sealer {
            noise: self.noise,
            session: self.session,
            context,
        };
        if packet.len() <= mtu {
            sealer.send(packet);
        } else {
            self.fragments
                .cut(packet, mtu, |fragment| sealer.send(fragment));
        }
    }

    fn mtu(&self, link: &Link) -> usize {
        let mtu = mtu(link);
        if is_wide(link) { mtu.wide } else { mtu.narrow }
    }

    fn is_full(&mut self, context: &Context<'_>) -> bool {
        context.is_full()
    }
}

/// Everything that sealing a packet touches.
pub(crate) struct Sealer<'a, 'b> {
    pub(crate) noise: &'a mut Noise,
    pub(crate) session: &'a mut Session,
    pub(crate) context: &'a mut Context<'b>,
}

impl Sealer<'_, '_> {
    /// Seals one packet, or none as a sign of life, and appends it to the outbox.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        self.send_written(packet.len(), |room| {
            room.get_mut(..packet.len())?.copy_from_slice(packet);
            Some(packet.len())
        });
    }

    /// Seals the packet of `len` bytes that `write` puts where it will be sent from.
    pub(crate) fn send_written(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        let now = self.context.now.instant;
        if len > 0 {
            self.session.sent_packet(now);
        }
        self.send_with(noise::room_for(len), |noise, room| {
            let len = write(room.get_mut(noise::HEADER_BYTES..)?)?;
            noise.seal(now, len, room)
        });
    }

    /// Seals the packets that a bundle stands for, all of them together where they go out at once.
    pub(crate) fn send_bundle(&mut self, bundle: &Bundle<'_>) {
        let count = bundle.count();
        // What a relay does not take yet is kept elsewhere, in whole datagrams.
        if count == 1 || !self.context.link.is_ready() {
            for index in 0..count {
                self.send_written(bundle.part_len(index), |room| {
                    bundle.write_part(index, room)
                });
            }
            return;
        }
        let before = self.context.out.transmits.len();
        let mut unsealed = Vec::with_capacity(count);
        for index in 0..count {
            let mut numbered = None;
            let now = self.context.now.instant;
            self.session.sent_packet(now);
            self.send_with(noise::room_for(bundle.part_len(index)), |noise, room| {
                let len = bundle.write_part(index, room.get_mut(noise::HEADER_BYTES..)?)?;
                let (number, total) = noise.number(now, len, room)?;
                numbered = Some((number, total - noise::HEADER_BYTES));
                Some(total)
            });
            let Some((number, len)) = numbered else {
                continue;
            };
            unsealed.push((number, self.context.out.last(len)));
        }
        if !unsealed.is_empty() && self.seal_all(&unsealed).is_none() {
            // Nothing may leave as it is, not even if all of this is wrong: with what it had joined.
            let transmits = &mut self.context.out.transmits;
            transmits.truncate(before.saturating_sub(1));
        }
    }

    /// Seals what stands in the outbox; `None` when any of it is not there, or there is no key.
    fn seal_all(&mut self, unsealed: &[(u64, Option<Piece>)]) -> Option<()> {
        let pieces = unsealed.iter().map(|(_, piece)| *piece);
        let pieces = self.context.out.pieces(pieces)?;
        let numbers = unsealed.iter().map(|(number, _)| *number);
        let jobs = pieces.into_iter().zip(numbers);
        let mut jobs: Vec<_> = jobs
            .map(|(bytes, number)| Sealing::new(number, bytes))
            .collect::<Option<_>>()?;
        self.noise.seal_all(&mut jobs).then_some(())
    }

    /// Sends a datagram that carries no packet.
    pub(crate) fn send_bare(&mut self, datagram: &[u8]) {
        let now = self.context.now.instant;
        let room = Room::exact(datagram.len());
        self.context.link.send(now, self.context.out, room, |room| {
            room.copy_from_slice(datagram);
            Some(datagram.len())
        });
    }

    /// Sends a datagram of `len` bytes that `write` makes.
    pub(crate) fn send_with(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut Noise, &mut [u8]) -> Option<usize>,
    ) {
        let now = self.context.now.instant;
        let room = Room::exact(len);
        let noise = &mut *self.noise;
        self.context
            .link
            .send(now, self.context.out, room, |room| write(noise, room));
    }
}
