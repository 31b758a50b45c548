//! Segment files `NNNN.seg`: a header that chains to the segment before, then frames.

use std::{fmt, io};

use cardea_proto::{
    codec::{Bytes, Digest},
    ledger::Revision,
};

use crate::{frame, seal::SegmentKey, wide};

/// Bytes of a segment's header: magic (8), number (8), first revision (8), SHA-256 of the entry
/// before (32), CRC-32C (4).
pub const HEADER_BYTES: usize = 60;

/// What a segment begins with whose frames are plain; the last byte is the version of the format.
const PLAIN: &[u8; 8] = b"cardeaS\x02";

/// What a segment begins with whose frames are sealed.
const SEALED: &[u8; 8] = b"cardeaS\x03";

/// How much is read at a time, in bytes: large enough that system calls do not matter.
const READ_BYTES: usize = 256 * 1024;

/// Where something stands in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The segment's number, from 1.
    pub segment: u64,
    /// Bytes from the segment's beginning.
    pub offset: u64,
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its number, from 1, which its name repeats.
    pub number: u64,
    /// The revision of its first entry.
    pub first: Revision,
    /// SHA-256 of the entry before that.
    pub previous: Digest,
    /// Whether its frames are sealed.
    pub is_sealed: bool,
}

impl Header {
    /// The bytes that stand in the file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(match self.is_sealed {
            true => SEALED,
            false => PLAIN,
        });
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.first.0.to_be_bytes());
        bytes.extend_from_slice(&self.previous.0);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        bytes
    }

    /// Reads the header of a file; `None` when it is not whole.
    ///
    /// # Errors
    /// Those of the file.
    pub fn read(file: &dyn ReadAt) -> io::Result<Option<Self>> {
        let mut reader = Reader::at(file, 0)?;
        Ok(Self::parse(reader.fill(HEADER_BYTES)?))
    }

    /// Reads a header; `None` when it is not whole. What follows it is not looked at.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (previous, rest) = rest.split_first_chunk::<32>()?;
        let (sum, _) = rest.split_first_chunk::<4>()?;
        let covered = bytes.get(..HEADER_BYTES.checked_sub(4)?)?;
        let is_sealed = magic == SEALED;
        let whole = (is_sealed || magic == PLAIN) && crc32c::crc32c(covered).to_be_bytes() == *sum;
        whole.then(|| Self {
            number: u64::from_be_bytes(*number),
            first: Revision(u64::from_be_bytes(*first)),
            previous: Bytes(*previous),
            is_sealed,
        })
    }
}

/// The name of a segment's file.
#[must_use]
pub fn name(number: u64) -> String {
    format!("{number:04}.seg")
}

/// The number in a segment's name; `None` for every other file.
#[must_use]
pub fn number(text: &str) -> Option<u64> {
    let number = text.strip_suffix(".seg")?.parse().ok()?;
    (name(number) == text).then_some(number)
}

/// A file that is read at any place.
pub trait ReadAt: fmt::Debug {
    /// Its length in bytes.
    ///
    /// # Errors
    /// Those of the file.
    fn length(&self) -> io::Result<u64>;

    /// Reads at most `buffer.len()` bytes from `offset`; 0 at the end.
    ///
    /// # Errors
    /// Those of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for &[u8] {
    fn length(&self) -> io::Result<u64> {
        Ok(wide(self.len()))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.get(begin..).unwrap_or_default();
        buffer
            .iter_mut()
            .zip(rest)
            .for_each(|(to, from)| *to = *from);
        Ok(rest.len().min(buffer.len()))
    }
}

/// Reads frames one after another.
#[derive(Debug)]
pub struct Reader<'a> {
    file: &'a dyn ReadAt,
    key: Option<&'a SegmentKey>,
    length: u64,
    /// Offset of the next frame.
    at: u64,
    /// What was read and not yet taken begins at `start`, which stands for the offset `at`.
    buffer: Vec<u8>,
    start: usize,
}

/// What stands at the reader's place.
#[derive(Debug)]
pub enum Next<'b> {
    /// A whole frame.
    Frame {
        /// Where it begins.
        offset: u64,
        /// Its payload.
        payload: &'b [u8],
    },
    /// No frame follows: the file ends, or nothing but zeros does, space that was reserved for
    /// frames to come.
    End {
        /// Behind the last frame.
        offset: u64,
    },
    /// No frame.
    Bad {
        /// Where it should begin.
        offset: u64,
        /// What is wrong.
        fault: &'static str,
    },
}

