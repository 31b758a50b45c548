//! Entries as bytes: their encoding, and the hash that chains each to the one before.

use cardea_proto::{
    codec::{self, Bytes, Digest},
    ledger::{Entry, Revision},
};

use crate::frame::PAYLOAD_BYTES_MAX;

/// An entry ready to be written.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The entry.
    pub(crate) entry: Entry,
    /// Its encoding.
    pub(crate) bytes: Vec<u8>,
    /// SHA-256 of the encoding, which the next entry carries.
    pub(crate) hash: Digest,
}

impl Encoded {
    /// Encodes `entry`.
    pub(crate) fn new(entry: Entry) -> Self {
        let bytes = codec::encode(&entry);
        let hash = digest(&bytes);
        Self { entry, bytes, hash }
    }
}

/// SHA-256 of an entry's encoding.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut hash = [0; 32];
    hash.iter_mut()
        .zip(digest.as_ref())
        .for_each(|(to, from)| *to = *from);
    Bytes(hash)
}

/// Decodes an entry.
pub(crate) fn decode(payload: &[u8]) -> Result<Entry, codec::DecodeError> {
    codec::decode(payload, PAYLOAD_BYTES_MAX)
}

/// The revision and the hash of the entry before, without decoding the rest where that can be
/// avoided: a start reads them of every entry in the journal.
pub(crate) fn chain_of(payload: &[u8]) -> Option<(Revision, Digest)> {
    quick_chain_of(payload).or_else(|| {
        let entry = decode(payload).ok()?;
        Some((entry.revision, entry.previous))
    })
}

/// [`chain_of`] for exactly the bytes that [`codec::encode`] makes: a map of three (0xa3), whose
/// first two pairs are `revision` and `previous` (RFC 8949 §3).
fn quick_chain_of(payload: &[u8]) -> Option<(Revision, Digest)> {
    let rest = payload.strip_prefix(b"\xa3\x68revision")?;
    let (initial, rest) = rest.split_first()?;
    let (revision, rest) = match initial {
        0..=0x17 => (u64::from(*initial), rest),
        0x18 => take(rest, |bytes: [u8; 1]| u64::from(u8::from_be_bytes(bytes)))?,
        0x19 => take(rest, |bytes: [u8; 2]| u64::from(u16::from_be_bytes(bytes)))?,
        0x1a => take(rest, |bytes: [u8; 4]| u64::from(u32::from_be_bytes(bytes)))?,
        0x1b => take(rest, u64::from_be_bytes)?,
        _ => return None,
    };
    let rest = rest.strip_prefix(b"\x68previous\x58\x20")?;
    let previous = rest.first_chunk::<32>()?;
    Some((Revision(revision), Bytes(*previous)))
}

fn take<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> u64) -> Option<(u64, &[u8])> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    Some((read(*taken), rest))
}

#[cfg(test)]
mod tests {
    use cardea_proto::{
        id::ControllerId,
        ledger::{Actor, Draft},
        time::UnixMillis,
    };

    use super::*;

    #[test]
    fn the_quick_way_to_the_chain_agrees_with_decoding() {
        for revision in [
            0,
            1,
            23,
            24,
            255,
            256,
            65_535,
            65_536,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let encoded = Encoded::new(entry(revision));
            let expected = Some((Revision(revision), Bytes([9; 32])));
            assert_eq!(quick_chain_of(&encoded.bytes), expected, "{revision}");
            assert_eq!(decode(&encoded.bytes).unwrap(), encoded.entry);
        }
    }

    #[test]
    fn bytes_that_are_no_entry_have_no_chain() {
        let bytes = Encoded::new(entry(1_000)).bytes;
        for length in 0..50 {
            assert_eq!(chain_of(&bytes[..length]), None, "{length}");
        }
    }

    fn entry(revision: u64) -> Entry {
        Entry {
            revision: Revision(revision),
            previous: Bytes([9; 32]),
            draft: Draft {
                at: UnixMillis(1),
                actor: Actor::Controller(ControllerId::from_bytes([1; 10])),
                changes: Vec::new(),
                decision: None,
                signed: None,
            },
        }
    }
}
