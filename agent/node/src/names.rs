//! Names of apps as DNS has them: what a stub resolver answers by itself, and what it passes on.
//!
//! ```text
//! a controller's own name                  passed on: the agent itself must find it
//! a name of an app                         A, AAAA; no data for every other type
//! covered by a wildcard name of an app     the same, once the name has been given addresses
//! below a name of an app                   no such name
//! outside, as this device was told         passed on
//! below the trust domain                   no such name
//! an address of the virtual ranges (PTR)   its app, or no such name
//! everything else                          passed on, or refused
//! ```
//!
//! What is ours is never passed on, not even while the apps are not known yet: then it fails.

mod answer;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use cardea_proto::{name::Name, pattern::Pattern};
use domain::base::{Name as DnsName, ToName, name::ToLabelIter};

pub use self::answer::{Verdict, found, id, is_answer, is_failure, query, with_id};

/// A name as DNS has it: compared without regard to case, ordered from its last label on.
type Dns = DnsName<Vec<u8>>;

/// Where an app is reached on this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppAddresses {
    /// Over IPv4.
    pub v4: Ipv4Addr,
    /// Over IPv6, where this device has it.
    pub v6: Option<Ipv6Addr>,
}

/// What a stub resolver knows.
#[derive(Clone, Debug)]
pub struct Names {
    /// The trust domain, when it can be a DNS name.
    domain: Option<Dns>,
    /// `None` for a name that was an app's when this device last heard of its apps.
    apps: BTreeMap<Dns, Option<AppAddresses>>,
    /// Below which each label is a host of an app's; whether it is known that it still is.
    wildcards: BTreeMap<Dns, bool>,
    /// Those hosts that were asked for.
    hosts: BTreeMap<Dns, AppAddresses>,
    reverse: BTreeMap<IpAddr, Dns>,
    ranges: Vec<(IpAddr, u8)>,
    controllers: Vec<Dns>,
    outside: Vec<Dns>,
    passes_on: bool,
    is_known: bool,
}

/// Whose a name is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner<'a> {
    /// An app's.
    App(AppAddresses),
    /// A host's of an app, which has no addresses yet.
    Host(Name),
    /// The address of an app.
    Address(&'a Dns),
    /// Ours, and there are names below it alone.
    Above,
    /// Ours, and of nothing.
    Nobody,
    /// Ours, and it is not known yet of what.
    Unknown,
    /// Not ours.
    Others,
}

impl Names {
    /// Of a trust domain of which no app is known yet.
    ///
    /// `ranges` are those that virtual addresses come from.
    #[must_use]
    pub fn new(domain: &Name, ranges: impl IntoIterator<Item = (IpAddr, u8)>) -> Self {
        Self {
            domain: parse(domain.as_str()),
            apps: BTreeMap::new(),
            wildcards: BTreeMap::new(),
            hosts: BTreeMap::new(),
            reverse: BTreeMap::new(),
            ranges: ranges.into_iter().collect(),
            controllers: Vec::new(),
            outside: Vec::new(),
            passes_on: false,
            is_known: false,
        }
    }

    /// Says whether what is not ours is passed on; else it is refused, as nobody was told to ask
    /// here for it.
    pub const fn pass_on(&mut self, passes_on: bool) {
        self.passes_on = passes_on;
    }

