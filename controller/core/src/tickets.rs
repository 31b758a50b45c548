//! Where the two ends of a tunnel meet, and under which addresses they know each other inside.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use cardea_credential::{
    key::{self, SignError},
    ticket::TicketKey,
};
use cardea_proto::{
    access::{Extend, InnerAddresses, Rendezvous, STANDBY_MAX, Standby},
    codec::{Blob, Bytes},
    id::{GrantId, NodeId},
    name::Name,
    relay::{Handle, Side, Ticket},
    time::{Now, UnixMillis},
};

use crate::{relays::Chosen, settings::CLOCK_SKEW_MAX, world::World};

/// Derives where the tunnel of a grant is at a relay.
///
/// Place and handles follow from the grant and the ticket key, so that a controller that restarts,
/// or another one, extends a tunnel with tickets for the same place.
pub(crate) struct Places([u8; 32]);

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places(…)")
    }
}

impl Places {
    /// The places of a ticket key.
    ///
    /// The secret behind them is SHA-256 over a signature that only this key makes; Ed25519
    /// signatures are a pseudorandom function of the message to whoever lacks the key (RFC 8032
    /// derives them from a secret prefix). The ticket signed here ended in 1970 and goes nowhere.
    ///
    /// # Errors
    /// [`SignError`] when the key does not sign.
    pub(crate) fn of(key: &TicketKey) -> Result<Self, SignError> {
        let signed = key.sign(&Ticket {
            tunnel: Bytes([0; 16]),
            side: Side::Agent,
            handle: Handle::from_bytes([0; 7]),
            not_after: UnixMillis(0),
        })?;
        Ok(Self(key::digest(&signed).0))
    }

