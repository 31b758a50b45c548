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

/// The relay to go through: IPv4 first, because more networks have it, unless this machine's own
/// addresses are known and none of them is of it.
pub(crate) fn relay(addresses: &[SocketAddr], own: &[SocketAddr]) -> Option<SocketAddr> {
    let only_v6 = !own.is_empty() && own.iter().all(SocketAddr::is_ipv6);
    let first = addresses
        .iter()
        .find(|address| address.is_ipv4() != only_v6);
    first.or(addresses.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_is_reached_by_the_family_that_this_machine_has() {
        let all = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let both = all(&["[2001:db8::1]:1", "192.0.2.1:1"]);
        for (own, expected) in [
            (&[][..], both[1]),
            (&["192.0.2.7:1"], both[1]),
            (&["192.0.2.7:1", "[2001:db8::7]:1"], both[1]),
            (&["[2001:db8::7]:1"], both[0]),
        ] {
            assert_eq!(relay(&both, &all(own)), Some(expected), "{own:?}");
        }
        let v4 = all(&["192.0.2.1:1"]);
        assert_eq!(relay(&v4, &all(&["[2001:db8::7]:1"])), Some(v4[0]));
    }
}
