//! Loss recovery for smoltcp's TCP, which has none of its own but the textbook's.
//!
//! smoltcp repeats one segment after three duplicate acknowledgments, and otherwise waits for a timer
//! of a second or more that doubles. A path that loses one datagram in five starves it, and a lost
//! last segment costs a second on any path. So we watch what passes between its socket and the wire:
//!
//! - the acknowledgment of a part of what was sent before a loss means that the next hole is lost
//!   too (NewReno, RFC 6582 §3.2), and that hole is repeated at once;
//! - when nothing is acknowledged for the time that RFC 6298 computes, with the floor of 30 ms that a
//!   measured round trip allows, the oldest segment is repeated;
//! - SYN and SYN-ACK are repeated after 250 ms, 500 ms and then each second.
//!
//! smoltcp offers no way to ask for a repetition, so it is asked in the only words it understands:
//! three duplicate acknowledgments, as its peer would send them. Its congestion window reacts to that as
//! to any loss.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// What passed between one socket and the wire.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    handshake: Option<Handshake>,
    /// A FIN that was sent without bytes.
    fin: Option<Vec<u8>>,
    /// The end of what was ever sent.
    sent: Option<u32>,
    /// The end of what the peer has.
    acknowledged: Option<u32>,
    /// The end of what we have of the peer.
    received: u32,
    /// The peer's window as it stands in its headers.
    window: u16,
    /// The one in the last plea. smoltcp may have seen no other since: it passes over the header of a
    /// segment that it has already.
    window_pleaded: u16,
    duplicates: u8,
    /// While holes before this are to be filled.
    until: Option<u32>,
    /// A segment whose acknowledgment tells the round trip.
    sample: Option<(u32, Instant)>,
    rtt: Option<Rtt>,
    timer: Option<Instant>,
    tries: u32,
    repeat: bool,
    /// Since when something waits for an answer, and the peer has been silent.
    waiting: Option<Instant>,
}

#[derive(Debug)]
struct Handshake {
    packet: Vec<u8>,
    next: Instant,
    backoff: Duration,
}

/// Smoothed as RFC 6298 §2 says.
#[derive(Clone, Copy, Debug)]
struct Rtt {
    smoothed: Duration,
    variance: Duration,
}

/// The fields of a TCP segment that matter here.
#[derive(Clone, Copy, Debug)]
struct Segment {
    sequence: u32,
    acknowledgment: Option<u32>,
    window: u16,
    syn: bool,
    fin: bool,
    /// Payload, SYN and FIN.
    len: u32,
}

impl Recovery {
    /// Notes what the socket sends.
    pub(crate) fn sent(&mut self, now: Instant, packet: &[u8]) {
        let Some(segment) = parse(packet) else {
            return;
        };
        if segment.len > 0 {
            self.waiting.get_or_insert(now);
        }
        if segment.syn {
            let backoff = self
                .handshake
                .as_ref()
                .map_or(HANDSHAKE_RETRY, |handshake| handshake.backoff);
            self.handshake = Some(Handshake {
                packet: packet.to_vec(),
                next: now + backoff,
                backoff,
            });
        }
        if let Some(acknowledgment) = segment.acknowledgment
            && is_after(acknowledgment, self.received)
        {
            self.received = acknowledgment;
        }
        if segment.len == 0 || segment.syn {
            return;
        }
        if segment.fin && segment.len == 1 {
            self.fin = Some(packet.to_vec());
        }
        let end = segment.sequence.wrapping_add(segment.len);
        if self.sent.is_none_or(|sent| is_after(end, sent)) {
            self.sent = Some(end);
            self.sample.get_or_insert((end, now));
        } else {
            // Whose acknowledgment this will be cannot be told (Karn).
            self.sample = None;
        }
        if self.timer.is_none() {
            self.timer = Some(now + self.timeout());
        }
    }

