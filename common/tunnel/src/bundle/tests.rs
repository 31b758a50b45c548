use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::inner::packet::PROTOCOL_ICMP6;

#[test]
fn a_window_of_tcp_is_split_into_segments_that_join_to_the_same_window() {
    for (from, to) in [("100.64.0.1", "100.96.0.2"), ("fd00::1", "fd00::2")] {
        let mut given = tcp_window(from, to, 10_000, 1_348);
        let bundle = Bundle::read(&mut given).unwrap();
        assert_eq!(
            (bundle.count(), bundle.longest()),
            (8, bundle.packet.head_len + 1_348)
        );
        let parts = parts(&bundle);
        let last = parts.last().unwrap();
        assert_eq!(
            last[bundle.packet.ip_len + 13],
            FLAG_ACK_PSH,
            "pushed at its end"
        );
        assert_eq!(parts[0][bundle.packet.ip_len + 13], 0x10);
        let written = written(&parts, true);
        assert_eq!(written.len(), 1);
        assert_eq!(payload_of(&written[0]), payload(10_000));
        let again = summed(&written[0]);
        assert!(sums_hold(&again));
    }
}

#[test]
fn what_the_path_does_not_carry_whole_is_cut_into_segments_of_the_same_stream() {
    for (from, to) in [("100.64.0.1", "100.96.0.2"), ("fd00::1", "fd00::2")] {
        // A window, and a packet that stands for itself.
        for (len, size) in [(10_000, 1_348), (1_300, 1_348)] {
            let mut given = tcp_window(from, to, len, size);
            let whole = written(&parts(&Bundle::read(&mut given.clone()).unwrap()), true);
            let mut bundle = Bundle::read(&mut given).unwrap();
            bundle.narrow(1_180);
            assert_eq!(bundle.longest(), 1_180);
            let parts = parts(&bundle);
            assert_eq!(parts.len(), len.div_ceil(1_180 - bundle.packet.head_len));
            assert!(parts.iter().all(|part| part.len() <= 1_180));
            let flags = bundle.packet.ip_len + 13;
            let pushed = parts.iter().filter(|part| part[flags] == FLAG_ACK_PSH);
            assert_eq!(pushed.count(), 1, "at its end");
            let joined = written(&parts, true);
            assert_eq!(payload_of(&joined[0]), payload_of(&whole[0]));
        }
        let mut given = udp_window(from, to, 1_300, 1_300);
        let mut bundle = Bundle::read(&mut given).unwrap();
        bundle.narrow(1_180);
        assert_eq!(bundle.count(), 1, "a datagram is one");
    }
}

#[test]
fn datagrams_of_one_size_are_split_with_checksums_and_joined() {
    for (from, to) in [("100.64.0.1", "100.96.0.2"), ("fd00::1", "fd00::2")] {
        let mut given = udp_window(from, to, 4_000, 1_200);
        let bundle = Bundle::read(&mut given).unwrap();
        let parts = parts(&bundle);
        assert_eq!(parts.len(), 4);
        for part in &parts {
            assert!(Packet::parse(part).is_ok());
        }
        assert_eq!(written(&parts, true).len(), 1);
        let alone = written(&parts, false);
        assert_eq!(alone.len(), 4);
        assert_eq!(
            alone
                .iter()
                .flat_map(|one| payload_of(one))
                .collect::<Vec<_>>(),
            payload(4_000)
        );
    }
}

