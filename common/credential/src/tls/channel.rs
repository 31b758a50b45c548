//! A node's channel to its controller, and the controller's end of channels and enrollments.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig,
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};

use cardea_proto::{
    ALPN_CHANNEL, ALPN_ENROLL, ALPN_RENEW, codec::Blob, identity::Holder, time::UnixMillis,
};

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
    /// An enrolled node, on the renewal protocol. Its certificate may have ended.
    Lapsed(VerifiedLeaf),
    /// Somebody without a certificate, on the enrollment protocol.
    Stranger,
}

/// Why a connection to the controller is neither a channel nor a renewal nor an enrollment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// None of our protocols was negotiated.
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
    node_client(trust, chain, signer, time, ALPN_CHANNEL)
}

/// A node's end of a renewal: the same with a certificate that may have ended.
#[must_use]
pub fn renewal_client(
    trust: Trust,
    chain: &[Blob],
    signer: Arc<dyn Signer>,
    time: Arc<dyn TimeProvider>,
) -> Arc<ClientConfig> {
    node_client(trust, chain, signer, time, ALPN_RENEW)
}

fn node_client(
    trust: Trust,
    chain: &[Blob],
    signer: Arc<dyn Signer>,
    time: Arc<dyn TimeProvider>,
    alpn: &[u8],
) -> Arc<ClientConfig> {
    let config = super::client(super::suites(), time)
        .dangerous()
        .with_custom_certificate_verifier(PeerVerifier::new(trust, Expected::Controller))
        .with_client_cert_resolver(Always::new(chain, signer));
    super::finish_client(config, alpn)
}

/// The controller's end of channels, renewals and enrollments.
///
/// rustls can neither demand a certificate nor accept one that has ended for one ALPN alone: after
/// the handshake, [`channel_peer`] decides, before anything is read.
#[must_use]
pub fn channel_server(
    identity: ServerIdentity,
    trust: Trust,
    time: Arc<dyn TimeProvider>,
) -> Arc<ServerConfig> {
    let config = super::server(super::suites(), time)
        .with_client_cert_verifier(PeerVerifier::new(trust, Expected::NodeOrStranger))
        .with_cert_resolver(Arc::new(ByProtocol::new(identity)));
    super::finish_server(config, &[ALPN_CHANNEL, ALPN_RENEW, ALPN_ENROLL])
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
        (Some(ALPN_CHANNEL | ALPN_RENEW), []) => Err(PeerError::NoCertificate),
        (Some(ALPN_CHANNEL), certificates) => {
            let leaf = super::peer_leaf(certificates, trust, at).map_err(PeerError::Chain)?;
            of_a_node(leaf).map(ChannelPeer::Node)
        }
        (Some(ALPN_RENEW), [leaf, intermediate]) => {
            let leaf = trust
                .verify_lapsed_pair(leaf, intermediate, at)
                .map_err(PeerError::Chain)?;
            of_a_node(leaf).map(ChannelPeer::Lapsed)
        }
        (Some(ALPN_RENEW), _) => Err(PeerError::Chain(ChainError::Filler)),
        (Some(ALPN_ENROLL), []) => Ok(ChannelPeer::Stranger),
        (Some(ALPN_ENROLL), _) => Err(PeerError::NeedlessCertificate),
        (Some(_) | None, _) => Err(PeerError::Protocol),
    }
}

fn of_a_node(leaf: VerifiedLeaf) -> Result<VerifiedLeaf, PeerError> {
    match leaf.identity.holder {
        Holder::Device(_) | Holder::Connector(_) => Ok(leaf),
        Holder::Controller(_) | Holder::Relay(_) => {
            Err(PeerError::Chain(ChainError::OtherHolder(leaf.identity)))
        }
    }
}

/// Presents leaf and intermediate on a channel or a renewal, and the root as well to those who enroll.
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
        if offered.contains(&ALPN_CHANNEL) || offered.contains(&ALPN_RENEW) {
            Some(self.channel.clone())
        } else if offered.contains(&ALPN_ENROLL) {
            Some(self.enroll.clone())
        } else {
            None
        }
    }
}