    /// Where a node asks relays what they see, and nobody answers.
    fn question(&self, node: NodeId) -> (Bytes<16>, Handle) {
        let derive = |what: &str| key::digest(&[&self.0, what.as_bytes()].concat()).0;
        let [tunnel @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
            derive(&format!("question {node}"));
        let [a, b, c, d, e, f, g, ..] = derive(&format!("asks {node}"));
        (Bytes(tunnel), Handle::from_bytes([a, b, c, d, e, f, g]))
    }

    /// The tunnel of a grant at the relay of `rank`, and the handle of one of its ends there.
    ///
    /// Each rank has its own, so that what one relay has seen opens nothing at the next. They do not
    /// name relays: an extension must find them without knowing which relays a grant was given.
    fn place(&self, grant: GrantId, side: Side, rank: usize) -> (Bytes<16>, Handle) {
        let grant = match rank {
            0 => grant.to_string(),
            rank => format!("{grant} {rank}"),
        };
        let derive = |what: &str| key::digest(&[&self.0, what.as_bytes()].concat()).0;
        let [tunnel @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
            derive(&format!("tunnel {grant}"));
        let end = match side {
            Side::Agent => "agent",
            Side::Connector => "connector",
        };
        let [a, b, c, d, e, f, g, ..] = derive(&format!("{end} {grant}"));
        (Bytes(tunnel), Handle::from_bytes([a, b, c, d, e, f, g]))
    }
}

impl World {
    /// One end's way to the other for a grant that lives `ttl` from now; `None` when the key does
    /// not sign.
    pub(crate) fn rendezvous(
        &self,
        relays: &Chosen,
        end: (GrantId, Side),
        ttl: Duration,
        now: Now,
    ) -> Option<Rendezvous> {
        let (ticket, tickets) = self.tickets(end, relays.len(), ttl, now)?;
        let mut relays = relays.iter().cloned();
        let relay = relays.next().unwrap_or_default();
        let standby = relays.zip(tickets);
        Some(Rendezvous {
            relay,
            ticket,
            standby: standby
                .map(|(relay, ticket)| Standby { relay, ticket })
                .collect(),
        })
    }

    /// More life for one end of a grant.
    pub(crate) fn extension(
        &self,
        end: (GrantId, Side),
        ttl: Duration,
        now: Now,
    ) -> Option<Extend> {
        let count = self.settings.relays.len().min(1 + STANDBY_MAX);
        let (ticket, standby) = self.tickets(end, count, ttl, now)?;
        Some(Extend {
            grant: end.0,
            ttl_ms: millis(ttl),
            ticket,
            standby,
        })
    }

    /// A ticket for each relay that it answers while a node's certificate lives; the other end of its
    /// tunnel does not exist.
    pub(crate) fn relay_tickets(&self, node: NodeId, not_after: UnixMillis) -> Vec<Standby> {
        let (tunnel, handle) = self.places.question(node);
        let ticket = Ticket {
            tunnel,
            side: Side::Agent,
            handle,
            not_after: UnixMillis(not_after.0.saturating_add(millis(CLOCK_SKEW_MAX))),
        };
        let Ok(bytes) = self.keys.ticket.sign(&ticket) else {
            return Vec::new();
        };
        let relays = self.settings.relays.iter().cloned();
        relays
            .map(|relay| Standby {
                relay,
                ticket: bytes.to_vec().into(),
            })
            .collect()
    }

    /// Tickets for the first of `count` relays, and for the others.
    fn tickets(
        &self,
        end: (GrantId, Side),
        count: usize,
        ttl: Duration,
        now: Now,
    ) -> Option<(Blob, Vec<Blob>)> {
        let sign = |rank| ticket(&self.keys.ticket, &self.places, (end, rank), ttl, now);
        let standby: Option<Vec<Blob>> = (1..count).map(sign).collect();
        Some((sign(0)?, standby?))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ticket(
    key: &TicketKey,
    places: &Places,
    ((grant, side), rank): ((GrantId, Side), usize),
    ttl: Duration,
    now: Now,
) -> Option<Blob> {
    let (tunnel, handle) = places.place(grant, side, rank);
    let ticket = Ticket {
        tunnel,
        side,
        handle,
        // A relay's clock may differ by as much as any other; the ends enforce the ttl.
        not_after: now.unix.plus(ttl).plus(CLOCK_SKEW_MAX),
    };
    match key.sign(&ticket) {
        Ok(bytes) => Some(bytes.to_vec().into()),
        Err(error) => {
            tracing::error!(grant.id = %grant, %error, "ticket not signed");
            None
        }
    }
}

/// The addresses inside a tunnel of device number `device` to app number `app`.
///
/// Devices have the lower half of 100.64.0.0/10 (RFC 6598), apps the upper; numbers past two million
/// begin again, which only matters to a device that would know two apps so far apart. The IPv6 half
/// is a ULA (RFC 4193) whose global id is made from the trust domain.
pub(crate) fn inner_addresses(domain: &Name, device: u32, app: u32) -> InnerAddresses {
    let v4 = |half: u32, number: u32| {
        let host = number % (HALF - 2) + 1;
        Ipv4Addr::from(CGNAT + half * HALF + host)
    };
    let [a, b, c, d, e, ..] = key::digest(domain.as_str().as_bytes()).0;
    let v6 = |subnet: u8, number: u32| {
        let [p, q, r, s] = number.to_be_bytes();
        Ipv6Addr::from([0xfd, a, b, c, d, e, 0, subnet, 0, 0, 0, 0, p, q, r, s])
    };
    InnerAddresses {
        device_v4: v4(0, device),
        device_v6: v6(1, device),
        app_v4: v4(1, app),
        app_v6: v6(2, app),
    }
}

/// 100.64.0.0. Source: RFC 6598 §7.
const CGNAT: u32 = 0x6440_0000;

/// Addresses in one half of a /10.
const HALF: u32 = 1 << 21;

#[cfg(test)]
mod tests {
    use cardea_credential::ticket::verify_ticket;
    use cardea_proto::time::testing::start;

    use super::*;

    #[test]
    fn the_two_ends_of_a_grant_meet_in_one_tunnel_and_again_after_a_restart() {
        let first = TicketKey::from_seed(&[7; 32]).unwrap();
        let again = TicketKey::from_seed(&[7; 32]).unwrap();
        let grant = GrantId::from_bytes([1; 10]);
        let agent = read(&first, grant, Side::Agent);
        let connector = read(&again, grant, Side::Connector);
        assert_eq!(agent.tunnel, connector.tunnel);
        assert_ne!(agent.handle, connector.handle);
        let other = read(&first, GrantId::from_bytes([2; 10]), Side::Agent);
        assert_ne!(agent.tunnel, other.tunnel);
        assert_ne!(agent.handle, other.handle);
    }

    #[test]
    fn a_ticket_for_one_relay_is_of_no_use_at_another() {
        let key = TicketKey::from_seed(&[7; 32]).unwrap();
        let grant = GrantId::from_bytes([1; 10]);
        let places: Vec<_> = (0..=STANDBY_MAX)
            .map(|rank| read_at(&key, (grant, Side::Agent), rank))
            .collect();
        for (place, other) in [(0, 1), (0, 2), (1, 2)] {
            assert_ne!(places[place].tunnel, places[other].tunnel);
            assert_ne!(places[place].handle, places[other].handle);
        }
        let peer = read_at(&key, (grant, Side::Connector), 1);
        assert_eq!(places[1].tunnel, peer.tunnel);
    }

    #[test]
    fn inner_addresses_of_devices_and_apps_never_meet() {
        let domain: Name = "corp.example".parse().unwrap();
        let inner = inner_addresses(&domain, 1, 1);
        assert_eq!(inner.device_v4, Ipv4Addr::new(100, 64, 0, 2));
        assert_eq!(inner.app_v4, Ipv4Addr::new(100, 96, 0, 2));
        assert_ne!(inner.device_v6, inner.app_v6);
        let last = inner_addresses(&domain, u32::MAX, u32::MAX);
        assert!(last.device_v4 < Ipv4Addr::new(100, 96, 0, 0));
        assert!(last.app_v4 < Ipv4Addr::new(100, 127, 255, 255));
    }

    fn read(key: &TicketKey, grant: GrantId, side: Side) -> Ticket {
        read_at(key, (grant, side), 0)
    }

    fn read_at(key: &TicketKey, end: (GrantId, Side), rank: usize) -> Ticket {
        let places = Places::of(key).unwrap();
        let ttl = Duration::from_secs(300);
        let ticket = ticket(key, &places, (end, rank), ttl, start()).unwrap();
        verify_ticket(&key.public(), ticket.as_ref()).unwrap()
    }
}
