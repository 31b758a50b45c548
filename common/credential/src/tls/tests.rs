mod foreign;

use rustls::{
    CertificateError, ClientConnection, Error, HandshakeKind, NamedGroup, ProtocolVersion,
    ServerConnection,
};

use cardea_proto::{
    ALPN_CHANNEL, ALPN_ENROLL, ALPN_RENEW, ALPN_TUNNEL, EXPORTER_PROOF,
    codec::{Bytes, Digest},
    id::{ConnectorId, ControllerId, DeviceId, ID_BYTES, RelayId},
    identity::Holder,
};

use super::*;
use crate::{
    authority::backdated,
    key::{KeyAlgorithm, Signer as _, SoftwareKey},
    proof::{self, VerifiedRequest},
    testing::{LEAF_LIFE, TestDomain, TestNode},
};

const NOW: UnixMillis = UnixMillis(1_767_225_600_000);

#[test]
fn a_channel_proves_both_ends_over_tls_1_3_and_a_post_quantum_group() {
    let all = Scene::new();
    for node in [&all.device, &all.connector] {
        let pair = connect(all.channel(node), all.controller()).unwrap();
        let server = &pair.server;
        assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(server.alpn_protocol(), Some(ALPN_CHANNEL));
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        for group in [
            server.negotiated_key_exchange_group(),
            pair.client.negotiated_key_exchange_group(),
        ] {
            assert_eq!(group.unwrap().name(), NamedGroup::X25519MLKEM768);
        }
        let peer = pair.channel_peer(&all.domain.trust).unwrap();
        assert!(matches!(peer, ChannelPeer::Node(leaf) if leaf.identity.holder == node.holder));
    }
}

#[test]
fn an_ed25519_leaf_works_as_well() {
    let all = Scene::new();
    let key = SoftwareKey::generate(KeyAlgorithm::Ed25519).unwrap();
    let device = all
        .domain
        .node_with_key(all.device.holder, Arc::new(key), NOW);
    assert!(connect(all.channel(&device), all.controller()).is_ok());
}

