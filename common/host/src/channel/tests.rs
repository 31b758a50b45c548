use std::{net::Ipv4Addr, sync::Arc};

use cardea_credential::knock::{DoorChange, Knocker, Stay};
use cardea_proto::{
    codec::{self, Bytes, Digest, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX_STRANGER, Secret32},
    id::{GrantId, InviteId},
    message::FromNode,
    time::{ClockOffset, UnixMillis},
};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{PrivateKeyDer, ServerName, UnixTime},
};

use super::*;

pub(super) const TIME: Duration = Duration::from_secs(5);

const ROOT: Digest = Bytes([9; 32]);

const SEED: Secret32 = Secret32([1; 32]);

#[tokio::test]
async fn messages_pass_both_ways_and_both_ends_export_the_same_bytes() {
    let mut server = server();
    let client = connect(&server, client_tls(cardea_proto::ALPN_CHANNEL))
        .await
        .unwrap();
    assert_eq!(client.kind, Kind::Channel);
    let mut near = client.link;
    near.sender.send(&closed(1)).unwrap();
    let accepted = accepted(&mut server).await;
    assert_eq!(accepted.kind, Kind::Channel);
    assert_eq!(accepted.exporter, client.exporter);
    assert_eq!(client.certificates.len(), 1);
    let mut far = accepted.link;
    assert_eq!(far.receiver.receive().await.unwrap(), Some(closed(1)));
    far.sender.send(&closed(2)).unwrap();
    far.sender.finish(CloseCode::Done, "done");
    assert_eq!(near.receiver.receive().await.unwrap(), Some(closed(2)));
    assert_eq!(near.receiver.receive::<FromNode>().await.unwrap(), None);
}

