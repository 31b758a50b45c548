//! Files that people name: configurations, codes, facts, policies, keys.
//!
//! Such a name may lead to anything. A pipe would be waited for and a device read for ever, so what
//! is no regular file is refused before a byte of it is read, and of a file no more than was asked for.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{FileType, Mode, OFlags};

use crate::exit::{Code, Failure, io_advice};

/// Largest configuration file, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 64 * 1024;

/// Why a file that somebody named was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else; the caller named the wrong thing.
    #[error("is {0} and no regular file")]
    NotAFile(&'static str),
    /// It is larger than what it is read for can be.
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
    /// It is not UTF-8.
    #[error("is no text (UTF-8)")]
    NotText,
}

impl ReadError {
    /// What to do about it, for people.
    #[must_use]
    pub fn next(&self) -> &'static str {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                "Name a file that is there"
            }
            Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "Let the user that runs this program read it: chmod, chown"
            }
            Self::Io(error) => io_advice(error),
            Self::NotAFile(_) => "Copy what it holds into a file and name that",
            Self::TooLarge(_) => "Check that it is the file that you meant",
            Self::NotText => "Check that it is the file that you meant, and save it as UTF-8",
        }
    }

    /// The failure of a command to which somebody named `path`.
    #[must_use]
    pub fn failure(&self, path: &Path) -> Failure {
        Failure::of(Code::Failed, &path.display().to_string(), self, self.next())
    }
}

/// The bytes of the regular file at `path`, when there are no more than `most`.
///
/// # Errors
/// [`ReadError`]; nothing is waited for, and no more than `most` bytes and one are held.
pub fn read_named(path: &Path, most: u64) -> Result<Vec<u8>, ReadError> {
    let file = open_named(path, most)?;
    let mut bytes = Vec::new();
    // It may grow meanwhile, and files of the kernel have no length.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        return Err(ReadError::TooLarge(most));
    }
    Ok(bytes)
}

/// The regular file at `path`, which has no more than `most` bytes when it is opened.
///
/// # Errors
/// As [`read_named`].
pub fn open_named(path: &Path, most: u64) -> Result<File, ReadError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(io::Error::from)?.st_mode);
    if let Some(other) = other_kind(kind) {
        return Err(ReadError::NotAFile(other));
    }
    if file.metadata()?.len() > most {
        return Err(ReadError::TooLarge(most));
    }
    Ok(file)
}

/// The same as text.
///
/// # Errors
/// As [`read_named`], and [`ReadError::NotText`].
pub fn read_named_text(path: &Path, most: u64) -> Result<String, ReadError> {
    String::from_utf8(read_named(path, most)?).map_err(|_| ReadError::NotText)
}

/// What something is that is no regular file.
const fn other_kind(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::RegularFile => None,
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a pipe"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        FileType::Symlink | FileType::Unknown => Some("something else"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_what_it_may_hold() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, "12345678").unwrap();
        assert_eq!(read_named_text(&path, 8).unwrap(), "12345678");
        check(&path, 7, "is larger than 7 bytes");
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_named(&path, 8).unwrap(), [0xff]);
        check(&path, 8, "is no text (UTF-8)");
        // Its length is 0 until it is read.
        check(Path::new("/proc/self/maps"), 8, "is larger than 8 bytes");
        let link = place.path().join("link");
        std::os::unix::fs::symlink("/proc/self/comm", &link).unwrap();
        assert!(read_named_text(&link, 64).is_ok());
    }

    #[test]
    fn what_is_no_file_is_neither_waited_for_nor_read() {
        let place = tempfile::tempdir().unwrap();
        let pipe = place.path().join("pipe");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        check(&pipe, 8, "is a pipe and no regular file");
        check(Path::new("/dev/zero"), 8, "is a device and no regular file");
        check(place.path(), 8, "is a directory and no regular file");
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let missing = Path::new("/nonexistent/file");
        let failure = read_named(missing, 8).unwrap_err().failure(missing);
        assert!(
            failure
                .message
                .starts_with("/nonexistent/file: No such file")
        );
        assert!(failure.message.ends_with(". Name a file that is there"));
        let zero = Path::new("/dev/zero");
        let failure = read_named(zero, 8).unwrap_err().failure(zero);
        assert_eq!(
            failure.message,
            "/dev/zero: is a device and no regular file. Copy what it holds into a file and name that"
        );
    }

    fn check(path: &Path, most: u64, expected: &str) {
        let error = read_named_text(path, most).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
