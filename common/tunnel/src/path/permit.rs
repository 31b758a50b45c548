//! To which addresses an end sends a probe because somebody said so.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use cardea_proto::access::InnerAddresses;

/// What is never probed: addresses of everybody, of nobody, of this machine and of the domain.
#[derive(Debug)]
pub(crate) struct Permit {
    inner: InnerAddresses,
    never: Vec<IpAddr>,
}

impl Permit {
    /// `never` holds the controllers' and the relays' addresses.
    pub(crate) const fn new(inner: InnerAddresses, never: Vec<IpAddr>) -> Self {
        Self { inner, never }
    }

    /// The address as it is used, when it may be.
    pub(crate) fn check(&self, address: SocketAddr) -> Option<SocketAddr> {
        let ip = address.ip().to_canonical();
        let is_inner = [
            IpAddr::V4(self.inner.device_v4),
            IpAddr::V6(self.inner.device_v6),
            IpAddr::V4(self.inner.app_v4),
            IpAddr::V6(self.inner.app_v6),
        ]
        .contains(&ip);
        let refused = address.port() == 0 || !is_reachable(ip) || is_inner;
        (!refused && !self.is_never(ip)).then(|| SocketAddr::new(ip, address.port()))
    }

    fn is_never(&self, ip: IpAddr) -> bool {
        self.never.iter().any(|never| never.to_canonical() == ip)
    }
}

/// Whether another machine can have this address, and be the only one that has it.
///
/// Source: RFC 6890 and the IANA registries that it began; RFC 4291 §2.7 and §2.5.6: a link-local
/// address means nothing without an interface.
#[must_use]
pub fn is_reachable(ip: IpAddr) -> bool {
    let v4 = |ip: Ipv4Addr| {
        let [first, ..] = ip.octets();
        !ip.is_loopback()
            && !ip.is_multicast()
            && !ip.is_link_local()
            && first != 0
            && first < RESERVED_V4
    };
    match ip.to_canonical() {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => {
            !ip.is_loopback()
                && !ip.is_multicast()
                && !ip.is_unspecified()
                && !ip.is_unicast_link_local()
        }
    }
}

/// First byte of the addresses for future use and of broadcast. Source: RFC 1112 §4, RFC 919 §7.
const RESERVED_V4: u8 = 240;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_makes_an_end_probe_itself_everybody_or_the_domain() {
        let refused = [
            "127.0.0.1:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "0.0.0.0:80",
            "[::]:80",
            "0.1.2.3:80",
            "224.0.0.251:5353",
            "[ff02::fb]:5353",
            "255.255.255.255:80",
            "240.0.0.1:80",
            "169.254.169.254:80",
            "[fe80::1]:80",
            "192.0.2.7:0",
            "203.0.113.9:7443",
            "[::ffff:203.0.113.9]:4711",
            "[2001:db8::9]:7444",
            "100.64.0.1:80",
            "[fd00::a]:80",
        ];
        for text in refused {
            assert_eq!(permit().check(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn another_machine_may_be_probed_under_one_name() {
        for (text, used) in [
            ("192.0.2.7:4711", "192.0.2.7:4711"),
            ("10.0.0.7:4711", "10.0.0.7:4711"),
            ("[::ffff:10.0.0.7]:4711", "10.0.0.7:4711"),
            ("[fd00:1::7]:4711", "[fd00:1::7]:4711"),
            ("100.64.9.9:4711", "100.64.9.9:4711"),
        ] {
            let found = permit().check(text.parse().unwrap());
            assert_eq!(found, Some(used.parse().unwrap()));
        }
    }

    fn permit() -> Permit {
        let inner = InnerAddresses {
            device_v4: [100, 64, 0, 1].into(),
            device_v6: "fd00::1".parse().unwrap(),
            app_v4: [100, 65, 0, 1].into(),
            app_v6: "fd00::a".parse().unwrap(),
        };
        let never = ["203.0.113.9", "2001:db8::9"].map(|ip| ip.parse().unwrap());
        Permit::new(inner, never.to_vec())
    }
}
