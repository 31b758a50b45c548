//! A controller with a memory store, and nodes that speak to it: what every test here stands on.

mod nodes;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cardea_credential::{
    admin::{admin_key_id, admin_public_key, sign_change},
    authority::{Intermediate, Root, serial_number},
    key::{KeyAlgorithm, Signer, SoftwareKey},
    ticket::TicketKey,
    trust::Trust,
};
use cardea_ledger::checkpoint::{Checkpoint, LedgerKey};
use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminQuery, AdminRequest, ChangeOrder},
    app::{AppSpec, Transport},
    codec::{Blob, Bytes},
    id::{ControllerId, NodeId},
    ledger::{Actor, Change, Draft, Entry, Founded, Revision},
    name::Name,
    policy::PolicyFile,
    posture::{Fact, Grade, Reading, Value},
    time::{Now, testing::start},
};

use crate::{
    AdminSession, CallId, ChannelId, CommitError, Controller, Input, Keys, Outbox, Proposal,
    Settings, State,
    policy::{Prepared, default_folder},
};

/// The exporter of every test connection.
pub(crate) const EXPORTER: [u8; 32] = [9; 32];

/// The nonce of the one admin connection.
pub(crate) const SESSION: AdminSession = AdminSession {
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

/// The seed of the key that signs checkpoints.
pub(crate) const LEDGER_SEED: [u8; 32] = [4; 32];

fn ledger_key() -> LedgerKey {
    LedgerKey::from_seed(&name("corp.example"), &LEDGER_SEED).unwrap()
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
        relays: vec![vec!["192.0.2.1:7444".parse().unwrap()]],
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
            ledger_key: ledger_key().verifier().public().to_vec().into(),
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

    /// The controller stops, and another one starts that has seen no more than so many entries.
    pub(crate) fn restart_behind(&mut self, settings: Settings, seen: usize) {
        let mut state = founded_state(&self.controller.world.founded, self.now);
        for entry in self.entries.iter().take(seen) {
            state.apply(entry);
        }
        self.out = Outbox::default();
        self.controller = Self::controller(&self.root, settings, state, self.now);
        self.handle(Input::Timeout);
    }

    /// The controller sees what was recorded from an entry on, as if others had written it.
    pub(crate) fn see_from(&mut self, seen: usize) {
        for entry in self.entries.clone().into_iter().skip(seen) {
            self.handle(Input::Committed {
                proposal: None,
                entry,
            });
        }
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

    /// The entry that founded the trust domain, which `entries` leaves out.
    pub(crate) fn first_entry(&self) -> Entry {
        founding(&self.controller.world.founded, self.now)
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

    /// What a note says that the ledger's key signed.
    pub(crate) fn checkpoint(&self, note: &str) -> Checkpoint {
        ledger_key().verifier().verify(note).unwrap()
    }

    /// An admin's change, signed and committed; its answer.
    pub(crate) fn order(&mut self, change: AdminChange) -> AdminAnswer {
        let request = self.signed(change);
        self.ask(request)
    }

    /// The same, which must be done.
    pub(crate) fn must(&mut self, change: AdminChange) -> u32 {
        let answer = self.order(change);
        let AdminAnswer::Done { closed, .. } = answer else {
            panic!("not done: {answer:?}");
        };
        closed
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
            prepared: Prepared::of(&request),
            request,
        });
        self.settle();
        self.out.answers.pop_back().unwrap().1
    }
}

fn ticket_key() -> TicketKey {
    TicketKey::from_seed(&[4; 32]).unwrap()
}

fn founded_state(founded: &Founded, now: Now) -> State {
    let mut state = State::default();
    state.apply(&founding(founded, now));
    state
}

fn founding(founded: &Founded, now: Now) -> Entry {
    let policy: Vec<PolicyFile> = default_folder();
    Entry {
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
    }
}