#[test]
fn a_header_that_lies_is_refused() {
    let lie = |at: usize, value: u8| {
        let mut given = tcp_window("100.64.0.1", "100.96.0.2", 3_000, 1_000);
        given[at] = value;
        Bundle::read(&mut given).err()
    };
    let wrong = Some(DropReason::WrongOffload);
    assert_eq!(lie(0, 1), None, "the truth");
    assert_eq!(lie(0, 2), wrong, "checked, and yet to be split");
    assert_eq!(lie(0, 4), wrong, "a flag that does not exist");
    assert_eq!(lie(1, 4), wrong, "TCP over IPv6");
    assert_eq!(lie(1, 5), wrong, "UDP");
    assert_eq!(lie(1, 3), wrong, "fragments of UDP");
    assert_eq!(lie(1, 77), wrong, "a kind that does not exist");
    assert_eq!(lie(6, 24), wrong, "a checksum elsewhere");
    assert_eq!(lie(8, 6), wrong, "UDP's checksum");
    assert_eq!(lie(2, 200), None, "the length of headers is not believed");
    let mut none = tcp_window("100.64.0.1", "100.96.0.2", 3_000, 0);
    assert_eq!(Bundle::read(&mut none).err(), wrong, "parts of nothing");
    let mut tiny = tcp_window("100.64.0.1", "100.96.0.2", 30_000, 1);
    assert_eq!(
        Bundle::read(&mut tiny).err(),
        wrong,
        "thirty thousand parts"
    );
    assert_eq!(Bundle::read(&mut [0; 9]).err(), wrong);
}

#[test]
fn a_checksum_that_the_kernel_has_not_looked_at_is() {
    let mut given = tcp_window("100.64.0.1", "100.96.0.2", 500, 1_000);
    let mut packet = summed(&given);
    given[..HEADER_BYTES].fill(0);
    assert_eq!(
        Bundle::read(&mut given.clone()).err(),
        Some(DropReason::Malformed)
    );
    packet.splice(..0, [0; HEADER_BYTES]);
    assert!(Bundle::read(&mut packet.clone()).is_ok());
    *packet.last_mut().unwrap() ^= 1;
    assert_eq!(Bundle::read(&mut packet).err(), Some(DropReason::Malformed));
}

#[test]
fn segments_that_do_not_continue_each_other_stay_apart() {
    let mut given = tcp_window("100.64.0.1", "100.96.0.2", 4_000, 1_000);
    let bundle = Bundle::read(&mut given).unwrap();
    let honest = parts(&bundle);
    let change = |index: usize, at: usize, value: u8| {
        let mut parts = honest.clone();
        parts[index][at] = value;
        let len = parts[index].len();
        measure_ip(&mut parts[index][..20], len).unwrap();
        written(&parts, true).len()
    };
    assert_eq!(written(&honest, true).len(), 1);
    assert_eq!(change(1, 20 + 7, 77), 3, "another sequence number");
    assert_eq!(change(1, 20 + 11, 77), 3, "another acknowledgment");
    assert_eq!(change(1, 20 + 15, 77), 3, "another window");
    assert_eq!(change(1, 20 + 13, 0x11), 3, "an end");
    assert_eq!(change(1, 20 + 13, 0x18), 2, "a push ends the whole");
    assert_eq!(change(1, 8, 7), 3, "another hop limit");
    let swapped = [honest[1].clone(), honest[0].clone()];
    assert_eq!(written(&swapped, true).len(), 2, "order");
}

#[test]
fn other_addresses_keep_right_checksums_right_and_wrong_ones_wrong() {
    for (from, to, source, destination) in [
        ("100.64.0.1", "100.96.0.2", "10.1.2.3", "192.0.2.255"),
        ("fd00::1", "fd00::2", "2001:db8::1", "fd00:ffff::9"),
    ] {
        for damage in [0, 1] {
            let mut given = udp_window(from, to, 100, 1_000);
            let bundle = Bundle::read(&mut given).unwrap();
            let mut datagram = parts(&bundle).remove(0);
            *datagram.last_mut().unwrap() ^= damage;
            check_readdressed(datagram, source, destination, damage == 0);
        }
        check_readdressed(echo(from, to), source, destination, true);
    }
}

