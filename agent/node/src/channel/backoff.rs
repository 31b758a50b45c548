//! Full-jitter backoff: delays that neither hammer a controller nor come in step with each other.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;

use crate::entropy::full_jitter;

/// Largest first delay after all addresses have failed once, and after a channel was lost.
///
/// Small, because most losses are a restart or a roaming laptop, and somebody is waiting.
const CEILING_FIRST: Duration = Duration::from_millis(500);

/// Largest delay of all.
///
/// All nodes are back within a minute of a controller's return, and 10,000 of them
/// arrive at 500 a second.
const CEILING_LAST: Duration = Duration::from_secs(20);

/// Largest delay between two addresses of one round.
const CEILING_WITHIN_ROUND: Duration = Duration::from_millis(100);

/// How long to wait before attempt number `attempts` (from 0) when there are `addresses` to try.
///
/// A round tries every address with hardly a pause; the ceiling doubles from round to round.
pub(super) fn delay(rng: &mut ChaCha20Rng, attempts: u32, addresses: u32) -> Duration {
    let addresses = addresses.max(1);
    if attempts.is_multiple_of(addresses) {
        full_jitter(rng, ceiling(attempts / addresses))
    } else {
        full_jitter(rng, CEILING_WITHIN_ROUND)
    }
}

/// The largest delay before round number `round`, from 0.
fn ceiling(round: u32) -> Duration {
    CEILING_FIRST
        .saturating_mul(2_u32.saturating_pow(round.min(16)))
        .min(CEILING_LAST)
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn the_ceiling_doubles_until_it_stays() {
        assert_eq!(ceiling(0), Duration::from_millis(500));
        assert_eq!(ceiling(1), Duration::from_secs(1));
        assert_eq!(ceiling(5), Duration::from_secs(16));
        assert_eq!(ceiling(6), CEILING_LAST);
        assert_eq!(ceiling(u32::MAX), CEILING_LAST);
    }

    #[test]
    fn delays_fill_the_whole_range_below_their_ceiling() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let delays: Vec<Duration> = (0..1_000).map(|_| delay(&mut rng, 12, 2)).collect();
        assert!(delays.iter().all(|delay| *delay <= CEILING_LAST));
        assert!(delays.iter().any(|delay| *delay < CEILING_LAST / 20));
        assert!(delays.iter().any(|delay| *delay > CEILING_LAST * 9 / 10));
    }

    #[test]
    fn the_second_address_of_a_round_is_tried_almost_at_once() {
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        assert!((0..100).all(|_| delay(&mut rng, 7, 2) <= CEILING_WITHIN_ROUND));
    }
}
