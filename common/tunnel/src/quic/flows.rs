//! TCP flows in QUIC streams: one flow, one bidirectional stream.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, Bytes};
use cardea_proto::app::{Protocol, Service};
use quinn_proto::{Connection, Dir, StreamId, VarInt, WriteError};

use super::{
    config::{STREAMS_MAX, STREAMS_MIN},
    flow::{Flow, Stage, Taken, take},
    wire,
};
use crate::{
    context::Context,
    drops::DropReason,
    input::{DialError, FlowId, Read},
    outbox::{CloseReason, FlowEvent, ResetReason},
};

/// The TCP flows of one tunnel.
#[derive(Debug)]
pub(super) struct Flows {
    flows: BTreeMap<FlowId, Flow>,
    streams: BTreeMap<StreamId, FlowId>,
    /// Flows that wait until the peer allows another stream.
    waiting: VecDeque<(FlowId, Service)>,
    allowed: u32,
}

impl Default for Flows {
    fn default() -> Self {
        Self {
            flows: BTreeMap::new(),
            streams: BTreeMap::new(),
            waiting: VecDeque::new(),
            allowed: STREAMS_MIN,
        }
    }
}

impl Flows {
    /// Agent: begins a flow, as soon as the peer allows a stream.
    pub(super) fn open(
        &mut self,
        context: &mut Context<'_>,
        connection: Option<&mut Connection>,
        flow: FlowId,
        service: Service,
    ) {
        if self.waiting.len() >= WAITING_MAX {
            context.drop(DropReason::FlowLimit);
            return context.tell(FlowEvent::Reset {
                flow,
                why: ResetReason::Limit,
            });
        }
        context.adopt(flow);
        self.flows.insert(flow, Flow::new(None, Stage::Waiting));
        self.waiting.push_back((flow, service));
        if let Some(connection) = connection {
            self.open_waiting(context, connection);
        }
    }

    /// Agent: gives streams to flows that wait for one.
    pub(super) fn open_waiting(&mut self, context: &mut Context<'_>, connection: &mut Connection) {
        while let Some((flow, service)) = self.waiting.front().copied() {
            let Some(state) = self.flows.get_mut(&flow) else {
                self.waiting.pop_front();
                continue;
            };
            let Some(id) = connection.streams().open(Dir::Bi) else {
                return;
            };
            self.waiting.pop_front();
            state.stream = Some(id);
            state.stage = Stage::Connecting;
            state.prelude = Bytes::copy_from_slice(&wire::header(service));
            self.streams.insert(id, flow);
            self.push(context, connection, flow);
            context.tell(FlowEvent::Writable { flow });
        }
    }

    /// Connector: takes streams that the agent has opened.
    pub(super) fn accept(&mut self, context: &mut Context<'_>, connection: &mut Connection) {
        while let Some(id) = connection.streams().accept(Dir::Bi) {
            let flow = context.new_flow();
            let asking = Stage::Asking {
                header: [0; wire::HEADER_BYTES],
                came: 0,
            };
            self.flows.insert(flow, Flow::new(Some(id), asking));
            self.streams.insert(id, flow);
            self.readable(context, connection, id);
        }
        // Twice as many as are used, from a few on: see STREAMS_MIN.
        let used = connection.streams().remote_open_streams(Dir::Bi);
        if used * 2 > u64::from(self.allowed) && self.allowed < STREAMS_MAX {
            self.allowed = (self.allowed * 4).min(STREAMS_MAX);
            connection.set_max_concurrent_streams(Dir::Bi, VarInt::from_u32(self.allowed));
        }
    }

    /// Connector: says that the target was reached, or why not.
    pub(super) fn dialed(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        flow: FlowId,
        result: Result<(), DialError>,
    ) {
        let Some(state) = self.flows.get_mut(&flow) else {
            return;
        };
        if state.stage != Stage::Dialing {
            return;
        }
        match result {
            Ok(()) => {
                state.stage = Stage::Talking;
                state.prelude = Bytes::from_static(&[wire::DIALED]);
                state.told_readable = true;
                self.push(context, connection, flow);
                context.tell(FlowEvent::Readable { flow });
            }
            Err(error) => {
                self.cut(connection, flow, ResetReason::Refused(error));
                context.forget(flow);
            }
        }
    }

    pub(super) fn finish(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        flow: FlowId,
    ) {
        if let Some(state) = self.flows.get_mut(&flow) {
            state.wants_finish = true;
            self.push(context, connection, flow);
        }
    }

    /// Ends a flow at once and tells the peer; the shell knows.
    pub(super) fn reset(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        flow: FlowId,
    ) {
        self.cut(connection, flow, ResetReason::Peer);
        context.forget(flow);
    }

