//! Hosts that are reached without the proxy, as `NO_PROXY` lists them.

use std::{convert::Infallible, net::IpAddr, str::FromStr};

/// Hosts that a proxy is not asked for.
///
/// What an entry means is what curl makes of it, since administrators set the variable once for all
/// programs: `*` alone for every host; a name, with or without a dot before it, for itself and all
/// below it; an address, or a range of them as `10.0.0.0/8`. An entry that is none of these is for no
/// host.
///
/// Source: curl(1), `NO_PROXY`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exceptions {
    text: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    All,
    /// In lower case, without the dots around it.
    Name(String),
    /// Addresses whose first bits are those of this one.
    Range(IpAddr, u8),
}

impl Exceptions {
    /// Whether `host`, a name or an address with or without brackets, is one of them.
    #[must_use]
    pub fn contain(&self, host: &str) -> bool {
        let host = unbracketed(host);
        let address = host.parse::<IpAddr>().ok();
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.entries.iter().any(|entry| match (entry, address) {
            (Entry::All, _) => true,
            (Entry::Range(network, bits), Some(address)) => is_within(address, *network, *bits),
            (Entry::Name(suffix), None) => name
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
            (Entry::Range(..), None) | (Entry::Name(_), Some(_)) => false,
        })
    }

    /// As it was given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl FromStr for Exceptions {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let entries = if text.trim() == "*" {
            vec![Entry::All]
        } else {
            let words = text.split([',', ' ', '\t']);
            words.filter_map(Entry::of).collect()
        };
        Ok(Self {
            text: text.to_owned(),
            entries,
        })
    }
}

impl Entry {
    fn of(word: &str) -> Option<Self> {
        let (place, bits) = match word.split_once('/') {
            Some((place, bits)) => (place, Some(bits.parse::<u8>().ok()?)),
            None => (word, None),
        };
        if let Ok(network) = unbracketed(place).parse::<IpAddr>() {
            let all = if network.is_ipv4() { 32 } else { 128 };
            let bits = bits.unwrap_or(all);
            return (bits <= all).then_some(Self::Range(network, bits));
        }
        let name = place.strip_prefix('.').unwrap_or(place);
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_name = bits.is_none() && !name.is_empty() && name != "*";
        is_name.then(|| Self::Name(name.to_ascii_lowercase()))
    }
}

fn unbracketed(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (one, other, width) = match (address, network) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            (u128::from(one.to_bits()), u128::from(other.to_bits()), 32)
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    let rest = u32::from(width - bits.min(width));
    // All bits are rest where none are compared.
    (one ^ other).checked_shr(rest).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_for_the_hosts_that_curl_takes_it_for() {
        for (list, within, without) in [
            ("", &[][..], &["a", "192.0.2.1"][..]),
            ("*", &["a.b", "192.0.2.1", "[2001:db8::1]"], &[]),
            ("a, *", &["a"], &["b", "192.0.2.1"]),
            (
                "corp.example",
                &["corp.example", "CTL.Corp.Example", "a.b.corp.example."],
                &["acorp.example", "example", "corp.example.net"],
            ),
            (
                ".corp.example.",
                &["corp.example", "ctl.corp.example"],
                &["acorp.example"],
            ),
            (
                "localhost,192.0.2.1\t2001:db8::1 [2001:db8::2]",
                &[
                    "localhost",
                    "192.0.2.1",
                    "[2001:db8::1]",
                    "2001:db8:0::1",
                    "2001:db8::2",
                ],
                &["192.0.2.10", "2001:db8::3", "1.192.0.2.1"],
            ),
            (
                "10.0.0.0/8,192.0.2.128/25,2001:db8::/32",
                &["10.255.0.1", "192.0.2.129", "[2001:db8:ffff::1]"],
                &["11.0.0.1", "192.0.2.127", "2001:db9::1", "10.example"],
            ),
            ("0.0.0.0/0", &["192.0.2.1"], &["2001:db8::1", "a"]),
            (
                "10.0.0.0/33,10.0.0.0/x,a/8,ctl:443",
                &[],
                &["10.0.0.1", "a", "ctl"],
            ),
        ] {
            let exceptions: Exceptions = list.parse().unwrap();
            for host in within {
                assert!(exceptions.contain(host), "{list}: {host}");
            }
            for host in without {
                assert!(!exceptions.contain(host), "{list}: {host}");
            }
        }
    }
}
