//! Where a connector may dial: the app's targets, and never the connector's own host by accident.

use std::net::{IpAddr, SocketAddr};

use cardea_proto::{
    app::{Service, Target},
    scope::{Scope, arrives_at},
};

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
        let reached = arrives_at(address);
        let scope = Scope::of(address);
        let named = target.address();
        if named.is_some_and(|named| named != address) || scope == Some(Scope::Many) {
            return Err(DropReason::NotPermitted);
        }
        let listed = |list: &[IpAddr]| list.iter().any(|other| arrives_at(*other) == reached);
        let guarded = scope.is_some() || listed(own) || listed(&self.never);
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
