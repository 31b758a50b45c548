//! Grants through the whole controller: decided, durable, told to both ends.
//!
//! A controller on an embedded store, one connector, and devices that ask for every app at once. What
//! nodes do (sign an offer, sign an answer) is made before or outside of the measured time; everything
//! that the controller and its store do is inside. What comes is checked by two threads while the
//! controller decides, as the tasks that read its channels do it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cardea_core::{
    ChannelId, Controller, Heard, Input, Outbox, Peer, Proposal, ProposalId, Settings,
    policy::default_folder,
};
use cardea_credential::{
    admin::{admin_key_id, admin_public_key},
    authority::{Leaf, backdated, serial_number},
    key::{self, KeyAlgorithm, Signer, SoftwareKey},
    signed::{offer_digest, sign_answer, sign_offer},
    trust::Trust,
};
use cardea_e2e::program::now as instant;
use cardea_host::clock::Clock;
use cardea_ledger::checkpoint::LedgerKey;
use cardea_proto::{
    access::{Admit, Answer, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES, Offer, Signed},
    app::{AppSpec, Principal, Transport},
    codec::{Blob, Bytes},
    id::{ConnectorId, DeviceId, NodeId},
    identity::{Identity, Role},
    ledger::{
        Actor, CertificateRecord, Change, Draft, Founded, Link, Node, RecordKey, Revision, User,
    },
    message::{FromNode, Hello, Purpose, ToNode},
    name::Name,
    posture::{Fact, Grade, Reading, Report as Posture, Value},
    time::Now,
};
use cardea_store::{EmbeddedStore, Store};

use crate::{
    domain::{CONTROLLER, Domain, ticket_key},
    report::{Report, Row, bytes_of, median, percentile},
};

/// Devices, each of its own user.
const DEVICES: u64 = 500;

/// Apps, each of which every device asks for.
const APPS: u64 = 20;

/// Requests that wait at the same time, as they do in a controller under load: what the store
/// commits together.
const WAITING: usize = 256;

/// Threads that read channels, one for each core of a small machine.
const READERS: usize = 2;

/// Grants per second that must be sustained.
const FLOOR: f64 = 10_000.0;

/// Measures `rounds` controllers, each anew.
///
/// # Errors
/// When something is not granted.
pub(crate) fn run(report: &mut Report, rounds: u32) -> Result<()> {
    let place = tempfile::Builder::new()
        .prefix("decide-bench-")
        .tempdir_in(std::env::current_exe()?.parent().context("no folder")?)?;
    let mut rates = Vec::new();
    let mut waits_ms = Vec::new();
    for round in 0..rounds {
        let dir = place.path().join(round.to_string());
        std::fs::create_dir(&dir)?;
        let mut bench = Bench::new(&dir)?;
        let requests = bench.requests()?;
        #[expect(
            clippy::as_conversions,
            clippy::cast_precision_loss,
            reason = "a few thousand"
        )]
        let count = requests.len() as f64;
        bench.spent = Duration::ZERO;
        let waits = bench.sustain(&requests)?;
        waits_ms.extend(waits.iter().map(|wait| wait.as_secs_f64() * 1_000.0));
        rates.push(count / bench.spent.as_secs_f64());
    }
    report.add(Row {
        case: "grants/s, decided, durable, told".to_owned(),
        ours: median(&rates),
        range: (percentile(&rates, 0.0), percentile(&rates, 1.0)),
        peer: None,
        floor: Some(FLOOR),
        goal: None,
        unit: "/s",
    });
    report.add(Row {
        case: format!("the last of {WAITING} at once p99"),
        ours: percentile(&waits_ms, 0.99),
        range: (percentile(&waits_ms, 0.0), percentile(&waits_ms, 1.0)),
        peer: None,
        floor: None,
        goal: None,
        unit: "ms",
    });
    Ok(())
}

/// A request and the channel on which it comes.
type Request = (ChannelId, FromNode);

/// The same, after a reader has checked what is signed in it.
type Checked = (ChannelId, Heard);

/// A node that is connected.
struct Member {
    id: NodeId,
    key: Arc<SoftwareKey>,
    chain: Vec<Blob>,
    channel: ChannelId,
}

struct Bench {
    controller: Controller,
    store: EmbeddedStore,
    out: Outbox,
    now: Now,
    clock: Clock,
    /// Time in the controller and its store.
    spent: Duration,
    connector: Member,
    devices: Vec<Member>,
    told: VecDeque<(ChannelId, ToNode)>,
    trust: Trust,
}

