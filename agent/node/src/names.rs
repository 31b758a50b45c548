//! Names of apps as DNS has them: what a stub resolver answers by itself, and what it passes on.
//!
//! ```text
//! a controller's own name                  passed on: the agent itself must find it
//! a name of an app                         A, AAAA; no data for every other type
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

use cardea_proto::name::Name;
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
    reverse: BTreeMap<IpAddr, Dns>,
    ranges: Vec<(IpAddr, u8)>,
    controllers: Vec<Dns>,
    outside: Vec<Dns>,
    passes_on: bool,
    is_known: bool,
}

/// Whose a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner<'a> {
    /// An app's.
    App(AppAddresses),
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
        let names = names.into_iter().filter_map(parse);
        self.apps.extend(names.map(|name| (name, None)));
    }

    /// Takes the apps that there are, each with its name, its DNS names and its addresses.
    ///
    /// An app has the name `APP.DOMAIN` beside its own DNS names. Of two apps that claim one name the
    /// one that lists it has it, then the first; names that DNS cannot have are left out.
    pub fn set_apps<'a>(
        &mut self,
        apps: impl IntoIterator<Item = (&'a Name, &'a [Name], AppAddresses)>,
    ) {
        let apps: Vec<_> = apps.into_iter().collect();
        self.is_known = true;
        self.apps.clear();
        self.reverse.clear();
        for (_, names, addresses) in &apps {
            for name in names.iter().filter_map(|name| parse(name.as_str())) {
                self.claim(name, *addresses);
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
            let v6 = addresses.v6.map(IpAddr::V6);
            for address in std::iter::once(IpAddr::V4(addresses.v4)).chain(v6) {
                self.reverse.entry(address).or_insert_with(|| name.clone());
            }
        }
    }

    /// Every name of an app.
    pub fn apps(&self) -> impl Iterator<Item = String> {
        self.apps.keys().map(ToString::to_string)
    }

    /// The fewest names below which all of ours lie: what a system must ask us for that can ask
    /// others for the rest.
    pub fn routed(&self) -> impl Iterator<Item = String> {
        let elsewhere = self.apps.keys().filter(|name| !self.is_below_domain(name));
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
        let mut next = self.apps.range::<Dns, _>(&name..).map(|(name, _)| name);
        let is_above = next.next().is_some_and(|next| is_below(next, &name));
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

    /// Whether a parent of the name is an app's.
    fn is_below_app(&self, name: &Dns) -> bool {
        let parents = name.iter_suffixes().skip(1);
        parents
            .filter(|parent| !parent.is_root())
            .any(|parent| self.apps.contains_key(&parent.to_name::<Vec<u8>>()))
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

/// Hexadecimal digits of an IPv6 address.
const V6_DIGITS: usize = 32;

#[cfg(test)]
mod tests;
