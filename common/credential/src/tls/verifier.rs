//! What rustls asks about a peer's certificates, answered by [`Trust`].

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use cardea_proto::identity::Holder;

use super::tunnel::Peer;
use crate::trust::{ChainError, Trust, VerifiedLeaf};

/// What a leaf signs handshakes with.
pub(super) const LEAF_ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        webpki::aws_lc_rs::ECDSA_P256_SHA256,
        webpki::aws_lc_rs::ED25519,
    ],
    mapping: &[
        (
            SignatureScheme::ECDSA_NISTP256_SHA256,
            &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
        ),
        (SignatureScheme::ED25519, &[webpki::aws_lc_rs::ED25519]),
    ],
};

/// Who may stand at the other end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    /// Any controller of the trust domain.
    Controller,
    /// Any device or connector, or nobody: which of the two decides the ALPN, see `channel_peer`,
    /// which also refuses a leaf that has ended wherever it is not used to renew.
    NodeOrStranger,
    /// Exactly this node with exactly this key.
    Exactly(Peer),
}

/// Verifies a peer of either side over one trust domain.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    trust: Trust,
    expected: Expected,
}

impl PeerVerifier {
    pub(super) fn new(trust: Trust, expected: Expected) -> Arc<Self> {
        Arc::new(Self { trust, expected })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<VerifiedLeaf, ChainError> {
        let [intermediate] = intermediates else {
            return Err(ChainError::Filler);
        };
        let at = super::from_rustls(now);
        let leaf = match self.expected {
            Expected::NodeOrStranger => self.trust.verify_lapsed_pair(leaf, intermediate, at),
            Expected::Controller | Expected::Exactly(_) => {
                self.trust.verify_pair(leaf, intermediate, at)
            }
        }?;
        match (self.expected, leaf.identity.holder) {
            (Expected::Controller, Holder::Controller(_))
            | (Expected::NodeOrStranger, Holder::Device(_) | Holder::Connector(_)) => Ok(leaf),
            (Expected::Exactly(peer), _) => leaf.expect(peer.holder, peer.key),
            (Expected::Controller | Expected::NodeOrStranger, _) => {
                Err(ChainError::OtherHolder(leaf.identity))
            }
        }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now)
            .map(|_| ServerCertVerified::assertion())
            .map_err(|error| tls_error(error, now))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &LEAF_ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        LEAF_ALGORITHMS.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        match self.expected {
            Expected::NodeOrStranger => false,
            Expected::Controller | Expected::Exactly(_) => true,
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(|error| tls_error(error, now))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &LEAF_ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        LEAF_ALGORITHMS.supported_schemes()
    }
}

/// Shown as what it says even where it is asked for its debug form, as rustls asks.
#[derive(thiserror::Error)]
#[error("{0}")]
struct Shown(ChainError);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Times and unknown authorities have alerts of their own; the rest is in the error's source.
pub(super) fn tls_error(error: ChainError, time: UnixTime) -> Error {
    Error::InvalidCertificate(match error {
        ChainError::Expired { not_after } => CertificateError::ExpiredContext {
            time,
            not_after: super::to_rustls(not_after),
        },
        ChainError::NotYetValid { not_before } => CertificateError::NotValidYetContext {
            time,
            not_before: super::to_rustls(not_before),
        },
        ChainError::UnknownAuthority(_) => CertificateError::UnknownIssuer,
        other @ (ChainError::Filler
        | ChainError::TooLarge
        | ChainError::OtherRoot
        | ChainError::Profile(_)
        | ChainError::OtherDomain(_)
        | ChainError::OtherHolder(_)
        | ChainError::OtherKey(_)) => CertificateError::Other(OtherError(Arc::new(Shown(other)))),
    })
}

pub(super) fn tls12() -> Error {
    Error::General("only TLS 1.3 is spoken here".to_owned())
}