impl Bench {
    fn new(dir: &Path) -> Result<Self> {
        let clock = Clock::system();
        let now = clock.now();
        let mut store = EmbeddedStore::new(dir);
        store.load()?;
        let company = Company::new(now)?;
        for outcome in store.commit(company.drafts(now)?) {
            outcome?;
        }
        let mut members = company.members(now)?;
        let connector = members.pop().context("no connector")?;
        let settings = Settings {
            addresses: vec!["ztna.corp.example:7443".to_owned()],
            relays: vec![vec!["192.0.2.1:7444".parse()?]],
            ..Settings::default()
        };
        let state = store.load()?.state;
        let controller = Controller::new(settings, state, company.domain.keys()?, [7; 32])?;
        let mut this = Self {
            controller,
            store,
            out: Outbox::default(),
            now,
            clock,
            spent: Duration::ZERO,
            connector,
            devices: members,
            told: VecDeque::new(),
            trust: company.trust.clone(),
        };
        this.handle(Input::Timeout);
        this.settle()?;
        this.connect(&company)?;
        Ok(this)
    }

    /// Everybody connects, says hello, and devices report.
    fn connect(&mut self, company: &Company) -> Result<()> {
        let mut peers = Vec::new();
        for member in self.devices.iter().chain([&self.connector]) {
            let peer = Peer {
                leaf: company.trust.verify(&member.chain, self.now.unix)?,
                purpose: Purpose::Channel,
                exporter: [9; 32],
                address: "198.51.100.7:4000".parse()?,
                knockers: Vec::new(),
            };
            peers.push((member.channel, member.id, peer));
        }
        for (channel, id, peer) in peers {
            self.handle(Input::Connected { channel, peer });
            let hello = Hello {
                version: 1,
                program: "bench".to_owned(),
                clock: self.now.unix,
                grants: Vec::new(),
                checkpoint: None,
            };
            self.say(channel, FromNode::Hello(hello));
            let nonce = self.told.iter().rev().find_map(|(to, message)| {
                let ToNode::Welcome(welcome) = message else {
                    return None;
                };
                (*to == channel).then_some(welcome.nonce)
            });
            if let (NodeId::Device(_), Some(nonce)) = (id, nonce) {
                let report = Posture {
                    counter: 1,
                    nonce,
                    clock: self.now.unix,
                    facts: facts(),
                };
                self.say(channel, FromNode::Report(report));
            }
            self.settle()?;
            self.told.clear();
        }
        Ok(())
    }

