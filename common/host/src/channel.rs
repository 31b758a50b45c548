//! Channels: one QUIC connection between a node and a controller, one stream of messages on it.
//!
//! ```text
//! node                                     controller
//!   Client::connect ── handshake, ALPN ──▶ Server::accept → Accepted { kind, certificates, exporter }
//!   Sender::send    ── one bidi stream ──▶ Receiver::receive
//!   Receiver        ◀───────────────────── Sender
//! ```
//!
//! A server stands behind a [`Gate`]: below QUIC, every datagram of somebody who has not knocked is
//! dropped unread, so that nothing is ever sent to a stranger.
//!
//! A peer that breaks a rule is cut off with a [`CloseCode`] and a reason; nothing it sends can
//! make this side allocate more than a message or wait longer than a deadline.

mod client;
mod filter;
mod gate;
mod link;
mod server;
mod socket;
mod vigil;
mod ways;

use std::{net::SocketAddr, time::Duration};

use cardea_proto::codec::DecodeError;
use quinn::VarInt;
use rustls::pki_types::CertificateDer;

pub use self::{
    client::{Caller, Client, Connected, Fallback},
    filter::Filter,
    gate::Gate,
    link::{Link, Receiver, Sender},
    server::{Accepted, Arrival, Server, Unproven},
    socket::Inlet,
    vigil::Traffic,
};

/// How long a stranger has from its first datagram to its first whole message.
pub const TIME_BEFORE_TRUST: Duration = Duration::from_secs(5);

/// Turns whose messages wait for a slow reader; those of one more cut it off.
pub const QUEUE_BATCHES_MAX: usize = 256;

/// Bytes that wait for a slow reader before one more message cuts it off.
///
/// The withdrawal of every grant of the largest connector and a snapshot of all apps fit.
pub const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How often a silent node says that it lives: often enough for a NAT that forgets after 30 s.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How long silence may last before the connection counts as dead: three keepalives.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes in flight that this side takes before they are read: a few of the largest messages.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// The same from somebody who has not shown a certificate: one message of an enrollment, twice.
const STRANGER_WINDOW_BYTES: u32 = 32 * 1024;

/// What a connection is for, as its ALPN says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node without a certificate enrolls.
    Enroll,
    /// A node's channel, both ends authenticated.
    Channel,
    /// A node renews its certificate, which may have ended; both ends authenticated.
    Renewal,
}

/// Why a connection was closed, in QUIC's application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// All is said.
    Done,
    /// A message was not what it should be.
    Malformed,
    /// A message was larger than may be.
    TooLarge,
    /// A message did not come in time.
    TooLate,
    /// The reader was too slow for its queue.
    SlowReader,
    /// A message or stream has no place here.
    Protocol,
    /// The program ends.
    Leaving,
}

impl CloseCode {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::Malformed => 1,
            Self::TooLarge => 2,
            Self::TooLate => 3,
            Self::SlowReader => 4,
            Self::Protocol => 5,
            Self::Leaving => 6,
        }
    }
}

/// Why a channel ended or never began.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The socket could not be made, such as when the port is in use.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[source] std::io::Error),
    /// The TLS configuration has no cipher suite for QUIC. Our own mistake.
    #[error("the TLS configuration cannot be used with QUIC")]
    Tls,
    /// Nobody answered.
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    /// The host answered that nobody listens there.
    #[error("nobody listens there")]
    Refused,
    /// The connection failed, or the other end closed it.
    #[error("{0}")]
    Closed(String),
    /// The peer has no business here: no ALPN or certificate of ours.
    #[error("the peer speaks another protocol")]
    Protocol,
    /// The peer's message is none. The peer is at fault.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The peer's stream ended within a message.
    #[error("the message was cut off")]
    Truncated,
    /// The peer read too slowly.
    #[error(
        "the peer reads too slowly: {QUEUE_BATCHES_MAX} batches or {QUEUE_BYTES_MAX} bytes wait"
    )]
    SlowReader,
}

impl ChannelError {
    /// The code with which this side closes the connection because of this error.
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::Decode(DecodeError::TooLarge { .. }) => CloseCode::TooLarge,
            Self::Decode(DecodeError::Malformed(_) | DecodeError::Trailing(_))
            | Self::Truncated => CloseCode::Malformed,
            Self::NoAnswer(_) => CloseCode::TooLate,
            Self::SlowReader => CloseCode::SlowReader,
            Self::Protocol | Self::Tls => CloseCode::Protocol,
            Self::Socket(_) | Self::Refused | Self::Closed(_) => CloseCode::Done,
        }
    }
}

/// Transport settings of both ends: one stream from the node, no datagrams.
fn transport(streams: u32, keepalive: Option<Duration>) -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        // Holds for all of a connection's streams, and is raised once the peer is known.
        .receive_window(VarInt::from_u32(STRANGER_WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .keep_alive_interval(keepalive)
        .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE_TIMEOUT).ok());
    config
}

/// What TLS found out about a connection.
struct Handshake {
    kind: Kind,
    certificates: Vec<CertificateDer<'static>>,
    exporter: [u8; 32],
    address: SocketAddr,
}

impl Handshake {
    fn of(connection: &quinn::Connection) -> Result<Self, ChannelError> {
        let data = connection
            .handshake_data()
            .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
            .ok_or(ChannelError::Protocol)?;
        let kind = match data.protocol.as_deref() {
            Some(cardea_proto::ALPN_CHANNEL) => Kind::Channel,
            Some(cardea_proto::ALPN_RENEW) => Kind::Renewal,
            Some(cardea_proto::ALPN_ENROLL) => Kind::Enroll,
            Some(_) | None => return Err(ChannelError::Protocol),
        };
        if kind != Kind::Enroll {
            connection.set_receive_window(VarInt::from_u32(WINDOW_BYTES));
        }
        let certificates = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .map(|certificates| *certificates)
            .unwrap_or_default();
        let mut exporter = [0_u8; 32];
        connection
            .export_keying_material(&mut exporter, cardea_proto::EXPORTER_PROOF, b"")
            .map_err(|_| ChannelError::Protocol)?;
        Ok(Self {
            kind,
            certificates,
            exporter,
            address: connection.remote_address(),
        })
    }
}

/// Closes a connection with a code and the reason that the error gives.
fn close(connection: &quinn::Connection, error: &ChannelError) {
    let code = VarInt::from_u32(error.close_code().number());
    connection.close(code, error.to_string().as_bytes());
}

#[cfg(test)]
mod darkness;
#[cfg(test)]
mod tests;
