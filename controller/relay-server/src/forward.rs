//! From a batch of received datagrams to as few sends as possible.
//!
//! What the kernel coalesced goes out as it came: a run of datagrams to one destination is one
//! segmented send, straight from the receive buffer. Datagrams that came alone are gathered per
//! destination until the batch ends. The order towards each destination is kept.

use std::net::SocketAddr;

use cardea_proto::time::Now;
use cardea_relay::{Relay, Verdict};

/// Where datagrams go.
pub(crate) trait Sink {
    /// Sends `bytes`, divided into datagrams of `segment` bytes; how many bytes are done with.
    fn send(&self, to: SocketAddr, segment: Option<usize>, bytes: &[u8]) -> usize;
}

/// Datagrams on their way out.
#[derive(Debug, Default)]
pub(crate) struct Forwarder {
    gathered: Vec<Gathered>,
    unsent: u64,
}

/// Datagrams to one destination, all of one size but the last.
#[derive(Debug)]
struct Gathered {
    to: SocketAddr,
    segment: usize,
    is_closed: bool,
    bytes: Vec<u8>,
}

/// Neighbors in a receive buffer that go to one destination.
#[derive(Clone, Copy)]
struct Run {
    to: SocketAddr,
    start: usize,
}

impl Forwarder {
    /// Datagrams that the sink did not take.
    pub(crate) const fn unsent(&self) -> u64 {
        self.unsent
    }

    /// Passes what came from one sender, datagrams of `stride` bytes and a last one of any size.
    pub(crate) fn take(
        &mut self,
        relay: &mut Relay,
        now: Now,
        from: SocketAddr,
        stride: usize,
        bytes: &mut [u8],
        sink: &impl Sink,
    ) {
        let stride = stride.max(1);
        let mut run: Option<Run> = None;
        let mut start: usize = 0;
        loop {
            let end = start.saturating_add(stride).min(bytes.len());
            let Some(datagram) = bytes.get_mut(start..end) else {
                break;
            };
            match relay.handle(now, from, datagram) {
                Verdict::Forward { to } if run.is_some_and(|run| run.to == to) => {}
                Verdict::Forward { to } => {
                    self.finish(run, start, stride, bytes, sink);
                    run = Some(Run { to, start });
                }
                Verdict::Answer { len } => {
                    let answer = bytes.get(start..end).and_then(|sent| sent.get(..len));
                    self.send(from, None, answer.unwrap_or(&[]), sink);
                    self.finish(run.take(), start, stride, bytes, sink);
                }
                Verdict::Drop(_) => self.finish(run.take(), start, stride, bytes, sink),
            }
            start = end;
            if start >= bytes.len() {
                break;
            }
        }
        self.finish(run, start, stride, bytes, sink);
    }

    /// Sends all that was gathered.
    pub(crate) fn flush(&mut self, sink: &impl Sink) {
        for at in 0..self.gathered.len() {
            self.flush_one(at, sink);
        }
    }

    /// Ends a run at `end`: at once when it has many datagrams, gathered when it has one.
    fn finish(
        &mut self,
        run: Option<Run>,
        end: usize,
        stride: usize,
        bytes: &[u8],
        sink: &impl Sink,
    ) {
        let Some(Run { to, start }) = run else {
            return;
        };
        let bytes = bytes.get(start..end).unwrap_or(&[]);
        if bytes.len() <= stride {
            self.gather(to, bytes, sink);
            return;
        }
        if let Some(at) = self.position(to) {
            self.flush_one(at, sink);
        }
        self.send(to, Some(stride), bytes, sink);
    }

    fn gather(&mut self, to: SocketAddr, datagram: &[u8], sink: &impl Sink) {
        let at = match self.position(to) {
            Some(at) => at,
            None => self.open(to, sink),
        };
        if self
            .gathered
            .get(at)
            .is_some_and(|gathered| !gathered.fits(datagram))
        {
            self.flush_one(at, sink);
        }
        if let Some(gathered) = self.gathered.get_mut(at) {
            gathered.push(to, datagram);
        }
    }

    fn position(&self, to: SocketAddr) -> Option<usize> {
        self.gathered.iter().position(|gathered| gathered.to == to)
    }

    /// A place for one more destination.
    fn open(&mut self, to: SocketAddr, sink: &impl Sink) -> usize {
        let empty = |gathered: &Gathered| gathered.bytes.is_empty();
        if let Some(at) = self.gathered.iter().position(empty) {
            return at;
        }
        if self.gathered.len() < DESTINATIONS_MAX {
            self.gathered.push(Gathered {
                to,
                segment: 0,
                is_closed: false,
                bytes: Vec::new(),
            });
            return self.gathered.len() - 1;
        }
        self.flush_one(0, sink);
        0
    }

    fn flush_one(&mut self, at: usize, sink: &impl Sink) {
        let Some(gathered) = self.gathered.get_mut(at) else {
            return;
        };
        if gathered.bytes.is_empty() {
            return;
        }
        let (to, segment) = (gathered.to, gathered.segment);
        let mut bytes = std::mem::take(&mut gathered.bytes);
        self.send(to, Some(segment), &bytes, sink);
        bytes.clear();
        if let Some(gathered) = self.gathered.get_mut(at) {
            gathered.bytes = bytes;
        }
    }

    fn send(&mut self, to: SocketAddr, segment: Option<usize>, bytes: &[u8], sink: &impl Sink) {
        let segment = segment.unwrap_or(bytes.len()).max(1);
        let several = (bytes.len() > segment).then_some(segment);
        let done = sink.send(to, several, bytes);
        let unsent = bytes.len().saturating_sub(done).div_ceil(segment);
        self.unsent += u64::try_from(unsent).unwrap_or(0);
    }
}

impl Gathered {
    /// Whether `datagram` may follow in the same segmented send.
    fn fits(&self, datagram: &[u8]) -> bool {
        self.bytes.is_empty()
            || (!self.is_closed
                && datagram.len() <= self.segment
                && self.bytes.len() + datagram.len() <= GATHERED_BYTES_MAX)
    }

    fn push(&mut self, to: SocketAddr, datagram: &[u8]) {
        if self.bytes.is_empty() {
            self.to = to;
            self.segment = datagram.len();
        }
        self.is_closed = datagram.len() < self.segment;
        self.bytes.extend_from_slice(datagram);
    }
}

/// Destinations that are gathered for at once: as many as one batch of a receive call has buffers.
const DESTINATIONS_MAX: usize = 8;

/// Most bytes of one segmented send: what UDP over IPv4 carries (RFC 768, RFC 791).
const GATHERED_BYTES_MAX: usize = 65_507;

#[cfg(test)]
mod tests;
