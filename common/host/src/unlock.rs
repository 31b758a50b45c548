//! Where the secret comes from that opens a sealed state: never an argument or a variable itself.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    entropy,
    exit::{Code, Failure, io_advice},
    files::sync_name,
    keyboard::Keyboard,
};

/// Shortest secret in a file or a credential, in bytes.
const SECRET_BYTES_MIN: usize = 32;

/// Longest secret, in bytes.
const SECRET_BYTES_MAX: u16 = 4_096;

/// Shortest passphrase that a state is sealed with, in characters.
const PASSPHRASE_CHARS_MIN: usize = 12;

/// A secret's source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Unlock {
    /// A file that only its owner reads.
    File(PathBuf),
    /// A credential that systemd hands to the service (`LoadCredentialEncrypted=`).
    Credential(String),
    /// What a person types, or the first line on stdin where that is no terminal.
    Passphrase,
}

/// A text that names no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key comes from file:PATH, credential:NAME or passphrase")]
pub struct ParseUnlockError;

impl FromStr for Unlock {
    type Err = ParseUnlockError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "passphrase" {
            return Ok(Self::Passphrase);
        }
        let is_name = |name: &str| !name.is_empty() && !name.contains('/') && name != "..";
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("credential", name)) if is_name(name) => Ok(Self::Credential(name.to_owned())),
            Some(_) | None => Err(ParseUnlockError),
        }
    }
}

impl TryFrom<String> for Unlock {
    type Error = ParseUnlockError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Unlock> for String {
    fn from(unlock: Unlock) -> Self {
        unlock.to_string()
    }
}

impl fmt::Display for Unlock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(out, "file:{}", path.display()),
            Self::Credential(name) => write!(out, "credential:{name}"),
            Self::Passphrase => out.write_str("passphrase"),
        }
    }
}

impl Unlock {
    /// The secret, to open what is sealed.
    ///
    /// # Errors
    /// A message that says why there is none.
    pub fn secret(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        match self {
            Self::File(path) => self.read(path),
            Self::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(folder) => self.read(&Path::new(&folder).join(name)),
                None => {
                    let next = "Name it in the unit: LoadCredentialEncrypted=";
                    Err(self.refused("systemd handed no credentials to this process", next))
                }
            },
            Self::Passphrase => self.typed(&mut self.typist()?, "Passphrase of the state: "),
        }
    }

    /// The secret, to seal with: a file that is missing is made, a passphrase is asked for twice.
    ///
    /// # Errors
    /// As [`Unlock::secret`].
    pub fn new_secret(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        match self {
            Self::File(path) if !path.exists() => {
                self.make(path).map_err(|error| self.failed(&error))?;
                self.secret()
            }
            Self::File(_) | Self::Credential(_) => self.secret(),
            Self::Passphrase => {
                let mut typist = self.typist()?;
                let first = self.typed(&mut typist, "New passphrase of the state: ")?;
                let chars = std::str::from_utf8(&first).map_or(0, |text| text.chars().count());
                if chars < PASSPHRASE_CHARS_MIN {
                    let why = format!("it needs at least {PASSPHRASE_CHARS_MIN} characters");
                    return Err(self.refused(why, "Think of a longer one"));
                }
                if typist.is_some() && self.typed(&mut typist, "Once more: ")? != first {
                    return Err(self.refused("the two are not the same", "Type it again"));
                }
                Ok(first)
            }
        }
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(path)?;
        for byte in Zeroizing::new(entropy::seed()).iter() {
            write!(file, "{byte:02x}")?;
        }
        writeln!(file)?;
        file.sync_all()?;
        // What is sealed with it is durable before long, and cannot be read without it.
        sync_name(path)
    }

    fn read(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let failed = |error: io::Error| self.failed(&error);
        let file = File::open(path).map_err(failed)?;
        let data = file.metadata().map_err(failed)?;
        let mut bytes = Zeroizing::new(Vec::new());
        let mut limited = file.take(SECRET_BYTES_MAX.into());
        limited.read_to_end(&mut bytes).map_err(failed)?;
        trim(&mut bytes);
        if data.mode() & 0o077 != 0 {
            // Lines are the system's files, whose mode is not ours to change.
            let is_ours = data.uid() == crate::process::effective_user() && !bytes.contains(&b'\n');
            let next = if is_ours {
                format!("Make it private: chmod 600 {}", path.display())
            } else {
                "Name a file of your own that holds the key alone: openssl rand -hex 32".to_owned()
            };
            return Err(self.refused("others than its owner may read it", &next));
        }
        if bytes.len() < SECRET_BYTES_MIN {
            let next = "For example: openssl rand -hex 32";
            let why = format!("a key has at least {SECRET_BYTES_MIN} bytes");
            return Err(self.refused(why, next));
        }
        Ok(bytes)
    }

    /// Whoever types; `None` where stdin is no terminal.
    fn typist(&self) -> Result<Option<Keyboard>, Failure> {
        let keyboard = io::stdin().is_terminal().then(Keyboard::open);
        keyboard.transpose().map_err(|error| self.failed(&error))
    }

    fn typed(
        &self,
        typist: &mut Option<Keyboard>,
        prompt: &str,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let line = match typist {
            Some(keyboard) => keyboard.ask(prompt, SECRET_BYTES_MAX.into()),
            None => first_line(),
        };
        let mut line = line.map_err(|error| self.failed(&error))?;
        trim(&mut line);
        if line.is_empty() {
            return Err(self.refused("nothing was typed", "Type it, or give it on stdin"));
        }
        Ok(line)
    }

    fn failed(&self, error: &io::Error) -> Failure {
        self.refused(error, io_advice(error))
    }

    fn refused(&self, why: impl fmt::Display, next: &str) -> Failure {
        Failure::of(Code::Storage, &format!("--unlock {self}"), why, next)
    }
}

/// The first line of stdin and not a byte behind it.
fn first_line() -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::new());
    let mut stdin = io::stdin().lock().take(SECRET_BYTES_MAX.into());
    io::BufRead::read_until(&mut stdin, b'\n', &mut line)?;
    Ok(line)
}

fn trim(bytes: &mut Zeroizing<Vec<u8>>) {
    while bytes
        .last()
        .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
    {
        bytes.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_reads_back_as_itself_and_a_secret_is_none() {
        for text in ["file:/etc/cardea/key", "credential:cardea", "passphrase"] {
            assert_eq!(text.parse::<Unlock>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "file:",
            "credential:",
            "credential:../x",
            "passphrase:hunter2",
            "x",
        ] {
            assert_eq!(text.parse::<Unlock>(), Err(ParseUnlockError), "{text}");
        }
    }

    #[test]
    fn a_missing_key_file_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let unlock = Unlock::File(dir.path().join("key"));
        assert!(unlock.secret().is_err());
        let made = unlock.new_secret().unwrap();
        assert_eq!(made.len(), 64);
        assert_eq!(unlock.secret().unwrap(), made);
        assert_eq!(unlock.new_secret().unwrap(), made);
    }

    #[test]
    fn a_key_file_that_others_read_or_that_is_short_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let unlock = Unlock::File(path.clone());
        std::fs::write(&path, "k".repeat(64)).unwrap();
        let mode = |mode| {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&path, permissions).unwrap();
        };
        mode(0o640);
        let failure = unlock.secret().unwrap_err();
        assert!(failure.message.contains("chmod 600"), "{}", failure.message);
        mode(0o600);
        unlock.secret().unwrap();
        std::fs::write(&path, "short\n").unwrap();
        assert!(unlock.secret().is_err());
    }
}
