//! The device key: made on this device, kept in a file that only its owner reads, handed out as a
//! [`Signer`], so that a TPM can take the file's place without anybody noticing.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use cardea_credential::key::{KeyAlgorithm, ParseKeyError, SignError, Signer, SoftwareKey};
use cardea_host::files::{Dir, StateError};
use zeroize::Zeroizing;

/// Name of the key's file in the state directory: PKCS#8 in DER.
pub const KEY_FILE: &str = "node.key";

/// Where a node's key lives.
#[derive(Debug)]
pub struct KeyStore<'a> {
    dir: &'a Dir,
}

/// Why there is no key. The environment is at fault.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// The file cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file is no key that a node may have.
    #[error("{path}: is no key of a node; remove it and enroll again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader said, where it did not even parse.
        #[source]
        source: Option<ParseKeyError>,
    },
    /// Somebody else may read the file, so it may not be secret any more.
    #[error("{path}: others may read it (mode {mode:o}); remove it and enroll again")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No key could be made.
    #[error("no device key could be made")]
    Generate(#[source] SignError),
    /// A node may not have a key of this kind.
    #[error("a node has a key of P-256 or Ed25519, not of {0:?}")]
    Kind(KeyAlgorithm),
}

impl<'a> KeyStore<'a> {
    /// The keys in this state directory.
    #[must_use]
    pub const fn new(dir: &'a Dir) -> Self {
        Self { dir }
    }

    /// The key that is there, if there is one.
    ///
    /// # Errors
    /// [`KeyStoreError`] when there is one that cannot be used; it is left as it is.
    pub fn load(&self) -> Result<Option<Arc<dyn Signer>>, KeyStoreError> {
        let Some(bytes) = self.dir.read(KEY_FILE)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let path = self.dir.join(KEY_FILE);
        let mode = std::fs::symlink_metadata(&path)
            .map(|data| data.permissions().mode() & 0o7777)
            .map_err(|source| StateError::Io {
                path: path.clone(),
                source,
            })?;
        if mode & 0o077 != 0 {
            return Err(KeyStoreError::Exposed { path, mode });
        }
        match SoftwareKey::from_pkcs8(&bytes) {
            Ok(key) if key.algorithm().fits_a_leaf() => Ok(Some(Arc::new(key))),
            Ok(_) => Err(KeyStoreError::Damaged { path, source: None }),
            Err(error) => Err(KeyStoreError::Damaged {
                path,
                source: Some(error),
            }),
        }
    }

    /// Makes a new key, which takes the place of one that is there.
    ///
    /// # Errors
    /// [`KeyStoreError`]; the old key is still there then.
    pub fn create(&self, algorithm: KeyAlgorithm) -> Result<Arc<dyn Signer>, KeyStoreError> {
        if !algorithm.fits_a_leaf() {
            return Err(KeyStoreError::Kind(algorithm));
        }
        let key = SoftwareKey::generate(algorithm).map_err(KeyStoreError::Generate)?;
        let bytes = key.to_pkcs8().map_err(KeyStoreError::Generate)?;
        self.dir.write_atomic(KEY_FILE, &bytes)?;
        Ok(Arc::new(key))
    }

    /// The key that is there, else a new one.
    ///
    /// # Errors
    /// As [`KeyStore::load`] and [`KeyStore::create`].
    pub fn load_or_create(
        &self,
        algorithm: KeyAlgorithm,
    ) -> Result<Arc<dyn Signer>, KeyStoreError> {
        match self.load()? {
            Some(key) => Ok(key),
            None => self.create(algorithm),
        }
    }

    /// Removes the key: this machine is that node no longer.
    ///
    /// # Errors
    /// [`KeyStoreError::State`].
    pub fn remove(&self) -> Result<(), KeyStoreError> {
        Ok(self.dir.remove(KEY_FILE)?)
    }
}

#[cfg(test)]
mod tests {
    use cardea_credential::key::verify;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_found_again() {
        for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Ed25519] {
            let (_keep, dir) = place();
            let store = KeyStore::new(&dir);
            assert!(store.load().unwrap().is_none());
            let made = store.load_or_create(algorithm).unwrap();
            let found = store.load_or_create(algorithm).unwrap();
            assert_eq!(made.public_key(), found.public_key());
            assert_eq!(found.algorithm(), algorithm);
            let signature = found.sign(b"message").unwrap();
            assert_eq!(verify(made.public_key(), b"message", &signature), Ok(()));
            store.remove().unwrap();
            assert!(store.load().unwrap().is_none());
        }
    }

    #[test]
    fn a_key_is_its_owners_alone() {
        let (_keep, dir) = place();
        let store = KeyStore::new(&dir);
        store.create(KeyAlgorithm::P256).unwrap();
        let path = dir.join(KEY_FILE);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            store.load(),
            Err(KeyStoreError::Exposed { mode: 0o640, .. })
        ));
    }

    #[test]
    fn a_damaged_key_is_told_and_left_as_it_is() {
        let (_keep, dir) = place();
        dir.write_atomic(KEY_FILE, b"no key").unwrap();
        let store = KeyStore::new(&dir);
        assert!(matches!(
            store.load_or_create(KeyAlgorithm::P256),
            Err(KeyStoreError::Damaged { .. })
        ));
        assert_eq!(dir.read(KEY_FILE).unwrap().unwrap(), b"no key");
    }

    #[test]
    fn a_node_has_no_key_of_a_root() {
        let (_keep, dir) = place();
        let refused = KeyStore::new(&dir).create(KeyAlgorithm::P384);
        assert!(matches!(
            refused,
            Err(KeyStoreError::Kind(KeyAlgorithm::P384))
        ));
    }

    fn place() -> (tempfile::TempDir, Dir) {
        let keep = tempfile::tempdir().unwrap();
        let dir = Dir::create(&keep.path().join("state")).unwrap();
        (keep, dir)
    }
}