    /// Notes what the peer sends, before the socket sees it.
    pub(crate) fn came(&mut self, now: Instant, packet: &[u8]) {
        let Some(segment) = parse(packet) else {
            return;
        };
        self.waiting = self.waiting.map(|_| now);
        let Some(acknowledgment) = segment.acknowledgment else {
            self.received = segment.sequence.wrapping_add(segment.len);
            return;
        };
        if segment.syn || segment.sequence == self.received {
            self.received = segment.sequence.wrapping_add(segment.len);
        }
        let is_update = segment.window != self.window;
        self.window = segment.window;
        match self.acknowledged {
            Some(before) if is_after(acknowledgment, before) => self.progress(now, acknowledgment),
            Some(before) if acknowledgment == before && segment.len == 0 && !is_update => {
                self.duplicate();
            }
            Some(_) => {}
            None => self.acknowledged = Some(acknowledgment),
        }
    }

    /// The handshake is over.
    pub(crate) fn settled(&mut self) {
        if self.handshake.take().is_some() && self.timer.is_none() {
            self.waiting = None;
        }
    }

    /// Whether the peer's end of this flow alone has been silent for too long: smoltcp's own timeout would end
    /// idle flows too, and a tunnel whose other end is away waits for that.
    pub(crate) fn is_hopeless(&mut self, now: Instant, is_away: bool) -> bool {
        let is_over = self.waiting.is_some_and(|since| now >= since + PATIENCE);
        let waits = is_away && self.handshake.is_none();
        if is_over && waits {
            self.waiting = Some(now);
        }
        is_over && !waits
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let handshake = self.handshake.as_ref().map(|handshake| handshake.next);
        let end = self.waiting.map(|since| since + PATIENCE);
        [handshake, self.timer, end].into_iter().flatten().min()
    }

    /// The handshake's packet, when it is to be sent again.
    pub(crate) fn handshake_due(&mut self, now: Instant) -> Option<&[u8]> {
        let handshake = self
            .handshake
            .as_mut()
            .filter(|handshake| now >= handshake.next)?;
        handshake.backoff = (handshake.backoff * 2).min(HANDSHAKE_RETRY_MAX);
        handshake.next = now + handshake.backoff;
        Some(&handshake.packet)
    }

    /// The FIN to send again when there are no bytes before it.
    pub(crate) fn lone_fin(&self) -> Option<&[u8]> {
        self.fin.as_deref()
    }

    /// Whether the oldest segment is to be sent again.
    pub(crate) fn repeat_due(&mut self, now: Instant) -> bool {
        if self.timer.is_some_and(|at| now >= at) {
            self.tries = self.tries.saturating_add(1);
            self.timer = Some(now + self.timeout());
            self.until = self.sent;
            self.repeat = true;
        }
        // A closed window is smoltcp's to probe.
        std::mem::take(&mut self.repeat) && self.window > 1
    }

    /// What was sent last went a way that carries nothing: the oldest segment is repeated at once, if
    /// one waits. The timer, which has doubled meanwhile, begins anew.
    pub(crate) fn rerouted(&mut self, now: Instant) -> bool {
        self.tries = 0;
        self.waiting = self.waiting.map(|_| now);
        if let Some(timer) = &mut self.timer {
            *timer = now;
        }
        self.timer.is_some()
    }

