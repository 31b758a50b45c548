use std::{net::SocketAddr, time::Duration};

use cardea_proto::{
    codec::Bytes,
    id::{DeviceId, InviteId},
    time::{Now, testing::start},
};
use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn a_knock_opens_once_and_for_the_datagrams_of_its_handshake() {
    let mut bench = Bench::new();
    let knock = bench.knock();
    assert_eq!(bench.answer(&knock), Answer::Open);
    assert_eq!(bench.answer(&knock), Answer::Open, "the second datagram");
    assert_eq!(bench.answer_to(&knock, "192.0.2.2:9"), Answer::Replayed);
    assert_eq!(bench.answer_to(&knock, "192.0.2.1:10"), Answer::Replayed);
    let who = |from| -> Vec<Knocker> { bench.door.knockers(address(from), bench.now).collect() };
    assert_eq!(
        (who("192.0.2.1:9"), who("192.0.2.2:9")),
        (vec![WHO], vec![])
    );
    assert!(bench.door.has_opened(address("192.0.2.1:9"), bench.now));
    assert!(!bench.door.has_opened(address("192.0.2.2:9"), bench.now));
    for later in [
        ATTEMPT_TIME,
        Duration::from_secs(230),
        Duration::from_secs(120),
    ] {
        bench.now = bench.now.plus(later);
        assert_eq!(bench.answer(&knock), Answer::Replayed);
    }
    assert!(!bench.door.has_opened(address("192.0.2.1:9"), bench.now));
    let knocks = bench.door.knocks();
    assert_eq!((knocks.opened, knocks.replayed), (1, 5));
}

#[test]
fn a_knock_of_a_stream_opens_once_from_wherever_and_whatever_way_it_came_first() {
    let mut bench = Bench::new();
    let (first, second) = (bench.knock(), bench.knock());
    assert!(bench.door.knock_once(&first, bench.now).is_ok());
    for knock in [&first, &first] {
        let again = bench.door.knock_once(knock, bench.now).err();
        assert_eq!(again, Some(Answer::Replayed));
    }
    assert_eq!(bench.answer(&first), Answer::Replayed);
    assert!(!bench.door.has_opened(address("192.0.2.1:9"), bench.now));
    assert_eq!(bench.answer(&second), Answer::Open);
    let again = bench.door.knock_once(&second, bench.now).err();
    assert_eq!(
        again,
        Some(Answer::Replayed),
        "not even from where it opened"
    );
}

#[test]
fn a_label_reads_back_in_any_case_and_what_is_none_does_not() {
    let knock = Bench::new().knock();
    let label = knock.label();
    assert_eq!(label.len(), 32, "a label has 63 at most (RFC 1035)");
    assert_eq!(Knock::from_label(&label), Some(knock));
    assert_eq!(Knock::from_label(&label.to_uppercase()), Some(knock));
    for wrong in ["", "www", &label[1..], &format!("{label}aa"), "ä", "0189"] {
        assert_eq!(Knock::from_label(wrong), None, "{wrong}");
    }
}

#[test]
fn a_fronts_proof_holds_for_one_connection_and_one_seed() {
    let keys = KnockKeys::new(&SEED, &ROOT);
    let proof = keys.front_proof(&[1; 32]);
    assert!(keys.is_front_proof(&[1; 32], &proof));
    assert!(!keys.is_front_proof(&[2; 32], &proof));
    let others = KnockKeys::new(&Secret32([2; 32]), &ROOT);
    assert!(!others.is_front_proof(&[1; 32], &proof));
}

#[test]
fn a_mapped_address_is_the_address_that_it_maps() {
    let mut bench = Bench::new();
    let knock = bench.knock();
    assert_eq!(bench.answer(&knock), Answer::Open);
    assert_eq!(
        bench.answer_to(&knock, "[::ffff:192.0.2.1]:9"),
        Answer::Open
    );
}

