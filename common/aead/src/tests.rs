//! Both ways against each other, against aws-lc-rs, and against the RFC.
#![expect(
    clippy::as_conversions,
    reason = "lengths and counts of a test are small"
)]

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use proptest::prelude::*;

use super::*;

/// Which code does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Always many at once.
    Wide,
    /// Always aws-lc-rs.
    One,
    /// As a program has it.
    Chosen,
}

impl Way {
    /// Those that this processor has.
    fn all() -> Vec<Self> {
        let is_wide = Key::new(&[0; 32]).unwrap().is_wide();
        let wide = is_wide.then_some(Self::Wide);
        wide.into_iter().chain([Self::One, Self::Chosen]).collect()
    }

    fn seal(self, bytes: &[u8; 32], jobs: &mut [Sealing<'_>]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Wide => wide::Wide::detect().unwrap().seal(&words(bytes), jobs),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Wide => unreachable!(),
            Self::One => Key::one_by_one(bytes).unwrap().seal(jobs),
            Self::Chosen => Key::new(bytes).unwrap().seal(jobs),
        }
    }

    fn open(self, bytes: &[u8; 32], jobs: &mut [Opening<'_>]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Wide => wide::Wide::detect().unwrap().open(&words(bytes), jobs),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Wide => unreachable!(),
            Self::One => Key::one_by_one(bytes).unwrap().open(jobs),
            Self::Chosen => Key::new(bytes).unwrap().open(jobs),
        }
    }

    /// Seals packets, and compares each with what aws-lc-rs makes of it; gives them sealed.
    fn check_seal(self, key: &[u8; 32], packets: &[(u64, Vec<u8>)]) -> Vec<(u64, Vec<u8>)> {
        let mut sealed: Vec<_> = packets
            .iter()
            .map(|(counter, plain)| (*counter, [plain.as_slice(), &[0xee; TAG_BYTES]].concat()))
            .collect();
        let mut jobs: Vec<_> = sealed
            .iter_mut()
            .map(|(counter, bytes)| Sealing::new(*counter, bytes).unwrap())
            .collect();
        self.seal(key, &mut jobs);
        for ((counter, plain), (_, sealed)) in packets.iter().zip(&sealed) {
            let expected = reference(key, *counter, plain);
            assert!(*sealed == expected, "{self:?}: {} bytes", plain.len());
        }
        sealed
    }

    /// Opens packets into rooms of zeros; gives for each what it opened, and its room.
    fn open_all(
        self,
        key: &[u8; 32],
        sealed: &[(u64, Vec<u8>)],
    ) -> Vec<(Option<Vec<u8>>, Vec<u8>)> {
        let mut rooms: Vec<_> = sealed
            .iter()
            .map(|(_, sealed)| vec![0; sealed.len() - TAG_BYTES])
            .collect();
        let mut jobs: Vec<_> = sealed
            .iter()
            .zip(&mut rooms)
            .map(|((counter, sealed), room)| Opening::new(*counter, sealed, room).unwrap())
            .collect();
        self.open(key, &mut jobs);
        let opened = jobs
            .into_iter()
            .map(|job| job.opened().map(|bytes| bytes.to_vec()));
        let opened: Vec<_> = opened.collect();
        opened.into_iter().zip(rooms).collect()
    }

    fn check(self, key: &[u8; 32], packets: &[(u64, Vec<u8>)]) {
        let sealed = self.check_seal(key, packets);
        for ((_, plain), (opened, _)) in packets.iter().zip(self.open_all(key, &sealed)) {
            assert!(
                opened.as_ref() == Some(plain),
                "{self:?}: {} bytes",
                plain.len()
            );
        }
    }
}

/// What aws-lc-rs makes of a packet, by another of its functions than ours uses.
fn reference(key: &[u8; 32], counter: u64, plain: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
    let mut bytes = plain.to_vec();
    key.seal_in_place_append_tag(nonce(counter), Aad::empty(), &mut bytes)
        .unwrap();
    bytes
}

/// Bytes that differ everywhere.
fn filled(len: usize, seed: usize) -> Vec<u8> {
    let byte = |at: usize| (at * 31 + at / 251 + seed * 7 + 1).to_le_bytes()[0];
    (0..len).map(byte).collect()
}

const KEY: [u8; 32] = *b"a key of the tests, of 32 bytes.";

#[test]
fn every_length_is_as_aws_lc_has_it_in_every_count() {
    for way in Way::all() {
        for first in (0..=2_112).step_by(16) {
            let packets: Vec<_> = (first..first + 16)
                .map(|len| (u64::MAX - len as u64, filled(len, len)))
                .collect();
            way.check(&KEY, &packets);
        }
        for len in [
            0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 1_400, 2_049,
        ] {
            for count in 0..=33 {
                let packets: Vec<_> = (0..count)
                    .map(|index| (index as u64, filled(len, index)))
                    .collect();
                way.check(&KEY, &packets);
            }
        }
    }
}

#[test]
fn every_length_alone_is_as_aws_lc_has_it() {
    for way in Way::all() {
        for len in 0..=2_100 {
            way.check(&KEY, &[(len as u64, filled(len, 3))]);
            // A long neighbor moves everything that a short packet has.
            way.check(&KEY, &[(7, filled(2_100 - len, 1)), (8, filled(len, 2))]);
        }
    }
}

