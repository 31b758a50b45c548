//! What every store must do, checked for each of them.

use cardea_core::{CommitError, Proposal, ProposalId};
use cardea_proto::{
    codec::Bytes,
    id::ControllerId,
    ledger::{Actor, Change, Draft, Entry, RecordKey, Revision, User},
    name::Name,
    time::UnixMillis,
};

use cardea_ledger::{entry::Encoded, tree::Tree};

use cardea_ledger::seal::DataKey;
use zeroize::Zeroizing;

use crate::{EmbeddedStore, Head, MemoryStore, Store};

#[test]
fn an_empty_ledger_has_nothing() {
    each(|store| {
        let loaded = store.load().unwrap();
        assert_eq!(loaded.head, Head::default());
        assert_eq!(loaded.state.head(), Revision(0));
        assert!(store.tail(Revision(0), 10).unwrap().is_empty());
        assert!(store.commit(Vec::new()).is_empty());
    });
}

#[test]
fn entries_are_numbered_and_chained_in_the_order_of_the_batch() {
    each(|store| {
        store.load().unwrap();
        let mut committed = take(store, vec![site("a"), site("b")]);
        committed.extend(take(store, vec![site("c")]));
        let mut previous = Bytes([0; 32]);
        for (revision, entry) in (1..).zip(&committed) {
            assert_eq!(entry.revision, Revision(revision));
            assert_eq!(entry.previous, previous);
            previous = Encoded::new(entry.clone()).hash;
        }
        assert_eq!(store.tail(Revision(0), 10).unwrap(), committed);
        assert_eq!(store.load().unwrap().head.hash, previous);
    });
}

#[test]
fn what_was_committed_is_there_when_the_store_loads_again() {
    each(|store| {
        let mut state = store.load().unwrap().state;
        for entry in take(store, vec![site("a"), user("u", &["g"]), site("b")]) {
            state.apply(&entry);
        }
        let loaded = store.load().unwrap();
        assert_eq!(loaded.state, state);
        assert_eq!(loaded.head.revision, Revision(3));
        let next = take(store, vec![site("c")]);
        assert_eq!(next[0].previous, loaded.head.hash);
    });
}

#[test]
fn a_proposal_is_refused_when_a_record_on_which_it_rests_has_moved() {
    each(|store| {
        store.load().unwrap();
        take(store, vec![user("u", &[]), user("u", &["g"])]);
        let outcomes = store.commit(
            vec![
                user("u", &["stale"]).resting_on(user_key("u"), 1),
                user("u", &["fresh"]).resting_on(user_key("u"), 2),
                site("s").resting_on(user_key("nobody"), 1),
                site("t").resting_on(user_key("nobody"), 0),
                site("v").resting_on(user_key("u"), 0),
            ]
            .into_iter()
            .map(|p| p.0)
            .collect(),
        );
        let taken: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
        assert_eq!(taken, [false, true, false, true, false]);
        for outcome in outcomes {
            assert!(matches!(outcome, Ok(_) | Err(CommitError::Conflict)));
        }
        assert_eq!(store.load().unwrap().head.revision, Revision(4));
    });
}

#[test]
fn of_two_proposals_in_one_batch_that_rest_on_the_same_record_one_is_taken() {
    each(|store| {
        store.load().unwrap();
        let once = |groups| user("u", groups).resting_on(user_key("u"), 0);
        let batch = vec![once(&["first"]), once(&["second"]), site("s")];
        let outcomes = store.commit(batch.into_iter().map(|p| p.0).collect());
        let revisions: Vec<Option<u64>> = outcomes
            .iter()
            .map(|outcome| outcome.as_ref().ok().map(|entry| entry.revision.0))
            .collect();
        assert_eq!(revisions, [Some(1), None, Some(2)]);
        assert_eq!(outcomes[1], Err(CommitError::Conflict));
    });
}

#[test]
fn a_record_that_was_removed_may_be_made_again() {
    each(|store| {
        store.load().unwrap();
        let key = RecordKey::Site("s".parse().unwrap());
        take(store, vec![site("s")]);
        take(
            store,
            vec![changing(Change::SiteRemoved("s".parse().unwrap())).resting_on(key.clone(), 1)],
        );
        take(store, vec![site("s").resting_on(key, 0)]);
        assert!(store.load().unwrap().state.has_site(&"s".parse().unwrap()));
    });
}

