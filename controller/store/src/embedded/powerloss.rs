//! The power goes at every step of a whole store: its journal, its mark, its checkpoints and its
//! snapshots, plain and sealed. Whatever the disk has made of it, the store opens with everything that
//! was acknowledged, and with nothing that was never written.
//!
//! A session opens what the last loss left, commits, signs and takes snapshots, with every operation
//! recorded. Then the power goes behind each prefix of the record, and behind one of them the next
//! session begins.

#![expect(clippy::as_conversions, reason = "lengths of a test fit every integer")]

use std::path::Path;

use cardea_core::State;
use cardea_ledger::{checkpoint::LedgerKey, entry::Encoded, seal::DataKey, tree::Tree};
use cardea_proto::{
    codec::Digest,
    ledger::{Entry, Revision},
};

use super::*;
use crate::{
    Notary,
    conformance::{key, site, take, user},
    disk::recorded::{self, Chance, Files, Platter, Recorder, Step},
    journal::tests::power_losses,
};

/// So small that a session begins a segment and takes a snapshot.
const SIZES: Sizes = Sizes {
    segment: 2_000,
    reserve: 700,
    snapshot: 6,
};

/// The folders of a store.
const FOLDERS: [&str; 2] = ["ledger", "index"];

/// Sessions on one ledger, before another one is begun.
const SESSIONS: u64 = 4;

/// Group commits of a session.
const COMMITS: u64 = 6;

/// What somebody outside was told.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// The last entry that was acknowledged.
    entries: u64,
    /// How many of them a checkpoint covers that was handed out.
    covered: u64,
}

#[test]
fn a_whole_store_survives_the_loss_of_power_at_every_step() {
    let wanted = power_losses(200);
    let mut count = Count::default();
    let mut worlds = Vec::new();
    for round in 0.. {
        if round % SESSIONS == 0 {
            worlds = vec![World::new(None), World::new(Some(key(1)))];
        }
        for (world, seed) in worlds.iter_mut().zip(2 * round..) {
            world.lives_and_loses_power(seed, &mut count);
        }
        // Whether a snapshot survives also depends on when sled writes, which a busy machine delays.
        let is_seen = count.snapshots > wanted / 20 || count.losses >= 4 * wanted;
        if count.losses >= wanted && is_seen {
            break;
        }
    }
    assert!(count.unsynced > wanted, "{count:?}");
    assert!(count.entries_gone > wanted / 4, "{count:?}");
    assert!(count.snapshots > wanted / 20, "{count:?}");
    report(&count);
}

/// How much a campaign has put to the test.
#[derive(Debug, Default)]
struct Count {
    losses: u64,
    /// Operations that had not been synced when the power went.
    unsynced: u64,
    /// Entries that had been written, or were to be, and were not there.
    entries_gone: u64,
    /// Starts from a snapshot that had survived.
    snapshots: u64,
}

#[expect(clippy::print_stdout, reason = "the figures of a campaign")]
fn report(count: &Count) {
    println!("{count:?}");
}

/// A ledger and what is known of it.
#[derive(Debug)]
struct World {
    key: Option<DataKey>,
    /// What is on the disk.
    files: Files,
    told: Told,
    /// Everything that was ever written, as far as the ledger goes on from it.
    entries: Vec<(Entry, Digest)>,
}

/// What one session did.
#[derive(Debug)]
struct Session {
    /// The files of its beginning, without those of sled.
    begin: Files,
    steps: Vec<Step<Told>>,
    /// What sled had written in the end.
    sled: Files,
}

impl World {
    fn new(key: Option<DataKey>) -> Self {
        Self {
            key,
            files: Files::new(),
            told: Told::default(),
            entries: Vec::new(),
        }
    }

    /// Lives once, and loses the power behind each step of it.
    fn lives_and_loses_power(&mut self, seed: u64, count: &mut Count) {
        let mut chance = Chance::new(seed);
        let session = self.live(seed, &mut chance);
        let next = chance.below(session.steps.len() as u64 + 1) as usize;
        let mut platter = Platter::of(&session.begin);
        let mut told = self.told;
        let mut left = None;
        for cut in 0..=session.steps.len() {
            if let Some(step) = cut.checked_sub(1).map(|at| &session.steps[at]) {
                platter.take(step);
                if let Step::Told(more) = step {
                    told = *more;
                }
            }
            let mut files = platter.after_power_loss(&mut chance);
            files.extend(some_of(&session.sled, &mut chance));
            let loss = format!("seed {seed}, step {cut}: {:?}", session.steps.get(cut));
            self.reopens(&files, told, &loss, count);
            count.losses += 1;
            count.unsynced += platter.unsynced();
            if cut == next {
                left = Some((files, told));
            }
        }
        (self.files, self.told) = left.unwrap();
    }

