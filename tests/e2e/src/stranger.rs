//! What a stranger sends to find out who is there.

/// One of many probes; `number` chooses which, and what is random in it.
///
/// First packets of QUIC of every version and length of id, its short headers, WireGuard's four
/// messages without a key, frames of a relay, STUN, DTLS, DNS, and garbage of every size.
#[must_use]
pub fn probe(number: u64) -> Vec<u8> {
    let mut noise = Noise(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    match number % 16 {
        0..=5 => quic_long(&mut noise),
        6 | 7 => quic_short(&mut noise),
        8 => wireguard(&mut noise),
        9 => relay(&mut noise),
        10 => stun(&mut noise),
        11 => dtls(&mut noise),
        12 => dns(&mut noise),
        _ => garbage(&mut noise),
    }
}

/// What a socket of ours takes, for a stranger who knows how that looks and has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hears {
    /// Channels: QUIC, whose ids have a tag.
    Channels,
    /// What nodes say to a relay: data under handles that are bound, and tickets that are signed.
    Relayed,
    /// What the other ends of tunnels say on direct paths.
    Sealed,
}

impl Hears {
    /// One of many datagrams that look right and are not.
    #[must_use]
    pub fn forgery(self, number: u64) -> Vec<u8> {
        let mut noise = Noise(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (begin, size): (&[u8], usize) = match (self, number % 2) {
            (Self::Channels, 0) => (&[0x40], 120),
            (Self::Channels, _) => (&[0xc0, 0, 0, 0, 1, 20], 1_200),
            (Self::Relayed | Self::Sealed, 0) => (&[0x32], 120),
            (Self::Relayed | Self::Sealed, _) => (&[0x32], 1_200),
        };
        let mut bytes = begin.to_vec();
        noise.fill(&mut bytes, size - begin.len());
        if let (Self::Sealed, Some(message)) = (self, bytes.get_mut(8..12)) {
            message.copy_from_slice(&[4, 0, 0, 0]);
        }
        bytes
    }
}

/// A small generator (xorshift, Marsaglia 2003): strangers need no good one, and the same number is
/// the same probe.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn pick<const N: usize, T: Copy>(&mut self, values: [T; N], otherwise: T) -> T {
        let index = usize::try_from(self.next() >> 33).unwrap_or(0) % N.max(1);
        values.get(index).copied().unwrap_or(otherwise)
    }

    fn fill(&mut self, bytes: &mut Vec<u8>, count: usize) {
        let end = bytes.len() + count;
        while bytes.len() < end {
            let [byte, ..] = self.next().to_be_bytes();
            bytes.push(byte);
        }
    }
}

/// Source: RFC 9000 §17.2; version negotiation §6.
fn quic_long(noise: &mut Noise) -> Vec<u8> {
    let first = noise.pick([0xc0, 0xc3, 0xd0, 0xe0, 0xf0, 0x80], 0xc0);
    let version: u32 = noise.pick([1, 1, 1, 0x6b33_43cf, 0, 0xff00_001d, 0x1a2a_3a4a], 1);
    let length: u8 = noise.pick([20, 20, 20, 8, 0, 16, 5, 255], 20);
    let token: u8 = noise.pick([0, 0, 16, 63], 0);
    let mut bytes = vec![first];
    bytes.extend(version.to_be_bytes());
    bytes.push(length);
    noise.fill(&mut bytes, usize::from(length));
    bytes.push(0);
    bytes.push(token);
    noise.fill(&mut bytes, usize::from(token));
    bytes.extend([0x44, 0x7e]);
    let size = noise.pick([1_200, 1_250, 1_350, 60], 1_200);
    let rest = usize::saturating_sub(size, bytes.len());
    noise.fill(&mut bytes, rest);
    bytes
}

/// Source: RFC 9000 §17.3; a server that does not know the id may answer with a stateless reset, §10.3.
fn quic_short(noise: &mut Noise) -> Vec<u8> {
    let mut bytes = vec![noise.pick([0x40, 0x41, 0x60], 0x40)];
    let size = noise.pick([21, 43, 120, 1_200], 43);
    noise.fill(&mut bytes, size);
    bytes
}

/// Source: the WireGuard paper §5.4: initiation, response, cookie and data, with MACs that are none.
fn wireguard(noise: &mut Noise) -> Vec<u8> {
    let (kind, size) = noise.pick([(1, 148), (2, 92), (3, 64), (4, 32), (4, 1_200)], (1, 148));
    let mut bytes = vec![kind, 0, 0, 0];
    noise.fill(&mut bytes, size - 4);
    bytes
}

/// A ticket that nobody signed, and data for a handle that nobody has.
fn relay(noise: &mut Noise) -> Vec<u8> {
    let mut bytes = vec![noise.pick([0x30, 0x31, 0x32, 0x33, 0x34, 0x35], 0x30)];
    let size = noise.pick([7, 105, 117, 300, 1_200], 105);
    noise.fill(&mut bytes, size);
    bytes
}

/// A binding request. Source: RFC 8489 §5.
fn stun(noise: &mut Noise) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    noise.fill(&mut bytes, 12);
    bytes
}

/// The beginning of a client's first message. Source: RFC 6347 §4.2.2.
fn dtls(noise: &mut Noise) -> Vec<u8> {
    let mut bytes = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 76, 1, 0, 0, 64];
    noise.fill(&mut bytes, 72);
    bytes
}

/// A question for an address. Source: RFC 1035 §4.1.
fn dns(noise: &mut Noise) -> Vec<u8> {
    let mut bytes = Vec::new();
    noise.fill(&mut bytes, 2);
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend(b"\x07version\x04bind\x00\x00\x10\x00\x03");
    bytes
}

fn garbage(noise: &mut Noise) -> Vec<u8> {
    let mut bytes = Vec::new();
    let size = usize::try_from(noise.next() >> 40).unwrap_or(0) % 1_473;
    noise.fill(&mut bytes, size);
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn probes_are_many_and_fit_into_a_packet() {
        let probes: BTreeSet<Vec<u8>> = (0..10_000).map(probe).collect();
        assert!(probes.len() > 9_900, "{}", probes.len());
        assert!(probes.iter().all(|probe| probe.len() <= 1_472));
        assert_eq!(probe(7), probe(7));
    }
}
