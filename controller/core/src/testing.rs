//! A controller with a memory store, and nodes that speak to it: what every test here stands on.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use cardea_credential::{
    admin::{admin_key_id, admin_public_key, sign_change},
    authority::{Intermediate, Root, serial_number},
    key::{self, KeyAlgorithm, Signer, SoftwareKey},
    proof,
    signed::{offer_digest, sign_answer, sign_offer},
    ticket::TicketKey,
    trust::Trust,
};
use cardea_proto::{
    access::{Admit, Answer, Granted, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES, Offer, Signed},
    admin::{AdminAnswer, AdminChange, AdminQuery, AdminRequest, ChangeOrder},
    app::{AppSpec, Principal, Transport},
    codec::{Blob, Bytes, Secret32},
    enroll::{EnrollAnswer, EnrollRequest, Enrolled},
    id::{ConnectorId, ControllerId, DeviceId, GrantId, InviteId, NodeId},
    identity::Role,
    ledger::{Actor, Admits, Change, Draft, Entry, Founded, Revision},
    message::{FromNode, Hello, ToNode},
    name::Name,
    policy::PolicyFile,
    posture::{Fact, Grade, Reading, Report, Value},
    time::{Now, testing::start},
};

use crate::{
    AdminSession, CallId, ChannelId, CommitError, Controller, Input, Keys, Outbox, Peer, Proposal,
    Settings, State, policy::default_folder,
};

/// The exporter of every test connection.
const EXPORTER: [u8; 32] = [9; 32];

/// The nonce of the one admin connection.
const SESSION: AdminSession = AdminSession {
    nonce: Bytes([5; 16]),
};

/// A controller, its store, and the moment.
pub(crate) struct Bench {
    pub(crate) controller: Controller,
    pub(crate) now: Now,
    pub(crate) out: Outbox,
    /// What the store holds.
    pub(crate) store: State,
    /// Every entry, in order.
    pub(crate) entries: Vec<Entry>,
    /// What the store answers instead of committing.
    pub(crate) broken: Option<CommitError>,
    pub(crate) admin: SoftwareKey,
    sequence: u64,
    channels: u64,
    secrets: u8,
    root: Root,
    trust: Trust,
}