    pub(super) fn writable(&self, flow: FlowId) -> usize {
        match self.flows.get(&flow) {
            Some(state) if state.takes_bytes() && !state.write_blocked => WRITE_HINT,
            Some(_) | None => 0,
        }
    }

    pub(super) fn write(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        flow: FlowId,
        data: Bytes,
    ) -> usize {
        let Some(state) = self.flows.get_mut(&flow) else {
            return 0;
        };
        if !state.takes_bytes() {
            state.write_blocked = true;
            return 0;
        }
        let Some(id) = state.stream else {
            return 0;
        };
        let wanted = data.len();
        let taken = match connection.send_stream(id).write_chunks(&mut [data]) {
            Ok(written) => written.bytes,
            Err(WriteError::Blocked | WriteError::Stopped(_) | WriteError::ClosedStream) => 0,
        };
        state.write_blocked |= taken < wanted;
        let count = u64::try_from(taken).unwrap_or(u64::MAX);
        context.traffic.written = context.traffic.written.saturating_add(count);
        taken
    }

    pub(super) fn read(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        flow: FlowId,
        max: usize,
    ) -> Read {
        let Some(state) = self.flows.get_mut(&flow) else {
            return Read::Reset;
        };
        let Some(id) = state.stream.filter(|_| state.stage == Stage::Talking) else {
            return Read::Blocked;
        };
        if state.read_finished {
            return Read::Finished;
        }
        match take(connection, id, max) {
            Taken::Bytes(bytes) => {
                let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                context.traffic.read = context.traffic.read.saturating_add(count);
                Read::Data(bytes)
            }
            Taken::Nothing => {
                state.told_readable = false;
                Read::Blocked
            }
            Taken::Finished => {
                state.read_finished = true;
                self.settle(context, flow);
                Read::Finished
            }
            Taken::Reset(code) => {
                self.fail(context, connection, flow, wire::reason(code));
                Read::Reset
            }
        }
    }

    /// Something came on a stream.
    pub(super) fn readable(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        id: StreamId,
    ) {
        let Some(flow) = self.streams.get(&id).copied() else {
            return;
        };
        let Some(state) = self.flows.get_mut(&flow) else {
            return;
        };
        match state.stage {
            Stage::Asking { .. } => self.ask(context, connection, flow, id),
            Stage::Connecting => self.answered(context, connection, flow, id),
            Stage::Talking if !state.told_readable => {
                state.told_readable = true;
                context.tell(FlowEvent::Readable { flow });
            }
            Stage::Talking | Stage::Dialing | Stage::Waiting => {}
        }
    }

    /// A stream takes bytes again.
    pub(super) fn writable_again(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        id: StreamId,
    ) {
        let Some(flow) = self.streams.get(&id).copied() else {
            return;
        };
        self.push(context, connection, flow);
        if let Some(state) = self.flows.get_mut(&flow)
            && state.write_blocked
            && state.takes_bytes()
        {
            state.write_blocked = false;
            context.tell(FlowEvent::Writable { flow });
        }
    }

    /// The peer has everything that we sent on a stream, to its end.
    pub(super) fn delivered(&mut self, context: &mut Context<'_>, id: StreamId) {
        if let Some(flow) = self.streams.get(&id).copied() {
            if let Some(state) = self.flows.get_mut(&flow) {
                state.delivered = true;
            }
            self.settle(context, flow);
        }
    }

    /// The peer does not want what we send.
    pub(super) fn stopped(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        id: StreamId,
        code: VarInt,
    ) {
        if let Some(flow) = self.streams.get(&id).copied() {
            self.fail(context, connection, flow, wire::reason(code));
        }
    }

    /// Ends all of them with their tunnel.
    pub(super) fn close(&mut self, context: &mut Context<'_>, reason: CloseReason) {
        for (flow, state) in std::mem::take(&mut self.flows) {
            match state.stage {
                Stage::Asking { .. } => context.forget(flow),
                Stage::Waiting | Stage::Connecting | Stage::Dialing | Stage::Talking => {
                    context.reset_flow(flow, ResetReason::TunnelClosed(reason));
                }
            }
        }
        *self = Self::default();
    }

