//! The villain: a device with a valid certificate and a modified agent.
//!
//! It keeps tunnels that were withdrawn, gives them ports and addresses that were not granted, sends
//! again what it heard on the wire, asks with offers of others, and meddles in grants of others.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    time::Duration,
};

use cardea_proto::{
    access::Signed,
    app::{Carrier, Protocol, Service},
    id::GrantId,
    message::FromNode,
};
use cardea_tunnel::{Command, Input, Install};

use crate::{
    founding::{RELAYS, app_name},
    schedule::{Event, Who},
    user::SERVICES,
    world::World,
};

/// Things that the villain keeps of each kind.
const KEPT_MAX: usize = 32;

/// The villain's first own request; the agent inside counts from 1.
const REQUESTS: u64 = 1 << 40;

/// A port that no app has.
const CLOSED_PORT: Service = Service {
    protocol: Protocol::Tcp,
    port: 22,
};

/// What a villain knows and has.
#[derive(Debug, Default)]
pub(crate) struct Villain {
    installs: VecDeque<Install>,
    /// Grants with the app that each is for, and whether its tunnel has forged addresses.
    grants: BTreeMap<GrantId, (usize, bool)>,
    offers: VecDeque<(usize, Signed)>,
    heard: VecDeque<Vec<u8>>,
    requests: u64,
}

impl Villain {
    /// Whether the tunnel of a grant was given addresses that were not granted.
    pub(crate) fn forges(&self, grant: GrantId) -> bool {
        self.grants.get(&grant).is_some_and(|(_, forged)| *forged)
    }
}

impl World {
    /// What becomes of a command on its way from the agent to its tunnels: the villain bends it.
    pub(crate) fn tamper(&mut self, index: usize, command: Command) -> Vec<Command> {
        if index != self.plan.villain() {
            return vec![command];
        }
        match command {
            Command::Install(install) => {
                let kept = copy(&install);
                if let Some(villain) = self.villain() {
                    keep(&mut villain.installs, kept);
                }
                vec![self.bend(*install)]
            }
            Command::Extend {
                grant,
                ticket,
                standby,
                ..
            } => vec![Command::Extend {
                grant,
                ttl: Duration::from_secs(3_600),
                ticket,
                standby,
            }],
            Command::Remove { .. } if self.dice.chance(700) => Vec::new(),
            Command::Remove { grant } => vec![Command::Remove { grant }],
        }
    }

    /// Everybody's offers can be heard.
    pub(crate) fn overhear(&mut self, index: usize, message: &FromNode) {
        if let FromNode::Request { app, offer, .. } = message
            && let Some(app) = (0..self.plan.apps).find(|number| app_name(*number) == *app)
            && let Some(villain) = self.villain()
        {
            keep(&mut villain.offers, (app, offer.clone()));
            let _ = index;
        }
    }

    /// Everybody's datagrams can be heard.
    pub(crate) fn heard(&mut self, bytes: &[u8]) {
        let is_kept = self.dice.chance(100);
        if is_kept {
            self.stranger.hear(bytes);
        }
        if let Some(villain) = self.villain().filter(|_| is_kept) {
            keep(&mut villain.heard, bytes.to_vec());
        }
    }

    /// The villain does something, and will again.
    pub(crate) fn villain_acts(&mut self) {
        let pause = self.dice.millis(100, 700);
        self.schedule.at(self.now.instant + pause, Event::Villain);
        self.liar_acts();
        let index = self.plan.villain();
        let is_away = self
            .devices
            .get(index)
            .is_none_or(|device| device.is_asleep || !device.user.is_active);
        if is_away || self.running(index).is_none() {
            return;
        }
        match self.dice.below(8) {
            0..=2 => self.intrude(index),
            3 => self.send_again(index),
            4 => self.install_again(index),
            5 => self.ask_with_foreign_offer(index),
            6 => self.meddle(index),
            _ => self.talk(index),
        }
    }

    /// Opens a flow under a grant that it has or had, to a port that may not be in it.
    fn intrude(&mut self, index: usize) {
        let ports = [SERVICES.to_vec(), vec![CLOSED_PORT]].concat();
        let grants: Vec<(GrantId, usize)> = self
            .villain()
            .map(|villain| villain.grants.iter())
            .into_iter()
            .flatten()
            .map(|(grant, (app, _))| (*grant, *app))
            .collect();
        let grant = self.dice.pick(&grants).copied();
        let port = self.dice.pick(&ports).copied();
        if let (Some((grant, app)), Some(port)) = (grant, port) {
            self.open_flow(index, grant, app, port);
        }
    }