/// An enrolled node with its keys.
pub(crate) struct TestNode {
    pub(crate) id: NodeId,
    pub(crate) key: SoftwareKey,
    pub(crate) chain: Vec<Blob>,
    pub(crate) channel: ChannelId,
    pub(crate) nonce: Bytes<16>,
    pub(crate) counter: u64,
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Facts that the default policy certifies.
pub(crate) fn sane_facts() -> BTreeMap<String, Fact> {
    BTreeMap::from([
        fact("agent.version", Value::Text("0.1.0".to_owned())),
        fact("disk.encrypted", Value::Bool(true)),
    ])
}

pub(crate) fn fact(name: &str, value: Value) -> (String, Fact) {
    let fact = Fact {
        reading: Reading::Value(value),
        grade: Grade::Own,
        age_ms: 0,
    };
    (name.to_owned(), fact)
}

pub(crate) fn app(app: &str) -> AppSpec {
    AppSpec {
        name: name(app),
        site: name("default"),
        targets: vec!["10.9.0.10:80".parse().unwrap()],
        names: Vec::new(),
        transport: Transport::Auto,
        labels: BTreeMap::new(),
        host_scoped: false,
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        addresses: vec!["ztna.corp.example:7443".to_owned()],
        relays: vec!["192.0.2.1:7444".parse().unwrap()],
        ..Settings::default()
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let now = start();
        let domain = name("corp.example");
        let generate = |algorithm| Arc::new(SoftwareKey::generate(algorithm).unwrap());
        let root = Root::create(
            &domain,
            generate(KeyAlgorithm::P384),
            serial_number([1; 16]),
            now.unix,
        )
        .unwrap();
        let trust = Trust::new(domain.clone(), root.certificate().to_vec()).unwrap();
        let admin = SoftwareKey::from_seed(&[3; 32]).unwrap();
        let public = admin_public_key(&admin).unwrap();
        let founded = Founded {
            domain,
            controller: ControllerId::from_bytes([1; 10]),
            root: root.digest(),
            admin: (admin_key_id(&public), public.to_vec().into()),
            ticket_key: ticket_key().public().to_vec().into(),
        };
        let mut bench = Self {
            controller: Self::controller(
                &root,
                settings.clone(),
                founded_state(&founded, now),
                now,
            ),
            now,
            out: Outbox::default(),
            store: State::default(),
            entries: Vec::new(),
            broken: None,
            admin,
            sequence: 0,
            channels: 0,
            secrets: 0,
            root,
            trust,
        };
        bench.store = bench.controller.state().clone();
        bench.handle(Input::Timeout);
        bench
    }

    fn controller(root: &Root, settings: Settings, state: State, now: Now) -> Controller {
        let key = Arc::new(SoftwareKey::generate(KeyAlgorithm::P256).unwrap());
        let id = ControllerId::from_bytes([1; 10]);
        let certificate = root
            .issue_intermediate(id, key.public_key(), serial_number([2; 16]), now.unix)
            .unwrap();
        let keys = Keys {
            intermediate: Intermediate::load(certificate, key).unwrap(),
            root_der: root.certificate().to_vec(),
            ticket: ticket_key(),
        };
        Controller::new(settings, state, keys, [7; 32]).unwrap()
    }

    /// The controller stops, and another one starts on what the store holds.
    pub(crate) fn restart(&mut self, settings: Settings) {
        self.out = Outbox::default();
        self.controller = Self::controller(&self.root, settings, self.store.clone(), self.now);
        self.handle(Input::Timeout);
        self.settle();
    }

    /// One input, nothing committed.
    pub(crate) fn handle(&mut self, input: Input) {
        self.controller.handle(self.now, input, &mut self.out);
    }

    /// Commits what is proposed and runs what is due, until nothing moves.
    pub(crate) fn settle(&mut self) {
        loop {
            self.commit_all();
            match self.controller.deadline() {
                Some(at) if at <= self.now.instant => self.handle(Input::Timeout),
                Some(_) | None => return,
            }
        }
    }

    /// Commits what is proposed, one batch after the other.
    pub(crate) fn commit_all(&mut self) {
        while !self.out.proposals.is_empty() {
            let batch: Vec<Proposal> = self.out.proposals.drain(..).collect();
            let outcomes: Vec<Input> = batch.into_iter().map(|p| self.commit(p)).collect();
            for outcome in outcomes {
                self.handle(outcome);
            }
        }
    }

    fn commit(&mut self, proposal: Proposal) -> Input {
        let Proposal { id, expects, draft } = proposal;
        let moved = expects
            .iter()
            .any(|(key, revision)| self.store.revision_of(key) != *revision);
        let why = match &self.broken {
            Some(why) => Some(why.clone()),
            None if moved => Some(CommitError::Conflict),
            None => None,
        };
        if let Some(why) = why {
            return Input::NotCommitted { proposal: id, why };
        }
        let entry = self.append(draft);
        Input::Committed {
            proposal: Some(id),
            entry,
        }
    }

    /// Puts a draft into the store as if another controller had proposed it.
    pub(crate) fn append(&mut self, draft: Draft) -> Entry {
        let entry = Entry {
            revision: self.store.head().next(),
            previous: Bytes([0; 32]),
            draft,
        };
        self.store.apply(&entry);
        self.entries.push(entry.clone());
        entry
    }

    /// Time passes in steps; everything due happens on its way.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now.plus(duration);
        loop {
            self.settle();
            let next = self.controller.deadline();
            let Some(at) = next.filter(|at| *at <= end.instant) else {
                break;
            };
            self.now = self.now.plus(at - self.now.instant);
            self.handle(Input::Timeout);
        }
        self.now = end;
    }

    /// An admin's change, signed and committed; its answer.
    pub(crate) fn order(&mut self, change: AdminChange) -> AdminAnswer {
        let request = self.signed(change);
        self.ask(request)
    }

    /// The same, which must be done.
    pub(crate) fn must(&mut self, change: AdminChange) -> u32 {
        match self.order(change) {
            AdminAnswer::Done { closed, .. } => closed,
            other => panic!("not done: {other:?}"),
        }
    }

