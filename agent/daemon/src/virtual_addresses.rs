//! The addresses by which this device's programs reach apps: the same for an app as long as it is here.
//!
//! They mean nothing to anybody else. Each app has a number, which makes its IPv4 address in one
//! range and its IPv6 address in another; it follows from the app's name, and where two names meet
//! or a local network has the address, the next free number is taken and kept on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use cardea_credential::key;
use cardea_host::tun::Prefix;
use cardea_proto::name::Name;

/// An IPv4 and an IPv6 address for one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Both {
    /// The one.
    pub v4: Ipv4Addr,
    /// The other.
    pub v6: Ipv6Addr,
}

impl Both {
    /// The one of the family that is asked for.
    #[must_use]
    pub const fn of(&self, v6: bool) -> IpAddr {
        if v6 {
            IpAddr::V6(self.v6)
        } else {
            IpAddr::V4(self.v4)
        }
    }
}

/// The two ranges that virtual addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    v4: (Ipv4Addr, u8),
    v6: (Ipv6Addr, u8),
}

/// Why a range cannot be used. The caller is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not an address, a slash and a number of bits.
    #[error("not ADDRESS/BITS")]
    Malformed,
    /// It has room for too few apps.
    #[error("a range has at most {BITS_V4_MAX} bits for IPv4 and {BITS_V6_MAX} for IPv6")]
    TooSmall,
}

impl Ranges {
    /// The usual ones: 100.64.0.0/10 (RFC 6598), and a ULA (RFC 4193) whose global id is made from the
    /// trust domain.
    #[must_use]
    pub fn usual(domain: &Name) -> Self {
        let [a, b, c, d, e, ..] = key::digest(format!("virtual {domain}").as_bytes()).0;
        Self {
            v4: (USUAL_V4, 10),
            v6: (
                Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                48,
            ),
        }
    }

