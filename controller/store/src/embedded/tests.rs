use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

use super::*;
use crate::{
    MemoryStore,
    conformance::{key, site, take},
    disk::recorded::{Recorder, Step},
    snapshot::ENTRIES,
};

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = EmbeddedStore::new(dir.path());
    first.load().unwrap();
    let mut second = EmbeddedStore::new(dir.path());
    assert!(matches!(second.load(), Err(LoadError::Locked(_))));
    drop(first);
    second.load().unwrap();
}

#[test]
fn a_group_of_commits_is_one_write_and_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::<()>::beginning_with(&BTreeMap::new());
    let mut store = EmbeddedStore::new(dir.path());
    store.disks = Box::new(recorder.clone());
    store.load().unwrap();
    take(&mut store, vec![site("before")]);
    recorder.take();
    for entries in [1, 64, 2_000] {
        let batch = (0..entries).map(|n| site(&format!("s{n}"))).collect();
        take(&mut store, batch);
        let steps = recorder.take();
        let [
            Step::Write(segment, ..),
            Step::Sync(synced),
            Step::Write(mark, ..),
        ] = &steps[..]
        else {
            panic!("{entries}: {steps:?}");
        };
        assert_eq!(segment, synced, "{entries}");
        assert_ne!(segment, mark, "{entries}");
    }
}

#[test]
fn only_the_owner_can_read_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    founded(dir.path(), 3);
    let mode = |name: &str| {
        fs::metadata(dir.path().join(name))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("ledger") & 0o777, 0o700);
    assert_eq!(mode("ledger/0001.seg") & 0o777, 0o600);
    assert!(EmbeddedStore::exists(dir.path()));
}

#[test]
fn an_index_that_is_gone_or_damaged_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    founded(dir.path(), 200);
    let index = dir.path().join("index");
    let damage: [&dyn Fn(); 4] = [
        &|| fs::remove_dir_all(&index).unwrap(),
        &|| fs::write(index.join("conf"), b"no such thing").unwrap(),
        &|| fs::write(index.join("db"), vec![0xff; 4_096]).unwrap(),
        &|| {
            fs::remove_dir_all(&index).unwrap();
            fs::write(&index, b"a file where a folder should be").unwrap();
        },
    ];
    for damage in damage {
        damage();
        let mut store = EmbeddedStore::new(dir.path());
        assert_eq!(store.load().unwrap().head.revision, Revision(200));
        assert_eq!(store.tail(Revision(130), 2).unwrap().len(), 2);
    }
}

#[test]
fn a_snapshot_is_used_when_it_agrees_and_thrown_away_when_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let state = founded(dir.path(), 10);
    let snapshot = |revision, hash| {
        let index = Index::open(&dir.path().join("index"), &Machine, None).unwrap();
        let head = Head { revision, hash };
        let mut empty = State::default();
        if revision == state.head() {
            empty.clone_from(&state);
        }
        let mut tree = Tree::new();
        (0..head.revision.0).for_each(|_| tree.push(head.hash));
        let snapshot = Snapshot {
            head,
            state: empty,
            tree,
        };
        index.save(&snapshot).unwrap();
    };
    let head = EmbeddedStore::new(dir.path()).load().unwrap().head;
    snapshot(head.revision, head.hash);
    let loaded = EmbeddedStore::new(dir.path()).load().unwrap();
    assert_eq!((&loaded.state, loaded.rebuilt), (&state, false));
    snapshot(head.revision, cardea_proto::codec::Bytes([9; 32]));
    let loaded = EmbeddedStore::new(dir.path()).load().unwrap();
    assert_eq!((&loaded.state, loaded.rebuilt), (&state, true));
}

#[test]
fn a_snapshot_ahead_of_the_journal_is_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let state = founded(dir.path(), 5);
    let ahead = founded(other.path(), 9);
    let mut store = EmbeddedStore::new(other.path());
    let head = store.load().unwrap().head;
    let tree = store.tree().clone();
    let index = Index::open(&dir.path().join("index"), &Machine, None).unwrap();
    let snapshot = Snapshot {
        head,
        state: ahead,
        tree,
    };
    index.save(&snapshot).unwrap();
    drop(index);
    let loaded = EmbeddedStore::new(dir.path()).load().unwrap();
    assert_eq!((&loaded.state, loaded.rebuilt), (&state, true));
}

#[test]
fn an_index_that_leads_elsewhere_is_put_right_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    founded(dir.path(), 200);
    let index = Index::open(&dir.path().join("index"), &Machine, None).unwrap();
    let wrong = Place {
        segment: 1,
        offset: 61,
    };
    index.note([(Revision(129), wrong)].into_iter()).unwrap();
    drop(index);
    let mut store = EmbeddedStore::new(dir.path());
    store.load().unwrap();
    assert_eq!(
        store.tail(Revision(130), 1).unwrap()[0].revision,
        Revision(131)
    );
    let open = store.open.as_ref().unwrap();
    assert!(
        open.index
            .as_ref()
            .unwrap()
            .nearest(Revision(130))
            .unwrap()
            .unwrap()
            .1
            > wrong
    );
}

#[test]
fn an_index_that_goes_wrong_while_running_is_left_aside() {
    let dir = tempfile::tempdir().unwrap();
    founded(dir.path(), 200);
    let mut store = EmbeddedStore::new(dir.path());
    store.load().unwrap();
    let wrong = Place {
        segment: 1,
        offset: 61,
    };
    let index = store.open.as_ref().unwrap().index.clone().unwrap();
    index.note([(Revision(129), wrong)].into_iter()).unwrap();
    assert_eq!(
        store.tail(Revision(130), 1).unwrap()[0].revision,
        Revision(131)
    );
    assert!(store.open.as_ref().unwrap().index.is_none());
}

