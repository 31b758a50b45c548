//! Durable commits of the embedded store, against plain writes of the same bytes, SQLite and redb.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use cardea_core::{Proposal, ProposalId};
use cardea_e2e::program::now;
use cardea_ledger::seal::DataKey;
use cardea_proto::{
    app::Carrier,
    codec,
    id::{ConnectorId, DeviceId, GrantId, NodeId},
    ledger::{Actor, Change, Draft, Grant},
    time::UnixMillis,
};
use cardea_store::{EmbeddedStore, Store};
use redb::{Database, Durability, TableDefinition};

use zeroize::Zeroizing;

use crate::report::{Report, Row, bytes_of, median, percentile};

/// Entries of one group commit: what the store is handed when 64 writers wait for it.
///
/// One thread makes the batches and commits one after the other, for every contender alike; threads
/// that wait and are woken are not in the figures.
const GROUP: usize = 64;

/// Commits of one entry in a round.
const SINGLE: usize = 400;

/// Group commits in a round.
const GROUPS: usize = 400;

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");

/// Measures `rounds` rounds, in each of which everybody commits the same bytes in turn.
///
/// # Errors
/// When a store fails.
pub(crate) fn run(report: &mut Report, rounds: u32) -> Result<()> {
    // Beside the build, which lies on a disk: a temporary folder may be memory.
    let place = tempfile::Builder::new()
        .prefix("store-bench-")
        .tempdir_in(std::env::current_exe()?.parent().context("no folder")?)?;
    for (case, group, commits) in [("one at a time", 1, SINGLE), ("grouped", GROUP, GROUPS)] {
        let mut all: [Figures; 5] = Default::default();
        for round in 0..rounds {
            let dir = place.path().join(format!("{group}-{round}"));
            std::fs::create_dir(&dir)?;
            let sealed = dir.join("sealed");
            std::fs::create_dir(&sealed)?;
            let mut contenders: [Box<dyn Contender>; 5] = [
                Box::new(Ours::open(&dir, None)?),
                Box::new(Plain::open(&dir)?),
                Box::new(Sqlite::open(&dir)?),
                Box::new(Redb::open(&dir)?),
                Box::new(Ours::open(&sealed, Some(key()))?),
            ];
            for (contender, figures) in contenders.iter_mut().zip(&mut all) {
                figures.measure(contender.as_mut(), group, commits)?;
            }
        }
        let [ours, plain, sqlite, redb, sealed] = &all;
        for (name, peer, floor) in [
            ("write+fdatasync", plain, 0.75),
            ("SQLite", sqlite, 1.0),
            ("redb", redb, 1.0),
        ] {
            let rate = peer.rate();
            report.add(ours.row(
                &format!("entries/s, {case}"),
                Some((name, rate)),
                floor,
                None,
            ));
        }
        report.add(sealed.row(
            &format!("entries/s, {case}, sealed"),
            Some(("not sealed", ours.rate())),
            0.75,
            None,
        ));
        if group > 1 {
            report.add(ours.row("entries/s, grouped", None, 50_000.0, Some(100_000.0)));
            let took = percentile(&ours.took_ms, 0.99);
            report.add(Row {
                case: "commit under that load p99".to_owned(),
                ours: took,
                range: (
                    percentile(&ours.took_ms, 0.0),
                    percentile(&ours.took_ms, 1.0),
                ),
                peer: None,
                floor: Some(10.0),
                goal: Some(5.0),
                unit: "ms",
            });
        }
    }
    Ok(())
}

/// What one contender took, over all rounds.
#[derive(Debug, Default)]
struct Figures {
    rates: Vec<f64>,
    took_ms: Vec<f64>,
}

impl Figures {
    fn measure(
        &mut self,
        contender: &mut dyn Contender,
        group: usize,
        commits: usize,
    ) -> Result<()> {
        let batches: Vec<Vec<Draft>> = (0..commits)
            .map(|commit| (0..group).map(|at| draft(commit * group + at)).collect())
            .collect();
        let batches: Vec<Batch> = batches.into_iter().map(Batch::of).collect();
        let begin = now();
        for batch in batches {
            let from = now();
            contender.commit(batch)?;
            self.took_ms.push(ms(from));
        }
        #[expect(
            clippy::as_conversions,
            clippy::cast_precision_loss,
            reason = "a few thousand entries"
        )]
        let entries = (commits * group) as f64;
        self.rates
            .push(entries / now().duration_since(begin).as_secs_f64());
        Ok(())
    }

    fn rate(&self) -> f64 {
        median(&self.rates)
    }

    fn row(&self, case: &str, peer: Option<(&str, f64)>, floor: f64, goal: Option<f64>) -> Row {
        Row {
            case: case.to_owned(),
            ours: self.rate(),
            range: (percentile(&self.rates, 0.0), percentile(&self.rates, 1.0)),
            peer: peer.map(|(name, rate)| (name.to_owned(), rate)),
            floor: Some(floor),
            goal,
            unit: "entries/s",
        }
    }
}

