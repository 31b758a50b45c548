//! Draws from a node's generator.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

/// A delay drawn evenly between zero and `ceiling`, both included, in microseconds.
pub(crate) fn full_jitter(rng: &mut ChaCha20Rng, ceiling: Duration) -> Duration {
    let span = u64::try_from(ceiling.as_micros())
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    Duration::from_micros(rng.next_u64() % span.max(1))
}

/// Thirty-two fresh bytes.
pub(crate) fn seed(rng: &mut ChaCha20Rng) -> [u8; 32] {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    seed
}
