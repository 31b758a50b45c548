//! The stream of messages on a connection, as two halves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cardea_proto::codec::{self, LENGTH_BYTES};
use quinn::{ReadExactError, RecvStream, SendStream, VarInt};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Notify, mpsc},
    task::AbortHandle,
    time::Instant,
};

use super::{
    ChannelError, CloseCode, QUEUE_BATCHES_MAX, QUEUE_BYTES_MAX, TIME_BEFORE_TRUST, close, vigil,
};

/// Bytes that are made room for before any of a message has come.
const FIRST_BYTES: usize = 4 * 1024;

/// Batches that wait for a slow server; the bytes of them are the limit that counts.
///
/// A server reads a node no faster than at the pace that it allows, and it is busiest when a
/// thousand tunnels open: a connector that has answered for all of them is not to be cut off.
const CLIENT_BATCHES_MAX: usize = 65_536;

/// How long a farewell may take to be acknowledged before the connection closes without.
const FAREWELL_TIME: Duration = Duration::from_secs(3);

/// Both halves of a channel's stream.
#[derive(Debug)]
pub struct Link {
    /// Sends.
    pub sender: Sender,
    /// Receives.
    pub receiver: Receiver,
}

impl Link {
    /// The end of a server; `first_by` is when the first message must have come whole.
    pub(super) fn of_server(
        connection: quinn::Connection,
        streams: (SendStream, RecvStream),
        bytes_max: usize,
        first_by: Instant,
    ) -> Self {
        let queue = mpsc::channel(QUEUE_BATCHES_MAX);
        Self::new(connection, streams, queue, bytes_max, Some(first_by))
    }

    /// The end of a client, with what it needs for as long as its one connection is read.
    pub(super) fn of_client(
        connection: quinn::Connection,
        streams: (SendStream, RecvStream),
        bytes_max: usize,
        (endpoint, refused, doubted): (quinn::Endpoint, Arc<Notify>, Arc<Notify>),
    ) -> Self {
        let queue = mpsc::channel(CLIENT_BATCHES_MAX);
        let mut link = Self::new(connection, streams, queue, bytes_max, None);
        let watch = vigil::watch(
            link.receiver.connection.clone(),
            Arc::clone(&link.sender.said),
            (refused, doubted),
        );
        link.receiver.client = Some(ClientParts {
            _endpoint: endpoint,
            watch: tokio::spawn(watch).abort_handle(),
        });
        link
    }

    fn new(
        connection: quinn::Connection,
        (outgoing, incoming): (SendStream, RecvStream),
        (queue, waiting): (mpsc::Sender<Outgoing>, mpsc::Receiver<Outgoing>),
        bytes_max: usize,
        first_by: Option<Instant>,
    ) -> Self {
        let queued = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            connection: connection.clone(),
            stream: outgoing,
            queued: Arc::clone(&queued),
        };
        tokio::spawn(writer.run(waiting));
        let sender = Sender {
            connection: connection.clone(),
            queue,
            queued,
            said: Arc::default(),
        };
        let receiver = Receiver {
            connection,
            client: None,
            incoming,
            bytes_max,
            first_by,
        };
        Self { sender, receiver }
    }
}

/// The sending half; copies of it send on the same stream, in order.
#[derive(Clone, Debug)]
pub struct Sender {
    connection: quinn::Connection,
    queue: mpsc::Sender<Outgoing>,
    /// Bytes that wait in the queue.
    queued: Arc<AtomicUsize>,
    /// Tells the vigil of a client that an answer is due.
    said: Arc<vigil::Said>,
}

#[derive(Debug)]
enum Outgoing {
    /// One or more framed messages.
    Messages(Vec<u8>),
    Farewell {
        code: CloseCode,
        reason: String,
    },
}

impl Sender {
    /// Queues one message; never waits.
    ///
    /// # Errors
    /// [`ChannelError::SlowReader`] when the queue is full, which also closes the connection, and
    /// [`ChannelError::Closed`] when it is closed.
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), ChannelError> {
        self.send_all(std::slice::from_ref(message))
    }

    /// Bytes of the largest datagram that has been shown to reach the other end.
    #[must_use]
    pub fn datagram_bytes(&self) -> u16 {
        self.connection.stats().path.current_mtu
    }

    /// Queues messages that came about together, as one: a thousand withdrawals in one turn are no
    /// sign of a slow reader.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_all<T: Serialize>(&self, messages: &[T]) -> Result<(), ChannelError> {
        let bytes: Vec<u8> = messages.iter().flat_map(codec::encode_framed).collect();
        let length = bytes.len();
        if self.queued.fetch_add(length, Ordering::Relaxed) > QUEUE_BYTES_MAX {
            return Err(self.slow());
        }
        self.queue(Outgoing::Messages(bytes))
    }

    /// Closes the connection once everything that is queued has arrived, or after a few seconds.
    pub fn finish(&self, code: CloseCode, reason: &str) {
        let farewell = Outgoing::Farewell {
            code,
            reason: reason.to_owned(),
        };
        if self.queue(farewell).is_err() {
            self.close(code, reason);
        }
    }

    fn queue(&self, outgoing: Outgoing) -> Result<(), ChannelError> {
        use mpsc::error::TrySendError::{Closed, Full};
        self.said.note(&self.connection);
        match self.queue.try_send(outgoing) {
            Ok(()) => Ok(()),
            Err(Full(_)) => Err(self.slow()),
            Err(Closed(_)) => Err(self.why_closed()),
        }
    }

    /// Closes the connection; what is still queued is lost.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.connection
            .close(VarInt::from_u32(code.number()), reason.as_bytes());
    }

    /// Waits until the connection has ended, whoever ended it.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// What its connection has carried up to now.
    #[must_use]
    pub fn traffic(&self) -> vigil::Traffic {
        vigil::Traffic::of(&self.connection)
    }

    /// Closes the connection of a peer that does not read; it starts over with a snapshot.
    fn slow(&self) -> ChannelError {
        let error = ChannelError::SlowReader;
        close(&self.connection, &error);
        error
    }

    fn why_closed(&self) -> ChannelError {
        ChannelError::Closed(self.connection.close_reason().map_or_else(
            || "the stream was stopped".to_owned(),
            |why| why.to_string(),
        ))
    }
}