    /// The same on another seat of the machine: what is as usual is what no other seat has.
    #[must_use]
    pub fn on_seat(self, domain: &Name, number: usize) -> Self {
        let usual = Self::usual(domain);
        let mut ranges = self;
        if number > 0 && ranges.v4 == usual.v4 {
            ranges.v4 = SEATS_V4.get(number).copied().unwrap_or(usual.v4);
        }
        if number > 0 && ranges.v6 == usual.v6 {
            let text = format!("virtual {domain} {number}");
            let [a, b, c, d, e, ..] = key::digest(text.as_bytes()).0;
            let v6 = [0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            ranges.v6 = (Ipv6Addr::from(v6), 48);
        }
        ranges
    }

    /// Those of a connector, which lends them to devices on this host alone: what is set aside for
    /// benchmarks (RFC 2544), and another ULA.
    #[must_use]
    pub fn connector(domain: &Name) -> Self {
        let [a, b, c, d, e, ..] = key::digest(format!("lent {domain}").as_bytes()).0;
        Self {
            v4: (Ipv4Addr::new(198, 18, 0, 0), 15),
            v6: (
                Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                48,
            ),
        }
    }

    /// The same with another range for IPv4, or for IPv6, whichever `text` is.
    ///
    /// # Errors
    /// [`RangeError`].
    pub fn with(self, text: &str) -> Result<Self, RangeError> {
        let (address, bits) = text.split_once('/').ok_or(RangeError::Malformed)?;
        let bits: u8 = bits.parse().map_err(|_| RangeError::Malformed)?;
        match address.parse().map_err(|_| RangeError::Malformed)? {
            IpAddr::V4(_) if bits > BITS_V4_MAX => Err(RangeError::TooSmall),
            IpAddr::V6(_) if bits > BITS_V6_MAX => Err(RangeError::TooSmall),
            IpAddr::V4(v4) => Ok(Self {
                v4: (v4 & mask_v4(bits), bits),
                ..self
            }),
            IpAddr::V6(v6) => Ok(Self {
                v6: (v6 & mask_v6(bits), bits),
                ..self
            }),
        }
    }

    /// Both, as routes name them.
    #[must_use]
    pub const fn prefixes(&self) -> [Prefix; 2] {
        [
            Prefix {
                address: IpAddr::V4(self.v4.0),
                bits: self.v4.1,
            },
            Prefix {
                address: IpAddr::V6(self.v6.0),
                bits: self.v6.1,
            },
        ]
    }

    /// The addresses of a number.
    fn at(&self, number: u32) -> Both {
        Both {
            v4: Ipv4Addr::from(u32::from(self.v4.0).wrapping_add(number)),
            v6: Ipv6Addr::from(u128::from(self.v6.0).wrapping_add(u128::from(number))),
        }
    }

    /// How many numbers there are; the last IPv4 address is not one, as it could be a broadcast's.
    fn numbers(&self) -> u32 {
        let width = 32_u32.saturating_sub(u32::from(self.v4.1));
        2_u32
            .checked_pow(width)
            .map_or(NUMBERS_MAX, |count| (count - 1).min(NUMBERS_MAX))
    }
}

/// Every app's number.
#[derive(Debug)]
pub struct VirtualAddresses {
    ranges: Ranges,
    /// Networks that this machine reaches otherwise.
    networks: Vec<Prefix>,
    own: u32,
    numbers: BTreeMap<Name, u32>,
    /// Of hosts, which have one as long as they are used.
    hosts: BTreeMap<Name, u32>,
    /// Where the search for an address to lend begins.
    next: u32,
}

impl VirtualAddresses {
    /// With the numbers that were kept, as far as no local network has their addresses.
    ///
    /// A range that lies in a local network as a whole is replaced by one that does not.
    #[must_use]
    pub fn new(ranges: Ranges, networks: Vec<Prefix>, kept: BTreeMap<Name, u32>) -> Self {
        let covered = |prefix: Prefix| {
            networks
                .iter()
                .any(|network| network.bits <= prefix.bits && network.contains(prefix.address))
        };
        let mut ranges = ranges;
        let [v4, v6] = ranges.prefixes();
        if covered(v4)
            && let Some(other) = OTHER_V4.iter().find(|(address, bits)| {
                !covered(Prefix {
                    address: IpAddr::V4(*address),
                    bits: *bits,
                })
            })
        {
            tracing::warn!(range = %v4.address, instead = %other.0, "a local network has the addresses meant for apps");
            ranges.v4 = *other;
        }
        if covered(v6) {
            let digest = key::digest(&ranges.v6.0.octets()).0;
            let [a, b, c, d, e, ..] = digest;
            ranges.v6 = (
                Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                48,
            );
        }
        let mut addresses = Self {
            ranges,
            networks,
            own: 0,
            next: 1,
            numbers: BTreeMap::new(),
            hosts: BTreeMap::new(),
        };
        addresses.own = addresses.free_from(1, &BTreeSet::new()).unwrap_or(1);
        let mut taken = BTreeSet::from([addresses.own]);
        for (app, number) in kept {
            let fits = number > 0 && number < ranges.numbers() && !addresses.clashes(number);
            if fits && taken.insert(number) {
                addresses.numbers.insert(app, number);
            }
        }
        addresses
    }

    /// The ranges in use.
    #[must_use]
    pub const fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// The addresses of this device's own end.
    #[must_use]
    pub fn own(&self) -> Both {
        self.ranges.at(self.own)
    }

    /// Gives every app a number that has none; says whether there was one.
    pub fn assign<'a>(&mut self, apps: impl IntoIterator<Item = &'a Name>) -> bool {
        let mut taken = self.taken();
        let mut is_changed = false;
        for app in apps {
            if self.numbers.contains_key(app) {
                continue;
            }
            if let Some(number) = self.number_for(app, &taken) {
                taken.insert(number);
                self.numbers.insert(app.clone(), number);
                is_changed = true;
            }
        }
        is_changed
    }

    /// Gives a host of an app addresses of its own, which nobody else has until they are taken back.
    pub fn give(&mut self, host: &Name) -> Option<Both> {
        if !self.hosts.contains_key(host) {
            let number = self.number_for(host, &self.taken())?;
            self.hosts.insert(host.clone(), number);
        }
        self.of(host)
    }

    /// The addresses of a host are free again.
    pub fn take_back(&mut self, host: &Name) {
        self.hosts.remove(host);
    }

    /// Every number that somebody has.
    fn taken(&self) -> BTreeSet<u32> {
        let all = self.numbers.values().chain(self.hosts.values()).copied();
        all.chain([self.own]).collect()
    }

