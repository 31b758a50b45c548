//! A tunnel's way through its relay, and the ticket that makes it forward.
//!
//! ```text
//!  install, roamed ─▶ Seeking ──────Challenge, answered by a Proof, or Bound──▶ Bound
//!                      │ data is held                                            │ data passes
//!                      └─ Bind again after 250 ms, 500 ms, … 5 s                 └─ Bind every 20 s
//! ```
//!
//! A relay forwards nothing from an address that was not proven to it, so what a new tunnel says
//! first would be lost and come again only when a timer of its carrier says so, a second later.
//! It is held instead and goes right behind the proof; who has nothing to say nudges there. The end
//! whose proof came first hears that the other one can be reached, and says once more what the
//! relay dropped because it could not.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_proto::relay::{
    Cookie, DATA_HEADER_BYTES, FrameKind, Handle, TICKET_BODY_BYTES, TICKET_BYTES, Ticket,
};

use crate::outbox::{Outbox, Room, Via};

/// One end of the way through a relay.
#[derive(Debug)]
pub(crate) struct RelayPath {
    relay: SocketAddr,
    /// Its other addresses, the one to try next first.
    others: VecDeque<SocketAddr>,
    /// Binds that were not answered.
    unanswered: u32,
    ticket: [u8; TICKET_BYTES],
    handle: Handle,
    next_bind: Instant,
    backoff: Duration,
    /// Whether a Bind is out whose challenge has not been answered.
    is_asking: bool,
    /// What waits until the relay knows our address; `None` while it does.
    held: Option<Held>,
    /// What was held and sent, while the peer has not been heard.
    released: Vec<Vec<u8>>,
    /// Since when we have sent data and heard nothing.
    unheard_since: Option<Instant>,
    silence: Duration,
}

