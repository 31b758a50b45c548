//! Tags that only their maker has to check: cookies and the like.

use std::fmt;

use aws_lc_rs::hmac;

/// Bytes of a tag.
pub const TAG_BYTES: usize = 32;

/// A key of HMAC-SHA256 that never leaves its process.
///
/// Source: RFC 2104.
pub struct MacKey(hmac::Key);

impl MacKey {
    /// The key of a 32-byte seed, which must be random.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, seed))
    }

    /// The tag of `parts`, one after the other; whoever calls sees to it that they cannot be cut
    /// elsewhere and give the same.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        let mut bytes = [0; TAG_BYTES];
        for (byte, of_tag) in bytes.iter_mut().zip(context.sign().as_ref()) {
            *byte = *of_tag;
        }
        bytes
    }

    /// Whether `tag` is that of `parts`; takes as long wherever the first difference is.
    #[must_use]
    pub fn holds(&self, parts: &[&[u8]], tag: &[u8; TAG_BYTES]) -> bool {
        hmac::verify(&self.0, &parts.concat(), tag).is_ok()
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: RFC 4231 §4.2 has a key of 20 bytes, which HMAC fills up with zeros like ours.
    #[test]
    fn the_tag_is_that_of_the_standard() {
        let mut seed = [0; 32];
        seed[..20].fill(0x0b);
        let tag = MacKey::from_seed(&seed).tag(&[b"Hi ", b"There"]);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&tag),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
    }

    #[test]
    fn a_tag_holds_for_its_parts_and_its_key_alone() {
        let key = MacKey::from_seed(&[1; 32]);
        let tag = key.tag(&[b"one", b"two"]);
        assert!(key.holds(&[b"one", b"two"], &tag));
        assert!(!key.holds(&[b"one", b"too"], &tag));
        assert!(!MacKey::from_seed(&[2; 32]).holds(&[b"one", b"two"], &tag));
        for at in 0..TAG_BYTES {
            let mut flipped = tag;
            flipped[at] ^= 1;
            assert!(!key.holds(&[b"one", b"two"], &flipped));
        }
    }
}
