//! What belongs to whom, where each owner has few: pairs in one tree.
//!
//! A map of sets would take half a kilobyte for each owner, and there are a hundred thousand of them.

use std::collections::BTreeSet;

use cardea_proto::id::{DeviceId, GrantId, ID_BYTES};

/// Pairs of an owner and one of what it owns, by owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pairs<K: Ord, V: Ord>(BTreeSet<(K, V)>);

/// Something that may be owned: an id, of which there is a least one.
pub(super) trait Owned: Copy + Ord {
    /// No id comes before it.
    const LEAST: Self;
}

impl Owned for DeviceId {
    const LEAST: Self = Self::from_bytes([0; ID_BYTES]);
}

impl Owned for GrantId {
    const LEAST: Self = Self::from_bytes([0; ID_BYTES]);
}

impl<K: Ord, V: Ord> Default for Pairs<K, V> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Clone + Ord, V: Owned> Pairs<K, V> {
    pub(super) fn insert(&mut self, owner: &K, owned: V) {
        self.0.insert((owner.clone(), owned));
    }

    pub(super) fn remove(&mut self, owner: &K, owned: V) {
        self.0.remove(&(owner.clone(), owned));
    }

    /// All that an owner has, in order.
    pub(super) fn of(&self, owner: &K) -> impl Iterator<Item = V> + use<'_, K, V> {
        let owner = owner.clone();
        let from = (owner.clone(), V::LEAST);
        self.0
            .range(from..)
            .take_while(move |(other, _)| *other == owner)
            .map(|(_, owned)| *owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_has_exactly_its_own() {
        let device = |byte| DeviceId::from_bytes([byte; ID_BYTES]);
        let mut pairs = Pairs::default();
        for (owner, owned) in [(1, 0), (2, 7), (2, 255), (2, 3), (3, 0)] {
            pairs.insert(&owner, device(owned));
        }
        let of = |pairs: &Pairs<u8, DeviceId>, owner| pairs.of(&owner).collect::<Vec<_>>();
        assert_eq!(of(&pairs, 2), [device(3), device(7), device(255)]);
        assert_eq!(of(&pairs, 1), [device(0)]);
        assert_eq!(of(&pairs, 4), []);
        pairs.remove(&2, device(7));
        pairs.remove(&2, device(9));
        assert_eq!(of(&pairs, 2), [device(3), device(255)]);
    }
}
