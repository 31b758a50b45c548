//! TLS for channels, enrollment and QUIC tunnels.
//!
//! TLS 1.3 alone, without resumption or early data, so that every connection proves both ends anew
//! and nothing can be replayed. The only key exchange is X25519MLKEM768: both ends are ours, and
//! without a classical group to fall back to, what is recorded today stays sealed.
//!
//! ```text
//! channel   node ── leaf+intermediate ──▶ controller      both ends verified over Trust
//! renew     the same, by a leaf that may have ended       for the next certificate alone
//! enroll    node ── nothing ────────────▶ controller      leaf+intermediate+root, root pinned
//! tunnel    agent ── leaf+intermediate ─▶ connector       both ends, by id and by key
//! front     node ── knock as a name ────▶ relay           neither end; what is inside is sealed
//! ```

mod channel;
mod clock;
mod enroll;
mod front;
mod key;
mod tunnel;
mod verifier;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use rustls::{
    ClientConfig, ConfigBuilder, ServerConfig, SupportedCipherSuite, WantsVerifier,
    client::Resumption,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::NoServerSessionStorage,
    time_provider::TimeProvider,
    version::TLS13,
};

use cardea_proto::{codec::Blob, time::UnixMillis};

pub use self::{
    channel::{
        ChannelPeer, PeerError, ServerIdentity, channel_client, channel_peer, channel_server,
        renewal_client,
    },
    clock::ClockOff,
    enroll::{PinnedRoot, enroll_client},
    front::{DecoyError, front_client, front_decoy, front_server},
    tunnel::{Peer, tunnel_client, tunnel_server},
};
use crate::trust::{ChainError, Trust, VerifiedLeaf};

/// What clients must call the server where an API wants a name. It is neither sent nor checked.
pub const SERVER_NAME: &str = "cardea.invalid";

/// A clock that stands still, for tests.
#[derive(Clone, Copy, Debug)]
pub struct FixedTime(pub UnixMillis);

/// A clock that its owner sets: a shell once a turn, a simulation at will.
#[derive(Debug, Default)]
pub struct SettableTime(AtomicU64);

impl SettableTime {
    /// A clock that shows `at`.
    #[must_use]
    pub const fn new(at: UnixMillis) -> Self {
        Self(AtomicU64::new(at.0))
    }

    /// Sets it.
    pub fn set(&self, at: UnixMillis) {
        self.0.store(at.0, Ordering::Relaxed);
    }

    /// What it shows.
    #[must_use]
    pub fn get(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::Relaxed))
    }
}

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(to_rustls(self.0))
    }
}

impl TimeProvider for SettableTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(to_rustls(self.get()))
    }
}

/// [`SERVER_NAME`] as rustls wants it.
///
/// # Panics
/// Never: the constant is a DNS name.
#[must_use]
#[expect(clippy::expect_used, reason = "the constant is a DNS name")]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("a DNS name")
}

/// Who stands at the other end, from the certificates that TLS received: exactly two.
///
/// # Errors
/// [`ChainError`] names the first thing that does not hold.
pub fn peer_leaf(
    certificates: &[CertificateDer<'_>],
    trust: &Trust,
    at: UnixMillis,
) -> Result<VerifiedLeaf, ChainError> {
    match certificates {
        [leaf, intermediate] => trust.verify_pair(leaf, intermediate, at),
        _ => Err(ChainError::Filler),
    }
}

/// What a failed handshake says to a person, of the text that is left of rustls's error where it gets
/// to us: our own reasons come out of their wrapping.
#[must_use]
pub fn explain(text: &str) -> &str {
    const WRAPPING: (&str, &str) = ("invalid peer certificate: Other(OtherError(", "))");
    let within = text.split_once(WRAPPING.0);
    let ours = within.and_then(|(_, rest)| rest.strip_suffix(WRAPPING.1));
    ours.unwrap_or(text)
}

#[expect(
    clippy::expect_used,
    reason = "the provider is a constant with TLS 1.3 suites and a group"
)]
fn client(
    suites: Vec<SupportedCipherSuite>,
    time: Arc<dyn TimeProvider>,
) -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_details(provider(suites), time)
        .with_protocol_versions(&[&TLS13])
        .expect("a provider with TLS 1.3")
}

#[expect(
    clippy::expect_used,
    reason = "the provider is a constant with TLS 1.3 suites and a group"
)]
fn server(
    suites: Vec<SupportedCipherSuite>,
    time: Arc<dyn TimeProvider>,
) -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_details(provider(suites), time)
        .with_protocol_versions(&[&TLS13])
        .expect("a provider with TLS 1.3")
}

fn finish_client(mut config: ClientConfig, alpn: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Arc::new(config)
}

fn finish_server(mut config: ServerConfig, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

fn provider(suites: Vec<SupportedCipherSuite>) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: suites,
        kx_groups: vec![kx_group::X25519MLKEM768],
        signature_verification_algorithms: verifier::LEAF_ALGORITHMS,
        ..aws_lc_rs::default_provider()
    })
}

/// The suites of TLS 1.3, in the order that suits this processor.
///
/// AES-128 is last, and there because QUIC's Initial packets use it (RFC 9001 §5.2).
fn suites() -> Vec<SupportedCipherSuite> {
    let aes = cipher_suite::TLS13_AES_256_GCM_SHA384;
    let chacha = cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    let [first, second] = if cpu_has_aes() {
        [aes, chacha]
    } else {
        [chacha, aes]
    };
    vec![first, second, cipher_suite::TLS13_AES_128_GCM_SHA256]
}

fn cpu_has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

fn certificates(chain: &[Blob]) -> Vec<CertificateDer<'static>> {
    chain
        .iter()
        .map(|certificate| CertificateDer::from(certificate.0.clone()))
        .collect()
}

fn to_rustls(at: UnixMillis) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(at.as_secs()))
}

fn from_rustls(at: UnixTime) -> UnixMillis {
    UnixMillis(at.as_secs().saturating_mul(1_000))
}

#[cfg(test)]
mod tests;
