//! How a run begins: the trust domain is founded, and every node enrolls as it would in life.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cardea_credential::{
    key::{self, Signer, SoftwareKey},
    proof::prove,
};
use cardea_proto::{
    PROTOCOL_VERSION,
    admin::AdminChange,
    codec::{Bytes, Secret32},
    enroll::{EnrollAnswer, EnrollRequest, Enrolled},
    id::{InviteId, NodeId},
    identity::Role,
    ledger::Admits,
    posture::{Fact, Grade, Report},
    time::testing,
};
use cardea_store::MemoryStore;

use crate::{
    clock::skew,
    control::Control,
    device::{Condition, Device},
    dice::Dice,
    founding::{Domain, RELAYS, name, user},
    model::{Bounds, Model},
    network::Network,
    plan::{Plan, TTL},
    relay::Host,
    schedule::{Event, Schedule, Who},
    site::Site,
    stranger::Stranger,
    user::User,
    villain::Villain,
    world::{Admin, Log, World},
};

/// How long an enrollment may take.
const ENROLLMENT: Duration = Duration::from_secs(5);

impl World {
    /// The world of a seed, with everybody enrolled and running, before any fault.
    ///
    /// # Errors
    /// What could not be set up.
    pub(crate) fn new(seed: u64) -> Result<Self, String> {
        let now = testing::start();
        let plan = Plan::of(seed);
        let mut dice = Dice::new(seed, "world");
        let mut store = MemoryStore::new();
        let domain = Domain::found(&mut dice, &plan, &mut store, now.unix);
        let key = domain.ticket_key();
        let relays = (0..RELAYS.len()).map(|which| Host::new(seed, which, key));
        let bounds = Bounds {
            push: plan.push(),
            commit: plan.commit.1,
            lag: plan.lag,
            poll: plan.poll,
            ttl: TTL,
        };
        let skews = (0..plan.controllers).map(|_| skew(&mut dice)).collect();
        let stranger = Stranger::new(&mut dice, now.unix)?;
        let (control, entries) = Control::new(seed, domain, store, skews)?;
        let mut world = Self {
            now,
            begun: now.instant,
            network: Network::new(seed, &plan),
            dice,
            schedule: Schedule::default(),
            control,
            devices: Vec::new(),
            sites: Vec::new(),
            relays: relays.collect(),
            model: Model::new(bounds),
            admin: Admin::default(),
            codes: Vec::new(),
            log: Log::default(),
            calm_since: None,
            stranger,
            plan,
        };
        for entry in entries {
            world.model.committed(now, &entry);
        }
        for member in 0..world.plan.controllers {
            world.start_controller(member);
        }
        if world.plan.controllers > 1 {
            world.schedule.at(now.instant, Event::Poll);
        }
        // Who enrolls asks once here; the faults of the store begin behind it.
        let unanswered = std::mem::take(&mut world.plan.unanswered);
        world.populate()?;
        world.plan.unanswered = unanswered;
        world.schedule.at(world.now.instant, Event::Stranger);
        Ok(world)
    }

    fn populate(&mut self) -> Result<(), String> {
        for index in 0..self.plan.connectors {
            let key = self.key()?;
            let site = name("default");
            let admits = Admits::Connector { site };
            let disk = self.admit(Who::Site(index), Role::Connector, admits, &key)?;
            let NodeId::Connector(id) = disk.node else {
                return Err("a connector became something else".to_owned());
            };
            let skew = skew(&mut self.dice);
            self.sites.push(Site {
                id,
                key,
                disk,
                checkpoint: None,
                skew,
                serving: None,
                life: 0,
                answer: None,
            });
            if self.plan.liar == Some(index) {
                self.model.beware_connector(id);
            }
            self.back(Who::Site(index), None);
        }
        for index in 0..self.plan.devices {
            let key = self.key()?;
            let groups = if index % 2 == 0 {
                BTreeSet::from([name("staff")])
            } else {
                BTreeSet::new()
            };
            let user = user(index);
            let admits = Admits::Device { user, groups };
            let disk = self.admit(Who::Device(index), Role::Device, admits, &key)?;
            self.add_device(index, key, disk)?;
        }
        Ok(())
    }