    /// An acknowledgment as the peer would send it: fed to the socket [`REPEAT_PACKETS`] times, it
    /// makes it repeat its oldest segment.
    pub(crate) fn plea(&mut self, own: (IpAddr, u16), peer: (IpAddr, u16)) -> Vec<u8> {
        // The first of them must differ from what the socket saw last, so that it counts from zero.
        self.window_pleaded = match self.window.saturating_sub(1) {
            less if less == self.window_pleaded => self.window.saturating_sub(2).max(1),
            less => less,
        };
        let ([s0, s1], [d0, d1]) = (peer.1.to_be_bytes(), own.1.to_be_bytes());
        let [q0, q1, q2, q3] = self.received.to_be_bytes();
        let [a0, a1, a2, a3] = self.acknowledged.unwrap_or_default().to_be_bytes();
        let [w0, w1] = self.window_pleaded.to_be_bytes();
        let tcp = [
            s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, 0x50, FLAG_ACK, w0, w1, 0, 0, 0, 0,
        ];
        let mut packet = match own.0 {
            IpAddr::V4(_) => vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, PROTOCOL_TCP, 0, 0],
            IpAddr::V6(_) => vec![0x60, 0, 0, 0, 0, 20, PROTOCOL_TCP, 64],
        };
        for address in [peer.0, own.0] {
            match address {
                IpAddr::V4(v4) => packet.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => packet.extend_from_slice(&v6.octets()),
            }
        }
        packet.extend_from_slice(&tcp);
        packet
    }

    fn progress(&mut self, now: Instant, acknowledgment: u32) {
        self.acknowledged = Some(acknowledgment);
        self.duplicates = 0;
        self.tries = 0;
        if let Some((end, at)) = self.sample
            && !is_after(end, acknowledgment)
        {
            self.sample = None;
            self.measure(now.saturating_duration_since(at));
        }
        let outstanding = self.sent.is_some_and(|sent| is_after(sent, acknowledgment));
        self.timer = outstanding.then(|| now + self.timeout());
        self.waiting = outstanding.then_some(now);
        match self.until {
            Some(until) if is_after(until, acknowledgment) => self.repeat = true,
            Some(_) => self.until = None,
            None => {}
        }
    }

    /// From the third on, smoltcp itself repeats the oldest segment.
    fn duplicate(&mut self) {
        self.duplicates = self.duplicates.saturating_add(1);
        if self.duplicates == 3 && self.until.is_none() {
            self.until = self.sent;
        }
    }

    fn measure(&mut self, sample: Duration) {
        self.rtt = Some(match self.rtt {
            None => Rtt {
                smoothed: sample,
                variance: sample / 2,
            },
            Some(Rtt { smoothed, variance }) => Rtt {
                smoothed: (smoothed * 7 + sample) / 8,
                variance: (variance * 3 + smoothed.abs_diff(sample)) / 4,
            },
        });
    }

    fn timeout(&self) -> Duration {
        if self.tries > TRIES_SOON {
            return TIMEOUT_LATER;
        }
        let base = self.rtt.map_or(TIMEOUT_FIRST, |rtt| {
            (rtt.smoothed + rtt.variance * 4 + ACK_DELAY).max(TIMEOUT_MIN)
        });
        (base * 2_u32.saturating_pow(self.tries)).min(TIMEOUT_MAX)
    }
}

fn parse(packet: &[u8]) -> Option<Segment> {
    let header_len = match packet.first()? >> 4 {
        4 => usize::from(packet.first()? & 0x0f) * 4,
        _ => 40,
    };
    let tcp = packet.get(header_len..)?;
    let header = tcp.first_chunk::<20>()?;
    let [
        _,
        _,
        _,
        _,
        q0,
        q1,
        q2,
        q3,
        a0,
        a1,
        a2,
        a3,
        offset,
        flags,
        w0,
        w1,
        ..,
    ] = *header;
    let payload = tcp.len().checked_sub(usize::from(offset >> 4) * 4)?;
    let controls = u32::from(flags & FLAG_SYN != 0) + u32::from(flags & FLAG_FIN != 0);
    Some(Segment {
        sequence: u32::from_be_bytes([q0, q1, q2, q3]),
        acknowledgment: (flags & FLAG_ACK != 0).then_some(u32::from_be_bytes([a0, a1, a2, a3])),
        window: u16::from_be_bytes([w0, w1]),
        syn: flags & FLAG_SYN != 0,
        fin: flags & FLAG_FIN != 0,
        len: u32::try_from(payload).ok()? + controls,
    })
}

/// Whether sequence number `a` comes after `b` (RFC 1982).
const fn is_after(a: u32, b: u32) -> bool {
    let ahead = a.wrapping_sub(b);
    ahead != 0 && ahead < 0x8000_0000
}

/// How often [`Recovery::plea`] must be heard: one that resets the count, and three duplicates.
pub(crate) const REPEAT_PACKETS: usize = 4;

const PROTOCOL_TCP: u8 = 6;
const FLAG_FIN: u8 = 0x01;
const FLAG_SYN: u8 = 0x02;
const FLAG_ACK: u8 = 0x10;

/// How long bytes may wait for any sign of the peer's end of a flow before that counts as cut.
const PATIENCE: Duration = Duration::from_secs(60);

