//! A node's end of a channel.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cardea_credential::knock::{Knock, KnockKeys, pass_keys, pass_label};
use cardea_proto::{
    codec::{Digest, Secret32},
    detour::FRONT_PROOF_BYTES,
    enroll::Pass,
    time::ClockOffset,
};
use quinn::{AsyncUdpSocket, ConnectionId, crypto::rustls::QuicClientConfig};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, watch};

use super::{
    ChannelError, Handshake, KEEPALIVE, Kind, Link, filter::Filter, transport, ways::Ways,
};
use crate::{clock::Clock, detour::TlsStream, entropy};

/// Server name that every client asks for: names play no part in our certificates.
const SERVER_NAME: &str = "cardea.invalid";

/// Largest message that a node takes from its controller, in bytes.
///
/// A snapshot of 10,000 apps fits. A controller takes less of a node, of which it has many.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Opens channels.
#[derive(Debug)]
pub struct Client;

/// Somebody who may knock at a server.
#[derive(Clone, Debug)]
pub struct Caller {
    keys: KnockKeys,
    clock: Clock,
    offset: ClockOffset,
    pass: Option<Pass>,
}

impl Caller {
    /// The holder of a seed in the trust domain whose root certificate has this digest. `offset` is
    /// what it knows of the server's clock.
    #[must_use]
    pub fn new(seed: &Secret32, root: &Digest, offset: ClockOffset) -> Self {
        Self {
            keys: KnockKeys::new(seed, root),
            clock: Clock::system(),
            offset,
            pass: None,
        }
    }

    /// The same, who has a pass for fronts that are not beside the controller.
    #[must_use]
    pub fn with_pass(self, pass: Option<Pass>) -> Self {
        Self { pass, ..self }
    }

    /// A knock of this moment: the connection id to which a connection's first packets go.
    pub(super) fn knock(&self) -> ConnectionId {
        ConnectionId::new(&self.make(&self.keys).0)
    }

    /// A knock of this moment: the first label of a server's name.
    pub(crate) fn label(&self) -> String {
        match &self.pass {
            None => self.make(&self.keys).label(),
            Some(pass) => pass_label(pass, &self.make(&pass_keys(pass))),
        }
    }

    /// Whether what answered a knock holds the same seed.
    pub(crate) fn is_front_proof(
        &self,
        exporter: &[u8; 32],
        proof: &[u8; FRONT_PROOF_BYTES],
    ) -> bool {
        let pass = self.pass.as_ref().map(pass_keys);
        let keys = pass.as_ref().unwrap_or(&self.keys);
        keys.is_front_proof(exporter, proof)
    }

    fn make(&self, keys: &KnockKeys) -> Knock {
        let at = self.offset.theirs(self.clock.now().unix);
        keys.knock(at, entropy::bytes())
    }
}

/// A channel that is up, as the node sees it.
#[derive(Debug)]
pub struct Connected {
    /// What the TLS configuration asked for.
    pub kind: Kind,
    /// The server's chain, leaf first, as verified.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What the node signs to prove that it holds a key ([`cardea_proto::EXPORTER_PROOF`]).
    pub exporter: [u8; 32],
    /// The server.
    pub address: SocketAddr,
    /// The messages.
    pub link: Link,
    /// Where a detour is taken when UDP falls silent.
    pub fallback: Fallback,
}

/// A channel's other way.
#[derive(Debug)]
pub struct Fallback {
    ways: Arc<Ways>,
    endpoint: quinn::Endpoint,
    doubted: Arc<Notify>,
}

impl Fallback {
    /// Waits until the server does not answer as soon as it should. Safe to cancel.
    pub async fn wanted(&self) {
        self.doubted.notified().await;
    }

    /// Whether UDP is the way, now and whenever that changes.
    #[must_use]
    pub fn is_direct(&self) -> watch::Receiver<bool> {
        self.ways.watch()
    }

    /// Goes on by a detour, for as long as UDP brings nothing.
    pub fn take(&self, detour: TlsStream) {
        self.ways.take(detour);
        // Says something at once on each connection, so that the server sees where that comes from
        // and what was lost before is found lost: QUIC's own timer may be a second away.
        let socket: Arc<dyn AsyncUdpSocket> = Arc::<Ways>::clone(&self.ways);
        if let Err(error) = self.endpoint.rebind_abstract(socket) {
            tracing::debug!(%error, "a channel does not know of its detour");
        }
    }
}

impl Client {
    /// Connects to one address as `caller`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ChannelError`]: [`ChannelError::NoAnswer`] after `time`, [`ChannelError::Refused`] when the
    /// host says so earlier.
    pub async fn connect(
        server: SocketAddr,
        tls: Arc<rustls::ClientConfig>,
        caller: &Caller,
        time: Duration,
    ) -> Result<Connected, ChannelError> {
        let filter = Filter::new(None);
        let ways = Ways::new(Some(server), &filter).map_err(ChannelError::Socket)?;
        Self::connect_on((ways, &filter), tls, caller, time).await
    }

    /// Connects over a detour to the controller behind it. Should UDP to `server` work, now or later,
    /// the connection moves there by itself.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_by(
        detour: TlsStream,
        server: Option<SocketAddr>,
        tls: Arc<rustls::ClientConfig>,
        caller: &Caller,
        time: Duration,
    ) -> Result<Connected, ChannelError> {
        let filter = Filter::new(None);
        let ways = Ways::new(server, &filter).map_err(ChannelError::Socket)?;
        ways.take(detour);
        Self::connect_on((ways, &filter), tls, caller, time).await
    }

    async fn connect_on(
        (ways, filter): (Arc<Ways>, &Arc<Filter>),
        tls: Arc<rustls::ClientConfig>,
        caller: &Caller,
        time: Duration,
    ) -> Result<Connected, ChannelError> {
        let crypto = QuicClientConfig::try_from(tls).map_err(|_| ChannelError::Tls)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let caller = caller.clone();
        config
            .transport_config(Arc::new(transport(0, Some(KEEPALIVE))))
            .initial_dst_cid_provider(Arc::new(move || caller.knock()));
        let socket: Arc<dyn AsyncUdpSocket> = Arc::<Ways>::clone(&ways);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            filter.endpoint(),
            None,
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(ChannelError::Socket)?;
        let connecting = endpoint
            .connect_with(config, ways.server(), SERVER_NAME)
            .map_err(|error| ChannelError::Closed(error.to_string()))?;
        let refused = ways.refused();
        let connection = tokio::select! {
            result = connecting => result.map_err(|error| ChannelError::Closed(error.to_string()))?,
            () = refused.notified() => return Err(ChannelError::Refused),
            () = tokio::time::sleep(time) => return Err(ChannelError::NoAnswer(time)),
        };
        let Handshake {
            kind,
            certificates,
            exporter,
            address,
        } = Handshake::of(&connection)?;
        let streams = tokio::time::timeout(time, connection.open_bi())
            .await
            .map_err(|_| ChannelError::NoAnswer(time))?
            .map_err(|error| ChannelError::Closed(error.to_string()))?;
        let doubted = Arc::<Notify>::default();
        let fallback = Fallback {
            ways,
            endpoint: endpoint.clone(),
            doubted: Arc::clone(&doubted),
        };
        let keeps = (endpoint, refused, doubted);
        let link = Link::of_client(connection, streams, MESSAGE_BYTES_MAX, keeps);
        Ok(Connected {
            kind,
            certificates,
            exporter,
            address,
            link,
            fallback,
        })
    }
}
