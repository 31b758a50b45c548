//! A node's end of its enrollment: all it knows of its controller is the digest in its code.

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature,
    pki_types::{CertificateDer, ServerName, UnixTime},
    time_provider::TimeProvider,
};

use cardea_proto::{ALPN_ENROLL, codec::Digest, identity::Holder};

use super::verifier::{LEAF_ALGORITHMS, tls_error, tls12};
use crate::{
    key,
    trust::{ChainError, Trust},
};

/// What an enrollment learned of its trust domain; filled by the handshake.
#[derive(Clone, Debug, Default)]
pub struct PinnedRoot(Arc<OnceLock<Trust>>);

impl PinnedRoot {
    /// Trust in the root whose digest stood in the code; `None` before the handshake is done.
    #[must_use]
    pub fn trust(&self) -> Option<Trust> {
        self.0.get().cloned()
    }
}

/// A node's end of its enrollment: presents nothing, accepts a controller under exactly this root.
#[must_use]
pub fn enroll_client(root: Digest, time: Arc<dyn TimeProvider>) -> (Arc<ClientConfig>, PinnedRoot) {
    let pinned = PinnedRoot::default();
    let verifier = PinVerifier {
        root,
        pinned: pinned.clone(),
    };
    let config = super::client(super::suites(), time)
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    (super::finish_client(config, ALPN_ENROLL), pinned)
}

#[derive(Debug)]
struct PinVerifier {
    root: Digest,
    pinned: PinnedRoot,
}

impl PinVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), ChainError> {
        let [intermediate, root] = above else {
            return Err(ChainError::Filler);
        };
        if key::digest(root) != self.root {
            return Err(ChainError::OtherRoot);
        }
        let trust = Trust::of_root(root.to_vec())
            .map_err(|error| ChainError::Profile(error.to_string()))?;
        let leaf = trust.verify_pair(leaf, intermediate, super::from_rustls(now))?;
        match leaf.identity.holder {
            Holder::Controller(_) => {
                self.pinned.0.get_or_init(|| trust);
                Ok(())
            }
            Holder::Device(_) | Holder::Connector(_) | Holder::Relay(_) => {
                Err(ChainError::OtherHolder(leaf.identity))
            }
        }
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now)
            .map(|()| ServerCertVerified::assertion())
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
