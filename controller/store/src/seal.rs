//! Frames as they are written: sealed where the ledger is.

use std::io;

use cardea_ledger::{
    frame,
    seal::{DataKey, Nonces, SealError, SegmentKey},
    segment::Header,
    wide,
};

/// Makes the frames of one segment.
#[derive(Debug)]
pub(crate) struct Framer(Option<(SegmentKey, Nonces)>);

impl Framer {
    /// For the segment of `header`, which is sealed when there is a key.
    pub(crate) fn of(key: Option<&DataKey>, header: &Header) -> io::Result<Self> {
        let key = segment_key(key, header)?;
        let sealing = key.map(|key| Ok((key, Nonces::new(random()?))));
        sealing.transpose().map(Self)
    }

    /// Appends the frame of `payload` to `buffer`, whose bytes begin at `base` in the segment, and
    /// says where in the segment the frame begins.
    pub(crate) fn append(
        &mut self,
        buffer: &mut Vec<u8>,
        base: u64,
        payload: &[u8],
    ) -> io::Result<u64> {
        let offset = base.saturating_add(wide(buffer.len()));
        let Some((key, nonces)) = &mut self.0 else {
            frame::append(buffer, payload);
            return Ok(offset);
        };
        let nonce = nonces.draw().ok_or(SealError::Cipher);
        let sealed = nonce.and_then(|nonce| key.seal(offset, nonce, payload));
        frame::append(buffer, &sealed.map_err(io::Error::other)?);
        Ok(offset)
    }
}

/// The key of a segment's frames, where the ledger is sealed with `key`.
pub(crate) fn segment_key(
    key: Option<&DataKey>,
    header: &Header,
) -> io::Result<Option<SegmentKey>> {
    let key = key.map(|key| key.segment(header)).transpose();
    key.map_err(io::Error::other)
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no entropy"))?;
    Ok(bytes)
}
