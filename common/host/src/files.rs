//! State on disk: private directories, files that are there whole or not at all, one owner at a time.

use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FlockOperation, Mode, OFlags},
    io::Errno,
};

use crate::exit::{Code, Failure, io_advice};

pub use durable::{make_folder, sync_name};
pub use named::{CONFIG_BYTES_MAX, ReadError, open_named, read_named, read_named_text};

mod durable;
mod named;

/// Largest file that is read whole, in bytes: four of the largest messages.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Name of the lock file in a state directory.
const LOCK: &str = "lock";

const DIRECTORY_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Why a state directory cannot be used. The environment is at fault.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is a symbolic link, or no directory.
    #[error("{path}: is not a directory of its own (symbolic links are not followed)")]
    NotADirectory {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another user.
    #[error("{path}: belongs to user {owner}, not to the user that runs this program ({user})")]
    ForeignOwner {
        /// The directory or file.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others may write to it.
    #[error("{path}: others may write to it (mode {mode:o}); run: chmod go-w {path}")]
    Writable {
        /// The directory or file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process holds the lock.
    #[error("{path}: opened twice: another process is using this state directory")]
    OpenedTwice {
        /// The directory.
        path: PathBuf,
    },
    /// A file is larger than [`FILE_BYTES_MAX`].
    #[error("{path}: is larger than a file of ours can be")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StateError {
    /// What to do about it, for people.
    #[must_use]
    pub fn next(&self) -> &'static str {
        match self {
            Self::OpenedTwice { .. } => "Stop the other one first",
            Self::ForeignOwner { .. } => "Run as its owner, or choose another with --state",
            Self::NotADirectory { .. } => "Choose another with --state",
            // What to run stands in the error itself.
            Self::Writable { .. } => "Then try again",
            Self::TooLarge { .. } => "Restore it from a backup",
            Self::Io { source, .. } => io_advice(source),
        }
    }

    /// The failure of a command that cannot use its state directory.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::new(Code::Storage, format!("{self}. {}", self.next()))
    }
}

/// A directory that only its owner reads and writes, by handle: renaming it away changes nothing.
#[derive(Debug)]
pub struct Dir {
    handle: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens the directory at `path`, which is made durably, with its parents, when it is missing.
    ///
    /// # Errors
    /// [`StateError`] when it is a link, foreign, writable for others, or cannot be made.
    pub fn create(path: &Path) -> Result<Self, StateError> {
        make_folder(path).map_err(|source| io_error(path, source))?;
        Self::open(path)
    }

    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// As [`Dir::create`], and when it does not exist.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let handle = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => StateError::NotADirectory { path: path.into() },
            other => io_error(path, other.into()),
        })?;
        let mode = check_owner(&handle, path)?;
        if mode & 0o077 != 0 {
            rustix::fs::fchmod(&handle, DIRECTORY_MODE)
                .map_err(|error| io_error(path, error.into()))?;
        }
        Ok(Self {
            handle,
            path: path.into(),
        })
    }

    /// A directory inside this one, which is made when it is missing.
    ///
    /// # Errors
    /// As [`Dir::create`].
    pub fn subdirectory(&self, name: &str) -> Result<Self, StateError> {
        Self::create(&self.path.join(name))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The bytes of a file, or `None` when there is no such file.
    ///
    /// # Errors
    /// [`StateError`] when the file is a link, foreign, writable for others, or cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.join(name);
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let handle = match rustix::fs::openat(&self.handle, name, flags, Mode::empty()) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(io_error(&path, error.into())),
        };
        check_owner(&handle, &path)?;
        let mut bytes = Vec::new();
        std::fs::File::from(handle)
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| io_error(&path, source))?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
            return Err(StateError::TooLarge { path });
        }
        Ok(Some(bytes))
    }

    /// Makes `bytes` the content of a file, mode 0600: after a crash it holds the old or the new.
    ///
    /// # Errors
    /// [`StateError::Io`]; the old content is still there then.
    pub fn write_atomic(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let temporary = format!(".{name}.new");
        let path = self.join(name);
        let write = || -> io::Result<()> {
            // A rest of a crash is in the way of O_EXCL, which keeps links from being followed.
            match rustix::fs::unlinkat(&self.handle, temporary.as_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let handle = rustix::fs::openat(&self.handle, temporary.as_str(), flags, FILE_MODE)?;
            let mut file = std::fs::File::from(handle);
            file.write_all(bytes)?;
            file.sync_all()?;
            rustix::fs::renameat(&self.handle, temporary.as_str(), &self.handle, name)?;
            rustix::fs::fsync(&self.handle)?;
            Ok(())
        };
        write().map_err(|source| io_error(&path, source))
    }

    /// Removes a file; one that is not there is fine.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(io_error(&self.join(name), error.into())),
        }
    }

    /// Whether there is an entry of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

/// A program's state directory, held by this process alone for as long as this value lives.
#[derive(Debug)]
pub struct StateDir {
    dir: Dir,
    /// The kernel lets go of the lock when the process ends, however it ends.
    _lock: OwnedFd,
}

impl StateDir {
    /// Opens `path`, makes it when it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`StateError`], among them [`StateError::OpenedTwice`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let dir = Dir::create(path)?;
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&dir.handle, LOCK, flags, FILE_MODE)
            .map_err(|error| io_error(&dir.join(LOCK), error.into()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { dir, _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(StateError::OpenedTwice { path: path.into() }),
            Err(error) => Err(io_error(path, error.into())),
        }
    }

    /// The directory.
    #[must_use]
    pub const fn dir(&self) -> &Dir {
        &self.dir
    }
}

impl std::ops::Deref for StateDir {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        &self.dir
    }
}

/// Where `program` keeps its state when nobody says otherwise.
///
/// `/var/lib/cardea/<program>` for root, else `$XDG_STATE_HOME/cardea/<program>`, where
/// `$XDG_STATE_HOME` is `~/.local/state` when it is not set (XDG Base Directory Specification).
#[must_use]
pub fn default_state(program: &str) -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    state_for(
        program,
        crate::process::effective_user() == 0,
        variable("XDG_STATE_HOME"),
        variable("HOME"),
    )
}

fn state_for(
    program: &str,
    root: bool,
    state_home: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let base = if root {
        PathBuf::from("/var/lib")
    } else {
        state_home
            .filter(absolute)
            .or_else(|| home.filter(absolute).map(|home| home.join(".local/state")))?
    };
    Some(base.join("cardea").join(program))
}

fn check_owner(handle: &OwnedFd, path: &Path) -> Result<u32, StateError> {
    let stat = rustix::fs::fstat(handle).map_err(|error| io_error(path, error.into()))?;
    let user = crate::process::effective_user();
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != user {
        return Err(StateError::ForeignOwner {
            path: path.into(),
            owner: stat.st_uid,
            user,
        });
    }
    if mode & 0o022 != 0 {
        return Err(StateError::Writable {
            path: path.into(),
            mode,
        });
    }
    Ok(mode)
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests;
