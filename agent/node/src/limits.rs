//! What neither role accepts more of, whoever says it.

use std::{net::SocketAddr, time::Duration};

use cardea_proto::{
    access::{STANDBY_MAX, Standby},
    path::CANDIDATES_MAX,
};

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

/// The addresses of the relay to go through, in the order in which to try them: IPv4 first, because
/// more networks have it, unless this machine's own addresses are known and none of them is of it.
///
/// `None` when there is none.
pub(crate) fn relay(addresses: &[SocketAddr], own: &[SocketAddr]) -> Option<Vec<SocketAddr>> {
    let only_v6 = !own.is_empty() && own.iter().all(SocketAddr::is_ipv6);
    let mut addresses: Vec<SocketAddr> = addresses.iter().take(RELAY_MAX).copied().collect();
    addresses.sort_by_key(|address| address.is_ipv4() == only_v6);
    (!addresses.is_empty()).then_some(addresses)
}

/// The relays that stand by, as many as an end may take, each as [`relay`].
///
/// One that names no address is kept in its place, because the order is that of both ends.
pub(crate) fn standby(named: &[Standby], own: &[SocketAddr]) -> Vec<Standby> {
    let named = named.iter().take(STANDBY_MAX);
    named
        .map(|standby| Standby {
            relay: relay(&standby.relay, own).unwrap_or_default(),
            ticket: standby.ticket.clone(),
        })
        .collect()
}

/// Addresses of one relay that are tried.
const RELAY_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_is_reached_by_the_family_that_this_machine_has() {
        let all = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let v6_first = all(&["[2001:db8::1]:1", "192.0.2.1:1"]);
        let v4_first = all(&["192.0.2.1:1", "[2001:db8::1]:1"]);
        for (own, expected) in [
            (&[][..], &v4_first),
            (&["192.0.2.7:1"], &v4_first),
            (&["192.0.2.7:1", "[2001:db8::7]:1"], &v4_first),
            (&["[2001:db8::7]:1"], &v6_first),
        ] {
            for both in [&v6_first, &v4_first] {
                assert_eq!(relay(both, &all(own)).as_ref(), Some(expected), "{own:?}");
            }
        }
        let v4 = all(&["192.0.2.1:1"]);
        assert_eq!(relay(&v4, &all(&["[2001:db8::7]:1"])), Some(v4));
        assert_eq!(relay(&[], &[]), None);
    }

    #[test]
    fn no_more_relays_stand_by_than_may_and_each_keeps_its_place() {
        let named = |count: u8| -> Vec<Standby> {
            let one = |last| Standby {
                relay: vec![SocketAddr::from(([192, 0, 2, last], 1))],
                ticket: vec![last].into(),
            };
            (0..count).map(one).collect()
        };
        assert_eq!(standby(&named(9), &[]), named(2));
        let mut odd = named(2);
        odd[0].relay.clear();
        assert_eq!(standby(&odd, &[]), odd, "the second is still the second");
    }
}
