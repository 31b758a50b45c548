//! The person who may drive an agent that runs as root.

use std::{
    io,
    path::{Path, PathBuf},
};

use cardea_host::files::{Dir, StateError};

/// The file in the state directory that keeps the operator's number.
const FILE: &str = "operator";

/// Where an operator finds the agent of a machine; a state directory of root is closed to him.
pub(crate) const SOCKET: &str = "/run/cardea/agent.sock";

/// Who may ask the agent beside root, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operator {
    /// His number on this machine.
    pub(crate) user: u32,
    /// The socket that is his.
    pub(crate) socket: PathBuf,
}

impl Operator {
    /// The operator whom this state directory keeps.
    ///
    /// # Errors
    /// [`StateError`]; a file that holds no number is one.
    pub(crate) fn load(dir: &Dir, socket: &Path) -> Result<Option<Self>, StateError> {
        let Some(bytes) = dir.read(FILE)? else {
            return Ok(None);
        };
        let number = String::from_utf8(bytes).ok();
        let user = number
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| StateError::Io {
                path: dir.join(FILE),
                source: io::Error::new(io::ErrorKind::InvalidData, "holds no number of a user"),
            })?;
        Ok(Some(Self {
            user,
            socket: socket.to_owned(),
        }))
    }
}

/// Keeps the number of the operator.
///
/// # Errors
/// [`StateError`].
pub(crate) fn save(dir: &Dir, user: u32) -> Result<(), StateError> {
    dir.write_atomic(FILE, format!("{user}\n").as_bytes())
}
