//! Links: each node has one, to everybody else, with loss, delay, duplicates and cuts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    beside::Between,
    dice::Dice,
    founding::RELAY,
    nat::Nat,
    plan::{Plan, RETRANSMIT},
    schedule::Who,
    stranger::ADDRESS,
};

/// Largest datagram that a link carries, in bytes of UDP payload.
///
/// Source: an Ethernet frame of 1,500 bytes less IPv6 and UDP headers (RFC 8200, RFC 768).
const PAYLOAD_MAX: usize = 1_452;

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    plan: Plan,
    links: BTreeMap<Who, Link>,
    /// What becomes of datagrams that do not go through the relay.
    pub(crate) between: Between,
    /// Addresses that nodes had before they moved.
    left: BTreeSet<SocketAddr>,
    /// What a relay draws its lies from that tells ends where they are.
    lies: Option<Dice>,
}

#[derive(Debug)]
struct Link {
    dice: Dice,
    address: SocketAddr,
    is_cut: bool,
    /// The one direction in which nothing passes, when the other one works.
    dead: Option<Way>,
    /// Before its socket for direct paths; `None` when it has none.
    nat: Option<Nat>,
    /// Datagrams of tunnels pass, and these controllers cannot be reached.
    unreached: BTreeSet<usize>,
}

/// A direction of a node's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From everybody else.
    In,
    /// To everybody else.
    Out,
}

impl Network {
    pub(crate) fn new(seed: u64, plan: &Plan) -> Self {
        let devices = (0..plan.devices).map(Who::Device);
        let sites = (0..plan.connectors).map(Who::Site);
        let is_direct = Dice::new(seed, "direct").chance(700);
        let link = |who: Who| {
            let (name, address) = match who {
                Who::Device(index) => (format!("device {index}"), [192, 0, 2, last(index)]),
                Who::Site(index) => (format!("site {index}"), [198, 51, 100, last(index)]),
            };
            let mut dice = Dice::new(seed, &format!("{name} nat"));
            let inside = match who {
                Who::Device(index) => [10, 1, 0, last(index)],
                Who::Site(index) => [10, 2, 0, last(index)],
            };
            let has_socket = is_direct && dice.chance(900);
            let nat = has_socket.then(|| Nat::new(&mut dice, inside.into(), address.into()));
            let link = Link {
                nat,
                dice: Dice::new(seed, &name),
                address: SocketAddr::from((address, 40_000)),
                is_cut: false,
                dead: None,
                unreached: BTreeSet::new(),
            };
            (who, link)
        };
        Self {
            plan: plan.clone(),
            links: devices.chain(sites).map(link).collect(),
            between: Between::default(),
            left: BTreeSet::new(),
            lies: {
                let mut dice = Dice::new(seed, "lying relay");
                dice.chance(300).then_some(dice)
            },
        }
    }

    /// The address under which a node is seen.
    pub(crate) fn address(&self, who: Who) -> Option<SocketAddr> {
        self.links.get(&who).map(|link| link.address)
    }

    /// Who is seen under an address.
    pub(crate) fn holder(&self, address: SocketAddr) -> Option<Who> {
        self.links
            .iter()
            .find(|(_, link)| link.address == address)
            .map(|(who, _)| *who)
    }

    /// Gives a node another port, as a NAT that forgot does.
    pub(crate) fn roam(&mut self, who: Who) {
        if let Some(link) = self.links.get_mut(&who) {
            let port = link.address.port().wrapping_add(1).max(1_024);
            link.address.set_port(port);
            if let Some(nat) = &mut link.nat {
                self.left.extend(nat.outside());
                nat.forget();
            }
        }
    }

    /// The address of a node's socket for direct paths, as the node knows it.
    pub(crate) fn host(&self, who: Who) -> Option<SocketAddr> {
        self.nat(who).map(Nat::host)
    }

    /// The source of what a node sends directly, as others see it.
    pub(crate) fn outbound(&mut self, who: Who, to: SocketAddr) -> Option<SocketAddr> {
        let link = self.links.get_mut(&who)?;
        link.nat.as_mut().map(|nat| nat.outbound(to))
    }

    /// An address under which others see a node's socket for direct paths.
    pub(crate) fn outside(&self, who: Who) -> Option<SocketAddr> {
        self.nat(who)?.outside().next()
    }