/// First wait for the answer to a SYN; doubles up to [`HANDSHAKE_RETRY_MAX`].
const HANDSHAKE_RETRY: Duration = Duration::from_millis(250);

/// Longest wait between two SYNs.
const HANDSHAKE_RETRY_MAX: Duration = Duration::from_secs(1);

/// Until a round trip is measured. Linux begins there after its SYN; we have one measured by then.
const TIMEOUT_FIRST: Duration = Duration::from_millis(300);

/// Room for a scheduler's hiccup; a needless repetition costs a third of the congestion window.
const TIMEOUT_MIN: Duration = Duration::from_millis(30);

/// The peer may hold an acknowledgment back for so long.
const ACK_DELAY: Duration = Duration::from_millis(15);

/// Longest wait between two repetitions.
const TIMEOUT_MAX: Duration = Duration::from_secs(1);

/// Repetitions after which they become rare, within the [`PATIENCE`] that a flow has: only a tunnel whose
/// other end is away waits for longer, and [`Recovery::rerouted`] tells when it is back.
const TRIES_SOON: u32 = 60;

/// The wait between two of those.
const TIMEOUT_LATER: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap() {
        assert!(is_after(1, 0xffff_fff0));
        assert!(!is_after(0xffff_fff0, 1));
        assert!(!is_after(5, 5));
    }

    #[test]
    fn a_partial_acknowledgment_repeats_the_next_hole_and_a_full_one_ends_it() {
        let now = cardea_proto::time::testing::start().instant;
        let mut recovery = Recovery::default();
        recovery.came(now, &segment(0, 100, FLAG_ACK, 0));
        for start in [100, 200, 300, 400] {
            recovery.sent(now, &segment(start, 0, FLAG_ACK, 100));
        }
        for _ in 0..3 {
            recovery.came(now, &segment(0, 100, FLAG_ACK, 0));
        }
        assert!(!recovery.repeat_due(now), "smoltcp does that one");
        recovery.came(now, &segment(0, 200, FLAG_ACK, 0));
        assert!(recovery.repeat_due(now));
        assert!(!recovery.repeat_due(now));
        recovery.came(now, &segment(0, 500, FLAG_ACK, 0));
        assert!(!recovery.repeat_due(now));
        assert_eq!(recovery.deadline(), None);
    }

    #[test]
    fn silence_repeats_the_oldest_segment_and_waits_longer_each_time() {
        let now = cardea_proto::time::testing::start().instant;
        let mut recovery = Recovery::default();
        recovery.came(now, &segment(0, 100, FLAG_ACK, 0));
        recovery.sent(now, &segment(100, 0, FLAG_ACK, 100));
        assert_eq!(recovery.deadline(), Some(now + TIMEOUT_FIRST));
        assert!(recovery.repeat_due(now + TIMEOUT_FIRST));
        assert_eq!(recovery.deadline(), Some(now + TIMEOUT_FIRST * 3));
    }

    #[test]
    fn each_plea_differs_from_whatever_the_socket_saw_last() {
        let now = cardea_proto::time::testing::start().instant;
        let mut recovery = Recovery::default();
        let end = (IpAddr::from([192, 0, 2, 1]), 80);
        let window_of_plea =
            |recovery: &mut Recovery| parse(&recovery.plea(end, end)).unwrap().window;
        recovery.came(now, &segment(0, 100, FLAG_ACK, 0));
        let mut before = parse(&segment(0, 100, FLAG_ACK, 0)).unwrap().window;
        let came = before;
        for is_heard_between in [false, true, false, false, true] {
            if is_heard_between {
                // A segment once more, of which the socket may or may not read the window.
                recovery.came(now, &segment(0, 100, FLAG_ACK, 10));
            }
            let window = window_of_plea(&mut recovery);
            assert!(window != before && window != came);
            before = window;
        }
    }

    fn segment(sequence: u32, acknowledgment: u32, flags: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![0; 40 + len];
        packet[0] = 0x45;
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        packet[28..32].copy_from_slice(&acknowledgment.to_be_bytes());
        packet[32] = 0x50;
        packet[33] = flags;
        packet[34] = 0x20;
        packet
    }
}
