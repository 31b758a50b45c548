//! From an inner packet to a sealed datagram in the outbox; and smoltcp's view of that as a device.

use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use crate::{
    context::Context,
    link::Link,
    outbox::Room,
    wireguard::{
        noise::{self, Noise},
        recovery::Recovery,
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

/// The largest inner packet that a tunnel carries, if its way does.
pub(crate) const fn inner_mtu_max(link: &Link) -> usize {
    if link.is_local() {
        INNER_MTU_LOCAL
    } else {
        INNER_MTU
    }
}

/// The largest inner packet that is known to come through.
pub(crate) fn inner_mtu(link: &Link) -> usize {
    if link.is_local() || link.carries(FULL_DATAGRAM_BYTES) {
        inner_mtu_max(link)
    } else {
        INNER_MTU_MIN
    }
}

/// What sealing needs.
pub(crate) struct Seal<'a> {
    pub(crate) noise: &'a mut Noise,
    pub(crate) session: &'a mut Session,
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

/// A network device of one packet in, and as many out as the stack makes.
pub(crate) struct Wire<'a, 'b> {
    pub(crate) incoming: Option<&'a [u8]>,
    pub(crate) sealer: Sealer<'a, 'b>,
    pub(crate) built: &'a mut [u8],
    /// Of the conversation that the stack works on.
    pub(crate) recovery: Option<&'a mut Recovery>,
}

impl<'a, 'b> Wire<'a, 'b> {
    pub(crate) const fn new(
        context: &'a mut Context<'b>,
        seal: Seal<'a>,
        built: &'a mut [u8],
        incoming: Option<&'a [u8]>,
    ) -> Self {
        Self {
            incoming,
            sealer: Sealer {
                noise: seal.noise,
                session: seal.session,
                context,
            },
            built,
            recovery: None,
        }
    }
}

impl<'a, 'b> Device for Wire<'a, 'b> {
    type RxToken<'c>
        = Incoming<'a>
    where
        Self: 'c;
    type TxToken<'c>
        = Outgoing<'c, 'a, 'b>
    where
        Self: 'c;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let incoming = Incoming(self.incoming.take()?);
        Some((incoming, Outgoing(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        Some(Outgoing(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(inner_mtu(self.sealer.context.link))
    }
}

/// What both ends' stacks may rely on. Checksums are written, so that a kernel could read our
/// packets, and not read: the tunnel's tag covers them.
fn capabilities(mtu: usize) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = mtu;
    capabilities.checksum.ipv4 = Checksum::Tx;
    capabilities.checksum.tcp = Checksum::Tx;
    capabilities
}

pub(crate) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

pub(crate) struct Outgoing<'c, 'a, 'b>(&'c mut Wire<'a, 'b>);

impl TxToken for Outgoing<'_, '_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let Wire {
            sealer,
            built,
            recovery,
            ..
        } = self.0;
        match built.get_mut(..len) {
            Some(packet) => {
                let result = write(packet);
                if let Some(recovery) = recovery {
                    recovery.sent(sealer.context.now.instant, packet);
                }
                sealer.send(packet);
                result
            }
            // Never: the room is as long as a packet can be. What is written here goes nowhere.
            None => write(&mut vec![0; len]),
        }
    }
}

/// A device that tells the interface its limits while it is made, and carries nothing.
pub(crate) struct Idle(pub(crate) usize);

impl Device for Idle {
    type RxToken<'a> = Nothing;
    type TxToken<'a> = Nothing;

    fn receive(&mut self, _: Instant) -> Option<(Nothing, Nothing)> {
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<Nothing> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.0)
    }
}

pub(crate) struct Nothing;

impl RxToken for Nothing {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&[])
    }
}

impl TxToken for Nothing {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        write(&mut vec![0; len])
    }
}
