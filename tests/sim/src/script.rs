//! Faults and changes: what goes wrong, and what admins do meanwhile.

use std::{collections::BTreeSet, time::Duration};

use cardea_proto::{
    admin::{AdminChange, AppPatch},
    ledger::Link,
};
use cardea_tunnel::Input;

use crate::{
    clock::{Clock, Skew},
    device::Condition,
    founding::{app_name, link, policy, target},
    network::Way,
    plan::{GATHERING, Plan, TTL},
    schedule::{Event, Who},
    world::World,
};

/// One of them.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// A node's network is gone for a while.
    Cut(Who, Duration),
    /// A node cannot reach one of the controllers, or none of them, for a while, and the relay all
    /// the same.
    Deafen(Who, Option<usize>, Duration),
    /// Nobody can reach a controller for a while.
    Outage(Option<usize>, Duration),
    /// Nothing passes over a node's link in one direction for a while.
    Halve(Who, Way, Duration),
    /// A node's programs end, and start again after a while.
    Crash(Who, Duration),
    /// A device sleeps.
    Sleep(usize, Duration),
    /// A node's NAT gives it another port.
    Roam(Who),
    /// A device's posture is this from now on.
    Posture(usize, Condition),
    /// An admin revokes a grant that is live then.
    Revoke,
    /// An admin takes the rule of an app back, or gives it again.
    Rule(usize),
    /// An admin blocks a device, or lifts the block.
    Block(usize),
    /// An admin moves an app to another host.
    Move(usize),
    /// An admin makes the policy strict or not.
    Policy,
    /// A controller stops, and starts again after a while.
    Restart(usize, Duration),
    /// A wall clock steps.
    Step(Clock, Skew, Duration),
    /// A controller cannot reach the store for a while: one, or the one that most nodes are with.
    Isolate(Option<usize>, Duration),
    /// The store has no room for a while.
    Full(Duration),
    /// Somebody tries a code that has admitted a node, with a key of their own.
    Again,
}

impl World {
    /// Plans the faults of this run.
    pub(crate) fn plan_acts(&mut self) {
        let Plan {
            chaos,
            acts_per_minute,
            ..
        } = self.plan;
        let pause = Duration::from_secs(60) / acts_per_minute;
        let mut at = self.now.instant;
        let end = at + chaos;
        loop {
            at += self.dice.between(pause / 4, pause * 2);
            if at >= end {
                return;
            }
            let act = self.draw();
            self.schedule.at(at, Event::Act(act));
        }
    }

    fn draw(&mut self) -> Act {
        let device = self.dice.below(self.plan.devices);
        let app = self.dice.below(self.plan.apps);
        let site = self.dice.below(self.plan.connectors);
        let anyone = if self.dice.chance(600) {
            Who::Device(device)
        } else {
            Who::Site(site)
        };
        let short = self.dice.millis(200, 10_000);
        let long = self.dice.between(TTL / 2, TTL * 2);
        let away = if self.dice.chance(700) { short } else { long };
        let controller = self.dice.below(self.plan.controllers);
        let some = self.dice.chance(500).then_some(controller);
        let way = if self.dice.chance(500) {
            Way::In
        } else {
            Way::Out
        };
        let clock = if self.dice.chance(500) {
            Clock::Controller(controller)
        } else {
            Clock::Node(anyone)
        };
        match self.dice.below(36) {
            33..=35 => Act::Step(clock, self.step(), away),
            31 => Act::Halve(anyone, way, away),
            32 => Act::Halve(Who::Site(site), way, short),
            29 | 30 => Act::Isolate(self.dice.chance(300).then_some(controller), long),
            28 => Act::Again,
            24 | 25 => Act::Deafen(Who::Site(site), some, long),
            26 => Act::Deafen(anyone, some, away),
            27 => Act::Outage(some, away),
            0..=2 => Act::Cut(anyone, away),
            3 | 4 => Act::Crash(anyone, short),
            5 => Act::Sleep(device, away),
            6 => Act::Roam(anyone),
            7..=10 => {
                let condition = Condition {
                    disk_encrypted: self.dice.chance(600),
                    firewall: self.dice.chance(800),
                };
                Act::Posture(device, condition)
            }
            11..=13 => Act::Revoke,
            14..=16 => Act::Rule(app),
            17 | 18 => Act::Block(device),
            19 => Act::Move(app),
            20 => Act::Policy,
            21 => Act::Restart(controller, self.dice.millis(0, 3_000)),
            22 => Act::Full(short),
            _ => Act::Posture(device, Condition::GOOD),
        }
    }

