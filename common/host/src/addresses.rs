//! The addresses of this machine, and the one from which it would reach another.

mod changes;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use socket2::{Domain, Protocol, Socket, Type};

pub use self::changes::Changes;
use crate::tun::Prefix;

/// Every address that belongs to this machine, in no order.
///
/// Read from the kernel's own tables, so that an address of any interface, table or alias counts.
#[must_use]
pub fn own() -> Vec<IpAddr> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let mut all = local_v4(&read("/proc/net/fib_trie"));
    all.extend(local_v6(&read("/proc/net/if_inet6")));
    all.sort_unstable();
    all.dedup();
    all
}

/// The source address of a datagram to `peer`, as routes are at this moment. Nothing is sent.
///
/// # Errors
/// As the system says, when there is no route.
pub fn source_for(peer: SocketAddr) -> io::Result<IpAddr> {
    let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
    socket.connect(&peer.into())?;
    socket
        .local_addr()?
        .as_socket()
        .map(|address| address.ip())
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// The number of the interface `name`.
#[must_use]
pub fn interface(name: &str) -> Option<u32> {
    crate::tun::Network::open().ok()?.index(name).ok()
}

/// Networks that this machine reaches otherwise than by its default route.
#[must_use]
pub fn networks() -> Vec<Prefix> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let mut all = networks_v4(&read("/proc/net/route"));
    all.extend(networks_v6(&read("/proc/net/ipv6_route")));
    all.extend(own().into_iter().map(Prefix::host));
    all
}

/// Destination and mask, the second and the eighth column, of `/proc/net/route`.
///
/// Both are numbers in the machine's own order, with the first octet in the first byte of memory.
fn networks_v4(table: &str) -> Vec<Prefix> {
    let parse = |line: &str| {
        let mut columns = line.split_whitespace();
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        let destination = number(columns.nth(1)?)?;
        let mask = number(columns.nth(5)?)?;
        Some(Prefix {
            address: IpAddr::V4(Ipv4Addr::from(destination.to_ne_bytes())),
            bits: u8::try_from(mask.count_ones()).ok()?,
        })
    };
    let all = table.lines().filter_map(parse);
    all.filter(|prefix| prefix.bits > 0).collect()
}

/// Destination and its bits, the first two columns of `/proc/net/ipv6_route`.
fn networks_v6(table: &str) -> Vec<Prefix> {
    let parse = |line: &str| {
        let mut columns = line.split_whitespace();
        let address = u128::from_str_radix(columns.next()?, 16).ok()?;
        Some(Prefix {
            address: IpAddr::V6(Ipv6Addr::from(address)),
            bits: u8::from_str_radix(columns.next()?, 16).ok()?,
        })
    };
    let all = table.lines().filter_map(parse);
    all.filter(|prefix| prefix.bits > 0).collect()
}

/// Addresses that `/proc/net/fib_trie` marks `host LOCAL`: the mark follows the address's line.
fn local_v4(trie: &str) -> Vec<IpAddr> {
    let mut last: Option<Ipv4Addr> = None;
    let mut all = Vec::new();
    for line in trie.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse().ok();
        } else if line.contains("host LOCAL") {
            all.extend(last.map(IpAddr::V4));
        }
    }
    all
}

/// Addresses in the first column of `/proc/net/if_inet6`: 32 hexadecimal digits.
fn local_v6(table: &str) -> Vec<IpAddr> {
    table
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|digits| digits.len() == 32)
        .filter_map(|digits| u128::from_str_radix(digits, 16).ok())
        .map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_give_every_local_address_and_no_other() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.7\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(trie), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n20010db8000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(
            local_v6(table),
            [
                "::1".parse::<IpAddr>().unwrap(),
                "2001:db8::7".parse().unwrap()
            ]
        );
    }

    #[test]
    fn the_kernels_routes_give_every_network_but_the_default() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\n\
            eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        let v6 = "fd000009000100000000000000000000 40 00000000000000000000000000000000 00 0 100 1 0 1 eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 0 ff 1 0 200200 lo\n";
        let show = |all: Vec<Prefix>| {
            let all = all
                .iter()
                .map(|prefix| format!("{}/{}", prefix.address, prefix.bits));
            all.collect::<Vec<_>>()
        };
        assert_eq!(show(networks_v4(v4)), ["192.168.2.0/24"]);
        assert_eq!(show(networks_v6(v6)), ["fd00:9:1::/64"]);
    }

    #[test]
    fn loopback_is_ours_and_reached_from_itself() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(own().contains(&loopback));
        assert_eq!(source_for((loopback, 9).into()).unwrap(), loopback);
    }
}