impl RelayPath {
    /// A way through the relay with these addresses; `None` when there is none or the ticket is none.
    pub(crate) fn new(now: Instant, relay: &[SocketAddr], ticket: &[u8]) -> Option<Self> {
        let (ticket, handle) = parse(ticket)?;
        let (relay, others) = relay.split_first()?;
        Some(Self {
            relay: *relay,
            others: others.iter().copied().collect(),
            unanswered: 0,
            ticket,
            handle,
            next_bind: now,
            backoff: BIND_RETRY_MIN,
            is_asking: false,
            held: Some(Held::default()),
            released: Vec::new(),
            unheard_since: None,
            silence: SILENCE_MAX,
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

    /// Our address may be another one: asks the relay at once, and holds what it would drop. `own`
    /// are our addresses, when they are known: a relay has one of the other family for who has none
    /// of this one.
    pub(crate) fn roamed(&mut self, now: Instant, own: &[SocketAddr]) {
        self.held.get_or_insert_default();
        self.unanswered = 0;
        let is_reached = |relay: &SocketAddr| {
            let mut own = own.iter();
            own.any(|own| own.is_ipv4() == relay.is_ipv4())
        };
        if !is_reached(&self.relay)
            && let Some(place) = self.others.iter().position(is_reached)
            && let Some(other) = self.others.remove(place)
        {
            self.turn_to(other);
        }
        self.rebind(now);
    }

    /// Goes on with another address of the relay.
    fn turn_to(&mut self, other: SocketAddr) {
        self.others.push_back(self.relay);
        self.relay = other;
        self.unanswered = 0;
    }

    /// The relay asks whether we receive here. One Bind earns one Proof, so that nobody who writes
    /// the relay's address on his datagrams can make us send more to it than our timers do.
    ///
    /// Says whether it was answered.
    pub(crate) fn challenged(&mut self, now: Instant, cookie: &Cookie, out: &mut Outbox) -> bool {
        if !std::mem::take(&mut self.is_asking) {
            return false;
        }
        self.unanswered = 0;
        let proof = cookie.proof(&self.ticket);
        self.send_whole(&proof, out);
        if self.held.as_ref().is_none_or(Held::is_empty) {
            self.send_whole(&[&self.handle.data_header()[..], NUDGE].concat(), out);
        }
        self.release(now, out);
        true
    }

    /// The peer's way to us works since a moment ago, so ours to the peer may not have before.
    pub(crate) fn nudged(&mut self, now: Instant, out: &mut Outbox) {
        for datagram in std::mem::take(&mut self.released) {
            self.unheard_since.get_or_insert(now);
            self.send_whole(&datagram, out);
        }
    }

    /// The relay has accepted the ticket, so that a silence is none of the binding's until more was
    /// sent. How long a silence is suspicious only the peer resets.
    pub(crate) fn bound(&mut self, now: Instant, out: &mut Outbox) {
        self.unheard_since = None;
        self.next_bind = now + BIND_KEEPALIVE;
        self.backoff = BIND_RETRY_MIN;
        self.is_asking = false;
        self.unanswered = 0;
        self.release(now, out);
    }

    /// Whether the relay answers no tickets, wherever it was asked.
    pub(crate) const fn is_unanswered(&self) -> bool {
        self.unanswered >= UNANSWERED_MAX
    }

    /// What waits for a relay that will not have it.
    pub(crate) fn take_held(&mut self) -> Vec<Vec<u8>> {
        match &mut self.held {
            Some(held) => std::mem::take(held).datagrams,
            None => std::mem::take(&mut self.released),
        }
    }

    /// Says what waited for another relay, or was said to nobody there.
    pub(crate) fn take_over(&mut self, now: Instant, held: Vec<Vec<u8>>, out: &mut Outbox) {
        let header = self.handle.data_header();
        for mut datagram in held {
            if let Some(front) = datagram.first_chunk_mut() {
                *front = header;
            }
            let sealed = datagram.get(DATA_HEADER_BYTES..).unwrap_or_default();
            self.send(now, out, Room::exact(sealed.len()), |buffer| {
                buffer.get_mut(..sealed.len())?.copy_from_slice(sealed);
                Some(sealed.len())
            });
        }
    }

    /// The peer has been heard: the way works, and takes that long there and back when it is known.
    pub(crate) fn heard(&mut self, rtt: Option<Duration>) {
        self.released = Vec::new();
        self.unheard_since = None;
        self.silence = rtt.map_or(SILENCE_MAX, |rtt| {
            (rtt + SILENCE_BEYOND).clamp(SILENCE_MIN, SILENCE_MAX)
        });
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
            // Where it is bound it stays: the other end may be what is silent.
            if self.held.is_some()
                && self.unanswered >= UNANSWERED_MAX
                && let Some(other) = self.others.pop_front()
            {
                self.turn_to(other);
            }
            self.unanswered += 1;
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
        let room = room.behind_header();
        if let Some(held) = &mut self.held {
            return held.push(&header, room, seal);
        }
        out.datagram((self.relay, Via::Relay), room, |buffer| {
            let (front, sealed) = buffer.split_at_mut_checked(DATA_HEADER_BYTES)?;
            let len = seal(sealed)?;
            front.copy_from_slice(&header);
            Some(DATA_HEADER_BYTES + len)
        });
        self.unheard_since.get_or_insert(now);
    }

    /// Asks the relay where the socket for direct paths is seen.
    pub(crate) fn ask(&self, out: &mut Outbox) {
        self.send_ticket(FrameKind::Ask, Via::Direct, out);
    }

    /// Whether the relay knows our address, so that what is sent reaches the peer.
    pub(crate) const fn is_ready(&self) -> bool {
        self.held.is_none()
    }

    fn send_ticket(&self, kind: FrameKind, via: Via, out: &mut Outbox) {
        out.datagram((self.relay, via), Room::exact(1 + TICKET_BYTES), |buffer| {
            let (first, ticket) = buffer.split_first_mut()?;
            *first = kind.byte();
            ticket.copy_from_slice(&self.ticket);
            Some(1 + TICKET_BYTES)
        });
    }

    /// Sends what was held, and holds no more.
    fn release(&mut self, now: Instant, out: &mut Outbox) {
        let Some(Held { datagrams, .. }) = self.held.take() else {
            return;
        };
        for datagram in &datagrams {
            self.unheard_since.get_or_insert(now);
            self.send_whole(datagram, out);
        }
        self.released = datagrams;
    }

    /// Sends one datagram that is complete.
    pub(crate) fn send_whole(&self, datagram: &[u8], out: &mut Outbox) {
        out.datagram(
            (self.relay, Via::Relay),
            Room::exact(datagram.len()),
            |buffer| {
                buffer.copy_from_slice(datagram);
                Some(datagram.len())
            },
        );
    }

    fn send_bind(&mut self, out: &mut Outbox) {
        self.is_asking = true;
        self.send_ticket(FrameKind::Bind, Via::Relay, out);
    }
}

/// Sealed datagrams with their headers, the oldest first.
#[derive(Debug, Default)]
struct Held {
    datagrams: Vec<Vec<u8>>,
    bytes: usize,
}

impl Held {
    const fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Keeps one more datagram that `seal` writes, or lets it be lost when there is no room.
    fn push(
        &mut self,
        header: &[u8; DATA_HEADER_BYTES],
        room: Room,
        seal: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        // Sealed in any case: a carrier counts on it that what it produces is written.
        let mut datagram = vec![0; room.max.max(room.expected)];
        let len = datagram
            .split_first_chunk_mut::<DATA_HEADER_BYTES>()
            .and_then(|(front, sealed)| {
                *front = *header;
                seal(sealed)
            });
        let Some(len) = len else {
            return;
        };
        datagram.truncate(DATA_HEADER_BYTES + len);
        if self.bytes + datagram.len() <= HELD_BYTES_MAX {
            self.bytes += datagram.len();
            datagram.shrink_to_fit();
            self.datagrams.push(datagram);
        }
    }
}

fn parse(ticket: &[u8]) -> Option<([u8; TICKET_BYTES], Handle)> {
    let ticket = <[u8; TICKET_BYTES]>::try_from(ticket).ok()?;
    let body = ticket.first_chunk::<TICKET_BODY_BYTES>()?;
    Some((ticket, Ticket::from_body(body)?.handle))
}

/// What an end sends that has nothing sealed to send: neither WireGuard nor QUIC begins so.
///
/// It is not protected, and may therefore mean no more than "say once more what you said first".
pub(crate) const NUDGE: &[u8] = &[0];

/// Binds that one address of a relay may leave unanswered while it has another.
const UNANSWERED_MAX: u32 = 3;

/// First wait for the relay's answer: longer than most round trips, short beside a person's patience.
const BIND_RETRY_MIN: Duration = Duration::from_millis(250);

/// Longest wait between two tries of a relay that does not answer.
const BIND_RETRY_MAX: Duration = Duration::from_secs(5);

/// Most bytes that a tunnel holds until the relay knows its address.
///
/// The first flights of both carriers, or ten packets of a network's usual size. Ten thousand
/// tunnels of a connector that roamed hold 160 MiB for a round trip if all of them are busy.
const HELD_BYTES_MAX: usize = 16 * 1024;

/// How often a binding is confirmed, so that no NAT forgets its mapping.
///
/// Source: RFC 4787 §4.3 lets a mapping die after 2 minutes; many die after 30 s.
const BIND_KEEPALIVE: Duration = Duration::from_secs(20);

/// How long the peer may be silent after we sent something before we suspect the binding; it doubles
/// until the peer is heard. A suspicion costs a Bind and its answer, and moves nothing.
///
/// Of a gap of 200 ms beyond the round trip this leaves 80 ms for the relay's question, and for a carrier
/// that asks what arrived before it says anything again.
const SILENCE_MIN: Duration = Duration::from_millis(120);
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// How much later than a round trip the peer may be: it delays what acknowledges (25 ms for QUIC, RFC 9000
/// §18.2), and paths wobble.
const SILENCE_BEYOND: Duration = Duration::from_millis(80);

#[cfg(test)]
mod tests {
    use cardea_proto::{
        codec::Bytes,
        relay::{COOKIE_BYTES, Side},
        time::{UnixMillis, testing::start},
    };

    use super::*;

    #[test]
    fn what_is_said_first_goes_right_behind_the_proof() {
        let mut bench = Bench::new();
        assert_eq!(bench.timeout(), [FrameKind::Bind]);
        bench.send(100);
        bench.send(200);
        assert_eq!(bench.sent(), []);
        bench.challenged();
        let expected = [FrameKind::Proof, FrameKind::Data, FrameKind::Data];
        assert_eq!(bench.sent(), expected);
        bench.send(100);
        assert_eq!(bench.sent(), [FrameKind::Data]);
    }

    #[test]
    fn a_relay_that_knows_the_address_asks_nothing_and_what_was_held_goes() {
        let mut bench = Bench::new();
        bench.timeout();
        bench.send(100);
        bench.bound();
        assert_eq!(bench.sent(), [FrameKind::Data]);
    }

    #[test]
    fn a_bind_earns_one_proof() {
        let mut bench = Bench::new();
        bench.timeout();
        let with_nudge = [FrameKind::Proof, FrameKind::Data];
        bench.challenged();
        bench.challenged();
        assert_eq!(bench.sent(), with_nudge);
        bench.now += BIND_RETRY_MIN;
        assert_eq!(bench.timeout(), [FrameKind::Bind], "the proof was lost");
        bench.challenged();
        assert_eq!(bench.sent(), with_nudge);
        bench.timeout();
        bench.bound();
        bench.challenged();
        assert_eq!(bench.sent(), []);
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_first_is_kept() {
        let mut bench = Bench::new();
        bench.timeout();
        for _ in 0..1_000 {
            bench.send(1_000);
        }
        bench.challenged();
        let sent = bench.sent();
        assert_eq!(sent.len(), 1 + HELD_BYTES_MAX / 1_008);
    }

    #[test]
    fn a_nudge_brings_what_was_said_first_once_more_and_only_while_nobody_was_heard() {
        let mut bench = Bench::new();
        bench.timeout();
        bench.send(100);
        bench.challenged();
        bench.sent();
        bench.link.nudged(bench.now, &mut bench.out);
        assert_eq!(bench.sent(), [FrameKind::Data]);
        bench.link.nudged(bench.now, &mut bench.out);
        assert_eq!(bench.sent(), []);
        bench.link.roamed(bench.now, &[]);
        bench.timeout();
        bench.send(100);
        bench.challenged();
        bench.sent();
        bench.link.heard(None);
        bench.link.nudged(bench.now, &mut bench.out);
        assert_eq!(bench.sent(), []);
    }

    #[test]
    fn who_roamed_holds_and_who_keeps_alive_does_not() {
        let mut bench = Bench::new();
        bench.timeout();
        bench.bound();
        bench.now += BIND_KEEPALIVE;
        assert_eq!(bench.timeout(), [FrameKind::Bind]);
        bench.send(1);
        assert_eq!(bench.sent(), [FrameKind::Data]);
        bench.link.renew(bench.now, &ticket());
        bench.send(1);
        assert_eq!(bench.sent(), [FrameKind::Data]);
        bench.link.roamed(bench.now, &[]);
        assert_eq!(bench.timeout(), [FrameKind::Bind]);
        bench.send(1);
        assert_eq!(bench.sent(), []);
        bench.challenged();
        assert_eq!(bench.sent(), [FrameKind::Proof, FrameKind::Data]);
    }

    #[test]
    fn a_silence_is_suspicious_once_and_for_who_goes_on_talking_ever_more_rarely() {
        let mut bench = Bench::new();
        bench.timeout();
        bench.bound();
        bench.link.heard(Some(Duration::from_millis(40)));
        bench.send(1);
        bench.sent();
        let suspects = bench.now + SILENCE_MIN;
        assert_eq!(bench.link.deadline(), suspects);
        bench.now = suspects;
        assert_eq!(bench.timeout(), [FrameKind::Bind]);
        bench.bound();
        assert_eq!(bench.link.deadline(), bench.now + BIND_KEEPALIVE);
        let (began, mut binds) = (bench.now, 0);
        while bench.now < began + Duration::from_secs(60) {
            bench.send(1);
            bench.sent();
            bench.now += Duration::from_millis(10);
            if bench.timeout() == [FrameKind::Bind] {
                binds += 1;
                bench.bound();
            }
        }
        assert!((6..=10).contains(&binds), "{binds}");
    }

    struct Bench {
        link: RelayPath,
        now: Instant,
        out: Outbox,
    }

    impl Bench {
        fn new() -> Self {
            let now = start().instant;
            let relay = ["192.0.2.1:7".parse().unwrap()];
            Self {
                link: RelayPath::new(now, &relay, &ticket()).unwrap(),
                now,
                out: Outbox::default(),
            }
        }

        fn timeout(&mut self) -> Vec<FrameKind> {
            self.link.timeout(self.now, &mut self.out);
            self.sent()
        }

        fn challenged(&mut self) {
            let cookie = Cookie([5; COOKIE_BYTES]);
            self.link.challenged(self.now, &cookie, &mut self.out);
        }

        fn bound(&mut self) {
            self.link.bound(self.now, &mut self.out);
        }

        fn send(&mut self, len: usize) {
            let room = Room::exact(len);
            self.link.send(self.now, &mut self.out, room, |_| Some(len));
        }

        fn sent(&mut self) -> Vec<FrameKind> {
            let transmits = self.out.transmits.drain(..);
            transmits
                .flat_map(|transmit| transmit.datagrams().map(<[u8]>::to_vec).collect::<Vec<_>>())
                .map(|datagram| FrameKind::of(datagram[0]).unwrap())
                .collect()
        }
    }

    fn ticket() -> Vec<u8> {
        let ticket = Ticket {
            tunnel: Bytes([1; 16]),
            side: Side::Agent,
            handle: Handle::from_bytes([2; 7]),
            not_after: UnixMillis(1),
        };
        [&ticket.body()[..], &[0; 64]].concat()
    }
}
