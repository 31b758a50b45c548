//! What a controller is told once, at its start.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use cardea_credential::{authority::Intermediate, ticket::TicketKey};

/// How a controller behaves. [`Settings::default`] is what `cardea-controller run` starts from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where nodes reach the controller, `HOST:PORT`.
    pub addresses: Vec<String>,
    /// Whether some of those addresses are fronts of relays elsewhere, for which nodes need passes.
    pub has_fronts_elsewhere: bool,
    /// Where tunnels meet: the addresses of each relay, in the order in which ends try them; the
    /// relays in the order of preference.
    pub relays: Vec<Vec<SocketAddr>>,
    /// Addresses that no connector ever dials, whatever an app's target says: controllers and relays.
    pub never: Vec<IpAddr>,
    /// Life of a leaf certificate, [`CERTIFICATE_LIFE_MIN`] to [`CERTIFICATE_LIFE_MAX`].
    pub certificate_life: Duration,
    /// How long a certificate may outlive the report on which it rests.
    pub posture_life: Duration,
    /// How often agents report their posture when nothing happens.
    pub posture_poll: Duration,
    /// How long a grant lives without an extension, [`TTL_MIN`] to [`TTL_MAX`].
    pub ttl: Duration,
    /// How long a connector may take to answer before another one is asked.
    pub admission_timeout: Duration,
    /// Whether facts of the grade `simulated` are accepted at all.
    pub allow_simulated_posture: bool,
    /// Whether other controllers write to the same ledger: this one then says nothing on the
    /// strength of what it has not heard of for a while ([`crate::Input::CaughtUp`]), and leaves to
    /// the others what nodes that are connected to them hold.
    pub shared: bool,
}

/// Shortest life of a leaf certificate.
pub const CERTIFICATE_LIFE_MIN: Duration = Duration::from_secs(5 * 60);

/// Longest life of a leaf certificate.
pub const CERTIFICATE_LIFE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Shortest ttl of a grant.
pub const TTL_MIN: Duration = Duration::from_secs(30);

/// Longest ttl of a grant.
pub const TTL_MAX: Duration = Duration::from_secs(3_600);

/// Reports that may be missing before what a device said last is stale.
pub const POLLS_MISSED_MAX: u32 = 3;

/// How far two clocks may differ before nothing that rests on wall time is done.
///
/// Five minutes is what Kerberos made usual (RFC 4120 §5.2.4); leaves are backdated by as much.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5 * 60);

impl Default for Settings {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            has_fronts_elsewhere: false,
            relays: Vec::new(),
            never: Vec::new(),
            certificate_life: Duration::from_secs(3_600),
            posture_life: CERTIFICATE_LIFE_MAX,
            posture_poll: Duration::from_secs(60),
            ttl: Duration::from_secs(5 * 60),
            admission_timeout: Duration::from_secs(3),
            allow_simulated_posture: false,
            shared: false,
        }
    }
}

impl Settings {
    /// The same with every figure inside its limits.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.certificate_life = self
            .certificate_life
            .clamp(CERTIFICATE_LIFE_MIN, CERTIFICATE_LIFE_MAX);
        self.ttl = self.ttl.clamp(TTL_MIN, TTL_MAX);
        self.posture_poll = self
            .posture_poll
            .clamp(Duration::from_secs(1), Duration::from_secs(3_600));
        self
    }

    /// How old a device's latest report may be.
    #[must_use]
    pub fn posture_stale_after(&self) -> Duration {
        self.posture_poll.saturating_mul(POLLS_MISSED_MAX)
    }
}

/// The keys that a controller signs with.
#[derive(Debug)]
pub struct Keys {
    /// Signs leaves.
    pub intermediate: Intermediate,
    /// The root certificate, DER.
    pub root_der: Vec<u8>,
    /// Signs relay tickets.
    pub ticket: TicketKey,
}
