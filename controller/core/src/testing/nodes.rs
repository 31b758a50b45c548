//! Nodes of a test: enrolled with real keys, and able to say everything that a node says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cardea_credential::{
    key::{self, KeyAlgorithm, Signer, SoftwareKey},
    proof,
    signed::{offer_digest, sign_answer, sign_offer},
};
use cardea_proto::{
    access::{Admit, Answer, Granted, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES, Offer, Signed},
    admin::{AdminAnswer, AdminChange, AdminQuery},
    app::Principal,
    codec::{Bytes, Secret32},
    enroll::{EnrollAnswer, EnrollRequest, Enrolled},
    id::{ConnectorId, DeviceId, GrantId, InviteId, NodeId},
    identity::Role,
    ledger::{Admits, Change},
    message::{FromNode, Hello, Purpose, ToNode},
    posture::{Fact, Report},
};

use super::{Bench, EXPORTER, TestNode, app, name, sane_facts, settings};
use crate::{ChannelId, Heard, Input, Peer, Settings};

impl Bench {
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
        Self::office_with(settings())
    }

    /// The same under a controller that is set otherwise.
    pub(crate) fn office_with(settings: Settings) -> (Self, TestNode, TestNode) {
        let mut bench = Self::with(settings);
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
        let peer = self.peer(node);
        self.connect_as(node, peer, grants, None);
    }

    /// Connects as one that knows this checkpoint.
    pub(crate) fn knows(&mut self, node: &mut TestNode, checkpoint: Option<String>) {
        let peer = self.peer(node);
        self.connect_as(node, peer, &[], checkpoint);
    }

    /// Connects for a certificate alone, with one that may have ended, and says hello.
    pub(crate) fn connect_to_renew(&mut self, node: &mut TestNode, grants: &[GrantId]) {
        let peer = Peer {
            leaf: self
                .trust
                .verify_lapsed(&node.chain, self.now.unix)
                .unwrap(),
            purpose: Purpose::Renewal,
            exporter: EXPORTER,
            address: "198.51.100.7:4000".parse().unwrap(),
            knockers: Vec::new(),
        };
        self.connect_as(node, peer, grants, None);
    }

    fn connect_as(
        &mut self,
        node: &mut TestNode,
        peer: Peer,
        grants: &[GrantId],
        checkpoint: Option<String>,
    ) {
        node.channel = self.next_channel();
        node.counter = 0;
        let channel = node.channel;
        self.handle(Input::Connected { channel, peer });
        self.say(
            node,
            FromNode::Hello(Hello {
                version: 1,
                program: "test".to_owned(),
                clock: self.now.unix,
                grants: grants.to_vec(),
                checkpoint,
            }),
        );
        let welcome = self.out.messages.iter().rev().find_map(|(to, message)| {
            let ToNode::Welcome(welcome) = message else {
                return None;
            };
            (*to == node.channel).then_some(welcome.nonce)
        });
        node.nonce = welcome.unwrap_or(node.nonce);
        self.settle();
    }

    /// The facts of a device as the controller believes them.
    pub(crate) fn facts_of(&mut self, node: &TestNode) -> BTreeMap<String, Fact> {
        let AdminAnswer::Devices(rows) = self.query(AdminQuery::Devices) else {
            panic!("no devices");
        };
        let row = rows.into_iter().find(|row| row.id == node.device());
        row.unwrap().facts
    }

    /// What a handshake with this node proves.
    pub(crate) fn peer(&self, node: &TestNode) -> Peer {
        Peer {
            leaf: self.trust.verify(&node.chain, self.now.unix).unwrap(),
            purpose: Purpose::Channel,
            exporter: EXPORTER,
            address: "198.51.100.7:4000".parse().unwrap(),
            knockers: Vec::new(),
        }
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
            message: Heard::new(message, &self.trust, self.now.unix),
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
        self.offer_for(node, app, None)
    }

    /// The same for a host of the app.
    pub(crate) fn offer_for(&self, node: &TestNode, app: &str, host: Option<&str>) -> Signed {
        let offer = Offer {
            device: node.device(),
            app: name(app),
            nonce: Bytes([1; 16]),
            wireguard: Bytes([2; 32]),
            kem: vec![3; KEM_KEY_BYTES].into(),
            candidates: Vec::new(),
            packets: false,
            host: host.map(name),
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
            candidates: Vec::new(),
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
        ToNode::Posture(verdict) if verdict.blocked => "posture: blocked".to_owned(),
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
        ToNode::Checkpoint(_) => "checkpoint".to_owned(),
        ToNode::Withdraw { reason, .. } => format!("withdraw: {reason}"),
        ToNode::Goodbye(refusal) => format!("goodbye: {}", refusal.code),
    }
}
