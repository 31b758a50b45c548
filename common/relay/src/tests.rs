use std::{collections::BTreeMap, net::Ipv6Addr};

use proptest::prelude::*;

use cardea_credential::ticket::TicketKey;
use cardea_proto::{
    codec::Bytes,
    relay::{BOUND_BYTES, CHALLENGE_BYTES, DATA_HEADER_BYTES, SEEN_BYTES, Side},
    time::{UnixMillis, testing::start},
};

use super::*;

#[test]
fn data_passes_both_ways_once_both_ends_are_bound() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Agent, 1);
    relay.bind(0, Side::Connector, 2);
    for (side, from, to) in [(Side::Agent, 1, 2), (Side::Connector, 2, 1)] {
        let mut datagram = data(0, side, b"sealed");
        assert_eq!(
            relay.handle(from, &mut datagram),
            Verdict::Forward { to: address(to) }
        );
        assert_eq!(datagram, data(0, table_other(side), b"sealed"));
    }
    assert_eq!(relay.core.counters().forwarded, 2);
    assert_eq!(relay.core.counters().bound, 2);
}

#[test]
fn a_first_bind_is_challenged_in_place_with_fewer_bytes_and_leaves_nothing_behind() {
    let mut relay = Bench::new();
    let mut bind = relay.ticket(0, Side::Agent, LIFE);
    assert_eq!(relay.handle(1, &mut bind), CHALLENGED);
    let (challenged, cookie) = Handle::of_challenge(&bind[..CHALLENGE_BYTES]).unwrap();
    assert_eq!(challenged, handle(0, Side::Agent), "it names the handle");
    assert_eq!(relay.core.ends(), 0);
    assert_eq!(relay.core.deadline(), None);
    let mut proof = relay.proof(&cookie);
    assert_eq!(relay.handle(1, &mut proof), BOUND);
    let bound = Handle::of_bound(&proof[..BOUND_BYTES]);
    assert_eq!(bound, Some(handle(0, Side::Agent)), "so does this");
    let counters = relay.core.counters();
    assert_eq!((counters.challenged, counters.bound), (1, 1));
}

#[test]
fn a_ticket_sent_again_from_elsewhere_moves_nothing_and_the_old_way_stays_in_use() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Agent, 1);
    relay.bind(0, Side::Connector, 2);
    let mut captured = relay.ticket_until(0, Side::Agent, relay.ends);
    assert_eq!(relay.handle(3, &mut captured), CHALLENGED);
    relay.drops(3, &mut data(0, Side::Agent, b"x"), DropReason::WrongSource);
    relay.forwards(1, Side::Agent, 2);
    relay.forwards(2, Side::Connector, 1);
}

#[test]
fn a_cookie_moves_an_end_to_where_it_was_sent_and_nowhere_else() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Agent, 1);
    relay.bind(0, Side::Connector, 2);
    let proof = relay.challenge(0, Side::Agent, 3);
    assert_eq!(relay.handle(4, &mut proof.clone()), CHALLENGED);
    relay.forwards(2, Side::Connector, 1);
    assert_eq!(relay.handle(3, &mut proof.clone()), BOUND);
    relay.forwards(2, Side::Connector, 3);
}

#[test]
fn a_proof_sent_again_moves_no_end_back() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Connector, 2);
    let first = relay.challenge(0, Side::Agent, 1);
    assert_eq!(relay.handle(1, &mut first.clone()), BOUND);
    let second = relay.challenge(0, Side::Agent, 3);
    assert_eq!(relay.handle(3, &mut second.clone()), BOUND);
    for (from, proof) in [(1, &first), (1, &second)] {
        assert_eq!(relay.handle(from, &mut proof.clone()), CHALLENGED);
    }
    relay.bind(0, Side::Agent, 1);
    assert_eq!(relay.handle(3, &mut second.clone()), CHALLENGED);
    relay.forwards(2, Side::Connector, 1);
}

