//! The file that says whom this machine asks for names, changed and put back.
//!
//! Source: resolv.conf(5). A symbolic link is replaced, never written through: what it points to
//! belongs to another program. The file changes by a rename, so that readers find the one or the
//! other; where it is a mount of its own, as in containers, its content is changed in place.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Where every program looks for it.
pub const PATH: &str = "/etc/resolv.conf";

/// How a file of ours begins.
const MARK: &str = "# Written by cardea";

/// Before each line of what was there, so that a person can put it back by hand.
const WAS: &str = "#was ";

/// Largest file that is read, in bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// Most servers that are asked; the C library asks as many.
const SERVERS_MAX: usize = 3;

/// Port of name servers.
pub const PORT: u16 = 53;

/// The file, wherever it is.
#[derive(Clone, Debug)]
pub struct ResolvConf {
    path: PathBuf,
}

/// What stood in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Former {
    /// Nothing.
    Missing,
    /// A file.
    File {
        /// Its content.
        bytes: Vec<u8>,
        /// Its permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link(PathBuf),
}

/// What a file of this kind says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Whom to ask.
    pub servers: Vec<SocketAddr>,
    /// Its other lines: search lists and options.
    pub others: Vec<String>,
}

impl ResolvConf {
    /// The file at `path`.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands there.
    ///
    /// # Errors
    /// As the system says.
    pub fn look(&self) -> io::Result<Former> {
        let metadata = match fs::symlink_metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Former::Missing),
            Err(error) => return Err(error),
        };
        if metadata.is_symlink() {
            return Ok(Former::Link(fs::read_link(&self.path)?));
        }
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        Ok(Former::File {
            bytes: read(&self.path)?,
            mode: metadata.mode() & 0o7777,
        })
    }

    /// What `former` says, the file behind a link as it is at this moment.
    ///
    /// # Errors
    /// As the system says; a link that leads nowhere says nothing.
    pub fn said(&self, former: &Former) -> io::Result<Said> {
        let bytes = match former {
            Former::Missing => Vec::new(),
            Former::File { bytes, .. } => bytes.clone(),
            Former::Link(to) => {
                let folder = self.path.parent().unwrap_or_else(|| Path::new("/"));
                match read(&folder.join(to)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                    read => read?,
                }
            }
        };
        Ok(Said::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Whether nobody can change it, root included (`chattr +i`).
    #[must_use]
    pub fn is_immutable(&self) -> bool {
        let flags = fs::File::open(&self.path)
            .ok()
            .and_then(|file| rustix::fs::ioctl_getflags(&file).ok());
        flags.is_some_and(|flags| flags.contains(rustix::fs::IFlags::IMMUTABLE))
    }

    /// Makes `text` its content.
    ///
    /// # Errors
    /// As the system says; what was there is still there then.
    pub fn write(&self, text: &[u8], mode: u32) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or_else(|| Path::new("/"));
        let temporary = folder.join(".resolv.conf.cardea");
        self.replace(&temporary, || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(text)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()
        })
        .or_else(|error| {
            if error.kind() == io::ErrorKind::ResourceBusy {
                fs::write(&self.path, text)
            } else {
                Err(error)
            }
        })
    }

    /// Puts back what stood there.
    ///
    /// # Errors
    /// As the system says.
    pub fn restore(&self, former: &Former) -> io::Result<()> {
        match former {
            Former::File { bytes, mode } => self.write(bytes, *mode),
            Former::Missing => match fs::remove_file(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    fs::write(&self.path, [])
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
            Former::Link(to) => {
                let folder = self.path.parent().unwrap_or_else(|| Path::new("/"));
                let temporary = folder.join(".resolv.conf.cardea");
                self.replace(&temporary, || std::os::unix::fs::symlink(to, &temporary))
            }
        }
    }

    fn replace(&self, temporary: &Path, make: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match fs::remove_file(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let made = make().and_then(|()| fs::rename(temporary, &self.path));
        if made.is_err()
            && let Err(error) = fs::remove_file(temporary)
        {
            tracing::debug!(%error, "a temporary file stays");
        }
        made
    }
}

impl Said {
    /// Reads a file; what cannot be read in it says nothing.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut said = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => said.servers.extend(words.next().and_then(server)),
                Some("search" | "domain" | "options" | "sortlist") => {
                    said.others.push(line.trim().to_owned());
                }
                Some(_) | None => {}
            }
        }
        said
    }

    /// The servers to ask, without `own` ones; the machine itself when none is named.
    #[must_use]
    pub fn servers_without(&self, own: &[IpAddr]) -> Vec<SocketAddr> {
        if self.servers.is_empty() {
            return vec![SocketAddr::from(([127, 0, 0, 1], PORT))];
        }
        let others = self.servers.iter().filter(|at| !own.contains(&at.ip()));
        others.take(SERVERS_MAX).copied().collect()
    }
}

