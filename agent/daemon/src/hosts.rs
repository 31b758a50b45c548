//! Hosts below wildcard names that programs of this machine asked for: which of them have addresses.
//!
//! There is room for so many. Who was asked for longest ago makes place for who is asked for next, but
//! not while a program could still send to it: not while it has a tunnel, nor shortly after.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cardea_proto::name::Name;

use crate::virtual_addresses::{Both, VirtualAddresses};

/// Hosts that have addresses at a time.
const HOSTS_MAX: usize = 1_024;

/// How long a program may keep an address that it was told and has not used: far longer than the answer
/// says (5 s), as browsers do.
const ASKED_REST: Duration = Duration::from_secs(120);

/// How long a conversation may try to go on whose tunnel is gone.
///
/// Linux gives up after `tcp_retries2`, some 15 minutes.
const LIVE_REST: Duration = Duration::from_secs(16 * 60);

/// The hosts that have addresses.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    uses: BTreeMap<Name, Use>,
}

/// When a host was used last.
#[derive(Clone, Copy, Debug)]
struct Use {
    asked: Instant,
    live: Option<Instant>,
}

impl Hosts {
    /// Gives a host its addresses, or says that there is no room.
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        host: &Name,
        addresses: &mut VirtualAddresses,
    ) -> Option<Both> {
        if let Some(used) = self.uses.get_mut(host) {
            used.asked = now;
            return addresses.of(host);
        }
        if self.uses.len() >= HOSTS_MAX {
            self.make_room(now, addresses)?;
        }
        let given = match addresses.give(host) {
            Some(given) => given,
            None => {
                self.make_room(now, addresses)?;
                addresses.give(host)?
            }
        };
        let used = Use {
            asked: now,
            live: None,
        };
        self.uses.insert(host.clone(), used);
        Some(given)
    }

    /// Notes which hosts have tunnels.
    pub(crate) fn note_live(&mut self, now: Instant, is_live: impl Fn(&Name) -> bool) {
        for (host, used) in &mut self.uses {
            if is_live(host) {
                used.live = Some(now);
            }
        }
    }

    /// Takes the addresses of those back for whom `stays` does not hold.
    pub(crate) fn retain(
        &mut self,
        addresses: &mut VirtualAddresses,
        stays: impl Fn(&Name) -> bool,
    ) {
        self.uses.retain(|host, _| {
            let stays = stays(host);
            if !stays {
                addresses.take_back(host);
            }
            stays
        });
    }

    /// The hosts, each with its addresses.
    pub(crate) fn all<'a>(
        &'a self,
        addresses: &'a VirtualAddresses,
    ) -> impl Iterator<Item = (&'a Name, Both)> {
        let hosts = self.uses.keys();
        hosts.filter_map(|host| Some((host, addresses.of(host)?)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.uses.is_empty()
    }

    /// Forgets who was asked for longest ago, of those to whom nobody can be sending.
    fn make_room(&mut self, now: Instant, addresses: &mut VirtualAddresses) -> Option<()> {
        let resting = self.uses.iter().filter(|(_, used)| used.is_over(now));
        let host = resting.min_by_key(|(_, used)| used.asked)?.0.clone();
        self.uses.remove(&host);
        addresses.take_back(&host);
        Some(())
    }
}

impl Use {
    fn is_over(&self, now: Instant) -> bool {
        let lived = self.live.is_some_and(|live| now < live + LIVE_REST);
        !lived && now >= self.asked + ASKED_REST
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cardea_proto::time::testing::start;

    use super::*;
    use crate::virtual_addresses::Ranges;

    #[test]
    fn a_host_keeps_its_addresses_and_shares_them_with_nobody() {
        let (mut hosts, mut addresses, now) = bench();
        let first = hosts.ask(now, &host(0), &mut addresses).unwrap();
        let all: BTreeSet<_> = (0..HOSTS_MAX)
            .map(|number| hosts.ask(now, &host(number), &mut addresses).unwrap().v4)
            .collect();
        assert_eq!(all.len(), HOSTS_MAX);
        assert_eq!(hosts.ask(now, &host(0), &mut addresses), Some(first));
    }

    #[test]
    fn who_was_asked_for_longest_ago_makes_place_and_never_who_has_a_tunnel() {
        let (mut hosts, mut addresses, now) = bench();
        for number in 0..HOSTS_MAX {
            hosts.ask(now, &host(number), &mut addresses).unwrap();
        }
        assert_eq!(
            hosts.ask(now, &host(HOSTS_MAX), &mut addresses),
            None,
            "all may be used"
        );
        let mut now = now + ASKED_REST;
        hosts.note_live(now, |live| *live != host(7) && *live != host(8));
        hosts.ask(now, &host(7), &mut addresses).unwrap();
        now += ASKED_REST;
        hosts.note_live(now, |live| *live != host(7) && *live != host(8));
        assert!(hosts.ask(now, &host(HOSTS_MAX), &mut addresses).is_some());
        assert_eq!(
            addresses.of(&host(8)),
            None,
            "the one that nobody asked for lately"
        );
        assert!(
            hosts
                .ask(now, &host(HOSTS_MAX + 1), &mut addresses)
                .is_some()
        );
        assert_eq!(addresses.of(&host(7)), None);
        assert_eq!(
            hosts.ask(now, &host(8), &mut addresses),
            None,
            "all others have tunnels"
        );
        // Their tunnels end; what was sent into them may go on for a while.
        now += LIVE_REST - Duration::from_secs(1);
        assert!(
            hosts.ask(now, &host(8), &mut addresses).is_some(),
            "those two were never used"
        );
        assert!(hosts.ask(now, &host(7), &mut addresses).is_some());
        assert_eq!(hosts.ask(now, &host(2_000), &mut addresses), None);
        now += Duration::from_secs(1);
        assert!(hosts.ask(now, &host(2_000), &mut addresses).is_some());
    }

    #[test]
    fn a_small_range_is_room_for_few_and_apps_have_theirs() {
        let ranges = usual().with("10.1.2.0/24").unwrap();
        let mut addresses = VirtualAddresses::new(ranges, Vec::new(), BTreeMap::new());
        let (mut hosts, now) = (Hosts::default(), start().instant);
        let given =
            (0..300).filter(|number| hosts.ask(now, &host(*number), &mut addresses).is_some());
        assert_eq!(given.count(), 253);
        assert!(!addresses.assign(&[host(1_000)]));
        let later = now + ASKED_REST;
        assert!(hosts.ask(later, &host(1_000), &mut addresses).is_some());
        hosts.retain(&mut addresses, |_| false);
        assert!(hosts.is_empty() && addresses.assign(&[host(1_001)]));
    }

    fn bench() -> (Hosts, VirtualAddresses, Instant) {
        let addresses = VirtualAddresses::new(usual(), Vec::new(), BTreeMap::new());
        (Hosts::default(), addresses, start().instant)
    }

    fn usual() -> Ranges {
        Ranges::usual(&"corp.example".parse().unwrap())
    }

    fn host(number: usize) -> Name {
        format!("h{number}.dev.corp.example").parse().unwrap()
    }
}
