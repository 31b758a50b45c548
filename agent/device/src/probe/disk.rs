//! Whether what this machine keeps is encrypted: from the mounts of `/`, `/home`, the swaps and our
//! own state, down through every layer to a dm-crypt device or to the bare disk.

use std::path::{Path, PathBuf};

use cardea_proto::posture::{Grade, Reading, Value};

use super::{Observed, Probe, Subject};
use crate::system::{Missing, System};

use mounts::Mount;

mod mounts;

pub(super) const PROBE: Probe = Probe {
    name: "disk",
    facts: &["disk.encrypted", "disk.unencrypted"],
    read,
};

/// Most layers between a mount and a disk; a stack of this depth is a loop.
const LAYERS_MAX: u8 = 16;

/// File systems that are in memory alone: what goes out of it goes to a swap, which is checked.
const IN_MEMORY: &[&str] = &["tmpfs", "ramfs", "rootfs"];

/// File systems that encrypt what they hand to the one below.
const ENCRYPTING: &[&str] = &["ecryptfs", "fuse.gocryptfs", "fuse.cryfs", "fuse.encfs"];

/// dm-crypt targets that encrypt. `CRYPT-VERITY` and `CRYPT-INTEGRITY` share the prefix and do not.
///
/// Source: cryptsetup, `lib/crypt_plain.h` and `dm_prepare_uuid`: `CRYPT-<type>-<uuid>-<name>`.
const DM_CRYPT: &[&str] = &[
    "CRYPT-LUKS1-",
    "CRYPT-LUKS2-",
    "CRYPT-PLAIN-",
    "CRYPT-TCRYPT-",
    "CRYPT-BITLK-",
    "CRYPT-FVAULT2-",
    "CRYPT-LOOPAES-",
];

fn read(subject: &Subject) -> Vec<Observed> {
    let places = match places(subject) {
        Ok(places) => places,
        Err(missing) => {
            return vec![
                Observed::of("disk.encrypted", Err(missing.clone())),
                Observed::of("disk.unencrypted", Err(missing)),
            ];
        }
    };
    let open: Vec<String> = places
        .iter()
        .filter(|place| place.encrypted == Ok(false))
        .map(|place| place.name.clone())
        .collect();
    let unclear = places.iter().find_map(|place| match &place.encrypted {
        Ok(_) => None,
        Err(Missing::Denied) => Some(Reading::Denied),
        Err(Missing::Absent) => Some(Reading::Error(format!("{}: nothing below it", place.name))),
        Err(Missing::Error(why)) => Some(Reading::Error(format!("{}: {why}", place.name))),
    });
    let encrypted = match unclear {
        // One that is certainly not is enough; one that cannot be told is as bad as that.
        Some(unclear) if open.is_empty() => unclear,
        Some(_) | None => Reading::Value(Value::Bool(open.is_empty())),
    };
    vec![
        Observed {
            name: "disk.encrypted",
            reading: encrypted,
            at_most: Grade::Os,
        },
        Observed::of("disk.unencrypted", Ok(Value::List(open))),
    ]
}

/// Somewhere that this machine keeps things.
struct Place {
    name: String,
    encrypted: Result<bool, Missing>,
}

