//! How large a tunnel's datagrams are, and whether those of one size come through the relay.

use std::time::{Duration, Instant};

use cardea_proto::relay::DATA_HEADER_BYTES;

/// Whether datagrams of one size come through the relay.
///
/// ```text
///  begin ──▶ asks 0 s, 0.5 s, 1 s, and every 600 s ──answered──▶ carries ──large ones flow──▶ asks every 0.75 s
///                 ▲                                                 ▲                                 │ │
///                 │                                                 └────────────answered─────────────┘ │
///                 └──────────────────────────── five were not: lost ◀──────────────────────────────────┘
/// ```
#[derive(Debug, Default)]
pub(super) struct Measure {
    /// The size; zero when nobody wants to know.
    pub(super) size: usize,
    pub(super) carries: usize,
    pub(super) next: Option<Instant>,
    asked: u32,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask the other end with a datagram of that size.
    Ask,
    /// They came through, and do no longer.
    Lost,
}

impl Measure {
    /// The way is new: nothing is known of it.
    pub(super) fn begin(&mut self, now: Instant) {
        *self = Self {
            size: self.size,
            carries: 0,
            next: (self.size > 0).then_some(now),
            asked: 0,
        };
    }

    /// A datagram of `size` went that way, which is to be watched while such ones do; says whether the
    /// deadline is another one.
    pub(super) fn sent(&mut self, now: Instant, size: usize) -> bool {
        let begins = self.carries > 0 && size > SMALL_MAX && self.next.is_none();
        if begins {
            self.next = Some(now + WATCH_EVERY);
        }
        begins
    }

    /// What to do now. Of a way that is new it is asked a few times soon, because each may be lost, and then
    /// once in a while, because a way may change without a word. Of one that carried, with this `pause`,
    /// unless the other end is silent to smaller ones as well.
    pub(super) fn poll(&mut self, now: Instant, pause: Duration, is_silent: bool) -> Option<Step> {
        if self.next.is_none_or(|next| now < next) {
            return None;
        }
        if self.carries == 0 {
            self.asked = self.asked.saturating_add(1);
            let soon = self.asked < 3;
            self.next = Some(now + if soon { MEASURE_SOON } else { MEASURE_LATER });
            return Some(Step::Ask);
        }
        if is_silent {
            (self.asked, self.next) = (0, None);
            return None;
        }
        if self.asked < WATCH_TRIES {
            self.asked += 1;
            self.next = Some(now + pause.max(WATCH_AGAIN));
            return Some(Step::Ask);
        }
        (self.carries, self.next) = (0, Some(now + MEASURE_LATER));
        Some(Step::Lost)
    }

    pub(super) fn answered(&mut self, size: usize) {
        if self.size > 0 && size >= self.size {
            self.carries = size;
            self.asked = 0;
            self.next = None;
        }
    }
}

/// How soon it is asked again whether a datagram comes through, and how soon when none did.
const MEASURE_SOON: Duration = Duration::from_millis(500);
const MEASURE_LATER: Duration = Duration::from_secs(600);

/// How often it is asked while large datagrams flow: so that with the tries a way that eats them is left
/// within two seconds.
const WATCH_EVERY: Duration = Duration::from_millis(750);

/// Questions before that: at 20 % loss each way, all fail together once in 160 times.
const WATCH_TRIES: u32 = 5;

/// Least pause between two of them.
const WATCH_AGAIN: Duration = Duration::from_millis(250);

/// Bytes of a datagram that every path carries, as a carrier makes it that knows no better.
///
/// Source: RFC 8200 §5, without the headers of IPv6 and UDP.
const SMALL_MAX: usize = 1_280 - 40 - 8;

/// The largest datagrams of the last half minute.
#[derive(Debug)]
pub(super) struct Sizes {
    before: usize,
    lately: usize,
    turned: Instant,
}

impl Sizes {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            before: 0,
            lately: 0,
            turned: now,
        }
    }

    pub(super) fn note(&mut self, size: usize) {
        self.lately = self.lately.max(size);
    }

    pub(super) fn turn(&mut self, now: Instant) {
        if now >= self.turned + SIZES_FOR {
            self.before = std::mem::take(&mut self.lately);
            self.turned = now;
        }
    }

    pub(super) fn largest(&self) -> usize {
        self.before.max(self.lately).max(SIZE_MIN)
    }
}

/// What a path must carry to be of any use: QUIC's smallest, behind the header. Source: RFC 9000 §14.
const SIZE_MIN: usize = 1_200 + DATA_HEADER_BYTES;

/// How long a datagram's size counts as in use.
const SIZES_FOR: Duration = Duration::from_secs(15);
