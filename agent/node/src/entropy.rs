//! Draws from a node's generator.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

/// A delay drawn evenly between zero and `ceiling`, both included, in microseconds.
pub(crate) fn full_jitter(rng: &mut ChaCha20Rng, ceiling: Duration) -> Duration {
    let span = u64::try_from(ceiling.as_micros())
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    Duration::from_micros(rng.next_u64() % span.max(1))
}

/// Thirty-two fresh bytes, of which a key is made.
///
/// The generator takes its next key from its own output and forgets the one that it had (fast key
/// erasure, Bernstein 2017): who reads this process's memory today learns no key of a tunnel that was
/// opened before, and opens no recording of it.
pub(crate) fn seed(rng: &mut ChaCha20Rng) -> [u8; 32] {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    let mut next = Zeroizing::new([0; 32]);
    rng.fill_bytes(next.as_mut());
    *rng = ChaCha20Rng::from_seed(*next);
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generator_does_not_keep_what_its_seeds_were_made_of() {
        let start = || ChaCha20Rng::from_seed([7; 32]);
        let (mut drawn, mut plain) = (start(), start());
        let (mut first, mut next) = ([0; 32], [0; 32]);
        plain.fill_bytes(&mut first);
        plain.fill_bytes(&mut next);
        assert_eq!(seed(&mut drawn), first);
        // Its key is another one, and its stream begins anew: nothing leads back to the first.
        assert_eq!(drawn, ChaCha20Rng::from_seed(next));
        assert_ne!(drawn.get_seed(), start().get_seed());
    }
}
