//! A simulated device: the real agent and its data half, a user, and a disk that survives crashes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use cardea_credential::{key::SoftwareKey, knock::KnockKeys, trust::Trust};
use cardea_ledger::checkpoint::Verifier;
use cardea_node::{Agent, AgentInput, AgentOutbox, AgentSettings, Collected, Connect};
use cardea_proto::{
    enroll::Enrolled,
    id::DeviceId,
    message::FromNode,
    posture::{FactName, Grade, Reading, Value},
    time::Now,
};
use cardea_tunnel::{End, Outbox, Tunnels};

use crate::{
    channel::Dial,
    clock::Skew,
    founding::{member_at, name},
    schedule::{Event, Who},
    user::User,
    villain::Villain,
    world::World,
};

/// One device.
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) key: Arc<SoftwareKey>,
    /// What it keeps on disk.
    pub(crate) disk: Enrolled,
    /// The checkpoint of the ledger on that disk.
    pub(crate) checkpoint: Option<String>,
    /// Its wall clock, ahead or behind.
    pub(crate) skew: Skew,
    pub(crate) posture: Condition,
    /// The running programs; `None` while crashed.
    pub(crate) running: Option<Box<Running>>,
    pub(crate) is_asleep: bool,
    /// Counts its lives, so that a wake-up of an earlier one is not taken for this one's.
    pub(crate) life: u64,
    pub(crate) user: User,
    pub(crate) villain: Option<Villain>,
}

/// What a device's facts say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) disk_encrypted: bool,
    pub(crate) firewall: bool,
}

/// The daemon's two halves.
pub(crate) struct Running {
    pub(crate) agent: Agent,
    pub(crate) tunnels: Tunnels,
    /// Names the latest attempt at a channel.
    pub(crate) attempt: u64,
    /// The channel, once it is up.
    pub(crate) channel: Option<cardea_core::ChannelId>,
}

impl Condition {
    /// All is well.
    pub(crate) const GOOD: Self = Self {
        disk_encrypted: true,
        firewall: true,
    };

    /// The facts as a collector would read them.
    pub(crate) fn facts(self) -> Vec<(FactName, Reading)> {
        let text = |text: &str| Reading::Value(Value::Text(text.to_owned()));
        let flag = |flag| Reading::Value(Value::Bool(flag));
        vec![
            ("os.name".to_owned(), text("linux")),
            ("agent.version".to_owned(), text("0.1.0")),
            ("disk.encrypted".to_owned(), flag(self.disk_encrypted)),
            ("firewall.enabled".to_owned(), flag(self.firewall)),
            ("screen.lock".to_owned(), flag(true)),
            (
                "patch.age_days".to_owned(),
                Reading::Value(Value::Integer(3)),
            ),
        ]
    }
}

impl Device {
    /// Starts the programs on what the disk has.
    pub(crate) fn start(&mut self, trust: Trust, ledger: Verifier, entropy: [[u8; 32]; 2]) {
        let settings = AgentSettings {
            device: self.id,
            name: self.disk.name.clone(),
            user: self.disk.user.clone(),
            domain: name("corp.example"),
            trust,
            certificate: self.disk.certificate.clone(),
            signer: Arc::<SoftwareKey>::clone(&self.key),
            addresses: self.disk.addresses.clone(),
            packets: false,
            program: "sim".to_owned(),
            ledger,
            checkpoint: self.checkpoint.clone(),
            home: "state".to_owned(),
        };
        let [agent, tunnels] = entropy;
        let attempt = self.running.take().map_or(0, |running| running.attempt);
        self.life += 1;
        self.running = Some(Box::new(Running {
            agent: Agent::new(settings, agent),
            tunnels: Tunnels::new(End::Agent, tunnels),
            attempt: attempt + 1_000 * self.life,
            channel: None,
        }));
    }

