//! One world on one virtual clock: everybody in it, and the loop that moves them.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_core::Input;
use cardea_node::{AgentInput, ConnectorInput};
use cardea_proto::{identity::Role, time::Now};
use cardea_tunnel::{Transmit, Via};

use crate::{
    control::Control,
    device::Device,
    dice::Dice,
    founding::relay_at,
    member::Member,
    model::{Model, Violation},
    network::{Network, Way},
    plan::Plan,
    relay::Host,
    schedule::{Event, Schedule, Who},
    site::Site,
    stranger::Stranger,
    trace::Trace,
};

/// Turns that may pass while hardly any time does: more is a loop that never ends.
const TURNS_PER_MOMENT: u32 = 20_000;

/// What hardly any time is.
const MOMENT: Duration = Duration::from_millis(1);

/// Lines kept of what happened, for whoever reads a failure.
const NOTES_MAX: usize = 80;

/// Everybody and everything of one run.
pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) begun: Instant,
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    pub(crate) schedule: Schedule,
    pub(crate) network: Network,
    pub(crate) control: Control,
    pub(crate) devices: Vec<Device>,
    pub(crate) sites: Vec<Site>,
    pub(crate) relays: Vec<Host>,
    pub(crate) model: Model,
    pub(crate) admin: Admin,
    /// The codes that have admitted the nodes of this world.
    pub(crate) codes: Vec<(Role, [u8; 32])>,
    pub(crate) log: Log,
    /// When the faults stopped, if they have.
    pub(crate) calm_since: Option<Instant>,
    pub(crate) stranger: Stranger,
}

/// What admins did that they may undo.
#[derive(Debug)]
pub(crate) struct Admin {
    /// Devices that are blocked.
    pub(crate) blocked: BTreeSet<usize>,
    /// Whether the policy is the strict one.
    pub(crate) is_strict: bool,
    /// Counts the moves of apps.
    pub(crate) moves: usize,
}

/// What a run leaves behind.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Counts the records that reached apps.
    pub(crate) delivered: u64,
    /// Counts the datagrams that went past the relay, without probes.
    pub(crate) beside: u64,
    /// Counts the ends that went on with another relay.
    pub(crate) turned: u64,
    /// What did not hold, and when.
    pub(crate) failures: Vec<(Duration, Violation)>,
    /// What happened lately.
    pub(crate) notes: VecDeque<String>,
    /// Everything that happened, as one number.
    pub(crate) trace: Trace,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            blocked: BTreeSet::new(),
            is_strict: true,
            moves: 0,
        }
    }
}

impl World {
    /// Lets the world go on until `end`, or until a property does not hold.
    pub(crate) fn run_until(&mut self, end: Instant) {
        let mut turns = 0_u32;
        let mut moment = self.now.instant;
        while self.log.failures.is_empty() {
            let next = self.next();
            let Some(next) = next.filter(|next| *next <= end) else {
                let left = end.saturating_duration_since(self.now.instant);
                self.now = self.now.plus(left);
                return;
            };
            self.now = self
                .now
                .plus(next.saturating_duration_since(self.now.instant));
            if self.now.instant >= moment + MOMENT {
                moment = self.now.instant;
                turns = 0;
            }
            turns += 1;
            if turns > TURNS_PER_MOMENT {
                self.fail(0, "the world turns without time passing".to_owned());
                return;
            }
            let event = self.schedule.take(self.now.instant);
            let at = self.now.instant - self.begun;
            self.log.trace.happens(at, event.as_ref());
            match event {
                Some(event) => self.happen(event),
                None => self.wake(),
            }
            self.check();
        }
    }

    /// A property does not hold.
    pub(crate) fn fail(&mut self, property: u8, what: String) {
        let at = self.now.instant - self.begun;
        self.log.failures.push((at, Violation { property, what }));
    }

