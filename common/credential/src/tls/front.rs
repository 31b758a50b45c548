//! The TLS around a detour, which carries what is sealed and authenticated already.
//!
//! Its certificates prove nothing. A front shows that it holds its knocker's seed with a tag over the
//! connection's exporter ([`crate::knock::KnockKeys::front_proof`]), which no one in between can make:
//! he shares another secret with each side. A certificate would prove the same to fewer: a node that
//! only has a code trusts nobody yet, and a relay has none.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    time_provider::TimeProvider,
    version::TLS13,
};

use super::verifier::{LEAF_ALGORITHMS, tls12};
use crate::pem;

/// What a front serves to strangers cannot be used. Who wrote the files is at fault.
#[derive(Debug, thiserror::Error)]
pub enum DecoyError {
    /// A file is no PEM of its kind.
    #[error(transparent)]
    Pem(#[from] pem::ParsePemError),
    /// They do not belong together, or are none.
    #[error("certificate and key cannot be used: {0}")]
    Tls(#[from] Error),
}

/// A node's end of a detour.
#[must_use]
pub fn front_client(time: Arc<dyn TimeProvider>) -> ClientConfig {
    let config = super::client(super::suites(), time)
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unproven))
        .with_no_client_auth();
    let mut config = Arc::unwrap_or_clone(super::finish_client(config, b""));
    config.alpn_protocols = Vec::new();
    config.enable_sni = true;
    config
}

/// A front's end of detours, with a certificate of this moment that nobody looks at.
///
/// # Errors
/// When no key can be made.
pub fn front_server(time: Arc<dyn TimeProvider>) -> Result<Arc<ServerConfig>, Error> {
    let failed = |error: rcgen::Error| Error::General(error.to_string());
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let certificate = rcgen::CertificateParams::default()
        .self_signed(&key)
        .map_err(failed)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = super::server(super::suites(), time)
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok(super::finish_server(config, &[]))
}

/// What a front is to strangers instead of silent: an ordinary server with an ordinary certificate,
/// for ordinary clients.
///
/// `certificate` holds the chain, leaf first, and `key` its private key (PKCS#8), both PEM.
///
/// # Errors
/// [`DecoyError`].
pub fn front_decoy(
    certificate: &str,
    key: &str,
    time: Arc<dyn TimeProvider>,
) -> Result<Arc<ServerConfig>, DecoyError> {
    let chain = pem::decode_all(pem::CERTIFICATE, certificate)?;
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = pem::decode(pem::PRIVATE_KEY, key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(super::finish_server(config, &[b"http/1.1"]))
}

/// Takes any certificate, and does not ask for more: see the module.
#[derive(Debug)]
struct Unproven;

impl ServerCertVerifier for Unproven {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _above: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        LEAF_ALGORITHMS.supported_schemes()
    }
}