    /// When it next has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let running = self.running.as_ref().filter(|_| !self.is_asleep)?;
        [running.agent.deadline(), running.tunnels.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Its tunnels, while its programs run.
    pub(crate) fn tunnels(&self) -> Option<&Tunnels> {
        self.running.as_ref().map(|running| &running.tunnels)
    }

    pub(crate) fn collect(&self, at: Instant) -> Vec<Collected> {
        let fact = |(name, reading)| Collected {
            name,
            reading,
            grade: Grade::Own,
            at,
        };
        self.posture.facts().into_iter().map(fact).collect()
    }
}

impl World {
    /// One turn of an agent and its tunnels, and everything that follows from it on this device.
    pub(crate) fn agent(&mut self, index: usize, input: AgentInput) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(device) = self.devices.get_mut(index) else {
                return;
            };
            let now = device.skew.show(self.now);
            let Some(running) = device.running.as_mut() else {
                return;
            };
            let mut out = AgentOutbox::default();
            running.agent.handle(now, input, &mut out);
            self.follow_agent(index, out, &mut inputs);
        }
    }

    /// What the data half of a device has to say and to send.
    pub(crate) fn follow_tunnels(&mut self, index: usize, out: Outbox) {
        let who = Who::Device(index);
        for transmit in &out.transmits {
            self.transmit(who, transmit);
        }
        for event in out.flows {
            self.flow_event(index, event);
        }
        for event in out.events {
            self.note_turn(&event);
            self.agent(index, AgentInput::Tunnel(event));
        }
    }

    /// A turn of the data half alone.
    pub(crate) fn tunnels(
        &mut self,
        index: usize,
        turn: impl FnOnce(&mut Tunnels, Now, &mut Outbox),
    ) {
        let Some(device) = self.devices.get_mut(index) else {
            return;
        };
        let now = device.skew.show(self.now);
        let Some(running) = device.running.as_mut() else {
            return;
        };
        let mut out = Outbox::default();
        turn(&mut running.tunnels, now, &mut out);
        self.follow_tunnels(index, out);
    }

    fn follow_agent(&mut self, index: usize, out: AgentOutbox, inputs: &mut VecDeque<AgentInput>) {
        let who = Who::Device(index);
        let node = out.node;
        if let Some(device) = self.devices.get_mut(index) {
            if let Some(certificate) = node.save {
                device.disk.certificate = certificate;
            }
            if let Some(note) = node.checkpoint {
                device.checkpoint = Some(note);
            }
            if let Some(addresses) = node.addresses {
                device.disk.addresses = addresses;
            }
        }
        for command in node.commands {
            let commands = self.tamper(index, command);
            for command in commands {
                self.tunnels(index, |tunnels, now, out| {
                    tunnels.handle(now, cardea_tunnel::Input::Command(command), out);
                });
            }
        }
        let channel = self.running(index).and_then(|running| running.channel);
        for message in node.messages {
            self.overhear(index, &message);
            if let Some(channel) = channel {
                self.say(channel, message);
            }
        }
        if node.disconnect {
            if let Some(channel) = channel {
                self.sever(channel, true);
            }
            if let Some(running) = self.running(index) {
                running.channel = None;
                running.attempt += 1;
            }
        }
        if let Some(connect) = node.connect {
            self.dial(who, &connect);
        }
        if let Some(number) = out.collect
            && let Some(device) = self.devices.get(index)
        {
            let facts = device.collect(self.now.instant);
            inputs.push_back(AgentInput::Facts { facts, number });
        }
        for (app, answer) in out.opened {
            self.opened(index, &app, answer);
        }
    }

    /// The running programs of a device.
    pub(crate) fn running(&mut self, index: usize) -> Option<&mut Running> {
        self.devices.get_mut(index)?.running.as_deref_mut()
    }

    /// Sends an attempt at a channel on its way.
    fn dial(&mut self, who: Who, connect: &Connect) {
        let delay = self.network.message(who) + self.network.message(who);
        let attempt = match who {
            Who::Device(index) => self.running(index).map(|running| {
                running.attempt += 1;
                running.attempt
            }),
            Who::Site(index) => self.serving(index).map(|serving| {
                serving.attempt += 1;
                serving.attempt
            }),
        };
        let skew = match who {
            Who::Device(index) => self.devices.get(index).map(|device| device.skew),
            Who::Site(index) => self.sites.get(index).map(|site| site.skew),
        };
        let member = member_at(&connect.address);
        if let (Some(attempt), Some(skew), Some(member)) = (attempt, skew, member) {
            let keys = KnockKeys::new(&connect.knock, &self.control.domain.trust.root_digest());
            let at = connect.clock.theirs(skew.show(self.now).unix);
            let [.., a, b] = attempt.to_be_bytes();
            let dial = Dial {
                who,
                attempt,
                purpose: connect.purpose,
                member,
                knock: (keys.knock(at, [a, b]), at),
            };
            self.schedule
                .at(self.now.instant + delay, Event::Dialed(dial));
        }
    }

    /// Says something on behalf of a device that the agent itself would not say.
    pub(crate) fn say_as(&mut self, index: usize, message: FromNode) {
        if let Some(channel) = self.running(index).and_then(|running| running.channel) {
            self.say(channel, message);
        }
    }

    /// The same for connectors, whose shells do the same.
    pub(crate) fn dial_site(&mut self, index: usize, connect: &Connect) {
        self.dial(Who::Site(index), connect);
    }
}

/// What a device's user is doing, by flow.
pub(crate) type Flows = BTreeMap<cardea_tunnel::FlowId, crate::user::Flow>;