    /// Remembers what happened, for whoever reads a failure.
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.log.notes.len() >= NOTES_MAX {
            self.log.notes.pop_front();
        }
        let at = self.now.instant - self.begun;
        self.log
            .notes
            .push_back(format!("{:>9.3} s  {}", at.as_secs_f64(), what()));
    }

    /// Collects what the model objects to.
    pub(crate) fn check(&mut self) {
        for Violation { property, what } in self.model.take_violations() {
            self.fail(property, what);
        }
    }

    /// Sends a datagram from a node to a relay.
    pub(crate) fn send(&mut self, who: Who, relay: usize, bytes: Vec<u8>) {
        self.heard(&bytes);
        let Some(from) = self.network.address(who) else {
            return;
        };
        let sent = (who, Way::Out);
        for at in self.network.datagram(self.now.instant, sent, bytes.len()) {
            let bytes = bytes.clone();
            self.schedule.at(at, Event::AtRelay { relay, from, bytes });
        }
    }

    /// Brings what a node sends on its way: to its relay, or past it.
    pub(crate) fn transmit(&mut self, who: Who, transmit: &Transmit) {
        let to = transmit.to;
        let relay = relay_at(to);
        if transmit.via == Via::Relay && relay.is_none() {
            self.fail(4, format!("a node sends to {to}, which is no relay"));
        }
        for datagram in transmit.datagrams() {
            match transmit.via {
                Via::Relay => {
                    if let Some(relay) = relay {
                        self.send(who, relay, datagram.to_vec());
                    }
                }
                Via::Direct => self.send_directly(who, to, datagram.to_vec()),
            }
        }
    }

    /// A node that was away is back: its programs run, its network works.
    pub(crate) fn back(&mut self, who: Who, life: Option<u64>) {
        let trust = self.control.domain.trust.clone();
        let ledger = self.control.domain.ledger();
        let entropy = [self.dice.bytes(), self.dice.bytes()];
        match who {
            Who::Device(index) => {
                let Some(device) = self.devices.get_mut(index) else {
                    return;
                };
                if life.is_some_and(|life| life != device.life) {
                    return;
                }
                if device.is_asleep {
                    device.is_asleep = false;
                    self.network.cut(who, false);
                }
                if device.running.is_none() {
                    device.start(trust, ledger, entropy);
                    self.give_address(who);
                }
                self.agent(index, AgentInput::Timeout);
            }
            Who::Site(index) => {
                let Some(site) = self.sites.get_mut(index) else {
                    return;
                };
                if life.is_some_and(|life| life != site.life) || site.serving.is_some() {
                    return;
                }
                site.start(trust, ledger, entropy);
                self.give_address(who);
                self.connector(index, ConnectorInput::Timeout);
            }
        }
    }

    /// When somebody next has something to do.
    fn next(&self) -> Option<Instant> {
        let devices = self.devices.iter().filter_map(Device::deadline);
        let sites = self.sites.iter().filter_map(Site::deadline);
        let controllers = self.control.members.iter().filter_map(Member::deadline);
        devices
            .chain(sites)
            .chain(self.schedule.next())
            .chain(controllers)
            .chain(self.relays_deadline())
            .min()
    }

    /// Wakes everybody whose deadline has come.
    fn wake(&mut self) {
        let now = self.now.instant;
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|due| due <= now);
        for member in 0..self.control.members.len() {
            if is_due(self.control.members.get(member).and_then(Member::deadline)) {
                self.control(member, Input::Timeout);
            }
        }
        if is_due(self.relays_deadline()) {
            self.relays_expire();
        }
        for index in 0..self.devices.len() {
            if is_due(self.devices.get(index).and_then(Device::deadline)) {
                self.agent(index, AgentInput::Timeout);
                self.tunnels(index, |tunnels, now, out| {
                    tunnels.handle(now, cardea_tunnel::Input::Timeout, out);
                });
            }
        }
        for index in 0..self.sites.len() {
            if is_due(self.sites.get(index).and_then(Site::deadline)) {
                self.connector(index, ConnectorInput::Timeout);
                self.serve(index, |tunnels, now, out| {
                    tunnels.handle(now, cardea_tunnel::Input::Timeout, out);
                });
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::AtRelay { relay, from, bytes } => self.at_relay(relay, from, bytes),
            Event::AtNode {
                who,
                to,
                from,
                via,
                bytes,
            } => self.at_node((who, to), (from, via), &bytes),
            Event::Between { from, to, bytes } => self.between(from, to, &bytes),
            Event::Changes { between } => {
                if self.calm_since.is_none() {
                    self.network.between = between;
                }
            }
            Event::Dialed(dial) => self.dialed(dial),
            Event::ChannelUp { channel } => self.channel_up(channel),
            Event::ChannelDown { who, attempt, why } => self.channel_down(who, attempt, why),
            Event::Noticed { channel } => self.sever(channel, false),
            Event::Disconnected { channel } => self.disconnected(channel),
            Event::Said { channel, message } => self.said(channel, *message),
            Event::Told { channel, message } => self.told(channel, *message),
            Event::Written { member, life } => self.written(member, life),
            Event::Look { member } => self.look(member),
            Event::Poll => self.poll(),
            Event::Start { member } => self.started(member),
            Event::ClockSet { clock, skew } => {
                if self.calm_since.is_none() {
                    self.set_clock(clock, skew);
                }
            }
            Event::Joined { member } => self.isolate(member, false),
            Event::Dial { site, flow } => self.dialed_app(site, flow),
            Event::User { device } => self.user(device),
            Event::Villain => self.villain_acts(),
            Event::Stranger => self.stranger_acts(),
            Event::Act(act) => self.act(act),
            Event::Back { who, life } => self.back(who, Some(life)),
            Event::Mended { who } => {
                let is_asleep = matches!(who, Who::Device(index)
                    if self.devices.get(index).is_some_and(|device| device.is_asleep));
                self.network.halve(who, None);
                if !is_asleep {
                    self.network.cut(who, false);
                }
            }
            Event::Heard { who } => self.network.deafen(who, BTreeSet::new()),
            Event::Room => self.control.is_full = false,
            Event::RelayFails { which, fault } => self.relay_fails(which, fault),
            Event::FromRelay { which, to, bytes } => self.relay_sends(which, to, &bytes),
            Event::RelayServes { which } => self.relay_serves(which),
        }
    }

    /// Controllers that are not alone ask the store what there is.
    fn poll(&mut self) {
        for member in 0..self.control.members.len() {
            self.look(member);
        }
        self.schedule
            .at(self.now.instant + self.plan.poll, Event::Poll);
    }

    fn at_node(
        &mut self,
        (who, to): (Who, SocketAddr),
        (from, via): (SocketAddr, Via),
        bytes: &[u8],
    ) {
        let is_there = match via {
            Via::Relay => self.network.address(who) == Some(to),
            Via::Direct => self.network.behind(to) == Some(who),
        };
        if !is_there || self.network.is_cut(who) {
            return;
        }
        let input = cardea_tunnel::Input::Datagram { from, via, bytes };
        match who {
            Who::Device(index) => {
                if self
                    .devices
                    .get(index)
                    .is_some_and(|device| !device.is_asleep)
                {
                    self.tunnels(index, |tunnels, now, out| {
                        tunnels.handle(now, input, out);
                        tunnels.flush(now, out);
                    });
                }
            }
            Who::Site(index) => self.serve(index, |tunnels, now, out| {
                tunnels.handle(now, input, out);
                tunnels.flush(now, out);
            }),
        }
    }
}
