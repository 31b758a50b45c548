//! The file system and the tools of the machine that is looked at, below a root that tests choose.

use std::{
    io::{self, Read},
    path::{Component, Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, UNIX_EPOCH},
};

use cardea_credential::key::digest_of;
use cardea_host::{
    clock::Clock,
    files::{ReadError, open_named, read_named},
};
use cardea_proto::{
    codec::Digest,
    posture::{Reading, Value},
    time::UnixMillis,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Largest file that a probe reads, in bytes; `mountinfo` of a machine full of containers is the largest.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Most entries of one directory that a probe looks at.
const ENTRIES_MAX: usize = 65_536;

/// Most output of a tool, in bytes.
const OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a tool may take; less than a probe may, so that a slow tool has a named error.
const TOOL_TIMEOUT: Duration = Duration::from_secs(4);

/// How often, and how far apart, a tool is started that is being replaced at the moment.
const SPAWN_TRIES: u32 = 10;
const SPAWN_INTERVAL: Duration = Duration::from_millis(20);

/// The machine below `root`.
#[derive(Clone, Debug)]
pub(crate) struct System {
    root: PathBuf,
    clock: Clock,
    tool_timeout: Duration,
}

/// What the kernel says of a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Which it is: the number of the device and of the inode on it.
    pub(crate) id: (u64, u64),
    pub(crate) owner: u32,
    /// Type and permissions.
    pub(crate) mode: u32,
}

impl From<&std::fs::Metadata> for Entry {
    fn from(data: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            id: (data.dev(), data.ino()),
            owner: data.uid(),
            mode: data.mode(),
        }
    }
}

impl Entry {
    /// Whether root alone may change it: a link is neither file nor directory and never is.
    pub(crate) const fn is_roots(self) -> bool {
        let kind = self.mode & 0o170_000;
        let is_link = kind == 0o120_000;
        self.owner == 0 && self.mode & 0o022 == 0 && !is_link
    }
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is not there.
    Absent,
    /// This process may not.
    Denied,
    /// The attempt failed.
    Error(String),
}

impl System {
    pub(crate) const fn new(root: PathBuf, clock: Clock) -> Self {
        Self {
            root,
            clock,
            tool_timeout: TOOL_TIMEOUT,
        }
    }

    /// Whether this is the machine itself and not a tree made for a test.
    pub(crate) fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    pub(crate) const fn clock(&self) -> Clock {
        self.clock
    }

    /// Where `absolute` lies below the root.
    pub(crate) fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(
            absolute
                .as_ref()
                .components()
                .filter(|part| !matches!(part, Component::RootDir | Component::Prefix(_))),
        );
        path
    }

    /// `path` without the root in front, as the machine itself would name it.
    pub(crate) fn absolute(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root)
            .map_or_else(|_| path.to_owned(), |rest| Path::new("/").join(rest))
    }

    /// The text of a regular file.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Result<String, Missing> {
        String::from_utf8(self.bytes(path)?).map_err(|_| Missing::Error("not UTF-8".to_owned()))
    }

    /// The bytes of a regular file; a pipe or device in its place is an error and blocks nothing.
    pub(crate) fn bytes(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Missing> {
        read_named(&self.path(path), FILE_BYTES_MAX).map_err(Missing::from)
    }

    /// SHA-256 of a regular file, of `most` bytes at most.
    pub(crate) fn digest(&self, path: impl AsRef<Path>, most: u64) -> Result<Digest, Missing> {
        let file = open_named(&self.path(path), most).map_err(Missing::from)?;
        // No longer than it may be: it may grow meanwhile.
        digest_of(file.take(most)).map_err(Missing::from)
    }

    /// Names in a directory, sorted.
    pub(crate) fn entries(&self, dir: impl AsRef<Path>) -> Result<Vec<String>, Missing> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(dir))
            .map_err(Missing::from)?
            .take(ENTRIES_MAX)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Where a symbolic link points, as it is written.
    pub(crate) fn link(&self, path: impl AsRef<Path>) -> Result<PathBuf, Missing> {
        std::fs::read_link(self.path(path)).map_err(Missing::from)
    }

    /// The path with every link followed, as the machine itself would name it.
    pub(crate) fn resolved(&self, path: impl AsRef<Path>) -> Result<PathBuf, Missing> {
        std::fs::canonicalize(self.path(path))
            .map(|path| self.absolute(&path))
            .map_err(Missing::from)
    }

    /// What a path is, its last part not followed when it is a link.
    pub(crate) fn entry(&self, path: impl AsRef<Path>) -> Result<Entry, Missing> {
        let data = std::fs::symlink_metadata(self.path(path)).map_err(Missing::from)?;
        Ok(Entry::from(&data))
    }

    /// What a path leads to.
    pub(crate) fn target(&self, path: impl AsRef<Path>) -> Result<Entry, Missing> {
        let data = std::fs::metadata(self.path(path)).map_err(Missing::from)?;
        Ok(Entry::from(&data))
    }

    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// When a file last changed.
    pub(crate) fn modified(&self, path: impl AsRef<Path>) -> Result<UnixMillis, Missing> {
        let at = std::fs::metadata(self.path(path))
            .and_then(|data| data.modified())
            .map_err(Missing::from)?;
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(UnixMillis(
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        ))
    }

    /// The first of `programs` that is installed.
    pub(crate) fn tool<'a>(&self, programs: &[&'a str]) -> Option<&'a str> {
        programs
            .iter()
            .find(|program| self.path(program).is_file())
            .copied()
    }

    /// What a tool says on stdout: an absolute path, no shell, nothing of our environment.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String, Missing> {
        self.run_as(program, arguments, &[], None)
    }

    /// The same, as another user when `user` names one (user id, group id).
    pub(crate) fn run_as(
        &self,
        program: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        user: Option<(u32, u32)>,
    ) -> Result<String, Missing> {
        use std::os::unix::process::CommandExt;

        let mut command = Command::new(self.path(program));
        command
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(environment.iter().copied())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some((user, group)) = user {
            command.uid(user).gid(group);
        }
        let mut child = spawn(&mut command).map_err(Missing::from)?;
        let output = read_until(
            &mut child,
            self.clock,
            self.clock.now().instant + self.tool_timeout,
        );
        if output.is_err() {
            // It may have ended by itself meanwhile; either way it is collected.
            child.kill().ok();
        }
        let status = child.wait().map_err(Missing::from)?;
        let (stdout, stderr) = output?;
        if status.success() {
            return String::from_utf8(stdout).map_err(|_| Missing::Error("not UTF-8".to_owned()));
        }
        let said = String::from_utf8_lossy(&stderr);
        if [
            "not permitted",
            "ermission denied",
            "ou must be root",
            "eed to be root",
        ]
        .iter()
        .any(|denied| said.contains(denied))
        {
            return Err(Missing::Denied);
        }
        let first: String = said
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(120)
            .collect();
        Err(Missing::Error(format!(
            "{program} failed ({status}): {first}"
        )))
    }
}

