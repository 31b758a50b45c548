//! Zeros behind an inner packet: the protocol has its senders fill packets up to a multiple of sixteen bytes.
//!
//! Our own end sends none, but whoever implements the protocol as it is published does.
//! Source: the WireGuard paper, §5.4.6.

/// The packet without such zeros; a packet with anything else behind it is left as it is, for whoever
/// reads it to refuse.
pub(super) fn without(packet: &[u8]) -> &[u8] {
    let Some((whole, rest)) = len(packet).and_then(|len| packet.split_at_checked(len)) else {
        return packet;
    };
    let is_padding = rest.len() < PADDED_TO && rest.iter().all(|byte| *byte == 0);
    if is_padding { whole } else { packet }
}

/// How long the packet says that it is.
fn len(packet: &[u8]) -> Option<usize> {
    let word = |at: usize| {
        let bytes = packet.get(at..)?.first_chunk()?;
        Some(usize::from(u16::from_be_bytes(*bytes)))
    };
    match packet.first()? >> 4 {
        4 => word(2),
        6 => word(4).map(|len| len + IP6_BYTES),
        _ => None,
    }
}

const PADDED_TO: usize = 16;
const IP6_BYTES: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_taken_off_and_nothing_else() {
        let v4 = [&[0x45, 0, 0, 21][..], &[7; 17]].concat();
        let v6 = [&[0x60, 0, 0, 0, 0, 3][..], &[7; 37]].concat();
        for packet in [v4, v6] {
            check(&packet, &[], &packet);
            check(&packet, &[0; 15], &packet);
            for kept in [&[0; 16][..], &[0, 1], &[1], &[0, 0, 0, 1]] {
                check(&packet, kept, &[&packet, kept].concat());
            }
        }
    }

    #[test]
    fn what_is_no_packet_or_says_that_it_is_longer_is_left_alone() {
        for bytes in [
            &[][..],
            &[0],
            &[0x45],
            &[0x45, 0, 0],
            &[0x60, 0, 0, 0],
            &[0; 32],
        ] {
            check(bytes, &[], bytes);
        }
        check(&[0x45, 0, 0, 6, 1], &[], &[0x45, 0, 0, 6, 1]);
        check(
            &[0x60, 0, 0, 0, 0xff, 0xff],
            &[0; 9],
            &[0x60, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        );
    }

    fn check(packet: &[u8], behind: &[u8], expected: &[u8]) {
        assert_eq!(without(&[packet, behind].concat()), expected);
    }
}
