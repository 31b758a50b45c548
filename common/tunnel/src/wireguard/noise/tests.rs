use std::{sync::Arc, time::Duration};

use boringtun::{
    noise::{Tunn, TunnResult, rate_limiter::RateLimiter},
    x25519::{PublicKey, StaticSecret},
};
use cardea_proto::time::testing;

use super::*;
use crate::keys::WireGuardKey;

const PACKET: &[u8] =
    b"\x45\0\0\x1c\0\0\0\0\x40\x11\0\0\x0a\0\0\x01\x0a\0\0\x02\0\x01\0\x02\0\x08\0\0";

#[test]
fn two_of_ours_agree_renew_and_keep_what_is_on_its_way() {
    let (mut agent, mut connector) = pair();
    let now = testing::start();
    shake(&mut agent, &mut connector, now);
    let late = seal(&mut agent, now, PACKET);
    check_passes(&mut connector, &mut agent, now);
    shake(&mut agent, &mut connector, now.plus(Duration::from_secs(1)));
    check_passes(&mut agent, &mut connector, now);
    let mut room = [0; 200];
    assert_eq!(
        connector.open(now, &late, &mut room),
        Opened::Packet(PACKET)
    );
    assert_eq!(
        connector.open(now, &late, &mut room),
        Opened::Nothing,
        "a replay"
    );
}

#[test]
fn a_packet_that_was_changed_anywhere_does_not_open() {
    let (mut agent, mut connector) = pair();
    let now = testing::start();
    shake(&mut agent, &mut connector, now);
    let sealed = seal(&mut agent, now, PACKET);
    let mut room = [0; 200];
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert_eq!(
            connector.open(now, &changed, &mut room),
            Opened::Nothing,
            "{at}"
        );
        assert_eq!(
            connector.open(now, &sealed[..at], &mut room),
            Opened::Nothing
        );
    }
    assert_eq!(
        connector.open(now, &sealed, &mut room),
        Opened::Packet(PACKET)
    );
}

#[test]
fn a_handshake_that_was_changed_or_came_before_is_not_answered() {
    let (mut agent, mut connector) = pair();
    let now = testing::start();
    let first = initiate(&mut agent, now);
    let mut room = [0; 200];
    // The second MAC, which only cookies fill, is not looked at.
    for at in 0..first.len() - 16 {
        let mut changed = first.clone();
        changed[at] ^= 1;
        assert_eq!(
            connector.open(now, &changed, &mut room),
            Opened::Nothing,
            "{at}"
        );
    }
    assert!(matches!(
        connector.open(now, &first, &mut room),
        Opened::Handshake { .. }
    ));
    assert_eq!(
        connector.open(now, &first, &mut room),
        Opened::Nothing,
        "a replay"
    );
    // A clock that was set back.
    let mut earlier = now;
    earlier.unix.0 -= 3_600_000;
    let second = initiate(&mut agent, earlier);
    let Opened::Handshake { answer } = connector.open(now, &second, &mut room) else {
        panic!("not answered");
    };
    let answer = answer.to_vec();
    for at in 0..answer.len() - 16 {
        let mut changed = answer.clone();
        changed[at] ^= 1;
        assert_eq!(
            agent.open(now, &changed, &mut room),
            Opened::Nothing,
            "{at}"
        );
    }
    assert!(matches!(
        agent.open(now, &answer, &mut room),
        Opened::Answered { .. }
    ));
    assert_eq!(
        agent.open(now, &answer, &mut room),
        Opened::Nothing,
        "a replay"
    );
}

#[test]
fn datagrams_of_one_session_open_together_as_they_would_one_by_one() {
    let now = testing::start();
    for seed in 0..200 {
        let mut entropy = ChaCha20Rng::from_seed([seed; 32]);
        let (mut agent, mut alone) = pair();
        shake(&mut agent, &mut alone, now);
        // The same once more: two ends that know the same.
        let (mut again, mut together) = pair();
        shake(&mut again, &mut together, now);
        for _ in 0..6 {
            let datagrams = some_datagrams(&mut agent, now, &mut entropy);
            let mut room = vec![0; 70_000];
            let one_by_one: Vec<_> = datagrams
                .iter()
                .map(|sealed| match alone.open(now, sealed, &mut room) {
                    Opened::Packet(packet) => Some(packet.to_vec()),
                    Opened::KeepAlive => Some(Vec::new()),
                    Opened::Nothing => None,
                    other @ (Opened::Handshake { .. } | Opened::Answered { .. }) => {
                        panic!("{other:?}")
                    }
                })
                .collect();
            let all = datagrams.iter().map(Vec::as_slice);
            let places = together.open_all(now.instant, all, &mut room);
            let places = places.into_iter();
            let at_once: Vec<_> = places
                .map(|place| place.map(|at| room[at].to_vec()))
                .collect();
            assert_eq!(at_once, one_by_one);
            assert!(one_by_one.contains(&None) || one_by_one.iter().any(Option::is_some));
        }
    }
}

