//! Messages on byte streams: four bytes of length, then CBOR, with a cap and a deadline on each read.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use cardea_proto::codec::{self, DecodeError, LENGTH_BYTES};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes read at once: memory grows with what has come, never with what was announced.
const CHUNK_BYTES: usize = 64 * 1024;

/// Why no message came, or none could be sent.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended between two messages.
    #[error("the other end closed the connection")]
    Ended,
    /// The stream ended within a message.
    #[error("the message was cut off")]
    Truncated,
    /// The bytes are no message of this place. The peer is at fault.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Nothing whole came, or nothing could be sent, within the time.
    #[error("no whole message within {0:?}")]
    TimedOut(Duration),
    /// The system or the transport refused.
    #[error("{0}")]
    Io(#[source] io::Error),
}

impl FrameError {
    /// Whether nothing whole came in time, as the clock or the socket's own limit says.
    #[must_use]
    pub fn is_late(&self) -> bool {
        match self {
            Self::TimedOut(_) => true,
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ),
            Self::Ended | Self::Truncated | Self::Decode(_) => false,
        }
    }
}

/// Reads one message of at most `bytes_max` bytes, however long that takes.
///
/// # Errors
/// [`FrameError`].
pub async fn read<T, R>(stream: &mut R, bytes_max: usize) -> Result<T, FrameError>
where
    T: DeserializeOwned,
    R: AsyncRead + Unpin,
{
    let mut prefix = [0_u8; LENGTH_BYTES];
    let first = stream.read(&mut prefix).await.map_err(FrameError::Io)?;
    if first == 0 {
        return Err(FrameError::Ended);
    }
    if let Some(rest) = prefix.get_mut(first..) {
        stream.read_exact(rest).await.map_err(cut_off)?;
    }
    let length = codec::decode_length(prefix, bytes_max)?;
    let mut body = Vec::with_capacity(length.min(CHUNK_BYTES));
    while body.len() < length {
        let want = (length - body.len()).min(CHUNK_BYTES);
        let limit = u64::try_from(want).unwrap_or(u64::MAX);
        let read = (&mut *stream)
            .take(limit)
            .read_to_end(&mut body)
            .await
            .map_err(cut_off)?;
        if read == 0 {
            return Err(FrameError::Truncated);
        }
    }
    Ok(codec::decode(&body, bytes_max)?)
}

/// Reads one message, which must be there whole within `time`.
///
/// # Errors
/// [`FrameError`], among them [`FrameError::TimedOut`].
pub async fn read_within<T, R>(
    stream: &mut R,
    bytes_max: usize,
    time: Duration,
) -> Result<T, FrameError>
where
    T: DeserializeOwned,
    R: AsyncRead + Unpin,
{
    tokio::time::timeout(time, read(stream, bytes_max))
        .await
        .unwrap_or(Err(FrameError::TimedOut(time)))
}

/// Writes one message, which must be taken whole within `time`.
///
/// # Errors
/// [`FrameError`]; what was written of the message by then cannot be taken back.
pub async fn write_within<T, W>(
    stream: &mut W,
    message: &T,
    time: Duration,
) -> Result<(), FrameError>
where
    T: Serialize,
    W: AsyncWrite + Unpin,
{
    let bytes = codec::encode_framed(message);
    let write = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    match tokio::time::timeout(time, write).await {
        Ok(result) => result.map_err(FrameError::Io),
        Err(_) => Err(FrameError::TimedOut(time)),
    }
}

