use std::{collections::BTreeSet, time::Duration};

use cardea_credential::{
    key::{self, Signer as _},
    knock::{Answer, Door, KnockKeys, PassDoor, invite_seed, pass_keys, pass_label},
    proof,
};
use cardea_proto::{
    admin::AdminChange,
    codec::Secret32,
    enroll::{Certificate, EnrollAnswer},
    id::InviteId,
    identity::Role,
    ledger::Admits,
    message::{FromNode, ToNode},
};

use crate::{
    Settings,
    testing::{Bench, EXPORTER, TestNode, name, settings},
};

const DAY: Duration = Duration::from_secs(24 * 3_600);

#[test]
fn a_code_opens_as_soon_as_it_is_made_and_a_day_longer_than_it_is_good() {
    let mut bench = Bench::new();
    let mut door = Door::new(bench.controller.world.founded.root, bench.now);
    let secret = bench.invite(connector());
    let seed = invite_seed(&key::digest(&secret.0));
    assert_eq!(knock(&mut bench, &mut door, &seed), Answer::Open);
    // Whoever comes too late is told so.
    bench.enroll_node(Role::Connector, &secret, "front");
    assert_eq!(knock(&mut bench, &mut door, &seed), Answer::Open);
    bench.pass(DAY);
    assert_eq!(knock(&mut bench, &mut door, &seed), Answer::Open);
    bench.pass(Duration::from_secs(3_600));
    assert_eq!(knock(&mut bench, &mut door, &seed), Answer::Unknown);
}

#[test]
fn a_code_that_was_taken_back_opens_nothing() {
    let mut bench = Bench::new();
    let mut door = Door::new(bench.controller.world.founded.root, bench.now);
    let secret = bench.invite(connector());
    let seed = invite_seed(&key::digest(&secret.0));
    bench.must(AdminChange::InviteRemove(InviteId::from_bytes([1; 10])));
    assert_eq!(knock(&mut bench, &mut door, &seed), Answer::Unknown);
}

#[test]
fn a_seed_opens_from_the_answer_that_brings_it_to_the_end_of_the_period_after() {
    let mut bench = Bench::new();
    let mut door = Door::new(bench.controller.world.founded.root, bench.now);
    let secret = bench.invite(connector());
    let (_, request) = bench.enroll_request(Role::Connector, &secret, "front");
    // Before the node is told anything, the door knows it.
    let EnrollAnswer::Enrolled(enrolled) = bench.enroll(request) else {
        panic!("refused");
    };
    let first = enrolled.certificate.knock.clone();
    assert_eq!(knock(&mut bench, &mut door, &first), Answer::Open);
    for (days, seed_opens) in [(29, true), (1, true), (60, false)] {
        bench.now = bench.now.plus(DAY * days);
        bench.restart(Settings::default());
        let mut door = Door::new(bench.controller.world.founded.root, bench.now);
        let answer = knock(&mut bench, &mut door, &first);
        assert_eq!(answer == Answer::Open, seed_opens, "{days} days later");
    }
}

#[test]
fn the_holder_of_a_certificate_that_a_restored_ledger_does_not_know_is_heard() {
    let mut bench = Bench::new();
    let mut node = bench.connector("front");
    let backup = bench.store.clone();
    for _ in 0..5 {
        bench.pass(Duration::from_secs(600));
        bench.connect(&mut node, &[]);
        renewed(&mut bench, &node);
    }
    let seed = renewed(&mut bench, &node);
    bench.store = backup;
    bench.restart(Settings::default());
    let mut door = Door::new(bench.controller.world.founded.root, bench.now);
    assert_eq!(knock(&mut bench, &mut door, &seed), Answer::Open);
}

#[test]
fn each_certificate_brings_a_pass_with_another_number() {
    let mut bench = Bench::with(Settings {
        has_fronts_elsewhere: true,
        ..settings()
    });
    let mut node = bench.connector("front");
    let key = bench.controller.world.keys.ticket.fronts().clone();
    let mut door = PassDoor::new(key, bench.now);
    let mut numbers = BTreeSet::new();
    for _ in 0..5 {
        bench.pass(Duration::from_secs(600));
        bench.connect(&mut node, &[]);
        let pass = certificate(&mut bench, &node).pass.unwrap();
        let knock = pass_keys(&pass).knock(bench.now.unix, [0; 2]);
        let label = pass_label(&pass, &knock);
        assert!(door.knock_once(&label, bench.now).is_ok());
        numbers.insert(pass.number.0);
    }
    assert_eq!(numbers.len(), 5);
}

#[test]
fn a_removed_node_is_heard_until_its_certificate_ends() {
    let mut bench = Bench::new();
    let mut door = Door::new(bench.controller.world.founded.root, bench.now);
    let node = bench.connector("front");
    let seed = bench.controller.world.knock_seed(node.id, bench.now);
    bench.must(AdminChange::ConnectorRemove("front".to_owned()));
    assert_eq!(knock(&mut bench, &mut door, &seed), Answer::Open);
    bench.pass(Duration::from_secs(3_600));
    assert_eq!(knock(&mut bench, &mut door, &seed), Answer::Unknown);
}

fn connector() -> Admits {
    Admits::Connector {
        site: name("default"),
    }
}

/// What a knock with this seed comes to, once everything is done that was to be done before.
fn knock(bench: &mut Bench, door: &mut Door, seed: &Secret32) -> Answer {
    for change in bench.out.door.drain(..) {
        door.change(change);
    }
    let root = bench.controller.world.founded.root;
    let knock = KnockKeys::new(seed, &root).knock(bench.now.unix, [0; 2]);
    let answer = door.knock(&knock, "192.0.2.1:9".parse().unwrap(), bench.now);
    bench.pass(Duration::from_secs(1));
    answer
}

/// The seed that comes with the next certificate.
fn renewed(bench: &mut Bench, node: &TestNode) -> Secret32 {
    certificate(bench, node).knock
}

fn certificate(bench: &mut Bench, node: &TestNode) -> Certificate {
    let message = FromNode::Renew {
        public_key: node.key.public_key().to_vec().into(),
        proof: proof::prove(&EXPORTER, &node.key).unwrap().into(),
    };
    bench.say(node, message);
    bench.settle();
    let messages = bench.take(node);
    let Some(ToNode::Certificate(certificate)) = messages.last() else {
        panic!("{messages:?}");
    };
    certificate.clone()
}
