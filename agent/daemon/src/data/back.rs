//! The connector's network interface: packets leave tunnels for apps as the kernel's own.
//!
//! ```text
//! opened and checked ─▶ the app's target, from an address lent to the grant ─▶ kernel: forward, source NAT
//! its tunnel ◀─ the app's inner address ◀─ is it from that target? ◀─ kernel: to the lent address
//! ```
//!
//! Only exact targets that are literal addresses go this way, in the family that the packet has and
//! where the kernel forwards it; everything else becomes flows that are dialed, as without an interface.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use cardea_host::{
    addresses,
    nat::{Nat, NatError},
    tun::{Network, TunError},
};
use cardea_proto::{
    access::InnerAddresses,
    app::{Service, Target},
    id::GrantId,
};
use cardea_tunnel::{
    Bundle, Command, DropReason, Egress, Packets, bundle,
    packet::{Body, Packet},
};

use super::{front::unless_off, stack::Stack};
use crate::virtual_addresses::{Both, Ranges, VirtualAddresses};

/// Name of the interface.
const NAME: &str = "cardea1";

/// Number of our routing table, and place of its rules: before the main table's (32,766).
const TABLE: u32 = 7_444;
const PRIORITY: u32 = 5_211;

/// How long the check of a target's address is good: this machine's own addresses may change.
const CHECK_TIME: Duration = Duration::from_secs(1);

/// The interface, and the addresses lent to grants.
#[derive(Debug)]
pub(crate) struct Back {
    pub(super) stack: Stack,
    nat: Nat,
    lender: VirtualAddresses,
    places: BTreeMap<GrantId, Place>,
    grants: BTreeMap<IpAddr, GrantId>,
}

/// Where the packets of a grant come from and go to.
#[derive(Debug)]
struct Place {
    lent: Both,
    inner: InnerAddresses,
    egress: Egress,
    targets: Vec<Literal>,
    /// This host's addresses.
    own: Vec<IpAddr>,
    checked: Option<Instant>,
}

