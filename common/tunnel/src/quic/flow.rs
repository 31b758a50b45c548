//! One TCP flow in a QUIC stream, and what its stream has for us.

use bytes::Bytes;
use quinn_proto::{Connection, ReadError, StreamId, VarInt};

use super::wire;

/// One flow.
///
/// ```text
/// agent      Waiting ──stream──▶ Connecting ──dialed──▶ Talking
/// connector  Asking ──header──▶ Dialing ──dialed──▶ Talking ──both finished, delivered──▶ closed
/// ```
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) stream: Option<StreamId>,
    pub(super) stage: Stage,
    /// What must be written before the flow's own bytes: our header, or that we dialed.
    pub(super) prelude: Bytes,
    pub(super) wants_finish: bool,
    pub(super) finished: bool,
    pub(super) delivered: bool,
    pub(super) read_finished: bool,
    pub(super) told_readable: bool,
    pub(super) write_blocked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Agent: no stream yet.
    Waiting,
    /// Agent: the connector has not dialed yet.
    Connecting,
    /// Connector: the header has come so far.
    Asking {
        header: [u8; wire::HEADER_BYTES],
        came: usize,
    },
    /// Connector: the shell dials.
    Dialing,
    /// Bytes pass.
    Talking,
}

impl Flow {
    pub(super) const fn new(stream: Option<StreamId>, stage: Stage) -> Self {
        Self {
            stream,
            stage,
            prelude: Bytes::new(),
            wants_finish: false,
            finished: false,
            delivered: false,
            read_finished: false,
            told_readable: false,
            write_blocked: false,
        }
    }

    /// Whether the local side may write: an agent before the connector has dialed, too.
    pub(super) fn takes_bytes(&self) -> bool {
        let sends = matches!(self.stage, Stage::Connecting | Stage::Talking);
        sends && self.prelude.is_empty() && !self.wants_finish
    }
}

/// What a stream had for us.
pub(super) enum Taken {
    Bytes(Bytes),
    Nothing,
    Finished,
    Reset(VarInt),
}

/// Takes up to `max` bytes of a stream, in order.
pub(super) fn take(connection: &mut Connection, id: StreamId, max: usize) -> Taken {
    let mut stream = connection.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else {
        return Taken::Finished;
    };
    let taken = match chunks.next(max) {
        Ok(Some(chunk)) => Taken::Bytes(chunk.bytes),
        Ok(None) => Taken::Finished,
        Err(ReadError::Blocked) => Taken::Nothing,
        Err(ReadError::Reset(code)) => Taken::Reset(code),
    };
    // The caller's turn ends with a flush, which sends what this makes necessary.
    let _flushed_later = chunks.finalize();
    taken
}