proptest! {
    #[test]
    fn any_window_survives_being_split_and_joined(
        len in 1_usize..65_000, size in 60_usize..1_400, v6: bool, udp: bool,
    ) {
        let (from, to) = if v6 { ("fd00::1", "fd00::2") } else { ("100.64.0.1", "100.96.0.2") };
        let size = size.max(len.div_ceil(PARTS_MAX));
        let mut given = if udp {
            udp_window(from, to, len, size)
        } else {
            tcp_window(from, to, len, size)
        };
        let bundle = Bundle::read(&mut given).unwrap();
        let parts = parts(&bundle);
        prop_assert_eq!(parts.len(), bundle.count());
        prop_assert!(parts.iter().all(|part| part.len() <= bundle.longest()));
        let written = written(&parts, true);
        let mut joined = Vec::new();
        for one in &written {
            prop_assert!(sums_hold(&summed(one)));
            // What was joined is what a kernel would have given.
            prop_assert!(Bundle::read(&mut one.clone()).is_ok());
            joined.extend(payload_of(one));
        }
        prop_assert_eq!(joined, payload(len));
    }

    #[test]
    fn nothing_that_a_kernel_could_say_makes_the_reader_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300), flags in 0_u8..4, kind in 0_u8..6, first in 4_u8..7,
    ) {
        let mut bytes = bytes;
        if bytes.len() > HEADER_BYTES {
            (bytes[0], bytes[1], bytes[HEADER_BYTES]) = (flags, kind, (first << 4) | 5);
        }
        if let Ok(bundle) = Bundle::read(&mut bytes) {
            let parts = parts(&bundle);
            let _written = written(&parts, true);
        }
    }

    #[test]
    fn a_damaged_window_is_refused_or_stays_in_bounds(at in 0_usize..80, value: u8, v6: bool) {
        let (from, to) = if v6 { ("fd00::1", "fd00::2") } else { ("100.64.0.1", "100.96.0.2") };
        let mut given = tcp_window(from, to, 5_000, 1_000);
        given[at] = value;
        if let Ok(bundle) = Bundle::read(&mut given) {
            let parts = parts(&bundle);
            prop_assert!(parts.iter().all(|part| part.len() <= bundle.longest()));
        }
    }
}

fn check_readdressed(mut bytes: Vec<u8>, source: &str, destination: &str, is_right: bool) {
    let (source, destination): (IpAddr, IpAddr) =
        (source.parse().unwrap(), destination.parse().unwrap());
    let mut packet = Packet::parse_head(&bytes).unwrap();
    readdress(&mut bytes, &mut packet, source, destination);
    assert_eq!(Packet::parse_head(&bytes), Ok(packet));
    assert_eq!((packet.source, packet.destination), (source, destination));
    assert_eq!(Packet::parse(&bytes).is_ok(), is_right);
}

const FLAG_ACK_PSH: u8 = 0x18;

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// A virtio header and a packet with the flags ACK and PSH that is still to be split and summed.
fn tcp_window(from: &str, to: &str, len: usize, size: usize) -> Vec<u8> {
    let mut above = vec![0; 20];
    above[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    above[4..8].copy_from_slice(&0xffff_ff00_u32.to_be_bytes());
    above[8..12].copy_from_slice(&7_u32.to_be_bytes());
    (above[12], above[13], above[14]) = (0x50, FLAG_ACK_PSH, 0x20);
    let v6 = from.contains(':');
    window(from, to, above, PROTOCOL_TCP, len, Parts::Tcp { size, v6 })
}

fn udp_window(from: &str, to: &str, len: usize, size: usize) -> Vec<u8> {
    let mut above = vec![0x30, 0x39, 0, 53, 0, 0, 0, 0];
    let announced = u16::try_from(len + 8).unwrap().to_be_bytes();
    above[4..6].copy_from_slice(&announced);
    window(from, to, above, PROTOCOL_UDP, len, Parts::Udp { size })
}

fn echo(from: &str, to: &str) -> Vec<u8> {
    let v6 = from.contains(':');
    let above = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0, 9, 0, 1];
    let protocol = if v6 { PROTOCOL_ICMP6 } else { 1 };
    let mut bytes = window(from, to, above, protocol, 56, Parts::One).split_off(HEADER_BYTES);
    let (ip_len, len) = if v6 { (40, 64) } else { (20, 64) };
    let start = if v6 {
        pseudo(
            from.parse().unwrap(),
            to.parse().unwrap(),
            len,
            PROTOCOL_ICMP6,
        )
    } else {
        0
    };
    let made = !fold(sum(start, &bytes[ip_len..]));
    bytes[ip_len + 2..ip_len + 4].copy_from_slice(&made.to_be_bytes());
    assert!(Packet::parse(&bytes).is_ok());
    bytes
}

