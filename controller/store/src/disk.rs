//! The few file operations that a journal rests on, so that tests can make each of them fail.

use std::{
    fmt,
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
};

use cardea_ledger::segment::ReadAt;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

/// What opens folders.
pub(crate) trait Disks: fmt::Debug + Send + Sync {
    /// Opens the folder at `path`, creating it where it is missing.
    fn folder(&self, path: &Path) -> io::Result<Box<dyn Disk>>;
}

/// The folders of this machine.
#[derive(Debug)]
pub(crate) struct Machine;

impl Disks for Machine {
    fn folder(&self, path: &Path) -> io::Result<Box<dyn Disk>> {
        Ok(Box::new(Folder::open(path)?))
    }
}

/// A folder of flat files.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Takes the folder for this process alone; `false` when another one has it.
    fn lock(&mut self) -> io::Result<bool>;

    /// The names in the folder, in no order.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing; `None` when there is none.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>>;

    /// Creates a file that must not exist, readable by its owner alone.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, in the place of the one that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes creations, removals and other names durable.
    fn sync(&self) -> io::Result<()>;

    /// Where a file is, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file.
pub(crate) trait DiskFile: ReadAt + Send {
    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns once the contents and the length would survive a power loss.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to `length`.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A real folder. Files are opened relative to its descriptor and symbolic links are not followed.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    handle: File,
}

impl Folder {
    /// Opens `path`, creating it (0700) with a durable entry in its parent when it is missing.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                if let Some(parent) = path.parent() {
                    File::open(parent)?.sync_all()?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            path: path.to_owned(),
            handle: handle.into(),
        })
    }

    fn open_with(&self, name: &str, more: OFlags) -> io::Result<RealFile> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        let file = rustix::fs::openat(&self.handle, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(RealFile(file.into()))
    }
}

impl Disk for Folder {
    fn lock(&mut self) -> io::Result<bool> {
        match rustix::fs::flock(&self.handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>> {
        match self.open_with(name, OFlags::empty()) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = self.open_with(name, OFlags::CREATE | OFlags::EXCL)?;
        Ok(Box::new(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        rustix::fs::unlinkat(&self.handle, name, AtFlags::empty())?;
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        rustix::fs::renameat(&self.handle, from, &self.handle, to)?;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

#[derive(Debug)]
struct RealFile(File);

impl ReadAt for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.0, buffer, offset)
    }
}

impl DiskFile for RealFile {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(any(feature = "failpoints", debug_assertions))]
        failpoint::pass_write(&self.0, bytes, offset)?;
        FileExt::write_all_at(&self.0, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        #[cfg(any(feature = "failpoints", debug_assertions))]
        failpoint::pass_sync()?;
        // fdatasync also writes the length, which is all of the metadata that reading needs.
        let synced = self.0.sync_data();
        #[cfg(any(feature = "failpoints", debug_assertions))]
        failpoint::pass();
        synced
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        #[cfg(any(feature = "failpoints", debug_assertions))]
        failpoint::pass();
        self.0.set_len(length)
    }
}

#[cfg(any(feature = "failpoints", debug_assertions))]
mod failpoint;

#[cfg(test)]
pub(crate) mod faulty;

#[cfg(test)]
pub(crate) mod recorded;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("ledger")).unwrap();
        std::fs::write(dir.path().join("elsewhere"), "x").unwrap();
        std::os::unix::fs::symlink("../elsewhere", folder.path("0001.seg")).unwrap();
        assert!(folder.open("0001.seg").is_err());
        assert!(folder.create("0001.seg").is_err());
    }

    #[test]
    fn a_folder_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Folder::open(dir.path()).unwrap();
        let mut second = Folder::open(dir.path()).unwrap();
        assert!(first.lock().unwrap());
        assert!(!second.lock().unwrap());
        drop(first);
        assert!(second.lock().unwrap());
    }
}
