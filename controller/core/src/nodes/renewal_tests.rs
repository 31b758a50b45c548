use std::{collections::BTreeMap, time::Duration};

use cardea_credential::{key::Signer, proof};
use cardea_proto::{
    admin::AdminChange,
    id::GrantId,
    ledger::Change,
    message::{FromNode, ToNode, Usage},
    refusal::{Refusal, RefusalCode},
};

use crate::testing::{Bench, EXPORTER, TestNode, name, sane_facts};

/// An office whose device and connector were away for longer than their certificates live.
fn next_morning() -> (Bench, TestNode, TestNode) {
    let (mut bench, device, connector) = Bench::office();
    bench.disconnect(&device);
    bench.disconnect(&connector);
    bench.pass(Duration::from_secs(12 * 3_600));
    bench.out.messages.clear();
    bench.out.close.clear();
    (bench, device, connector)
}

fn renew(node: &TestNode) -> FromNode {
    FromNode::Renew {
        public_key: node.key.public_key().to_vec().into(),
        proof: proof::prove(&EXPORTER, &node.key).unwrap().into(),
    }
}

fn issued(bench: &Bench) -> usize {
    let changes = bench.entries.iter().flat_map(|entry| &entry.draft.changes);
    changes
        .filter(|change| matches!(change, Change::CertificateIssued(_)))
        .count()
}

#[test]
fn a_lapsed_node_gets_its_certificate_after_the_commit_and_the_channel_ends() {
    let (mut bench, mut device, mut connector) = next_morning();
    bench.connect_to_renew(&mut device, &[]);
    assert_eq!(bench.heard(&device), ["welcome"], "no posture, no apps");
    bench.report(&mut device, sane_facts());
    assert_eq!(bench.heard(&device), ["posture passes"]);
    bench.connect_to_renew(&mut connector, &[]);
    assert_eq!(bench.heard(&connector), ["welcome"]);
    for node in [&mut device, &mut connector] {
        let before = issued(&bench);
        bench.say(node, renew(node));
        assert!(bench.out.messages.is_empty(), "before the commit");
        assert_eq!(issued(&bench), before);
        bench.settle();
        let messages = bench.take(node);
        let [ToNode::Certificate(certificate)] = messages.as_slice() else {
            panic!("{messages:?}");
        };
        node.chain.clone_from(&certificate.chain);
        assert_eq!(bench.out.close.pop_back(), Some(node.channel));
    }
    bench.connect(&mut connector, &[]);
    bench.connect(&mut device, &[]);
    bench.report(&mut device, sane_facts());
    bench.take(&device);
    bench.open(&device, &connector, "wiki");
}

#[test]
fn a_renewal_is_for_nothing_else() {
    let refusal = Refusal::new(RefusalCode::Internal, "no");
    let grant = GrantId::from_bytes([1; 10]);
    let usage = Usage {
        grant,
        bytes_in: 1,
        bytes_out: 1,
        flows: 1,
        path: None,
    };
    let (app, request) = (name("wiki"), 1);
    for message in [
        None,
        Some(FromNode::Explain { request, app }),
        Some(FromNode::NotAdmitted { grant, refusal }),
        Some(FromNode::Closed { grant }),
        Some(FromNode::Usage(vec![usage])),
    ] {
        let (mut bench, mut device, _) = next_morning();
        bench.connect_to_renew(&mut device, &[]);
        bench.report(&mut device, sane_facts());
        bench.take(&device);
        match message {
            Some(message) => bench.say(&device, message),
            None => bench.request(&device, request, "wiki"),
        }
        bench.settle();
        assert_eq!(bench.heard(&device), ["goodbye: protocol"]);
        assert!(bench.out.close.contains(&device.channel));
    }
}

#[test]
fn a_node_that_renews_is_not_connected_and_nothing_is_routed_to_it() {
    let (mut bench, mut device, mut connector) = next_morning();
    bench.connect_to_renew(&mut connector, &[]);
    let id = connector.connector();
    assert_eq!(bench.controller.channels.of_connector(id), None);
    bench.connect_to_renew(&mut device, &[]);
    bench.report(&mut device, sane_facts());
    bench.say(&device, renew(&device));
    bench.settle();
    let messages = bench.take(&device);
    let Some(ToNode::Certificate(certificate)) = messages.last() else {
        panic!("{messages:?}");
    };
    device.chain.clone_from(&certificate.chain);
    bench.connect(&mut device, &[]);
    bench.report(&mut device, sane_facts());
    bench.take(&device);
    bench.request(&device, 1, "wiki");
    bench.settle();
    assert_eq!(bench.heard(&device), ["denied: no_connector"]);
    assert_eq!(bench.heard(&connector), ["welcome"]);
    bench.publish("mail");
    assert_eq!(bench.heard(&connector), Vec::<String>::new());
}

#[test]
fn grants_that_a_renewing_node_names_are_neither_adopted_nor_ended() {
    let (mut bench, device, mut connector) = Bench::office();
    let granted = bench.open(&device, &connector, "wiki");
    let live = connector.channel;
    bench.connect_to_renew(&mut connector, &[GrantId::from_bytes([9; 10])]);
    assert_eq!(bench.heard(&connector), ["welcome"]);
    assert!(!bench.out.close.contains(&live), "the channel goes on");
    bench.disconnect(&connector);
    assert!(bench.store.grant(&granted.grant).is_some());
}

#[test]
fn a_blocked_or_removed_device_and_another_key_are_turned_away() {
    let (mut bench, mut device, _) = next_morning();
    bench.must(AdminChange::DeviceBlock("laptop".to_owned()));
    bench.connect_to_renew(&mut device, &[]);
    assert_eq!(bench.heard(&device), ["goodbye: blocked"]);
    bench.must(AdminChange::DeviceUnblock("laptop".to_owned()));
    bench.connect_to_renew(&mut device, &[]);
    assert_eq!(bench.heard(&device), ["welcome"]);
    bench.report(&mut device, sane_facts());
    bench.take(&device);
    bench.must(AdminChange::DeviceBlock("laptop".to_owned()));
    let before = issued(&bench);
    bench.say(&device, renew(&device));
    bench.settle();
    assert_eq!(
        bench.heard(&device),
        ["posture: blocked", "no certificate: blocked"]
    );
    assert_eq!(issued(&bench), before);
    bench.must(AdminChange::DeviceRemove("laptop".to_owned()));
    assert_eq!(bench.heard(&device), ["goodbye: not_proven"]);
    bench.connect_to_renew(&mut device, &[]);
    assert_eq!(bench.heard(&device), ["goodbye: not_proven"]);
}

#[test]
fn a_lapsed_device_that_fails_is_told_and_may_mend() {
    let (mut bench, mut device, _) = next_morning();
    bench.connect_to_renew(&mut device, &[]);
    bench.report(&mut device, BTreeMap::new());
    bench.take(&device);
    bench.say(&device, renew(&device));
    bench.settle();
    assert_eq!(bench.heard(&device), ["no certificate: posture_failed"]);
    bench.report(&mut device, sane_facts());
    assert_eq!(bench.heard(&device), ["posture passes"]);
    bench.say(&device, renew(&device));
    bench.settle();
    assert_eq!(bench.heard(&device), ["certificate"]);
}
