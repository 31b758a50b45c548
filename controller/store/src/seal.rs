//! Frames as they are written: sealed where the ledger is.

use std::io;

use cardea_ledger::{
    frame,
    seal::{DataKey, Nonces, SealError, SegmentKey, behind},
    segment::Header,
};

/// Makes the frames of one segment.
#[derive(Debug)]
pub(crate) struct Framer(Option<(SegmentKey, Nonces)>);

impl Framer {
    /// For the segment of `header`, which is sealed when there is a key.
    pub(crate) fn of(key: Option<&DataKey>, header: &Header) -> io::Result<Self> {
        let Some(key) = key else {
            return Ok(Self(None));
        };
        let key = key.segment(header).map_err(io::Error::other)?;
        Ok(Self(Some((key, Nonces::new(random()?)))))
    }

    /// Appends the frame of `payload` to `buffer`, whose bytes begin at `base` in the segment.
    pub(crate) fn append(
        &mut self,
        buffer: &mut Vec<u8>,
        base: u64,
        payload: &[u8],
    ) -> io::Result<()> {
        let Some((key, nonces)) = &mut self.0 else {
            frame::append(buffer, payload);
            return Ok(());
        };
        let nonce = nonces.draw().ok_or(SealError::Cipher);
        let offset = behind(base, buffer.len());
        let sealed = nonce.and_then(|nonce| key.seal(offset, nonce, payload));
        frame::append(buffer, &sealed.map_err(io::Error::other)?);
        Ok(())
    }
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no entropy"))?;
    Ok(bytes)
}