    /// A free number that follows from a name as far as it can, so that it is mostly the same again.
    fn number_for(&self, name: &Name, taken: &BTreeSet<u32>) -> Option<u32> {
        let [a, b, c, d, ..] = key::digest(name.as_str().as_bytes()).0;
        let hash = u32::from_be_bytes([a, b, c, d]);
        let start = hash.checked_rem(self.ranges.numbers()).unwrap_or(1).max(1);
        self.free_from(start, taken)
    }

    /// The addresses of an app, or of a host.
    #[must_use]
    pub fn of(&self, name: &Name) -> Option<Both> {
        let number = self.numbers.get(name).or_else(|| self.hosts.get(name))?;
        Some(self.ranges.at(*number))
    }

    /// Everybody's addresses.
    pub fn all(&self) -> impl Iterator<Item = (&Name, Both)> {
        let all = self.numbers.iter().chain(&self.hosts);
        all.map(|(name, number)| (name, self.ranges.at(*number)))
    }

    /// Addresses that nobody has for whom `is_taken` holds; others than the last ones as long as possible.
    pub fn lend(&mut self, is_taken: impl Fn(Both) -> bool) -> Option<Both> {
        let count = self.ranges.numbers();
        let number = (self.next..count)
            .chain(1..self.next)
            .take(TRIES_MAX)
            .find(|number| {
                *number != self.own && !self.clashes(*number) && !is_taken(self.ranges.at(*number))
            })?;
        self.next = number.saturating_add(1);
        Some(self.ranges.at(number))
    }

    /// The numbers, to be kept.
    #[must_use]
    pub const fn numbers(&self) -> &BTreeMap<Name, u32> {
        &self.numbers
    }

    fn free_from(&self, start: u32, taken: &BTreeSet<u32>) -> Option<u32> {
        let count = self.ranges.numbers();
        (start..count)
            .chain(1..start)
            .take(TRIES_MAX)
            .find(|number| !taken.contains(number) && !self.clashes(*number))
    }

    fn clashes(&self, number: u32) -> bool {
        let Both { v4, v6 } = self.ranges.at(number);
        v4 == METADATA_ALIYUN
            || self
                .networks
                .iter()
                .any(|network| network.contains(IpAddr::V4(v4)) || network.contains(IpAddr::V6(v6)))
    }
}

fn mask_v4(bits: u8) -> Ipv4Addr {
    let shift = 32_u32.saturating_sub(u32::from(bits));
    Ipv4Addr::from(u32::MAX.checked_shl(shift).unwrap_or(0))
}

fn mask_v6(bits: u8) -> Ipv6Addr {
    let shift = 128_u32.saturating_sub(u32::from(bits));
    Ipv6Addr::from(u128::MAX.checked_shl(shift).unwrap_or(0))
}

/// Shared address space that no site uses itself. Source: RFC 6598 §7.
const USUAL_V4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);

/// Agents of one machine that have interfaces.
pub(crate) const SEATS_MAX: usize = 3;

/// What each seat has, from the least used first; none may meet another's.
const SEATS_V4: [(Ipv4Addr, u8); SEATS_MAX] = [
    (USUAL_V4, 10),
    (Ipv4Addr::new(10, 203, 0, 0), 16),
    (Ipv4Addr::new(172, 29, 0, 0), 16),
];

/// For a machine that is in such a network: what is set aside for benchmarks (RFC 2544), then corners of
/// private space that few use.
const OTHER_V4: [(Ipv4Addr, u8); 4] = [
    (USUAL_V4, 10),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(10, 203, 0, 0), 16),
    (Ipv4Addr::new(172, 29, 0, 0), 16),
];

/// A metadata service in shared address space, as its provider documents it.
const METADATA_ALIYUN: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);

/// 254 apps.
const BITS_V4_MAX: u8 = 24;

/// As many as there are numbers.
const BITS_V6_MAX: u8 = 96;

/// Numbers in the usual IPv4 range.
const NUMBERS_MAX: u32 = 1 << 22;

