//! Either carrier behind one face.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    bundle::Bundle,
    command::{CarrierKeys, End},
    context::Context,
    filter::Permitted,
    input::{Datagrams, DialError, FlowId, Read},
    link::Rerouted,
    outbox::{CloseReason, Via},
    quic::Quic,
    wireguard::WireGuard,
};

/// How far a tunnel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The two ends have not proved themselves yet.
    Opening,
    /// Bytes pass.
    Open,
    /// It is over.
    Dead(CloseReason),
}

/// What protects a tunnel.
#[derive(Debug)]
pub(crate) enum Carrier {
    WireGuard(Box<WireGuard>),
    Quic(Box<Quic>),
}

macro_rules! each {
    ($self:expr, $carrier:ident => $call:expr) => {
        match $self {
            Carrier::WireGuard($carrier) => $call,
            Carrier::Quic($carrier) => $call,
        }
    };
}

impl Carrier {
    /// The carrier that `keys` are for; `None` when they cannot work at this end.
    pub(crate) fn new(
        context: &mut Context<'_>,
        keys: CarrierKeys,
        seed: [u8; 32],
    ) -> Option<Self> {
        match (keys, context.filter.end()) {
            (CarrierKeys::WireGuard { private, peer, psk }, _) => Some(Self::WireGuard(Box::new(
                WireGuard::new(context, &private, peer, &psk, seed),
            ))),
            (CarrierKeys::QuicClient(config), End::Agent) => {
                Some(Self::Quic(Box::new(Quic::connect(context, config, seed)?)))
            }
            (CarrierKeys::QuicServer(config), End::Connector) => {
                Some(Self::Quic(Box::new(Quic::listen(context, config, seed)?)))
            }
            (CarrierKeys::QuicClient(_), End::Connector)
            | (CarrierKeys::QuicServer(_), End::Agent) => None,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        each!(self, carrier => carrier.phase())
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        each!(self, carrier => carrier.rtt())
    }

    /// Opens one sealed datagram; says whether it was authentic.
    pub(crate) fn datagram(&mut self, context: &mut Context<'_>, sealed: &[u8]) -> bool {
        each!(self, carrier => carrier.datagram(context, sealed))
    }

    /// Opens datagrams that came from `from` in one piece, in order.
    pub(crate) fn datagrams(
        &mut self,
        context: &mut Context<'_>,
        from: (SocketAddr, Via),
        datagrams: Datagrams<'_>,
    ) {
        match self {
            Self::WireGuard(carrier) => carrier.datagrams(context, from, datagrams),
            Self::Quic(carrier) => {
                for sealed in datagrams.iter() {
                    if carrier.datagram(context, sealed) {
                        context.link.came(context.now.instant, from);
                    }
                }
            }
        }
    }

    /// The tunnel's datagrams go another way, because the one before carries nothing.
    pub(crate) fn rerouted(&mut self, context: &Context<'_>, how: Rerouted) {
        each!(self, carrier => carrier.rerouted(context, how));
    }

    pub(crate) fn timeout(&mut self, context: &mut Context<'_>) {
        each!(self, carrier => carrier.timeout(context));
    }

    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        each!(self, carrier => carrier.deadline())
    }

    pub(crate) fn open_flow(&mut self, context: &mut Context<'_>, flow: FlowId, to: Permitted) {
        each!(self, carrier => carrier.open_flow(context, flow, to));
    }

    pub(crate) fn dialed(
        &mut self,
        context: &mut Context<'_>,
        flow: FlowId,
        result: Result<(), DialError>,
    ) {
        each!(self, carrier => carrier.dialed(context, flow, result));
    }

    pub(crate) fn finish(&mut self, context: &mut Context<'_>, flow: FlowId) {
        each!(self, carrier => carrier.finish(context, flow));
    }

    pub(crate) fn reset(&mut self, context: &mut Context<'_>, flow: FlowId) {
        each!(self, carrier => carrier.reset(context, flow));
    }

    pub(crate) fn packet(&mut self, context: &mut Context<'_>, flow: FlowId, payload: &Bytes) {
        each!(self, carrier => carrier.packet(context, flow, payload));
    }

    pub(crate) fn bundle(&mut self, context: &mut Context<'_>, bundle: &mut Bundle<'_>) {
        each!(self, carrier => carrier.bundle(context, bundle));
    }

    pub(crate) fn writable(&self, flow: FlowId) -> usize {
        each!(self, carrier => carrier.writable(flow))
    }

    pub(crate) fn write(&mut self, context: &mut Context<'_>, flow: FlowId, data: Bytes) -> usize {
        each!(self, carrier => carrier.write(context, flow, data))
    }

    pub(crate) fn read(&mut self, context: &mut Context<'_>, flow: FlowId, max: usize) -> Read {
        each!(self, carrier => carrier.read(context, flow, max))
    }

    /// Produces datagrams; says whether more wait for the next turn.
    pub(crate) fn flush(&mut self, context: &mut Context<'_>) -> bool {
        each!(self, carrier => carrier.flush(context))
    }

    /// Tells the peer that this is over, and the shell that every flow is.
    pub(crate) fn close(&mut self, context: &mut Context<'_>, reason: CloseReason) {
        each!(self, carrier => carrier.close(context, reason));
    }
}
