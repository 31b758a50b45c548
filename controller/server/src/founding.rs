//! `init`: a trust domain from nothing, and `renew`: its next intermediate.

use std::{io::ErrorKind, path::Path, sync::Arc};

use cardea_core::{
    Proposal, ProposalId, State,
    policy::{default_folder, recommended_folder},
};
use cardea_credential::{
    admin::{admin_key_id, admin_public_key},
    authority::{Root, serial_number},
    key::{KeyAlgorithm, Signer, SoftwareKey},
    pem,
    ticket::TicketKey,
};
use cardea_host::{
    clock::Clock,
    entropy,
    exit::{Code, Failure},
    files::{Dir, StateDir},
};
use cardea_ledger::checkpoint::{LedgerKey, Verifier};
use cardea_proto::{
    id::{AdminKeyId, ControllerId},
    ledger::{Actor, Change, Draft, Founded, RecordKey, Revision},
    name::Name,
    policy::PolicyFile,
    time::UnixMillis,
};
use cardea_store::{EmbeddedStore, LoadError, Store, repair::Damage};

use zeroize::Zeroizing;

use crate::{
    config::{self, Config},
    folder::{
        self, ADMIN_KEY, CA, INTERMEDIATE_CERTIFICATE, INTERMEDIATE_KEY, KEYS, LEDGER_KEY,
        LEDGER_PUBLIC, ROOT, ROOT_CERTIFICATE, ROOT_KEY, TICKET_KEY, TICKET_PUBLIC,
    },
    seal::Seal,
};

/// The site that exists from the beginning.
const SITE: &str = "default";

/// What a founding made, for the person who asked for it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The trust domain.
    pub domain: Name,
    /// The controller.
    pub controller: ControllerId,
    /// The first admin's key.
    pub admin: AdminKeyId,
    /// SHA-256 of the root certificate, hexadecimal.
    pub root: String,
    /// The public key with which the ledger is audited.
    pub ledger: String,
}

/// Makes a trust domain in a state folder that has none.
///
/// Nothing counts before the ledger's first entry, which is written last: a founding that was
/// interrupted is begun again.
///
/// # Errors
/// A message that says what could not be made.
pub fn found(state: &StateDir, seal: &Seal, config: &Config) -> Result<Report, Failure> {
    let Some(domain) = config.domain.clone() else {
        let why = "a new trust domain needs a name";
        let next = "For example: cardea-controller init --domain corp.example";
        return Err(Failure::of(Code::Usage, "--domain", why, next));
    };
    let mut store = EmbeddedStore::new(state.path()).sealed_with(seal.key());
    let loaded = store.load().map_err(damaged)?;
    if let Some(founded) = loaded.state.founded() {
        let why = format!("the trust domain {} is there already", founded.domain);
        let place = state.path().display().to_string();
        let next = format!("Run it with: cardea-controller run --state {place}");
        return Err(Failure::of(Code::Failed, &place, why, &next));
    }
    let now = Clock::system().now().unix;
    let controller = ControllerId::from_bytes(entropy::bytes());
    let root = make_root(state, seal, &domain, now)?;
    make_intermediate(state, seal, &root, controller, now)?;
    let (admin, admin_key) = make_admin(state)?;
    let ticket_key = make_ticket_key(state, seal)?;
    let ledger_key = make_ledger_key(state, seal, &domain)?;
    write_policies(state)?;
    if !state.contains(config::FILE) {
        let text = config.to_toml();
        let written = state.write_atomic(config::FILE, text.as_bytes());
        written.map_err(folder::refused)?;
    }
    let founded = Founded {
        domain: domain.clone(),
        controller,
        root: root.digest(),
        admin: (admin, admin_key.to_vec().into()),
        ticket_key: ticket_key.to_vec().into(),
        ledger_key: ledger_key.public().to_vec().into(),
    };
    record(&mut store, founded, now)?;
    Ok(Report {
        domain,
        controller,
        admin,
        root: data_encoding::HEXLOWER.encode(&root.digest().0),
        ledger: ledger_key.to_string(),
    })
}