    /// Something goes wrong, or an admin does something.
    pub(crate) fn act(&mut self, act: Act) {
        self.note(|| format!("{act:?}"));
        match act {
            Act::Again => self.try_again(),
            Act::Cut(who, time) => {
                self.cut(who);
                self.schedule
                    .at(self.now.instant + time, Event::Mended { who });
            }
            Act::Deafen(who, member, time) => self.deafen(who, member, time),
            Act::Outage(member, time) => {
                for index in 0..self.plan.devices {
                    self.deafen(Who::Device(index), member, time);
                }
                for index in 0..self.plan.connectors {
                    self.deafen(Who::Site(index), member, time);
                }
            }
            Act::Step(clock, skew, time) => self.step_clock(clock, skew, time),
            Act::Halve(who, way, time) => self.halve(who, way, time),
            Act::Crash(who, time) => self.crash(who, time),
            Act::Sleep(index, time) => self.sleep(index, time),
            Act::Roam(who) => self.roam(who),
            Act::Posture(index, condition) => self.set_posture(index, condition),
            Act::Revoke => {
                let live = self.model.live_grants();
                if let Some(grant) = self.dice.pick(&live).copied() {
                    self.order(AdminChange::GrantRevoke(grant));
                }
            }
            Act::Rule(app) => {
                let rule = link(app);
                self.set_rule(rule.clone(), !self.model.links().contains(&rule));
            }
            Act::Block(index) => {
                let is_blocked = self.admin.blocked.contains(&index);
                self.set_block(index, !is_blocked);
            }
            Act::Move(app) => {
                self.admin.moves += 1;
                let patch = AppPatch {
                    targets: Some(vec![
                        target(app, self.admin.moves, "80/tcp"),
                        target(app, self.admin.moves, "53/udp"),
                    ]),
                    ..AppPatch::default()
                };
                let name = app_name(app);
                self.order(AdminChange::AppSet { name, patch });
            }
            Act::Policy => {
                self.admin.is_strict = !self.admin.is_strict;
                self.order(AdminChange::PolicyApply(policy(self.admin.is_strict)));
            }
            Act::Restart(member, time) => {
                self.stop_controller(member);
                self.schedule
                    .at(self.now.instant + time, Event::Start { member });
            }
            Act::Isolate(member, time) => {
                let member = member.unwrap_or_else(|| self.control.busiest());
                self.isolate(member, true);
                self.schedule
                    .at(self.now.instant + time, Event::Joined { member });
            }
            Act::Full(time) => {
                self.control.is_full = true;
                self.model.store_failed(self.now.instant);
                self.schedule.at(self.now.instant + time, Event::Room);
            }
        }
    }

    /// The faults stop: everything is repaired, and everybody is as they should be.
    pub(crate) fn calm(&mut self) {
        self.note(|| "the faults stop".to_owned());
        self.calm_since = Some(self.now.instant);
        self.plan.conflicts = 0;
        self.plan.loss = 0;
        self.plan.unanswered = 0;
        self.control.is_full = false;
        self.network.heal();
        for relay in &mut self.relays {
            relay.start();
        }
        self.set_clocks();
        for member in 0..self.plan.controllers {
            self.isolate(member, false);
            self.start_controller(member);
        }
        self.gather();
        for index in 0..self.plan.devices {
            let who = Who::Device(index);
            self.back(who, None);
            self.set_posture(index, Condition::GOOD);
            if self.admin.blocked.contains(&index) {
                self.set_block(index, false);
            }
        }
        for index in 0..self.plan.connectors {
            self.back(Who::Site(index), None);
        }
        for app in 0..self.plan.apps {
            // One app stays closed, so that a denial is seen too.
            self.set_rule(link(app), app + 1 != self.plan.apps);
        }
        if !self.admin.is_strict {
            self.act(Act::Policy);
        }
    }

    /// Everybody comes to the first controller: the others are stopped for as long as it takes to
    /// find it. Only there can both ends of a grant be sure to meet (ARCHITECTURE, open points).
    fn gather(&mut self) {
        for member in 1..self.plan.controllers {
            self.stop_controller(member);
            let away = self.now.instant + GATHERING;
            self.schedule.at(away, Event::Start { member });
        }
    }