fn places(subject: &Subject) -> Result<Vec<Place>, Missing> {
    let system = &subject.system;
    let walk = Walk {
        system,
        mounts: mounts::mounts(&system.text("/proc/self/mountinfo")?),
    };
    let mut places = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for path in [Path::new("/"), Path::new("/home"), &subject.state_dir] {
        let path = match walk.resolved(path) {
            Ok(path) => path,
            Err(missing) => {
                places.push(Place {
                    name: path.display().to_string(),
                    encrypted: Err(missing),
                });
                continue;
            }
        };
        let mount = walk.mount_of(&path).ok_or(Missing::Absent)?;
        if !seen.contains(&mount.point) {
            seen.push(mount.point.clone());
            places.push(Place {
                name: mount.point.display().to_string(),
                encrypted: walk.mount(mount, LAYERS_MAX),
            });
        }
    }
    match system.text("/proc/swaps") {
        // A kernel without swap has no such file.
        Err(Missing::Absent) => {}
        Err(missing) => return Err(missing),
        Ok(text) => places.extend(
            mounts::swaps(&text)
                .into_iter()
                .map(|(path, is_file)| Place {
                    name: format!("swap {}", path.display()),
                    encrypted: if is_file {
                        walk.file(&path, LAYERS_MAX)
                    } else {
                        walk.node(&path, LAYERS_MAX)
                    },
                }),
        ),
    }
    Ok(places)
}

/// The way down. Every step takes the number of layers that it may still go.
struct Walk<'a> {
    system: &'a System,
    mounts: Vec<Mount>,
}

