//! An end that says about paths what it likes, under its own keys.

use aws_lc_rs::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};
use cardea_proto::path::{PATH_FRAME, PathFrame};
use cardea_tunnel::{End, Via};

use super::other;

/// Seals frames as the other end of `victim` would.
pub struct Insider {
    key: LessSafeKey,
    next: u64,
}

impl Insider {
    pub fn of(victim: End) -> Self {
        let name: &[u8] = match other(victim) {
            End::Agent => b"agent to connector",
            End::Connector => b"connector to agent",
        };
        let secret = Salt::new(HKDF_SHA256, b"cardea path v1\0").extract(&[9; 32]);
        let mut bytes = [0; 39];
        let info = [name];
        secret
            .expand(&info, Length)
            .unwrap()
            .fill(&mut bytes)
            .unwrap();
        Self {
            key: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes[..32]).unwrap()),
            // Ahead of all that the end itself has said.
            next: 1 << 40,
        }
    }

    /// What follows a header.
    pub fn seal(&mut self, via: Via, frame: &PathFrame) -> Vec<u8> {
        self.next += 1;
        let counter = self.next.to_be_bytes();
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&counter);
        let about = Aad::from([PATH_FRAME, u8::from(via == Via::Direct)]);
        let mut text = frame.encode();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, about, &mut text);
        [&[PATH_FRAME][..], &counter, &text, tag.unwrap().as_ref()].concat()
    }
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        39
    }
}
