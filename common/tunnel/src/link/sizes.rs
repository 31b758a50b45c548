//! How large a tunnel's datagrams are, and whether those of one size come through the relay.

use std::time::{Duration, Instant};

use cardea_proto::relay::DATA_HEADER_BYTES;

/// Whether datagrams of one size come through the relay.
#[derive(Debug, Default)]
pub(super) struct Measure {
    /// The size; zero when nobody wants to know.
    pub(super) size: usize,
    pub(super) carries: usize,
    pub(super) next: Option<Instant>,
    asked: u32,
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

    /// Whether to ask now: a few times soon, because each may be lost, and then once in a while,
    /// because a way may change without a word.
    pub(super) fn poll(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
        }
        self.asked = self.asked.saturating_add(1);
        self.next = Some(
            now + if self.asked < 3 {
                MEASURE_SOON
            } else {
                MEASURE_LATER
            },
        );
        true
    }

    pub(super) fn answered(&mut self, size: usize) {
        if self.size > 0 && size >= self.size {
            self.carries = size;
            self.next = None;
        }
    }
}

/// How soon it is asked again whether a datagram comes through, and how soon when none did.
const MEASURE_SOON: Duration = Duration::from_millis(500);
const MEASURE_LATER: Duration = Duration::from_secs(600);

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
