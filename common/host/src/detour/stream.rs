//! TLS on a TCP connection, both ways in one task.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use cardea_proto::detour::{Aim, EXPORTER_FRONT, Frames};
use rustls::Connection;
use tokio::{
    io::Interest,
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Bytes of datagrams that go into TLS before the network has taken those before.
///
/// As large as four records: what is in there is not lost any more when the stream is slow, and only
/// delays what comes behind.
const BATCH_BYTES: usize = 64 * 1024;

/// Bytes that one read takes: a record of TLS (RFC 8446 §5.1).
const READ_BYTES: usize = 16 * 1024;

/// One datagram, and to whom it goes or from whom it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    aim: Aim,
    datagram: Box<[u8]>,
}

impl Frame {
    /// A datagram for this aim.
    #[must_use]
    pub fn new(aim: Aim, datagram: &[u8]) -> Self {
        Self {
            aim,
            datagram: datagram.into(),
        }
    }
}

/// A TLS connection.
#[derive(Debug)]
pub struct TlsStream {
    tcp: TcpStream,
    tls: Connection,
}

impl TlsStream {
    /// TLS that begins, or has read something, on a connection that is up.
    #[must_use]
    pub fn new(tcp: TcpStream, tls: impl Into<Connection>) -> Self {
        let mut tls = tls.into();
        // The batches below are the limit.
        tls.set_buffer_limit(None);
        Self { tcp, tls }
    }

    /// Ends the handshake.
    ///
    /// # Errors
    /// As the system says, or `InvalidData` where the peer does not speak TLS as we do.
    pub async fn shake_hands(&mut self) -> io::Result<()> {
        loop {
            let is_flushed = self.flush()?;
            if is_flushed && !self.tls.is_handshaking() {
                return Ok(());
            }
            self.wait(!is_flushed).await?;
        }
    }

    /// What both ends of this connection know and nobody else.
    ///
    /// # Errors
    /// Before the handshake has ended.
    pub fn exporter(&self) -> io::Result<[u8; 32]> {
        self.tls
            .export_keying_material([0; 32], EXPORTER_FRONT, None)
            .map_err(io::Error::other)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// As the system says.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(bytes)?;
        while !self.flush()? {
            self.tcp.writable().await?;
        }
        Ok(())
    }

    /// Receives some bytes; none at the end.
    ///
    /// # Errors
    /// As the system says.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            let is_flushed = self.flush()?;
            self.wait(!is_flushed).await?;
        }
    }

    /// Receives exactly so many bytes.
    ///
    /// # Errors
    /// As the system says, `UnexpectedEof` when there are fewer.
    pub async fn read_exact<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut rest: &mut [u8] = &mut bytes;
        while !rest.is_empty() {
            let count = self.read(rest).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        Ok(bytes)
    }

    /// Says that nothing more comes, as far as the network takes that at once.
    pub fn finish(mut self) {
        self.tls.send_close_notify();
        if let Err(error) = self.flush() {
            tracing::trace!(%error, "a detour ended without a farewell");
        }
    }

    /// Carries frames both ways until `outgoing` ends or the peer does, or until nothing has come for
    /// `idle`.
    ///
    /// # Errors
    /// As the system says, `InvalidData` for what is no frame, `TimedOut`.
    pub async fn carry(
        mut self,
        mut outgoing: mpsc::Receiver<Frame>,
        idle: Duration,
        mut take: impl FnMut(Aim, &[u8]),
    ) -> io::Result<()> {
        let mut frames = Frames::default();
        let mut buffer = vec![0; READ_BYTES];
        let mut idle_at = Instant::now() + idle;
        loop {
            if !self.take_frames(&mut frames, &mut buffer, &mut take)? {
                return Ok(());
            }
            let is_flushed = self.flush()?;
            let interest = interest(!is_flushed);
            tokio::select! {
                ready = self.tcp.ready(interest) => {
                    if ready?.is_readable() && self.fill()? {
                        idle_at = Instant::now() + idle;
                    }
                }
                frame = outgoing.recv(), if is_flushed => {
                    let Some(frame) = frame else {
                        self.finish();
                        return Ok(());
                    };
                    self.put(&frame, &mut outgoing)?;
                }
                () = sleep_until(idle_at) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    /// Hands over every whole frame that has come; `false` at the peer's end.
    fn take_frames(
        &mut self,
        frames: &mut Frames,
        buffer: &mut [u8],
        take: &mut impl FnMut(Aim, &[u8]),
    ) -> io::Result<bool> {
        loop {
            let count = match self.tls.reader().read(buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            frames.push(buffer.get(..count).unwrap_or_default());
            while let Some((aim, datagram)) = frames.pop().map_err(malformed)? {
                take(aim, datagram);
            }
        }
    }

    /// Puts a frame into TLS, and what waits behind it, a bounded amount.
    fn put(&mut self, first: &Frame, outgoing: &mut mpsc::Receiver<Frame>) -> io::Result<()> {
        let mut bytes = 0;
        let mut next = Some(first.clone());
        while let Some(Frame { aim, datagram }) = next.take() {
            // What no frame holds is lost, as what no network carries.
            if let Some(header) = aim.header(datagram.len()) {
                let mut writer = self.tls.writer();
                writer.write_all(&header)?;
                writer.write_all(&datagram)?;
                bytes += datagram.len();
            }
            if bytes < BATCH_BYTES {
                next = outgoing.try_recv().ok();
            }
        }
        Ok(())
    }

    /// Waits for the network, and takes what it brings.
    async fn wait(&mut self, has_more: bool) -> io::Result<()> {
        let ready = self.tcp.ready(interest(has_more)).await?;
        if ready.is_readable() {
            self.fill()?;
        }
        Ok(())
    }

    /// Takes what has come; whether that was anything.
    fn fill(&mut self) -> io::Result<bool> {
        match self.tls.read_tls(&mut Tcp(&self.tcp)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        self.tls.process_new_packets().map_err(malformed)?;
        Ok(true)
    }

    /// Gives the network what it takes; whether that was all.
    fn flush(&mut self) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Tcp(&self.tcp)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn interest(has_more: bool) -> Interest {
    if has_more {
        Interest::READABLE | Interest::WRITABLE
    } else {
        Interest::READABLE
    }
}

fn malformed(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The connection as TLS wants to see it.
struct Tcp<'a>(&'a TcpStream);

impl Read for Tcp<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Tcp<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