/// [`read`] for programs without a runtime; deadlines are the socket's own read timeout.
///
/// # Errors
/// [`FrameError`].
pub fn read_sync<T: DeserializeOwned>(
    stream: &mut impl Read,
    bytes_max: usize,
) -> Result<T, FrameError> {
    let mut prefix = [0_u8; LENGTH_BYTES];
    let first = loop {
        match stream.read(&mut prefix) {
            // Who waits with a limit is woken up when somebody stops the program and lets it go on.
            // Source: signal(7).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read.map_err(FrameError::Io)?,
        }
    };
    if first == 0 {
        return Err(FrameError::Ended);
    }
    if let Some(rest) = prefix.get_mut(first..) {
        stream.read_exact(rest).map_err(cut_off)?;
    }
    let length = codec::decode_length(prefix, bytes_max)?;
    let mut body = Vec::with_capacity(length.min(CHUNK_BYTES));
    let limit = u64::try_from(length).unwrap_or(u64::MAX);
    stream
        .take(limit)
        .read_to_end(&mut body)
        .map_err(FrameError::Io)?;
    if body.len() < length {
        return Err(FrameError::Truncated);
    }
    Ok(codec::decode(&body, bytes_max)?)
}

/// Writes one message for programs without a runtime.
///
/// # Errors
/// [`FrameError::Io`].
pub fn write_sync<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    stream
        .write_all(&codec::encode_framed(message))
        .and_then(|()| stream.flush())
        .map_err(FrameError::Io)
}

fn cut_off(error: io::Error) -> FrameError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        FrameError::Truncated
    } else {
        FrameError::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::local::LocalRequest;

    use super::*;

    const MAX: usize = 1_024;

    #[test]
    fn a_message_reads_back_as_itself() {
        let mut bytes = Vec::new();
        write_sync(&mut bytes, &LocalRequest::Status).unwrap();
        check(&bytes, |result| matches!(result, Ok(LocalRequest::Status)));
    }

    #[test]
    fn what_is_not_a_whole_known_message_is_named() {
        let framed = codec::encode_framed(&LocalRequest::Explain("wiki".parse().unwrap()));
        for end in 1..framed.len() {
            check(&framed[..end], |r| matches!(r, Err(FrameError::Truncated)));
        }
        check(&[], |r| matches!(r, Err(FrameError::Ended)));
        check(&u32::MAX.to_be_bytes(), |r| {
            matches!(r, Err(FrameError::Decode(DecodeError::TooLarge { .. })))
        });
        let unknown = codec::encode_framed(&"no_such_variant");
        check(&unknown, |r| {
            matches!(r, Err(FrameError::Decode(DecodeError::Malformed(_))))
        });
        let nested = [&[0, 0, 3, 0][..], &[0x81; 768]].concat();
        check(&nested, |r| {
            matches!(r, Err(FrameError::Decode(DecodeError::Malformed(_))))
        });
        let trailing = [&[0, 0, 0, 8][..], &codec::encode(&"status"), &[0]].concat();
        check(&trailing, |r| {
            matches!(r, Err(FrameError::Decode(DecodeError::Trailing(1))))
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_nothing_is_given_up() {
        let (mut near, _far) = tokio::io::duplex(64);
        let time = Duration::from_secs(5);
        let result = read_within::<LocalRequest, _>(&mut near, MAX, time).await;
        assert!(matches!(result, Err(FrameError::TimedOut(_))));
    }

    fn check(bytes: &[u8], expected: impl Fn(&Result<LocalRequest, FrameError>) -> bool) {
        let sync = read_sync(&mut &bytes[..], MAX);
        assert!(expected(&sync), "{sync:?}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let later = runtime.block_on(read(&mut &bytes[..], MAX));
        assert!(expected(&later), "{later:?}");
    }

    #[test]
    fn a_program_that_was_stopped_and_goes_on_reads_on() {
        struct Interrupted<'a>(&'a [u8], usize);
        impl Read for Interrupted<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.1 += 1;
                if self.1 % 2 == 1 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let some = buffer.len().min(1);
                Read::read(&mut self.0, &mut buffer[..some])
            }
        }
        let bytes = codec::encode_framed(&7_u8);
        let read = read_sync::<u8>(&mut Interrupted(&bytes, 0), MAX);
        assert_eq!(read.unwrap(), 7);
    }
}
