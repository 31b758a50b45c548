//! The two halves alone: ChaCha20 with the RFC's blocks, Poly1305 with a slow one of another kind.
#![expect(
    clippy::as_conversions,
    reason = "lengths and counts of a test are small"
)]

use proptest::prelude::*;

use super::{poly::LANES, *};

#[test]
fn blocks_are_those_of_the_rfc() {
    let zero = [0; 8];
    // RFC 8439 §A.1, test vectors 1 and 2.
    check_block(
        &zero,
        0,
        0,
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7\
         da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    );
    check_block(
        &zero,
        0,
        1,
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed\
         29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
    );
    // Test vector 5.
    check_block(
        &zero,
        2 << 56,
        0,
        "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7\
         8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d",
    );
    // §A.4, test vector 3: a Poly1305 key.
    let key: OneTimeKey = [
        0x1c, 0x92, 0x40, 0xa5, 0xeb, 0x55, 0xd3, 0x8a, 0xf3, 0x33, 0x88, 0x86, 0x04, 0xf6, 0xb5,
        0xf0, 0x47, 0x39, 0x17, 0xc1, 0x40, 0x2b, 0x80, 0x09, 0x9d, 0xca, 0x5c, 0xbc, 0x20, 0x70,
        0x75, 0xc0,
    ];
    check_block(
        &crate::words(&key),
        2 << 56,
        0,
        "965e3bc6f9ec7ed9560808f4d229f94b137ff275ca9b3fcbdd59deaad23310ae",
    );
}

/// Looks for a block in every lane.
fn check_block(key: &Words, nonce: u64, block: u32, expected: &str) {
    let Some(wide) = Wide::detect() else { return };
    for lane in 0..super::LANES {
        let jobs: Vec<_> = (0..lane)
            .map(|other| (other as u64 + 77, block + 1))
            .chain([(nonce, block + 1)])
            .collect();
        let made = wide.block(key, &jobs, block, lane);
        let hex: String = made.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(hex.starts_with(expected), "lane {lane}: {hex}");
    }
}

/// Poly1305 a byte at a time, as one would on paper: no limb, no mask and no carry is like those of
/// the code that it checks.
fn slow(message: &[u8], key: &OneTimeKey) -> [u8; 16] {
    let mut r = [0; 17];
    for (at, (to, from)) in r.iter_mut().zip(&key[..16]).enumerate() {
        *to = u64::from(*from)
            & match at {
                3 | 7 | 11 | 15 => 0x0f,
                4 | 8 | 12 => 0xfc,
                _ => 0xff,
            };
    }
    let mut h = [0_u64; 17];
    for block in message.chunks(16) {
        let with_bit = block.iter().copied().chain([1]);
        for (to, from) in h.iter_mut().zip(with_bit) {
            *to += u64::from(from);
        }
        let mut product = [0_u64; 34];
        for (i, a) in h.iter().enumerate() {
            for (j, b) in r.iter().enumerate() {
                product[i + j] += a * b;
            }
        }
        // 2^136 is 2^6 times 2^130, which is 5.
        for at in 0..17 {
            h[at] = product[at] + 320 * product[at + 17];
        }
        squeeze(&mut h);
    }
    // Less the prime for as long as that is not below zero.
    for _ in 0..2 {
        let mut less = h;
        less[0] += 5;
        squeeze_once(&mut less);
        if less[16] >= 4 {
            less[16] -= 4;
            h = less;
        }
    }
    for (to, from) in h.iter_mut().zip(&key[16..]) {
        *to += u64::from(*from);
    }
    squeeze_once(&mut h);
    std::array::from_fn(|at| h[at].to_le_bytes()[0])
}

fn squeeze_once(h: &mut [u64; 17]) {
    for at in 0..16 {
        h[at + 1] += h[at] >> 8;
        h[at] &= 0xff;
    }
}

/// Carries until the number is below 2^130.
fn squeeze(h: &mut [u64; 17]) {
    squeeze_once(h);
    while h[16] > 3 {
        h[0] += 5 * (h[16] >> 2);
        h[16] &= 3;
        squeeze_once(h);
    }
}