#[test]
fn a_proof_that_arrives_twice_or_late_costs_no_more_than_another_answer() {
    let mut relay = Bench::new();
    let proofs = [0; 3].map(|_| relay.challenge(0, Side::Agent, 1));
    for proof in proofs.iter().chain(&proofs) {
        assert_eq!(relay.handle(1, &mut proof.clone()), BOUND);
    }
    let late = relay.challenge(1, Side::Agent, 1);
    relay.sleep(Duration::from_secs(20));
    assert_eq!(relay.handle(1, &mut late.clone()), CHALLENGED);
    relay.bind(1, Side::Agent, 1);
}

#[test]
fn a_bound_end_proves_nothing_again_for_its_keepalive_or_for_a_newer_ticket() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Agent, 1);
    let mut again = relay.ticket_until(0, Side::Agent, relay.ends);
    assert_eq!(relay.handle(1, &mut again), BOUND);
    let mut newer = relay.ticket(0, Side::Agent, LIFE * 2);
    assert_eq!(relay.handle(1, &mut newer), BOUND);
    assert_eq!(relay.core.counters().challenged, 1);
}

#[test]
fn who_fell_silent_proves_its_address_again_even_before_it_is_forgotten() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Agent, 1);
    let silence = Settings::default().idle + Duration::from_secs(1);
    relay.now = relay.now.plus(silence);
    let mut newer = relay.ticket(0, Side::Agent, LIFE);
    assert_eq!(relay.handle(1, &mut newer), CHALLENGED);
}

#[test]
fn a_proof_is_worth_no_more_than_its_ticket() {
    let mut relay = Bench::new();
    let mut proof = relay.challenge(0, Side::Agent, 1);
    relay.now = relay.now.plus(LIFE);
    relay.drops(1, &mut proof, DropReason::Expired);
    relay.ticket(0, Side::Agent, LIFE);
    relay.stored[BIND_BYTES - 1] ^= 1;
    let mut proof = relay.proof(&Cookie([1; 32]));
    relay.drops(1, &mut proof, DropReason::Forged);
    assert_eq!(relay.core.ends(), 0);
}

#[test]
fn who_asks_is_told_where_he_is_with_fewer_bytes_and_binds_and_moves_nothing() {
    let mut relay = Bench::new();
    for bound in [false, true] {
        let mut ask = relay.ticket_until(0, Side::Agent, relay.ends);
        ask[0] = FrameKind::Ask.byte();
        let seen = Verdict::Answer { len: SEEN_BYTES };
        assert_eq!(relay.handle(5, &mut ask), seen);
        let told = Handle::of_seen(&ask[..SEEN_BYTES]);
        assert_eq!(told, Some((handle(0, Side::Agent), address(5))));
        assert_eq!(relay.core.ends(), if bound { 2 } else { 0 });
        if bound {
            relay.forwards(2, Side::Connector, 1);
        } else {
            relay.bind(0, Side::Agent, 1);
            relay.bind(0, Side::Connector, 2);
        }
    }
    assert_eq!(relay.core.counters().asked, 2);
}

#[test]
fn who_writes_the_relays_own_or_a_loopback_address_on_a_datagram_starts_no_conversation() {
    for own in ["198.51.100.1:7444", "127.0.0.1:7444", "[::1]:7444"] {
        let own: SocketAddr = own.parse().unwrap();
        for kind in [FrameKind::Bind, FrameKind::Ask] {
            let mut relay = Bench::new();
            relay.bind(0, Side::Connector, 2);
            let mut datagram = relay.ticket(0, Side::Agent, LIFE);
            datagram[0] = kind.byte();
            let Verdict::Answer { len } = relay.core.handle(relay.now, own, &mut datagram) else {
                panic!("a ticket is answered where it comes from");
            };
            // What it said comes back to it.
            let mut answer = datagram[..len].to_vec();
            let verdict = relay.core.handle(relay.now, own, &mut answer);
            assert_eq!(
                verdict,
                Verdict::Drop(DropReason::NotOurs),
                "{own} {kind:?}"
            );
            let mut data = data(0, Side::Agent, b"x");
            let verdict = relay.core.handle(relay.now, own, &mut data);
            assert_eq!(verdict, Verdict::Drop(DropReason::Unbound));
            assert_eq!(relay.core.ends(), 1);
        }
    }
}

