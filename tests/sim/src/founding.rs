//! How a simulated trust domain begins: as `init` makes one, with keys and rules from the seed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cardea_core::{
    Keys, Proposal, ProposalId, Settings,
    policy::{default_folder, recommended_folder},
};
use cardea_credential::{
    admin::{admin_key_id, admin_public_key},
    authority::{Intermediate, Root, serial_number},
    key::{KeyAlgorithm, Signer, SoftwareKey},
    ticket::TicketKey,
    trust::Trust,
};
use cardea_ledger::checkpoint::{LedgerKey, Verifier};
use cardea_proto::{
    app::{AppSpec, Principal, Target, Transport},
    id::ControllerId,
    ledger::{Actor, Change, Draft, Founded, Link, RecordKey, Revision},
    name::Name,
    policy::PolicyFile,
    time::UnixMillis,
};
use cardea_store::{MemoryStore, Store};

use crate::{
    dice::Dice,
    plan::{POSTURE_POLL, Plan, TTL},
};

/// Where the relays of every run are, the one that grants prefer first.
pub(crate) const RELAYS: [&str; 2] = ["203.0.113.1:7444", "203.0.113.2:7444"];

/// The first of them.
pub(crate) const RELAY: &str = RELAYS[0];

/// Which relay is at an address.
pub(crate) fn relay_at(address: SocketAddr) -> Option<usize> {
    let mut relays = RELAYS.iter();
    relays.position(|relay| relay.parse() == Ok(address))
}

/// What a controller needs to start again.
pub(crate) struct Domain {
    /// One for each controller.
    intermediates: Vec<(Vec<u8>, Arc<dyn Signer>)>,
    ticket_seed: [u8; 32],
    ledger_seed: [u8; 32],
    /// Trust in the root.
    pub(crate) trust: Trust,
    /// The admin's key.
    pub(crate) admin: SoftwareKey,
}

/// A name that is one by construction.
#[expect(clippy::expect_used, reason = "the simulation's own names are names")]
pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

impl Domain {
    /// Founds a trust domain in `store`, with its apps and their first rules.
    #[expect(
        clippy::expect_used,
        reason = "a founding that fails has nothing to simulate"
    )]
    pub(crate) fn found(
        dice: &mut Dice,
        plan: &Plan,
        store: &mut MemoryStore,
        at: UnixMillis,
    ) -> Self {
        let generate = |algorithm| SoftwareKey::generate(algorithm).expect("a key");
        let domain = name("corp.example");
        let root_key = Arc::new(generate(KeyAlgorithm::P384));
        let root =
            Root::create(&domain, root_key, serial_number(dice.bytes()), at).expect("a root");
        let controller = ControllerId::from_bytes(dice.bytes());
        let mut intermediate = || {
            let key: Arc<dyn Signer> = Arc::new(generate(KeyAlgorithm::P256));
            let serial = serial_number(dice.bytes());
            let certificate = root
                .issue_intermediate(controller, key.public_key(), serial, at)
                .expect("an intermediate");
            (certificate, key)
        };
        let intermediates = (0..plan.controllers).map(|_| intermediate()).collect();
        let admin = SoftwareKey::from_seed(&dice.bytes()).expect("a key");
        let public = admin_public_key(&admin).expect("an Ed25519 key");
        let ticket_seed = dice.bytes();
        let ticket = TicketKey::from_seed(&ticket_seed).expect("a key");
        let ledger_seed = dice.bytes();
        let ledger = LedgerKey::from_seed(&domain, &ledger_seed).expect("a key");
        let founded = Founded {
            domain: domain.clone(),
            controller,
            root: root.digest(),
            admin: (admin_key_id(&public), public.to_vec().into()),
            ticket_key: ticket.public().to_vec().into(),
            ledger_key: ledger.verifier().public().to_vec().into(),
        };
        let draft = draft(founded, plan, at);
        let proposal = Proposal {
            id: ProposalId(0),
            expects: vec![(RecordKey::Domain, Revision(0))],
            draft,
        };
        for outcome in store.commit(vec![proposal]) {
            outcome.expect("a founding");
        }
        Self {
            intermediates,
            ticket_seed,
            ledger_seed,
            trust: Trust::new(domain, root.certificate().to_vec()).expect("trust"),
            admin,
        }
    }

    /// The keys of a controller that starts.
    #[expect(clippy::expect_used, reason = "they were made by `found`")]
    pub(crate) fn keys(&self, member: usize) -> Keys {
        let made = self.intermediates.get(member);
        let (certificate, key) = made.expect("one for each controller");
        Keys {
            intermediate: Intermediate::load(certificate.clone(), Arc::clone(key))
                .expect("an intermediate"),
            root_der: self.trust.root().to_vec(),
            ticket: TicketKey::from_seed(&self.ticket_seed).expect("a key"),
        }
    }

    /// What checks the ledger's checkpoints.
    pub(crate) fn ledger(&self) -> Verifier {
        self.ledger_key().verifier().clone()
    }

    /// The key that signs them.
    #[expect(clippy::expect_used, reason = "it was made by `found`")]
    pub(crate) fn ledger_key(&self) -> LedgerKey {
        LedgerKey::from_seed(self.trust.domain(), &self.ledger_seed).expect("a key")
    }

    /// The public key with which the relay checks tickets.
    #[expect(clippy::expect_used, reason = "it was made by `found`")]
    pub(crate) fn ticket_key(&self) -> [u8; 32] {
        TicketKey::from_seed(&self.ticket_seed)
            .expect("a key")
            .public()
    }
}