#[test]
fn snapshots_are_taken_while_running_each_from_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = EmbeddedStore::new(dir.path());
    store.load().unwrap();
    let mut made = 0;
    for snapshot in 1..=2 {
        while made < snapshot * ENTRIES + 10 {
            let batch: Vec<_> = (made..made + 1_024)
                .map(|n| site(&format!("s{}", n % 50)))
                .collect();
            made += 1_024;
            take(&mut store, batch);
        }
        // The thread that takes it ends with the store.
        drop(store);
        let index = Index::open(&dir.path().join("index"), &Machine, None).unwrap();
        let found = index.snapshot().unwrap();
        assert_eq!(found.head.revision, Revision(snapshot * ENTRIES));
        assert_eq!(found.tree.size(), snapshot * ENTRIES);
        drop(index);
        store = EmbeddedStore::new(dir.path());
        store.load().unwrap();
    }
    drop(store);
    let with = EmbeddedStore::new(dir.path()).load().unwrap();
    assert_eq!((with.head.revision, with.rebuilt), (Revision(made), false));
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let without = EmbeddedStore::new(dir.path()).load().unwrap();
    assert_eq!(with.state, without.state);
}

#[test]
fn damage_is_reported_with_file_and_offset() {
    let dir = tempfile::tempdir().unwrap();
    founded(dir.path(), 3);
    let file = dir.path().join("ledger/0001.seg");
    let mut bytes = fs::read(&file).unwrap();
    bytes[100] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = EmbeddedStore::new(dir.path())
        .load()
        .unwrap_err()
        .to_string();
    let expected = format!(
        "{} is damaged at byte 60: the checksum does not hold",
        file.display()
    );
    assert_eq!(error, expected);
}

#[test]
fn a_ledger_that_is_no_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ledger"), b"").unwrap();
    let refused = EmbeddedStore::new(dir.path()).load();
    assert!(matches!(refused, Err(LoadError::Io { .. })));
}

#[test]
fn nothing_is_committed_before_the_store_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = EmbeddedStore::new(dir.path());
    let outcomes = store.commit(vec![site("s").0]);
    assert!(matches!(outcomes[..], [Err(CommitError::Failed(_))]));
    assert!(matches!(
        store.tail(Revision(0), 1),
        Err(TailError::NotLoaded)
    ));
}

/// Commits so many entries and closes the store again.
fn founded(dir: &Path, entries: u64) -> State {
    let mut store = EmbeddedStore::new(dir);
    store.load().unwrap();
    take(
        &mut store,
        (0..entries).map(|n| site(&format!("s{n}"))).collect(),
    );
    store.load().unwrap().state
}

#[test]
fn a_sealed_store_shows_nothing_and_opens_only_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let sealed = |key| EmbeddedStore::new(dir.path()).sealed_with(key);
    let mut store = sealed(Some(key(1)));
    store.load().unwrap();
    take(&mut store, vec![site("crown-jewels")]);
    take(&mut store, vec![site("second")]);
    store.checkpoint("a note of the crown-jewels").unwrap();
    drop(store);
    let segment = dir.path().join("ledger/0001.seg");
    let genuine = fs::read(&segment).unwrap();
    assert!(!genuine.windows(12).any(|window| window == b"crown-jewels"));

    assert!(matches!(sealed(None).load(), Err(LoadError::Sealed(_))));
    let wrong = sealed(Some(key(2))).load();
    assert!(matches!(wrong, Err(LoadError::Damaged { .. })));
    let mut store = sealed(Some(key(1)));
    let loaded = store.load().unwrap();
    assert_eq!(loaded.head.revision, Revision(2));
    assert!(loaded.checkpoint.is_some());
    let read = store.tail(Revision(0), 10).unwrap();
    assert_eq!(read.len(), 2);
    drop(store);

    let plain = tempfile::tempdir().unwrap();
    take(
        &mut {
            let mut store = EmbeddedStore::new(plain.path());
            store.load().unwrap();
            store
        },
        vec![site("x")],
    );
    let mixed = EmbeddedStore::new(plain.path())
        .sealed_with(Some(key(1)))
        .load();
    assert!(
        matches!(mixed, Err(LoadError::Damaged { .. })),
        "a plain segment in a sealed ledger"
    );
}

#[test]
fn a_sealed_snapshot_shows_nothing_and_another_key_does_not_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let mut store = MemoryStore::new();
    take(&mut store, vec![site("crown-jewels")]);
    let loaded = store.load().unwrap();
    let index = Index::open(&path, &Machine, Some(key(1))).unwrap();
    let snapshot = Snapshot {
        head: loaded.head,
        state: loaded.state,
        tree: store.tree().clone(),
    };
    index.save(&snapshot).unwrap();
    assert_eq!(index.snapshot().unwrap().head, loaded.head);
    drop(index);
    for file in fs::read_dir(&path).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap_or_default();
        assert!(!bytes.windows(12).any(|window| window == b"crown-jewels"));
    }
    for other in [None, Some(key(2))] {
        let index = Index::open(&path, &Machine, other).unwrap();
        assert!(index.snapshot().is_none());
    }
}