    /// Names of controllers, which are always passed on: no app can take them.
    pub fn set_controllers<'a>(&mut self, hosts: impl IntoIterator<Item = &'a str>) {
        self.controllers = hosts.into_iter().filter_map(parse).collect();
    }

    /// Names that are passed on with all below them, although they lie below the trust domain.
    pub fn set_outside<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        self.outside = names.into_iter().filter_map(parse).collect();
    }

    /// Names that were apps' before this process began: they are kept from others until the apps are
    /// known.
    pub fn expect<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            match name.strip_prefix(WILDCARD) {
                Some(parent) => self
                    .wildcards
                    .extend(parse(parent).map(|parent| (parent, false))),
                None => self.apps.extend(parse(name).map(|name| (name, None))),
            }
        }
    }

    /// Takes the apps that there are, each with its name, its DNS names and its addresses.
    ///
    /// An app has the name `APP.DOMAIN` beside its own DNS names. Of two apps that claim one name the
    /// one that lists it has it, then the first; names that DNS cannot have are left out. Hosts below
    /// wildcard names have the addresses that they were given, if any.
    pub fn set_apps<'a>(
        &mut self,
        apps: impl IntoIterator<Item = (&'a Name, &'a [Pattern], AppAddresses)>,
        hosts: impl IntoIterator<Item = (&'a Name, AppAddresses)>,
    ) {
        let apps: Vec<_> = apps.into_iter().collect();
        self.is_known = true;
        self.apps.clear();
        self.wildcards.clear();
        self.hosts.clear();
        self.reverse.clear();
        for (_, names, addresses) in &apps {
            for name in names.iter() {
                match name.parent() {
                    Some(parent) => self
                        .wildcards
                        .extend(parse(parent).map(|parent| (parent, true))),
                    None => parse(name.as_str())
                        .into_iter()
                        .for_each(|name| self.claim(name, *addresses)),
                }
            }
        }
        for (host, addresses) in hosts {
            if let Some(host) = parse(host.as_str()) {
                self.note_reverse(&host, addresses);
                self.hosts.insert(host, addresses);
            }
        }
        for (app, _, addresses) in &apps {
            let made = self
                .domain
                .as_ref()
                .and_then(|domain| parse(&format!("{app}.{domain}")));
            if let Some(name) = made {
                self.claim(name, *addresses);
            }
        }
    }

    fn claim(&mut self, name: Dns, addresses: AppAddresses) {
        let held = self.apps.entry(name.clone()).or_insert(Some(addresses));
        if *held == Some(addresses) {
            self.note_reverse(&name, addresses);
        }
    }

    fn note_reverse(&mut self, name: &Dns, addresses: AppAddresses) {
        let v6 = addresses.v6.map(IpAddr::V6);
        for address in std::iter::once(IpAddr::V4(addresses.v4)).chain(v6) {
            self.reverse.entry(address).or_insert_with(|| name.clone());
        }
    }

    /// Every name of an app, wildcards among them.
    pub fn apps(&self) -> impl Iterator<Item = String> {
        let exact = self.apps.keys().map(ToString::to_string);
        let wildcards = self.wildcards.keys();
        exact.chain(wildcards.map(|parent| format!("{WILDCARD}{parent}")))
    }

    /// The fewest names below which all of ours lie: what a system must ask us for that can ask
    /// others for the rest.
    pub fn routed(&self) -> impl Iterator<Item = String> {
        let all = self.apps.keys().chain(self.wildcards.keys());
        let elsewhere = all.filter(|name| !self.is_below_domain(name));
        self.domain.iter().chain(elsewhere).map(ToString::to_string)
    }

    fn is_below_domain(&self, name: &impl ToLabelIter) -> bool {
        self.domain
            .as_ref()
            .is_some_and(|domain| is_below(name, domain))
    }

    fn owner(&self, name: &impl ToName) -> Owner<'_> {
        if self.controllers.iter().any(|host| host.name_eq(name)) {
            return Owner::Others;
        }
        let name: Dns = name.to_name();
        if let Some(held) = self.apps.get(&name) {
            return held.map_or(Owner::Unknown, Owner::App);
        }
        if let Some(owner) = self.host(&name) {
            return owner;
        }
        let mut next = self.apps.range::<Dns, _>(&name..).map(|(name, _)| name);
        let mut wildcard = self.wildcards.range::<Dns, _>(&name..);
        let is_above = next.next().is_some_and(|next| is_below(next, &name))
            || wildcard
                .next()
                .is_some_and(|(parent, _)| parent.ends_with(&name));
        if self.is_below_app(&name) {
            return Owner::Nobody;
        }
        let is_outside = |outside: &Dns| name.ends_with(outside);
        if self.outside.iter().any(is_outside) {
            return Owner::Others;
        }
        if self.is_below_domain(&name) {
            return match (self.is_known, is_above) {
                (false, _) => Owner::Unknown,
                (true, true) => Owner::Above,
                (true, false) => Owner::Nobody,
            };
        }
        match address(&name) {
            Some(address) if self.is_virtual(address) => self
                .reverse
                .get(&address)
                .map_or(Owner::Nobody, Owner::Address),
            Some(_) | None => Owner::Others,
        }
    }

    /// Whose a name is that lies one label below a wildcard's.
    fn host(&self, name: &Dns) -> Option<Owner<'_>> {
        if let Some(addresses) = self.hosts.get(name) {
            return Some(Owner::App(*addresses));
        }
        let parent: Dns = name.iter_suffixes().nth(1)?.to_name();
        let is_known = *self.wildcards.get(&parent)?;
        if !is_known {
            return Some(Owner::Unknown);
        }
        let text = name.to_string().to_ascii_lowercase();
        let wildcard: Option<Pattern> = format!("{WILDCARD}{parent}").parse().ok();
        let is_covered = wildcard.is_some_and(|wildcard| wildcard.label(&text).is_some());
        let host = text.parse().ok().filter(|_| is_covered);
        Some(host.map_or(Owner::Nobody, Owner::Host))
    }

    /// Whether a parent of the name is an app's.
    fn is_below_app(&self, name: &Dns) -> bool {
        let parents = name.iter_suffixes().skip(1);
        parents
            .filter(|parent| !parent.is_root())
            .map(|parent| parent.to_name::<Vec<u8>>())
            .any(|parent| self.apps.contains_key(&parent) || self.wildcards.contains_key(&parent))
    }

    fn is_virtual(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|(network, bits)| {
            let bits = usize::from(*bits);
            let number = |address: IpAddr| match address {
                IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
                IpAddr::V6(v6) => u128::from(v6),
            };
            let differ = number(*network) ^ number(address);
            let same_bits = usize::try_from(differ.leading_zeros()).unwrap_or(0);
            network.is_ipv4() == address.is_ipv4() && same_bits >= bits
        })
    }
}