#[test]
fn a_question_without_a_ticket_of_ours_is_not_answered() {
    let mut relay = Bench::new();
    let ask = |relay: &mut Bench| {
        let mut ask = relay.ticket(0, Side::Agent, LIFE);
        ask[0] = FrameKind::Ask.byte();
        ask
    };
    let mut forged = ask(&mut relay);
    *forged.last_mut().unwrap() ^= 1;
    relay.drops(1, &mut forged, DropReason::Forged);
    let mut long = [ask(&mut relay), vec![0]].concat();
    relay.drops(1, &mut long, DropReason::Malformed);
    let mut late = ask(&mut relay);
    relay.now = relay.now.plus(LIFE);
    relay.drops(1, &mut late, DropReason::Expired);
}

#[test]
fn a_signature_is_checked_once_for_a_bind_and_its_proof() {
    let mut relay = Bench::with(Settings {
        checks_per_second: 1,
        ..Settings::default()
    });
    relay.bind(0, Side::Agent, 1);
    let mut other = relay.ticket(1, Side::Agent, LIFE);
    relay.drops(1, &mut other, DropReason::Busy);
}

#[test]
fn nothing_passes_before_both_ends_are_bound() {
    let mut relay = Bench::new();
    relay.drops(1, &mut data(0, Side::Agent, b"x"), DropReason::Unbound);
    relay.bind(0, Side::Agent, 1);
    relay.drops(1, &mut data(0, Side::Agent, b"x"), DropReason::PeerUnbound);
}

#[test]
fn data_from_another_address_is_dropped_until_the_ticket_moves_there() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Agent, 1);
    relay.bind(0, Side::Connector, 2);
    relay.drops(3, &mut data(0, Side::Agent, b"x"), DropReason::WrongSource);
    relay.bind(0, Side::Agent, 3);
    assert!(matches!(
        relay.handle(3, &mut data(0, Side::Agent, b"x")),
        Verdict::Forward { .. }
    ));
    assert_eq!(
        relay.handle(2, &mut data(0, Side::Connector, b"x")),
        Verdict::Forward { to: address(3) }
    );
    relay.drops(1, &mut data(0, Side::Agent, b"x"), DropReason::WrongSource);
}

#[test]
fn an_end_that_sends_more_than_its_rate_loses_the_rest_and_nobody_else_does() {
    let mut relay = Bench::with(Settings {
        bytes_per_second: NonZeroU64::new(100_000),
        ..Settings::default()
    });
    for at in [0, 1] {
        relay.bind(at, Side::Agent, 1);
        relay.bind(at, Side::Connector, 2);
    }
    let sealed = [7; 1_000 - DATA_HEADER_BYTES];
    let mut passed = 0;
    for _ in 0..1_000 {
        for _ in 0..10 {
            let verdict = relay.handle(1, &mut data(0, Side::Agent, &sealed));
            passed += u64::from(verdict != Verdict::Drop(DropReason::TooFast));
        }
        // Neither its other end nor another tunnel from the same address pays for that.
        let back = relay.handle(2, &mut data(0, Side::Connector, b"x"));
        assert_eq!(back, Verdict::Forward { to: address(1) });
        let other = relay.handle(1, &mut data(1, Side::Agent, b"x"));
        assert_eq!(other, Verdict::Forward { to: address(2) });
        relay.sleep(Duration::from_millis(10));
    }
    // 10 s of 100 kB, and the first 64 KiB at once.
    assert!((1_055..=1_066).contains(&passed), "{passed}");
    let dropped = relay.core.counters().dropped(DropReason::TooFast);
    assert_eq!(dropped, 10_000 - passed);
}

