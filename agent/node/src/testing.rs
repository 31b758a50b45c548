//! A scripted controller for the tests of both roles: it says what a test tells it to say.

use std::{sync::Arc, time::Duration};

use cardea_credential::{
    key,
    testing::{LEAF_LIFE, TestDomain, TestNode},
};
use cardea_ledger::checkpoint::LedgerKey;
use cardea_proto::{
    access::{Admit, Granted, InnerAddresses, Rendezvous, Signed},
    app::{Carrier, Protocol, Service},
    codec::{Blob, Bytes, Secret32},
    enroll::Certificate,
    id::{ConnectorId, DeviceId, GrantId},
    identity::Holder,
    message::{AppView, Checkpointed, FromNode, ToNode, Welcome},
    name::Name,
    posture::{Grade, Reading, Value},
    time::Now,
};

use crate::{
    Agent, AgentInput, AgentOutbox, AgentSettings, Collected, Connector, ConnectorInput,
    ConnectorOutbox, ConnectorSettings, NodeOutbox,
};

pub(crate) const DEVICE: DeviceId = DeviceId::from_bytes([1; 10]);
pub(crate) const CONNECTOR: ConnectorId = ConnectorId::from_bytes([2; 10]);
pub(crate) const GRANT: GrantId = GrantId::from_bytes([3; 10]);
pub(crate) const TTL: Duration = Duration::from_secs(300);