    /// Connector: reads a stream's header; then the filter decides, before anything is dialed.
    fn ask(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        flow: FlowId,
        id: StreamId,
    ) {
        let Some(state) = self.flows.get_mut(&flow) else {
            return;
        };
        let Stage::Asking { header, came } = &mut state.stage else {
            return;
        };
        while *came < wire::HEADER_BYTES {
            match take(connection, id, wire::HEADER_BYTES - *came) {
                Taken::Bytes(bytes) => {
                    let Some(rest) = header.get_mut(*came..*came + bytes.len()) else {
                        return;
                    };
                    rest.copy_from_slice(&bytes);
                    *came += bytes.len();
                }
                Taken::Nothing => return,
                Taken::Finished | Taken::Reset(_) => {
                    context.drop(DropReason::Malformed);
                    self.cut(connection, flow, ResetReason::Peer);
                    return context.forget(flow);
                }
            }
        }
        let target = wire::parse_header(*header)
            .ok_or(DropReason::Malformed)
            .and_then(|service| context.filter.check(Protocol::Tcp, service.port))
            .and_then(|to| context.filter.target(to).ok_or(DropReason::WrongService));
        match target {
            Ok(target) => {
                state.stage = Stage::Dialing;
                context.tell(FlowEvent::Dial {
                    flow,
                    grant: context.grant,
                    target,
                });
            }
            Err(reason) => {
                context.drop(reason);
                self.cut(connection, flow, ResetReason::NotGranted);
                context.forget(flow);
            }
        }
    }

    /// Agent: reads whether the connector has dialed.
    fn answered(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        flow: FlowId,
        id: StreamId,
    ) {
        match take(connection, id, 1) {
            Taken::Nothing => {}
            Taken::Bytes(byte) if byte.first() == Some(&wire::DIALED) => {
                if let Some(state) = self.flows.get_mut(&flow) {
                    state.stage = Stage::Talking;
                    state.told_readable = true;
                    context.tell(FlowEvent::Established { flow });
                    context.tell(FlowEvent::Readable { flow });
                }
            }
            Taken::Bytes(_) | Taken::Finished => {
                self.fail(context, connection, flow, ResetReason::Peer);
            }
            Taken::Reset(code) => self.fail(context, connection, flow, wire::reason(code)),
        }
    }

    /// Writes what comes before the flow's bytes, and their end when that is all.
    fn push(&mut self, context: &mut Context<'_>, connection: &mut Connection, flow: FlowId) {
        let Some(state) = self.flows.get_mut(&flow) else {
            return;
        };
        let Some(id) = state.stream else {
            return;
        };
        if !state.prelude.is_empty() {
            match connection.send_stream(id).write(&state.prelude) {
                Ok(count) => state.prelude.advance(count),
                Err(WriteError::Blocked) => {}
                Err(WriteError::Stopped(code)) => {
                    return self.fail(context, connection, flow, wire::reason(code));
                }
                Err(WriteError::ClosedStream) => {
                    return self.fail(context, connection, flow, ResetReason::Peer);
                }
            }
        }
        if state.wants_finish && !state.finished && state.prelude.is_empty() {
            state.finished = true;
            // A stream that was stopped tells so by its event.
            let _stopped = connection.send_stream(id).finish();
        }
    }

    /// Forgets a flow whose both directions are finished and delivered.
    fn settle(&mut self, context: &mut Context<'_>, flow: FlowId) {
        let done = self
            .flows
            .get(&flow)
            .is_some_and(|state| state.delivered && state.read_finished);
        if done {
            self.forget(flow);
            context.close_flow(flow);
        }
    }

    /// Ends a flow that the peer cut.
    fn fail(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        flow: FlowId,
        why: ResetReason,
    ) {
        let Some(stage) = self.flows.get(&flow).map(|state| state.stage) else {
            return;
        };
        self.cut(connection, flow, ResetReason::Peer);
        match stage {
            // The shell has not heard of it.
            Stage::Asking { .. } => context.forget(flow),
            Stage::Waiting | Stage::Connecting | Stage::Dialing | Stage::Talking => {
                context.reset_flow(flow, why);
            }
        }
    }

    /// Ends both directions of a flow's stream.
    fn cut(&mut self, connection: &mut Connection, flow: FlowId, why: ResetReason) {
        if let Some(id) = self.forget(flow) {
            // Either direction may be over already.
            let _closed = connection.send_stream(id).reset(wire::code(why));
            let _closed = connection.recv_stream(id).stop(wire::code(why));
        }
    }

    fn forget(&mut self, flow: FlowId) -> Option<StreamId> {
        let id = self.flows.remove(&flow)?.stream?;
        self.streams.remove(&id);
        Some(id)
    }
}

/// Flows that may wait for a stream: as many again as may be open.
const WAITING_MAX: usize = 1_024;

/// What an unblocked stream is said to take. It may take less: its windows are quinn's to know.
const WRITE_HINT: usize = 64 * 1024;