#[test]
fn strangers_learn_nothing() {
    let mut relay = Bench::new();
    relay.drops(1, &mut [], DropReason::NotOurs);
    relay.drops(1, &mut [0], DropReason::NotOurs);
    relay.drops(1, &mut handle(0, Side::Agent).bound(), DropReason::NotOurs);
    let mut challenge = handle(0, Side::Agent).challenge(&Cookie([0; 32]));
    relay.drops(1, &mut challenge, DropReason::NotOurs);
    relay.drops(1, &mut data(0, Side::Agent, b""), DropReason::Short);
    relay.drops(1, &mut [FrameKind::Data.byte(), 1, 2], DropReason::Short);
    let bind = relay.ticket(0, Side::Agent, LIFE);
    for mut wrong in [
        bind[..1].to_vec(),
        bind[..bind.len() - 1].to_vec(),
        [&bind[..], &[0]].concat(),
    ] {
        relay.drops(1, &mut wrong, DropReason::Malformed);
    }
    let mut forged = bind;
    forged[BIND_BYTES - 1] ^= 1;
    relay.drops(1, &mut forged, DropReason::Forged);
    let mut ended = relay.ticket(0, Side::Agent, Duration::ZERO);
    relay.drops(1, &mut ended, DropReason::Expired);
    assert_eq!(relay.core.ends(), 0);
    assert_eq!(relay.core.deadline(), None);
}

#[test]
fn a_binding_ends_with_its_ticket_even_before_it_is_forgotten() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Agent, 1);
    relay.bind(0, Side::Connector, 2);
    for _ in 0..9 {
        relay.sleep(Duration::from_secs(30));
        relay.bind(0, Side::Agent, 1);
        relay.bind(0, Side::Connector, 2);
    }
    relay.now = relay.now.plus(Duration::from_secs(30));
    relay.drops(1, &mut data(0, Side::Agent, b"x"), DropReason::Expired);
    let mut stale = relay.stored.clone();
    relay.drops(1, &mut stale, DropReason::Expired);
    relay.core.expire(relay.now);
    assert_eq!(relay.core.ends(), 0);
    relay.drops(1, &mut data(0, Side::Agent, b"x"), DropReason::Unbound);
}

#[test]
fn a_newer_ticket_lets_the_binding_live_on_and_an_older_one_does_not_shorten_it() {
    let mut relay = Bench::new();
    let old = relay.ticket(0, Side::Agent, LIFE);
    let proof = relay.challenge_for(&old, 1);
    assert_eq!(relay.handle(1, &mut proof.clone()), BOUND);
    let mut newer = relay.ticket(0, Side::Agent, LIFE * 3);
    assert_eq!(relay.handle(1, &mut newer), BOUND);
    assert_eq!(relay.handle(1, &mut old.clone()), BOUND);
    for _ in 0..20 {
        relay.sleep(Duration::from_secs(30));
        relay.handle(1, &mut data(0, Side::Agent, b"x"));
    }
    assert_eq!(relay.core.ends(), 1);
}

#[test]
fn an_end_that_falls_silent_is_forgotten_and_its_peer_is_not() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Agent, 1);
    relay.bind(0, Side::Connector, 2);
    for _ in 0..5 {
        relay.sleep(Duration::from_secs(20));
        relay.handle(2, &mut data(0, Side::Connector, b"x"));
    }
    assert_eq!(relay.core.ends(), 1);
    relay.drops(
        2,
        &mut data(0, Side::Connector, b"x"),
        DropReason::PeerUnbound,
    );
    relay.bind(0, Side::Agent, 1);
    assert_eq!(
        relay.handle(2, &mut data(0, Side::Connector, b"x")),
        Verdict::Forward { to: address(1) }
    );
}

#[test]
fn a_wall_clock_that_steps_ends_no_binding_and_revives_none() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Agent, 1);
    relay.bind(0, Side::Connector, 2);
    relay.now.unix = relay.now.unix.plus(Duration::from_secs(10 * 365 * 86_400));
    assert!(matches!(
        relay.handle(1, &mut data(0, Side::Agent, b"x")),
        Verdict::Forward { .. }
    ));
    relay.now.unix = UnixMillis(0);
    relay.sleep(LIFE);
    relay.drops(1, &mut data(0, Side::Agent, b"x"), DropReason::Unbound);
}