    /// Who is behind an address of a NAT.
    pub(crate) fn behind(&self, address: SocketAddr) -> Option<Who> {
        let mut links = self.links.iter();
        links
            .find(|(_, link)| link.nat.as_ref().is_some_and(|nat| nat.holds(address)))
            .map(|(who, _)| *who)
    }

    /// Whether somebody was behind an address before they moved.
    pub(crate) fn was_behind(&self, address: SocketAddr) -> bool {
        self.left.contains(&address)
    }

    /// Where a lying relay says that somebody is.
    pub(crate) fn lie(&mut self) -> Option<SocketAddr> {
        let named = [
            ADDRESS,
            "127.0.0.1:1",
            "224.0.0.1:1",
            "10.1.0.10:4711",
            RELAY,
        ];
        let dice = self
            .lies
            .as_mut()
            .filter(|_| self.between != Between::Shut)?;
        if !dice.chance(500) {
            return None;
        }
        dice.pick(&named)?.parse().ok()
    }

    /// Whether the NAT of a node lets this in.
    pub(crate) fn admits(&self, who: Who, from: SocketAddr, to: SocketAddr) -> bool {
        self.nat(who).is_some_and(|nat| nat.admits(from, to))
    }

    fn nat(&self, who: Who) -> Option<&Nat> {
        self.links.get(&who)?.nat.as_ref()
    }

    pub(crate) fn cut(&mut self, who: Who, is_cut: bool) {
        if let Some(link) = self.links.get_mut(&who) {
            link.is_cut = is_cut;
        }
    }

    pub(crate) fn is_cut(&self, who: Who) -> bool {
        self.links.get(&who).is_none_or(|link| link.is_cut)
    }

    /// Takes one direction of a link, or gives both back.
    pub(crate) fn halve(&mut self, who: Who, dead: Option<Way>) {
        if let Some(link) = self.links.get_mut(&who) {
            link.dead = dead;
        }
    }

    /// Takes the way to some controllers alone, and leaves the one to the relay.
    pub(crate) fn deafen(&mut self, who: Who, unreached: BTreeSet<usize>) {
        if let Some(link) = self.links.get_mut(&who) {
            link.unreached = unreached;
        }
    }

    /// Whether nothing passes between a node and a controller in one direction.
    pub(crate) fn is_deaf(&self, who: Who, member: usize, way: Way) -> bool {
        self.links.get(&who).is_none_or(|link| {
            link.is_cut || link.dead == Some(way) || link.unreached.contains(&member)
        })
    }

    /// Whether a node and a controller can converse.
    pub(crate) fn reaches(&self, who: Who, member: usize) -> bool {
        let is_deaf = |way| self.is_deaf(who, member, way);
        !is_deaf(Way::In) && !is_deaf(Way::Out)
    }

    /// When a datagram over a node's link arrives: never, once, or twice.
    pub(crate) fn datagram(
        &mut self,
        now: Instant,
        (who, way): (Who, Way),
        length: usize,
    ) -> Vec<Instant> {
        let Some(link) = self.links.get_mut(&who) else {
            return Vec::new();
        };
        let (low, high) = self.plan.delay;
        let first = now + link.dice.between(low, high);
        let second = now + link.dice.between(low, high);
        let is_lost = link.dice.chance(self.plan.loss);
        let is_double = link.dice.chance(self.plan.duplicates);
        let is_stopped = link.is_cut || link.dead == Some(way);
        if is_lost || is_stopped || length > PAYLOAD_MAX {
            return Vec::new();
        }
        if is_double {
            vec![first, second]
        } else {
            vec![first]
        }
    }

    /// How long a message takes on a channel over a node's link: reliable, so only later.
    pub(crate) fn message(&mut self, who: Who) -> Duration {
        let (low, high) = self.plan.delay;
        let Some(link) = self.links.get_mut(&who) else {
            return high;
        };
        let delay = link.dice.between(low, high);
        if link.dice.chance(self.plan.loss) {
            delay + RETRANSMIT
        } else {
            delay
        }
    }

    /// Everything is well from now on.
    pub(crate) fn heal(&mut self) {
        self.plan.loss = 0;
        self.plan.duplicates = 0;
        self.between = Between::Open;
        self.lies = None;
        for link in self.links.values_mut() {
            link.is_cut = false;
            link.dead = None;
            link.unreached.clear();
        }
    }
}

fn last(index: usize) -> u8 {
    u8::try_from(index).map_or(250, |index| index.saturating_add(10))
}
