//! One TCP conversation: a smoltcp socket, and what the shell has been told about it.

use bytes::Bytes;
use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet},
    socket::{
        Socket as AnySocket,
        tcp::{CongestionControl, Socket, SocketBuffer, State},
    },
    time::Duration,
    wire::{IpEndpoint, IpListenEndpoint},
};

use crate::{
    inner::{recovery::Recovery, stack::Pair},
    input::{FlowId, Read},
    outbox::{FlowEvent, Outbox},
};

/// One conversation.
///
/// ```text
/// agent      Connecting ──SYN-ACK──▶ Talking ──both finished──▶ over: orderly
/// connector  Parked ────dialed─────▶    │
///              └─ not dialed: RST       └── RST, timeout ─────▶ over: reset
/// ```
pub(crate) struct Conversation {
    pub(crate) sockets: SocketSet<'static>,
    handle: SocketHandle,
    pub(crate) name: Pair,
    pub(crate) stage: Stage,
    pub(crate) recovery: Recovery,
    /// Whether it waits in the queue of those to flush.
    pub(crate) queued: bool,
    wants_finish: bool,
    own_finished: bool,
    peer_finished: bool,
    told_readable: bool,
    told_finished: bool,
    read_finished: bool,
    write_blocked: bool,
    /// Whether the socket has nothing to say soon.
    pub(crate) quiet: bool,
}

/// How far a conversation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Agent: waits for the connector.
    Connecting,
    /// Connector: waits for the dial.
    Parked,
    /// Bytes pass.
    Talking,
}

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// Both sides finished, and everything was delivered.
    Orderly,
    /// It never began.
    Refused,
    /// One side or the path cut it.
    Reset,
}

impl Conversation {
    /// Agent: a conversation that begins.
    pub(crate) fn connect(
        interface: &mut Interface,
        mut socket: Socket<'static>,
        name: Pair,
        own: IpEndpoint,
        peer: IpEndpoint,
    ) -> Self {
        socket.pause_synack(false);
        // Refused only for a socket in use or a zero port; this one then counts as refused.
        let _connecting = socket.connect(interface.context(), peer, own);
        Self::with(name, Stage::Connecting, socket)
    }

    /// Connector: a conversation whose first packet comes next.
    pub(crate) fn park(mut socket: Socket<'static>, name: Pair, at: IpListenEndpoint) -> Self {
        socket.pause_synack(true);
        let _listening = socket.listen(at);
        Self::with(name, Stage::Parked, socket)
    }

