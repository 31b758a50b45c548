//! Links, addresses, routes and rules, by rtnetlink. Source: `rtnetlink(7)`, `linux/fib_rules.h`.

use std::{io, net::IpAddr};

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::SocketAddrNetlink, recv, send, socket_with,
    },
};

use super::TunError;

/// An address and how many of its bits name the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// The bits.
    pub bits: u8,
}

impl Prefix {
    /// One address alone.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Self { address, bits }
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let shift = |width: u32| width.saturating_sub(u32::from(self.bits));
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differ = u32::from(a) ^ u32::from(b);
                differ.checked_shr(shift(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differ = u128::from(a) ^ u128::from(b);
                differ.checked_shr(shift(128)).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether they have an address in common.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

/// The kernel's network configuration, as it is changed.
#[derive(Debug)]
pub struct Network {
    socket: OwnedFd,
    sequence: u32,
}

impl Network {
    /// Opens the way to the kernel.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open() -> Result<Self, TunError> {
        let open = || {
            let socket = socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                // NETLINK_ROUTE is number 0.
                None,
            )?;
            bind(&socket, &SocketAddrNetlink::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|error| TunError::of("opening netlink", error))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// The number of the interface `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn index(&self, name: &str) -> Result<u32, TunError> {
        rustix::net::netdevice::name_to_index(&self.socket, name)
            .map_err(|error| TunError::of("finding the interface", error))
    }

    /// Brings an interface up; the kernel joins packets to at most `joined_bytes`.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn set_up(&mut self, index: u32, mtu: usize, joined_bytes: usize) -> Result<(), TunError> {
        let word = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_ne_bytes();
        let mut message = Message::new(NEW_LINK, 0);
        // struct ifinfomsg: family, pad, type, index, flags, change.
        message.push(&[0; 4]);
        message.push(&index.to_ne_bytes());
        message.push(&FLAG_UP.to_ne_bytes());
        message.push(&FLAG_UP.to_ne_bytes());
        message.attribute(LINK_MTU, &word(mtu));
        message.attribute(LINK_GSO_BYTES, &word(joined_bytes));
        self.ask(message, "bringing the interface up")
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn add_address(&mut self, index: u32, address: IpAddr) -> Result<(), TunError> {
        let prefix = Prefix::host(address);
        let mut message = Message::new(NEW_ADDRESS, CREATE | REPLACE);
        // struct ifaddrmsg: family, bits, flags, scope, index.
        message.push(&[family(address), prefix.bits, 0, 0]);
        message.push(&index.to_ne_bytes());
        message.address(ADDRESS_LOCAL, address);
        message.address(ADDRESS_ADDRESS, address);
        if address.is_ipv6() {
            // Nobody else is on a TUN: no time for duplicate address detection.
            message.attribute(ADDRESS_FLAGS, &NO_DAD.to_ne_bytes());
        }
        self.ask(message, "giving the interface an address")
    }

    /// Sends packets for `to` through an interface, by a table of ours; what this host sends has the
    /// address `source`, if one is given.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn add_route(
        &mut self,
        (index, table): (u32, u32),
        to: Prefix,
        source: Option<IpAddr>,
    ) -> Result<(), TunError> {
        let mut message = Message::new(NEW_ROUTE, CREATE | REPLACE);
        route(&mut message, index, table, to);
        if let Some(source) = source {
            message.address(ROUTE_SOURCE, source);
        }
        self.ask(message, "adding a route")
    }

    /// Takes a route out of a table of ours; one that is not there is no error.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn remove_route(&mut self, index: u32, table: u32, to: Prefix) -> Result<(), TunError> {
        let mut message = Message::new(DELETE_ROUTE, 0);
        route(&mut message, index, table, to);
        absent(self.ask(message, "removing a route"))
    }

    /// Has packets for `to` look into a table of ours first.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn add_rule(&mut self, to: Prefix, table: u32, priority: u32) -> Result<(), TunError> {
        let mut message = Message::new(NEW_RULE, CREATE | EXCLUSIVE);
        rule(&mut message, to, table, priority);
        match self.ask(message, "adding a rule") {
            Err(TunError::Kernel { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(())
            }
            result => result,
        }
    }

    /// Takes a rule away; one that is not there is no error.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn remove_rule(&mut self, to: Prefix, table: u32, priority: u32) -> Result<(), TunError> {
        let mut message = Message::new(DELETE_RULE, 0);
        rule(&mut message, to, table, priority);
        absent(self.ask(message, "removing a rule"))
    }

    /// Sends one request and waits for the kernel's answer, which comes at once.
    fn ask(&mut self, message: Message, what: &'static str) -> Result<(), TunError> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence);
        send(&self.socket, &bytes, SendFlags::empty())
            .map_err(|error| TunError::of(what, error))?;
        let mut answer = [0; 4_096];
        loop {
            let (len, _) = recv(&self.socket, &mut answer[..], RecvFlags::empty())
                .map_err(|error| TunError::of(what, error))?;
            let answer = answer.get(..len).unwrap_or_default();
            // struct nlmsghdr: length, type, flags, sequence, port; then struct nlmsgerr's error.
            let number = |at: usize| answer.get(at..).and_then(<[u8]>::first_chunk::<4>);
            let is_ours =
                number(8).is_some_and(|bytes| u32::from_ne_bytes(*bytes) == self.sequence);
            let kind = answer.get(4..).and_then(<[u8]>::first_chunk::<2>);
            if !is_ours || kind.is_none_or(|kind| u16::from_ne_bytes(*kind) != ERROR) {
                continue;
            }
            let code = number(16).map_or(0, |bytes| i32::from_ne_bytes(*bytes));
            return match code {
                0 => Ok(()),
                code => Err(TunError::of(
                    what,
                    rustix::io::Errno::from_raw_os_error(code.saturating_neg()),
                )),
            };
        }
    }
}

