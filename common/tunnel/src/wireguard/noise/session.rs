//! The keys of one session: what seals and opens packets.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use cardea_aead::{Key, Opening, Sealing, TAG_BYTES};

use super::handshake;

/// A pair of keys, one for each direction.
pub(super) struct Keys {
    pub(super) own_index: u32,
    peer_index: u32,
    sealing: Key,
    opening: Key,
    sent: u64,
    window: Window,
    since: Instant,
}

impl Keys {
    pub(super) fn new(
        now: Instant,
        (own_index, peer_index): (u32, u32),
        sealing: &handshake::Key,
        opening: &handshake::Key,
    ) -> Option<Self> {
        Some(Self {
            own_index,
            peer_index,
            sealing: Key::new(sealing)?,
            opening: Key::new(opening)?,
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
        let (number, total) = self.number(now, len, room)?;
        let job = Sealing::new(number, room.get_mut(HEADER_BYTES..total)?)?;
        self.sealing.seal(&mut [job]);
        Some(total)
    }

    /// Gives the `len` bytes that stand [`HEADER_BYTES`] into `room` a header with a number, under
    /// which [`Keys::seal_all`] must seal them; says which, and how long the datagram is.
    pub(super) fn number(
        &mut self,
        now: Instant,
        len: usize,
        room: &mut [u8],
    ) -> Option<(u64, usize)> {
        if !self.is_fresh(now) {
            return None;
        }
        let room = room.get_mut(..HEADER_BYTES + len + TAG_BYTES)?;
        let (header, _) = room.split_first_chunk_mut::<HEADER_BYTES>()?;
        let [p0, p1, p2, p3] = self.peer_index.to_le_bytes();
        let number = self.sent;
        let [c0, c1, c2, c3, c4, c5, c6, c7] = number.to_le_bytes();
        *header = [
            KIND_DATA, 0, 0, 0, p0, p1, p2, p3, c0, c1, c2, c3, c4, c5, c6, c7,
        ];
        self.sent += 1;
        Some((number, room.len()))
    }

    /// Seals bodies under the numbers that [`Keys::number`] gave them.
    pub(super) fn seal_all(&self, jobs: &mut [Sealing<'_>]) {
        self.sealing.seal(jobs);
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
        let room = room.get_mut(..sealed.len().checked_sub(TAG_BYTES)?)?;
        let mut jobs = [Opening::new(number, sealed, &mut *room)?];
        self.opening.open(&mut jobs);
        let [job] = jobs;
        job.opened()?;
        self.window.take(number);
        Some(room)
    }

    /// Opens what follows the headers of datagrams, into one room after the other; says where each
    /// stands, `None` for those that one by one would not be opened.
    pub(super) fn open_all<'a>(
        &mut self,
        now: Instant,
        datagrams: impl Iterator<Item = (u64, &'a [u8])> + Clone,
        mut room: &mut [u8],
    ) -> Vec<Option<Range<usize>>> {
        let (mut jobs, mut at) = (Vec::with_capacity(datagrams.clone().count()), 0);
        let mut places: Vec<_> = datagrams
            .clone()
            .map(|(number, sealed)| {
                if !self.is_fresh(now) || !self.window.would_take(number) {
                    return None;
                }
                let len = sealed.len().checked_sub(TAG_BYTES)?;
                let (front, behind) = std::mem::take(&mut room).split_at_mut_checked(len)?;
                room = behind;
                let place = at..at + len;
                at = place.end;
                jobs.push(Opening::new(number, sealed, front)?);
                Some(place)
            })
            .collect();
        self.opening.open(&mut jobs);
        let mut jobs = jobs.into_iter();
        for (place, (number, _)) in places.iter_mut().zip(datagrams) {
            let job = place.as_ref().and_then(|_| jobs.next());
            // Asked again: the same number may stand twice among these.
            if job.and_then(Opening::opened).is_some() && self.window.would_take(number) {
                self.window.take(number);
            } else {
                *place = None;
            }
        }
        places
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
