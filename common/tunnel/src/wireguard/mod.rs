//! stub
use crate::{
    carrier::Phase,
    context::Context,
    filter::Permitted,
    input::{DialError, FlowId, Read},
    outbox::CloseReason,
};
use bytes::Bytes;
use std::time::{Duration, Instant};
#[derive(Debug)]
pub(crate) struct WireGuard;
impl WireGuard {
    pub(crate) fn new(
        _: &mut Context<'_>,
        _: &cardea_proto::codec::Secret32,
        _: cardea_proto::codec::Bytes<32>,
        _: &cardea_proto::codec::Secret32,
        _: [u8; 32],
    ) -> Self {
        Self
    }
    pub(crate) fn phase(&self) -> Phase {
        Phase::Opening
    }
    pub(crate) fn rtt(&self) -> Option<Duration> {
        None
    }
    pub(crate) fn datagram(&mut self, _: &mut Context<'_>, _: &[u8]) -> bool {
        false
    }
    pub(crate) fn timeout(&mut self, _: &mut Context<'_>) {}
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        None
    }
    pub(crate) fn open_flow(&mut self, c: &mut Context<'_>, flow: FlowId, _: Permitted) {
        c.adopt(flow);
        c.new_flow();
        c.close_flow(flow);
        c.reset_flow(flow, crate::ResetReason::Peer);
    }
    pub(crate) fn dialed(&mut self, _: &mut Context<'_>, _: FlowId, _: Result<(), DialError>) {}
    pub(crate) fn finish(&mut self, _: &mut Context<'_>, _: FlowId) {}
    pub(crate) fn reset(&mut self, _: &mut Context<'_>, _: FlowId) {}
    pub(crate) fn packet(&mut self, _: &mut Context<'_>, _: FlowId, _: &Bytes) {}
    pub(crate) fn writable(&self, _: FlowId) -> usize {
        0
    }
    pub(crate) fn write(&mut self, _: &mut Context<'_>, _: FlowId, _: Bytes) -> usize {
        0
    }
    pub(crate) fn read(&mut self, _: &mut Context<'_>, _: FlowId, _: usize) -> Read {
        Read::Blocked
    }
    pub(crate) fn flush(&mut self, _: &mut Context<'_>) -> bool {
        false
    }
    pub(crate) fn close(&mut self, _: &mut Context<'_>, _: CloseReason) {}
}