/// What is not there need not be removed.
fn absent(result: Result<(), TunError>) -> Result<(), TunError> {
    match result {
        Err(TunError::Kernel { error, .. })
            if matches!(
                error
                    .raw_os_error()
                    .map(rustix::io::Errno::from_raw_os_error),
                Some(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH)
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// `struct rtmsg` and the attributes of every route.
fn route(message: &mut Message, index: u32, table: u32, to: Prefix) {
    // Family, bits of destination and source, type of service, table, protocol, scope, type, flags.
    let scope = if to.address.is_ipv4() { SCOPE_LINK } else { 0 };
    message.push(&[family(to.address), to.bits, 0, 0]);
    message.push(&[TABLE_UNSPECIFIED, PROTOCOL_STATIC, scope, TYPE_UNICAST]);
    message.push(&[0; 4]);
    message.address(ROUTE_DESTINATION, to.address);
    message.attribute(ROUTE_INTERFACE, &index.to_ne_bytes());
    message.attribute(ROUTE_TABLE, &table.to_ne_bytes());
}

/// `struct fib_rule_hdr` and the attributes of every rule.
fn rule(message: &mut Message, to: Prefix, table: u32, priority: u32) {
    message.push(&[family(to.address), to.bits, 0, 0]);
    message.push(&[TABLE_UNSPECIFIED, 0, 0, ACTION_TABLE]);
    message.push(&[0; 4]);
    message.address(RULE_DESTINATION, to.address);
    message.attribute(RULE_PRIORITY, &priority.to_ne_bytes());
    message.attribute(ROUTE_TABLE, &table.to_ne_bytes());
}

/// A request that is being written: `struct nlmsghdr`, a body, attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let flags = REQUEST | ACKNOWLEDGE | flags;
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        Self(bytes)
    }

    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// `struct rtattr`, padded to four bytes.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.push(&len.to_ne_bytes());
        self.push(&kind.to_ne_bytes());
        self.push(value);
        let padded = self.0.len().next_multiple_of(4);
        self.0.resize(padded, 0);
    }

    fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    fn finish(self, sequence: u32) -> Vec<u8> {
        let mut bytes = self.0;
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        for (to, from) in bytes.iter_mut().zip(len.to_ne_bytes()) {
            *to = from;
        }
        for (to, from) in bytes.iter_mut().skip(8).zip(sequence.to_ne_bytes()) {
            *to = from;
        }
        bytes
    }
}

const fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

const ERROR: u16 = 2;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const FLAG_UP: u32 = 1;
const LINK_MTU: u16 = 4;
const LINK_GSO_BYTES: u16 = 41;
const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_FLAGS: u16 = 8;
const NO_DAD: u32 = 0x02;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_SOURCE: u16 = 7;
const ROUTE_TABLE: u16 = 15;
const TABLE_UNSPECIFIED: u8 = 0;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;
const RULE_DESTINATION: u16 = 1;
const RULE_PRIORITY: u16 = 6;
const ACTION_TABLE: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_meet_when_they_share_an_address() {
        let prefix = |text: &str| {
            let (address, bits) = text.split_once('/').unwrap();
            Prefix {
                address: address.parse().unwrap(),
                bits: bits.parse().unwrap(),
            }
        };
        let range = prefix("100.64.0.0/10");
        assert!(range.contains("100.127.255.255".parse().unwrap()));
        assert!(!range.contains("100.128.0.0".parse().unwrap()));
        assert!(!range.contains("fd00::1".parse().unwrap()));
        assert!(range.meets(&prefix("100.100.0.0/16")));
        assert!(range.meets(&prefix("0.0.0.0/0")));
        assert!(!range.meets(&prefix("10.0.0.0/8")));
        assert!(prefix("fd00::/8").meets(&prefix("fd12::1/128")));
    }

    #[test]
    fn a_request_has_its_length_and_padded_attributes() {
        let mut message = Message::new(NEW_RULE, CREATE);
        message.attribute(7, &[1, 2, 3]);
        let bytes = message.finish(9);
        assert_eq!(bytes.len(), 24);
        assert_eq!(bytes[..4], 24_u32.to_ne_bytes());
        assert_eq!(bytes[8..12], 9_u32.to_ne_bytes());
        assert_eq!(bytes[16..18], 7_u16.to_ne_bytes());
        assert_eq!(bytes[20..], [1, 2, 3, 0]);
    }
}
