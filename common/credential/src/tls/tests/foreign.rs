//! Our servers against a client that is not ours: it would speak classically, resume and hurry.

use rustls::{
    PeerIncompatible,
    crypto::{SupportedKxGroup, aws_lc_rs::ALL_KX_GROUPS},
};

use super::*;
use crate::tls::{
    key::Always,
    verifier::{Expected, PeerVerifier},
};

#[test]
fn a_client_without_a_post_quantum_group_is_refused_by_every_server() {
    let all = Scene::new();
    for (server, alpn, node) in servers(&all) {
        let classical = [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
        let refused = connect(client(&all, node, alpn, &classical), Arc::clone(&server));
        assert_eq!(
            refused.err(),
            Some(Error::PeerIncompatible(
                PeerIncompatible::NoKxGroupsInCommon
            ))
        );
        let pair = connect(client(&all, node, alpn, ALL_KX_GROUPS), server).unwrap();
        assert_eq!(
            pair.server.negotiated_key_exchange_group().unwrap().name(),
            NamedGroup::X25519MLKEM768
        );
    }
}

#[test]
fn a_client_that_would_resume_and_hurry_gets_nothing_to_do_it_with() {
    let all = Scene::new();
    for (server, alpn, node) in servers(&all) {
        assert_eq!(server.max_early_data_size, 0);
        assert_eq!(server.send_tls13_tickets, 0);
        assert!(!server.session_storage.can_cache());
        let client = client(&all, node, alpn, ALL_KX_GROUPS);
        for _ in 0..2 {
            let mut again = ClientConnection::new(client.clone(), server_name()).unwrap();
            assert!(again.early_data().is_none());
            let pair = connect(client.clone(), server.clone()).unwrap();
            assert_eq!(pair.server.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(pair.client.tls13_tickets_received(), 0);
        }
    }
}

/// Every server that proves itself, with a protocol of it and a node that it admits.
fn servers(all: &Scene) -> [(Arc<ServerConfig>, &'static [u8], &TestNode); 4] {
    let controller = all.controller();
    let tunnel = all.connector_end(&all.connector, all.device.peer());
    [
        (Arc::clone(&controller), ALPN_CHANNEL, &all.device),
        (Arc::clone(&controller), ALPN_RENEW, &all.device),
        (controller, ALPN_CHANNEL, &all.connector),
        (tunnel, ALPN_TUNNEL, &all.device),
    ]
}

/// What rustls makes by default of a node's certificate, with these groups, which the right servers
/// admit but for that.
fn client(
    all: &Scene,
    node: &TestNode,
    alpn: &[u8],
    groups: &[&'static dyn SupportedKxGroup],
) -> Arc<ClientConfig> {
    let expected = if alpn == ALPN_TUNNEL {
        Expected::Exactly(all.connector.peer())
    } else {
        Expected::Controller
    };
    let provider = CryptoProvider {
        kx_groups: groups.to_vec(),
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_details(Arc::new(provider), time())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(PeerVerifier::new(all.domain.trust.clone(), expected))
        .with_client_cert_resolver(Always::new(&node.chain, node.signer.clone()));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_early_data = true;
    Arc::new(config)
}