#[test]
fn two_tickets_that_contradict_each_other_do_not_both_bind() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Agent, 1);
    let mut same_handle = relay.sign(Ticket {
        tunnel: tunnel(9),
        side: Side::Agent,
        handle: handle(0, Side::Agent),
        not_after: relay.now.unix.plus(LIFE),
    });
    relay.drops(2, &mut same_handle, DropReason::Conflict);
    let mut same_side = relay.sign(Ticket {
        tunnel: tunnel(0),
        side: Side::Agent,
        handle: handle(9, Side::Agent),
        not_after: relay.now.unix.plus(LIFE),
    });
    relay.drops(2, &mut same_side, DropReason::Conflict);
}

#[test]
fn the_table_is_bounded_and_room_comes_back() {
    let mut relay = Bench::with(Settings {
        ends_max: 4,
        ..Settings::default()
    });
    for at in 0..4 {
        relay.bind(at, Side::Agent, 1);
    }
    let mut one_more = relay.ticket(4, Side::Agent, LIFE);
    relay.drops(1, &mut one_more, DropReason::Full);
    relay.sleep(Duration::from_secs(91));
    relay.bind(4, Side::Agent, 1);
    assert_eq!(relay.core.ends(), 1);
}

#[test]
fn forged_tickets_cannot_take_more_than_their_budget_and_never_that_of_bound_ends() {
    let mut relay = Bench::with(Settings {
        checks_per_second: 32,
        ..Settings::default()
    });
    relay.bind(0, Side::Agent, 1);
    relay.bind(0, Side::Connector, 2);
    let mut forged = relay.ticket(5, Side::Agent, LIFE);
    forged[20] ^= 1;
    for _ in 0..100 {
        relay.handle(9, &mut forged.clone());
    }
    // Two binds, and then half of the budget and a share of two.
    let counters = relay.core.counters();
    assert_eq!(counters.dropped(DropReason::Forged), 14 + 2);
    assert_eq!(counters.dropped(DropReason::Busy), 84);
    relay.bind(0, Side::Agent, 3);
    relay.forwards(3, Side::Agent, 2);
}

#[test]
fn a_flood_of_forged_tickets_from_one_network_keeps_no_other_one_out() {
    let mut relay = Bench::with(Settings {
        checks_per_second: 32,
        ..Settings::default()
    });
    let mut forged = relay.ticket(5, Side::Agent, LIFE);
    forged[20] ^= 1;
    for host in 0..100 {
        let from = (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host), 7).into();
        relay.core.handle(relay.now, from, &mut forged.clone());
    }
    assert_eq!(relay.core.counters().dropped(DropReason::Forged), 16 + 2);
    relay.bind(0, Side::Agent, 1);
    relay.bind(0, Side::Connector, 2);
    relay.forwards(1, Side::Agent, 2);
}

#[test]
fn datagrams_of_every_length_and_first_byte_are_survived() {
    let mut relay = Bench::new();
    relay.bind(0, Side::Agent, 1);
    relay.bind(0, Side::Connector, 2);
    let lengths = (0..300).chain([1_199, 1_200, 9_000, 65_506, 65_507]);
    for length in lengths {
        for first in [0x00, 0x30, 0x31, 0x32, 0x33, 0x34, 0xff] {
            let mut datagram = vec![0xaa; length];
            if let Some(byte) = datagram.first_mut() {
                *byte = first;
            }
            assert!(matches!(relay.handle(1, &mut datagram), Verdict::Drop(_)));
        }
    }
    let mut largest = data(0, Side::Agent, &[1; 65_499]);
    assert_eq!(
        relay.handle(1, &mut largest),
        Verdict::Forward { to: address(2) }
    );
}

