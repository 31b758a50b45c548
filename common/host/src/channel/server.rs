//! A controller's end of channels.

use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc};

use cardea_credential::{knock::Knocker, tls::explain};
use cardea_proto::codec::{MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX_STRANGER};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;

use super::{
    ChannelError, CloseCode, Gate, Handshake, Kind, Link, TIME_BEFORE_TRUST, close,
    filter::Filter,
    socket::{FilteredSocket, Inlet},
    transport,
};
use crate::{detour::Detours, places::Places};

/// Handshakes at one time; whoever knocks past that hears nothing and tries again.
///
/// Each costs a millisecond of one core: as many as finish within [`TIME_BEFORE_TRUST`]. Nobody is
/// asked to show that it can receive first (RFC 9000 §8.1): who forges a source cannot knock.
const HANDSHAKES_MAX: usize = 4_096;

/// Handshakes of one address or IPv6 /64; a quarter, because thousands of nodes may be behind one.
///
/// Nobody takes the places of another by writing his address on datagrams: each takes a knock.
const HANDSHAKES_PER_SOURCE_MAX: usize = HANDSHAKES_MAX / 4;

/// Those who shook hands and wait for the controller's loop.
const ARRIVALS_MAX: usize = 1_024;

/// The errors of QUIC that are alerts of TLS. Source: RFC 9001 §4.8.
const TLS_ALERTS: RangeInclusive<u64> = 0x0100..=0x01ff;

/// Listens for nodes. To whoever has not knocked, it is not there.
#[derive(Debug)]
pub struct Server {
    endpoint: quinn::Endpoint,
    filter: Arc<Filter>,
    socket: Arc<FilteredSocket>,
    arrivals: mpsc::Receiver<Arrival>,
    address: SocketAddr,
}

/// Somebody who knocked and shook hands.
#[derive(Debug)]
pub enum Arrival {
    /// One that may say something.
    Accepted(Box<Accepted>),
    /// One whose handshake this side has refused.
    Unproven(Unproven),
}

/// A handshake that proved nothing: a certificate that does not hold, or no TLS of ours.
#[derive(Clone, Debug)]
pub struct Unproven {
    /// Where it came from.
    pub address: SocketAddr,
    /// Who knocked there when it began.
    pub knockers: Vec<Knocker>,
    /// What did not hold.
    pub why: String,
}

/// A connection that finished its handshake and opened its stream.
#[derive(Debug)]
pub struct Accepted {
    /// What it is for.
    pub kind: Kind,
    /// The peer's chain, leaf first, as the TLS configuration verified it; empty for `Enroll`.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What the peer signs to prove that it holds a key ([`cardea_proto::EXPORTER_PROOF`]).
    pub exporter: [u8; 32],
    /// Where the peer is.
    pub address: SocketAddr,
    /// Who knocked there when it began: the peer, if it is who it knocked as.
    pub knockers: Vec<Knocker>,
    /// The messages.
    pub link: Link,
}

impl Server {
    /// Listens at `listen` behind `gate` with `tls`, which names the ALPNs. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`ChannelError::Socket`] when the port is in use or not ours to take, [`ChannelError::Tls`].
    pub fn bind(
        listen: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        gate: Gate,
    ) -> Result<Self, ChannelError> {
        Self::bind_all(listen, tls, gate, None, places()).map(|(server, _)| server)
    }

    /// The same with so much room for handshakes.
    #[cfg(test)]
    pub(super) fn bind_with(
        listen: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        gate: Gate,
        handshakes: Places,
    ) -> Result<Self, ChannelError> {
        Self::bind_all(listen, tls, gate, None, handshakes).map(|(server, _)| server)
    }

