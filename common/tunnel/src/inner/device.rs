//! smoltcp's view of a tunnel: a network device that sends into a [`Sink`].

use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use super::{Sink, recovery::Recovery};
use crate::context::Context;

/// A network device of one packet in, and as many out as the stack makes.
pub(super) struct Wire<'a, 'b, S> {
    pub(super) incoming: Option<&'a [u8]>,
    context: &'a mut Context<'b>,
    sink: &'a mut S,
    built: &'a mut [u8],
    /// Of the conversation that the stack works on.
    pub(super) recovery: Option<&'a mut Recovery>,
}

impl<'a, 'b, S: Sink> Wire<'a, 'b, S> {
    pub(super) const fn new(
        context: &'a mut Context<'b>,
        sink: &'a mut S,
        built: &'a mut [u8],
        incoming: Option<&'a [u8]>,
    ) -> Self {
        Self {
            incoming,
            context,
            sink,
            built,
            recovery: None,
        }
    }

    /// Sends a packet that the stack does not know of.
    pub(super) fn send(&mut self, packet: &[u8]) {
        self.sink.send(self.context, packet);
    }
}

impl<'a, 'b, S: Sink> Device for Wire<'a, 'b, S> {
    type RxToken<'c>
        = Incoming<'a>
    where
        Self: 'c;
    type TxToken<'c>
        = Outgoing<'c, 'a, 'b, S>
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
        capabilities(self.sink.mtu(self.context.link))
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

pub(super) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

pub(super) struct Outgoing<'c, 'a, 'b, S>(&'c mut Wire<'a, 'b, S>);

impl<S: Sink> TxToken for Outgoing<'_, '_, '_, S> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let Wire {
            context,
            sink,
            built,
            recovery,
            ..
        } = self.0;
        match built.get_mut(..len) {
            Some(packet) => {
                let result = write(packet);
                if let Some(recovery) = recovery {
                    recovery.sent(context.now.instant, packet);
                }
                sink.send(context, packet);
                result
            }
            // Never: the room is as long as a packet can be. What is written here goes nowhere.
            None => write(&mut vec![0; len]),
        }
    }
}

/// A device that tells the interface its limits while it is made, and carries nothing.
pub(super) struct Idle(pub(super) usize);

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

pub(super) struct Nothing;

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
