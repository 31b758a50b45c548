//! UDP payloads and inner packets put together again from the parts that narrow paths need.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::wire::{PACKETS, Part, UdpName};

/// Unfinished payloads, one for each flow: a part of the next one drops what came before.
#[derive(Debug, Default)]
pub(super) struct Parts(BTreeMap<UdpName, Unfinished>);

#[derive(Debug)]
struct Unfinished {
    packet: u16,
    parts: u8,
    came: BTreeMap<u8, Bytes>,
}

impl Parts {
    /// The payload that `part` completes.
    pub(super) fn join(&mut self, part: Part) -> Option<Bytes> {
        if part.parts == 1 {
            return Some(part.bytes);
        }
        if self.0.len() >= UNFINISHED_MAX && !self.0.contains_key(&part.name) {
            self.0.pop_first();
        }
        let unfinished = self
            .0
            .entry(part.name)
            .or_insert_with(|| Unfinished::of(&part));
        if unfinished.packet != part.packet || unfinished.parts != part.parts {
            *unfinished = Unfinished::of(&part);
        }
        unfinished.came.insert(part.part, part.bytes);
        if unfinished.came.len() < usize::from(unfinished.parts) {
            return None;
        }
        let whole = self.0.remove(&part.name)?;
        let len_max = if part.name == PACKETS {
            PACKET_BYTES_MAX
        } else {
            PAYLOAD_BYTES_MAX
        };
        let len = whole.came.values().map(Bytes::len).sum();
        let mut payload = BytesMut::with_capacity(len);
        for bytes in whole.came.values() {
            payload.extend_from_slice(bytes);
        }
        (len <= len_max).then(|| payload.freeze())
    }
}

impl Unfinished {
    const fn of(part: &Part) -> Self {
        Self {
            packet: part.packet,
            parts: part.parts,
            came: BTreeMap::new(),
        }
    }
}

/// Payloads of one tunnel that may be unfinished at once: 1 MiB at most.
const UNFINISHED_MAX: usize = 16;

/// The largest UDP payload over IPv4.
const PAYLOAD_BYTES_MAX: usize = 65_507;

/// The largest packet, of IPv6. Source: RFC 8200 §3.
const PACKET_BYTES_MAX: usize = 40 + 65_535;

#[cfg(test)]
mod tests {
    use super::{super::wire::split, *};

    #[test]
    fn parts_in_any_order_make_the_payload_and_a_new_one_replaces_an_unfinished_one() {
        let name = UdpName { flow: 1, port: 53 };
        let payload = Bytes::from(
            (0..3_000_u32)
                .flat_map(u32::to_be_bytes)
                .collect::<Vec<_>>(),
        );
        let cut = |packet| -> Vec<Part> {
            let parts = split(name, packet, &payload, 1_200).unwrap();
            parts.map(|part| Part::parse(part).unwrap()).collect()
        };
        let mut parts = Parts::default();
        assert_eq!(parts.join(cut(1)[0].clone()), None);
        let mut new = cut(2);
        new.reverse();
        let (last, first) = new.split_last().unwrap();
        for part in first {
            assert_eq!(parts.join(part.clone()), None);
        }
        assert_eq!(parts.join(last.clone()), Some(payload.clone()));
        assert!(parts.0.is_empty());
    }
}