    /// Sends a datagram again that anybody sent.
    fn send_again(&mut self, index: usize) {
        let heard: Vec<Vec<u8>> = self
            .villain()
            .map(|villain| villain.heard.iter().cloned().collect())
            .unwrap_or_default();
        if let Some(datagram) = self.dice.pick(&heard).cloned() {
            let relay = self.dice.below(RELAYS.len());
            self.send(Who::Device(index), relay, datagram);
        }
    }

    /// Installs a tunnel again that was made for an earlier grant.
    fn install_again(&mut self, index: usize) {
        let installs: Vec<Install> = self
            .villain()
            .map(|villain| villain.installs.iter().map(copy).collect())
            .unwrap_or_default();
        let at = self.dice.below(installs.len());
        if let Some(install) = installs.into_iter().nth(at) {
            let command = self.bend(install);
            self.tunnels(index, |tunnels, now, out| {
                tunnels.handle(now, Input::Command(command), out);
            });
        }
    }

    /// Asks for any app with an offer that anybody made.
    fn ask_with_foreign_offer(&mut self, index: usize) {
        let offers: Vec<(usize, Signed)> = self
            .villain()
            .map(|villain| villain.offers.iter().cloned().collect())
            .unwrap_or_default();
        let app = self.dice.below(self.plan.apps);
        let is_same = self.dice.chance(700);
        let Some((made_for, offer)) = self.dice.pick(&offers).cloned() else {
            return;
        };
        let Some(villain) = self.villain() else {
            return;
        };
        villain.requests += 1;
        let request = REQUESTS + villain.requests;
        let app = app_name(if is_same { made_for } else { app });
        let message = FromNode::Request {
            request,
            app,
            offer,
        };
        self.say_as(index, message);
    }

    /// Says that a grant is over which may be anybody's.
    fn meddle(&mut self, index: usize) {
        let live = self.model.live_grants();
        if let Some(grant) = self.dice.pick(&live).copied() {
            self.say_as(index, FromNode::Closed { grant });
        }
    }

    /// More life, more ports and sometimes other addresses than were granted.
    fn bend(&mut self, mut install: Install) -> Command {
        let is_forged = self.dice.chance(300) && install.keys.carrier() == Carrier::WireGuard;
        let is_source = self.dice.chance(500);
        install.ttl = Duration::from_secs(3_600);
        install.services = [SERVICES.to_vec(), vec![CLOSED_PORT]].concat();
        if is_forged {
            let inner = &mut install.inner;
            let address = if is_source {
                &mut inner.device_v4
            } else {
                &mut inner.app_v4
            };
            *address = Ipv4Addr::from_bits(address.to_bits() ^ 3);
            let address = if is_source {
                &mut inner.device_v6
            } else {
                &mut inner.app_v6
            };
            *address = std::net::Ipv6Addr::from_bits(address.to_bits() ^ 3);
        }
        let app = (0..self.plan.apps).find(|number| app_name(*number) == install.app);
        let grant = install.grant;
        if let (Some(app), Some(villain)) = (app, self.villain()) {
            villain.grants.insert(grant, (app, is_forged));
            while villain.grants.len() > KEPT_MAX {
                villain.grants.pop_first();
            }
        }
        Command::Install(Box::new(install))
    }

    fn villain(&mut self) -> Option<&mut Villain> {
        let index = self.plan.villain();
        self.devices.get_mut(index)?.villain.as_mut()
    }
}

fn keep<T>(kept: &mut VecDeque<T>, new: T) {
    if kept.len() >= KEPT_MAX {
        kept.pop_front();
    }
    kept.push_back(new);
}

fn copy(install: &Install) -> Install {
    Install {
        grant: install.grant,
        app: install.app.clone(),
        keys: install.keys.clone(),
        ttl: install.ttl,
        relay: install.relay.clone(),
        ticket: install.ticket.clone(),
        standby: install.standby.clone(),
        services: install.services.clone(),
        inner: install.inner,
        meeting: install.meeting.clone(),
        egress: install.egress.clone(),
    }
}