/// Up to forty datagrams of one session, late ones, changed ones, cut ones and replays among them.
fn some_datagrams(from: &mut Noise, now: Now, entropy: &mut ChaCha20Rng) -> Vec<Vec<u8>> {
    let mut below = |limit: u32| usize::try_from(entropy.next_u32() % limit).unwrap();
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    for _ in 0..=below(40) {
        let len = if below(2) == 0 { 1_400 } else { below(1_500) };
        let packet: Vec<u8> = (0..len).map(|at| at.to_le_bytes()[0]).collect();
        let mut sealed = seal(from, now, &packet);
        let before = datagrams.get(below(40)).cloned();
        match (below(8), before) {
            (0, Some(before)) => sealed = before,
            (1, _) => {
                let at = 8 + below(u32::try_from(sealed.len() - 8).unwrap());
                sealed[at] ^= 1 << below(8);
            }
            (2, _) => sealed.truncate(8 + below(40)),
            (3, _) => {
                let at = below(u32::try_from(datagrams.len() + 1).unwrap());
                datagrams.insert(at, sealed);
                continue;
            }
            (4, _) => {
                // So many are lost that those before are too late.
                for _ in 0..below(3_000) {
                    seal(from, now, &[]);
                }
            }
            _ => {}
        }
        datagrams.push(sealed);
    }
    datagrams
}

#[test]
fn the_first_packet_among_many_proves_the_next_keys() {
    let (mut agent, mut connector) = pair();
    let now = testing::start();
    let first = initiate(&mut agent, now);
    let mut room = vec![0; 8_000];
    let Opened::Handshake { answer } = connector.open(now, &first, &mut room) else {
        panic!("not answered");
    };
    let answer = answer.to_vec();
    assert!(matches!(
        agent.open(now, &answer, &mut room),
        Opened::Answered { .. }
    ));
    let mut changed = seal(&mut agent, now, PACKET);
    changed[30] ^= 1;
    let all = |datagrams: &[Vec<u8>], connector: &mut Noise, room: &mut [u8]| {
        connector.open_all(now.instant, datagrams.iter().map(Vec::as_slice), room)
    };
    assert_eq!(
        all(
            &[changed.clone(), changed.clone()],
            &mut connector,
            &mut room
        ),
        [None, None]
    );
    assert!(connector.current.is_none(), "proven by nothing");
    let right = seal(&mut agent, now, PACKET);
    let opened = all(&[changed, right.clone(), right], &mut connector, &mut room);
    let at = opened[1].clone().unwrap();
    assert_eq!(&room[at], PACKET);
    assert_eq!((&opened[0], &opened[2]), (&None, &None));
    assert!(connector.current.is_some() && connector.next.is_none());
}

#[test]
fn keys_end_after_three_minutes_and_a_stranger_has_none() {
    let (mut agent, mut connector) = pair();
    let now = testing::start();
    shake(&mut agent, &mut connector, now);
    let sealed = seal(&mut agent, now, PACKET);
    let later = now.plus(Duration::from_secs(180));
    let mut room = [0; 200];
    assert_eq!(agent.seal(later.instant, 0, &mut room), None);
    assert_eq!(connector.open(later, &sealed, &mut room), Opened::Nothing);
    connector.tick(later.instant);
    assert!(connector.current.is_none());
    // With the right static keys and another preshared one, or the other way round.
    let [a, b] = keys();
    for (own, psk) in [(&a, 8), (&WireGuardKey::generate([9; 32]), 7)] {
        let mut stranger = Noise::new(&own.private, b.public, &Secret32([psk; 32]), 1, [4; 32]);
        let (_, mut connector) = pair();
        let first = initiate(&mut stranger, now);
        let opened = connector.open(now, &first, &mut room);
        let Opened::Handshake { answer } = opened else {
            assert_eq!(opened, Opened::Nothing);
            continue;
        };
        let answer = answer.to_vec();
        assert_eq!(stranger.open(now, &answer, &mut room), Opened::Nothing);
    }
}