#[test]
fn the_slow_one_makes_the_tags_of_the_rfc() {
    let bytes = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits
            .map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    };
    // RFC 8439 §2.5.2, and §A.3, test vectors 7 to 11: key, message, tag.
    let vectors = [
        (
            "85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b",
            "43727970746f6772617068696320466f72756d2052657365617263682047726f7570",
            "a8061dc1305136c6c22b8baf0c0127a9",
        ),
        (
            "0200000000000000000000000000000000000000000000000000000000000000",
            "ffffffffffffffffffffffffffffffff",
            "03000000000000000000000000000000",
        ),
        (
            "02000000000000000000000000000000ffffffffffffffffffffffffffffffff",
            "02000000000000000000000000000000",
            "03000000000000000000000000000000",
        ),
        (
            "0100000000000000000000000000000000000000000000000000000000000000",
            "fffffffffffffffffffffffffffffffff0ffffffffffffffffffffffffffffff\
             11000000000000000000000000000000",
            "05000000000000000000000000000000",
        ),
        (
            "0100000000000000000000000000000000000000000000000000000000000000",
            "fffffffffffffffffffffffffffffffffbfefefefefefefefefefefefefefefe\
             01010101010101010101010101010101",
            "00000000000000000000000000000000",
        ),
        (
            "0200000000000000000000000000000000000000000000000000000000000000",
            "fdffffffffffffffffffffffffffffff",
            "faffffffffffffffffffffffffffffff",
        ),
    ];
    for (key, message, tag) in vectors {
        let key: OneTimeKey = bytes(key).try_into().unwrap();
        assert_eq!(
            slow(&bytes(message), &key).as_slice(),
            bytes(tag),
            "{message}"
        );
    }
}

/// Compares the tag of each message, in lots of every size.
fn check(messages: &[(Vec<u8>, OneTimeKey)]) {
    let Some(wide) = Wide::detect() else { return };
    for count in 1..=LANES {
        for lot in messages.chunks(count) {
            let given: Vec<_> = lot
                .iter()
                .map(|(message, key)| (message.as_slice(), key))
                .collect();
            let tags = wide.tags(&given);
            for ((message, key), tag) in lot.iter().zip(tags) {
                assert_eq!(tag, expected(message, key), "{message:02x?} {key:02x?}");
            }
        }
    }
}

fn expected(message: &[u8], key: &OneTimeKey) -> [u8; 16] {
    let mut all = message.to_vec();
    all.resize(message.len().next_multiple_of(16), 0);
    all.extend_from_slice(&[0; 8]);
    all.extend_from_slice(&(message.len() as u64).to_le_bytes());
    slow(&all, key)
}

fn key(r: [u8; 16], s: [u8; 16]) -> OneTimeKey {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&r);
    key[16..].copy_from_slice(&s);
    key
}

#[test]
fn the_largest_and_smallest_numbers_are_carried() {
    let mut two = [0; 16];
    two[0] = 2;
    let mut one = [0; 16];
    one[0] = 1;
    // The two clamped numbers with all limbs full, and with one bit at each end of a limb.
    let edges: [u8; 16] = (1_u128 << 43 | 1 << 44 | 1 << 87 | 1 << 88 | 1 << 123).to_le_bytes();
    let mut messages = Vec::new();
    for r in [[0xff; 16], [0; 16], one, two, edges] {
        for s in [[0xff; 16], [0; 16], one] {
            for fill in [0xff, 0xfe, 0x00, 0x80, 0x7f] {
                for len in [0, 15, 16, 17, 48, 63, 64, 65, 256, 512, 640, 1_400] {
                    messages.push((vec![fill; len], key(r, s)));
                }
            }
        }
    }
    check(&messages);
}

#[test]
fn a_sum_around_the_prime_is_reduced() {
    // With r = 1 the sum is that of the blocks: two of the message, the bits behind three, and the
    // lengths. It passes the prime, 2^130 and everything around them.
    let mut one = [0; 16];
    one[0] = 1;
    let lengths = 32_u128 << 64;
    let mut messages = Vec::new();
    for first in [1_u128 << 127, u128::MAX, u128::MAX - 4, lengths + (1 << 44)] {
        for off in -12_i128..=12 {
            // The rest to 2^128, so that all three are 2^130 but for `off`.
            let second = 0_u128
                .wrapping_sub(first)
                .wrapping_sub(lengths)
                .wrapping_add_signed(off);
            let message = [first.to_le_bytes(), second.to_le_bytes()].concat();
            for s in [[0; 16], [0xff; 16]] {
                messages.push((message.clone(), key(one, s)));
            }
        }
    }
    check(&messages);
}

proptest! {
    #[test]
    fn every_tag_is_that_of_the_slow_one(
        messages in prop::collection::vec(
            (prop::collection::vec(prop_oneof![Just(0xff_u8), Just(0), any::<u8>()], 0..700), any::<[u8; 16]>(), any::<[u8; 16]>()),
            1..12,
        ),
    ) {
        let messages: Vec<_> = messages
            .into_iter()
            .map(|(message, r, s)| (message, key(r, s)))
            .collect();
        check(&messages);
    }

    #[test]
    fn blocks_of_ones_between_blocks_of_any_kind_are_carried(
        blocks in prop::collection::vec(prop_oneof![Just([0xff_u8; 16]), Just([0; 16]), any::<[u8; 16]>()], 0..60),
        r in prop_oneof![Just([0xff_u8; 16]), any::<[u8; 16]>()],
        s in prop_oneof![Just([0xff_u8; 16]), any::<[u8; 16]>()],
    ) {
        let message = blocks.concat();
        check(&vec![(message, key(r, s)); LANES]);
    }
}
