//! Where a connector may dial: the app's targets, and never the connector's own host by accident.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cardea_proto::app::{Service, Target};

use crate::drops::DropReason;

/// The places that one app's flows may go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The exact targets.
    pub targets: Vec<Target>,
    /// Whether targets on the connector's own host, link-local and metadata addresses are meant.
    pub host_scoped: bool,
    /// Addresses of controllers and relays.
    pub never: Vec<IpAddr>,
}

/// An address that may be dialed: what [`Egress::permit`] alone makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermittedAddress(SocketAddr);

impl PermittedAddress {
    /// The literal address to dial.
    #[must_use]
    pub const fn socket(&self) -> SocketAddr {
        self.0
    }
}

impl Egress {
    /// The target for a flow to `service`; several of one service take turns by `turn`.
    #[must_use]
    pub fn target(&self, service: Service, turn: usize) -> Option<&Target> {
        let matching = || {
            self.targets
                .iter()
                .filter(|target| target.service == service)
        };
        let count = matching().count();
        matching().nth(turn.checked_rem(count)?)
    }

    /// Decides whether `address`, which `target` is or resolved to, may be dialed.
    ///
    /// Loopback, link-local (cloud metadata is there), unspecified, private-to-host and the
    /// connector's `own` addresses, and those of controllers and relays are refused, unless the
    /// target is that literal address and the app was published as host-scoped. Multicast and
    /// broadcast are never dialed. The check is on what is really dialed: an IPv4 address inside an
    /// IPv6 one (mapped, or NAT64) counts as itself.
    ///
    /// # Errors
    /// [`DropReason::NotPermitted`] when it may not.
    pub fn permit(
        &self,
        target: &Target,
        address: IpAddr,
        own: &[IpAddr],
    ) -> Result<PermittedAddress, DropReason> {
        if !self.targets.contains(target) {
            return Err(DropReason::NotPermitted);
        }
        let reached = unwrapped(address);
        let named = target.address();
        if named.is_some_and(|named| named != address) || is_to_many(reached) {
            return Err(DropReason::NotPermitted);
        }
        let listed = |list: &[IpAddr]| list.iter().any(|other| unwrapped(*other) == reached);
        let guarded = is_host_scoped(reached) || listed(own) || listed(&self.never);
        let meant = self.host_scoped && named == Some(address);
        if guarded && !meant {
            return Err(DropReason::NotPermitted);
        }
        Ok(PermittedAddress(SocketAddr::new(
            address,
            target.service.port,
        )))
    }
}

/// The address at which a packet to `address` arrives: the IPv4 one inside, where there is one.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let segments = v6.segments();
    // NAT64's well-known prefix: RFC 6052 §2.1. 6to4: RFC 3056 §2. Compatible: RFC 4291 §2.5.5.1.
    let inside = match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some((high, low)),
        [0x2002, high, low, ..] => Some((high, low)),
        // SIIT's translated form: RFC 2765 §2.1.
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some((high, low)),
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

fn is_to_many(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

/// Addresses that mean this host, this link, or the cloud's metadata service on it.
fn is_host_scoped(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            v4.is_loopback()
                || v4.is_link_local()
                || first == 0
                || first >= 240
                || v4 == METADATA_ALIYUN
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6 == METADATA_AWS_V6
                || v6 == METADATA_GCP_V6
                // A NAT64's local prefix (RFC 8215) does not tell where in it the IPv4 address
                // stands, so that any of them may be one of the above.
                || v6.segments().starts_with(&[0x64, 0xff9b, 1])
        }
    }
}

/// Metadata services outside of link-local space, as their providers document them.
const METADATA_ALIYUN: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
const METADATA_AWS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
const METADATA_GCP_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_app_names_is_dialed() {
        check("10.9.0.10:80", false, "10.9.0.10", true);
        check("10.9.0.10:80", false, "10.9.0.11", false);
        check("wiki.corp.example:80", false, "10.9.0.11", true);
        check("[2001:db8::1]:80", false, "2001:db8::1", true);
    }

    #[test]
    fn the_host_the_link_and_the_controller_are_dialed_only_when_named_exactly() {
        for literal in [
            "127.0.0.1",
            "169.254.169.254",
            "192.0.2.7",
            "203.0.113.1",
            "0.0.0.0",
        ] {
            check(&format!("{literal}:80"), false, literal, false);
            check(&format!("{literal}:80"), true, literal, true);
            check("wiki.corp.example:80", true, literal, false);
        }
        check("[::1]:80", false, "::1", false);
        check("[::1]:80", true, "::1", true);
    }

    #[test]
    fn an_address_in_disguise_counts_as_itself() {
        for disguise in [
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "::127.0.0.1",
            "2002:7f00:1::1",
            "::ffff:0:169.254.169.254",
            "64:ff9b:1::a9fe:a9fe",
            "::ffff:203.0.113.1",
            "fe80::1",
            "fd00:ec2::254",
        ] {
            check("wiki.corp.example:80", false, disguise, false);
            check("wiki.corp.example:80", true, disguise, false);
        }
    }

    #[test]
    fn many_are_never_dialed() {
        for literal in ["224.0.0.1", "255.255.255.255"] {
            check(&format!("{literal}:80"), true, literal, false);
        }
        check("[ff02::1]:80", true, "ff02::1", false);
    }

    #[test]
    fn targets_of_one_service_take_turns() {
        let targets: Vec<Target> = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:53/udp"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let egress = Egress {
            targets: targets.clone(),
            host_scoped: false,
            never: Vec::new(),
        };
        assert_eq!(egress.target(targets[0].service, 0), Some(&targets[0]));
        assert_eq!(egress.target(targets[0].service, 1), Some(&targets[1]));
        assert_eq!(egress.target(targets[0].service, 2), Some(&targets[0]));
        assert_eq!(egress.target(targets[2].service, 9), Some(&targets[2]));
        let other = "10.0.0.1:81".parse::<Target>().unwrap().service;
        assert_eq!(egress.target(other, 0), None);
    }

    /// With 192.0.2.7 as the connector's own address and 203.0.113.1 as the controller's.
    fn check(target: &str, host_scoped: bool, address: &str, permitted: bool) {
        let target: Target = target.parse().unwrap();
        let egress = Egress {
            targets: vec![target.clone()],
            host_scoped,
            never: vec!["203.0.113.1".parse().unwrap()],
        };
        let own = ["192.0.2.7".parse().unwrap()];
        let result = egress.permit(&target, address.parse().unwrap(), &own);
        assert_eq!(
            result.is_ok(),
            permitted,
            "{target} {host_scoped} {address}"
        );
    }
}
