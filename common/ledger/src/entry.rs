//! Entries as bytes: their encoding, and the hash that chains each to the one before.

use cardea_proto::{
    codec::{self, Bytes, Digest},
    ledger::{Actor, Entry, Revision},
    time::UnixMillis,
};

use crate::{asked::ADMINS_ALONE, frame::PAYLOAD_BYTES_MAX, tree};

/// An entry ready to be written.
#[derive(Debug)]
pub struct Encoded {
    /// The entry.
    pub entry: Entry,
    /// Its encoding.
    pub bytes: Vec<u8>,
    /// Its hash, which the next entry carries.
    pub hash: Digest,
}

impl Encoded {
    /// Encodes `entry`.
    #[must_use]
    pub fn new(entry: Entry) -> Self {
        let bytes = codec::encode(&entry);
        let hash = tree::leaf(&bytes);
        Self { entry, bytes, hash }
    }
}

/// Decodes an entry.
///
/// # Errors
/// When it is none.
pub fn decode(payload: &[u8]) -> Result<Entry, codec::DecodeError> {
    codec::decode(payload, PAYLOAD_BYTES_MAX)
}

/// What can be known of an entry without decoding all of it: a start reads as much of every entry in
/// the journal, and an audit too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Its position.
    pub revision: Revision,
    /// The hash of the entry before.
    pub previous: Digest,
    /// When it was planned.
    pub at: UnixMillis,
    /// Whether an admin caused it.
    pub by_admin: bool,
    /// Whether it carries an admin's signed request.
    pub signed: bool,
    /// Whether it may change what only an admin may.
    pub needs_admin: bool,
}

impl Outline {
    /// The outline of an entry's encoding; `None` when it is no entry.
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        Self::quickly_of(payload).or_else(|| {
            let Entry {
                revision,
                previous,
                draft,
            } = decode(payload).ok()?;
            Some(Self {
                revision,
                previous,
                at: draft.at,
                by_admin: matches!(draft.actor, Actor::Admin(_)),
                signed: draft.signed.is_some(),
                needs_admin: true,
            })
        })
    }

    /// [`Outline::of`] for exactly the bytes that [`codec::encode`] makes: maps whose pairs stand in
    /// the order of the fields (RFC 8949 §3).
    fn quickly_of(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(b"\xa3\x68revision")?;
        let (revision, rest) = unsigned(rest)?;
        let rest = rest.strip_prefix(b"\x68previous\x58\x20")?;
        let (previous, rest) = rest.split_first_chunk::<32>()?;
        let rest = rest.strip_prefix(b"\x65draft\xa5\x62at")?;
        let (at, rest) = unsigned(rest)?;
        let actor = rest.strip_prefix(b"\x65actor\xa1")?;
        Some(Self {
            revision: Revision(revision),
            previous: Bytes(*previous),
            at: UnixMillis(at),
            by_admin: actor.starts_with(b"\x65admin"),
            signed: !payload.ends_with(b"\x66signed\xf6"),
            needs_admin: changes_for_admins_alone(actor).unwrap_or(true),
        })
    }
}

/// Looks for the tags of [`ADMINS_ALONE`] among the changes; `actor` begins with the tag of the actor.
/// `None` when something is not as we write it.
fn changes_for_admins_alone(actor: &[u8]) -> Option<bool> {
    let rest = skip(skip(actor)?)?;
    let (count, mut rest) = head(rest.strip_prefix(b"\x67changes")?, MAJOR_ARRAY)?;
    let (mut sets_a_user, mut enrolls) = (false, false);
    for _ in 0..count {
        // A change without contents is its tag alone, and such a change is an admin's.
        let (pairs, change) = head(rest, MAJOR_MAP)?;
        let (length, text) = head(change, MAJOR_TEXT)?;
        let tag = text.get(..usize::try_from(length).ok()?)?;
        if pairs != 1 || ADMINS_ALONE.contains(&tag) {
            return Some(true);
        }
        sets_a_user |= tag == b"user_set";
        enrolls |= tag == b"node_enrolled";
        rest = skip(skip(change)?)?;
    }
    Some(sets_a_user && !enrolls)
}