fn ms(from: Instant) -> f64 {
    now().duration_since(from).as_secs_f64() * 1_000.0
}

/// What is committed together, and its bytes for those who take nothing else.
struct Batch {
    drafts: Vec<Draft>,
    encoded: Vec<Vec<u8>>,
}

impl Batch {
    fn of(drafts: Vec<Draft>) -> Self {
        let encoded = drafts.iter().map(codec::encode).collect();
        Self { drafts, encoded }
    }
}

/// Something that makes entries durable.
trait Contender {
    /// Returns once all of them would survive a power loss.
    fn commit(&mut self, batch: Batch) -> Result<()>;
}

/// The embedded store: checks, encodes, chains, hashes, writes, folds.
struct Ours(EmbeddedStore);

impl Ours {
    fn open(dir: &Path, key: Option<DataKey>) -> Result<Self> {
        let mut store = EmbeddedStore::new(dir).sealed_with(key);
        store.load()?;
        Ok(Self(store))
    }
}

impl Contender for Ours {
    fn commit(&mut self, batch: Batch) -> Result<()> {
        let proposals = batch.drafts.into_iter().map(|draft| Proposal {
            id: ProposalId(0),
            expects: Vec::new(),
            draft,
        });
        for outcome in self.0.commit(proposals.collect()) {
            outcome?;
        }
        Ok(())
    }
}

/// A key to seal with.
fn key() -> DataKey {
    DataKey::new(Zeroizing::new([7; 32]))
}

/// The same bytes appended to a file, one sync for each batch. They are encoded beforehand.
struct Plain(File);

impl Plain {
    fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("plain");
        Ok(Self(
            OpenOptions::new()
                .create_new(true)
                .append(true)
                .open(path)?,
        ))
    }
}

impl Contender for Plain {
    fn commit(&mut self, batch: Batch) -> Result<()> {
        self.0.write_all(&batch.encoded.concat())?;
        self.0.sync_data()?;
        Ok(())
    }
}

/// SQLite as a careful user sets it: a write-ahead log, synced before each commit is told.
struct Sqlite(rusqlite::Connection);

impl Sqlite {
    fn open(dir: &Path) -> Result<Self> {
        let connection = rusqlite::Connection::open(dir.join("sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute(
            "CREATE TABLE entries (id INTEGER PRIMARY KEY, body BLOB)",
            (),
        )?;
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        ensure!(mode == "wal", "SQLite runs with {mode}");
        Ok(Self(connection))
    }
}

impl Contender for Sqlite {
    fn commit(&mut self, batch: Batch) -> Result<()> {
        let transaction = self.0.transaction()?;
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO entries (body) VALUES (?1)")?;
            for bytes in &batch.encoded {
                insert.execute([bytes])?;
            }
        }
        Ok(transaction.commit()?)
    }
}

struct Redb {
    database: Database,
    next: u64,
}

impl Redb {
    fn open(dir: &Path) -> Result<Self> {
        Ok(Self {
            database: Database::create(dir.join("redb"))?,
            next: 0,
        })
    }
}

impl Contender for Redb {
    fn commit(&mut self, batch: Batch) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for bytes in &batch.encoded {
                table.insert(self.next, bytes.as_slice())?;
                self.next += 1;
            }
        }
        Ok(transaction.commit()?)
    }
}

/// A grant to one of a thousand devices, which takes the place of the one before.
fn draft(number: usize) -> Draft {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    let device = DeviceId::from_bytes(bytes_of(number % 1_000));
    let name = |text: &str| {
        text.parse()
            .map_err(|_| anyhow::anyhow!("{text} is no name"))
    };
    let names = (name("alice@corp.example"), name("wiki"));
    let (Ok(user), Ok(app)) = names else {
        return empty(device);
    };
    let grant = Grant {
        id: GrantId::from_bytes(bytes_of(number)),
        device,
        user,
        app,
        host: None,
        connector: ConnectorId::from_bytes([7; 10]),
        carrier: Carrier::Quic,
        ttl_ms: 300_000,
    };
    let mut draft = empty(device);
    if let Some(before) = number.checked_sub(1_000) {
        draft.changes.push(Change::GrantEnded {
            grant: GrantId::from_bytes(bytes_of(before)),
            reason: cardea_proto::ledger::EndReason::Replaced,
        });
    }
    draft.changes.push(Change::GrantOffered(grant));
    draft
}

fn empty(device: DeviceId) -> Draft {
    Draft {
        at: UnixMillis(1_800_000_000_000),
        actor: Actor::Node(NodeId::Device(device)),
        changes: Vec::new(),
        decision: None,
        signed: None,
    }
}
