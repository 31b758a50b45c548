//! A node's channel to its controller, and the controller's end of channels and enrollments.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig,
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};

use cardea_proto::{ALPN_CHANNEL, ALPN_ENROLL, codec::Blob, identity::Holder, time::UnixMillis};

use super::{
    key::{Always, certified},
    verifier::{Expected, PeerVerifier},
};
use crate::{
    key::Signer,
    trust::{ChainError, Trust, VerifiedLeaf},
};

/// What a controller presents.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    /// Its leaf and intermediate, DER.
    pub chain: Vec<Blob>,
    /// The root, DER: sent to those who enroll, whose code holds its digest.
    pub root: Blob,
    /// The leaf's key.
    pub signer: Arc<dyn Signer>,
}

/// Who is at the other end of a connection to the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelPeer {
    /// An enrolled node, on the channel protocol.
    Node(VerifiedLeaf),
    /// Somebody without a certificate, on the enrollment protocol.
    Stranger,
}

/// Why a connection to the controller is neither a channel nor an enrollment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Neither of our protocols was negotiated.
    #[error("no protocol of ours was negotiated")]
    Protocol,
    /// A channel without a certificate.
    #[error("a channel needs a certificate")]
    NoCertificate,
    /// An enrollment with one.
    #[error("an enrollment is made without a certificate")]
    NeedlessCertificate,
    /// The certificate does not hold.
    #[error("the node's certificate does not hold")]
    Chain(#[source] ChainError),
}

/// A node's end of its channel: presents `chain`, accepts any controller of the trust domain.
#[must_use]
pub fn channel_client(
    trust: Trust,
    chain: &[Blob],
    signer: Arc<dyn Signer>,
    time: Arc<dyn TimeProvider>,
) -> Arc<ClientConfig> {
    let config = super::client(super::suites(), time)
        .dangerous()
        .with_custom_certificate_verifier(PeerVerifier::new(trust, Expected::Controller))
        .with_client_cert_resolver(Always::new(chain, signer));
    super::finish_client(config, ALPN_CHANNEL)
}

/// The controller's end of channels and enrollments.
///
/// rustls cannot demand a certificate for one ALPN alone: after the handshake, [`channel_peer`]
/// does, before anything is read.
#[must_use]
pub fn channel_server(
    identity: ServerIdentity,
    trust: Trust,
    time: Arc<dyn TimeProvider>,
) -> Arc<ServerConfig> {
    let config = super::server(super::suites(), time)
        .with_client_cert_verifier(PeerVerifier::new(trust, Expected::NodeOrStranger))
        .with_cert_resolver(Arc::new(ByProtocol::new(identity)));
    super::finish_server(config, &[ALPN_CHANNEL, ALPN_ENROLL])
}

/// Who is at the other end of a finished handshake with [`channel_server`].
///
/// # Errors
/// [`PeerError`] when the connection must be closed at once.
pub fn channel_peer(
    alpn: Option<&[u8]>,
    certificates: &[CertificateDer<'_>],
    trust: &Trust,
    at: UnixMillis,
) -> Result<ChannelPeer, PeerError> {
    match (alpn, certificates) {
        (Some(ALPN_CHANNEL), []) => Err(PeerError::NoCertificate),
        (Some(ALPN_CHANNEL), certificates) => {
            let leaf = super::peer_leaf(certificates, trust, at).map_err(PeerError::Chain)?;
            match leaf.identity.holder {
                Holder::Device(_) | Holder::Connector(_) => Ok(ChannelPeer::Node(leaf)),
                Holder::Controller(_) | Holder::Relay(_) => {
                    Err(PeerError::Chain(ChainError::OtherHolder(leaf.identity)))
                }
            }
        }
        (Some(ALPN_ENROLL), []) => Ok(ChannelPeer::Stranger),
        (Some(ALPN_ENROLL), _) => Err(PeerError::NeedlessCertificate),
        (Some(_) | None, _) => Err(PeerError::Protocol),
    }
}

/// Presents leaf and intermediate on a channel, and the root as well to those who enroll.
#[derive(Debug)]
struct ByProtocol {
    channel: Arc<CertifiedKey>,
    enroll: Arc<CertifiedKey>,
}

impl ByProtocol {
    fn new(identity: ServerIdentity) -> Self {
        let mut with_root = identity.chain.clone();
        with_root.push(identity.root);
        Self {
            channel: certified(&identity.chain, identity.signer.clone()),
            enroll: certified(&with_root, identity.signer),
        }
    }
}

impl ResolvesServerCert for ByProtocol {
    /// Mirrors how rustls negotiates: the server's first protocol that the client offers.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offered: Vec<&[u8]> = hello.alpn()?.collect();
        if offered.contains(&ALPN_CHANNEL) {
            Some(self.channel.clone())
        } else if offered.contains(&ALPN_ENROLL) {
            Some(self.enroll.clone())
        } else {
            None
        }
    }
}