    /// What all devices ask, signed.
    fn requests(&self) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        for app in 0..APPS {
            for member in &self.devices {
                let NodeId::Device(device) = member.id else {
                    bail!("a device is a device");
                };
                let offer = Offer {
                    device,
                    app: app_name(app)?,
                    nonce: Bytes([1; 16]),
                    wireguard: Bytes([2; 32]),
                    kem: vec![3; KEM_KEY_BYTES].into(),
                    candidates: Vec::new(),
                    packets: false,
                    host: None,
                };
                let offer = sign_offer(&offer, &member.chain, member.key.as_ref())?;
                let message = FromNode::Request {
                    request: app + 1,
                    app: app_name(app)?,
                    offer,
                };
                requests.push((member.channel, message));
            }
        }
        Ok(requests)
    }

    /// Grants all requests, two batches at a time, half a step apart: while the controller decides and
    /// commits one, its readers check what comes of the other. Answers how long each first one took.
    fn sustain(&mut self, requests: &[Request]) -> Result<Vec<Duration>> {
        let mut batches = requests.chunks(WAITING);
        let mut first = batches.next().unwrap_or_default();
        let mut heard = self.turn(Vec::new(), first)?;
        let mut waits = Vec::new();
        while !first.is_empty() {
            let second = batches.next().unwrap_or_default();
            let third = batches.next().unwrap_or_default();
            let begun = self.spent;
            heard = self.turn(heard, second)?;
            let answers = self.answers(first.len())?;
            heard = self.turn(heard, &answers)?;
            let answers = self.answers(second.len())?;
            heard = self.turn(heard, &answers)?;
            self.granted(first.len())?;
            waits.push(self.spent - begun);
            heard = self.turn(heard, third)?;
            self.granted(second.len())?;
            first = third;
        }
        Ok(waits)
    }

    /// What the connector answers to what it was told, in no measured time.
    fn answers(&mut self, count: usize) -> Result<Vec<Request>> {
        let mut answers = Vec::new();
        for (_, message) in self.told.drain(..) {
            if let ToNode::Admit(admit) = message {
                let (grant, answer) = (admit.grant, answer(&self.connector, &admit)?);
                answers.push((self.connector.channel, FromNode::Admitted { grant, answer }));
            } else if let ToNode::Denied { refusal, .. } = message {
                bail!("denied: {refusal}");
            }
        }
        ensure!(answers.len() == count, "{} asked to admit", answers.len());
        Ok(answers)
    }

    fn granted(&mut self, count: usize) -> Result<()> {
        let told = self.told.drain(..);
        let granted = told.filter(|(_, message)| matches!(message, ToNode::Granted(_)));
        let granted = granted.count();
        ensure!(granted == count, "{granted} of {count} granted");
        Ok(())
    }

    fn say(&mut self, channel: ChannelId, message: FromNode) {
        let message = Heard::new(message, &self.trust, self.now.unix);
        self.handle(Input::Message { channel, message });
    }

    /// Handles what was heard and commits what comes of it, while what comes next is checked.
    fn turn(&mut self, heard: Vec<Checked>, next: &[Request]) -> Result<Vec<Checked>> {
        self.now = self.clock.now();
        let (trust, at) = (&self.trust.clone(), self.now.unix);
        let share = next.len().div_ceil(READERS).max(1);
        let (begin, spent) = (instant(), self.spent);
        let checked = std::thread::scope(|scope| {
            let check = |messages: &[Request]| -> Vec<Checked> {
                let messages = messages.iter().cloned();
                let checked =
                    messages.map(|(from, message)| (from, Heard::new(message, trust, at)));
                checked.collect()
            };
            let readers: Vec<_> = next
                .chunks(share)
                .map(|messages| scope.spawn(move || check(messages)))
                .collect();
            for (channel, message) in heard {
                self.handle(Input::Message { channel, message });
            }
            self.settle()?;
            let mut checked = Vec::new();
            for reader in readers {
                let read = reader.join();
                checked.extend(read.map_err(|_| anyhow::anyhow!("a reader panicked"))?);
            }
            anyhow::Ok(checked)
        })?;
        self.spent = spent + instant().duration_since(begin);
        Ok(checked)
    }

    fn handle(&mut self, input: Input) {
        let begin = instant();
        self.controller.handle(self.now, input, &mut self.out);
        self.spent += instant().duration_since(begin);
        self.told.extend(self.out.messages.drain(..));
    }

    /// Commits what is proposed, together, until nothing is.
    fn settle(&mut self) -> Result<()> {
        while !self.out.proposals.is_empty() {
            let batch: Vec<Proposal> = self.out.proposals.drain(..).collect();
            let ids: Vec<ProposalId> = batch.iter().map(|proposal| proposal.id).collect();
            let begin: Instant = instant();
            let outcomes = self.store.commit(batch);
            self.spent += instant().duration_since(begin);
            for (proposal, outcome) in ids.into_iter().zip(outcomes) {
                self.handle(match outcome {
                    Ok(entry) => Input::Committed {
                        proposal: Some(proposal),
                        entry,
                    },
                    Err(why) => Input::NotCommitted { proposal, why },
                });
            }
        }
        Ok(())
    }
}

/// A trust domain, and what is recorded of it.
struct Company {
    domain: Domain,
    admin: SoftwareKey,
    trust: Trust,
    /// The devices, then the connector.
    keys: Vec<(NodeId, Arc<SoftwareKey>)>,
}

impl Company {
    fn new(now: Now) -> Result<Self> {
        let domain = Domain::new(now)?;
        let mut keys = Vec::new();
        for number in 0..DEVICES {
            let id = NodeId::Device(DeviceId::from_bytes(bytes_of(number + 1)));
            keys.push((id, leaf_key(Role::Device)?));
        }
        let id = NodeId::Connector(ConnectorId::from_bytes([8; 10]));
        keys.push((id, leaf_key(Role::Connector)?));
        Ok(Self {
            trust: Trust::new(
                domain.root.domain().clone(),
                domain.root.certificate().to_vec(),
            )?,
            domain,
            admin: SoftwareKey::from_seed(&[3; 32])?,
            keys,
        })
    }

