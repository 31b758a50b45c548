//! How far a journal was acknowledged: what tells a torn tail from damage.
//!
//! The mark is written after each `fdatasync` of the journal, which costs one `pwrite`, and synced with
//! each checkpoint. On the disk it may be late, by as much as was acknowledged since the last
//! checkpoint, never early: what it covers was durable before it was written. Bytes before the mark
//! that are no frame are damage. Those after it were never acknowledged and may be cut; only where the
//! power went and in the same second's entries a byte was lost besides is it otherwise, and then the
//! nodes tell what is missing.

use cardea_proto::ledger::Revision;

use crate::segment::Place;

/// The mark's file.
pub const NAME: &str = "acknowledged";

const MAGIC: &[u8; 8] = b"cardeaA\x01";

/// Magic (8), segment (8), offset (8), revision (8), CRC-32C (4): within one disk sector.
pub const BYTES: usize = 36;

/// A place up to which everything was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The first byte that was not acknowledged.
    pub end: Place,
    /// The last revision that was.
    pub revision: Revision,
}

impl Mark {
    /// The bytes that stand in the file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.end.segment.to_be_bytes());
        bytes.extend_from_slice(&self.end.offset.to_be_bytes());
        bytes.extend_from_slice(&self.revision.0.to_be_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        bytes
    }

    /// Reads a mark; `None` when it is not whole.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (covered, sum) = bytes.split_last_chunk::<4>()?;
        let (magic, rest) = covered.split_first_chunk::<8>()?;
        let (segment, rest) = rest.split_first_chunk::<8>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (revision, rest) = rest.split_first_chunk::<8>()?;
        let whole =
            magic == MAGIC && rest.is_empty() && crc32c::crc32c(covered).to_be_bytes() == *sum;
        whole.then(|| Self {
            end: Place {
                segment: u64::from_be_bytes(*segment),
                offset: u64::from_be_bytes(*offset),
            },
            revision: Revision(u64::from_be_bytes(*revision)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_as_itself_and_every_flipped_bit_is_found() {
        let mark = Mark {
            end: Place {
                segment: 2,
                offset: 77,
            },
            revision: Revision(9),
        };
        let bytes = mark.bytes();
        assert_eq!(bytes.len(), BYTES);
        assert_eq!(Mark::parse(&bytes), Some(mark));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Mark::parse(&flipped), None, "bit {bit}");
        }
    }
}
