//! Files and directories behind the facts, by inotify.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

use crate::{probe, system::System};

/// Files whose content a fact is read from.
const FILES: &[&str] = &[
    "/etc/os-release",
    "/usr/lib/os-release",
    "/etc/ufw/ufw.conf",
    "/run/firewalld.pid",
    "/run/reboot-required",
    "/var/lib/apt/periodic/upgrade-stamp",
    "/var/lib/apt/periodic/unattended-upgrades-stamp",
    "/var/lib/dpkg/status",
    "/etc/gdm3/custom.conf",
    "/etc/gdm3/daemon.conf",
    "/etc/gdm/custom.conf",
    "/etc/sddm.conf",
    "/etc/lightdm/lightdm.conf",
    "/etc/greetd/config.toml",
    "/etc/xdg/kscreenlockerrc",
];

/// Directories of which every file matters.
const DIRECTORIES: &[&str] = &[
    "/etc/sddm.conf.d",
    "/etc/lightdm/lightdm.conf.d",
    "/etc/systemd/system/getty@tty1.service.d",
    "/etc/dconf/db",
    "/run/systemd/sessions",
    "/sys/firmware/efi/efivars",
    "/usr/lib/modules",
    "/boot",
];

/// Settings of the desktops, below each home of a person before a screen.
const IN_HOME: &[&str] = &[".config/kscreenlockerrc", ".config/dconf/user"];

/// Most places: what a machine with a hundred people before its screens has.
const PLACES_MAX: usize = 512;

/// A finished change of a file: one that is still being written is not read.
const CHANGES: WatchMask = WatchMask::CLOSE_WRITE
    .union(WatchMask::ATTRIB)
    .union(WatchMask::CREATE)
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVED_FROM)
    .union(WatchMask::MOVED_TO)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);

/// Events of the directory itself, or of inotify.
const OF_DIRECTORY: EventMask = EventMask::DELETE_SELF
    .union(EventMask::MOVE_SELF)
    .union(EventMask::IGNORED)
    .union(EventMask::UNMOUNT)
    .union(EventMask::Q_OVERFLOW);

/// What to watch.
#[derive(Debug, Default)]
pub(super) struct Places {
    files: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
}

/// All places of this machine as it is now.
pub(super) fn places(system: &System, facts_from: Option<&Path>) -> Places {
    let mut places = Places::default();
    places
        .files
        .extend(FILES.iter().map(|path| system.path(path)));
    places
        .directories
        .extend(DIRECTORIES.iter().map(|path| system.path(path)));
    for home in probe::homes(system) {
        places
            .files
            .extend(IN_HOME.iter().map(|path| system.path(home.join(path))));
    }
    places.files = std::mem::take(&mut places.files)
        .into_iter()
        .take(PLACES_MAX)
        .collect();
    places
        .files
        .extend(facts_from.into_iter().flat_map(super::with_target));
    places
}

/// An inotify instance and what its watches are for.
#[derive(Debug)]
pub(super) struct FileWatch {
    inotify: Inotify,
    watched: BTreeMap<WatchDescriptor, Interest>,
}

/// What matters in a watched directory.
#[derive(Debug, Default)]
struct Interest {
    names: BTreeSet<OsString>,
    everything: bool,
}

impl FileWatch {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: Inotify::init()?,
            watched: BTreeMap::new(),
        })
    }

    /// Watches these places and no others. One that is not there is waited for.
    pub(super) fn arm(&mut self, places: &Places) {
        let mut watched: BTreeMap<WatchDescriptor, Interest> = BTreeMap::new();
        for path in &places.files {
            self.watch_entry(path, &mut watched);
        }
        for path in &places.directories {
            if let Ok(descriptor) = self.inotify.watches().add(path, CHANGES) {
                watched.entry(descriptor).or_default().everything = true;
            }
            self.watch_entry(path, &mut watched);
        }
        for (old, _) in std::mem::replace(&mut self.watched, watched) {
            if !self.watched.contains_key(&old) {
                // It went with its directory.
                self.inotify.watches().remove(old).ok();
            }
        }
    }

    /// Watches the nearest directory above `path` that exists, for the name that leads there.
    fn watch_entry(&self, path: &Path, watched: &mut BTreeMap<WatchDescriptor, Interest>) {
        let mut path = path;
        while let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            if let Ok(descriptor) = self.inotify.watches().add(parent, CHANGES) {
                watched
                    .entry(descriptor)
                    .or_default()
                    .names
                    .insert(name.to_owned());
                return;
            }
            path = parent;
        }
    }

    /// Reads all waiting events; whether any of them is of interest.
    pub(super) fn changed(&mut self) -> bool {
        let mut buffer = [0_u8; 16 * 1024];
        let mut changed = false;
        loop {
            match self.inotify.read_events(&mut buffer) {
                Ok(events) => {
                    for event in events {
                        changed |= event.mask.intersects(OF_DIRECTORY)
                            || self.watched.get(&event.wd).is_some_and(|interest| {
                                interest.everything
                                    || event.name.is_some_and(|name| interest.names.contains(name))
                            });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return changed,
            }
        }
    }
}

impl AsFd for FileWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