    fn add_device(
        &mut self,
        index: usize,
        key: Arc<SoftwareKey>,
        disk: Enrolled,
    ) -> Result<(), String> {
        let NodeId::Device(id) = disk.node else {
            return Err("a device became something else".to_owned());
        };
        let is_villain = index == self.plan.villain();
        if is_villain {
            self.model.beware_device(id);
        }
        let skew = skew(&mut self.dice);
        self.devices.push(Device {
            id,
            key,
            disk,
            checkpoint: None,
            skew,
            posture: Condition::GOOD,
            running: None,
            is_asleep: false,
            life: 0,
            user: User::new(),
            villain: is_villain.then(Villain::default),
        });
        self.back(Who::Device(index), None);
        let event = Event::User { device: index };
        self.schedule.at(self.now.instant, event);
        if is_villain {
            self.schedule.at(self.now.instant, Event::Villain);
        }
        Ok(())
    }

    /// Invites and enrolls one node, and lets the world go on until it is in.
    fn admit(
        &mut self,
        who: Who,
        role: Role,
        admits: Admits,
        key: &SoftwareKey,
    ) -> Result<Enrolled, String> {
        let secret: [u8; 32] = self.dice.bytes();
        let invite = AdminChange::InviteCreate {
            id: InviteId::from_bytes(self.dice.bytes()),
            secret_hash: key::digest(&secret),
            admits,
            life_s: 3_600,
        };
        self.order(invite);
        self.run_until(self.now.instant + ENROLLMENT);
        let exporter = self.dice.bytes();
        let request = self.request(role, secret, key, &exporter)?;
        self.enroll(who, request, exporter);
        self.run_until(self.now.instant + ENROLLMENT);
        self.codes.push((role, secret));
        match self.control.enrollments.pop() {
            Some(EnrollAnswer::Enrolled(enrolled)) => Ok(*enrolled),
            other => Err(format!(
                "{who:?} was not enrolled: {other:?} {:?} {:?}",
                self.log.failures,
                self.control.answers.last_key_value()
            )),
        }
    }

    /// A code that has admitted a node admits nobody else.
    pub(crate) fn try_again(&mut self) {
        let at = self.dice.below(self.codes.len());
        let Some((role, secret)) = self.codes.get(at).copied() else {
            return;
        };
        let exporter = self.dice.bytes();
        let Ok(key) = self.key() else {
            return;
        };
        let Ok(request) = self.request(role, secret, &key, &exporter) else {
            return;
        };
        let villain = Who::Device(self.plan.villain());
        self.enroll(villain, request, exporter);
    }

    pub(crate) fn request(
        &self,
        role: Role,
        secret: [u8; 32],
        key: &SoftwareKey,
        exporter: &[u8; 32],
    ) -> Result<EnrollRequest, String> {
        let proof = prove(exporter, key).map_err(|error| error.to_string())?;
        Ok(EnrollRequest {
            version: PROTOCOL_VERSION,
            program: "sim".to_owned(),
            invite: Secret32(secret),
            role,
            name: name("node"),
            os: "linux".to_owned(),
            public_key: key.public_key().to_vec().into(),
            proof: proof.into(),
            report: (role == Role::Device).then(|| self.first_report()),
        })
    }

    fn first_report(&self) -> Report {
        let fact = |reading| Fact {
            reading,
            grade: Grade::Own,
            age_ms: 0,
        };
        Report {
            counter: 0,
            nonce: Bytes([0; 16]),
            clock: self.now.unix,
            facts: Condition::GOOD
                .facts()
                .into_iter()
                .map(|(name, reading)| (name, fact(reading)))
                .collect(),
        }
    }

    fn key(&mut self) -> Result<Arc<SoftwareKey>, String> {
        SoftwareKey::from_seed(&self.dice.bytes())
            .map(Arc::new)
            .map_err(|error| error.to_string())
    }
}
