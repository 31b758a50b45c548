//! A TCP flow: bytes between a local stream and a tunnel, as fast as the slower side takes them.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Write as _},
    net::Shutdown,
};

use bytes::{Buf, Bytes};
use cardea_host::tcp::{self, TcpStream};
use cardea_tunnel::{FlowId, Input, Read};
use mio::{Token, event::Event};

use super::flow::Carry;

/// Bytes that one flow moves each way in one turn, so that the others have theirs.
const TURN_BYTES: usize = 512 * 1024;

/// Bytes gathered from the tunnel for one write.
const WRITE_BYTES: usize = 128 * 1024;

/// Room for a read of a flow that brings little; so much may come although the tunnel has no room.
const READ_BYTES_MIN: usize = 4 * 1024;

/// Room for a flow's first read: a request, or the beginning of a page.
const READ_BYTES_FIRST: usize = 16 * 1024;

/// Room for a read of a busy flow.
const READ_BYTES_MAX: usize = 256 * 1024;

/// Slices of one write; the system takes at most 1,024 (`IOV_MAX`).
const WRITE_SLICES: usize = 128;

/// A local stream joined to a flow of a tunnel.
///
/// Both directions end on their own: an end of file here is a `Finish` there, a `Finished` there is
/// a shutdown here, and a reset on either side resets the other.
#[derive(Debug)]
pub(super) struct TcpFlow {
    id: FlowId,
    stream: TcpStream,
    token: Token,
    readable: bool,
    /// Whether the end of what comes from the stream is there, behind what is still to be read.
    ending: bool,
    writable: bool,
    /// Whether the flow is in the loop's queue.
    pub(super) queued: bool,
    /// Read from the stream, not yet taken by the tunnel.
    incoming: Bytes,
    /// Room for the next read from the stream.
    appetite: usize,
    ended_here: bool,
    /// Read from the tunnel, not yet taken by the stream.
    outgoing: VecDeque<Bytes>,
    outgoing_bytes: usize,
    tunnel_has_more: bool,
    ended_there: Ended,
    /// Nothing is read from the stream before the other end has answered.
    held: bool,
}

/// How far the end of the tunnel's direction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Bytes may come.
    No,
    /// No more come; some may still wait for the stream.
    Told,
    /// The stream is shut down for writing.
    Shut,
}

/// What became of a flow's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is more to do without waiting.
    Again,
    /// It waits for the stream or the tunnel.
    Wait,
    /// Both directions are done.
    Done,
    /// One side is gone; the other must be reset.
    Broken,
}

/// One side is gone.
struct Broken;

impl TcpFlow {
    /// A flow with a stream of which the loop has heard nothing since it is registered.
    pub(super) fn new(id: FlowId, stream: TcpStream, token: Token) -> Self {
        Self {
            id,
            stream,
            token,
            // A request is there already, most often.
            readable: true,
            ending: false,
            writable: true,
            queued: false,
            incoming: Bytes::new(),
            appetite: READ_BYTES_FIRST,
            ended_here: false,
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            tunnel_has_more: true,
            ended_there: Ended::No,
            held: false,
        }
    }

    /// The same with a stream that was being connected, of which `event` is the first news.
    pub(super) fn dialed(id: FlowId, stream: TcpStream, token: Token, event: &Event) -> Self {
        let mut flow = Self::new(id, stream, token);
        flow.readable = false;
        flow.notice(event);
        flow
    }

    /// Reads nothing from the stream until [`Self::release`]; `said` was read from it before.
    pub(super) fn hold(&mut self, said: Bytes) {
        self.held = true;
        self.incoming = said;
    }

    /// Goes on, after `first` was said to the stream.
    pub(super) fn release(&mut self, first: Bytes) {
        self.held = false;
        if !first.is_empty() {
            self.outgoing_bytes += first.len();
            self.outgoing.push_front(first);
        }
    }

    pub(super) const fn is_held(&self) -> bool {
        self.held
    }

    /// The system has news of the stream; false when it is gone.
    pub(super) fn notice(&mut self, event: &Event) -> bool {
        self.readable |= event.is_readable() || event.is_read_closed();
        self.ending |= event.is_read_closed();
        self.writable |= event.is_writable();
        !event.is_error()
    }

    /// The tunnel has bytes, or an end.
    pub(super) const fn tunnel_readable(&mut self) {
        self.tunnel_has_more = true;
    }

    /// The tunnel has delivered both directions; what was read of them may still wait here.
    pub(super) const fn delivered(&mut self) {
        self.tunnel_has_more = false;
        self.ended_here = true;
        if matches!(self.ended_there, Ended::No) {
            self.ended_there = Ended::Told;
        }
    }

