//! A frame: length, checksum, payload. Nothing in it is believed before the checksum holds.

use crate::seal::SEAL_BYTES;

/// Bytes before the payload: big-endian length (4) and CRC-32C (4).
pub const HEADER_BYTES: usize = 8;

/// Largest payload, in bytes: a policy folder of the admin API's 16 MiB stands in an entry twice,
/// once as the change and once in the signed request.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The same once it is sealed.
const SEALED_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + SEAL_BYTES;

/// The eight bytes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    length: [u8; 4],
    checksum: u32,
}

impl Header {
    /// The header of `payload`, which must be no longer than [`PAYLOAD_BYTES_MAX`] before it was sealed.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        let length = u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes();
        Self {
            length,
            checksum: checksum(length, payload),
        }
    }

    /// Reads the header that stands in the file.
    #[must_use]
    pub const fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self {
            length: [a, b, c, d],
            checksum: u32::from_be_bytes([e, f, g, h]),
        }
    }

    /// The bytes that stand in the file.
    #[must_use]
    pub const fn bytes(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.length;
        let [e, f, g, h] = self.checksum.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// How long the payload claims to be; `None` when no payload is that long.
    #[must_use]
    pub fn payload_bytes(self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.length))
            .ok()
            .filter(|bytes| (1..=SEALED_BYTES_MAX).contains(bytes))
    }

    /// Whether `payload` is what was written.
    #[must_use]
    pub fn holds(self, payload: &[u8]) -> bool {
        self.checksum == checksum(self.length, payload)
    }
}

/// Appends the frame of `payload` to `buffer`.
pub fn append(buffer: &mut Vec<u8>, payload: &[u8]) {
    buffer.extend_from_slice(&Header::of(payload).bytes());
    buffer.extend_from_slice(payload);
}

/// The checksum covers the length too, so that a changed length is not taken for a torn write.
fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_frame_is_found() {
        let payload = b"an entry of the ledger";
        let mut frame = Vec::new();
        append(&mut frame, payload);
        assert!(holds(&frame));
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!holds(&flipped), "bit {bit}");
        }
    }

    #[test]
    fn lengths_that_no_frame_has_are_refused_before_anything_is_allocated() {
        for length in [0_u32, 64 * 1024 * 1024 + 28 + 1, u32::MAX] {
            let mut bytes = [0; HEADER_BYTES];
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            assert_eq!(Header::parse(bytes).payload_bytes(), None, "{length}");
        }
    }

    fn holds(frame: &[u8]) -> bool {
        let header = Header::parse(frame[..HEADER_BYTES].try_into().unwrap());
        let payload = &frame[HEADER_BYTES..];
        header.payload_bytes() == Some(payload.len()) && header.holds(payload)
    }
}