#[test]
fn the_tail_begins_after_a_revision_and_ends_at_the_limit() {
    each(|store| {
        store.load().unwrap();
        take(store, (0..300).map(|n| site(&format!("s{n}"))).collect());
        for (after, limit, expected) in [
            (0, 2, 1..3),
            (63, 3, 64..67),
            (64, 1, 65..66),
            (298, 10, 299..301),
            (300, 10, 301..301),
            (9_999, 10, 0..0),
            (5, 0, 0..0),
        ] {
            let entries = store.tail(Revision(after), limit).unwrap();
            let revisions: Vec<u64> = entries.iter().map(|entry| entry.revision.0).collect();
            assert_eq!(revisions, expected.collect::<Vec<_>>(), "after {after}");
        }
    });
}

#[test]
fn the_tree_grows_with_the_entries_and_can_be_made_again_from_their_hashes() {
    each(|store| {
        store.load().unwrap();
        assert_eq!(store.tree(), &Tree::new());
        for round in 0..3 {
            let entries = take(
                store,
                (0..200).map(|n| site(&format!("s{round}-{n}"))).collect(),
            );
            let mut tree = Tree::new();
            let hashes = store.leaves(Revision(0), 1_000).unwrap();
            hashes.iter().for_each(|hash| tree.push(*hash));
            assert_eq!(store.tree(), &tree);
            let last = entries.into_iter().next_back().unwrap();
            assert_eq!(hashes.last(), Some(&Encoded::new(last).hash));
            store.load().unwrap();
            assert_eq!(store.tree(), &tree);
        }
        let some = store.leaves(Revision(70), 5).unwrap();
        assert_eq!(some, store.leaves(Revision(0), 75).unwrap()[70..]);
    });
}

#[test]
fn a_checkpoint_is_kept_beside_the_entries_and_is_none_of_them() {
    each(|store| {
        assert_eq!(store.load().unwrap().checkpoint, None);
        take(store, vec![site("a")]);
        store.checkpoint("first\n").unwrap();
        let second = take(store, vec![site("b")]);
        store.checkpoint("second\n").unwrap();
        let third = take(store, vec![site("c")]);
        let loaded = store.load().unwrap();
        assert_eq!(loaded.checkpoint.as_deref(), Some("second\n"));
        assert_eq!(loaded.head.revision, Revision(3));
        assert_eq!(
            store.tail(Revision(1), 10).unwrap(),
            [second, third].concat()
        );
    });
}

/// Runs a claim against each store.
fn each(claim: impl Fn(&mut dyn Store)) {
    claim(&mut MemoryStore::new());
    let dir = tempfile::tempdir().unwrap();
    claim(&mut EmbeddedStore::new(dir.path()));
    let dir = tempfile::tempdir().unwrap();
    claim(&mut EmbeddedStore::new(dir.path()).sealed_with(Some(key(1))));
}

/// A proposal in the making.
#[derive(Clone, Debug)]
pub(crate) struct Planned(pub(crate) Proposal);

impl Planned {
    pub(crate) fn resting_on(mut self, key: RecordKey, revision: u64) -> Self {
        self.0.expects.push((key, Revision(revision)));
        self
    }
}

/// Commits proposals that must all be taken.
pub(crate) fn take(store: &mut dyn Store, batch: Vec<Planned>) -> Vec<Entry> {
    let batch = batch.into_iter().map(|planned| planned.0).collect();
    let outcomes: Result<Vec<Entry>, CommitError> = store.commit(batch).into_iter().collect();
    outcomes.unwrap()
}

pub(crate) fn site(name: &str) -> Planned {
    changing(Change::SiteAdded(name.parse().unwrap()))
}

pub(crate) fn user(name: &str, groups: &[&str]) -> Planned {
    changing(Change::UserSet(User {
        name: name.parse().unwrap(),
        groups: groups.iter().map(|g| g.parse::<Name>().unwrap()).collect(),
    }))
}

pub(crate) fn changing(change: Change) -> Planned {
    Planned(Proposal {
        id: ProposalId(0),
        expects: Vec::new(),
        draft: Draft {
            at: UnixMillis(1_767_225_600_000),
            actor: Actor::Controller(ControllerId::from_bytes([1; 10])),
            changes: vec![change],
            decision: None,
            signed: None,
        },
    })
}

fn user_key(name: &str) -> RecordKey {
    RecordKey::User(name.parse().unwrap())
}

/// A key to seal with.
pub(crate) fn key(byte: u8) -> DataKey {
    DataKey::new(Zeroizing::new([byte; 32]))
}