    pub(crate) fn query(&mut self, query: AdminQuery) -> AdminAnswer {
        self.ask(AdminRequest::Query(query))
    }

    pub(crate) fn signed(&mut self, change: AdminChange) -> AdminRequest {
        self.sequence += 1;
        let order = ChangeOrder {
            domain: name("corp.example"),
            nonce: SESSION.nonce,
            sequence: self.sequence,
            at: self.now.unix,
            change,
        };
        AdminRequest::Change(sign_change(&order, &self.admin).unwrap())
    }

    pub(crate) fn ask(&mut self, request: AdminRequest) -> AdminAnswer {
        self.handle(Input::Admin {
            call: CallId(1),
            session: SESSION,
            request,
        });
        self.settle();
        self.out.answers.pop_back().unwrap().1
    }

    /// Makes a code; its secret.
    pub(crate) fn invite(&mut self, admits: Admits) -> Secret32 {
        self.secrets += 1;
        let secret = Secret32([self.secrets; 32]);
        self.must(AdminChange::InviteCreate {
            id: InviteId::from_bytes([self.secrets; 10]),
            secret_hash: key::digest(&secret.0),
            admits,
            life_s: 3_600,
        });
        secret
    }

    pub(crate) fn invite_device(&mut self, user: &str, groups: &[&str]) -> Secret32 {
        self.invite(Admits::Device {
            user: name(user),
            groups: groups
                .iter()
                .map(|group| name(group))
                .collect::<BTreeSet<_>>(),
        })
    }

    /// What a stranger with a new key would ask.
    pub(crate) fn enroll_request(
        &self,
        role: Role,
        secret: &Secret32,
        host: &str,
    ) -> (SoftwareKey, EnrollRequest) {
        let key = SoftwareKey::generate(KeyAlgorithm::Ed25519).unwrap();
        let request = EnrollRequest {
            version: 1,
            program: "test".to_owned(),
            invite: secret.clone(),
            role,
            name: name(host),
            os: "linux".to_owned(),
            public_key: key.public_key().to_vec().into(),
            proof: proof::prove(&EXPORTER, &key).unwrap().into(),
            report: (role == Role::Device).then(|| self.report_of(1, [0; 16], sane_facts())),
        };
        (key, request)
    }

    /// Sends an enrollment without committing it.
    pub(crate) fn send_enroll(&mut self, request: EnrollRequest) -> ChannelId {
        let channel = self.next_channel();
        self.handle(Input::Enroll {
            channel,
            request: Box::new(request),
            exporter: EXPORTER,
            address: "198.51.100.7:4000".parse().unwrap(),
        });
        channel
    }

    pub(crate) fn enroll(&mut self, request: EnrollRequest) -> EnrollAnswer {
        self.send_enroll(request);
        self.settle();
        self.out.enrollments.pop_back().unwrap().1
    }

    pub(crate) fn enroll_node(&mut self, role: Role, secret: &Secret32, host: &str) -> TestNode {
        let (key, request) = self.enroll_request(role, secret, host);
        match self.enroll(request) {
            EnrollAnswer::Enrolled(enrolled) => self.node_of(key, *enrolled),
            EnrollAnswer::Refused(refusal) => panic!("refused: {refusal}"),
        }
    }

    fn node_of(&self, key: SoftwareKey, enrolled: Enrolled) -> TestNode {
        self.trust
            .verify(&enrolled.certificate.chain, self.now.unix)
            .unwrap();
        TestNode {
            id: enrolled.node,
            key,
            chain: enrolled.certificate.chain,
            channel: ChannelId(0),
            nonce: Bytes([0; 16]),
            counter: 0,
        }
    }

    /// A device of alice in `staff`, connected, with a fresh report.
    pub(crate) fn device(&mut self, host: &str) -> TestNode {
        let secret = self.invite_device("alice", &["staff"]);
        let mut node = self.enroll_node(Role::Device, &secret, host);
        self.connect(&mut node, &[]);
        self.report(&mut node, sane_facts());
        node
    }

    /// A connector of the site `default`, connected.
    pub(crate) fn connector(&mut self, host: &str) -> TestNode {
        let site = name("default");
        let secret = self.invite(Admits::Connector { site });
        let mut node = self.enroll_node(Role::Connector, &secret, host);
        self.connect(&mut node, &[]);
        node
    }

