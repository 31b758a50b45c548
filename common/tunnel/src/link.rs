//! A tunnel's way to its peer: the relay, and the ticket that makes it forward.
//!
//! ```text
//!  install ─▶ Seeking ──Bound──▶ Bound ──20 s──▶ Seeking (the old binding still holds)
//!               └─ Bind again after 250 ms, 500 ms, … 5 s
//! ```

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_proto::relay::{
    DATA_HEADER_BYTES, FrameKind, Handle, TICKET_BODY_BYTES, TICKET_BYTES, Ticket,
};

use crate::outbox::{Outbox, Room};

/// One end of the way through a relay.
#[derive(Debug)]
pub(crate) struct Link {
    relay: SocketAddr,
    ticket: [u8; TICKET_BYTES],
    handle: Handle,
    next_bind: Instant,
    backoff: Duration,
    /// Since when we have sent data and heard nothing.
    unheard_since: Option<Instant>,
    silence: Duration,
}

impl Link {
    /// A way through `relay`; `None` when the ticket is none.
    pub(crate) fn new(now: Instant, relay: SocketAddr, ticket: &[u8]) -> Option<Self> {
        let (ticket, handle) = parse(ticket)?;
        Some(Self {
            relay,
            ticket,
            handle,
            next_bind: now,
            backoff: BIND_RETRY_MIN,
            unheard_since: None,
            silence: SILENCE_MIN,
        })
    }

    /// Takes a ticket for a longer time; a malformed one changes nothing.
    pub(crate) fn renew(&mut self, now: Instant, ticket: &[u8]) {
        if let Some((ticket, handle)) = parse(ticket) {
            self.ticket = ticket;
            self.handle = handle;
            self.rebind(now);
        }
    }

    pub(crate) const fn relay(&self) -> SocketAddr {
        self.relay
    }

    /// Whether the relay is on this machine, so that datagrams of any size arrive there whole.
    ///
    /// Nothing but sizes rests on it. Where the other leg is a real path, its smaller size wins: TCP's
    /// by what the peer announces, QUIC's by what its probes find.
    pub(crate) const fn is_local(&self) -> bool {
        self.relay.ip().is_loopback()
    }

    pub(crate) const fn handle(&self) -> Handle {
        self.handle
    }

    /// Asks the relay again at once.
    pub(crate) fn rebind(&mut self, now: Instant) {
        self.next_bind = now;
        self.backoff = BIND_RETRY_MIN;
    }

    /// The relay has accepted the ticket.
    pub(crate) fn bound(&mut self, now: Instant) {
        self.next_bind = now + BIND_KEEPALIVE;
        self.backoff = BIND_RETRY_MIN;
    }

    /// The peer has been heard: the way works.
    pub(crate) fn heard(&mut self) {
        self.unheard_since = None;
        self.silence = SILENCE_MIN;
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.unheard_since.map_or(self.next_bind, |since| {
            self.next_bind.min(since + self.silence)
        })
    }

    /// Sends what is due: a `Bind`, to keep the NAT's mapping, or because nothing comes back.
    pub(crate) fn timeout(&mut self, now: Instant, out: &mut Outbox) {
        if let Some(since) = self.unheard_since
            && now >= since + self.silence
        {
            self.unheard_since = Some(now);
            self.silence = (self.silence * 2).min(BIND_KEEPALIVE);
            self.rebind(now);
        }
        if now >= self.next_bind {
            self.next_bind = now + self.backoff;
            self.backoff = (self.backoff * 2).min(BIND_RETRY_MAX);
            self.send_bind(out);
        }
    }

    /// Sends one sealed datagram that `seal` writes.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        out: &mut Outbox,
        room: Room,
        seal: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        let header = self.handle.data_header();
        let room = Room {
            max: DATA_HEADER_BYTES + room.max,
            expected: DATA_HEADER_BYTES + room.expected,
        };
        out.datagram(self.relay, room, |buffer| {
            let (front, sealed) = buffer.split_at_mut_checked(DATA_HEADER_BYTES)?;
            let len = seal(sealed)?;
            front.copy_from_slice(&header);
            Some(DATA_HEADER_BYTES + len)
        });
        self.unheard_since.get_or_insert(now);
    }

    fn send_bind(&self, out: &mut Outbox) {
        out.datagram(self.relay, Room::exact(1 + TICKET_BYTES), |buffer| {
            let (kind, ticket) = buffer.split_first_mut()?;
            *kind = FrameKind::Bind.byte();
            ticket.copy_from_slice(&self.ticket);
            Some(1 + TICKET_BYTES)
        });
    }
}

fn parse(ticket: &[u8]) -> Option<([u8; TICKET_BYTES], Handle)> {
    let ticket = <[u8; TICKET_BYTES]>::try_from(ticket).ok()?;
    let body = ticket.first_chunk::<TICKET_BODY_BYTES>()?;
    Some((ticket, Ticket::from_body(body)?.handle))
}

/// First wait for the relay's answer: longer than most round trips, short beside a person's patience.
const BIND_RETRY_MIN: Duration = Duration::from_millis(250);

/// Longest wait between two tries of a relay that does not answer.
const BIND_RETRY_MAX: Duration = Duration::from_secs(5);

/// How often a binding is confirmed, so that no NAT forgets its mapping.
///
/// Source: RFC 4787 §4.3 lets a mapping die after 2 minutes; many die after 30 s.
const BIND_KEEPALIVE: Duration = Duration::from_secs(20);

/// How long the peer may be silent after we sent something before we suspect the binding.
const SILENCE_MIN: Duration = Duration::from_secs(1);
