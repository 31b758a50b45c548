//! What a door remembers of one knocker.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use cardea_proto::{
    codec::Secret32,
    time::{Now, UnixMillis},
};

use super::{
    Moment,
    door::{Stay, WINDOW},
    secs_of,
};

/// Knocks that a node may make at once.
///
/// An address of each of a name's four is tried at the same time, so this is seven rounds of it.
pub(super) const BURST: u32 = 30;

/// The same for a code: two hundred who have it at the same time are all told that it is used, also
/// when each knocks twice because the machine is slow. No more than one of them is ever let in, and a
/// code that lasts is worth no more handshakes than this.
pub(super) const BURST_OF_CODE: u32 = 440;

/// Time after which one more is allowed: what the longest backoff of a node comes to on average.
const KNOCK_TIME: Duration = Duration::from_secs(10);

/// Moments that are remembered of each knocker.
///
/// More than the bucket lets in during a whole window, so that nobody who keeps to it ever meets the
/// floor; 8 bytes each.
const MOMENTS_MAX: usize = 1_024;

/// One knocker. There may be hundreds of thousands, of whom few knock at a time: the keys of a seed
/// are made when they are needed, and so is the room for what was heard.
#[derive(Debug)]
pub(super) struct Record {
    seeds: Box<[Secret32]>,
    stay: Stay,
    /// Knocks that are allowed at once.
    burst: u32,
    is_dismissed: bool,
    visits: Option<Box<Visits>>,
}

/// What a knocker's knocks leave behind.
#[derive(Debug, Default)]
struct Visits {
    /// Knocks of the window that were heard.
    heard: BTreeSet<Moment>,
    /// All up to here counts as heard.
    floor: Option<Moment>,
    /// When the bucket would be full again.
    full_at: Option<Instant>,
}

impl Record {
    pub(super) fn new(seeds: Vec<Secret32>, stay: Stay, burst: u32) -> Self {
        Self {
            seeds: seeds.into_boxed_slice(),
            stay,
            burst,
            is_dismissed: false,
            visits: None,
        }
    }

    /// Takes other seeds and another end; what was heard stays heard.
    pub(super) fn renew(&mut self, seeds: Vec<Secret32>, stay: Stay) {
        self.seeds = seeds.into_boxed_slice();
        self.stay = stay;
        self.is_dismissed = false;
    }

    /// All seeds that open.
    pub(super) fn seeds(&self) -> &[Secret32] {
        &self.seeds
    }

    /// It leaves, in its time.
    pub(super) const fn dismiss(&mut self) {
        self.is_dismissed = true;
    }

    /// Whether it may no longer knock.
    pub(super) fn is_over(&self, now: UnixMillis) -> bool {
        match self.stay {
            Stay::Until(end) => end <= now,
            Stay::UntilDismissed { then } => self.is_dismissed && then <= now,
        }
    }

    /// Notes a knock; `false` when it was heard before.
    pub(super) fn hear(&mut self, moment: Moment, now: UnixMillis) -> bool {
        self.visits().hear(moment, now)
    }

    /// Takes one handshake out of the bucket; `false` when it is empty.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let burst = self.burst;
        self.visits().spend(now, burst)
    }

    /// Whether all that it made would be late by now, and its bucket is full again.
    pub(super) fn is_silent(&self, now: Now) -> bool {
        let visits = self.visits.as_ref();
        visits.is_none_or(|visits| visits.is_silent(now))
    }

    fn visits(&mut self) -> &mut Visits {
        self.visits.get_or_insert_default()
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.visits.as_ref().map_or(0, |visits| visits.heard.len())
    }
}

impl Visits {
    fn hear(&mut self, moment: Moment, now: UnixMillis) -> bool {
        let is_old = self.floor.is_some_and(|floor| moment <= floor);
        if is_old || !self.heard.insert(moment) {
            return false;
        }
        let late = secs_of(now).saturating_sub(window_secs());
        while let Some(oldest) = self.heard.first().copied() {
            let is_late = oldest.secs < late;
            if !is_late && self.heard.len() <= MOMENTS_MAX {
                break;
            }
            self.heard.pop_first();
            // What is late is refused for that; what still is not must not be taken again.
            if !is_late {
                self.floor = Some(oldest);
            }
        }
        true
    }

    fn spend(&mut self, now: Instant, burst: u32) -> bool {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + KNOCK_TIME;
        let is_allowed = full_at <= now + KNOCK_TIME * burst;
        if is_allowed {
            self.full_at = Some(full_at);
        }
        is_allowed
    }

    fn is_silent(&self, now: Now) -> bool {
        let late = secs_of(now.unix).saturating_sub(window_secs());
        let is_late = self.heard.last().is_none_or(|last| last.secs < late);
        is_late && self.full_at.is_none_or(|full_at| full_at <= now.instant)
    }
}

/// The window, in seconds.
pub(super) fn window_secs() -> u32 {
    u32::try_from(WINDOW.as_secs()).unwrap_or(u32::MAX)
}
