//! The grants that a connector holds, and when each of them ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use cardea_proto::{
    id::GrantId,
    refusal::{Refusal, RefusalCode},
};

/// Most grants that one connector holds.
///
/// Its `Hello` names all of them and must fit into one message; a site that needs more has
/// several connectors.
pub const GRANTS_MAX: usize = 11_000;

/// Grants by id and by the end of their ttl.
#[derive(Debug, Default)]
pub(super) struct Grants {
    ends: BTreeMap<GrantId, Instant>,
    order: BTreeSet<(Instant, GrantId)>,
}

impl Grants {
    /// Whether this grant can be held too.
    pub(super) fn has_room(&self, grant: GrantId) -> Result<(), Refusal> {
        if self.ends.contains_key(&grant) {
            return Err(Refusal::new(
                RefusalCode::Exists,
                "this grant was admitted before",
            ));
        }
        if self.ends.len() >= GRANTS_MAX {
            return Err(Refusal::new(
                RefusalCode::Busy,
                "this connector holds as many grants as it can",
            ));
        }
        Ok(())
    }

    pub(super) fn hold(&mut self, grant: GrantId, until: Instant) {
        self.drop(grant);
        self.ends.insert(grant, until);
        self.order.insert((until, grant));
    }

    /// Moves the end of a grant that is held; whether it is.
    pub(super) fn extend(&mut self, grant: GrantId, until: Instant) -> bool {
        let is_held = self.ends.contains_key(&grant);
        if is_held {
            self.hold(grant, until);
        }
        is_held
    }

    /// Lets a grant go; whether it was held.
    pub(super) fn drop(&mut self, grant: GrantId) -> bool {
        self.ends
            .remove(&grant)
            .is_some_and(|until| self.order.remove(&(until, grant)))
    }

    /// Lets all grants go whose ttl has ended.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<GrantId> {
        let mut due = Vec::new();
        while let Some((until, grant)) = self.order.first().copied()
            && until <= now
        {
            self.drop(grant);
            due.push(grant);
        }
        due
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.order.first().map(|(until, _)| *until)
    }

    pub(super) fn ids(&self) -> Vec<GrantId> {
        self.ends.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cardea_proto::{
        codec,
        message::{FromNode, Hello},
        time::testing,
    };

    use super::*;

    #[test]
    fn grants_end_in_the_order_of_their_ttls_and_an_extended_one_later() {
        let now = testing::start().instant;
        let at = |seconds| now + Duration::from_secs(seconds);
        let [a, b, c] = [1, 2, 3].map(|id| GrantId::from_bytes([id; 10]));
        let mut grants = Grants::default();
        grants.hold(a, at(30));
        grants.hold(b, at(10));
        grants.hold(c, at(20));
        assert!(grants.extend(b, at(40)));
        assert!(grants.drop(c));
        assert!(!grants.extend(c, at(50)));
        assert_eq!(grants.deadline(), Some(at(30)));
        assert_eq!(grants.take_due(at(29)), []);
        assert_eq!(grants.take_due(at(40)), [a, b]);
        assert_eq!((grants.deadline(), grants.ids()), (None, Vec::new()));
    }

    #[test]
    fn a_hello_that_names_as_many_grants_as_can_be_held_fits_into_a_message() {
        let hello = FromNode::Hello(Hello {
            version: u16::MAX,
            program: "x".repeat(200),
            clock: testing::start().unix,
            grants: vec![GrantId::from_bytes([255; 10]); GRANTS_MAX],
            checkpoint: Some("x".repeat(4_096)),
        });
        assert!(codec::encode(&hello).len() <= codec::MESSAGE_BYTES_MAX);
    }

    #[test]
    fn a_grant_is_held_once_and_no_more_than_fit() {
        let now = testing::start().instant;
        let mut grants = Grants::default();
        for number in 0..GRANTS_MAX {
            let mut id = [0; 10];
            id[..8].copy_from_slice(&number.to_be_bytes());
            grants.hold(GrantId::from_bytes(id), now);
        }
        let code = |grant| grants.has_room(grant).unwrap_err().code;
        assert_eq!(code(GrantId::from_bytes([0; 10])), RefusalCode::Exists);
        assert_eq!(code(GrantId::from_bytes([9; 10])), RefusalCode::Busy);
    }
}
