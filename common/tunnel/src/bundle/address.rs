//! Other addresses for a packet.

use std::net::IpAddr;

use crate::inner::packet::{
    Body, ECHO_ANSWERS, ECHO_ASKS, ECHO6_ANSWERS, ECHO6_ASKS, Packet, fold, sum,
};

/// Gives a packet other addresses of its own family; others change nothing.
///
/// Checksums follow by the difference (RFC 1624), so that one that was wrong stays wrong, but for
/// TCP's, which is not carried.
pub fn readdress(bytes: &mut [u8], packet: &mut Packet, source: IpAddr, destination: IpAddr) {
    let is_v4 = packet.source.is_ipv4();
    let span = if is_v4 { 12..20 } else { 8..40 };
    let mut room = [0; 32];
    let Some(fresh) = octets(source, destination, &mut room) else {
        return;
    };
    let Some(at) = bytes.get_mut(span).filter(|at| at.len() == fresh.len()) else {
        return;
    };
    let (before, after) = (sum(0, at), sum(0, fresh));
    at.copy_from_slice(fresh);
    if is_v4 {
        amend(bytes, 10, before, after);
    }
    match packet.body {
        Body::Udp => {
            let field = packet.ip_len + 6;
            let absent = bytes.get(field..field + 2) == Some(&[0, 0]);
            if !absent {
                amend(bytes, field, before, after);
                if let Some([a @ 0, b @ 0]) = bytes.get_mut(field..field + 2) {
                    (*a, *b) = (0xff, 0xff);
                }
            }
        }
        Body::Echo { .. } if !is_v4 => amend(bytes, packet.ip_len + 2, before, after),
        Body::Tcp { .. } | Body::Echo { .. } => {}
    }
    (packet.source, packet.destination) = (source, destination);
}

/// Makes an echo that asks its own answer.
pub(crate) fn answer_echo(bytes: &mut [u8], packet: &mut Packet) {
    let (asking, answering) = if packet.source.is_ipv4() {
        (ECHO_ASKS, ECHO_ANSWERS)
    } else {
        (ECHO6_ASKS, ECHO6_ANSWERS)
    };
    let (source, destination) = (packet.source, packet.destination);
    readdress(bytes, packet, destination, source);
    let at = packet.ip_len;
    if let Some(kind) = bytes.get_mut(at) {
        *kind = answering;
    }
    let word = |kind: u8| u64::from(u16::from_be_bytes([kind, 0]));
    amend(bytes, at + 2, word(asking), word(answering));
    packet.body = Body::Echo { asks: false };
}

/// Both addresses as they stand in a header; `None` when they are of two families.
fn octets(source: IpAddr, destination: IpAddr, room: &mut [u8; 32]) -> Option<&[u8]> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let both = room.get_mut(..8)?;
            let (a, b) = both.split_at_mut(4);
            a.copy_from_slice(&source.octets());
            b.copy_from_slice(&destination.octets());
            Some(both)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let (a, b) = room.split_at_mut(16);
            a.copy_from_slice(&source.octets());
            b.copy_from_slice(&destination.octets());
            Some(room)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

/// Amends the checksum at `field` of a packet in which words of the sum `before` became `after`.
fn amend(bytes: &mut [u8], field: usize, before: u64, after: u64) {
    let Some(field) = bytes
        .get_mut(field..)
        .and_then(<[u8]>::first_chunk_mut::<2>)
    else {
        return;
    };
    let old = !u16::from_be_bytes(*field);
    let total = u64::from(old) + u64::from(!fold(before)) + after;
    *field = (!fold(total)).to_be_bytes();
}