impl Walk<'_> {
    fn mount_of(&self, path: &Path) -> Option<&Mount> {
        // The last of equals is on top of the others.
        self.mounts
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
    }

    /// Where a path leads; one that is not there yet leads to itself.
    fn resolved(&self, path: &Path) -> Result<PathBuf, Missing> {
        match self.system.resolved(path) {
            Err(Missing::Absent) => Ok(path.to_owned()),
            other => other,
        }
    }

    fn file(&self, path: &Path, layers: u8) -> Result<bool, Missing> {
        let layers = below(layers)?;
        let path = self.resolved(path)?;
        let mount = self.mount_of(&path).ok_or(Missing::Absent)?;
        self.mount(mount, layers)
    }

    fn mount(&self, mount: &Mount, layers: u8) -> Result<bool, Missing> {
        let layers = below(layers)?;
        let kind = mount.kind.as_str();
        if IN_MEMORY.contains(&kind) || ENCRYPTING.contains(&kind) {
            return Ok(true);
        }
        match kind {
            "zfs" => self.zfs(&mount.source),
            "btrfs" => self.btrfs(mount, layers),
            "overlay" => match mount.option("upperdir") {
                Some(upper) if self.system.exists(upper) => self.file(Path::new(upper), layers),
                Some(_) | None => Err(cannot_tell(mount)),
            },
            _ if !mount.device.starts_with("0:") => self.device(&mount.device, layers),
            _ if mount.source.starts_with("/dev/") => self.node(Path::new(&mount.source), layers),
            _ => Err(cannot_tell(mount)),
        }
    }

    /// Every member of the file system, of which the mount names one.
    fn btrfs(&self, mount: &Mount, layers: u8) -> Result<bool, Missing> {
        let number = self.number(Path::new(&mount.source))?;
        let base = Path::new("/sys/fs/btrfs");
        let mut unread = None;
        for name in self.entries(base)? {
            match self.members(&base.join(name).join("devices")) {
                Ok(members) if members.contains(&number) => return self.all(&members, layers),
                Ok(_) => {}
                Err(missing) => unread = Some(missing),
            }
        }
        // Where the members of one could not be read, it may be this one.
        unread.map_or_else(|| self.device(&number, layers), Err)
    }

    /// The numbers of all devices below a directory of them: every one, or none.
    fn members(&self, dir: &Path) -> Result<Vec<String>, Missing> {
        self.entries(dir)?
            .iter()
            .map(|member| self.system.text(dir.join(member).join("dev")))
            .map(|text| text.map(|number| number.trim().to_owned()))
            .collect()
    }

    /// The names in a directory that need not exist.
    fn entries(&self, dir: &Path) -> Result<Vec<String>, Missing> {
        match self.system.entries(dir) {
            Err(Missing::Absent) => Ok(Vec::new()),
            other => other,
        }
    }

    fn zfs(&self, dataset: &str) -> Result<bool, Missing> {
        let tool = self
            .system
            .tool(&["/usr/sbin/zfs", "/sbin/zfs", "/usr/bin/zfs"])
            .ok_or_else(|| Missing::Error("zfs is not installed".to_owned()))?;
        let said = self
            .system
            .run(tool, &["get", "-H", "-o", "value", "encryption", dataset])?;
        match said.trim() {
            "off" => Ok(false),
            cipher if cipher.starts_with("aes-") || cipher == "on" => Ok(true),
            other => Err(Missing::Error(format!(
                "zfs says {:?} of its encryption",
                other.chars().take(40).collect::<String>()
            ))),
        }
    }

    /// A device by its node in `/dev`.
    fn node(&self, path: &Path, layers: u8) -> Result<bool, Missing> {
        self.device(&self.number(path)?, layers)
    }

    /// `MAJOR:MINOR` of a node in `/dev`, through links such as those in `/dev/mapper`.
    fn number(&self, path: &Path) -> Result<String, Missing> {
        let node = self.resolved(path)?;
        let class = Path::new("/sys/class/block");
        let name = node.file_name().ok_or(Missing::Absent)?;
        if let Ok(number) = self.system.text(class.join(name).join("dev")) {
            return Ok(number.trim().to_owned());
        }
        // No link to follow: the mapper's own name of the device.
        self.system
            .entries(class)?
            .iter()
            .map(|entry| class.join(entry))
            .find(|dir| {
                self.system
                    .text(dir.join("dm/name"))
                    .is_ok_and(|mapped| name == mapped.trim())
            })
            .and_then(|dir| self.system.text(dir.join("dev")).ok())
            .map(|number| number.trim().to_owned())
            .ok_or_else(|| Missing::Error(format!("no block device {}", path.display())))
    }

    /// A device by its number: encrypted itself, or all of what it stands on is.
    fn device(&self, number: &str, layers: u8) -> Result<bool, Missing> {
        let layers = below(layers)?;
        let system = self.system;
        let dir = Path::new("/sys/dev/block").join(number);
        if !system.exists(&dir) {
            return Err(Missing::Error(format!("no block device {number}")));
        }
        if let Ok(uuid) = system.text(dir.join("dm/uuid"))
            && DM_CRYPT.iter().any(|prefix| uuid.starts_with(prefix))
        {
            return Ok(true);
        }
        let real = system.resolved(&dir)?;
        let name = real
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("zram") {
            return match system.text(dir.join("backing_dev")) {
                Ok(path) if path.trim() != "none" => self.node(Path::new(path.trim()), layers),
                // In memory alone, or of a kernel that cannot do otherwise.
                Ok(_) | Err(Missing::Absent) => Ok(true),
                Err(missing) => Err(missing),
            };
        }
        let numbers = self.members(&dir.join("slaves"))?;
        if !numbers.is_empty() {
            return self.all(&numbers, layers);
        }
        if system.exists(dir.join("partition")) {
            let disk = real.parent().ok_or(Missing::Absent)?;
            let number = system.text(disk.join("dev"))?;
            return self.device(number.trim(), layers);
        }
        match system.text(dir.join("loop/backing_file")) {
            Ok(path) => self.file(Path::new(path.trim_end_matches('\n')), layers),
            Err(_) => Ok(false),
        }
    }

    fn all(&self, numbers: &[String], layers: u8) -> Result<bool, Missing> {
        for number in numbers {
            if !self.device(number, layers)? {
                return Ok(false);
            }
        }
        Ok(!numbers.is_empty())
    }
}

fn below(layers: u8) -> Result<u8, Missing> {
    layers
        .checked_sub(1)
        .ok_or_else(|| Missing::Error("too many layers below it".to_owned()))
}

fn cannot_tell(mount: &Mount) -> Missing {
    let kind: String = mount.kind.chars().take(40).collect();
    Missing::Error(format!("cannot tell what lies below {kind:?}"))
}

#[cfg(test)]
mod tests;
