//! A node's end of a channel.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;

use super::{ChannelError, Handshake, KEEPALIVE, Kind, Link, socket::ConnectedSocket, transport};

/// Server name that every client asks for: names play no part in our certificates.
const SERVER_NAME: &str = "cardea.invalid";

/// Largest message that a node takes from its controller, in bytes.
///
/// A snapshot of 10,000 apps fits. A controller takes less of a node, of which it has many.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Opens channels.
#[derive(Debug)]
pub struct Client;

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
}

impl Client {
    /// Connects to one address. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ChannelError`]: [`ChannelError::NoAnswer`] after `time`, [`ChannelError::Refused`] when the
    /// host says so earlier.
    pub async fn connect(
        server: SocketAddr,
        tls: Arc<rustls::ClientConfig>,
        time: Duration,
    ) -> Result<Connected, ChannelError> {
        let crypto = QuicClientConfig::try_from(tls).map_err(|_| ChannelError::Tls)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(0, Some(KEEPALIVE))));
        let (socket, refused) = ConnectedSocket::open(server).map_err(ChannelError::Socket)?;
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            quinn::EndpointConfig::default(),
            None,
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(ChannelError::Socket)?;
        let connecting = endpoint
            .connect_with(config, server, SERVER_NAME)
            .map_err(|error| ChannelError::Closed(error.to_string()))?;
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
        let keeps = (endpoint, refused);
        let link = Link::of_client(connection, streams, MESSAGE_BYTES_MAX, keeps);
        Ok(Connected {
            kind,
            certificates,
            exporter,
            address,
            link,
        })
    }
}