#[test]
fn the_longest_packets_are_as_aws_lc_has_them() {
    for way in Way::all() {
        let lens = [65_535, 65_536, 1, 0, 65_519, 21_700, 21_700, 40_000, 3];
        for count in 1..=lens.len() {
            let packets = lens[..count].iter().enumerate();
            let packets = packets.map(|(index, len)| (index as u64, filled(*len, index)));
            way.check(&KEY, &packets.collect::<Vec<_>>());
        }
        way.check(&KEY, &[(1, filled(BYTES_MAX - TAG_BYTES, 1))]);
    }
}

#[test]
fn a_job_has_just_the_room_that_it_needs() {
    let (mut bytes, mut room) = (vec![0; BYTES_MAX + 1], vec![0; 17]);
    assert!(Sealing::new(0, &mut bytes[..TAG_BYTES - 1]).is_none());
    assert!(Sealing::new(0, &mut bytes[..TAG_BYTES]).is_some());
    assert!(Sealing::new(0, &mut bytes[..BYTES_MAX]).is_some());
    assert!(Sealing::new(0, &mut bytes).is_none());
    assert!(Opening::new(0, &bytes[..TAG_BYTES - 1], &mut []).is_none());
    assert!(Opening::new(0, &bytes[..32], &mut room[..15]).is_none());
    assert!(Opening::new(0, &bytes[..32], &mut room).is_none());
    let job = Opening::new(0, &bytes[..32], &mut room[..16]).unwrap();
    assert!(job.opened().is_none(), "what nobody has opened");
}

#[test]
fn what_was_changed_anywhere_is_refused_and_leaves_nothing() {
    for way in Way::all() {
        for len in [0, 1, 16, 100, 300] {
            let packets: Vec<_> = (0..9).map(|at| (at, filled(len, at as usize))).collect();
            let sealed = way.check_seal(&KEY, &packets);
            for bit in 0..(len + TAG_BYTES) * 8 {
                let mut changed = sealed.clone();
                changed[5].1[bit / 8] ^= 1 << (bit % 8);
                check_refused(way, &packets, &changed, &[5]);
            }
            for bit in 0..64 {
                let mut changed = sealed.clone();
                changed[0].0 ^= 1 << bit;
                changed[8].0 ^= 1 << bit;
                check_refused(way, &packets, &changed, &[0, 8]);
            }
        }
    }
}

/// Opens packets of which some were changed: those alone are refused.
fn check_refused(way: Way, packets: &[(u64, Vec<u8>)], changed: &[(u64, Vec<u8>)], bad: &[usize]) {
    let opened = way.open_all(&KEY, changed).into_iter();
    for (index, ((opened, room), (_, plain))) in opened.zip(packets).enumerate() {
        if bad.contains(&index) {
            assert_eq!(opened, None, "{way:?}");
            assert!(room.iter().all(|byte| *byte == 0), "{way:?}");
        } else {
            assert_eq!(opened.as_ref(), Some(plain), "{way:?}");
        }
    }
}

#[test]
fn another_key_opens_nothing_and_no_key_shows() {
    for way in Way::all() {
        let packets: Vec<_> = (0..20).map(|at| (at, filled(200, 1))).collect();
        let sealed = way.check_seal(&KEY, &packets);
        for at in 0..256 {
            let mut key = KEY;
            key[at / 8] ^= 1 << (at % 8);
            for (opened, room) in way.open_all(&key, &sealed) {
                assert!(opened.is_none() && room.iter().all(|byte| *byte == 0));
            }
        }
    }
    let mut bytes = [0x41; 40];
    let shown = format!(
        "{:?} {:?} {:?}",
        Key::new(&KEY),
        Sealing::new(3, &mut bytes.clone()),
        Opening::new(3, &bytes.clone(), &mut bytes[..24]),
    );
    assert!(!shown.contains("65") && !shown.contains("97"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_batch_is_as_aws_lc_has_it(
        key: [u8; 32],
        first in prop_oneof![any::<u64>(), (u64::MAX - 70)..=u64::MAX, 0_u64..3],
        lens in prop::collection::vec(
            prop_oneof![4 => 0_usize..2_100, 2 => 1_380_usize..1_480, 1 => 0_usize..66_000],
            0..50,
        ),
    ) {
        let packets: Vec<_> = lens
            .iter()
            .enumerate()
            .map(|(index, len)| (first.wrapping_add(index as u64), filled(*len, index)))
            .collect();
        for way in Way::all() {
            way.check(&key, &packets);
        }
    }

    #[test]
    fn any_batch_opens_but_for_what_was_changed(
        packets in prop::collection::vec(
            (any::<u64>(), prop::collection::vec(any::<u8>(), 0..600), any::<u16>(), any::<bool>()),
            1..40,
        ),
    ) {
        let plain: Vec<_> = packets.iter().map(|(counter, plain, ..)| (*counter, plain.clone())).collect();
        for way in Way::all() {
            let mut sealed = way.check_seal(&KEY, &plain);
            let mut bad = Vec::new();
            for (index, ((_, sealed), (_, _, at, is_bad))) in sealed.iter_mut().zip(&packets).enumerate() {
                if *is_bad {
                    let bit = usize::from(*at) % (sealed.len() * 8);
                    sealed[bit / 8] ^= 1 << (bit % 8);
                    bad.push(index);
                }
            }
            check_refused(way, &plain, &sealed, &bad);
        }
    }
}