#[test]
fn ours_begins_and_boringtun_answers() {
    let [a, b] = keys();
    let now = testing::start();
    let mut ours = Noise::new(&a.private, b.public, &PSK, 1, [1; 32]);
    let mut theirs = boringtun(&b, &a);
    let mut room = [0; 200];
    let first = initiate(&mut ours, now);
    let TunnResult::WriteToNetwork(answer) = theirs.decapsulate(None, &first, &mut room) else {
        panic!("boringtun does not answer");
    };
    let answer = answer.to_vec();
    let Opened::Answered { confirm } = ours.open(now, &answer, &mut room) else {
        panic!("its answer is not taken");
    };
    let confirm = confirm.to_vec();
    assert!(matches!(
        theirs.decapsulate(None, &confirm, &mut room),
        TunnResult::Done
    ));
    check_with_boringtun(&mut ours, &mut theirs, now);
}

#[test]
fn boringtun_begins_and_ours_answers() {
    let [a, b] = keys();
    let now = testing::start();
    let mut ours = Noise::new(&b.private, a.public, &PSK, 1, [1; 32]);
    let mut theirs = boringtun(&a, &b);
    let mut room = [0; 200];
    let TunnResult::WriteToNetwork(first) = theirs.format_handshake_initiation(&mut room, false)
    else {
        panic!("boringtun does not begin");
    };
    let first = first.to_vec();
    let Opened::Handshake { answer } = ours.open(now, &first, &mut room) else {
        panic!("not answered");
    };
    let answer = answer.to_vec();
    let TunnResult::WriteToNetwork(confirm) = theirs.decapsulate(None, &answer, &mut room) else {
        panic!("boringtun does not take our answer");
    };
    let confirm = confirm.to_vec();
    assert_eq!(ours.open(now, &confirm, &mut room), Opened::KeepAlive);
    check_with_boringtun(&mut ours, &mut theirs, now);
}

fn check_with_boringtun(ours: &mut Noise, theirs: &mut Tunn, now: Now) {
    let mut room = [0; 200];
    for _ in 0..3 {
        let sealed = seal(ours, now, PACKET);
        let TunnResult::WriteToTunnelV4(packet, _) = theirs.decapsulate(None, &sealed, &mut room)
        else {
            panic!("boringtun does not open");
        };
        assert_eq!(packet, PACKET);
        let TunnResult::WriteToNetwork(sealed) = theirs.encapsulate(PACKET, &mut room) else {
            panic!("boringtun does not seal");
        };
        let sealed = sealed.to_vec();
        assert_eq!(ours.open(now, &sealed, &mut room), Opened::Packet(PACKET));
    }
}

fn check_passes(from: &mut Noise, to: &mut Noise, now: Now) {
    let sealed = seal(from, now, PACKET);
    let mut room = [0; 200];
    assert_eq!(to.open(now, &sealed, &mut room), Opened::Packet(PACKET));
}

fn shake(agent: &mut Noise, connector: &mut Noise, now: Now) {
    let first = initiate(agent, now);
    let mut room = [0; 200];
    let Opened::Handshake { answer } = connector.open(now, &first, &mut room) else {
        panic!("not answered");
    };
    let answer = answer.to_vec();
    let Opened::Answered { confirm } = agent.open(now, &answer, &mut room) else {
        panic!("the answer is not taken");
    };
    let confirm = confirm.to_vec();
    assert_eq!(connector.open(now, &confirm, &mut room), Opened::KeepAlive);
}

fn initiate(noise: &mut Noise, now: Now) -> Vec<u8> {
    let mut room = [0; 200];
    let len = noise.initiate(now, &mut room).unwrap();
    room[..len].to_vec()
}

fn seal(noise: &mut Noise, now: Now, packet: &[u8]) -> Vec<u8> {
    let mut room = vec![0; room_for(packet.len())];
    room[HEADER_BYTES..][..packet.len()].copy_from_slice(packet);
    let len = noise.seal(now.instant, packet.len(), &mut room).unwrap();
    assert_eq!(len, room.len());
    room
}

const PSK: Secret32 = Secret32([7; 32]);

fn keys() -> [WireGuardKey; 2] {
    [1, 2].map(|seed| WireGuardKey::generate([seed; 32]))
}

fn pair() -> (Noise, Noise) {
    let [a, b] = keys();
    let agent = Noise::new(&a.private, b.public, &PSK, 1, [1; 32]);
    let connector = Noise::new(&b.private, a.public, &PSK, 2, [2; 32]);
    (agent, connector)
}

fn boringtun(own: &WireGuardKey, peer: &WireGuardKey) -> Tunn {
    let private = StaticSecret::from(own.private.0);
    let limiter = RateLimiter::new(&PublicKey::from(&private), u64::MAX);
    Tunn::new(
        private,
        PublicKey::from(peer.public.0),
        Some(PSK.0),
        None,
        9,
        Some(Arc::new(limiter)),
    )
}