    pub(crate) fn publish(&mut self, name: &str) {
        self.must(AdminChange::AppAdd {
            spec: app(name),
            allow: vec![Principal::Group("staff".parse().unwrap())],
        });
    }

    /// A connected device, a connected connector, and the app `wiki` for the device's group.
    pub(crate) fn office() -> (Self, TestNode, TestNode) {
        let mut bench = Self::new();
        bench.publish("wiki");
        let connector = bench.connector("gate");
        let device = bench.device("laptop");
        bench.out.messages.clear();
        (bench, device, connector)
    }

    pub(crate) fn next_channel(&mut self) -> ChannelId {
        self.channels += 1;
        ChannelId(self.channels)
    }

    /// Connects and says hello.
    pub(crate) fn connect(&mut self, node: &mut TestNode, grants: &[GrantId]) {
        node.channel = self.next_channel();
        node.counter = 0;
        let leaf = self.trust.verify(&node.chain, self.now.unix).unwrap();
        self.handle(Input::Connected {
            channel: node.channel,
            peer: Peer {
                leaf,
                exporter: EXPORTER,
                address: "198.51.100.7:4000".parse().unwrap(),
            },
        });
        self.say(
            node,
            FromNode::Hello(Hello {
                version: 1,
                program: "test".to_owned(),
                clock: self.now.unix,
                grants: grants.to_vec(),
            }),
        );
        let welcome = self.out.messages.iter().rev().find_map(|(to, message)| {
            let ToNode::Welcome(welcome) = message else {
                return None;
            };
            (*to == node.channel).then(|| welcome.nonce)
        });
        node.nonce = welcome.unwrap_or(node.nonce);
        self.settle();
    }

    pub(crate) fn disconnect(&mut self, node: &TestNode) {
        let channel = node.channel;
        self.handle(Input::Disconnected { channel });
        self.settle();
    }

    /// One message, nothing committed.
    pub(crate) fn say(&mut self, node: &TestNode, message: FromNode) {
        self.handle(Input::Message {
            channel: node.channel,
            message,
        });
    }

    pub(crate) fn report(&mut self, node: &mut TestNode, facts: BTreeMap<String, Fact>) {
        node.counter += 1;
        let report = self.report_of(node.counter, node.nonce.0, facts);
        self.say(node, FromNode::Report(report));
        self.settle();
    }

    pub(crate) fn report_of(
        &self,
        counter: u64,
        nonce: [u8; 16],
        facts: BTreeMap<String, Fact>,
    ) -> Report {
        Report {
            counter,
            nonce: Bytes(nonce),
            clock: self.now.unix,
            facts,
        }
    }

    pub(crate) fn offer(&self, node: &TestNode, app: &str) -> Signed {
        let offer = Offer {
            device: node.device(),
            app: name(app),
            nonce: Bytes([1; 16]),
            wireguard: Bytes([2; 32]),
            kem: vec![3; KEM_KEY_BYTES].into(),
        };
        sign_offer(&offer, &node.chain, &node.key).unwrap()
    }

    pub(crate) fn request(&mut self, node: &TestNode, request: u64, app: &str) {
        let offer = self.offer(node, app);
        let app = name(app);
        self.say(
            node,
            FromNode::Request {
                request,
                app,
                offer,
            },
        );
    }

    pub(crate) fn answer(&self, connector: &TestNode, admit: &Admit) -> Signed {
        let answer = Answer {
            connector: connector.connector(),
            grant: admit.grant,
            offer: offer_digest(&admit.offer),
            wireguard: Bytes([4; 32]),
            kem: vec![5; KEM_CIPHERTEXT_BYTES].into(),
        };
        sign_answer(&answer, &connector.chain, &connector.key).unwrap()
    }

    pub(crate) fn admit(&mut self, connector: &TestNode, admit: &Admit) {
        let answer = self.answer(connector, admit);
        let grant = admit.grant;
        self.say(connector, FromNode::Admitted { grant, answer });
    }