    /// Opens what is there, commits, signs and takes snapshots.
    fn live(&mut self, seed: u64, chance: &mut Chance) -> Session {
        let dir = tempfile::tempdir().unwrap();
        recorded::write(dir.path(), &self.files);
        let begin: Files = self.files.clone().into_iter().filter(is_ours).collect();
        let recorder = Recorder::beginning_with(&begin);
        let mut store = self.store(dir.path());
        store.disks = Box::new(recorder.clone());
        let loaded = store.load().unwrap();
        self.entries.truncate(loaded.head.revision.0 as usize);
        let mut notary = Notary::new(ledger_key(), &mut store, &loaded).unwrap();
        let tell = |entries: &[_], notary: &Notary| {
            recorder.tell(Told {
                entries: entries.len() as u64,
                covered: notary.covered(),
            });
        };
        tell(&self.entries, &notary);
        for commit in 0..COMMITS {
            let batch = (0..=chance.below(3)).map(|n| match n {
                0 => user("u", &[&format!("g{seed}-{commit}")]),
                _ => site(&format!("s{}-{commit}-{n}", seed % SESSIONS)),
            });
            for entry in take(&mut store, batch.collect()) {
                let hash = Encoded::new(entry.clone()).hash;
                self.entries.push((entry, hash));
            }
            tell(&self.entries, &notary);
            if chance.below(2) == 0 {
                notary.sign(&mut store).unwrap();
                tell(&self.entries, &notary);
            }
        }
        drop(store);
        let sled = recorded::read(dir.path(), &FOLDERS);
        let sled = sled.into_iter().filter(|file| !is_ours(file)).collect();
        Session {
            begin,
            steps: recorder.take(),
            sled,
        }
    }

    /// The store opens with all that was told, with nothing else than was written, and goes on.
    fn reopens(&self, files: &Files, told: Told, loss: &str, count: &mut Count) {
        let dir = tempfile::tempdir().unwrap();
        recorded::write(dir.path(), files);
        let mut store = self.store(dir.path());
        let loaded = store.load();
        let loaded = loaded.unwrap_or_else(|error| panic!("{loss}: {error}"));
        let revision = loaded.head.revision.0;
        assert!(revision >= told.entries, "{loss}: {revision} of {told:?}");
        assert!(revision <= self.entries.len() as u64, "{loss}: {revision}");
        let known = &self.entries[..revision as usize];
        let last = known.last().map(|(_, hash)| *hash);
        assert_eq!(
            loaded.head.hash,
            last.unwrap_or(Head::default().hash),
            "{loss}"
        );
        let (mut state, mut tree) = (State::default(), Tree::new());
        for (entry, hash) in known {
            state.apply(entry);
            tree.push(*hash);
        }
        assert_eq!(loaded.state, state, "{loss}");
        assert_eq!(store.tree(), &tree, "{loss}");
        let read = store.tail(Revision(0), known.len() + 1).unwrap();
        assert!(
            read.iter().eq(known.iter().map(|(entry, _)| entry)),
            "{loss}"
        );
        let notary = Notary::new(ledger_key(), &mut store, &loaded);
        let covered = notary.map(|notary| notary.covered());
        let covered = covered.unwrap_or_else(|error| panic!("{loss}: {error}"));
        assert!(covered >= told.covered, "{loss}: {covered} of {told:?}");
        take(&mut store, vec![site("behind-it")]);
        drop(store);
        let again = self.store(dir.path()).load().unwrap();
        assert_eq!(
            (again.head.revision.0, again.torn),
            (revision + 1, None),
            "{loss}"
        );
        count.entries_gone += self.entries.len() as u64 - revision;
        let snapshot = files.get(&("index".to_owned(), "state".to_owned()));
        let is_whole = snapshot.and_then(|bytes| bytes.split_first_chunk());
        let is_whole =
            is_whole.is_some_and(|(sum, body)| crc32c::crc32c(body).to_be_bytes() == *sum);
        count.snapshots += u64::from(is_whole && !loaded.rebuilt);
    }

    fn store(&self, dir: &Path) -> EmbeddedStore {
        let mut store = EmbeddedStore::new(dir).sealed_with(self.key.clone());
        store.sizes = SIZES;
        store
    }
}

/// What is left of sled's files, which it syncs as it likes and of which nothing is needed: nothing,
/// all of it (which is ahead of the journal then), or some.
fn some_of(sled: &Files, chance: &mut Chance) -> Files {
    let way = chance.below(3);
    let kept = sled.iter().filter(|_| way > 0);
    let kept = kept.map(|(name, bytes)| {
        let mut bytes = bytes.clone();
        if way == 2 {
            bytes.truncate(chance.below(bytes.len() as u64 + 1) as usize);
            for sector in bytes.chunks_mut(512) {
                if chance.below(8) == 0 {
                    sector.fill(0);
                }
            }
        }
        (name.clone(), bytes)
    });
    kept.collect()
}

/// Whether a file is written by the store and not by sled.
fn is_ours(file: &((String, String), Vec<u8>)) -> bool {
    let ((folder, name), _) = file;
    folder == "ledger" || name.starts_with("state")
}

fn ledger_key() -> LedgerKey {
    LedgerKey::from_seed(&"corp.example".parse().unwrap(), &[1; 32]).unwrap()
}
