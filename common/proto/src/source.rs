//! Whose an address is, as far as a stranger's address says anything.

use std::net::{IpAddr, SocketAddr};

/// Whoever can send from an address and receive there: one IPv4 address, or one IPv6 /64.
///
/// A /64 is what one network is given, so that 2⁶⁴ addresses cost nothing to whoever has one.
///
/// Source: RFC 4291 §2.5.1 (interface identifiers of 64 bits), RFC 6177 §2 (a site has one /64 at
/// least).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An IPv4 address, also when it came mapped into IPv6.
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address.
    V6([u8; 8]),
}

impl Source {
    /// The source of an address, whatever its port.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        Self::of_ip(address.ip())
    }

    /// The source of an address without a port.
    #[must_use]
    pub fn of_ip(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_the_last_bits_of_six_do_not_count_and_all_of_four_do() {
        check("192.0.2.1:1", "192.0.2.1:2", true);
        check("192.0.2.1:1", "192.0.2.2:1", false);
        check("192.0.2.1:1", "[::ffff:192.0.2.1]:1", true);
        check("[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff::2]:9", true);
        check("[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", false);
    }

    fn check(a: &str, b: &str, expected: bool) {
        let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(Source::of(a) == Source::of(b), expected, "{a} {b}");
    }
}