/// Makes the next intermediate with the root's key, from the folder `root`.
///
/// # Errors
/// A message that says why not.
pub fn renew(
    state: &Dir,
    seal: &Seal,
    root: &Path,
    founded: &Founded,
) -> Result<UnixMillis, Failure> {
    let place = root.display().to_string();
    let root = folder::read_root(&Dir::open(root).map_err(folder::refused)?, seal)?;
    if root.digest() != founded.root {
        let why = format!("this is not the root of {}", founded.domain);
        let next = "Name the folder with that root.key and root.crt: --root DIR";
        return Err(Failure::of(Code::Failed, &place, why, next));
    }
    let now = Clock::system().now().unix;
    make_intermediate(state, seal, &root, founded.controller, now)
}

/// What `init` says on stderr when it is done.
#[must_use]
pub fn farewell(state: &Path, report: &Report) -> String {
    let place = state.display();
    let Report {
        domain,
        controller,
        admin,
        root,
        ledger,
    } = report;
    format!(
        "Trust domain {domain} is made. Controller {controller}, admin key {admin}, root {root}\n\
         \n\
         Do now:\n  \
         move  {place}/{ROOT}/{ROOT_KEY}     offline: needed only to renew the intermediate, every 30 days\n  \
         move  {place}/{KEYS}/{ADMIN_KEY}    to the admin: it signs every change (cardeactl --admin-key)\n  \
         give  {ledger}\n  \
        \x20     to whoever audits the ledger: cardeactl audit verify --key KEY\n  \
         back up  {place}             all of it: the ledger is the only record of who may do what\n"
    )
}

/// A store that does not load, as it is shown.
pub fn damaged(error: LoadError) -> Failure {
    let text = crate::chain(&error);
    let next = match error {
        LoadError::Locked(_) => "opened twice: stop the other controller first".to_owned(),
        LoadError::Damaged { file, .. } => {
            let state = file.ancestors().nth(2).unwrap_or(&file).display();
            format!(
                "Nothing was changed. See the choices: cardea-controller repair --state {state}"
            )
        }
        LoadError::Sealed(_) => {
            "Its key is in ledger/sealing.toml: restore that from a backup".to_owned()
        }
        LoadError::Io { path, source, .. } if source.kind() == ErrorKind::AlreadyExists => {
            let kept = path.display();
            format!("An earlier repair kept its files there: move {kept} away, then repair again")
        }
        LoadError::Io { .. } => {
            "Check the disk and who owns the state directory, then start again".to_owned()
        }
    };
    Failure::of(Code::Storage, "ledger", text, &next)
}

/// What follows from a ledger that is shorter than it was.
pub const ROLLED_BACK: &str = "Nodes that know of later entries tell it, and nothing is granted until: \
    cardeactl status --acknowledge-rollback\n";

/// What can be done about a damaged ledger, as it is shown.
#[must_use]
pub fn choices(state: &Path, damage: &Damage) -> String {
    let Damage {
        file,
        offset,
        fault,
        whole,
    } = damage;
    let (file, place) = (file.display(), state.display());
    format!(
        "{file} is damaged at byte {offset}: {fault}\n\
         \n\
         {}Choose:\n  \
         restore a backup   cardeactl restore FILE --state EMPTY_DIR\n                     \
         loses what was committed after the backup\n{}\
         \n\
         {ROLLED_BACK}",
        match whole.0 {
            0 => "No entry is whole.\n".to_owned(),
            whole =>
                format!("Entries 1 to {whole} are whole. What stands behind them cannot be read.\n"),
        },
        match whole.0 {
            0 => String::new(),
            whole => format!(
                "  cut the ledger     cardea-controller repair --cut --state {place}\n                     \
                 keeps entries 1 to {whole}; the damaged files are kept in {place}/ledger.damaged\n"
            ),
        }
    )
}

fn make_root(state: &Dir, seal: &Seal, domain: &Name, now: UnixMillis) -> Result<Root, Failure> {
    let dir = state.subdirectory(ROOT).map_err(folder::refused)?;
    let key = SoftwareKey::generate(KeyAlgorithm::P384).map_err(failed("root key"))?;
    folder::write_key(seal, &dir, ROOT_KEY, &key)?;
    let serial = serial_number(entropy::bytes());
    let root =
        Root::create(domain, Arc::new(key), serial, now).map_err(failed("root certificate"))?;
    folder::write_pem(&dir, ROOT_CERTIFICATE, pem::CERTIFICATE, root.certificate())?;
    Ok(root)
}