    /// The same for nodes that come by a front as well; says where the front gives their datagrams.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_behind(
        listen: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        gate: Gate,
        detours: Detours,
    ) -> Result<(Self, Option<Inlet>), ChannelError> {
        Self::bind_all(listen, tls, gate, Some(detours), places())
    }

    fn bind_all(
        listen: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        gate: Gate,
        detours: Option<Detours>,
        handshakes: Places,
    ) -> Result<(Self, Option<Inlet>), ChannelError> {
        let crypto = QuicServerConfig::try_from(tls).map_err(|_| ChannelError::Tls)?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(Arc::new(transport(1, None)))
            .max_incoming(HANDSHAKES_MAX)
            .migration(true);
        let filter = Filter::new(Some(gate.clone()));
        let (socket, inlet) =
            FilteredSocket::bind(listen, &filter, detours).map_err(ChannelError::Socket)?;
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            filter.endpoint(),
            Some(config),
            Arc::<FilteredSocket>::clone(&socket),
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(ChannelError::Socket)?;
        let address = endpoint.local_addr().map_err(ChannelError::Socket)?;
        let (sender, arrivals) = mpsc::channel(ARRIVALS_MAX);
        tokio::spawn(accept(endpoint.clone(), gate, handshakes, sender));
        let server = Self {
            endpoint,
            filter,
            socket,
            arrivals,
            address,
        };
        Ok((server, inlet))
    }

    /// Waits until no connection is left, not even one that only listens for its peer's last words.
    #[cfg(test)]
    pub(super) async fn idle(&self) {
        self.endpoint.wait_idle().await;
    }

    /// Leaves everything to the filter, as where the kernel has no sieve.
    #[cfg(test)]
    pub(super) fn without_sieve(&self) -> std::io::Result<()> {
        self.socket.without_sieve()
    }

    /// How many datagrams were dropped unanswered, among them each whose knock did not open.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.filter.dropped() + self.socket.dropped()
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Who comes next; `None` after [`Server::close`]. Safe to cancel.
    pub async fn accept(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }

    /// Closes every connection and takes no more.
    pub async fn close(&self, reason: &str) {
        self.filter.close();
        tracing::debug!(
            datagrams.dropped = self.dropped(),
            "no more knocks are heard"
        );
        let code = quinn::VarInt::from_u32(CloseCode::Leaving.number());
        self.endpoint.close(code, reason.as_bytes());
        let farewells = self.endpoint.wait_idle();
        if tokio::time::timeout(TIME_BEFORE_TRUST, farewells)
            .await
            .is_err()
        {
            tracing::debug!("some nodes did not acknowledge that their channel was closed");
        }
    }
}

fn places() -> Places {
    Places::new(HANDSHAKES_MAX, HANDSHAKES_PER_SOURCE_MAX)
}

/// Takes connections one by one; each has its handshake in a task of its own.
async fn accept(
    endpoint: quinn::Endpoint,
    gate: Gate,
    handshakes: Places,
    arrivals: mpsc::Sender<Arrival>,
) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(place) = handshakes.take(incoming.remote_address()) else {
            incoming.ignore();
            continue;
        };
        let arrivals = arrivals.clone();
        let knockers = gate.knockers(incoming.remote_address());
        tokio::spawn(async move {
            match shake_hands(incoming, knockers).await {
                Ok(arrival) => {
                    if arrivals.send(arrival).await.is_err() {
                        tracing::debug!("a connection came while the controller was leaving");
                    }
                }
                Err(error) => tracing::debug!(reason = %error, "a connection did not come about"),
            }
            drop(place);
        });
    }
}

/// From a stranger's first datagram to its open stream, within [`TIME_BEFORE_TRUST`].
async fn shake_hands(
    incoming: quinn::Incoming,
    knockers: Vec<Knocker>,
) -> Result<Arrival, ChannelError> {
    let address = incoming.remote_address();
    let connecting = incoming
        .accept()
        .map_err(|error| ChannelError::Closed(error.to_string()))?;
    let first_by = tokio::time::Instant::now() + TIME_BEFORE_TRUST;
    let deadline = tokio::time::sleep_until(first_by);
    tokio::pin!(deadline);
    let connection = tokio::select! {
        result = connecting => match result {
            Ok(connection) => connection,
            Err(error) => return unproven(&error, address, knockers),
        },
        () = &mut deadline => return Err(ChannelError::NoAnswer(TIME_BEFORE_TRUST)),
    };
    let opened = async {
        let handshake = Handshake::of(&connection)?;
        let stream = connection
            .accept_bi()
            .await
            .map_err(|error| ChannelError::Closed(error.to_string()))?;
        Ok((handshake, stream))
    };
    let result = tokio::select! {
        result = opened => result,
        () = &mut deadline => Err(ChannelError::NoAnswer(TIME_BEFORE_TRUST)),
    };
    let (handshake, streams) = match result {
        Ok(opened) => opened,
        Err(error) => {
            close(&connection, &error);
            return Err(error);
        }
    };
    let Handshake {
        kind,
        certificates,
        exporter,
        address,
    } = handshake;
    let bytes_max = match kind {
        Kind::Enroll => MESSAGE_BYTES_MAX_STRANGER,
        Kind::Channel | Kind::Renewal => MESSAGE_BYTES_MAX,
    };
    Ok(Arrival::Accepted(Box::new(Accepted {
        kind,
        certificates,
        exporter,
        address,
        knockers,
        link: Link::of_server(connection, streams, bytes_max, first_by),
    })))
}

/// Tells a handshake that our TLS has refused from one that was lost, or that the peer gave up.
fn unproven(
    error: &quinn::ConnectionError,
    address: SocketAddr,
    knockers: Vec<Knocker>,
) -> Result<Arrival, ChannelError> {
    if let quinn::ConnectionError::TransportError(ours) = error
        && TLS_ALERTS.contains(&u64::from(ours.code))
    {
        return Ok(Arrival::Unproven(Unproven {
            address,
            knockers,
            why: explain(&ours.reason).to_owned(),
        }));
    }
    Err(ChannelError::Closed(error.to_string()))
}
