use cardea_ledger::checkpoint::LedgerKey;
use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminQuery},
    codec::Bytes,
    enroll::EnrollAnswer,
    identity::Role,
    ledger::Admits,
};

use super::*;
use crate::{
    api::Input,
    testing::{Bench, LEDGER_SEED, TestNode, name},
};

fn note(size: u64) -> String {
    let key = LedgerKey::from_seed(&name("corp.example"), &LEDGER_SEED).unwrap();
    key.sign(size, Bytes([5; 32]), 0).unwrap()
}

/// What the store was asked to show, and for which channel.
fn wanted(bench: &mut Bench) -> Vec<ProofRequest> {
    bench.out.proofs.drain(..).collect()
}

fn contradict(bench: &mut Bench, node: &TestNode) {
    let known = bench.checkpoint(&note(900));
    bench.handle(Input::Proof {
        channel: node.channel,
        known: Some(known),
        result: Err(Contradicted { note: note(800) }),
    });
    bench.settle();
}

#[test]
fn a_node_that_says_hello_is_shown_the_ledger_from_what_it_knows() {
    let (mut bench, mut device, _) = Bench::office();
    wanted(&mut bench);
    bench.knows(&mut device, Some(note(7)));
    let asked = wanted(&mut bench);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].known.as_ref().map(|known| known.size), Some(7));
    bench.take(&device);
    let shown = Checkpointed {
        note: note(9),
        proof: vec![Bytes([1; 32])],
    };
    bench.handle(Input::Proof {
        channel: device.channel,
        known: asked[0].known.clone(),
        result: Ok(shown),
    });
    assert_eq!(bench.heard(&device), ["checkpoint"]);
    bench.pass(SHOWN_EVERY);
    let asked = wanted(&mut bench);
    let again = asked.iter().find(|asked| asked.channel == device.channel);
    let known = again.and_then(|asked| asked.known.as_ref());
    assert_eq!(known.map(|known| known.size), Some(9), "what it was shown");
}

#[test]
fn a_checkpoint_that_this_ledgers_key_did_not_sign_proves_nothing() {
    let (mut bench, mut device, _) = Bench::office();
    wanted(&mut bench);
    let other = LedgerKey::from_seed(&name("corp.example"), &[9; 32]).unwrap();
    bench.knows(&mut device, Some(other.sign(7, Bytes([5; 32]), 0).unwrap()));
    assert_eq!(wanted(&mut bench)[0].known, None);
}

#[test]
fn in_safe_mode_nothing_is_given_and_everything_can_be_taken() {
    let (mut bench, mut device, connector) = Bench::office();
    let granted = bench.open(&device, &connector, "wiki");
    contradict(&mut bench, &device);
    let AdminAnswer::Status(status) = bench.query(AdminQuery::Status) else {
        panic!("no status");
    };
    assert_eq!(status.rollback.map(|rollback| rollback.size), Some(900));
    bench.take(&device);
    bench.request(&device, 2, "wiki");
    bench.settle();
    assert_eq!(bench.heard(&device), ["denied: safe_mode"]);
    let site = name("default");
    let secret = bench.invite(Admits::Connector { site });
    let (_, request) = bench.enroll_request(Role::Connector, &secret, "gate2");
    let EnrollAnswer::Refused(refusal) = bench.enroll(request) else {
        panic!("enrolled in safe mode");
    };
    assert_eq!(refusal.code, RefusalCode::SafeMode);
    assert!(refusal.to_string().contains("--acknowledge-rollback"));
    bench.take(&connector);
    bench.must(AdminChange::GrantRevoke(granted.grant));
    assert_eq!(bench.heard(&connector), ["withdraw: revoked"]);
    // Nor does a restart end it.
    bench.restart(crate::testing::settings());
    bench.connect(&mut device, &[]);
    bench.take(&device);
    bench.request(&device, 3, "wiki");
    bench.settle();
    assert_eq!(bench.heard(&device), ["denied: safe_mode"]);
}

#[test]
fn an_admin_ends_safe_mode_and_everybody_is_shown_the_ledger_anew() {
    let (mut bench, device, connector) = Bench::office();
    let refused = bench.order(AdminChange::RollbackAcknowledge);
    assert!(matches!(refused, AdminAnswer::Refused(_)), "{refused:?}");
    contradict(&mut bench, &device);
    contradict(&mut bench, &device);
    let noticed = |change: &Change| matches!(change, Change::RollbackNoticed(_));
    let entries = bench.entries.iter().flat_map(|entry| &entry.draft.changes);
    assert_eq!(entries.filter(|change| noticed(change)).count(), 1);
    wanted(&mut bench);
    bench.must(AdminChange::RollbackAcknowledge);
    assert_eq!(bench.store.epoch(), 1);
    assert_eq!(wanted(&mut bench).len(), 2);
    bench.open(&device, &connector, "wiki");
}