    /// Everybody's certificate.
    fn members(&self, now: Now) -> Result<Vec<Member>> {
        let intermediate = self.domain.keys()?.intermediate;
        let mut members = Vec::new();
        for ((id, key), channel) in self.keys.iter().zip(1..) {
            let leaf = Leaf {
                identity: Identity {
                    domain: self.domain.root.domain().clone(),
                    holder: (*id).into(),
                },
                public_key: key.public_key().to_vec().into(),
                serial: serial_number([6; 16]),
                not_before: backdated(now.unix),
                not_after: now.unix.plus(Duration::from_secs(3_600)),
            };
            members.push(Member {
                id: *id,
                key: Arc::clone(key),
                chain: intermediate.issue(&leaf)?,
                channel: ChannelId(channel),
            });
        }
        Ok(members)
    }

    /// The ledger until then.
    fn drafts(&self, now: Now) -> Result<Vec<Proposal>> {
        let domain = self.domain.root.domain().clone();
        let public = admin_public_key(&self.admin).context("an Ed25519 key")?;
        let ledger = LedgerKey::from_seed(&domain, &[4; 32])?;
        let mut changes = vec![
            Change::Founded(Founded {
                domain,
                controller: CONTROLLER,
                root: self.domain.root.digest(),
                admin: (admin_key_id(&public), public.to_vec().into()),
                ticket_key: ticket_key()?.public().to_vec().into(),
                ledger_key: ledger.verifier().public().to_vec().into(),
            }),
            Change::SiteAdded("default".parse()?),
            Change::PolicySet(default_folder()),
        ];
        changes.extend(apps()?);
        for (number, (id, key)) in self.keys.iter().enumerate() {
            let device = match id {
                NodeId::Device(device) => Some(*device),
                NodeId::Connector(_) => None,
            };
            let user: Name = format!("user-{number}@corp.example").parse()?;
            changes.push(Change::UserSet(User {
                name: user.clone(),
                groups: BTreeSet::from(["staff".parse()?]),
            }));
            changes.push(Change::NodeEnrolled(Node {
                id: *id,
                name: format!("node-{number}").parse()?,
                key: key::digest(key.public_key()),
                user: device.map(|_| user),
                site: match device {
                    Some(_) => None,
                    None => Some("default".parse()?),
                },
                os: "linux".to_owned(),
            }));
            changes.push(Change::CertificateIssued(CertificateRecord {
                node: *id,
                serial: serial_number([6; 16]),
                public_key: key.public_key().to_vec().into(),
                not_before: backdated(now.unix),
                not_after: now.unix.plus(Duration::from_secs(3_600)),
            }));
        }
        let draft = Draft {
            at: now.unix,
            actor: Actor::Controller(CONTROLLER),
            changes,
            decision: None,
            signed: None,
        };
        Ok(vec![Proposal {
            id: ProposalId(0),
            expects: vec![(RecordKey::Domain, Revision(0))],
            draft,
        }])
    }
}

/// The apps, all for the one group.
fn apps() -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for app in 0..APPS {
        changes.push(Change::AppSet(AppSpec {
            name: app_name(app)?,
            site: "default".parse()?,
            targets: vec![format!("10.9.0.{}:443", app + 10).parse()?],
            names: Vec::new(),
            transport: Transport::Auto,
            labels: BTreeMap::new(),
            host_scoped: false,
        }));
        changes.push(Change::Allowed(Link {
            principal: Principal::Group("staff".parse()?),
            app: app_name(app)?,
        }));
    }
    Ok(changes)
}

fn app_name(app: u64) -> Result<Name> {
    Ok(format!("app-{app}").parse()?)
}

/// What the default policy certifies.
fn facts() -> BTreeMap<String, Fact> {
    let fact = |name: &str, value| {
        let fact = Fact {
            reading: Reading::Value(value),
            grade: Grade::Own,
            age_ms: 0,
        };
        (name.to_owned(), fact)
    };
    BTreeMap::from([
        fact("agent.version", Value::Text("0.1.0".to_owned())),
        fact("disk.encrypted", Value::Bool(true)),
    ])
}

fn leaf_key(role: Role) -> Result<Arc<SoftwareKey>> {
    Ok(Arc::new(SoftwareKey::generate(KeyAlgorithm::of_leaf(
        role,
    ))?))
}

fn answer(connector: &Member, admit: &Admit) -> Result<Signed> {
    let NodeId::Connector(id) = connector.id else {
        bail!("a connector is a connector");
    };
    let answer = Answer {
        connector: id,
        grant: admit.grant,
        offer: offer_digest(&admit.offer),
        wireguard: Bytes([4; 32]),
        kem: vec![5; KEM_CIPHERTEXT_BYTES].into(),
        candidates: Vec::new(),
    };
    Ok(sign_answer(
        &answer,
        &connector.chain,
        connector.key.as_ref(),
    )?)
}
