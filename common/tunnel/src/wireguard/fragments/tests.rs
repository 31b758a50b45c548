use cardea_proto::time::testing::start;
use proptest::prelude::*;

use super::*;
use crate::inner::packet::{self, Packet};

const MTU: usize = 1_400;

#[test]
fn a_packet_of_any_length_comes_together_again_in_any_order() {
    for (from, to) in [("100.64.0.1", "100.64.9.9"), ("fd00::1", "fd00::2")] {
        for len in [1_400, 1_401, 2_752, 9_000, 65_400] {
            for order in [0, 1, 2] {
                let whole = built(from, to, len);
                let mut parts = cut(&whole);
                assert!(parts.iter().all(|part| part.len() <= MTU));
                match order {
                    0 => {}
                    1 => parts.reverse(),
                    _ => parts.rotate_left(1),
                }
                let joined = feed(&mut Fragments::default(), &parts).unwrap();
                let packet = Packet::parse(&joined).unwrap();
                let expected = Packet::parse(&whole).unwrap();
                assert_eq!(packet, expected);
                assert_eq!(packet.payload(&joined), expected.payload(&whole));
            }
        }
    }
}

#[test]
fn what_overlaps_ends_its_packet_and_nothing_of_it_comes_through() {
    let whole = built("100.64.0.1", "100.64.9.9", 4_000);
    let parts = cut(&whole);
    for twice in 0..parts.len() - 1 {
        let mut fragments = Fragments::default();
        let mut hostile = parts.clone();
        hostile.insert(twice + 1, parts[twice].clone());
        assert!(feed(&mut fragments, &hostile).is_none(), "{twice}");
        let repeated = Fragment::parse(&parts[0]).unwrap();
        let mut fragments = Fragments::default();
        assert_eq!(fragments.take(start().instant, &repeated), Ok(None));
        let again = fragments.take(start().instant, &repeated);
        assert_eq!(again, Err(DropReason::Fragmented));
        assert!(fragments.waiting.is_empty());
    }
}

#[test]
fn an_end_before_what_has_come_and_a_second_end_are_refused() {
    let long = cut(&built("100.64.0.1", "100.64.9.9", 4_000));
    let short = cut(&built("100.64.0.1", "100.64.9.9", 2_000));
    let mut fragments = Fragments::default();
    let last = |parts: &[Vec<u8>]| parts.last().unwrap().clone();
    assert!(feed(&mut fragments, &[long[1].clone()]).is_none());
    let cases = [last(&short)];
    for case in &cases {
        let fragment = Fragment::parse(case).unwrap();
        let taken = fragments.take(start().instant, &fragment);
        assert_eq!(taken, Err(DropReason::Fragmented));
    }
    let mut fragments = Fragments::default();
    assert!(feed(&mut fragments, &[last(&short)]).is_none());
    let beyond = last(&long);
    let beyond = Fragment::parse(&beyond).unwrap();
    let taken = fragments.take(start().instant, &beyond);
    assert_eq!(taken, Err(DropReason::Fragmented));
}

#[test]
fn only_a_few_packets_wait_and_none_for_long() {
    let mut fragments = Fragments::default();
    let mut sender = Fragments::default();
    let whole = built("100.64.0.1", "100.64.9.9", 4_000);
    let mut sent = Vec::new();
    for _ in 0..10 {
        let mut parts = Vec::new();
        sender.cut(&whole, MTU, |part| parts.push(part.to_vec()));
        assert!(feed(&mut fragments, &parts[1..]).is_none());
        assert!(fragments.waiting.len() <= WAITING_MAX);
        sent.push(parts);
    }
    assert!(feed(&mut fragments, &sent[0][..1]).is_none());
    assert!(feed(&mut fragments, &sent[9][..1]).is_some());
    let late = Fragment::parse(&sent[8][0]).unwrap();
    let at = start().instant + WAIT_MAX;
    assert_eq!(fragments.take(at, &late), Ok(None));
    assert_eq!(fragments.waiting.len(), 1);
}

proptest! {
    #[test]
    fn no_fragments_make_it_panic_or_keep_more_than_they_hold(
        pieces in prop::collection::vec((0_usize..70_000, 0_usize..1_400, any::<bool>(), 0_u32..3, any::<bool>()), 0..40)
    ) {
        let mut fragments = Fragments::default();
        let body = vec![7; 1_400];
        let head4 = built("100.64.0.1", "100.64.9.9", 0)[..20].to_vec();
        let head6 = built("fd00::1", "fd00::2", 0)[..40].to_vec();
        for (offset, len, is_last, id, v6) in pieces {
            let (source, head): (IpAddr, _) = if v6 {
                ("fd00::1".parse().unwrap(), &head6)
            } else {
                ("100.64.0.1".parse().unwrap(), &head4)
            };
            let fragment = Fragment {
                source,
                destination: source,
                id,
                offset,
                is_last,
                head,
                body: &body[..len],
            };
            if let Ok(Some(whole)) = fragments.take(start().instant, &fragment) {
                prop_assert!(whole.len() <= BODY_MAX + IP6_BYTES);
            }
            prop_assert!(fragments.waiting.len() <= WAITING_MAX);
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), version in 4_u8..7) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = (version << 4) | 5;
        }
        let _parsed = Fragment::parse(&bytes);
    }
}

fn built(from: &str, to: &str, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let mut room = vec![0; 70_000];
    let from = (from.parse().unwrap(), 4_000);
    let to = (to.parse().unwrap(), 53);
    let len = packet::build_udp(from, to, &payload, &mut room).unwrap();
    room.truncate(len);
    room
}

fn cut(whole: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    Fragments::default().cut(whole, MTU, |part| parts.push(part.to_vec()));
    assert!(parts.len() > 1);
    parts
}

fn feed(fragments: &mut Fragments, parts: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut whole = None;
    for part in parts {
        assert!(
            Packet::parse_head(part).is_err(),
            "the filter sees none of them"
        );
        let fragment = Fragment::parse(part).unwrap();
        if let Ok(Some(joined)) = fragments.take(start().instant, &fragment) {
            assert!(whole.is_none());
            whole = Some(joined);
        }
    }
    whole
}
