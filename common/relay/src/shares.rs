//! The budget of ticket checks, divided so that no source spends what belongs to the others.
//!
//! Half of the budget is for whoever comes, so that one connector whose tunnels all bind at once is
//! as fast as the relay can be. What lies below is only spent within each source's own share.
//!
//! A source is what the datagram says. Whoever forges many of them can still spend all; the ends
//! that are bound need no check and do not notice.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_proto::source::Source;

use crate::budget::Budget;

/// One budget and the shares in it.
#[derive(Debug)]
pub(crate) struct Shares {
    all: Budget,
    per_second: u32,
    /// Those that spent something of their share and have not earned it back.
    by_source: BTreeMap<Source, Budget>,
    swept: Option<Instant>,
}

impl Shares {
    /// Shares in `per_second` pieces of work.
    pub(crate) const fn new(per_second: u32) -> Self {
        Self {
            all: Budget::new(per_second),
            per_second,
            by_source: BTreeMap::new(),
            swept: None,
        }
    }

    /// Whether one more piece of work fits for whoever sends from `from`.
    pub(crate) fn take(&mut self, now: Instant, from: SocketAddr) -> bool {
        let left = self.all.left(now);
        // Without budget nothing is stored: a place in the table costs a piece of work.
        if left == 0 {
            return false;
        }
        let is_plenty = left > self.per_second / 2;
        let may = is_plenty || self.share(now, from).is_some_and(|own| own.take(now));
        may && self.all.take(now)
    }

    /// The share of a source; `None` when there is no place for one more.
    fn share(&mut self, now: Instant, from: SocketAddr) -> Option<&mut Budget> {
        let source = Source::of(from);
        if self.by_source.len() >= SOURCES_MAX && !self.by_source.contains_key(&source) {
            self.sweep(now);
            if self.by_source.len() >= SOURCES_MAX {
                return None;
            }
        }
        let share = (self.per_second / SHARES).max(1);
        let own = self.by_source.entry(source);
        Some(own.or_insert_with(|| Budget::new(share)))
    }

    /// Forgets who has a whole share again, once in a second at most.
    fn sweep(&mut self, now: Instant) {
        let is_soon = self
            .swept
            .is_some_and(|swept| now < swept + Duration::from_secs(1));
        if !is_soon {
            self.swept = Some(now);
            self.by_source.retain(|_, own| !own.is_full(now));
        }
    }
}

/// Into how many shares the budget is divided.
///
/// At the default of 5,000 checks each is 312 tunnels a second, and the half that is not spent
/// beyond a share serves eight sources that all want theirs while somebody floods.
const SHARES: u32 = 16;

/// Most sources that are told apart, in about a mebibyte: three seconds of the default budget, each
/// piece of it spent by another source. Whoever comes then is served when there is plenty again.
const SOURCES_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use cardea_proto::time::testing::start;

    use super::*;

    #[test]
    fn one_source_may_spend_half_and_its_share_and_leaves_theirs_to_others() {
        let now = start().instant;
        let mut shares = Shares::new(160);
        assert_eq!(taken(&mut shares, now, 1, 1_000), 80 + 10);
        for other in 2..9 {
            assert_eq!(taken(&mut shares, now, other, 1_000), 10);
        }
        assert_eq!(taken(&mut shares, now, 99, 1_000), 0);
        let later = now + Duration::from_secs(1);
        assert_eq!(taken(&mut shares, later, 99, 1_000), 80 + 10);
    }

    #[test]
    fn a_lone_source_earns_the_whole_budget_again() {
        let start = start().instant;
        let mut shares = Shares::new(1_000);
        let first = taken(&mut shares, start, 1, 10_000);
        let in_a_second: usize = (1..=1_000)
            .map(|ms| taken(&mut shares, start + Duration::from_millis(ms), 1, 10))
            .sum();
        assert!(first >= 500, "{first}");
        // Less the share that it spent before, which belongs to others again.
        assert!(in_a_second >= 1_000 - 63, "{in_a_second}");
    }

    #[test]
    fn the_table_is_bounded_and_room_comes_back() {
        let now = start().instant;
        let mut shares = Shares::new(60_000);
        assert_eq!(taken(&mut shares, now, 0, 30_000), 30_000);
        assert!(shares.by_source.is_empty(), "there was plenty");
        let served = (0..30_000)
            .filter(|source| shares.take(now, address(*source)))
            .count();
        assert_eq!(served, SOURCES_MAX);
        assert_eq!(shares.by_source.len(), SOURCES_MAX);
        let later = now + Duration::from_secs(2);
        assert_eq!(taken(&mut shares, later, 40_000, 30_001), 30_001);
        assert_eq!(shares.by_source.len(), 1);
    }

    #[test]
    fn without_budget_nothing_is_stored() {
        let now = start().instant;
        let mut shares = Shares::new(100);
        for source in 0..1_000 {
            shares.take(now, address(source));
        }
        assert_eq!(shares.by_source.len(), 50);
        let mut none = Shares::new(0);
        assert!(!none.take(now, address(1)));
        assert!(none.by_source.is_empty());
    }

    fn taken(shares: &mut Shares, now: Instant, source: u32, times: usize) -> usize {
        (0..times)
            .filter(|_| shares.take(now, address(source)))
            .count()
    }

    fn address(source: u32) -> SocketAddr {
        (source.to_be_bytes(), 7).into()
    }
}