#[test]
fn a_clock_may_be_an_hour_off_and_not_much_more() {
    for (behind, ahead, expected) in [
        (HOUR, Duration::ZERO, Answer::Open),
        (Duration::ZERO, HOUR, Answer::Open),
        (WINDOW, Duration::ZERO, Answer::Open),
        (
            WINDOW + Duration::from_secs(1),
            Duration::ZERO,
            Answer::Late,
        ),
        (
            Duration::ZERO,
            WINDOW + Duration::from_secs(1),
            Answer::Early,
        ),
        (2 * HOUR, Duration::ZERO, Answer::Late),
        // An id of an epoch that this door does not know.
        (12 * HOUR, Duration::ZERO, Answer::Unknown),
        (Duration::ZERO, 12 * HOUR, Answer::Unknown),
    ] {
        let mut bench = Bench::new();
        bench.now = bench.now.plus(24 * HOUR);
        let later = bench.now.unix.plus(ahead);
        let at = UnixMillis(later.0 - u64::try_from(behind.as_millis()).unwrap());
        let knock = bench.keys.knock(at, [1, 2]);
        assert_eq!(bench.answer(&knock), expected, "-{behind:?} +{ahead:?}");
    }
}

#[test]
fn whoever_keeps_knocking_is_let_in_at_a_pace_and_takes_no_more_memory() {
    let mut bench = Bench::new();
    let mut opened = 0;
    for _ in 0..5_000_u32 {
        let knock = bench.knock();
        let answer = bench.answer(&knock);
        assert!(
            matches!(answer, Answer::Open | Answer::TooMany),
            "{answer:?}"
        );
        opened += u32::from(answer == Answer::Open);
        // Refused or not, nobody can use it again.
        assert_eq!(bench.answer_to(&knock, "192.0.2.2:9"), Answer::Replayed);
        bench.now = bench.now.plus(Duration::from_secs(1));
    }
    assert!((500..560).contains(&opened), "{opened}");
    let (ids, remembered, attempts) = bench.door.sizes();
    assert!(
        ids <= 3 && remembered <= 1_024 && attempts <= 2,
        "{remembered}"
    );
}

#[test]
fn a_clock_that_was_an_hour_ahead_and_was_set_is_let_in_at_once() {
    let mut bench = Bench::new();
    // At the pace of a node that tries again and again.
    for number in 0..400_u16 {
        let at = bench.now.unix.plus(HOUR);
        let knock = bench.keys.knock(at, number.to_be_bytes());
        assert_eq!(bench.answer(&knock), Answer::Open, "{number}");
        bench.now = bench.now.plus(Duration::from_secs(10));
    }
    let knock = bench.knock();
    assert_eq!(bench.answer(&knock), Answer::Open);
}

#[test]
fn one_knocker_does_not_spend_what_another_has() {
    let mut bench = Bench::new();
    let other = Knocker::Node(node(2));
    bench.admit(other, &[Secret32([2; 32])]);
    loop {
        let knock = bench.knock();
        if bench.answer(&knock) == Answer::TooMany {
            break;
        }
    }
    let keys = KnockKeys::new(&Secret32([2; 32]), &ROOT);
    let knock = keys.knock(bench.now.unix, [0; 2]);
    assert_eq!(bench.answer(&knock), Answer::Open);
}

#[test]
fn what_was_made_before_the_door_was_opened_is_late() {
    for later in [1, 2, 400, 999, 2_000] {
        let mut bench = Bench::new();
        // What its process before has heard, with the largest nonce of its millisecond.
        let heard = bench.keys.knock(bench.now.unix, [u8::MAX; 2]);
        assert_eq!(bench.answer(&heard), Answer::Open);
        bench.now = bench.now.plus(Duration::from_millis(later));
        bench.door = Door::new(ROOT, bench.now);
        bench.admit(WHO, &[SEED]);
        assert_eq!(bench.answer(&heard), Answer::Late, "{later} ms later");
        // Whoever knocks at this very moment does so at this door.
        let knock = bench.knock();
        assert_eq!(bench.answer(&knock), Answer::Open);
    }
}

