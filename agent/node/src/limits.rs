//! What neither role accepts more of, whoever says it.

use std::{net::SocketAddr, time::Duration};

use cardea_proto::path::CANDIDATES_MAX;

/// Longest ttl of a grant, whatever a message says: the longest that a controller may be set to.
pub const TTL_MAX: Duration = Duration::from_secs(3_600);

/// A ttl as it came, cut at [`TTL_MAX`].
pub(crate) fn ttl(ttl_ms: u64) -> Duration {
    Duration::from_millis(ttl_ms).min(TTL_MAX)
}

/// As many addresses as an end may name, for the other end and from it.
pub(crate) fn candidates(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    addresses.iter().take(CANDIDATES_MAX).copied().collect()
}

/// The relay to go through: IPv4 first, because more networks have it.
pub(crate) fn relay(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    v4.or(addresses.first()).copied()
}
