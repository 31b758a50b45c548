//! How the secrets of a state folder are kept: under a data key, which a secret from outside opens.

use cardea_credential::pem;
use cardea_host::{
    entropy,
    exit::{Code, Failure},
    files::Dir,
    unlock::Unlock,
};
use cardea_ledger::{
    seal::{self, DataKey, SealError, Wrapped},
    segment,
};
use zeroize::Zeroizing;

use crate::folder::{self, refused};

/// The label of a sealed file's PEM block.
const LABEL: &str = "CARDEA SEALED SECRET";

/// The folder of the file with the wrapped key.
const LEDGER: &str = "ledger";

/// What a state folder is sealed with; nothing, where it is not.
#[derive(Clone, Debug, Default)]
pub struct Seal(Option<DataKey>);

impl Seal {
    /// Begins a new state, sealed when there is a key for it. One that a founding began and did not
    /// finish is opened.
    ///
    /// # Errors
    /// A message that says what to do about the key.
    pub fn establish(state: &Dir, unlock: Option<&Unlock>) -> Result<Self, Failure> {
        let ledger = state.subdirectory(LEDGER).map_err(refused)?;
        match unlock {
            Some(unlock) if !ledger.contains(seal::NAME) && !ledger.contains(&segment::name(1)) => {
                let key = DataKey::new(Zeroizing::new(entropy::seed()));
                wrap(&ledger, &key, unlock)?;
                Ok(Self(Some(key)))
            }
            Some(_) | None => Self::open(state, unlock),
        }
    }

    /// Opens a state that is there.
    ///
    /// # Errors
    /// As [`Seal::establish`].
    pub fn open(state: &Dir, unlock: Option<&Unlock>) -> Result<Self, Failure> {
        let path = state.join(LEDGER).join(seal::NAME).display().to_string();
        let failed =
            |why: &dyn std::fmt::Display, next: &str| Failure::of(Code::Storage, &path, why, next);
        let ledger = state.subdirectory(LEDGER).map_err(refused)?;
        let wrapped = ledger.read(seal::NAME).map_err(refused)?;
        let (wrapped, unlock) = match (wrapped, unlock) {
            (None, None) => return Ok(Self(None)),
            (None, Some(unlock)) => {
                let next =
                    "Run without --unlock; a state is sealed when it is made, with init --unlock";
                let why = format!("there is no such file, so {unlock} opens nothing here");
                return Err(failed(&why, next));
            }
            (Some(_), None) => {
                let next = "Give the key with --unlock file:PATH, credential:NAME or passphrase";
                return Err(failed(&"this state is sealed", next));
            }
            (Some(wrapped), Some(unlock)) => (wrapped, unlock),
        };
        let text = String::from_utf8_lossy(&wrapped);
        let next = "Restore it from the newest backup";
        let wrapped = Wrapped::parse(&text).map_err(|error| failed(&error, next))?;
        match wrapped.open(&unlock.secret()?) {
            Ok(key) => Ok(Self(Some(key))),
            Err(SealError::WrongKey) => {
                let next = "Give the one that init or rewrap was given last";
                let what = format!("--unlock {unlock}");
                Err(Failure::of(Code::Storage, &what, SealError::WrongKey, next))
            }
            Err(error) => Err(failed(&error, next)),
        }
    }

    /// Wraps the same data key with another secret; nothing that is sealed is written anew.
    ///
    /// # Errors
    /// A message that says why it was not done.
    pub fn rewrap(&self, state: &Dir, to: &Unlock) -> Result<(), Failure> {
        let ledger = state.subdirectory(LEDGER).map_err(refused)?;
        match &self.0 {
            Some(key) => wrap(&ledger, key, to),
            None => Err(Failure::of(
                Code::Failed,
                "rewrap",
                "this state is not sealed",
                "A state is sealed from its founding on: cardea-controller init --unlock",
            )),
        }
    }

    /// The key for the store.
    #[must_use]
    pub fn key(&self) -> Option<DataKey> {
        self.0.clone()
    }

    /// Writes a secret file.
    pub(crate) fn write(&self, dir: &Dir, name: &str, text: &str) -> Result<(), Failure> {
        let Some(key) = &self.0 else {
            return dir.write_atomic(name, text.as_bytes()).map_err(refused);
        };
        let sealed = key.seal(name, entropy::bytes(), text.as_bytes());
        let sealed = sealed.map_err(|error| folder::unusable(dir, name, error))?;
        let text = pem::encode(LABEL, &sealed);
        dir.write_atomic(name, text.as_bytes()).map_err(refused)
    }

    /// Reads a secret file. One that is not sealed is taken as it is: it was put there by an admin.
    pub(crate) fn read(&self, dir: &Dir, name: &str) -> Result<Zeroizing<String>, Failure> {
        let text = folder::read_text(dir, name)?;
        if !text.starts_with(&format!("-----BEGIN {LABEL}-----")) {
            return Ok(text);
        }
        let unusable = |why: &dyn std::fmt::Display| folder::unusable(dir, name, why);
        let Some(key) = &self.0 else {
            return Err(unusable(&"it is sealed, and this state has no key"));
        };
        let sealed = pem::decode(LABEL, &text).map_err(|error| unusable(&error))?;
        let opened = key.open(name, &sealed).map_err(|error| unusable(&error))?;
        let text = std::str::from_utf8(&opened).map_err(|_| unusable(&"not a text file"))?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

fn wrap(ledger: &Dir, key: &DataKey, unlock: &Unlock) -> Result<(), Failure> {
    let secret = unlock.new_secret()?;
    let wrapped = Wrapped::of(key, &secret, entropy::bytes(), entropy::bytes());
    let wrapped = wrapped.map_err(|error| {
        Failure::of(
            Code::Failed,
            seal::NAME,
            error,
            "Try again with another key: --unlock",
        )
    })?;
    let text = wrapped.to_string();
    ledger
        .write_atomic(seal::NAME, text.as_bytes())
        .map_err(refused)
}