/// Starts a tool, and tries again while it is being replaced.
fn spawn(command: &mut Command) -> io::Result<std::process::Child> {
    for _ in 0..SPAWN_TRIES {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::park_timeout(SPAWN_INTERVAL);
            }
            other => return other,
        }
    }
    command.spawn()
}

/// Reads both outputs of `child` until it has ended.
fn read_until(
    child: &mut std::process::Child,
    clock: Clock,
    deadline: Instant,
) -> Result<(Vec<u8>, Vec<u8>), Missing> {
    let late = || Missing::Error("the tool did not answer in time".to_owned());
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .map_err(|error| Missing::from(io::Error::from(error)))?;
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    loop {
        let left = clock.until(deadline);
        if left.is_zero() {
            return Err(late());
        }
        let mut sources: Vec<PollFd<'_>> = Vec::with_capacity(3);
        sources.extend(stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        sources.extend(stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        if sources.is_empty() {
            sources.push(PollFd::new(&ended, PollFlags::IN));
        }
        let timeout = rustix::event::Timespec::try_from(left).ok();
        match poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let ready: Vec<bool> = sources
            .iter()
            .map(|source| !source.revents().is_empty())
            .collect();
        drop(sources);
        let mut ready = ready.into_iter();
        if stdout.is_none() && stderr.is_none() {
            if ready.next() == Some(true) {
                return Ok((said, complained));
            }
            continue;
        }
        if stdout.is_some() && ready.next() == Some(true) {
            drain(&mut stdout, &mut said)?;
        }
        if stderr.is_some() && ready.next() == Some(true) {
            drain(&mut stderr, &mut complained)?;
        }
    }
}

/// Reads once from a pipe that is ready, and drops it at its end.
fn drain<R: Read>(pipe: &mut Option<R>, into: &mut Vec<u8>) -> Result<(), Missing> {
    let Some(source) = pipe else { return Ok(()) };
    let mut chunk = [0_u8; 16 * 1024];
    let count = source.read(&mut chunk).map_err(Missing::from)?;
    if count == 0 {
        *pipe = None;
    } else if into.len() + count > OUTPUT_BYTES_MAX {
        return Err(Missing::Error("the tool said too much".to_owned()));
    } else {
        into.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
    Ok(())
}

impl From<io::Error> for Missing {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::NotADirectory {
            Self::Absent
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            Self::Denied
        } else {
            Self::Error(error.to_string())
        }
    }
}

impl From<ReadError> for Missing {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => error.into(),
            ReadError::NotAFile(_) | ReadError::TooLarge(_) | ReadError::NotText => {
                Self::Error(error.to_string())
            }
        }
    }
}

impl From<Missing> for Reading {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Absent => Self::Absent,
            Missing::Denied => Self::Denied,
            Missing::Error(why) => Self::Error(why),
        }
    }
}

/// What an attempt to read came to.
pub(crate) fn reading(result: Result<Value, Missing>) -> Reading {
    result.map_or_else(Reading::from, Reading::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_read_whole_and_its_failure_is_told() {
        let system = System::new("/".into(), Clock::system());
        assert_eq!(system.run("/bin/echo", &["a b"]), Ok("a b\n".to_owned()));
        assert!(matches!(
            system.run("/bin/false", &[]),
            Err(Missing::Error(_))
        ));
        assert_eq!(system.run("/bin/no-such-tool", &[]), Err(Missing::Absent));
    }

    #[test]
    fn a_tool_that_hangs_is_ended() {
        let mut system = System::new("/".into(), Clock::system());
        system.tool_timeout = Duration::from_millis(50);
        let found = system.run("/bin/sleep", &["60"]);
        assert_eq!(
            found,
            Err(Missing::Error("the tool did not answer in time".to_owned()))
        );
    }

    #[test]
    fn what_is_no_regular_file_is_not_read() {
        let system = System::new("/".into(), Clock::system());
        assert!(matches!(system.text("/dev/zero"), Err(Missing::Error(_))));
        assert_eq!(system.text("/no/such"), Err(Missing::Absent));
        assert_eq!(system.absolute(Path::new("/etc/x")), Path::new("/etc/x"));
    }
}