/// A trust domain with one device and one connector, and the words of its controller.
pub(crate) struct World {
    pub(crate) domain: TestDomain,
    pub(crate) device: TestNode,
    pub(crate) connector: TestNode,
    pub(crate) now: Now,
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn ledger_key() -> LedgerKey {
    LedgerKey::from_seed(&name("corp.example"), &[9; 32]).unwrap()
}

/// The controller shows a ledger that does not grow.
fn shown() -> ToNode {
    ToNode::Checkpoint(Box::new(Checkpointed {
        note: ledger_key().sign(1, Bytes([5; 32]), 0).unwrap(),
        proof: Vec::new(),
    }))
}

impl World {
    pub(crate) fn new() -> Self {
        let now = cardea_proto::time::testing::start();
        let domain = TestDomain::new("corp.example", now.unix);
        Self {
            device: domain.node(Holder::Device(DEVICE), now.unix),
            connector: domain.node(Holder::Connector(CONNECTOR), now.unix),
            domain,
            now,
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, duration: Duration) -> Now {
        self.now = self.now.plus(duration);
        self.now
    }

    pub(crate) fn certificate(&self, node: &TestNode) -> Certificate {
        self.certificate_at(self.now, node)
    }

    fn certificate_at(&self, at: Now, node: &TestNode) -> Certificate {
        let leaf = self.domain.trust.verify(&node.chain, at.unix).unwrap();
        Certificate {
            chain: node.chain.clone(),
            knock: Secret32(key::digest(leaf.serial.as_bytes()).0),
            pass: None,
            relays: Vec::new(),
            serial: leaf.serial,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        }
    }

    /// The next certificate of a node, from this moment on.
    pub(crate) fn next_certificate(&self, node: &TestNode) -> Certificate {
        let signer = Arc::clone(&node.signer);
        let renewed = self
            .domain
            .node_with_key(node.holder, signer, self.now.unix);
        self.certificate(&renewed)
    }

    pub(crate) fn agent(&self, addresses: &[&str]) -> Agent {
        Agent::new(self.settings_at(self.now, addresses), [5; 32])
    }

    /// What an agent starts from whose certificate holds at a moment.
    pub(crate) fn settings_at(&self, at: Now, addresses: &[&str]) -> AgentSettings {
        AgentSettings {
            device: DEVICE,
            name: name("laptop"),
            user: Some(name("alice")),
            domain: name("corp.example"),
            trust: self.domain.trust.clone(),
            certificate: self.certificate_at(at, &self.device),
            signer: Arc::clone(&self.device.signer),
            addresses: addresses
                .iter()
                .map(|&address| address.to_owned())
                .collect(),
            packets: false,
            program: "test".to_owned(),
            ledger: ledger_key().verifier().clone(),
            checkpoint: None,
            home: "/state".to_owned(),
        }
    }

    pub(crate) fn connector(&self) -> Connector {
        let settings = ConnectorSettings {
            connector: CONNECTOR,
            name: name("rack"),
            domain: name("corp.example"),
            trust: self.domain.trust.clone(),
            certificate: self.certificate(&self.connector),
            signer: Arc::clone(&self.connector.signer),
            addresses: vec!["c:7443".to_owned()],
            program: "test".to_owned(),
            ledger: ledger_key().verifier().clone(),
            checkpoint: None,
            home: "/state".to_owned(),
        };
        Connector::new(settings, [6; 32])
    }

    pub(crate) fn welcome(&self) -> ToNode {
        ToNode::Welcome(Welcome {
            version: 1,
            program: "test".to_owned(),
            clock: self.now.unix,
            name: name("laptop"),
            user: Some(name("alice")),
            nonce: Bytes([8; 16]),
            posture_poll_ms: 60_000,
            watched_processes: vec!["edr".to_owned()],
            addresses: Vec::new(),
        })
    }

    pub(crate) fn rendezvous() -> Rendezvous {
        Rendezvous {
            relay: vec![
                "[::1]:7444".parse().unwrap(),
                "127.0.0.1:7444".parse().unwrap(),
            ],
            ticket: Blob(vec![0; 97]),
            standby: Vec::new(),
        }
    }

    pub(crate) fn admit(&self, carrier: Carrier, offer: Signed) -> Admit {
        Admit {
            grant: GRANT,
            app: name("wiki"),
            carrier,
            ttl_ms: 300_000,
            device: DEVICE,
            device_key: key::digest(self.device.signer.public_key()),
            offer,
            targets: vec!["10.9.0.10:80".parse().unwrap()],
            patterns: Vec::new(),
            host_scoped: false,
            never: Vec::new(),
            inner: inner(),
            rendezvous: Self::rendezvous(),
        }
    }

    pub(crate) fn granted(&self, carrier: Carrier, request: u64, answer: Signed) -> Granted {
        Granted {
            request,
            grant: GRANT,
            app: name("wiki"),
            carrier,
            ttl_ms: 300_000,
            connector: CONNECTOR,
            connector_key: key::digest(self.connector.signer.public_key()),
            answer,
            services: vec![http()],
            inner: inner(),
            rendezvous: Self::rendezvous(),
        }
    }

    /// Brings an agent to a ready channel; its outbox is empty afterwards.
    pub(crate) fn ready_agent(&self) -> Agent {
        let mut agent = self.agent(&["c:7443"]);
        self.turn(&mut agent, AgentInput::Timeout);
        self.greet(&mut agent);
        agent
    }

    /// Brings an agent from an attempt at a channel to a ready one.
    pub(crate) fn greet(&self, agent: &mut Agent) -> AgentOutbox {
        self.turn(agent, up());
        let out = self.turn(agent, AgentInput::Message(self.welcome()));
        self.turn(agent, AgentInput::Message(shown()));
        out
    }

    /// Brings a connector to a ready channel.
    pub(crate) fn ready_connector(&self) -> Connector {
        let mut connector = self.connector();
        self.serve(&mut connector, ConnectorInput::Timeout);
        let (exporter, address) = ([7; 32], "c:7443".to_owned());
        self.serve(
            &mut connector,
            ConnectorInput::ChannelUp { exporter, address },
        );
        self.serve(&mut connector, ConnectorInput::Message(self.welcome()));
        connector
    }

    /// One turn of an agent.
    pub(crate) fn turn(&self, agent: &mut Agent, input: AgentInput) -> AgentOutbox {
        let mut out = AgentOutbox::default();
        agent.handle(self.now, input, &mut out);
        out
    }

    /// One turn of a connector.
    pub(crate) fn serve(&self, connector: &mut Connector, input: ConnectorInput) -> NodeOutbox {
        let mut out = ConnectorOutbox::default();
        connector.handle(self.now, input, &mut out);
        out.node
    }

    /// Asks for the app; the request's number and the signed offer.
    pub(crate) fn ask(&self, agent: &mut Agent) -> (u64, Signed) {
        self.ask_for(agent, "wiki")
    }

    /// Asks for an app or a host; the request's number and the signed offer.
    pub(crate) fn ask_for(&self, agent: &mut Agent, app: &str) -> (u64, Signed) {
        let out = self.turn(agent, AgentInput::Wanted { app: name(app) });
        match out.node.messages.front() {
            Some(FromNode::Request { request, offer, .. }) => (*request, offer.clone()),
            other => panic!("no request but {other:?}"),
        }
    }
}

pub(crate) fn up() -> AgentInput {
    AgentInput::ChannelUp {
        exporter: [7; 32],
        address: "c:7443".to_owned(),
    }
}

pub(crate) fn down() -> AgentInput {
    AgentInput::ChannelDown {
        why: "refused".to_owned(),
    }
}

pub(crate) fn http() -> Service {
    Service {
        protocol: Protocol::Tcp,
        port: 80,
    }
}

pub(crate) fn inner() -> InnerAddresses {
    InnerAddresses {
        device_v4: "100.64.0.1".parse().unwrap(),
        device_v6: "fd00::1".parse().unwrap(),
        app_v4: "100.64.0.2".parse().unwrap(),
        app_v6: "fd00::2".parse().unwrap(),
    }
}

pub(crate) fn view(app: &str, allowed: bool) -> AppView {
    AppView {
        name: name(app),
        names: vec![name("wiki.corp.example").into()],
        services: vec![http()],
        transport: cardea_proto::app::Transport::Auto,
        allowed,
        why: (!allowed).then(|| "no rule".to_owned()),
    }
}

pub(crate) fn fact(now: Now, fact: &str, value: bool) -> Collected {
    Collected {
        name: fact.to_owned(),
        reading: Reading::Value(Value::Bool(value)),
        grade: Grade::Own,
        at: now.instant,
    }
}

/// How long the certificates of a [`World`] live.
pub(crate) const LIFE: Duration = LEAF_LIFE;