#[test]
fn a_door_whose_own_clock_is_set_lets_in_what_is_made_from_then_on() {
    for set_back in [true, false] {
        let mut bench = Bench::new();
        let before = bench.knock();
        bench.now = bench.now.plus(Duration::from_millis(1_500));
        bench.door = Door::new(ROOT, bench.now);
        bench.admit(WHO, &[SEED]);
        let millis = bench.now.unix.0;
        let hour = 3_600_000;
        bench.now.unix.0 = if set_back {
            millis - hour
        } else {
            millis + hour
        };
        let knock = bench.knock();
        assert_eq!(bench.answer(&knock), Answer::Open);
        if !set_back {
            assert_eq!(bench.answer_to(&before, "192.0.2.2:9"), Answer::Late);
        }
    }
}

#[test]
fn seeds_open_that_were_admitted_last_and_no_others() {
    let mut bench = Bench::new();
    let seeds = [1, 2, 3].map(|number| Secret32([number; 32]));
    let keys = seeds.clone().map(|seed| KnockKeys::new(&seed, &ROOT));
    for (admitted, opening) in [([0, 1], [true, true, false]), ([1, 2], [false, true, true])] {
        bench.admit(WHO, &admitted.map(|index| seeds[index].clone()));
        for (keys, opens) in keys.iter().zip(opening) {
            bench.nonce += 1;
            let knock = keys.knock(bench.now.unix, bench.nonce.to_be_bytes());
            let expected = if opens { Answer::Open } else { Answer::Unknown };
            assert_eq!(bench.answer(&knock), expected);
        }
    }
}

#[test]
fn a_dismissed_knocker_is_heard_until_its_end_and_a_forgotten_one_never() {
    let mut bench = Bench::new();
    let then = bench.now.unix.plus(HOUR);
    bench.door.change(DoorChange::Admit {
        who: WHO,
        seeds: vec![SEED],
        stay: Stay::UntilDismissed { then },
    });
    bench.now = bench.now.plus(HOUR / 2);
    bench.door.change(DoorChange::Dismiss(WHO));
    let knock = bench.knock();
    assert_eq!(bench.answer(&knock), Answer::Open);
    bench.now = bench.now.plus(HOUR / 2);
    let knock = bench.knock();
    assert_eq!(bench.answer(&knock), Answer::Unknown);

    let mut bench = Bench::new();
    bench.door.change(DoorChange::Forget(WHO));
    let knock = bench.knock();
    assert_eq!(bench.answer(&knock), Answer::Unknown);
    assert_eq!(bench.door.sizes().0, 0);
}

#[test]
fn a_code_is_heard_until_its_end_and_then_takes_no_memory() {
    let hash = key::digest(b"the secret of a code");
    let keys = KnockKeys::new(&invite_seed(&hash), &ROOT);
    let mut bench = Bench::new();
    let who = Knocker::Invite(InviteId::from_bytes([1; 10]));
    bench.door.change(DoorChange::Admit {
        who,
        seeds: vec![invite_seed(&hash)],
        stay: Stay::Until(bench.now.unix.plus(HOUR)),
    });
    let knock = keys.knock(bench.now.unix, [0; 2]);
    assert_eq!(bench.answer(&knock), Answer::Open);
    bench.now = bench.now.plus(HOUR);
    let knock = keys.knock(bench.now.unix, [0; 2]);
    assert_eq!(bench.answer(&knock), Answer::Unknown);
    bench.now = bench.now.plus(2 * HOUR);
    let knock = keys.knock(bench.now.unix, [0; 2]);
    assert_eq!(bench.answer(&knock), Answer::Unknown);
    assert_eq!(bench.door.sizes().0, 3, "those of the node alone");
}