fn window(from: &str, to: &str, above: Vec<u8>, protocol: u8, len: usize, parts: Parts) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut ip = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0];
            ip.extend(from.octets());
            ip.extend(to.octets());
            ip
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut ip = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            ip.extend(from.octets());
            ip.extend(to.octets());
            ip
        }
        _ => panic!("two families"),
    };
    let total = ip.len() + above.len() + len;
    measure_ip(&mut ip, total).unwrap();
    let head_len = ip.len() + above.len();
    let sum = match parts {
        Parts::One => Sum::Made,
        Parts::Tcp { .. } => Sum::Partial {
            start: ip.len(),
            offset: 16,
        },
        Parts::Udp { .. } => Sum::Partial {
            start: ip.len(),
            offset: 6,
        },
    };
    let header = Header { parts, sum }.write(head_len);
    let mut above = above;
    if let Sum::Partial { offset, .. } = sum {
        let start = fold(pseudo(from, to, above.len() + len, protocol));
        above[offset..offset + 2].copy_from_slice(&start.to_be_bytes());
    }
    [&header[..], &ip, &above, &payload(len)].concat()
}

fn parts(bundle: &Bundle<'_>) -> Vec<Vec<u8>> {
    (0..bundle.count())
        .map(|index| {
            let mut room = vec![0; 66_000];
            let len = bundle.write_part(index, &mut room).unwrap();
            assert_eq!(len, bundle.part_len(index));
            room.truncate(len);
            assert!(Packet::parse_head(&room).is_ok());
            room
        })
        .collect()
}

/// What would be written to a kernel, one write for each entry.
fn written(parts: &[Vec<u8>], udp: bool) -> Vec<Vec<u8>> {
    let seen: Vec<(&[u8], Packet)> = parts
        .iter()
        .filter_map(|part| Some((&part[..], Packet::parse_head(part).ok()?)))
        .collect();
    let mut rest = &seen[..];
    let mut all = Vec::new();
    while let Some((count, front)) = join(rest, udp) {
        let (these, later) = rest.split_at(count);
        let mut bytes = front.bytes().to_vec();
        for (part, packet) in these {
            bytes.extend_from_slice(packet.payload(part));
        }
        all.push(bytes);
        rest = later;
    }
    all
}

fn payload_of(written: &[u8]) -> Vec<u8> {
    let packet = Packet::parse_head(&written[HEADER_BYTES..]).unwrap();
    packet.payload(&written[HEADER_BYTES..]).to_vec()
}

/// The packet behind a virtio header, with the checksum that its kernel would make.
fn summed(written: &[u8]) -> Vec<u8> {
    let header = Header::read(written.first_chunk().unwrap()).unwrap();
    let mut bytes = written[HEADER_BYTES..].to_vec();
    if let Sum::Partial { start, offset } = header.sum {
        let made = !fold(sum(0, &bytes[start..]));
        bytes[start + offset..start + offset + 2].copy_from_slice(&made.to_be_bytes());
    }
    bytes
}

fn sums_hold(bytes: &[u8]) -> bool {
    let packet = Packet::parse_head(bytes).unwrap();
    let protocol = match packet.body {
        Body::Tcp { .. } => PROTOCOL_TCP,
        Body::Udp | Body::Echo { .. } => PROTOCOL_UDP,
    };
    let above = &bytes[packet.ip_len..];
    let start = pseudo(packet.source, packet.destination, above.len(), protocol);
    fold(sum(start, above)) == 0xffff
}
