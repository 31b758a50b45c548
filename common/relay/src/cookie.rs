//! Whether a sender receives at the address that its datagram came from.
//!
//! Nothing is kept for a sender that has not shown it. What it must give back is a tag over what it
//! claims, under a key of this process, so that checking it is computing it again.
//!
//! Source: RFC 9000 §8.1 and §9.3 (address validation, also when a peer moves), RFC 9147 §5.1 (a
//! cookie instead of state).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_credential::mac::MacKey;
use cardea_proto::relay::{Cookie, TICKET_BYTES};

/// Makes cookies and knows them again.
#[derive(Debug)]
pub(crate) struct Cookies {
    key: MacKey,
    /// When the first period began.
    since: Option<Instant>,
}

/// What a cookie is for, all of it under the tag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    /// Where the sender says it is.
    pub(crate) from: SocketAddr,
    /// With which ticket: tunnel, side and handle stand in it.
    pub(crate) ticket: &'a [u8; TICKET_BYTES],
    /// How often its end was bound or moved. A cookie that did so once therefore holds no longer,
    /// and whoever sends it again moves nothing back.
    pub(crate) moves: u64,
}

/// That a sender received at its address. Only [`Cookies::check`] makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proven(());

impl Cookies {
    /// Cookies under a random key.
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self {
            key: MacKey::from_seed(seed),
            since: None,
        }
    }

    /// What to send to the address of a claim.
    pub(crate) fn make(&mut self, now: Instant, claim: &Claim<'_>) -> Cookie {
        let period = self.period(now);
        Cookie(self.key.tag(&claim.parts(&period.to_be_bytes()).each()))
    }

    /// Whether a cookie was made for this claim in this period or the one before.
    pub(crate) fn check(
        &mut self,
        now: Instant,
        claim: &Claim<'_>,
        cookie: &Cookie,
    ) -> Option<Proven> {
        let period = self.period(now);
        let before = period.checked_sub(1);
        [Some(period), before]
            .into_iter()
            .flatten()
            .any(|period| {
                let period = period.to_be_bytes();
                self.key.holds(&claim.parts(&period).each(), &cookie.0)
            })
            .then_some(Proven(()))
    }

    fn period(&mut self, now: Instant) -> u64 {
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(since).as_secs() / PERIOD.as_secs()
    }
}

/// What is under the tag; every part has one length, so that none can be taken for another.
struct Parts<'a> {
    period: &'a [u8; 8],
    moves: [u8; 8],
    address: [u8; 16],
    port: [u8; 2],
    /// Who came by a detour has a mark in it: the same address by UDP may be another's.
    scope: [u8; 4],
    ticket: &'a [u8; TICKET_BYTES],
}

impl<'a> Claim<'a> {
    fn parts(&self, period: &'a [u8; 8]) -> Parts<'a> {
        let (address, scope) = match self.from {
            SocketAddr::V4(from) => (from.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(from) => (*from.ip(), from.scope_id()),
        };
        Parts {
            period,
            moves: self.moves.to_be_bytes(),
            address: address.octets(),
            port: self.from.port().to_be_bytes(),
            scope: scope.to_be_bytes(),
            ticket: self.ticket,
        }
    }
}

impl Parts<'_> {
    fn each(&self) -> [&[u8]; 7] {
        [
            CONTEXT,
            self.period,
            &self.moves,
            &self.address,
            &self.port,
            &self.scope,
            self.ticket,
        ]
    }
}

/// What the key is used for.
const CONTEXT: &[u8] = b"cardea relay cookie v1\0";

/// How coarse a cookie's time is: it holds for one period at least and for two at most.
///
/// Longer than any round trip that a tunnel could work over; shorter than an address stays with
/// somebody who had it.
const PERIOD: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use cardea_proto::{relay::COOKIE_BYTES, time::testing::start};

    use super::*;

    #[test]
    fn a_cookie_holds_for_a_period_and_not_for_two_more() {
        let (mut cookies, now) = (Cookies::new(&[1; 32]), start().instant);
        let claim = claim(&[0; TICKET_BYTES]);
        for age in [0, 9, 10, 25, 1_000_000] {
            let made = now + Duration::from_secs(age);
            let cookie = cookies.make(made, &claim);
            assert!(cookies.check(made, &claim, &cookie).is_some());
            assert!(cookies.check(made + PERIOD, &claim, &cookie).is_some());
            assert!(cookies.check(made + PERIOD * 2, &claim, &cookie).is_none());
        }
    }

    #[test]
    fn a_cookie_holds_for_its_claim_alone() {
        let (mut cookies, now) = (Cookies::new(&[1; 32]), start().instant);
        let (ticket, other) = ([0; TICKET_BYTES], [1; TICKET_BYTES]);
        let claim = claim(&ticket);
        let cookie = cookies.make(now, &claim);
        let wrong = [
            Claim {
                from: "192.0.2.1:8".parse().unwrap(),
                ..claim
            },
            Claim {
                from: "192.0.2.2:7".parse().unwrap(),
                ..claim
            },
            Claim {
                from: "[2001:db8::1]:7".parse().unwrap(),
                ..claim
            },
            Claim {
                from: "[::ffff:192.0.2.1%9]:7".parse().unwrap(),
                ..claim
            },
            Claim {
                ticket: &other,
                ..claim
            },
            Claim { moves: 1, ..claim },
        ];
        for wrong in wrong {
            assert!(cookies.check(now, &wrong, &cookie).is_none(), "{wrong:?}");
        }
        let other_key = Cookies::new(&[2; 32]).check(now, &claim, &cookie);
        assert!(other_key.is_none());
        let made_up = cookies.check(now, &claim, &Cookie([0; COOKIE_BYTES]));
        assert!(made_up.is_none());
    }

    #[test]
    fn an_address_is_one_whether_it_is_written_as_of_four_or_of_six() {
        let (mut cookies, now) = (Cookies::new(&[1; 32]), start().instant);
        let ticket = [0; TICKET_BYTES];
        let cookie = cookies.make(now, &claim(&ticket));
        let mapped = Claim {
            from: "[::ffff:192.0.2.1]:7".parse().unwrap(),
            ..claim(&ticket)
        };
        assert!(cookies.check(now, &mapped, &cookie).is_some());
    }

    fn claim(ticket: &[u8; TICKET_BYTES]) -> Claim<'_> {
        Claim {
            from: "192.0.2.1:7".parse().unwrap(),
            ticket,
            moves: 0,
        }
    }
}