#[derive(Clone, Debug)]
enum Step {
    Bind(u8, Side, u16),
    /// One of the proofs that can be made of what was answered so far, from any address.
    Proof(proptest::sample::Index, u16),
    Data(u8, Side, u16, usize),
    Noise(u16, Vec<u8>),
    Sleep(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let side = || prop_oneof![Just(Side::Agent), Just(Side::Connector)];
    let step = prop_oneof![
        (0..4_u8, side(), 1..6_u16).prop_map(|(at, side, from)| Step::Bind(at, side, from)),
        (any::<proptest::sample::Index>(), 1..6_u16).prop_map(|(at, from)| Step::Proof(at, from)),
        (0..5_u8, side(), 1..6_u16, 0..1_500_usize)
            .prop_map(|(at, side, from, size)| Step::Data(at, side, from, size)),
        (1..6_u16, proptest::collection::vec(any::<u8>(), 0..120))
            .prop_map(|(from, bytes)| Step::Noise(from, bytes)),
        (0..60_u64).prop_map(Step::Sleep),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Against a model that knows only who proved last to be where.
    #[test]
    fn it_never_amplifies_never_crosses_tunnels_and_never_grows(steps in steps()) {
        let mut relay = Bench::with(Settings { ends_max: 6, ..Settings::default() });
        let mut bound: BTreeMap<(u8, Side), u16> = BTreeMap::new();
        let mut proofs: Vec<(u8, Side, u16, Vec<u8>)> = Vec::new();
        let (mut bytes_in, mut bytes_out) = (0, 0);
        for step in steps {
            let (from, before) = match step {
                Step::Sleep(seconds) => {
                    relay.sleep(Duration::from_secs(seconds));
                    continue;
                }
                Step::Bind(at, side, from) => (from, relay.ticket(at, side, LIFE)),
                Step::Proof(_, _) if proofs.is_empty() => continue,
                Step::Proof(index, from) => (from, index.get(&proofs).3.clone()),
                Step::Data(at, side, from, size) => (from, data(at, side, &vec![7; size])),
                Step::Noise(from, ref bytes) => (from, bytes.clone()),
            };
            let mut datagram = before.clone();
            bytes_in += before.len();
            match relay.handle(from, &mut datagram) {
                Verdict::Forward { to } => {
                    let Step::Data(at, side, from, _) = step else {
                        panic!("only data is forwarded");
                    };
                    prop_assert_eq!(bound.get(&(at, side)), Some(&from));
                    let peer = bound.get(&(at, table_other(side))).copied();
                    prop_assert_eq!(Some(to), peer.map(address));
                    let header = handle(at, table_other(side)).data_header();
                    prop_assert_eq!(&datagram[..DATA_HEADER_BYTES], &header);
                    prop_assert_eq!(
                        &datagram[DATA_HEADER_BYTES..],
                        &before[DATA_HEADER_BYTES..]
                    );
                    bytes_out += datagram.len();
                }
                Verdict::Answer { len } => {
                    prop_assert!(len <= before.len());
                    bytes_out += len;
                    let (at, side, proven) = match step {
                        Step::Bind(at, side, _) => (at, side, None),
                        Step::Proof(index, _) => {
                            let (at, side, sent_to, _) = *index.get(&proofs);
                            (at, side, Some(sent_to))
                        }
                        Step::Data(..) | Step::Noise(..) | Step::Sleep(_) => {
                            panic!("only binds and proofs are answered")
                        }
                    };
                    if let Some((_, cookie)) = Handle::of_challenge(&datagram[..len]) {
                        let ticket = before[1..].first_chunk().unwrap();
                        proofs.push((at, side, from, cookie.proof(ticket).to_vec()));
                    } else if bound.get(&(at, side)) != Some(&from) {
                        prop_assert_eq!(proven, Some(from), "moved without a proof");
                        bound.insert((at, side), from);
                    }
                }
                Verdict::Drop(_) => {}
            }
            prop_assert!(bytes_out <= bytes_in);
            prop_assert!(relay.core.ends() <= 6);
            prop_assert_eq!(relay.core.ends() == 0, relay.core.deadline().is_none());
        }
        relay.sleep(LIFE);
        prop_assert_eq!(relay.core.ends(), 0);
    }
}

const LIFE: Duration = Duration::from_secs(300);

const BOUND: Verdict = Verdict::Answer { len: BOUND_BYTES };

const CHALLENGED: Verdict = Verdict::Answer {
    len: CHALLENGE_BYTES,
};

/// A relay, its controller's key and a clock.
struct Bench {
    core: Relay,
    key: TicketKey,
    now: Now,
    /// The last bind that was made.
    stored: Vec<u8>,
    /// When the tickets of `bind` end.
    ends: UnixMillis,
}

impl Bench {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let key = TicketKey::from_seed(&[7; 32]).unwrap();
        let now = start();
        Self {
            core: Relay::new(key.public(), [9; 32], settings),
            key,
            now,
            stored: Vec::new(),
            ends: now.unix.plus(LIFE),
        }
    }

    fn handle(&mut self, from: u16, datagram: &mut [u8]) -> Verdict {
        self.core.handle(self.now, address(from), datagram)
    }

    /// The proof that a bind from there leads to, which a relay that challenges must have asked for.
    fn challenge(&mut self, at: u8, side: Side, from: u16) -> Vec<u8> {
        let bind = self.ticket_until(at, side, self.ends);
        self.challenge_for(&bind, from)
    }

    fn challenge_for(&mut self, bind: &[u8], from: u16) -> Vec<u8> {
        let mut datagram = bind.to_vec();
        assert_eq!(self.handle(from, &mut datagram), CHALLENGED);
        let (_, cookie) = Handle::of_challenge(&datagram[..CHALLENGE_BYTES]).unwrap();
        cookie.proof(bind[1..].try_into().unwrap()).to_vec()
    }

    /// The last bind that was made, as a proof.
    fn proof(&self, cookie: &Cookie) -> Vec<u8> {
        cookie.proof(self.stored[1..].try_into().unwrap()).to_vec()
    }

    fn forwards(&mut self, from: u16, side: Side, to: u16) {
        assert_eq!(
            self.handle(from, &mut data(0, side, b"x")),
            Verdict::Forward { to: address(to) }
        );
    }

    fn drops(&mut self, from: u16, datagram: &mut [u8], reason: DropReason) {
        let before = self.core.counters().dropped(reason);
        assert_eq!(self.handle(from, datagram), Verdict::Drop(reason));
        assert_eq!(self.core.counters().dropped(reason), before + 1);
    }

    fn sign(&mut self, ticket: Ticket) -> Vec<u8> {
        let ticket = self.key.sign(&ticket).unwrap();
        self.stored = [&[FrameKind::Bind.byte()], &ticket[..]].concat();
        self.stored.clone()
    }

    fn ticket(&mut self, at: u8, side: Side, life: Duration) -> Vec<u8> {
        let not_after = self.now.unix.plus(life);
        self.ticket_until(at, side, not_after)
    }

    fn ticket_until(&mut self, at: u8, side: Side, not_after: UnixMillis) -> Vec<u8> {
        self.sign(Ticket {
            tunnel: tunnel(at),
            side,
            handle: handle(at, side),
            not_after,
        })
    }

    /// Binds with a ticket that ends [`LIFE`] after the beginning, and proves what is asked for.
    fn bind(&mut self, at: u8, side: Side, from: u16) {
        let mut bind = self.ticket_until(at, side, self.ends);
        if self.handle(from, &mut bind) == CHALLENGED {
            let (_, cookie) = Handle::of_challenge(&bind[..CHALLENGE_BYTES]).unwrap();
            bind = self.proof(&cookie);
            assert_eq!(self.handle(from, &mut bind), BOUND);
        }
        assert!(Handle::of_bound(&bind[..BOUND_BYTES]).is_some());
    }

    fn sleep(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
        self.core.expire(self.now);
        assert!(self.core.deadline().is_none_or(|at| at > self.now.instant));
    }
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn tunnel(at: u8) -> Bytes<16> {
    Bytes([at; 16])
}

fn handle(at: u8, side: Side) -> Handle {
    let side = match side {
        Side::Agent => 0,
        Side::Connector => 1,
    };
    Handle::from_bytes([at, side, 0, 0, 0, 0, 1])
}

fn table_other(side: Side) -> Side {
    match side {
        Side::Agent => Side::Connector,
        Side::Connector => Side::Agent,
    }
}

fn data(at: u8, side: Side, sealed: &[u8]) -> Vec<u8> {
    [&handle(at, side).data_header(), sealed].concat()
}
