//! The keys of one session: what seals and opens packets.

use std::time::{Duration, Instant};

use aws_lc_rs::aead::{Aad, LessSafeKey};

use super::handshake::{Key, TAG_BYTES, cipher, nonce};

/// A pair of keys, one for each direction.
pub(super) struct Keys {
    pub(super) own_index: u32,
    peer_index: u32,
    sealing: LessSafeKey,
    opening: LessSafeKey,
    sent: u64,
    window: Window,
    since: Instant,
}

impl Keys {
    pub(super) fn new(
        now: Instant,
        (own_index, peer_index): (u32, u32),
        sealing: &Key,
        opening: &Key,
    ) -> Option<Self> {
        Some(Self {
            own_index,
            peer_index,
            sealing: cipher(sealing)?,
            opening: cipher(opening)?,
            sent: 0,
            window: Window::default(),
            since: now,
        })
    }

    /// Whether they may still be used. Source: the WireGuard paper, §6.2.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < REJECT_AFTER
            && self.sent < REJECT_AFTER_MESSAGES
    }

    /// Seals the `len` bytes that stand [`HEADER_BYTES`] into `room`; says how long the datagram is.
    pub(super) fn seal(&mut self, now: Instant, len: usize, room: &mut [u8]) -> Option<usize> {
        if !self.is_fresh(now) {
            return None;
        }
        let room = room.get_mut(..HEADER_BYTES + len + TAG_BYTES)?;
        let (header, rest) = room.split_first_chunk_mut::<HEADER_BYTES>()?;
        let (body, tag) = rest.split_at_mut_checked(len)?;
        let made = self
            .sealing
            .seal_in_place_separate_tag(nonce(self.sent), Aad::empty(), body)
            .ok()?;
        tag.copy_from_slice(made.as_ref());
        let [p0, p1, p2, p3] = self.peer_index.to_le_bytes();
        let [c0, c1, c2, c3, c4, c5, c6, c7] = self.sent.to_le_bytes();
        *header = [
            KIND_DATA, 0, 0, 0, p0, p1, p2, p3, c0, c1, c2, c3, c4, c5, c6, c7,
        ];
        self.sent += 1;
        Some(HEADER_BYTES + len + TAG_BYTES)
    }

    /// Opens what follows the header of a datagram; a number that came before is not opened again.
    pub(super) fn open<'a>(
        &mut self,
        now: Instant,
        number: u64,
        sealed: &[u8],
        room: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        if !self.is_fresh(now) || !self.window.would_take(number) {
            return None;
        }
        let len = sealed.len().checked_sub(TAG_BYTES)?;
        let (body, tag) = sealed.split_at_checked(len)?;
        let room = room.get_mut(..len)?;
        self.opening
            .open_separate_gather(nonce(number), Aad::empty(), body, tag, room)
            .ok()?;
        self.window.take(number);
        Some(room)
    }
}

/// Which numbers have come. Source: RFC 6479.
#[derive(Default)]
struct Window {
    /// One more than the highest that came.
    next: u64,
    words: [u64; WINDOW_WORDS],
}

impl Window {
    fn would_take(&self, number: u64) -> bool {
        if number >= self.next {
            return number < REJECT_AFTER_MESSAGES;
        }
        self.next - number <= WINDOW
            && self
                .word(number)
                .is_some_and(|word| word & bit(number) == 0)
    }

    fn take(&mut self, number: u64) {
        if number >= self.next {
            // The word of `next` itself is clear unless it holds numbers before it.
            let first = self.next.div_ceil(64);
            let last = number / 64;
            for word in first..=last.min(first.saturating_add(WINDOW_SPAN)) {
                if let Some(word) = self.words.get_mut(place(word)) {
                    *word = 0;
                }
            }
            self.next = number + 1;
        }
        if let Some(word) = self.words.get_mut(place(number / 64)) {
            *word |= bit(number);
        }
    }

    fn word(&self, number: u64) -> Option<u64> {
        self.words.get(place(number / 64)).copied()
    }
}

fn place(word: u64) -> usize {
    usize::try_from(word % WINDOW_SPAN).unwrap_or(0)
}

const fn bit(number: u64) -> u64 {
    1 << (number % 64)
}

/// Kind of a datagram that holds a packet. Source: the WireGuard paper, §5.4.6.
pub(super) const KIND_DATA: u8 = 4;

/// Kind, receiver's index and number. Source: the same.
pub(crate) const HEADER_BYTES: usize = 16;

/// Source: the WireGuard paper, §6.1, `Reject-After-Time`.
const REJECT_AFTER: Duration = Duration::from_secs(180);

/// Source: the WireGuard paper, §6.1, `Reject-After-Messages`.
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

const WINDOW_WORDS: usize = 32;
const WINDOW_SPAN: u64 = 32;

/// How far a number may lie behind the highest: all words but the one that is being filled.
const WINDOW: u64 = (WINDOW_SPAN - 1) * 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_taken_once_and_never_when_it_is_too_old(
            steps in prop::collection::vec(prop_oneof![0_u64..4, 0_u64..70, 0_u64..5_000], 1..300),
            back in prop::collection::vec(0_u64..2_200, 300),
        ) {
            let mut window = Window::default();
            let mut seen = BTreeSet::new();
            let mut highest = 0;
            for (step, back) in steps.iter().zip(back) {
                let number = (highest + step).saturating_sub(back);
                let fresh = !seen.contains(&number) && number + WINDOW > highest;
                let takes = window.would_take(number);
                prop_assert!(!takes || !seen.contains(&number), "twice: {number}");
                if fresh && number + WINDOW > highest + 64 {
                    prop_assert!(takes, "{number} of {highest}");
                }
                if takes {
                    window.take(number);
                    prop_assert!(!window.would_take(number));
                    seen.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }
}
