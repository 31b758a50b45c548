//! The state folder: which file is what, and reading the keys back.
//!
//! ```text
//! controller.toml             configuration
//! root/root.{key,crt}         the root: the key is to be moved offline
//! ca/intermediate.{key,crt}   signs leaves
//! keys/admin.key              the first admin's, to be moved to that admin
//! keys/ticket.{key,pub}       signs relay tickets; relays elsewhere need the .pub
//! keys/front.key              with --tls-address: what relays elsewhere share with this controller
//! keys/ledger.{key,pub}       signs checkpoints; whoever audits the ledger needs the .pub
//! ledger/ index/              the store
//! ledger/sealing.toml         the key of a sealed state, wrapped; secrets above are sealed with it
//! policy/ policy-recommended/ folders to edit, apply and review
//! admin.sock lock             of the running controller
//! ```

use std::{path::PathBuf, sync::Arc};

use cardea_core::Keys;
use cardea_credential::{
    authority::{Intermediate, Root},
    key::{Signer, SoftwareKey},
    pem,
    ticket::TicketKey,
};
use cardea_host::{
    exit::{Code, Failure},
    files::{Dir, StateError},
};
use cardea_ledger::checkpoint::LedgerKey;
use cardea_proto::name::Name;
use zeroize::Zeroizing;

use crate::seal::Seal;

pub(crate) const ROOT: &str = "root";
pub(crate) const CA: &str = "ca";
pub(crate) const KEYS: &str = "keys";
pub(crate) const ROOT_KEY: &str = "root.key";
pub(crate) const ROOT_CERTIFICATE: &str = "root.crt";
pub(crate) const INTERMEDIATE_KEY: &str = "intermediate.key";
pub(crate) const INTERMEDIATE_CERTIFICATE: &str = "intermediate.crt";
pub(crate) const ADMIN_KEY: &str = "admin.key";
pub(crate) const TICKET_KEY: &str = "ticket.key";
pub(crate) const TICKET_PUBLIC: &str = "ticket.pub";
pub(crate) const FRONT_KEY: &str = "front.key";
pub(crate) const LEDGER_KEY: &str = "ledger.key";
pub(crate) const LEDGER_PUBLIC: &str = "ledger.pub";
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";

/// Where the controller keeps its state, when nobody says otherwise.
///
/// # Errors
/// When there is no home folder to derive it from.
pub fn state_path(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    given
        .or_else(|| cardea_host::files::default_state("controller"))
        .ok_or_else(|| {
            let why = "there is neither XDG_STATE_HOME nor HOME";
            Failure::of(Code::Usage, "--state", why, "Name a folder with --state")
        })
}

/// A state folder that cannot be used, as it is shown.
pub fn refused(error: StateError) -> Failure {
    error.failure()
}

/// Writes `der` as PEM.
pub(crate) fn write_pem(dir: &Dir, name: &str, label: &str, der: &[u8]) -> Result<(), Failure> {
    let text = pem::encode(label, der);
    dir.write_atomic(name, text.as_bytes()).map_err(refused)
}

/// Writes a private key as PKCS#8 in PEM.
pub(crate) fn write_key(
    seal: &Seal,
    dir: &Dir,
    name: &str,
    key: &SoftwareKey,
) -> Result<(), Failure> {
    let pkcs8 = key
        .to_pkcs8()
        .map_err(|error| Failure::of(Code::Failed, name, error, ""))?;
    seal.write(dir, name, &pem::encode(pem::PRIVATE_KEY, &pkcs8))
}

/// Reads the root with its key, wherever that is kept.
pub(crate) fn read_root(dir: &Dir, seal: &Seal) -> Result<Root, Failure> {
    let certificate = read_certificate(dir, ROOT_CERTIFICATE)?;
    let key = read_key(seal, dir, ROOT_KEY)?;
    Root::load(certificate, key).map_err(|error| unusable(dir, ROOT_CERTIFICATE, error))
}