#[test]
fn two_hundred_who_have_one_code_are_heard_at_once_and_no_flood_of_them() {
    let hash = key::digest(b"the secret of a code");
    let keys = KnockKeys::new(&invite_seed(&hash), &ROOT);
    let mut bench = Bench::new();
    bench.door.change(DoorChange::Admit {
        who: Knocker::Invite(InviteId::from_bytes([1; 10])),
        seeds: vec![invite_seed(&hash)],
        stay: Stay::Until(bench.now.unix.plus(HOUR)),
    });
    let now = bench.now.unix;
    let heard = (0..1_000_u16)
        .map(|number| {
            let at = now.plus(Duration::from_millis(u64::from(number / 64)));
            keys.knock(at, number.to_be_bytes())
        })
        .filter(|knock| bench.answer(knock) == Answer::Open)
        .count();
    assert_eq!(heard, 440);
}

#[test]
fn ids_turn_with_the_epoch_and_a_node_is_heard_in_each() {
    let mut bench = Bench::new();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let knock = bench.knock();
        assert_eq!(bench.answer(&knock), Answer::Open);
        seen.insert(knock.parts().0);
        bench.now = bench.now.plus(HOUR);
    }
    assert!((10..=11).contains(&seen.len()), "{}", seen.len());
    // A clock that was set back by days turns the door back as well.
    bench.door = Door::new(
        ROOT,
        Now {
            unix: UnixMillis(0),
            ..bench.now
        },
    );
    bench.admit(WHO, &[SEED]);
    let knock = bench.knock();
    assert_eq!(bench.answer(&knock), Answer::Open);
}

#[test]
fn two_knocks_of_one_second_share_their_id_and_nothing_else() {
    let keys = KnockKeys::new(&SEED, &ROOT);
    let (one, two) = (
        keys.knock(start().unix, [0, 1]).parts(),
        keys.knock(start().unix, [0, 2]).parts(),
    );
    assert_eq!(one.0, two.0);
    assert_ne!(one.1, two.1);
    assert_ne!(one.2, two.2);
}

#[test]
fn a_node_that_was_away_for_as_long_as_it_may_is_known_by_its_seed_and_no_other_node_is() {
    let master = SeedMaster::of(&[7; 32]);
    let begin = start().unix;
    for days in 0..90 {
        let given = begin.plus(24 * HOUR * days);
        let seed = master.node_seed(node(1), given);
        // A clock that was ahead when it was given, which the record may not tell of after a
        // restoration, and the longest that a node may be away.
        let (day, weeks) = (86_400_000, 14 * 86_400_000);
        for (back, issued) in [
            (given.0 - day, 0),
            (given.0 - weeks, given.0),
            (given.0, given.0),
            (given.0, 0),
            (given.plus(SEED_PERIOD).0, given.0),
            (given.plus(SEED_PERIOD).0, 0),
        ] {
            let known = |master: &SeedMaster, who| {
                let seeds = master.node_seeds(who, UnixMillis(back), UnixMillis(issued));
                assert!((2..=3).contains(&seeds.len()));
                seeds.contains(&seed)
            };
            assert!(known(&master, node(1)), "day {days}");
            assert!(!known(&master, node(2)));
            assert!(!known(&SeedMaster::of(&[8; 32]), node(1)));
        }
        let years = given.plus(365 * 24 * HOUR);
        assert!(!master.node_seeds(node(1), years, given).contains(&seed));
    }
}

#[test]
fn no_secret_shows_itself() {
    let shown = format!(
        "{:?} {:?} {:?}",
        KnockKeys::new(&SEED, &ROOT),
        SeedMaster::of(&[7; 32]),
        ConnectionIds::new(&[7; 32])
    );
    assert_eq!(shown, "KnockKeys(…) SeedMaster(…) ConnectionIds(…)");
}

