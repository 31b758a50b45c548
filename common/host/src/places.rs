//! Places at one time: so many in all, and so many for one source.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cardea_proto::source::Source;

/// Who has a place. Clones are the same places.
#[derive(Clone, Debug)]
pub struct Places {
    max: usize,
    max_of_source: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Only sources that have a place.
    by_source: BTreeMap<Source, usize>,
}

/// One place; it is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    source: Source,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// All are taken.
    #[error("too many at once")]
    All,
    /// Those of this source are taken.
    #[error("too many at once from this address")]
    Source,
}

impl Places {
    /// `max` places, of which one source has `max_of_source` at most.
    #[must_use]
    pub fn new(max: usize, max_of_source: usize) -> Self {
        Self {
            max,
            max_of_source,
            taken: Arc::default(),
        }
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.lock().all
    }

    /// Takes a place for somebody at `address`.
    ///
    /// # Errors
    /// [`Crowded`] when there is none for it.
    pub fn take(&self, address: SocketAddr) -> Result<Place, Crowded> {
        let source = Source::of(address);
        let mut taken = self.lock();
        let own = taken.by_source.get(&source).copied().unwrap_or(0);
        if own >= self.max_of_source {
            return Err(Crowded::Source);
        }
        if taken.all >= self.max {
            return Err(Crowded::All);
        }
        taken.all += 1;
        taken.by_source.insert(source, own + 1);
        Ok(Place {
            places: self.clone(),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nobody panics while he has it, and counts are whole after each change.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all = taken.all.saturating_sub(1);
        match taken.by_source.get_mut(&self.source) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) | None => {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_fills_its_own_places_and_leaves_those_of_others() {
        let places = Places::new(10, 4);
        let mut held = fill(&places, "192.0.2.1:1", 4);
        for port in [1, 2] {
            let again = places.take(([192, 0, 2, 1], port).into());
            assert_eq!(again.unwrap_err(), Crowded::Source);
        }
        held.extend(fill(&places, "192.0.2.2:1", 4));
        held.remove(0);
        held.extend(fill(&places, "192.0.2.1:1", 1));
        assert_eq!(places.taken(), 8);
    }

    #[test]
    fn a_network_of_six_is_one_source() {
        let places = Places::new(10, 4);
        let _held = fill(&places, "[2001:db8::1]:1", 4);
        let neighbor = places.take("[2001:db8::2]:1".parse().unwrap());
        assert_eq!(neighbor.unwrap_err(), Crowded::Source);
        let _other = fill(&places, "[2001:db8:0:1::1]:1", 1);
    }

    #[test]
    fn many_sources_fill_all_places_and_nothing_is_left_of_them() {
        let places = Places::new(200, 4);
        let take = |source: u8| places.take(([192, 0, 2, source], 1).into());
        let held: Vec<Place> = (0..200).map(|source| take(source).unwrap()).collect();
        assert_eq!(take(200).unwrap_err(), Crowded::All);
        drop(held);
        assert_eq!(places.taken(), 0);
        assert!(places.lock().by_source.is_empty());
    }

    fn fill(places: &Places, address: &str, count: usize) -> Vec<Place> {
        let address = address.parse().unwrap();
        (0..count).map(|_| places.take(address).unwrap()).collect()
    }
}
