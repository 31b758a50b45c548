use cardea_proto::{
    admin::AdminChange,
    codec::{self, MESSAGE_BYTES_MAX_ADMIN},
    ledger::{RecordKey, Revision},
};

use super::State;
use crate::testing::{Bench, name};

#[test]
fn a_state_reads_back_as_itself_with_everything_in_it() {
    let (mut bench, device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    let bytes = codec::encode(&bench.store);
    let read: State = codec::decode(&bytes, MESSAGE_BYTES_MAX_ADMIN).unwrap();
    assert_eq!(read, bench.store);
}

#[test]
fn the_fold_of_the_same_entries_is_the_same_state() {
    let (mut bench, device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    bench.must(AdminChange::DeviceRemove("laptop".to_owned()));
    let mut replayed = State::default();
    replayed.apply(&bench.first_entry());
    for entry in &bench.entries {
        replayed.apply(entry);
    }
    assert_eq!(replayed, bench.store);
    assert_eq!(replayed, *bench.controller.state());
}

#[test]
fn records_have_the_revision_that_moved_them_and_removed_ones_have_none() {
    let (mut bench, device, connector) = Bench::office();
    let granted = bench.open(&device, &connector, "wiki");
    let keys = [
        RecordKey::Grant(granted.grant),
        RecordKey::Node(device.id),
        RecordKey::Certificate(device.id),
        RecordKey::Appraisal(device.device()),
        RecordKey::App(name("wiki")),
        RecordKey::Links(name("wiki")),
    ];
    for key in &keys {
        assert_ne!(bench.store.revision_of(key), Revision(0), "{key:?}");
    }
    assert_eq!(
        bench.store.revision_of(&RecordKey::Grant(granted.grant)),
        bench.store.head()
    );
    bench.must(AdminChange::DeviceRemove("laptop".to_owned()));
    bench.must(AdminChange::AppRemove(name("wiki")));
    for key in &keys {
        assert_eq!(bench.store.revision_of(key), Revision(0), "{key:?}");
    }
    assert!(bench.store.links().is_empty());
    assert_eq!(bench.store.connector_load(connector.connector()), 0);
    assert_eq!(bench.store.grants_of_device(device.device()).count(), 0);
    assert!(
        bench
            .store
            .node_of_key(&cardea_credential::key::digest(
                cardea_credential::key::Signer::public_key(&device.key)
            ))
            .is_none()
    );
}

#[test]
fn an_app_keeps_its_number_when_it_changes_and_gives_it_to_no_other() {
    let mut bench = Bench::new();
    bench.publish("a");
    bench.publish("b");
    bench.must(AdminChange::AppRemove(name("a")));
    bench.publish("c");
    bench.publish("a");
    let number = |app: &str| bench.store.app(&name(app)).unwrap().number;
    assert_eq!([number("b"), number("c"), number("a")], [2, 3, 4]);
}