/// Numbers that are looked at for one app: more apps than anybody has, and a local /16.
const TRIES_MAX: usize = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_keeps_its_addresses_whatever_comes_and_goes() {
        let mut addresses = addresses(&[], BTreeMap::new());
        assert!(addresses.assign(&[name("wiki")]));
        let wiki = addresses.of(&name("wiki")).unwrap();
        assert!(addresses.assign(&[name("db"), name("wiki")]));
        assert!(!addresses.assign(&[name("db")]));
        assert_eq!(addresses.of(&name("wiki")), Some(wiki));
        assert_ne!(addresses.of(&name("db")), Some(wiki));
        let again =
            VirtualAddresses::new(*addresses.ranges(), Vec::new(), addresses.numbers().clone());
        assert_eq!(again.of(&name("wiki")), Some(wiki));
        assert_eq!(again.own(), addresses.own());
    }

    #[test]
    fn names_that_meet_get_different_addresses() {
        let ranges = usual().with("10.1.2.0/24").unwrap();
        let mut addresses = VirtualAddresses::new(ranges, Vec::new(), BTreeMap::new());
        let apps: Vec<Name> = (0..253)
            .map(|number| name(&format!("app-{number}")))
            .collect();
        addresses.assign(&apps);
        let all: BTreeSet<Ipv4Addr> = apps
            .iter()
            .filter_map(|app| addresses.of(app))
            .map(|both| both.v4)
            .collect();
        assert_eq!(all.len(), 253);
        assert!(!all.contains(&addresses.own().v4));
        addresses.assign(&[name("one-too-many")]);
        assert_eq!(addresses.of(&name("one-too-many")), None);
    }

    #[test]
    fn no_app_gets_an_address_of_a_local_network() {
        let free = {
            let mut addresses = addresses(&[], BTreeMap::new());
            addresses.assign(&[name("wiki")]);
            addresses
        };
        let wiki = free.of(&name("wiki")).unwrap();
        let network = Prefix {
            address: IpAddr::V4(wiki.v4 & mask_v4(24)),
            bits: 24,
        };
        let mut moved = addresses(&[network], free.numbers().clone());
        assert!(moved.assign(&[name("wiki")]), "the kept number is given up");
        let now = moved.of(&name("wiki")).unwrap();
        assert!(!network.contains(IpAddr::V4(now.v4)));
        let whole = Prefix {
            address: IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)),
            bits: 10,
        };
        let elsewhere = addresses(&[whole], BTreeMap::new());
        assert_eq!(elsewhere.own().v4, Ipv4Addr::new(198, 18, 0, 1));
    }

    #[test]
    fn what_is_lent_is_free_and_not_what_was_given_back_last() {
        let mut addresses = addresses(&[], BTreeMap::new());
        let first = addresses.lend(|_| false).unwrap();
        let second = addresses.lend(|_| false).unwrap();
        let third = addresses.lend(|both| both == second).unwrap();
        let mut all = vec![first, second, third, addresses.own()];
        all.sort_by_key(|both| both.v4);
        all.dedup();
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn no_two_seats_have_an_address_in_common_even_of_one_organisation() {
        let domain = name("corp.example");
        let seats: Vec<[Prefix; 2]> = (0..SEATS_MAX)
            .map(|number| usual().on_seat(&domain, number).prefixes())
            .collect();
        for (place, one) in seats.iter().enumerate() {
            for other in &seats[..place] {
                assert!(!one[0].meets(&other[0]) && !one[1].meets(&other[1]));
            }
        }
        let meant = usual().with("10.7.0.0/16").unwrap();
        assert_eq!(meant.on_seat(&domain, 1).v4, meant.v4);
    }

    #[test]
    fn a_range_is_a_prefix_with_room_for_apps() {
        assert_eq!(usual().with("10.7.3.9/16"), usual().with("10.7.0.0/16"));
        assert!(usual().with("fd12:3456::/48").is_ok());
        for (text, error) in [
            ("10.0.0.0", RangeError::Malformed),
            ("10.0.0.0/x", RangeError::Malformed),
            ("wiki/8", RangeError::Malformed),
            ("10.0.0.0/25", RangeError::TooSmall),
            ("fd00::/112", RangeError::TooSmall),
        ] {
            assert_eq!(usual().with(text), Err(error), "{text}");
        }
    }

    fn addresses(networks: &[Prefix], kept: BTreeMap<Name, u32>) -> VirtualAddresses {
        VirtualAddresses::new(usual(), networks.to_vec(), kept)
    }

    fn usual() -> Ranges {
        Ranges::usual(&name("corp.example"))
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }
}
