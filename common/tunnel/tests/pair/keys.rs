//! Keys for both ends of a tunnel.

use std::sync::Arc;

use cardea_tunnel::{CarrierKeys, keys};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};

/// For the agent, then for the connector.
pub fn wireguard(seed: u8) -> (CarrierKeys, CarrierKeys) {
    let agent = keys::WireGuardKey::generate([seed; 32]);
    let connector = keys::WireGuardKey::generate([seed ^ 0xff; 32]);
    let kem = keys::KemKey::generate([seed ^ 0x0f; 32]);
    let (ciphertext, psk) = keys::encapsulate(&kem.public(), [seed ^ 0xf0; 32]).unwrap();
    (
        CarrierKeys::WireGuard {
            private: agent.private,
            peer: connector.public,
            psk: kem.open(&ciphertext).unwrap(),
        },
        CarrierKeys::WireGuard {
            private: connector.private,
            peer: agent.public,
            psk,
        },
    )
}

/// For the agent, then for the connector; both prove themselves with certificates of one root.
pub fn quic() -> (CarrierKeys, CarrierKeys) {
    let root = Root::new();
    (
        CarrierKeys::QuicClient(root.client(&root)),
        CarrierKeys::QuicServer(root.server()),
    )
}

/// As [`quic`], but the agent's certificate is of another root than the connector trusts.
pub fn quic_of_a_stranger() -> (CarrierKeys, CarrierKeys) {
    let (root, other) = (Root::new(), Root::new());
    (
        CarrierKeys::QuicClient(root.client(&other)),
        CarrierKeys::QuicServer(root.server()),
    )
}

struct Root(CertifiedIssuer<'static, KeyPair>);

type Leaf = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Root {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn leaf(&self) -> Leaf {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let params = CertificateParams::new(vec!["cardea.invalid".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![leaf.der().clone()], key)
    }

    fn store(&self) -> Arc<RootCertStore> {
        let mut store = RootCertStore::empty();
        store.add(self.0.der().clone()).unwrap();
        Arc::new(store)
    }

    /// Trusts `self` and proves itself by a certificate of `by`.
    fn client(&self, by: &Self) -> Arc<rustls::ClientConfig> {
        let (chain, key) = by.leaf();
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(self.store())
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![cardea_proto::ALPN_TUNNEL.to_vec()];
        Arc::new(config)
    }

    fn server(&self) -> Arc<rustls::ServerConfig> {
        let (chain, key) = self.leaf();
        let verifier = WebPkiClientVerifier::builder_with_provider(self.store(), provider())
            .build()
            .unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![cardea_proto::ALPN_TUNNEL.to_vec()];
        Arc::new(config)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // AES first, as the real configurations have it where the processor does AES.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    Arc::new(provider)
}
