//! How soon a controller with a long ledger serves again, and how much memory its state takes.

use std::{ffi::OsString, path::Path};

use anyhow::{Context, Result};
use cardea_core::{
    Controller, Input, Outbox, Proposal, ProposalId, Search, Settings, policy::default_folder,
};
use cardea_credential::knock::Door;
use cardea_e2e::program::{binaries, command, now, run_ok};
use cardea_host::clock::Clock;
use cardea_ledger::checkpoint::LedgerKey;
use cardea_proto::{
    admin::AuditFilter,
    app::Carrier,
    codec::{Blob, Bytes},
    id::{AdminKeyId, ConnectorId, DeviceId, GrantId, NodeId},
    ledger::{Actor, CertificateRecord, Change, Draft, EndReason, Founded, Grant, Node, Revision},
    name::Name,
    time::UnixMillis,
};
use cardea_store::{EmbeddedStore, Notary, Store};

use crate::{
    domain::{self, CONTROLLER, Domain},
    process::Process,
    report::{Report, Row, bytes_of, median, percentile},
};

/// The argument with which the benchmark starts itself.
pub(crate) const START: &str = "start-on";

/// Where the ledger is, and where the keys are, in a folder of the benchmark.
const LEDGER: &str = "ledger";
const KEYS: &str = "keys";

/// Devices, each with a certificate.
const DEVICES: u64 = 100_000;

/// Entries in all.
const ENTRIES: u64 = 1_000_000;

/// Entries that are committed together while the ledger is made.
const BATCH: u64 = 4_096;

/// Makes the ledger once, and starts on it `rounds` times with its snapshot and once without.
///
/// # Errors
/// When the store fails.
pub(crate) fn run(report: &mut Report, rounds: u32) -> Result<()> {
    let place = tempfile::Builder::new()
        .prefix("restart-bench-")
        .tempdir_in(std::env::current_exe()?.parent().context("no folder")?)?;
    let domain = Domain::new(Clock::system().now())?;
    let places = ["bare", "enrolled", "full"].map(|name| place.path().join(name));
    let [bare, enrolled, full] = &places;
    found(bare, &domain, 1)?;
    found(enrolled, &domain, DEVICES)?;
    found(full, &domain, ENTRIES)?;
    let dir = &full.join(LEDGER);
    let mut times = Vec::new();
    let mut devices = Vec::new();
    let mut grants = Vec::new();
    for _ in 0..rounds {
        let (_, least) = started(bare, 1)?;
        let (_, with_devices) = started(enrolled, DEVICES)?;
        let (seconds, with_all) = started(full, ENTRIES)?;
        times.push(seconds);
        devices.push(with_devices - least);
        grants.push(with_all - with_devices);
    }
    row(report, "start with the snapshot", &times, Some(2.0), "s");
    row(
        report,
        "memory of 100,000 devices",
        &devices,
        Some(150.0),
        "MiB",
    );
    row(
        report,
        "memory of a live grant for each",
        &grants,
        None,
        "MiB",
    );
    verify(report, dir, rounds)?;
    search(report, dir, rounds)?;
    std::fs::remove_dir_all(dir.join("index"))?;
    let (seconds, _) = started(full, ENTRIES)?;
    row(
        report,
        "start that rebuilds everything",
        &[seconds],
        Some(60.0),
        "s",
    );
    Ok(())
}

/// How fast an auditor checks all of it.
fn verify(report: &mut Report, dir: &Path, rounds: u32) -> Result<()> {
    let program = binaries()?.join("cardeactl");
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let arguments =
            ["audit", "verify", "--key", &key()?.verifier().to_string()].map(OsString::from);
        let ledger = ["--ledger".into(), dir.as_os_str().to_owned()];
        let begin = now();
        run_ok(command(&program, arguments.into_iter().chain(ledger)))?;
        rates.push(rate(begin));
    }
    row(report, "audit verify", &rates, Some(200_000.0), "entries/s");
    Ok(())
}

/// How fast a controller looks through all of it for one device.
fn search(report: &mut Report, dir: &Path, rounds: u32) -> Result<()> {
    let mut store = EmbeddedStore::new(dir);
    store.load()?;
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let filter = AuditFilter {
            device: Some("laptop-77".to_owned()),
            ..AuditFilter::default()
        };
        let (mut search, mut after, mut found) = (Search::new(filter), Revision(0), 0_u32);
        let begin = now();
        loop {
            let entries = store.tail(after, SEARCHED)?;
            let Some(last) = entries.last() else { break };
            after = last.revision;
            found += entries
                .iter()
                .map(|entry| u32::from(search.take(entry)))
                .sum::<u32>();
        }
        rates.push(rate(begin));
        anyhow::ensure!(found > 1, "the device is not found: {found}");
    }
    row(report, "audit search", &rates, None, "entries/s");
    Ok(())
}

/// Entries that a search reads at a time.
const SEARCHED: usize = 1_000;

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a million entries"
)]
fn rate(begin: std::time::Instant) -> f64 {
    ENTRIES as f64 / now().duration_since(begin).as_secs_f64()
}

/// Starts in a process of its own, whose memory holds nothing else: seconds, and MiB that are
/// resident while the store, the controller and its door have the states of that many entries.
fn started(place: &Path, entries: u64) -> Result<(f64, f64)> {
    let output = std::process::Command::new(std::env::current_exe()?)
        .arg(START)
        .arg(place)
        .arg(entries.to_string())
        .output()?;
    anyhow::ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let mut words = text.split_whitespace();
    let mut number = || -> Result<f64> { Ok(words.next().context("no figure")?.parse()?) };
    Ok((number()?, number()?))
}

