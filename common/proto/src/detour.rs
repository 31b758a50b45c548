//! Datagrams on a stream: how a node reaches relay and controller where UDP is blocked.
//!
//! A detour is a TLS connection to a relay's front. Both of its directions are frames back to back,
//! each one datagram:
//!
//! ```text
//!  0        2      3
//!  ├ length ┼ aim ─┼ datagram ────┤
//! ```
//!
//! The aim says to whom a node's datagram goes and from whom the front's comes. It is one of two, and
//! no address: a front has nowhere else to send to.

/// What stands before the address of a front, where controllers' addresses are listed.
pub const FRONT_SCHEME: &str = "tls://";

/// Bytes before each datagram: length (2) and aim (1).
pub const FRAME_HEADER_BYTES: usize = 3;

/// Largest datagram on a detour, in bytes.
///
/// The largest that an end sends is a probe of 16 KiB on loopback, with the headers of carrier and
/// relay; what is longer was made to fill memory.
pub const DATAGRAM_BYTES_MAX: usize = 20 * 1024;

/// Label of the TLS exporter over which a front proves that it holds its knocker's seed.
pub const EXPORTER_FRONT: &[u8] = b"EXPORTER-cardea-front";

/// Bytes of a front's proof, the first of its direction.
pub const FRONT_PROOF_BYTES: usize = 32;

/// At whom a node's datagram is aimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aim {
    /// The relay behind the front.
    Relay,
    /// The controller behind it.
    Controller,
}

/// A stream that is no sequence of frames. The peer is at fault, and the detour over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Nobody is meant by this byte.
    #[error("a frame is aimed at nobody")]
    Aim,
    /// No datagram is so long, or none is so short.
    #[error("a frame has {0} bytes")]
    Length(usize),
}

/// The addresses in a controller's list that are fronts, without their scheme.
pub fn fronts(addresses: &[String]) -> impl Iterator<Item = &str> {
    addresses
        .iter()
        .filter_map(|address| address.strip_prefix(FRONT_SCHEME))
}

/// The addresses in a controller's list that UDP reaches.
pub fn plain(addresses: &[String]) -> impl Iterator<Item = &str> {
    addresses
        .iter()
        .map(String::as_str)
        .filter(|address| !address.starts_with(FRONT_SCHEME))
}

impl Aim {
    const fn byte(self) -> u8 {
        match self {
            Self::Relay => 1,
            Self::Controller => 2,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Relay),
            2 => Some(Self::Controller),
            _ => None,
        }
    }

    /// What stands before a datagram of so many bytes; `None` when none is so long or so short.
    #[must_use]
    pub fn header(self, length: usize) -> Option<[u8; FRAME_HEADER_BYTES]> {
        let [high, low] = u16::try_from(length)
            .ok()
            .filter(|_| (1..=DATAGRAM_BYTES_MAX).contains(&length))?
            .to_be_bytes();
        Some([high, low, self.byte()])
    }
}

/// Finds the frames in a stream, however it was cut.
///
/// It keeps no more than one frame that is not whole, and what it was given last.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    taken: usize,
}

impl Frames {
    /// Takes what came next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`FrameError`], as soon as a header says so; it stays.
    pub fn pop(&mut self) -> Result<Option<(Aim, &[u8])>, FrameError> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some(([high, low, aim], rest)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let aim = Aim::of(*aim).ok_or(FrameError::Aim)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if !(1..=DATAGRAM_BYTES_MAX).contains(&length) {
            return Err(FrameError::Length(length));
        }
        let Some(datagram) = rest.get(..length) else {
            return Ok(None);
        };
        self.taken += FRAME_HEADER_BYTES + length;
        Ok(Some((aim, datagram)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_the_stream_is_cut(
            datagrams in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(any::<u8>(), 1..300)),
                0..20,
            ),
            cut in 1_usize..400,
        ) {
            let datagrams: Vec<(Aim, Vec<u8>)> = datagrams
                .into_iter()
                .map(|(to_relay, bytes)| (if to_relay { Aim::Relay } else { Aim::Controller }, bytes))
                .collect();
            let stream: Vec<u8> = datagrams
                .iter()
                .flat_map(|(aim, bytes)| [&aim.header(bytes.len()).unwrap()[..], bytes].concat())
                .collect();
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for piece in stream.chunks(cut) {
                frames.push(piece);
                while let Some((aim, datagram)) = frames.pop().unwrap() {
                    found.push((aim, datagram.to_vec()));
                }
                prop_assert!(frames.bytes.len() <= 400 + FRAME_HEADER_BYTES + 300);
            }
            prop_assert_eq!(found, datagrams);
        }
    }

    #[test]
    fn a_header_that_is_none_is_refused_before_its_datagram_has_come() {
        for (stream, expected) in [
            (&[0, 1, 0][..], Err(FrameError::Aim)),
            (&[0, 1, 3], Err(FrameError::Aim)),
            (&[0, 0, 1], Err(FrameError::Length(0))),
            (
                &[0x50, 1, 2],
                Err(FrameError::Length(DATAGRAM_BYTES_MAX + 1)),
            ),
            (&[0xff, 0xff, 2], Err(FrameError::Length(65_535))),
            (&[0x50, 0, 2], Ok(None)),
            (&[0, 1], Ok(None)),
            (&[], Ok(None)),
        ] {
            let mut frames = Frames::default();
            frames.push(stream);
            assert_eq!(frames.pop(), expected, "{stream:?}");
            frames.push(&[]);
            assert_eq!(frames.pop(), expected, "{stream:?}, asked again");
        }
        for length in [0, DATAGRAM_BYTES_MAX + 1, 70_000] {
            assert_eq!(Aim::Relay.header(length), None);
        }
    }

    #[test]
    fn a_list_of_addresses_is_divided_by_their_scheme() {
        let list = ["a:1", "tls://b:443", "[2001:db8::1]:1"].map(ToOwned::to_owned);
        assert_eq!(fronts(&list).collect::<Vec<_>>(), ["b:443"]);
        assert_eq!(plain(&list).collect::<Vec<_>>(), ["a:1", "[2001:db8::1]:1"]);
    }
}