/// Where a controller is.
pub(crate) fn address_of(member: usize) -> String {
    format!("c{member}.corp.example:7443")
}

/// The controller at an address.
pub(crate) fn member_at(address: &str) -> Option<usize> {
    let (number, _) = address.strip_prefix('c')?.split_once('.')?;
    number.parse().ok()
}

/// How each of so many controllers is set.
#[expect(clippy::expect_used, reason = "a constant address")]
pub(crate) fn settings(controllers: usize) -> Settings {
    let relays = RELAYS.map(|relay| relay.parse::<SocketAddr>().expect("an address"));
    Settings {
        addresses: (0..controllers).map(address_of).collect(),
        shared: controllers > 1,
        relays: relays.iter().map(|relay| vec![*relay]).collect(),
        never: relays.iter().map(SocketAddr::ip).collect(),
        certificate_life: Duration::from_secs(300),
        posture_poll: POSTURE_POLL,
        ttl: TTL,
        ..Settings::default()
    }
}

/// The app of a number: two ports, an address of its own, either carrier in turn.
pub(crate) fn app(index: usize) -> AppSpec {
    AppSpec {
        name: app_name(index),
        site: name("default"),
        targets: vec![target(index, 0, "80/tcp"), target(index, 0, "53/udp")],
        names: Vec::new(),
        transport: if index.is_multiple_of(2) {
            Transport::WireGuard
        } else {
            Transport::Quic
        },
        labels: std::collections::BTreeMap::new(),
        host_scoped: false,
    }
}

/// The name of an app.
pub(crate) fn app_name(index: usize) -> Name {
    name(&format!("app-{index}"))
}

/// A place of an app; each move leads to another host.
#[expect(clippy::expect_used, reason = "an address by construction")]
pub(crate) fn target(index: usize, moves: usize, service: &str) -> Target {
    format!("10.9.{}.{}:{service}", moves % 200, 10 + index)
        .parse()
        .expect("a target")
}

/// A rule of an app: the group of an even one, a user of an odd one.
pub(crate) fn link(index: usize) -> Link {
    Link {
        principal: if index.is_multiple_of(2) {
            Principal::Group(name("staff"))
        } else {
            Principal::User(user(index % 3))
        },
        app: app_name(index),
    }
}

/// The user of a device.
pub(crate) fn user(device: usize) -> Name {
    name(&format!("user-{device}"))
}

/// The recommended policy, or the default one, as admins swap them.
pub(crate) fn policy(is_strict: bool) -> Vec<PolicyFile> {
    if is_strict {
        recommended_folder()
    } else {
        default_folder()
    }
}

fn draft(founded: Founded, plan: &Plan, at: UnixMillis) -> Draft {
    let actor = Actor::Controller(founded.controller);
    let mut changes = vec![
        Change::Founded(founded),
        Change::SiteAdded(name("default")),
        Change::PolicySet(policy(true)),
    ];
    changes.extend((0..plan.apps).map(|index| Change::AppSet(app(index))));
    changes.extend((0..plan.apps).map(|index| Change::Allowed(link(index))));
    Draft {
        at,
        actor,
        changes,
        decision: None,
        signed: None,
    }
}
