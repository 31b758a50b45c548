//! What can go wrong with a store, other than a commit (see [`cardea_core`]'s `CommitError`).

use std::{io, path::PathBuf};

use cardea_proto::ledger::Revision;

/// Why a store does not load. The environment is at fault; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Another process has it.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// Acknowledged bytes are not what was written.
    #[error("{} is damaged at byte {offset}: {fault}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        fault: String,
    },
    /// The ledger is sealed, and no key was given.
    #[error("{} is sealed, and there is no key to open it with", .0.display())]
    Sealed(PathBuf),
    /// The system refused an operation.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was attempted, such as `open`.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why entries cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The store is not loaded.
    #[error("the store is not loaded")]
    NotLoaded,
    /// Bytes that were good when the store was loaded no longer are.
    #[error("entry {revision} cannot be read back: {fault}")]
    Damaged {
        /// The entry.
        revision: Revision,
        /// What is wrong with it.
        fault: String,
    },
    /// The system refused to read.
    #[error("the journal cannot be read")]
    Io(#[from] io::Error),
}

/// Bytes that were cut off the end of the journal when it was loaded: a write that was never
/// acknowledged, because the process or the machine stopped in the middle of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub file: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// How many bytes went.
    pub bytes: u64,
    /// Why they were no entry.
    pub fault: String,
}
