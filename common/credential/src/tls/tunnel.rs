//! Both ends of a QUIC tunnel: each expects one node, by id and by key, as its grant says.

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig, time_provider::TimeProvider};

use cardea_proto::{
    ALPN_TUNNEL,
    codec::{Blob, Digest},
    identity::Holder,
};

use super::{
    key::{Always, certified},
    verifier::{Expected, PeerVerifier},
};
use crate::{key::Signer, trust::Trust};

/// The one node that may stand at the other end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub holder: Holder,
    /// SHA-256 of its public key (SubjectPublicKeyInfo, DER).
    pub key: Digest,
}

/// The agent's end of a tunnel to `expected`, a connector.
#[must_use]
pub fn tunnel_client(
    trust: Trust,
    chain: &[Blob],
    signer: Arc<dyn Signer>,
    expected: Peer,
    time: Arc<dyn TimeProvider>,
) -> Arc<ClientConfig> {
    let config = super::client(super::suites(), time)
        .dangerous()
        .with_custom_certificate_verifier(PeerVerifier::new(trust, Expected::Exactly(expected)))
        .with_client_cert_resolver(Always::new(chain, signer));
    super::finish_client(config, ALPN_TUNNEL)
}

/// The connector's end of a tunnel from `expected`, a device. Answers nobody else.
#[must_use]
pub fn tunnel_server(
    trust: Trust,
    chain: &[Blob],
    signer: Arc<dyn Signer>,
    expected: Peer,
    time: Arc<dyn TimeProvider>,
) -> Arc<ServerConfig> {
    let config = super::server(super::suites(), time)
        .with_client_cert_verifier(PeerVerifier::new(trust, Expected::Exactly(expected)))
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified(
            chain, signer,
        ))));
    super::finish_server(config, &[ALPN_TUNNEL])
}