    /// A controller starts again, unless it is away for the gathering.
    pub(crate) fn started(&mut self, member: usize) {
        let now = self.now.instant;
        let is_away = |since| member > 0 && now < since + GATHERING;
        if !self.calm_since.is_some_and(is_away) {
            self.start_controller(member);
        }
    }

    /// A node's network is gone.
    pub(crate) fn cut(&mut self, who: Who) {
        self.network.cut(who, true);
        if let Some(channel) = self.channel_of(who) {
            self.sever(channel, false);
        }
    }

    /// A node cannot reach a controller, or any; tunnels that are open go on.
    fn deafen(&mut self, who: Who, member: Option<usize>, time: Duration) {
        let all = 0..self.plan.controllers;
        let unreached: BTreeSet<usize> = member.map_or(all.collect(), |one| [one].into());
        let channel = self.channel_of(who);
        let channel = channel.filter(|channel| {
            let known = self.control.channels.get(channel);
            known.is_some_and(|known| unreached.contains(&known.member))
        });
        self.network.deafen(who, unreached);
        if let Some(channel) = channel {
            self.sever(channel, false);
        }
        self.schedule
            .at(self.now.instant + time, Event::Heard { who });
    }

    /// Nothing passes over a node's link in one direction; its channel dies when an end notices.
    fn halve(&mut self, who: Who, way: Way, time: Duration) {
        self.network.halve(who, Some(way));
        if let Some(channel) = self.channel_of(who) {
            if let (Way::In, Who::Site(index)) = (way, who)
                && let Some(site) = self.sites.get(index)
            {
                self.model.cut_off(site.id);
            }
            if let Some(known) = self.control.channels.get_mut(&channel) {
                known.stalled = Some(way);
            }
            let patience = self.dice.millis(100, 4_000);
            let event = Event::Noticed { channel };
            self.schedule.at(self.now.instant + patience, event);
        }
        self.schedule
            .at(self.now.instant + time, Event::Mended { who });
    }

    fn set_rule(&mut self, rule: Link, is_wanted: bool) {
        self.order(if is_wanted {
            AdminChange::Allow(rule)
        } else {
            AdminChange::Disallow(rule)
        });
    }

    fn set_block(&mut self, index: usize, is_wanted: bool) {
        let Some(id) = self.devices.get(index).map(|device| device.id.to_string()) else {
            return;
        };
        if is_wanted {
            self.admin.blocked.insert(index);
            self.order(AdminChange::DeviceBlock(id));
        } else {
            self.admin.blocked.remove(&index);
            self.order(AdminChange::DeviceUnblock(id));
        }
    }

    fn set_posture(&mut self, index: usize, condition: Condition) {
        let now = self.now.instant;
        let Some(device) = self.devices.get_mut(index) else {
            return;
        };
        device.posture = condition;
        if !device.is_asleep {
            let facts = device.collect(now);
            let number = 0;
            self.agent(index, cardea_node::AgentInput::Facts { facts, number });
        }
    }

    fn crash(&mut self, who: Who, time: Duration) {
        if let Some(channel) = self.channel_of(who) {
            self.sever(channel, true);
        }
        let life = match who {
            Who::Device(index) => self.devices.get_mut(index).map(|device| {
                device.running = None;
                device.user.flows.clear();
                device.life
            }),
            Who::Site(index) => self.sites.get_mut(index).map(|site| {
                site.serving = None;
                site.life
            }),
        };
        if let Some(life) = life {
            let event = Event::Back { who, life };
            self.schedule.at(self.now.instant + time, event);
        }
    }

    fn sleep(&mut self, index: usize, time: Duration) {
        let who = Who::Device(index);
        self.cut(who);
        if let Some(device) = self.devices.get_mut(index) {
            device.is_asleep = true;
            let event = Event::Back {
                who,
                life: device.life,
            };
            self.schedule.at(self.now.instant + time, event);
        }
    }

    fn roam(&mut self, who: Who) {
        self.network.roam(who);
        match who {
            Who::Device(index) => self.tunnels(index, |tunnels, now, out| {
                tunnels.handle(now, Input::Roamed, out);
            }),
            Who::Site(index) => self.serve(index, |tunnels, now, out| {
                tunnels.handle(now, Input::Roamed, out);
            }),
        }
    }
}