/// Whether `name` lies below `parent` and is another.
fn is_below(name: &impl ToLabelIter, parent: &Dns) -> bool {
    name.ends_with(parent) && name.iter_labels().count() > parent.label_count()
}

fn parse(text: &str) -> Option<Dns> {
    let name: Dns = text.trim_end_matches('.').parse().ok()?;
    (!name.is_root()).then_some(name)
}

/// The address whose reverse name this is.
///
/// Source: RFC 1035 §3.5, RFC 3596 §2.5.
fn address(name: &Dns) -> Option<IpAddr> {
    let text = name.to_string().to_ascii_lowercase();
    if let Some(text) = text.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = text
            .split('.')
            .map(|label| label.parse().ok())
            .collect::<Option<_>>()?;
        let [d, c, b, a] = <[u8; 4]>::try_from(octets).ok()?;
        return Some(Ipv4Addr::new(a, b, c, d).into());
    }
    let text = text.strip_suffix(".ip6.arpa")?;
    let digits: Vec<u128> = text
        .rsplit('.')
        .map(|label| {
            let digit = (label.len() == 1).then(|| u128::from_str_radix(label, 16));
            digit.and_then(Result::ok)
        })
        .collect::<Option<_>>()?;
    if digits.len() != V6_DIGITS {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number << 4 | digit);
    Some(Ipv6Addr::from(number).into())
}

const WILDCARD: &str = "*.";

/// Hexadecimal digits of an IPv6 address.
const V6_DIGITS: usize = 32;

#[cfg(test)]
mod tests;
