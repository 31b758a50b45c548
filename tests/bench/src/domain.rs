//! The keys of a benchmark's trust domain: a root, and the controller that it certifies.

use std::{fs, path::Path, sync::Arc};

use anyhow::Result;
use cardea_core::Keys;
use cardea_credential::{
    authority::{Intermediate, Root, serial_number},
    key::{KeyAlgorithm, Signer, SoftwareKey},
    ticket::TicketKey,
};
use cardea_proto::{id::ControllerId, name::Name, time::Now};

/// The one controller.
pub(crate) const CONTROLLER: ControllerId = ControllerId::from_bytes([1; 10]);

/// A trust domain.
pub(crate) struct Domain {
    pub(crate) root: Root,
    intermediate: Vec<u8>,
    key: Arc<SoftwareKey>,
}

impl Domain {
    /// A domain with new keys.
    pub(crate) fn new(now: Now) -> Result<Self> {
        let name: Name = "corp.example".parse()?;
        let root_key = Arc::new(SoftwareKey::generate(KeyAlgorithm::P384)?);
        let root = Root::create(&name, root_key, serial_number([1; 16]), now.unix)?;
        let key = Arc::new(SoftwareKey::generate(KeyAlgorithm::P256)?);
        let serial = serial_number([2; 16]);
        let intermediate =
            root.issue_intermediate(CONTROLLER, key.public_key(), serial, now.unix)?;
        Ok(Self {
            root,
            intermediate,
            key,
        })
    }

    /// What its controller works with.
    pub(crate) fn keys(&self) -> Result<Keys> {
        let key = Arc::<SoftwareKey>::clone(&self.key);
        keys(
            self.root.certificate().to_vec(),
            self.intermediate.clone(),
            key,
        )
    }

    /// Writes what its controller works with into a folder, for another process.
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join(ROOT), self.root.certificate())?;
        fs::write(dir.join(INTERMEDIATE), &self.intermediate)?;
        Ok(fs::write(dir.join(KEY), self.key.to_pkcs8()?)?)
    }
}

/// The keys that [`Domain::save`] has written.
pub(crate) fn load(dir: &Path) -> Result<Keys> {
    let key = SoftwareKey::from_pkcs8(&fs::read(dir.join(KEY))?)?;
    keys(
        fs::read(dir.join(ROOT))?,
        fs::read(dir.join(INTERMEDIATE))?,
        Arc::new(key),
    )
}

/// The key with which tickets are signed.
pub(crate) fn ticket_key() -> Result<TicketKey> {
    Ok(TicketKey::from_seed(&[5; 32])?)
}

fn keys(root_der: Vec<u8>, intermediate: Vec<u8>, key: Arc<dyn Signer>) -> Result<Keys> {
    Ok(Keys {
        intermediate: Intermediate::load(intermediate, key)?,
        root_der,
        ticket: ticket_key()?,
    })
}

const ROOT: &str = "root.der";
const INTERMEDIATE: &str = "intermediate.der";
const KEY: &str = "intermediate.p8";