/// Reads everything that a running controller signs with. The root's key is not among it.
pub(crate) fn read_keys(state: &Dir, seal: &Seal) -> Result<Keys, Failure> {
    let ca = open(state, CA)?;
    let certificate = read_certificate(&ca, INTERMEDIATE_CERTIFICATE)?;
    let key = read_key(seal, &ca, INTERMEDIATE_KEY)?;
    let intermediate = Intermediate::load(certificate, key)
        .map_err(|error| unusable(&ca, INTERMEDIATE_CERTIFICATE, error))?;
    let root_der = read_certificate(&open(state, ROOT)?, ROOT_CERTIFICATE)?;
    let ticket = read_ticket_key(seal, &open(state, KEYS)?)?;
    Ok(Keys {
        intermediate,
        root_der,
        ticket,
    })
}

/// Writes what relays elsewhere need to know nodes by their passes. It is plain in a sealed state too: it
/// is there to be copied, and opens nothing but a TLS handshake.
pub(crate) fn write_front_key(state: &Dir, tickets: &TicketKey) -> Result<(), Failure> {
    let dir = open(state, KEYS)?;
    let key = tickets.fronts().reveal();
    let line = Zeroizing::new(format!("{}\n", data_encoding::HEXLOWER.encode(&key.0)));
    dir.write_atomic(FRONT_KEY, line.as_bytes())
        .map_err(refused)
}

/// Reads a private key.
pub(crate) fn read_key(seal: &Seal, dir: &Dir, name: &str) -> Result<Arc<dyn Signer>, Failure> {
    let text = seal.read(dir, name)?;
    let pkcs8 = pem::decode(pem::PRIVATE_KEY, &text).map_err(|error| unusable(dir, name, error))?;
    let key = SoftwareKey::from_pkcs8(&pkcs8).map_err(|error| unusable(dir, name, error))?;
    Ok(Arc::new(key))
}

/// Reads the key that signs the ledger of `domain`.
pub(crate) fn read_ledger_key(
    state: &Dir,
    seal: &Seal,
    domain: &Name,
) -> Result<LedgerKey, Failure> {
    let keys = open(state, KEYS)?;
    let seed = read_seed(seal, &keys, LEDGER_KEY)?;
    LedgerKey::from_seed(domain, &seed).map_err(|error| unusable(&keys, LEDGER_KEY, error))
}

fn read_ticket_key(seal: &Seal, keys: &Dir) -> Result<TicketKey, Failure> {
    let seed = read_seed(seal, keys, TICKET_KEY)?;
    TicketKey::from_seed(&seed).map_err(|error| unusable(keys, TICKET_KEY, error))
}

fn read_seed(seal: &Seal, keys: &Dir, name: &str) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let text = seal.read(keys, name)?;
    let mut seed = Zeroizing::new([0; 32]);
    let decoded = data_encoding::HEXLOWER.decode_mut(text.trim().as_bytes(), seed.as_mut());
    match decoded {
        Ok(32) if text.trim().len() == 64 => Ok(seed),
        Ok(_) | Err(_) => Err(unusable(keys, name, "not 64 hexadecimal digits")),
    }
}

fn read_certificate(dir: &Dir, name: &str) -> Result<Vec<u8>, Failure> {
    let text = read_text(dir, name)?;
    let der = pem::decode(pem::CERTIFICATE, &text).map_err(|error| unusable(dir, name, error))?;
    Ok(der.to_vec())
}

pub(crate) fn read_text(dir: &Dir, name: &str) -> Result<Zeroizing<String>, Failure> {
    let bytes = dir.read(name).map_err(refused)?;
    let bytes = bytes.ok_or_else(|| unusable(dir, name, "there is no such file"))?;
    let text = String::from_utf8(bytes).map(Zeroizing::new);
    text.map_err(|_| unusable(dir, name, "not a text file"))
}

fn open(state: &Dir, name: &str) -> Result<Dir, Failure> {
    Dir::open(&state.join(name)).map_err(refused)
}

pub(crate) fn unusable(dir: &Dir, name: &str, why: impl std::fmt::Display) -> Failure {
    let next = "Restore it from the backup of the state folder";
    Failure::of(
        Code::Storage,
        &dir.join(name).display().to_string(),
        why,
        next,
    )
}
