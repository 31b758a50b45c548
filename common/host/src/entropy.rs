//! The kernel's random bytes, handed to pure cores as seeds.

use rustix::rand::{GetRandomFlags, getrandom};

/// Thirty-two bytes from the kernel.
///
/// # Panics
/// When the kernel has no entropy to give: without it no key may be made, so nothing may go on.
#[must_use]
pub fn seed() -> [u8; 32] {
    bytes()
}

/// `N` bytes from the kernel, at most 256, which it gives whole.
///
/// # Panics
/// As [`seed`].
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0_u8; N];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match getrandom(rest, GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            #[expect(
                clippy::panic,
                reason = "no peer can reach it, and keys without entropy are worse"
            )]
            Err(error) => panic!("the kernel gives no entropy: {error}"),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_seeds_differ() {
        assert_ne!(super::seed(), super::seed());
    }
}