#[test]
fn an_id_of_ours_is_known_and_any_other_is_not() {
    let ids = ConnectionIds::new(&[7; 32]);
    let id = ids.issue([3; 8]);
    assert!(ids.is_ours(&id));
    assert!(!ConnectionIds::new(&[8; 32]).is_ours(&id));
    for bit in 0..id.len() * 8 {
        let mut flipped = id;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!ids.is_ours(&flipped), "bit {bit}");
    }
    for length in 0..id.len() {
        assert!(!ids.is_ours(&id[..length]), "{length}");
    }
    assert!(!ids.is_ours(&[&id[..], &[0]].concat()));
}

#[test]
fn attempts_never_grow_past_their_limit() {
    let mut attempts = attempts::Attempts::default();
    let now = start().instant;
    for number in 0..40_000_u32 {
        let mut bytes = [0; KNOCK_BYTES];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        attempts.open(Knock(bytes), WHO, address("192.0.2.1:9"), now);
    }
    assert_eq!(attempts.len(), 32_768);
    attempts.open(
        Knock([9; KNOCK_BYTES]),
        WHO,
        address("192.0.2.1:9"),
        now + ATTEMPT_TIME,
    );
    assert_eq!(attempts.len(), 1);
}

proptest! {
    #[test]
    fn a_flipped_bit_or_another_domain_never_opens(
        seed: [u8; 32],
        root: [u8; 32],
        other_root: [u8; 32],
        offset in 0_u64..3_600,
        nonce: [u8; 2],
        bit in 0_usize..KNOCK_BYTES * 8,
    ) {
        prop_assume!(root != other_root);
        let now = start().plus(HOUR);
        let at = UnixMillis(now.unix.0 - 1_800_000 + offset * 1_000);
        let keys = KnockKeys::new(&Secret32(seed), &Bytes(root));
        let knock = keys.knock(at, nonce);
        let answer = |root, knock: &Knock| {
            let mut door = Door::new(Bytes(root), start());
            door.change(DoorChange::Admit {
                who: WHO,
                seeds: vec![Secret32([0xa5; 32]), Secret32(seed)],
                stay: Stay::UntilDismissed { then: UnixMillis(0) },
            });
            door.knock(knock, address("192.0.2.1:9"), now)
        };
        prop_assert_eq!(answer(root, &knock), Answer::Open);
        prop_assert_eq!(answer(other_root, &knock), Answer::Unknown);
        let mut flipped = knock;
        flipped.0[bit / 8] ^= 1 << (bit % 8);
        let expected = if bit < 48 { Answer::Unknown } else { Answer::Forged };
        prop_assert_eq!(answer(root, &flipped), expected);
    }
}

const WHO: Knocker = Knocker::Node(NodeId::Device(DeviceId::from_bytes([1; 10])));
const SEED: Secret32 = Secret32([1; 32]);
const ROOT: Digest = Bytes([9; 32]);

struct Bench {
    door: Door,
    keys: KnockKeys,
    now: Now,
    nonce: u16,
}

impl Bench {
    fn new() -> Self {
        let now = start();
        let mut bench = Self {
            door: Door::new(ROOT, now),
            keys: KnockKeys::new(&SEED, &ROOT),
            now,
            nonce: 0,
        };
        bench.admit(WHO, &[SEED]);
        bench
    }

    fn admit(&mut self, who: Knocker, seeds: &[Secret32]) {
        self.door.change(DoorChange::Admit {
            who,
            seeds: seeds.to_vec(),
            stay: Stay::UntilDismissed {
                then: UnixMillis(0),
            },
        });
    }

    /// A knock that was not made before.
    fn knock(&mut self) -> Knock {
        self.nonce = self.nonce.wrapping_add(1);
        self.keys.knock(self.now.unix, self.nonce.to_be_bytes())
    }

    fn answer(&mut self, knock: &Knock) -> Answer {
        self.answer_to(knock, "192.0.2.1:9")
    }

    fn answer_to(&mut self, knock: &Knock, from: &str) -> Answer {
        self.door.knock(knock, address(from), self.now)
    }
}

fn node(number: u8) -> NodeId {
    NodeId::Device(DeviceId::from_bytes([number; 10]))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