    /// Moves bytes both ways, a bounded amount.
    pub(super) fn pump(&mut self, carry: &mut Carry) -> Turn {
        let result = self
            .take_in(carry)
            .and_then(|more| Ok(self.give_out(carry)? || more));
        match result {
            Err(Broken) => Turn::Broken,
            Ok(_) if self.is_done() => Turn::Done,
            Ok(true) => Turn::Again,
            Ok(false) => Turn::Wait,
        }
    }

    /// Gives the stream up, with everything that is still to be said said.
    pub(super) fn into_stream(self) -> (TcpStream, Token) {
        (self.stream, self.token)
    }

    const fn is_done(&self) -> bool {
        self.ended_here && matches!(self.ended_there, Ended::Shut)
    }

    /// From the stream into the tunnel. Nothing is read that the tunnel would not take.
    fn take_in(&mut self, carry: &mut Carry) -> Result<bool, Broken> {
        let mut moved = 0;
        loop {
            while !self.incoming.is_empty() {
                let taken = carry.write(self.id, self.incoming.clone());
                if taken == 0 {
                    return Ok(false);
                }
                self.incoming.advance(taken.min(self.incoming.len()));
            }
            if self.ended_here || self.held || !self.readable {
                return Ok(false);
            }
            if moved >= TURN_BYTES {
                return Ok(true);
            }
            // A little is read even when there is no room: the tunnel tells of room to those alone
            // whose write it could not take.
            let room = carry.tunnels.writable(self.id).max(READ_BYTES_MIN);
            let mut buffer = Vec::with_capacity(self.appetite.min(room));
            match tcp::read(&self.stream, &mut buffer) {
                Ok(0) => {
                    self.ended_here = true;
                    carry.input(Input::Finish { flow: self.id });
                }
                Ok(count) => {
                    moved += count;
                    carry.moved += count;
                    self.adapt(count);
                    // Less than there was room for is all there is (epoll(7), question 9); the end makes
                    // an edge of its own.
                    self.readable = self.ending || buffer.len() == buffer.capacity();
                    self.incoming = Bytes::from(buffer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Broken),
            }
        }
    }

    /// Makes the next buffer as large as what comes, so that neither calls nor memory are wasted.
    fn adapt(&mut self, count: usize) {
        if count >= self.appetite {
            self.appetite = (self.appetite * 2).min(READ_BYTES_MAX);
        } else if count < self.appetite / 4 {
            self.appetite = (self.appetite / 2).max(READ_BYTES_MIN);
        }
    }

    /// From the tunnel into the stream. Nothing is taken that the stream does not take soon.
    fn give_out(&mut self, carry: &mut Carry) -> Result<bool, Broken> {
        let mut moved = 0;
        loop {
            self.gather(carry)?;
            if self.outgoing.is_empty() {
                if self.ended_there == Ended::Told {
                    self.ended_there = Ended::Shut;
                    if self.stream.shutdown(Shutdown::Write).is_err() {
                        return Err(Broken);
                    }
                }
                return Ok(false);
            }
            if !self.writable {
                return Ok(false);
            }
            if moved >= TURN_BYTES {
                return Ok(true);
            }
            let slices: Vec<IoSlice<'_>> = self
                .outgoing
                .iter()
                .take(WRITE_SLICES)
                .map(|bytes| IoSlice::new(bytes))
                .collect();
            match self.stream.write_vectored(&slices) {
                Ok(0) => return Err(Broken),
                Ok(count) => {
                    moved += count;
                    carry.moved += count;
                    self.written(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Broken),
            }
        }
    }

    /// Reads from the tunnel until there is enough for one write.
    fn gather(&mut self, carry: &mut Carry) -> Result<(), Broken> {
        while self.tunnel_has_more && self.outgoing_bytes < WRITE_BYTES && !self.held {
            match carry.read(self.id, WRITE_BYTES - self.outgoing_bytes) {
                Read::Data(bytes) => {
                    self.outgoing_bytes += bytes.len();
                    self.outgoing.push_back(bytes);
                }
                Read::Blocked => self.tunnel_has_more = false,
                Read::Finished => {
                    self.tunnel_has_more = false;
                    if self.ended_there == Ended::No {
                        self.ended_there = Ended::Told;
                    }
                }
                Read::Reset => return Err(Broken),
            }
        }
        Ok(())
    }

    fn written(&mut self, mut count: usize) {
        self.outgoing_bytes = self.outgoing_bytes.saturating_sub(count);
        while let Some(front) = self.outgoing.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.outgoing.pop_front();
        }
    }
}