/// What follows the data item at the front. Only items of a definite length are known (RFC 8949 §3).
fn skip(mut bytes: &[u8]) -> Option<&[u8]> {
    let mut items = 1_u64;
    while items > 0 {
        items -= 1;
        let major = bytes.first()? >> 5;
        let (value, rest) = head(bytes, major)?;
        bytes = match major {
            MAJOR_BYTES | MAJOR_TEXT => rest.get(usize::try_from(value).ok()?..)?,
            MAJOR_ARRAY => {
                items = items.checked_add(value)?;
                rest
            }
            MAJOR_MAP => {
                items = items.checked_add(value.checked_mul(2)?)?;
                rest
            }
            MAJOR_TAG => {
                items = items.checked_add(1)?;
                rest
            }
            _ => rest,
        };
    }
    Some(bytes)
}

const MAJOR_BYTES: u8 = 2;
const MAJOR_TEXT: u8 = 3;
const MAJOR_ARRAY: u8 = 4;
const MAJOR_MAP: u8 = 5;
const MAJOR_TAG: u8 = 6;

/// The argument of an item of this major type, and what follows it.
fn head(bytes: &[u8], major: u8) -> Option<(u64, &[u8])> {
    let (initial, rest) = bytes.split_first()?;
    (initial >> 5 == major).then_some(())?;
    argument(initial & 0x1f, rest)
}

/// An unsigned integer and what follows it (RFC 8949 §3, major type 0).
fn unsigned(bytes: &[u8]) -> Option<(u64, &[u8])> {
    head(bytes, 0)
}

/// The argument that additional information `info` announces.
fn argument(info: u8, rest: &[u8]) -> Option<(u64, &[u8])> {
    match info {
        0..=0x17 => Some((u64::from(info), rest)),
        0x18 => take(rest, |bytes: [u8; 1]| u64::from(u8::from_be_bytes(bytes))),
        0x19 => take(rest, |bytes: [u8; 2]| u64::from(u16::from_be_bytes(bytes))),
        0x1a => take(rest, |bytes: [u8; 4]| u64::from(u32::from_be_bytes(bytes))),
        0x1b => take(rest, u64::from_be_bytes),
        _ => None,
    }
}

fn take<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> u64) -> Option<(u64, &[u8])> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    Some((read(*taken), rest))
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry.
    Entry(Outline),
    /// A signed note about all entries before it.
    Checkpoint(&'a str),
}

impl<'a> Record<'a> {
    /// Tells what a frame's payload is; `None` when it is neither. An entry is a CBOR map, whose
    /// first byte no text begins with.
    #[must_use]
    pub fn of(payload: &'a [u8]) -> Option<Self> {
        if payload.first()?.is_ascii() {
            std::str::from_utf8(payload).ok().map(Self::Checkpoint)
        } else {
            Outline::of(payload).map(Self::Entry)
        }
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::{
        admin::SignedChange,
        id::{AdminKeyId, ControllerId},
        ledger::Draft,
    };

    use super::*;

    #[test]
    fn the_quick_way_to_an_outline_agrees_with_decoding() {
        for number in [
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
            for by_admin in [false, true] {
                let encoded = Encoded::new(entry(number, by_admin));
                let expected = Outline {
                    revision: Revision(number),
                    previous: Bytes([9; 32]),
                    at: UnixMillis(number),
                    by_admin,
                    signed: by_admin,
                    needs_admin: false,
                };
                assert_eq!(
                    Outline::quickly_of(&encoded.bytes),
                    Some(expected),
                    "{number}"
                );
                assert_eq!(decode(&encoded.bytes).unwrap(), encoded.entry);
            }
        }
    }

    #[test]
    fn an_entry_is_no_checkpoint_and_bytes_that_are_neither_are_nothing() {
        let bytes = Encoded::new(entry(1_000, true)).bytes;
        assert!(matches!(Record::of(&bytes), Some(Record::Entry(_))));
        for length in 0..50 {
            assert_eq!(Record::of(&bytes[..length]), None, "{length}");
        }
        let note = "corp.example/ledger\n";
        assert_eq!(Record::of(note.as_bytes()), Some(Record::Checkpoint(note)));
        assert_eq!(Record::of(b"corp\xff"), None);
    }

    fn entry(number: u64, by_admin: bool) -> Entry {
        let signed = SignedChange {
            body: vec![1].into(),
            key: AdminKeyId::from_bytes([2; 10]),
            signature: vec![3].into(),
        };
        Entry {
            revision: Revision(number),
            previous: Bytes([9; 32]),
            draft: Draft {
                at: UnixMillis(number),
                actor: if by_admin {
                    Actor::Admin(signed.key)
                } else {
                    Actor::Controller(ControllerId::from_bytes([1; 10]))
                },
                changes: Vec::new(),
                decision: None,
                signed: by_admin.then_some(signed),
            },
        }
    }
}