/// A target that is an address.
#[derive(Debug)]
struct Literal {
    target: Target,
    at: SocketAddr,
    /// Whether it may be dialed, as things are.
    is_permitted: bool,
    /// Whether it is this very host.
    is_own: bool,
}

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackError {
    #[error(transparent)]
    Tun(#[from] TunError),
    #[error(transparent)]
    Nat(#[from] NatError),
}

impl Back {
    /// Makes the interface and the kernel's rules.
    pub(crate) fn open(ranges: Ranges) -> Result<Self, BackError> {
        let lender = VirtualAddresses::new(ranges, addresses::networks(), BTreeMap::new());
        let mut stack = Stack::open(NAME)?;
        let Stack { network, index, .. } = &mut stack;
        for (range, v6) in lender.ranges().prefixes().into_iter().zip([false, true]) {
            // The interface has no address of its own: a server on this host that answers from any
            // address would choose it.
            let made = network
                .add_rule(range, TABLE, PRIORITY)
                .and_then(|()| network.add_route((*index, TABLE), range, None));
            unless_off(v6, made)?;
        }
        let nat = Nat::set(stack.name(), lender.ranges().prefixes())?;
        tracing::info!(
            interface = stack.name(),
            "apps are reached through the kernel"
        );
        Ok(Self {
            stack,
            nat,
            lender,
            places: BTreeMap::new(),
            grants: BTreeMap::new(),
        })
    }

    /// Takes note of a command; says which families of a new grant's packets are for the kernel.
    pub(super) fn note_command(&mut self, command: &Command) -> Option<(GrantId, bool, bool)> {
        match command {
            Command::Install(install) => {
                self.forget(install.grant);
                let egress = install.egress.clone()?;
                let grants = &self.grants;
                let lent = self
                    .lender
                    .lend(|both| grants.contains_key(&both.of(false)))?;
                let place = Place::new(lent, install.inner, egress);
                let v4 = place.serves(&install.services, false);
                let v6 = self.nat.forwards_v6() && place.serves(&install.services, true);
                for v6 in [false, true] {
                    self.grants.insert(lent.of(v6), install.grant);
                }
                self.places.insert(install.grant, place);
                Some((install.grant, v4, v6))
            }
            Command::Remove { grant } => {
                self.forget(*grant);
                None
            }
            Command::Extend { .. } => None,
        }
    }

    /// A grant is gone.
    pub(super) fn forget(&mut self, grant: GrantId) {
        if let Some(place) = self.places.remove(&grant) {
            for v6 in [false, true] {
                self.grants.remove(&place.lent.of(v6));
            }
        }
    }

    /// Gives opened packets to the kernel, each on its way to the app's target; says how many were
    /// for a target that may not be dialed.
    pub(super) fn deliver(&mut self, now: Instant, packets: &mut Packets) -> u64 {
        let mut refused = 0;
        let places = &mut self.places;
        packets.retain(|grant, packet, bytes| {
            let Some(place) = places.get_mut(&grant) else {
                return false;
            };
            place.check(now);
            let v6 = packet.source.is_ipv6();
            let Some(target) = place.target(packet, packet.destination_port, packet.source_port)
            else {
                refused += 1;
                return false;
            };
            bundle::readdress(bytes, packet, place.lent.of(v6), target.at.ip());
            true
        });
        self.stack.write(packets);
        refused
    }

    /// The tunnel of a packet that the kernel sent to a lent address, which then has inner addresses.
    pub(super) fn route(
        &mut self,
        now: Instant,
        bundle: &mut Bundle<'_>,
    ) -> Result<GrantId, DropReason> {
        let packet = *bundle.packet();
        let grant = self
            .grants
            .get(&packet.destination)
            .ok_or(DropReason::WrongDestination)?;
        let place = self
            .places
            .get_mut(grant)
            .ok_or(DropReason::WrongDestination)?;
        place.check(now);
        let target = place
            .target(&packet, packet.source_port, packet.destination_port)
            .ok_or(DropReason::NotPermitted)?;
        // A server of this host that listens at any address may answer from another one of them.
        let is_it = target.at.ip() == packet.source
            || (target.is_own && place.own.contains(&packet.source));
        if !is_it {
            return Err(DropReason::SpoofedSource);
        }
        let inner = &place.inner;
        if packet.source.is_ipv6() {
            bundle.readdress(inner.app_v6.into(), inner.device_v6.into());
        } else {
            bundle.readdress(inner.app_v4.into(), inner.device_v4.into());
        }
        Ok(*grant)
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        for range in self.lender.ranges().prefixes() {
            let removed =
                Network::open().and_then(|mut network| network.remove_rule(range, TABLE, PRIORITY));
            if let Err(error) = removed {
                tracing::warn!(%error, "a routing rule stays");
            }
        }
    }
}

impl Place {
    fn new(lent: Both, inner: InnerAddresses, egress: Egress) -> Self {
        let targets = egress
            .targets
            .iter()
            .filter_map(|target| {
                let address = target.address().filter(|address| !address.is_loopback())?;
                let at = SocketAddr::new(address, target.service.port);
                Some(Literal {
                    target: target.clone(),
                    at,
                    is_permitted: false,
                    is_own: false,
                })
            })
            .collect();
        Self {
            lent,
            inner,
            egress,
            targets,
            own: Vec::new(),
            checked: None,
        }
    }

    /// Whether every service has a target of a family, and no target that only a dial reaches.
    fn serves(&self, services: &[Service], v6: bool) -> bool {
        self.targets.len() == self.egress.targets.len()
            && services.iter().all(|service| {
                self.targets
                    .iter()
                    .any(|one| one.target.service == *service && one.at.is_ipv6() == v6)
            })
    }

    /// Decides anew which targets may be dialed, once in a while.
    fn check(&mut self, now: Instant) {
        if self.checked.is_some_and(|at| now < at + CHECK_TIME) {
            return;
        }
        self.checked = Some(now);
        self.own = addresses::own();
        let own = &self.own;
        for one in &mut self.targets {
            let address = one.at.ip();
            one.is_permitted = self.egress.permit(&one.target, address, own).is_ok();
            one.is_own = own.contains(&address);
        }
    }

    /// Where a packet goes or must come from: of several targets always the same for one flow.
    fn target(&self, packet: &Packet, app_port: u16, device_port: u16) -> Option<&Literal> {
        let v6 = packet.source.is_ipv6();
        let matches = |one: &&Literal| {
            let Service { protocol, port } = one.target.service;
            one.at.is_ipv6() == v6
                && match packet.body.protocol() {
                    Some(asked) => (protocol, port) == (asked, app_port),
                    None => matches!(packet.body, Body::Echo { .. }),
                }
        };
        let all = || self.targets.iter().filter(matches);
        let turn = usize::from(device_port).checked_rem(all().count())?;
        all().nth(turn).filter(|one| one.is_permitted)
    }
}