impl<'a> Reader<'a> {
    /// A reader whose next frame begins at `offset`.
    ///
    /// # Errors
    /// Those of the file.
    pub fn at(file: &'a dyn ReadAt, offset: u64) -> io::Result<Self> {
        Ok(Self {
            file,
            key: None,
            length: file.length()?,
            at: offset,
            buffer: Vec::new(),
            start: 0,
        })
    }

    /// The same of a segment whose frames are sealed with `key`.
    #[must_use]
    pub const fn sealed_with(mut self, key: Option<&'a SegmentKey>) -> Self {
        self.key = key;
        self
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// Those of the file.
    pub fn advance(&mut self) -> io::Result<Next<'_>> {
        let offset = self.at;
        let left = self.length.saturating_sub(offset);
        if left == 0 {
            return Ok(Next::End { offset });
        }
        let bad = |fault| Ok(Next::Bad { offset, fault });
        let begin = self.fill(frame::HEADER_BYTES)?;
        let header = begin.first_chunk().copied();
        // Of what was reserved, less than a header may be left.
        if begin.iter().all(|byte| *byte == 0) && self.is_blank()? {
            return Ok(Next::End { offset });
        }
        let Some(header) = header else {
            return bad("the file ends within a frame's header");
        };
        let header = frame::Header::parse(header);
        let Some(payload_bytes) = header.payload_bytes() else {
            return bad("no frame is that long");
        };
        let frame_bytes = frame::HEADER_BYTES.saturating_add(payload_bytes);
        if wide(frame_bytes) > left {
            return bad("the file ends within a frame");
        }
        self.fill(frame_bytes)?;
        self.at = self.at.saturating_add(wide(frame_bytes));
        let begin = self.start.saturating_add(frame::HEADER_BYTES);
        self.start = self.start.saturating_add(frame_bytes);
        let Some(payload) = self.buffer.get_mut(begin..self.start) else {
            return bad("the file ends within a frame");
        };
        if !header.holds(payload) {
            return bad("the checksum does not hold");
        }
        match self.key {
            None => Ok(Next::Frame { offset, payload }),
            Some(key) => match key.open(offset, payload) {
                Some(payload) => Ok(Next::Frame { offset, payload }),
                None => bad("the frame does not open with the ledger's key"),
            },
        }
    }

    /// Whether nothing but zeros follows.
    fn is_blank(&self) -> io::Result<bool> {
        let mut at = self.at;
        let mut block = vec![0; READ_BYTES];
        loop {
            let read = match self.file.read_at(&mut block, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if read == 0 {
                return Ok(true);
            }
            if block.iter().take(read).any(|byte| *byte != 0) {
                return Ok(false);
            }
            at = at.saturating_add(wide(read));
        }
    }

    /// The next `needed` bytes, or fewer where the file ends.
    ///
    /// # Errors
    /// Those of the file.
    pub fn fill(&mut self, needed: usize) -> io::Result<&[u8]> {
        if self.buffer.len().saturating_sub(self.start) < needed {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        while self.buffer.len().saturating_sub(self.start) < needed {
            let held = self.buffer.len();
            let position = self.at.saturating_add(wide(held));
            self.buffer.resize(held.saturating_add(READ_BYTES), 0);
            let space = self.buffer.get_mut(held..).unwrap_or_default();
            let read = match self.file.read_at(space, position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.buffer.truncate(held);
                    continue;
                }
                other => other?,
            };
            self.buffer.truncate(held.saturating_add(read));
            if read == 0 {
                break;
            }
        }
        let end = self.buffer.len().min(self.start.saturating_add(needed));
        Ok(self.buffer.get(self.start..end).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_as_itself_and_every_flipped_bit_is_found() {
        for is_sealed in [false, true] {
            reads_back(Header {
                number: 7,
                first: Revision(1_000),
                previous: Bytes([3; 32]),
                is_sealed,
            });
        }
    }

    fn reads_back(header: Header) {
        let bytes = header.bytes();
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(Header::parse(&bytes), Some(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&flipped), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Header::parse(&bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn only_a_segments_own_name_is_one() {
        assert_eq!(number("0001.seg"), Some(1));
        assert_eq!(number("12345.seg"), Some(12_345));
        for other in [
            "1.seg",
            "0001.seg~",
            "0001",
            "x.seg",
            "00001.seg",
            "-001.seg",
        ] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