#[tokio::test]
async fn a_strangers_wrong_message_closes_its_connection_with_a_name() {
    let large = (u32::try_from(MESSAGE_BYTES_MAX_STRANGER).unwrap() + 1).to_be_bytes();
    check(large.to_vec(), CloseCode::TooLarge).await;
    check(
        codec::encode_framed(&"no_such_variant"),
        CloseCode::Malformed,
    )
    .await;
    check(
        [&[0, 0, 3, 0][..], &[0x81; 768]].concat(),
        CloseCode::Malformed,
    )
    .await;
    check(vec![0, 0, 1], CloseCode::Malformed).await;
    let cut = codec::encode_framed(&closed(1));
    check(cut[..cut.len() - 1].to_vec(), CloseCode::Malformed).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_opens_no_stream_in_time_is_cut_off() {
    let mut server = server();
    let raw = raw_client(server.local_address(), cardea_proto::ALPN_ENROLL).await;
    let reason = raw.1.closed().await;
    assert!(closed_with(&reason, CloseCode::TooLate), "{reason}");
    server.close("end").await;
    assert!(server.accept().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_first_message_never_ends_is_cut_off() {
    let mut server = server();
    let (_endpoint, raw) = raw_client(server.local_address(), cardea_proto::ALPN_ENROLL).await;
    let (mut stream, _) = raw.open_bi().await.unwrap();
    stream.write_all(&[0, 0, 0]).await.unwrap();
    let mut accepted = accepted(&mut server).await;
    let result = accepted.link.receiver.receive::<FromNode>().await;
    assert!(matches!(result, Err(ChannelError::NoAnswer(_))));
    let reason = raw.closed().await;
    assert!(closed_with(&reason, CloseCode::TooLate), "{reason}");
}

#[tokio::test]
async fn a_slow_reader_is_cut_off_and_never_grows_the_queue() {
    let mut server = server();
    let (_endpoint, raw) = raw_client(server.local_address(), cardea_proto::ALPN_CHANNEL).await;
    let (mut stream, _unread) = raw.open_bi().await.unwrap();
    stream
        .write_all(&codec::encode_framed(&closed(1)))
        .await
        .unwrap();
    let accepted = accepted(&mut server).await;
    let message = "x".repeat(MESSAGE_BYTES_MAX - 16);
    let mut sent = 0;
    let error = loop {
        match accepted.link.sender.send(&message) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        tokio::task::yield_now().await;
    };
    assert!(matches!(error, ChannelError::SlowReader), "{error}");
    assert!(sent <= QUEUE_BATCHES_MAX + 16, "{sent}");
    assert!(
        sent * MESSAGE_BYTES_MAX <= QUEUE_BYTES_MAX + 20 * MESSAGE_BYTES_MAX,
        "{sent}"
    );
    let reason = raw.closed().await;
    assert!(closed_with(&reason, CloseCode::SlowReader), "{reason}");
}

#[tokio::test]
async fn a_channel_that_falls_silent_after_two_answered_messages_stays() {
    let mut server = server();
    let tls = client_tls(cardea_proto::ALPN_CHANNEL);
    let client = connect(&server, tls).await.unwrap();
    let mut near = client.link;
    near.sender.send(&closed(1)).unwrap();
    let mut far = accepted(&mut server).await.link;
    for number in 1..=2 {
        assert_eq!(far.receiver.receive().await.unwrap(), Some(closed(number)));
        far.sender.send(&closed(number)).unwrap();
        assert_eq!(near.receiver.receive().await.unwrap(), Some(closed(number)));
        if number == 1 {
            near.sender.send(&closed(2)).unwrap();
        }
    }
    // Longer than two looks of the vigil take.
    let silence = tokio::time::timeout(TIME, near.receiver.receive::<FromNode>()).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test]
async fn a_connector_that_answers_for_a_thousand_tunnels_one_by_one_is_not_cut_off() {
    let mut server = server();
    let tls = client_tls(cardea_proto::ALPN_CHANNEL);
    let client = connect(&server, tls).await.unwrap();
    // Nothing yields in between, so that all of them wait at once.
    for _ in 0..1_000 {
        client.link.sender.send(&closed(1)).unwrap();
    }
    let mut far = accepted(&mut server).await.link;
    for _ in 0..1_000 {
        assert_eq!(far.receiver.receive().await.unwrap(), Some(closed(1)));
    }
}

#[tokio::test]
async fn ten_thousand_messages_of_one_turn_reach_a_prompt_reader() {
    let mut server = server();
    let (_endpoint, raw) = raw_client(server.local_address(), cardea_proto::ALPN_CHANNEL).await;
    let (mut stream, mut reading) = raw.open_bi().await.unwrap();
    stream
        .write_all(&codec::encode_framed(&closed(1)))
        .await
        .unwrap();
    let accepted = accepted(&mut server).await;
    let messages: Vec<_> = (0..10_000_u32).map(|_| closed(7)).collect();
    accepted.link.sender.send_all(&messages).unwrap();
    accepted.link.sender.finish(CloseCode::Done, "");
    let expected: Vec<u8> = messages.iter().flat_map(codec::encode_framed).collect();
    assert_eq!(reading.read_to_end(usize::MAX).await.unwrap(), expected);
}

#[tokio::test]
async fn another_protocol_does_not_get_in() {
    let server = server();
    let result = connect(&server, client_tls(b"h3")).await;
    assert!(matches!(result, Err(ChannelError::Closed(_))));
}

#[tokio::test]
async fn a_host_where_nobody_listens_is_known_at_once() {
    let free = crate::udp::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = free.local_address();
    drop(free);
    let tls = client_tls(cardea_proto::ALPN_CHANNEL);
    let result = Client::connect(address, tls, &caller(), TIME).await;
    assert!(matches!(result, Err(ChannelError::Refused)), "{result:?}");
}

#[tokio::test]
async fn a_server_that_dies_is_noticed_when_something_is_said() {
    let machine = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    machine.spawn(async move {
        let mut server = server();
        tell.send(server.local_address()).unwrap();
        let _accepted = server.accept().await;
        std::future::pending::<()>().await;
    });
    let tls = client_tls(cardea_proto::ALPN_CHANNEL);
    let client = Client::connect(told.await.unwrap(), tls, &caller(), TIME)
        .await
        .unwrap();
    let mut near = client.link;
    near.sender.send(&closed(1)).unwrap();
    // Its sockets go without a word, as with kill -9.
    machine.shutdown_background();
    tokio::time::sleep(Duration::from_millis(50)).await;
    near.sender.send(&closed(2)).unwrap();
    let ended = tokio::time::timeout(TIME, near.receiver.receive::<FromNode>());
    assert!(ended.await.unwrap().is_err());
}

#[tokio::test]
async fn a_port_in_use_is_an_error_of_the_socket() {
    let server = server();
    let result = Server::bind(server.local_address(), server_tls(), gate());
    assert!(
        matches!(result, Err(ChannelError::Socket(error)) if error.kind() == std::io::ErrorKind::AddrInUse)
    );
}

#[tokio::test]
async fn datagrams_of_every_size_do_not_end_the_receive_loop() {
    let mut server = server();
    let stranger = crate::udp::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let to = server.local_address();
    let sizes = (0..64).chain([1_199, 1_200, 1_201, 9_000, 65_506, 65_507]);
    for size in sizes {
        for first in [0x00, 0x40, 0x80, 0xc0, 0xff] {
            let mut datagram = vec![first; size];
            if let Some(version) = datagram.get_mut(1..5) {
                version.copy_from_slice(&1_u32.to_be_bytes());
            }
            if let Err(error) = stranger.send(to, None, &datagram) {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            }
        }
    }
    let client = connect(&server, client_tls(cardea_proto::ALPN_CHANNEL))
        .await
        .unwrap();
    client.link.sender.send(&closed(1)).unwrap();
    let mut accepted = accepted(&mut server).await;
    assert_eq!(
        accepted.link.receiver.receive().await.unwrap(),
        Some(closed(1))
    );
}

/// Sends `bytes` as a stranger's whole stream and expects the server to close with `code`.
async fn check(bytes: Vec<u8>, code: CloseCode) {
    let mut server = server();
    let (_endpoint, raw) = raw_client(server.local_address(), cardea_proto::ALPN_ENROLL).await;
    let (mut stream, _answers) = raw.open_bi().await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    stream.finish().unwrap();
    let mut accepted = accepted(&mut server).await;
    assert_eq!(accepted.kind, Kind::Enroll);
    let error = accepted
        .link
        .receiver
        .receive::<FromNode>()
        .await
        .unwrap_err();
    assert_eq!(error.close_code(), code, "{error}");
    let reason = raw.closed().await;
    assert!(closed_with(&reason, code), "{reason}");
}

fn closed_with(reason: &quinn::ConnectionError, code: CloseCode) -> bool {
    matches!(reason, quinn::ConnectionError::ApplicationClosed(close)
        if close.error_code == VarInt::from_u32(code.number()) && !close.reason.is_empty())
}

pub(super) fn closed(number: u8) -> FromNode {
    FromNode::Closed {
        grant: GrantId::from_bytes([number; 10]),
    }
}

pub(super) fn server() -> Server {
    Server::bind((Ipv4Addr::LOCALHOST, 0).into(), server_tls(), gate()).unwrap()
}

/// The next connection that may say something.
pub(super) async fn accepted(server: &mut Server) -> Accepted {
    match server.accept().await.unwrap() {
        Arrival::Accepted(accepted) => *accepted,
        Arrival::Unproven(unproven) => panic!("{unproven:?}"),
    }
}

/// A gate that opens to [`caller`].
pub(super) fn gate() -> Gate {
    let gate = Gate::new(ROOT);
    gate.change([DoorChange::Admit {
        who: Knocker::Invite(InviteId::from_bytes([1; 10])),
        seeds: vec![SEED],
        stay: Stay::Until(UnixMillis(u64::MAX)),
    }]);
    gate
}

pub(super) fn caller() -> Caller {
    Caller::new(&SEED, &ROOT, ClockOffset::default())
}

pub(super) async fn connect(
    server: &Server,
    tls: Arc<rustls::ClientConfig>,
) -> Result<Connected, ChannelError> {
    Client::connect(server.local_address(), tls, &caller(), TIME).await
}

pub(super) async fn raw_client(
    to: SocketAddr,
    alpn: &[u8],
) -> (quinn::Endpoint, quinn::Connection) {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client_tls(alpn)).unwrap();
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.initial_dst_cid_provider(Arc::new(|| caller().knock()));
    let connection = endpoint
        .connect_with(config, to, "test")
        .unwrap()
        .await
        .unwrap();
    (endpoint, connection)
}

pub(super) fn server_tls() -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["test".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![
        cardea_proto::ALPN_CHANNEL.to_vec(),
        cardea_proto::ALPN_ENROLL.to_vec(),
    ];
    Arc::new(tls)
}

pub(super) fn client_tls(alpn: &[u8]) -> Arc<rustls::ClientConfig> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(tls)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// These tests are about messages, not about trust.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