    /// A tunnel from request to grant.
    pub(crate) fn open(&mut self, device: &TestNode, connector: &TestNode, app: &str) -> Granted {
        self.request(device, 1, app);
        self.settle();
        let admit = self.admit_at(connector);
        self.admit(connector, &admit);
        self.settle();
        self.granted_at(device)
    }

    /// The last thing that a connector was asked to admit.
    pub(crate) fn admit_at(&mut self, connector: &TestNode) -> Admit {
        let found = self.take(connector).into_iter().find_map(|message| {
            if let ToNode::Admit(admit) = message {
                Some(*admit)
            } else {
                None
            }
        });
        found.expect("no Admit at the connector")
    }

    pub(crate) fn granted_at(&mut self, device: &TestNode) -> Granted {
        let messages = self.take(device);
        let found = messages.iter().find_map(|message| {
            if let ToNode::Granted(granted) = message {
                Some((**granted).clone())
            } else {
                None
            }
        });
        found.unwrap_or_else(|| panic!("not granted: {messages:?}"))
    }

    /// Takes the messages of one node out of the outbox.
    pub(crate) fn take(&mut self, node: &TestNode) -> Vec<ToNode> {
        let mut taken = Vec::new();
        let mut rest = VecDeque::new();
        for (channel, message) in self.out.messages.drain(..) {
            if channel == node.channel {
                taken.push(message);
            } else {
                rest.push_back((channel, message));
            }
        }
        self.out.messages = rest;
        taken
    }

    /// Words for the messages that wait for one node, in order.
    pub(crate) fn heard(&mut self, node: &TestNode) -> Vec<String> {
        self.take(node).iter().map(word).collect()
    }

    /// The refusals on record, as `attempt code`.
    pub(crate) fn refused(&self) -> Vec<String> {
        let changes = self.entries.iter().flat_map(|entry| &entry.draft.changes);
        changes
            .filter_map(|change| {
                if let Change::Refused(record) = change {
                    Some(format!("{} {}", record.attempt, record.code))
                } else {
                    None
                }
            })
            .collect()
    }
}

impl TestNode {
    pub(crate) fn device(&self) -> DeviceId {
        match self.id {
            NodeId::Device(id) => id,
            NodeId::Connector(id) => panic!("{id} is no device"),
        }
    }

    pub(crate) fn connector(&self) -> ConnectorId {
        match self.id {
            NodeId::Connector(id) => id,
            NodeId::Device(id) => panic!("{id} is no connector"),
        }
    }
}

/// A message in one or two words.
pub(crate) fn word(message: &ToNode) -> String {
    match message {
        ToNode::Welcome(_) => "welcome".to_owned(),
        ToNode::Certificate(_) => "certificate".to_owned(),
        ToNode::CertificateRefused(refusal) => format!("no certificate: {}", refusal.code),
        ToNode::Posture(verdict) if verdict.compliant => "posture passes".to_owned(),
        ToNode::Posture(_) => "posture fails".to_owned(),
        ToNode::Apps(apps) => {
            let allowed = apps.iter().filter(|app| app.allowed).count();
            format!("apps {allowed}/{}", apps.len())
        }
        ToNode::Granted(_) => "granted".to_owned(),
        ToNode::Denied { refusal, .. } => format!("denied: {}", refusal.code),
        ToNode::Explained { .. } => "explained".to_owned(),
        ToNode::Admit(_) => "admit".to_owned(),
        ToNode::Extend(_) => "extend".to_owned(),
        ToNode::Withdraw { reason, .. } => format!("withdraw: {reason}"),
        ToNode::Goodbye(refusal) => format!("goodbye: {}", refusal.code),
    }
}

fn ticket_key() -> TicketKey {
    TicketKey::from_seed(&[4; 32]).unwrap()
}

fn founded_state(founded: &Founded, now: Now) -> State {
    let policy: Vec<PolicyFile> = default_folder();
    let mut state = State::default();
    state.apply(&Entry {
        revision: Revision(1),
        previous: Bytes([0; 32]),
        draft: Draft {
            at: now.unix,
            actor: Actor::Controller(founded.controller),
            changes: vec![
                Change::Founded(founded.clone()),
                Change::SiteAdded(name("default")),
                Change::PolicySet(policy),
            ],
            decision: None,
            signed: None,
        },
    });
    state
}