/// What the process of its own does: opens the store, builds the controller on what it holds, and
/// lets it take its first input, in which it adopts every grant and opens its door to every node.
///
/// The next thing that a controller does is to answer. Sockets and TLS are not in the time.
///
/// # Errors
/// When the store or the controller does not start.
pub(crate) fn start(place: &Path, entries: u64) -> Result<(f64, f64)> {
    let begin = now();
    let moment = Clock::system().now();
    let mut store = EmbeddedStore::new(&place.join(LEDGER));
    let state = store.load()?.state;
    let root = state.founded().context("nothing was founded")?.root;
    let keys = domain::load(&place.join(KEYS))?;
    let mut controller = Controller::new(Settings::default(), state, keys, [7; 32])?;
    let mut door = Door::new(root, moment);
    let mut out = Outbox::default();
    controller.handle(moment, Input::Timeout, &mut out);
    for change in std::mem::take(&mut out.door) {
        door.change(change);
    }
    let seconds = now().duration_since(begin).as_secs_f64();
    let mib = Process::own().resident_kib()? / 1_024.0;
    anyhow::ensure!(
        controller.state().head().0 == entries,
        "entries are missing"
    );
    drop(door);
    Ok((seconds, mib))
}

fn row(report: &mut Report, case: &str, values: &[f64], floor: Option<f64>, unit: &'static str) {
    report.add(Row {
        case: case.to_owned(),
        ours: median(values),
        range: (percentile(values, 0.0), percentile(values, 1.0)),
        peer: None,
        floor,
        goal: None,
        unit,
    });
}

/// Keys, and a ledger of so many entries: a hundred thousand enrollments, then the certificates and
/// grants of some working hours.
fn found(place: &Path, domain: &Domain, entries: u64) -> Result<()> {
    let dir = &place.join(LEDGER);
    std::fs::create_dir_all(dir)?;
    domain.save(&place.join(KEYS))?;
    let mut store = EmbeddedStore::new(dir);
    let loaded = store.load()?;
    let mut notary = Notary::new(key()?, &mut store, &loaded)?;
    let mut number = 0;
    while number < entries {
        let end = (number + BATCH).min(entries);
        let batch = (number..end).map(|number| {
            Ok(Proposal {
                id: ProposalId(0),
                expects: Vec::new(),
                draft: draft(number, domain)?,
            })
        });
        for outcome in store.commit(batch.collect::<Result<_>>()?) {
            outcome?;
        }
        notary.sign(&mut store).map_err(anyhow::Error::msg)?;
        number = end;
    }
    Ok(())
}

fn draft(number: u64, domain: &Domain) -> Result<Draft> {
    let device = DeviceId::from_bytes(bytes_of(number % DEVICES));
    let node = NodeId::Device(device);
    let certificate = Change::CertificateIssued(CertificateRecord {
        node,
        serial: Bytes([3; 16]),
        public_key: Blob(vec![4; 91]),
        not_before: UnixMillis(1_800_000_000_000),
        not_after: UnixMillis(1_800_003_600_000),
    });
    let user: Name = format!("user-{}@corp.example", number % DEVICES).parse()?;
    let changes = if number == 0 {
        let founded = Founded {
            domain: domain.root.domain().clone(),
            controller: CONTROLLER,
            root: domain.root.digest(),
            admin: (AdminKeyId::from_bytes([3; 10]), Blob(vec![4; 32])),
            ticket_key: Blob(domain::ticket_key()?.public().to_vec()),
            ledger_key: Blob(key()?.verifier().public().to_vec()),
        };
        vec![
            Change::Founded(founded),
            Change::PolicySet(default_folder()),
        ]
    } else if number < DEVICES {
        let node = Node {
            id: node,
            name: format!("laptop-{number}").parse()?,
            key: Bytes(bytes_of(number)),
            user: Some(user),
            site: None,
            os: "linux".to_owned(),
        };
        let compliant = true;
        vec![
            Change::NodeEnrolled(node),
            certificate,
            Change::Appraised { device, compliant },
        ]
    } else if number.is_multiple_of(4) {
        vec![certificate]
    } else {
        granted(number, device, user)?
    };
    Ok(Draft {
        at: UnixMillis(1_800_000_000_000 + number),
        actor: Actor::Node(node),
        changes,
        decision: None,
        signed: None,
    })
}

/// One grant at a time for each device, which its connector has answered for.
fn granted(number: u64, device: DeviceId, user: Name) -> Result<Vec<Change>> {
    let id = GrantId::from_bytes(bytes_of(number));
    let before = number.checked_sub(DEVICES);
    let ended = before
        .filter(|before| *before >= DEVICES)
        .map(|before| Change::GrantEnded {
            grant: GrantId::from_bytes(bytes_of(before)),
            reason: EndReason::Closed,
        });
    let offered = Change::GrantOffered(Grant {
        id,
        device,
        user,
        app: format!("app-{}", number % 50).parse()?,
        host: None,
        connector: ConnectorId::from_bytes([7; 10]),
        carrier: Carrier::Quic,
        ttl_ms: 300_000,
    });
    let admitted = Change::GrantAdmitted(id);
    Ok(ended.into_iter().chain([offered, admitted]).collect())
}

/// The key that signs this ledger.
fn key() -> Result<LedgerKey> {
    Ok(LedgerKey::from_seed(&"corp.example".parse()?, &[6; 32])?)
}
