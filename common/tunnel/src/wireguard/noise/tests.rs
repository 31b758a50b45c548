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