/// The content that has everybody ask `stubs`, with the search lists and options of before.
#[must_use]
pub fn render(stubs: &[IpAddr], former: &[u8], said: &Said) -> String {
    let mut text = format!(
        "{MARK}, which answers names of apps and passes everything else on to the servers named below.\n\
         # What was here comes back when it ends, and with: cardea dns restore\n"
    );
    for stub in stubs {
        text.push_str(&format!("nameserver {stub}\n"));
    }
    for line in &said.others {
        text.push_str(line);
        text.push('\n');
    }
    for line in String::from_utf8_lossy(former).lines() {
        text.push_str(WAS);
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Whether a file of ours stands there.
#[must_use]
pub fn is_ours(found: &Former) -> bool {
    matches!(found, Former::File { bytes, .. } if bytes.starts_with(MARK.as_bytes()))
}

/// What a file of ours says that was there before; for when nothing else says it.
#[must_use]
pub fn was(ours: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(ours);
    let lines = text.lines().filter_map(|line| line.strip_prefix(WAS));
    lines
        .flat_map(|line| [line, "\n"])
        .collect::<String>()
        .into_bytes()
}

/// An address, which may name an interface after `%`.
fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    let (address, interface) = text.split_once('%')?;
    let index = match interface.parse() {
        Ok(index) => index,
        Err(_) => crate::addresses::interface(interface)?,
    };
    let address = SocketAddrV6::new(address.parse().ok()?, PORT, 0, index);
    Some(address.into())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // A pipe in its place would be waited for.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0))
        .open(path)?;
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > BYTES_MAX) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "; from DHCP\nnameserver 192.0.2.1\nnameserver 100.64.0.1\nnameserver 2001:db8::1\n\
                          nameserver nonsense\nsearch corp.example\noptions edns0 trust-ad\n";

    #[test]
    fn servers_and_other_lines_are_read() {
        let said = Said::parse(BEFORE);
        let own = ["100.64.0.1".parse().unwrap()];
        let servers: Vec<String> = said
            .servers_without(&own)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53"]);
        assert_eq!(
            said.others,
            ["search corp.example", "options edns0 trust-ad"]
        );
        let none = Said::parse("search x\n").servers_without(&own);
        assert_eq!(none, ["127.0.0.1:53".parse().unwrap()]);
        let scoped = Said::parse("nameserver fe80::1%lo\nnameserver fe80::2%no-such\n").servers;
        assert_eq!(scoped.len(), 1);
        assert!(matches!(scoped[0], SocketAddr::V6(v6) if v6.scope_id() > 0));
    }

    #[test]
    fn every_kind_of_file_is_put_back_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("resolv.conf");
        let file = ResolvConf::at(&path);
        let target = place.path().join("elsewhere");
        fs::write(&target, BEFORE).unwrap();
        let link = || std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        let plain = || {
            fs::write(&path, b"nameserver 192.0.2.1\n\xff").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        };
        let steps: [(&str, &dyn Fn()); 3] =
            [("link", &link), ("file", &plain), ("missing", &|| {})];
        for (kind, make) in steps {
            make();
            let before = file.look().unwrap();
            let said = file.said(&before).unwrap();
            let stubs = ["100.64.0.1".parse().unwrap()];
            let ours = render(&stubs, b"", &said);
            file.write(ours.as_bytes(), 0o644).unwrap();
            let found = file.look().unwrap();
            assert!(is_ours(&found), "{kind}: {found:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), ours);
            assert_eq!(
                fs::read_to_string(&target).unwrap(),
                BEFORE,
                "{kind}: written through"
            );
            file.restore(&before).unwrap();
            assert_eq!(file.look().unwrap(), before, "{kind}");
            file.restore(&Former::Missing).unwrap();
            assert_eq!(file.look().unwrap(), Former::Missing);
        }
        assert_eq!(
            fs::read_dir(place.path()).unwrap().count(),
            1,
            "something is left"
        );
    }

    #[test]
    fn a_file_of_ours_says_what_was_there() {
        let said = Said::parse(BEFORE);
        let ours = render(&["100.64.0.1".parse().unwrap()], BEFORE.as_bytes(), &said);
        assert_eq!(was(ours.as_bytes()), BEFORE.as_bytes());
        let again = Said::parse(&ours);
        assert_eq!(again.servers, ["100.64.0.1:53".parse().unwrap()]);
        assert_eq!(again.others, said.others);
    }

    #[test]
    fn what_is_no_file_is_an_error_and_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let file = ResolvConf::at(place.path());
        assert!(file.look().is_err());
        let pipe = place.path().join("pipe");
        let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            name.as_c_str(),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let behind = ResolvConf::at(place.path().join("x"));
        assert!(behind.said(&Former::Link(pipe)).unwrap().servers.is_empty());
    }
}
