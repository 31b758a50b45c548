use std::{collections::BTreeMap, time::Duration};

use cardea_credential::{
    key::{KeyAlgorithm, Signer, SoftwareKey},
    proof,
};
use cardea_proto::{
    admin::AdminChange,
    ledger::Change,
    message::{FromNode, ToNode},
};

use crate::{
    CommitError, Settings,
    testing::{Bench, EXPORTER, TestNode, sane_facts, settings},
};

#[test]
fn a_node_with_its_enrolled_key_gets_its_next_certificate_after_the_commit() {
    let (mut bench, mut device, connector) = Bench::office();
    bench.pass(Duration::from_secs(1_800));
    bench.report(&mut device, sane_facts());
    for node in [&device, &connector] {
        bench.out.messages.clear();
        bench.say(node, renew(&node.key, &EXPORTER));
        assert!(bench.out.messages.is_empty(), "before the commit");
        bench.settle();
        let messages = bench.take(node);
        let [ToNode::Certificate(certificate)] = messages.as_slice() else {
            panic!("{messages:?}");
        };
        let life = certificate.not_after.since(bench.now.unix);
        assert_eq!(life, Duration::from_secs(3_600));
        let record = bench.store.node(node.id).unwrap();
        let recorded = record.certificate.as_ref().unwrap();
        assert_eq!(recorded.not_after, certificate.not_after);
    }
}

#[test]
fn no_certificate_for_a_device_that_fails_is_stale_or_is_blocked() {
    let (mut bench, mut device, _) = Bench::office();
    bench.report(&mut device, BTreeMap::new());
    check(&mut bench, &device, "no certificate: posture_failed");
    bench.report(&mut device, sane_facts());
    bench.must(AdminChange::DeviceBlock("laptop".to_owned()));
    check(&mut bench, &device, "no certificate: blocked");
    bench.must(AdminChange::DeviceUnblock("laptop".to_owned()));
    check(&mut bench, &device, "certificate");
    bench.pass(Duration::from_secs(181));
    check(&mut bench, &device, "no certificate: posture_failed");
}

#[test]
fn a_proof_by_another_key_or_for_another_connection_gets_nothing() {
    let (mut bench, device, _) = Bench::office();
    let other = SoftwareKey::generate(KeyAlgorithm::Ed25519).unwrap();
    let issued = certificates(&bench);
    for message in [renew(&other, &EXPORTER), renew(&device.key, &[1; 32])] {
        bench.say(&device, message);
        bench.settle();
        assert_eq!(bench.heard(&device), ["no certificate: not_proven"]);
    }
    assert_eq!(certificates(&bench), issued);
    assert_eq!(bench.refused(), ["certify not_proven"]);
}

#[test]
fn a_posture_that_breaks_between_plan_and_commit_gets_nothing() {
    let (mut bench, mut device, _) = Bench::office();
    bench.say(&device, renew(&device.key, &EXPORTER));
    let renewal = bench.out.proposals.pop_front().unwrap();
    let issued = certificates(&bench);
    bench.report(&mut device, BTreeMap::new());
    bench.take(&device);
    bench.out.proposals.push_back(renewal);
    bench.settle();
    let heard = bench.heard(&device);
    assert_eq!(heard, ["no certificate: posture_failed"]);
    assert_eq!(certificates(&bench), issued);
}

#[test]
fn a_posture_that_breaks_while_a_certificate_is_being_recorded_keeps_it_here() {
    let (mut bench, mut device, _) = Bench::office();
    bench.say(&device, renew(&device.key, &EXPORTER));
    device.counter += 1;
    let report = bench.report_of(device.counter, device.nonce.0, BTreeMap::new());
    bench.say(&device, FromNode::Report(report));
    bench.settle();
    let heard = bench.heard(&device);
    assert!(!heard.contains(&"certificate".to_owned()), "{heard:?}");
    assert!(heard.contains(&"no certificate: posture_failed".to_owned()));
}

#[test]
fn one_renewal_at_a_time_and_none_while_the_store_refuses() {
    let (mut bench, device, _) = Bench::office();
    bench.say(&device, renew(&device.key, &EXPORTER));
    bench.say(&device, renew(&device.key, &EXPORTER));
    bench.settle();
    assert_eq!(
        bench.heard(&device),
        ["no certificate: busy", "certificate"]
    );
    bench.broken = Some(CommitError::Failed("I/O".to_owned()));
    check(&mut bench, &device, "no certificate: storage_refused");
    bench.broken = None;
    check(&mut bench, &device, "certificate");
}

#[test]
fn a_certificate_ends_with_the_posture_or_the_intermediate_it_rests_on() {
    let mut bench = Bench::with(Settings {
        certificate_life: Duration::from_secs(24 * 3_600),
        posture_life: Duration::from_secs(1_800),
        ..settings()
    });
    let device = bench.device("laptop");
    assert_eq!(life(&bench, &device), Duration::from_secs(1_800));
    let connector = bench.connector("gate");
    assert_eq!(life(&bench, &connector), Duration::from_secs(24 * 3_600));

    let mut bench = Bench::with(Settings {
        certificate_life: Duration::from_secs(24 * 3_600),
        ..settings()
    });
    bench.pass(Duration::from_secs(30 * 24 * 3_600 - 600));
    let connector = bench.connector("gate");
    assert_eq!(life(&bench, &connector), Duration::from_secs(600));
}

fn check(bench: &mut Bench, device: &TestNode, expected: &str) {
    bench.take(device);
    bench.say(device, renew(&device.key, &EXPORTER));
    bench.settle();
    let heard = bench.heard(device);
    assert!(heard.contains(&expected.to_owned()), "{heard:?}");
}

fn renew(key: &SoftwareKey, exporter: &[u8; 32]) -> FromNode {
    FromNode::Renew {
        public_key: key.public_key().to_vec().into(),
        proof: proof::prove(exporter, key).unwrap().into(),
    }
}

fn life(bench: &Bench, node: &TestNode) -> Duration {
    let record = bench.store.node(node.id).unwrap();
    let certificate = record.certificate.as_ref().unwrap();
    certificate.not_after.since(bench.now.unix)
}

fn certificates(bench: &Bench) -> usize {
    let changes = bench.entries.iter().flat_map(|entry| &entry.draft.changes);
    changes
        .filter(|change| matches!(change, Change::CertificateIssued(_)))
        .count()
}
