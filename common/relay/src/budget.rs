//! A bucket of tokens: so many at once, so many more each second.

use std::time::{Duration, Instant};

/// How much work a second may hold.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: u32,
    tokens: u32,
    refilled: Option<Instant>,
}

impl Budget {
    pub(crate) const fn new(per_second: u32) -> Self {
        Self {
            per_second,
            tokens: per_second,
            refilled: None,
        }
    }

    /// Whether one more piece of work fits.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let fits = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        fits
    }

    /// How much fits at once.
    pub(crate) fn left(&mut self, now: Instant) -> u32 {
        self.refill(now);
        self.tokens
    }

    /// Whether nothing of it is spent.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.left(now) == self.per_second
    }

    /// Adds what time has earned; the remainder of a token stays in the time that is left over.
    fn refill(&mut self, now: Instant) {
        let since = *self.refilled.get_or_insert(now);
        let Some(per_token) = Duration::from_secs(1).checked_div(self.per_second) else {
            return;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= Duration::from_secs(1) {
            self.tokens = self.per_second;
            self.refilled = Some(now);
            return;
        }
        let earned = elapsed
            .as_nanos()
            .checked_div(per_token.as_nanos())
            .and_then(|earned| u32::try_from(earned).ok())
            .unwrap_or(0);
        self.tokens = self.tokens.saturating_add(earned).min(self.per_second);
        self.refilled = Some(since + per_token * earned);
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::time::testing::start;

    use super::*;

    #[test]
    fn a_second_holds_its_budget_and_no_more() {
        let now = start().instant;
        let mut budget = Budget::new(10);
        assert_eq!((0..100).filter(|_| budget.take(now)).count(), 10);
        let later = now + Duration::from_millis(350);
        assert_eq!((0..100).filter(|_| budget.take(later)).count(), 3);
        let later = now + Duration::from_millis(400);
        assert_eq!((0..100).filter(|_| budget.take(later)).count(), 1);
        let later = now + Duration::from_secs(3_600);
        assert_eq!((0..100).filter(|_| budget.take(later)).count(), 10);
    }

    #[test]
    fn no_budget_is_no_work_and_time_may_stand_still() {
        let now = start().instant;
        assert!(!Budget::new(0).take(now));
        let mut budget = Budget::new(1);
        assert!(budget.take(now + Duration::from_secs(1)));
        assert!(!budget.take(now));
    }
}