#[test]
fn a_second_connection_is_never_resumed() {
    let all = Scene::new();
    let (client, server) = (all.channel(&all.device), all.controller());
    for _ in 0..2 {
        let pair = connect(client.clone(), server.clone()).unwrap();
        assert_eq!(pair.server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(pair.client.tls13_tickets_received(), 0);
    }
}

#[test]
fn a_controller_admits_no_node_of_another_role_authority_or_time() {
    let all = Scene::new();
    let check = |node: &TestNode, expected: CertificateError| {
        let result = connect(all.channel(node), all.controller());
        assert_eq!(result.err(), Some(Error::InvalidCertificate(expected)));
    };
    let stranger = TestDomain::new("corp.example", NOW).node(all.device.holder, NOW);
    check(&stranger, CertificateError::UnknownIssuer);
    // TLS cannot tell for which protocol; what is behind it can.
    let later = all.domain.node(all.device.holder, NOW.plus(LEAF_LIFE * 3));
    let pair = connect(all.channel(&later), all.controller()).unwrap();
    assert!(matches!(
        pair.channel_peer(&all.domain.trust),
        Err(PeerError::Chain(ChainError::NotYetValid { .. }))
    ));
    let earlier = UnixMillis(NOW.0 - 2 * 60 * 60 * 1_000);
    let domain = TestDomain::new("corp.example", earlier);
    let ended = domain.node(all.device.holder, earlier);
    let server = channel_server(
        identity(&domain, &domain.node(controller(), NOW)),
        domain.trust.clone(),
        Arc::new(FixedTime(NOW)),
    );
    let client = channel_client(
        domain.trust.clone(),
        &ended.chain,
        ended.signer.clone(),
        Arc::new(FixedTime(NOW)),
    );
    let pair = connect(client, server).unwrap();
    assert!(matches!(
        pair.channel_peer(&domain.trust),
        Err(PeerError::Chain(ChainError::Expired { .. }))
    ));
    for holder in [
        controller(),
        Holder::Relay(RelayId::from_bytes([1; ID_BYTES])),
    ] {
        let node = all.domain.node(holder, NOW);
        let error = connect(all.channel(&node), all.controller()).err();
        let error = error.unwrap().to_string();
        assert!(
            explain(&error).starts_with("the certificate is that of"),
            "{error}"
        );
    }
}

#[test]
fn a_leaf_that_has_ended_may_renew_and_nothing_else() {
    let earlier = UnixMillis(NOW.0 - 2 * 60 * 60 * 1_000);
    let ended = Scene::at(earlier);
    let long_ago = UnixMillis(NOW.0 - 31 * 24 * 60 * 60 * 1_000);
    let forgotten = Scene::at(long_ago);
    let current = Scene::new();
    let stranger = Scene::new();
    let mut stolen = ended.device.clone();
    stolen.signer = Arc::new(SoftwareKey::generate(KeyAlgorithm::P256).unwrap());
    let roles = ended.domain.node(controller(), earlier);
    let rows = [
        ("current", NOW, &current, &current.device, true, true),
        ("ended", earlier, &ended, &ended.device, false, true),
        (
            "ended connector",
            earlier,
            &ended,
            &ended.connector,
            false,
            true,
        ),
        (
            "ended authority",
            long_ago,
            &forgotten,
            &forgotten.device,
            false,
            false,
        ),
        ("wrong key", earlier, &ended, &stolen, false, false),
        ("wrong role", earlier, &ended, &roles, false, false),
        (
            "other authority",
            earlier,
            &ended,
            &stranger.device,
            false,
            false,
        ),
    ];
    for (label, begin, scene, node, may_channel, may_renew) in rows {
        // The node still believes the controller's certificate of its own time.
        let begin = Arc::new(FixedTime(begin));
        let trust = &scene.domain.trust;
        let peer = |client: Arc<ClientConfig>| {
            let pair = connect(client, scene.controller()).ok()?;
            pair.channel_peer(trust).ok()
        };
        let (chain, signer) = (&node.chain, &node.signer);
        let channel = channel_client(trust.clone(), chain, signer.clone(), begin.clone());
        let renewal = renewal_client(trust.clone(), chain, signer.clone(), begin);
        let (channel, renewal) = (peer(channel), peer(renewal));
        assert_eq!(channel.is_some(), may_channel, "{label} on a channel");
        assert_eq!(renewal.is_some(), may_renew, "{label} on a renewal");
        if let Some(peer) = renewal {
            assert!(
                matches!(peer, ChannelPeer::Lapsed(leaf) if leaf.identity.holder == node.holder)
            );
        }
    }
}

#[test]
fn a_controller_admits_no_filler_and_no_key_but_the_leafs() {
    let all = Scene::new();
    let mut filled = all.device.clone();
    let root: Blob = all.domain.root.certificate().to_vec().into();
    filled.chain.push(root);
    let error = connect(all.channel(&filled), all.controller()).err();
    assert!(explain(&error.unwrap().to_string()).contains("exactly a leaf"));

    let mut stolen = all.device.clone();
    stolen.signer = Arc::new(SoftwareKey::generate(KeyAlgorithm::P256).unwrap());
    assert!(connect(all.channel(&stolen), all.controller()).is_err());
}

#[test]
fn a_node_trusts_no_controller_of_another_role_or_authority() {
    let all = Scene::new();
    let impostor = channel_server(
        identity(&all.domain, &all.connector),
        all.domain.trust.clone(),
        Arc::new(FixedTime(NOW)),
    );
    let error = connect(all.channel(&all.device), impostor).err();
    assert!(explain(&error.unwrap().to_string()).contains("not who belongs here"));

    let other = Scene::new();
    assert_eq!(
        connect(all.channel(&all.device), other.controller()).err(),
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    );
}

#[test]
fn an_enrollment_pins_the_root_and_shows_no_certificate() {
    let all = Scene::new();
    let (client, pinned) = all.enroll(all.domain.root.digest());
    assert!(pinned.trust().is_none());
    let pair = connect(client, all.controller()).unwrap();
    assert_eq!(pair.server.alpn_protocol(), Some(ALPN_ENROLL));
    assert_eq!(
        pair.channel_peer(&all.domain.trust),
        Ok(ChannelPeer::Stranger)
    );
    let trust = pinned.trust().unwrap();
    assert_eq!(trust.root(), all.domain.root.certificate());
    assert_eq!(trust.domain().as_str(), "corp.example");
}

#[test]
fn a_node_whose_clock_is_wrong_is_told_by_how_much_at_least() {
    let all = Scene::new();
    let seen_at = |time: UnixMillis, alpn: &[u8]| {
        let time = Arc::new(FixedTime(time));
        let trust = all.domain.trust.clone();
        let client = if alpn == ALPN_ENROLL {
            enroll_client(all.domain.root.digest(), time).0
        } else {
            let device = &all.device;
            channel_client(trust, &device.chain, device.signer.clone(), time)
        };
        let error = connect(client, all.controller()).err().unwrap();
        ClockOff::of(&error.to_string()).unwrap().to_string()
    };
    let (ends, begins) = (NOW.plus(LEAF_LIFE), backdated(NOW));
    let before = UnixMillis(begins.0 - 3_600_000);
    for alpn in [ALPN_CHANNEL, ALPN_ENROLL] {
        let ahead = seen_at(ends.plus(Duration::from_secs(100)), alpn);
        assert_eq!(ahead, "at least 100 s ahead of");
        assert_eq!(seen_at(before, alpn), "at least 3600 s behind");
    }
    let unknown = "invalid peer certificate: UnknownIssuer (100 seconds ago)";
    assert_eq!(ClockOff::of(unknown), None);
}

#[test]
fn an_enrollment_with_another_controller_fails_and_pins_nothing() {
    let all = Scene::new();
    for (root, server) in [
        (Bytes([0; 32]), all.controller()),
        (all.domain.root.digest(), Scene::new().controller()),
    ] {
        let (client, pinned) = all.enroll(root);
        let error = connect(client, server).err();
        assert!(explain(&error.unwrap().to_string()).contains("root certificate"));
        assert!(pinned.trust().is_none());
    }
    // Under the right root, but no controller.
    let impostor = channel_server(
        identity(&all.domain, &all.connector),
        all.domain.trust.clone(),
        Arc::new(FixedTime(NOW)),
    );
    let (client, pinned) = all.enroll(all.domain.root.digest());
    assert!(connect(client, impostor).is_err());
    assert!(pinned.trust().is_none());
}

#[test]
fn a_channel_needs_a_certificate_and_an_enrollment_needs_none() {
    let all = Scene::new();
    let trust = &all.domain.trust;
    let (enroll, _) = all.enroll(all.domain.root.digest());
    let with = |config: &Arc<ClientConfig>, alpn: &[u8]| {
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![alpn.to_vec()];
        connect(Arc::new(config), all.controller())
    };
    // The enrolling client accepts only a chain with a root, so its ALPN is what it says; ask by hand.
    let leaf = certificates(&all.device.chain);
    let peer = |alpn: Option<&[u8]>, certificates: &[CertificateDer<'_>]| {
        channel_peer(alpn, certificates, trust, NOW)
    };
    assert_eq!(peer(Some(ALPN_CHANNEL), &[]), Err(PeerError::NoCertificate));
    assert_eq!(
        peer(Some(ALPN_ENROLL), &leaf),
        Err(PeerError::NeedlessCertificate)
    );
    assert_eq!(peer(Some(ALPN_TUNNEL), &leaf), Err(PeerError::Protocol));
    assert_eq!(peer(None, &leaf), Err(PeerError::Protocol));
    assert!(matches!(
        peer(Some(ALPN_CHANNEL), &leaf[..1]),
        Err(PeerError::Chain(ChainError::Filler))
    ));
    assert!(with(&enroll, ALPN_CHANNEL).is_err());
    assert!(with(&enroll, b"h3").is_err());
    assert!(with(&all.channel(&all.device), ALPN_ENROLL).is_err());
}

#[test]
fn a_proof_of_possession_holds_on_its_own_connection_alone() {
    let all = Scene::new();
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let exporters = [(), ()].map(|()| {
        let (client, _) = all.enroll(all.domain.root.digest());
        let pair = connect(client, all.controller()).unwrap();
        let mine = pair
            .client
            .export_keying_material([0; 32], EXPORTER_PROOF, None)
            .unwrap();
        let theirs = pair
            .server
            .export_keying_material([0; 32], EXPORTER_PROOF, None)
            .unwrap();
        assert_eq!(mine, theirs);
        mine
    });
    let proof = proof::prove(&exporters[0], &key).unwrap();
    let verify = |exporter| VerifiedRequest::verify(exporter, key.public_key(), &proof);
    assert!(verify(&exporters[0]).is_ok());
    assert!(verify(&exporters[1]).is_err());
}

#[test]
fn a_tunnel_joins_exactly_the_two_nodes_of_its_grant() {
    let all = Scene::new();
    let pair = connect(
        all.agent_end(&all.device, all.connector.peer()),
        all.connector_end(&all.connector, all.device.peer()),
    )
    .unwrap();
    assert_eq!(pair.server.alpn_protocol(), Some(ALPN_TUNNEL));
    let certificates = pair.client.peer_certificates().unwrap();
    let leaf = peer_leaf(certificates, &all.domain.trust, NOW).unwrap();
    assert_eq!(leaf.identity.holder, all.connector.holder);
    if cpu_has_aes() {
        let suite = pair.server.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    }
}

#[test]
fn a_tunnel_refuses_another_node_another_key_and_another_role() {
    let all = Scene::new();
    let check = |agent: Arc<ClientConfig>, connector: Arc<ServerConfig>, expected: &str| {
        let error = connect(agent, connector).err().unwrap().to_string();
        assert!(explain(&error).contains(expected), "{error}");
    };
    let agent = || all.agent_end(&all.device, all.connector.peer());
    let connector = || all.connector_end(&all.connector, all.device.peer());

    let other_connector = all.domain.node(
        Holder::Connector(ConnectorId::from_bytes([5; ID_BYTES])),
        NOW,
    );
    check(
        agent(),
        all.connector_end(&other_connector, all.device.peer()),
        "not who belongs here",
    );
    let rekeyed = all.domain.node(all.connector.holder, NOW);
    check(
        agent(),
        all.connector_end(&rekeyed, all.device.peer()),
        "another key",
    );
    let other_device = all
        .domain
        .node(Holder::Device(DeviceId::from_bytes([5; ID_BYTES])), NOW);
    check(
        all.agent_end(&other_device, all.connector.peer()),
        connector(),
        "not who belongs here",
    );
    let rekeyed = all.domain.node(all.device.holder, NOW);
    check(
        all.agent_end(&rekeyed, all.connector.peer()),
        connector(),
        "another key",
    );
    check(
        all.agent_end(&all.connector, all.connector.peer()),
        connector(),
        "not who belongs here",
    );
    let (nobody, _) = all.enroll(all.domain.root.digest());
    let mut nobody = ClientConfig::clone(&nobody);
    nobody.alpn_protocols = vec![ALPN_TUNNEL.to_vec()];
    assert!(connect(Arc::new(nobody), connector()).is_err());
}

#[test]
fn configurations_offer_what_quic_needs_and_no_classical_group() {
    let all = Scene::new();
    let client = all.agent_end(&all.device, all.connector.peer());
    let provider = client.crypto_provider();
    let groups: Vec<_> = provider
        .kx_groups
        .iter()
        .map(|group| group.name())
        .collect();
    assert_eq!(groups, [NamedGroup::X25519MLKEM768]);
    assert!(
        provider
            .cipher_suites
            .contains(&cipher_suite::TLS13_AES_128_GCM_SHA256)
    );
    assert!(!client.enable_early_data && !client.enable_sni);
}

#[test]
fn a_settable_clock_shows_what_it_was_set_to() {
    let clock = SettableTime::new(NOW);
    assert_eq!(clock.get(), NOW);
    clock.set(NOW.plus(LEAF_LIFE));
    assert_eq!(
        clock.current_time().map(from_rustls),
        Some(NOW.plus(LEAF_LIFE))
    );
}

struct Scene {
    domain: TestDomain,
    device: TestNode,
    connector: TestNode,
    controller: TestNode,
}

impl Scene {
    fn new() -> Self {
        Self::at(NOW)
    }

    /// The same with certificates that begin at `begin`.
    fn at(begin: UnixMillis) -> Self {
        let domain = TestDomain::new("corp.example", begin);
        let device = Holder::Device(DeviceId::from_bytes([7; ID_BYTES]));
        let connector = Holder::Connector(ConnectorId::from_bytes([8; ID_BYTES]));
        Self {
            device: domain.node(device, begin),
            connector: domain.node(connector, begin),
            controller: domain.node(controller(), begin),
            domain,
        }
    }

    fn channel(&self, node: &TestNode) -> Arc<ClientConfig> {
        let trust = self.domain.trust.clone();
        channel_client(trust, &node.chain, node.signer.clone(), time())
    }

    fn controller(&self) -> Arc<ServerConfig> {
        let identity = identity(&self.domain, &self.controller);
        channel_server(identity, self.domain.trust.clone(), time())
    }

    fn enroll(&self, root: Digest) -> (Arc<ClientConfig>, PinnedRoot) {
        enroll_client(root, time())
    }

    fn agent_end(&self, node: &TestNode, expected: Peer) -> Arc<ClientConfig> {
        let (trust, signer) = (self.domain.trust.clone(), node.signer.clone());
        tunnel_client(trust, &node.chain, signer, expected, time())
    }

    fn connector_end(&self, node: &TestNode, expected: Peer) -> Arc<ServerConfig> {
        let (trust, signer) = (self.domain.trust.clone(), node.signer.clone());
        tunnel_server(trust, &node.chain, signer, expected, time())
    }
}

struct Pair {
    client: ClientConnection,
    server: ServerConnection,
}

impl Pair {
    fn channel_peer(&self, trust: &Trust) -> Result<ChannelPeer, PeerError> {
        let certificates = self.server.peer_certificates().unwrap_or(&[]);
        channel_peer(self.server.alpn_protocol(), certificates, trust, NOW)
    }
}

/// A whole handshake in memory; the error is that of the first side that refuses.
fn connect(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<Pair, Error> {
    let mut client = ClientConnection::new(client, server_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() {
        wire.clear();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(Pair { client, server })
}

fn identity(domain: &TestDomain, node: &TestNode) -> ServerIdentity {
    ServerIdentity {
        chain: node.chain.clone(),
        root: domain.root.certificate().to_vec().into(),
        signer: node.signer.clone(),
    }
}

fn controller() -> Holder {
    Holder::Controller(ControllerId::from_bytes([9; ID_BYTES]))
}

fn time() -> Arc<FixedTime> {
    Arc::new(FixedTime(NOW))
}
