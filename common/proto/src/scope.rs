//! Addresses that mean one host, one link or everybody: what an app leads to only where it is meant.
//!
//! The controller asks before an app is published, the connector before it dials: one answer for both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of place an address is, when it is not one host in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The host that dials it.
    Loopback,
    /// Its link; a cloud's metadata is at such an address.
    LinkLocal,
    /// A cloud's metadata, elsewhere.
    Metadata,
    /// No host at all, or as some systems have it the one that dials it.
    Unspecified,
    /// Set aside for some later use. Source: RFC 1112 §4.
    Reserved,
    /// Any IPv4 address: a NAT64's local prefix does not tell which. Source: RFC 8215.
    LocalNat64,
    /// Many hosts, which nobody dials.
    Many,
}

impl Scope {
    /// As people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local or metadata address",
            Self::Metadata => "a metadata address",
            Self::Unspecified => "an unspecified address",
            Self::Reserved => "a reserved address",
            Self::LocalNat64 => "an address of a NAT64's local prefix",
            Self::Many => "a multicast or broadcast address",
        }
    }

    /// The scope of the place where a packet to `address` arrives.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        match arrives_at(address) {
            IpAddr::V4(v4) => {
                let [first, ..] = v4.octets();
                match () {
                    () if v4.is_loopback() => Some(Self::Loopback),
                    () if v4.is_link_local() => Some(Self::LinkLocal),
                    () if first == 0 => Some(Self::Unspecified),
                    () if v4.is_multicast() || v4.is_broadcast() => Some(Self::Many),
                    () if first >= 240 => Some(Self::Reserved),
                    () => (v4 == METADATA_ALIYUN).then_some(Self::Metadata),
                }
            }
            IpAddr::V6(v6) => match v6.segments() {
                _ if v6.is_loopback() => Some(Self::Loopback),
                _ if v6.is_unspecified() => Some(Self::Unspecified),
                _ if v6.is_unicast_link_local() => Some(Self::LinkLocal),
                _ if v6.is_multicast() => Some(Self::Many),
                [0x64, 0xff9b, 1, ..] => Some(Self::LocalNat64),
                [0xfd00, 0xec2, ..] => Some(Self::Metadata),
                _ => (v6 == METADATA_GCP_V6).then_some(Self::Metadata),
            },
        }
    }
}

/// The address at which a packet to `address` arrives: the IPv4 one inside, where there is one.
#[must_use]
pub fn arrives_at(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let inside = match v6.segments() {
        // NAT64's well-known prefix: RFC 6052 §2.1. 6to4: RFC 3056 §2.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some((high, low)),
        // SIIT's translated form: RFC 2765 §2.1.
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some((high, low)),
        // Compatible: RFC 4291 §2.5.5.1.
        [0, 0, 0, 0, 0, 0, high, low]
            if v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED =>
        {
            Some((high, low))
        }
        _ => None,
    };
    inside.map_or_else(
        || v6.to_canonical(),
        |(high, low)| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
    )
}

/// Metadata services outside of link-local space, as their providers document them; that of
/// `fd00:ec2::/32` is told by its prefix.
const METADATA_ALIYUN: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
const METADATA_GCP_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254);
