//! How two ends tell each other where they may be reached, through the relay and under their seal.
//!
//! Each end counts the changes of its list and says which of the other one's it has heard last. It
//! repeats its own until it has been heard, and answers whoever waits for that.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_proto::path::{CANDIDATES_MAX, PathFrame};

/// The lists of both ends.
#[derive(Debug)]
pub(crate) struct Exchange {
    own: Vec<SocketAddr>,
    version: u32,
    /// The version of ours that the peer has heard.
    confirmed: u32,
    /// The version of the peer's that we have heard.
    heard: u32,
    next: Option<Instant>,
    pause: Duration,
    tries: u8,
    told: Option<Instant>,
}

impl Exchange {
    pub(crate) fn new() -> Self {
        Self {
            own: Vec::new(),
            version: 0,
            confirmed: 0,
            heard: 0,
            next: None,
            pause: PAUSE_MIN,
            tries: 0,
            told: None,
        }
    }

    /// This end's addresses from now on.
    pub(crate) fn set(&mut self, now: Instant, mut own: Vec<SocketAddr>) {
        own.truncate(CANDIDATES_MAX);
        if own == self.own {
            return;
        }
        self.own = own;
        self.version += 1;
        self.tries = 0;
        self.pause = PAUSE_MIN;
        self.next = Some(now);
    }

    /// Takes the other end's list; says whether it is a new one.
    pub(crate) fn heard(&mut self, now: Instant, version: u32, heard: u32, asks: bool) -> bool {
        self.confirmed = self.confirmed.max(heard.min(self.version));
        if self.confirmed == self.version {
            self.next = None;
        }
        let is_new = version > self.heard;
        self.heard = self.heard.max(version);
        if asks {
            let rested = self.told.map_or(now, |told| now.max(told + REST));
            self.next = Some(self.next.map_or(rested, |next| next.min(rested)));
            self.tries = self.tries.min(TRIES_MAX - 1);
        }
        is_new
    }

    /// The other end has been heard for the first time: what was said before may have been lost.
    pub(crate) fn repeat(&mut self, now: Instant) {
        if self.confirmed < self.version {
            self.tries = 0;
            self.pause = PAUSE_MIN;
            self.next = Some(now);
        }
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// What is to be said now.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<PathFrame> {
        if self.next? > now {
            return None;
        }
        self.tries += 1;
        let goes_on = self.confirmed < self.version && self.tries < TRIES_MAX;
        self.next = goes_on.then_some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.told = Some(now);
        Some(PathFrame::Candidates {
            version: self.version,
            heard: self.heard,
            asks: self.confirmed < self.version,
            addresses: self.own.clone(),
        })
    }
}

/// First wait until an unconfirmed list is said again; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// Longest such wait.
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// How often a list is said to somebody who does not confirm it: over the first eight seconds.
const TRIES_MAX: u8 = 6;

/// Shortest time between two answers, whatever the other end says.
const REST: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_know_each_others_lists_after_three_frames_and_fall_silent() {
        let mut bench = Bench::new();
        assert_eq!(bench.exchange(|_| false), 3);
        assert!(
            bench
                .ends
                .iter()
                .all(|end| end.confirmed == 1 && end.heard == 1)
        );
        let now = bench.now;
        bench.ends[1].set(now, vec!["192.0.2.9:9".parse().unwrap()]);
        assert_eq!(bench.exchange(|_| false), 2);
        assert_eq!(bench.ends[0].heard, 2);
    }

    #[test]
    fn what_is_lost_is_said_again() {
        for lost in 0..4 {
            let mut bench = Bench::new();
            bench.exchange(|frame| frame == lost);
            assert!(
                bench
                    .ends
                    .iter()
                    .all(|end| end.confirmed == 1 && end.heard == 1)
            );
        }
    }

    #[test]
    fn who_is_not_heard_stops() {
        let mut bench = Bench::new();
        assert_eq!(bench.exchange(|_| true), 2 * usize::from(TRIES_MAX));
    }

    #[test]
    fn the_same_list_is_no_news_and_no_more_than_fit_are_said() {
        let now = cardea_proto::time::testing::start().instant;
        let mut exchange = Exchange::new();
        let many: Vec<SocketAddr> = (1..=20).map(|port| ([192, 0, 2, 1], port).into()).collect();
        exchange.set(now, many.clone());
        let Some(PathFrame::Candidates { addresses, .. }) = exchange.poll(now) else {
            panic!("nothing was said");
        };
        assert_eq!(addresses.len(), CANDIDATES_MAX);
        exchange.set(now, many);
        assert_eq!(exchange.version, 1);
    }

    struct Bench {
        ends: [Exchange; 2],
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let now = cardea_proto::time::testing::start().instant;
            let ends = [1, 2].map(|port| {
                let mut end = Exchange::new();
                end.set(now, vec![([192, 0, 2, 1], port).into()]);
                end
            });
            Self { ends, now }
        }

        /// Lets both ends talk until they stop; counts the frames.
        fn exchange(&mut self, is_lost: impl Fn(usize) -> bool) -> usize {
            let mut count = 0;
            while let Some(at) = self.ends.iter().filter_map(Exchange::deadline).min() {
                self.now = at.max(self.now);
                for from in [0, 1] {
                    let frame = self.ends[from].poll(self.now);
                    if let Some(PathFrame::Candidates {
                        version,
                        heard,
                        asks,
                        ..
                    }) = frame
                    {
                        if !is_lost(count) {
                            self.ends[1 - from].heard(self.now, version, heard, asks);
                        }
                        count += 1;
                    }
                }
            }
            count
        }
    }
}
