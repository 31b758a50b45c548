//! Our [`Signer`]s as rustls wants to see them.

use std::sync::Arc;

use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    pki_types::SubjectPublicKeyInfoDer,
    sign::{self, CertifiedKey, SigningKey},
};

use cardea_proto::codec::Blob;

use crate::key::{KeyAlgorithm, Signer};

/// A chain and its key, presented whenever a server asks.
#[derive(Debug)]
pub(super) struct Always(Arc<CertifiedKey>);

impl Always {
    pub(super) fn new(chain: &[Blob], signer: Arc<dyn Signer>) -> Arc<Self> {
        Arc::new(Self(certified(chain, signer)))
    }
}

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

pub(super) fn certified(chain: &[Blob], signer: Arc<dyn Signer>) -> Arc<CertifiedKey> {
    Arc::new(CertifiedKey::new(
        super::certificates(chain),
        Arc::new(TlsKey(signer)),
    ))
}

#[derive(Clone, Debug)]
struct TlsKey(Arc<dyn Signer>);

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn sign::Signer>> {
        let chosen: Box<dyn sign::Signer> = Box::new(self.clone());
        offered.contains(&chosen.scheme()).then_some(chosen)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.0.public_key()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.algorithm() {
            KeyAlgorithm::P256 | KeyAlgorithm::P384 => SignatureAlgorithm::ECDSA,
            KeyAlgorithm::Ed25519 => SignatureAlgorithm::ED25519,
        }
    }
}

impl sign::Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.0
            .sign(message)
            .map_err(|error| Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        match self.0.algorithm() {
            KeyAlgorithm::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            KeyAlgorithm::P384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            KeyAlgorithm::Ed25519 => SignatureScheme::ED25519,
        }
    }
}