    fn with(name: Pair, stage: Stage, socket: Socket<'static>) -> Self {
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            sockets,
            handle,
            name,
            stage,
            recovery: Recovery::default(),
            queued: false,
            wants_finish: false,
            own_finished: false,
            peer_finished: false,
            told_readable: false,
            told_finished: false,
            read_finished: false,
            write_blocked: false,
            quiet: false,
        }
    }

    /// The target was reached: the peer gets its answer.
    pub(crate) fn accept(&mut self) {
        if self.stage == Stage::Parked {
            self.stage = Stage::Talking;
            self.socket().pause_synack(false);
        }
    }

    pub(crate) fn writable(&self, budget: usize) -> usize {
        let socket = self.sockets.get::<Socket<'_>>(self.handle);
        if socket.may_send() && !self.wants_finish {
            let room = socket.send_capacity() - socket.send_queue();
            room.min(self.allowance(budget))
        } else {
            0
        }
    }

    /// What this flow may have of its tunnel's `budget`.
    fn allowance(&self, budget: usize) -> usize {
        budget.max(FLOW_BYTES_MIN.saturating_sub(self.unacknowledged()))
    }

    /// Takes up to `budget` bytes, or what makes [`FLOW_BYTES_MIN`] of this flow.
    pub(crate) fn write(&mut self, data: &[u8], budget: usize) -> usize {
        let part = data
            .get(..data.len().min(self.allowance(budget)))
            .unwrap_or_default();
        let taken = if self.wants_finish {
            0
        } else {
            self.socket().send_slice(part).unwrap_or(0)
        };
        self.write_blocked |= taken < data.len();
        taken
    }

    pub(crate) fn read(&mut self, max: usize) -> Read {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        if socket.can_recv() {
            let bytes = socket.recv(|ring| {
                let taken = ring.get(..ring.len().min(max)).unwrap_or_default();
                (taken.len(), Bytes::copy_from_slice(taken))
            });
            if let Ok(bytes) = bytes {
                return Read::Data(bytes);
            }
        }
        self.told_readable = false;
        if self.peer_finished {
            self.read_finished = true;
            return Read::Finished;
        }
        Read::Blocked
    }

    /// Sends nothing more after what was written.
    pub(crate) fn finish(&mut self) {
        self.wants_finish = true;
        self.try_finish();
    }

    pub(crate) fn abort(&mut self) {
        self.socket().abort();
    }

    /// Takes note of how far the socket has come, after each packet in or out.
    pub(crate) fn notice(&mut self) {
        let state = self.socket().state();
        if !matches!(state, State::SynSent | State::SynReceived) {
            self.recovery.settled();
        }
        self.peer_finished |= matches!(
            state,
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        self.try_finish();
    }

    /// Bytes that the peer has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.sockets.get::<Socket<'_>>(self.handle).send_queue()
    }

    /// Whether a plea has something to make the socket repeat.
    ///
    /// A lone FIN is not: smoltcp stops its own timer for the plea, then repeats nothing because no
    /// bytes are on their way, and the FIN would be lost for good. We repeat that one ourselves.
    pub(crate) fn can_repeat(&self) -> bool {
        self.unacknowledged() > 0
    }

    /// Whether its handshake is over.
    pub(crate) fn is_under_way(&self) -> bool {
        let state = self.sockets.get::<Socket<'_>>(self.handle).state();
        !matches!(state, State::Listen | State::SynSent | State::SynReceived)
    }

    /// Puts what is new since the last time into the outbox.
    pub(crate) fn tell(&mut self, flow: FlowId, out: &mut Outbox) {
        let socket = self.sockets.get::<Socket<'_>>(self.handle);
        let (may_send, can_recv) = (socket.may_send(), socket.can_recv());
        let room = socket.send_capacity() - socket.send_queue();
        if self.stage == Stage::Connecting && (may_send || self.peer_finished) {
            self.stage = Stage::Talking;
            self.write_blocked = true;
            out.flows.push_back(FlowEvent::Established { flow });
        }
        if self.stage != Stage::Talking {
            return;
        }
        if can_recv && !self.told_readable {
            self.told_readable = true;
            out.flows.push_back(FlowEvent::Readable { flow });
        }
        if self.peer_finished && !self.told_finished {
            self.told_finished = true;
            if !self.told_readable {
                out.flows.push_back(FlowEvent::Readable { flow });
            }
        }
        if self.write_blocked && may_send && room >= WRITABLE_MIN {
            self.write_blocked = false;
            out.flows.push_back(FlowEvent::Writable { flow });
        }
    }

    /// Whether the conversation is over, and how.
    pub(crate) fn over(&self) -> Option<Over> {
        let socket = self.sockets.get::<Socket<'_>>(self.handle);
        let ended = match socket.state() {
            State::Closed => true,
            // The peer waits for the last acknowledgment.
            State::TimeWait => self.quiet,
            State::Listen
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => false,
        };
        if !ended {
            return None;
        }
        if self.stage == Stage::Connecting {
            return Some(Over::Refused);
        }
        if self.own_finished && self.peer_finished {
            return self.read_finished.then_some(Over::Orderly);
        }
        Some(Over::Reset)
    }

    /// Closes the socket once that does not cut off a handshake.
    fn try_finish(&mut self) {
        let wants = self.wants_finish && !self.own_finished;
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        if wants && socket.may_send() {
            socket.close();
            // No more bytes follow that an acknowledgment could travel with.
            socket.set_ack_delay(None);
            self.own_finished = true;
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

/// Sockets of conversations that are over, for the next ones.
///
/// A socket owns its buffers, and wiping those anew for each short flow costs more than the flow.
#[derive(Default)]
pub(crate) struct Spare(Vec<Socket<'static>>);

impl Spare {
    pub(crate) fn take(&mut self) -> Socket<'static> {
        let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = self
            .0
            .pop()
            .unwrap_or_else(|| Socket::new(buffer(), buffer()));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(ACK_DELAY));
        // Also forgets what an earlier conversation learned of the path.
        socket.set_congestion_control(CongestionControl::Cubic);
        socket
    }

    pub(crate) fn keep(&mut self, conversation: Conversation) {
        if self.0.len() >= SPARE_MAX {
            return;
        }
        let mut sockets = conversation.sockets;
        let AnySocket::Tcp(mut socket) = sockets.remove(conversation.handle);
        socket.abort();
        self.0.push(socket);
    }
}

/// How long an acknowledgment may wait for bytes to travel with.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(10);

/// Sockets kept of one tunnel: 16 MiB at most, and only pages that were used.
const SPARE_MAX: usize = 16;

/// Bytes that one direction of a flow may hold at each end, and so what may be on its way.
///
/// 512 KiB carry 4 Gbit/s at a round trip of 1 ms and 80 Mbit/s at 50 ms.
const BUFFER_BYTES: usize = 512 * 1024;

/// What a flow may always have on its way, however much others have, so that each one goes on.
const FLOW_BYTES_MIN: usize = 64 * 1024;

/// Room that must be free before a blocked writer is woken: fewer, larger turns.
const WRITABLE_MIN: usize = BUFFER_BYTES / 8;