/// Makes an intermediate and says when it ends. The certificate is written after its key: a crash
/// between the two leaves a pair that does not fit, and the next start says so.
fn make_intermediate(
    state: &Dir,
    seal: &Seal,
    root: &Root,
    controller: ControllerId,
    now: UnixMillis,
) -> Result<UnixMillis, Failure> {
    let dir = state.subdirectory(CA).map_err(folder::refused)?;
    let key = SoftwareKey::generate(KeyAlgorithm::P256).map_err(failed("intermediate key"))?;
    let serial = serial_number(entropy::bytes());
    let certificate = root
        .issue_intermediate(controller, key.public_key(), serial, now)
        .map_err(failed("intermediate certificate"))?;
    folder::write_key(seal, &dir, INTERMEDIATE_KEY, &key)?;
    folder::write_pem(
        &dir,
        INTERMEDIATE_CERTIFICATE,
        pem::CERTIFICATE,
        &certificate,
    )?;
    Ok(now.plus(cardea_credential::authority::INTERMEDIATE_LIFE))
}

fn make_admin(state: &Dir) -> Result<(AdminKeyId, [u8; 32]), Failure> {
    let dir = state.subdirectory(KEYS).map_err(folder::refused)?;
    let key = SoftwareKey::generate(KeyAlgorithm::Ed25519).map_err(failed("admin key"))?;
    let public = admin_public_key(&key)
        .ok_or_else(|| Failure::of(Code::Failed, "admin key", "not an Ed25519 key", ""))?;
    // Not sealed: cardeactl reads it, elsewhere.
    folder::write_key(&Seal::default(), &dir, ADMIN_KEY, &key)?;
    Ok((admin_key_id(&public), public))
}

fn make_ticket_key(state: &Dir, seal: &Seal) -> Result<[u8; 32], Failure> {
    let dir = state.subdirectory(KEYS).map_err(folder::refused)?;
    let seed = Zeroizing::new(entropy::seed());
    let public = TicketKey::from_seed(&seed)
        .map_err(failed("ticket key"))?
        .public();
    let line = |bytes: &[u8]| format!("{}\n", data_encoding::HEXLOWER.encode(bytes));
    seal.write(&dir, TICKET_KEY, &Zeroizing::new(line(seed.as_ref())))?;
    dir.write_atomic(TICKET_PUBLIC, line(&public).as_bytes())
        .map_err(folder::refused)?;
    Ok(public)
}

fn make_ledger_key(state: &Dir, seal: &Seal, domain: &Name) -> Result<Verifier, Failure> {
    let dir = state.subdirectory(KEYS).map_err(folder::refused)?;
    let seed = Zeroizing::new(entropy::seed());
    let key = LedgerKey::from_seed(domain, &seed).map_err(failed("ledger key"))?;
    let secret = format!("{}\n", data_encoding::HEXLOWER.encode(seed.as_ref()));
    seal.write(&dir, LEDGER_KEY, &Zeroizing::new(secret))?;
    let public = format!("{}\n", key.verifier());
    dir.write_atomic(LEDGER_PUBLIC, public.as_bytes())
        .map_err(folder::refused)?;
    Ok(key.verifier().clone())
}

fn write_policies(state: &Dir) -> Result<(), Failure> {
    for (name, files) in [
        ("policy", default_folder()),
        ("policy-recommended", recommended_folder()),
    ] {
        let dir = state.subdirectory(name).map_err(folder::refused)?;
        for PolicyFile { path, text } in files {
            dir.write_atomic(&path, text.as_bytes())
                .map_err(folder::refused)?;
        }
    }
    Ok(())
}

fn record(store: &mut dyn Store, founded: Founded, now: UnixMillis) -> Result<State, Failure> {
    let site: Name = SITE
        .parse()
        .map_err(|error| Failure::of(Code::Failed, SITE, error, ""))?;
    let controller = founded.controller;
    let proposal = Proposal {
        id: ProposalId(0),
        expects: vec![(RecordKey::Domain, Revision(0))],
        draft: Draft {
            at: now,
            actor: Actor::Controller(controller),
            changes: vec![
                Change::Founded(founded),
                Change::SiteAdded(site),
                Change::PolicySet(default_folder()),
            ],
            decision: None,
            signed: None,
        },
    };
    for outcome in store.commit(vec![proposal]) {
        outcome.map_err(|error| {
            let next = "Check the disk, then start again with an empty folder";
            Failure::of(Code::Storage, "ledger", error, next)
        })?;
    }
    Ok(store.load().map_err(damaged)?.state)
}

fn failed<E: std::error::Error>(what: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::of(Code::Failed, what, crate::chain(&error), "")
}