/// What a client's connection keeps alive.
#[derive(Debug)]
struct ClientParts {
    /// It has one connection, and lives as long.
    _endpoint: quinn::Endpoint,
    watch: AbortHandle,
}

impl Drop for ClientParts {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    connection: quinn::Connection,
    client: Option<ClientParts>,
    incoming: RecvStream,
    bytes_max: usize,
    /// When the first message must have come; `None` once it has.
    first_by: Option<Instant>,
}

impl Receiver {
    /// Waits for the next message; `None` when the peer has finished.
    ///
    /// Not safe to cancel: a message that was begun is lost with the future, so give each
    /// receiver a task of its own.
    ///
    /// # Errors
    /// [`ChannelError`]. The connection is closed by then, with a code that says why.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ChannelError> {
        let result = match self.first_by {
            None => self.next_message().await,
            Some(first_by) => tokio::time::timeout_at(first_by, self.next_message())
                .await
                .unwrap_or(Err(ChannelError::NoAnswer(TIME_BEFORE_TRUST))),
        };
        match result {
            Ok(message) => {
                self.first_by = None;
                Ok(message)
            }
            Err(error) => {
                close(&self.connection, &error);
                Err(error)
            }
        }
    }

    /// Changes the largest message that is taken, as when the peer is trusted from here on.
    pub const fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    async fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ChannelError> {
        let mut prefix = [0_u8; LENGTH_BYTES];
        match self.incoming.read_exact(&mut prefix).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
            Err(error) => return Err(self.read_error(error)),
        }
        let length = codec::decode_length(prefix, self.bytes_max)?;
        let mut body = Vec::with_capacity(length.min(FIRST_BYTES));
        while body.len() < length {
            let want = length - body.len();
            let chunk = self
                .incoming
                .read_chunk(want, true)
                .await
                .map_err(|error| self.read_error(ReadExactError::ReadError(error)))?
                .ok_or(ChannelError::Truncated)?;
            body.extend_from_slice(&chunk.bytes);
        }
        Ok(Some(codec::decode(&body, self.bytes_max)?))
    }

    fn read_error(&self, error: ReadExactError) -> ChannelError {
        match error {
            ReadExactError::FinishedEarly(_) => ChannelError::Truncated,
            ReadExactError::ReadError(error) => ChannelError::Closed(
                self.connection
                    .close_reason()
                    .map_or_else(|| error.to_string(), |why| why.to_string()),
            ),
        }
    }
}

/// The task behind a [`Sender`].
struct Writer {
    connection: quinn::Connection,
    stream: SendStream,
    queued: Arc<AtomicUsize>,
}

impl Writer {
    /// Writes what is queued until the queue or the connection ends.
    async fn run(mut self, mut queue: mpsc::Receiver<Outgoing>) {
        while let Some(outgoing) = queue.recv().await {
            match outgoing {
                Outgoing::Messages(bytes) => {
                    if let Err(error) = self.stream.write_all(&bytes).await {
                        tracing::debug!(%error, "a channel no longer takes messages");
                        // A peer that stopped the stream alone would look connected for ever.
                        close(&self.connection, &ChannelError::Closed(error.to_string()));
                        return;
                    }
                    self.queued.fetch_sub(bytes.len(), Ordering::Relaxed);
                }
                Outgoing::Farewell { code, reason } => {
                    acknowledged(&mut self.stream).await;
                    let code = VarInt::from_u32(code.number());
                    self.connection.close(code, reason.as_bytes());
                    return;
                }
            }
        }
        acknowledged(&mut self.stream).await;
    }
}

/// Ends the stream and waits, not for long, until the peer has all of it.
async fn acknowledged(stream: &mut SendStream) {
    if stream.finish().is_err() {
        return;
    }
    if tokio::time::timeout(FAREWELL_TIME, stream.stopped())
        .await
        .is_err()
    {
        tracing::debug!("a channel ended before its last messages were acknowledged");
    }
}
