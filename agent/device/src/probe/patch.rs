//! How long ago the system was last brought up to date, and whether it waits for a reboot.

use cardea_proto::{posture::Value, time::UnixMillis};

use super::{Observed, Probe, Subject, os};
use crate::system::{Missing, System};

pub(super) const PROBE: Probe = Probe {
    name: "patch",
    facts: &["patch.age_days", "reboot.pending"],
    read,
};

/// What changes when packages do, and what an upgrade leaves that found nothing to do. A refreshed
/// index is neither. The first group with a file in it counts, and in it the youngest.
///
/// Source: `apt.systemd.daily` and unattended-upgrades, which touch their stamps after an upgrade;
/// the others are the package managers' own records of what is installed.
const STAMPS: &[&[&str]] = &[
    &[
        "/var/lib/apt/periodic/upgrade-stamp",
        "/var/lib/apt/periodic/unattended-upgrades-stamp",
        "/var/lib/dpkg/status",
    ],
    &[
        "/var/lib/dnf/history.sqlite",
        "/usr/lib/sysimage/libdnf5/transaction_history.sqlite",
    ],
    &[
        "/usr/lib/sysimage/rpm/rpmdb.sqlite",
        "/var/lib/rpm/rpmdb.sqlite",
        "/var/lib/rpm/Packages",
    ],
    &["/var/lib/pacman/local"],
    &["/lib/apk/db/installed"],
    &["/nix/var/nix/profiles/system"],
];

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

fn read(subject: &Subject) -> Vec<Observed> {
    vec![
        Observed::of("patch.age_days", age_days(&subject.system)),
        Observed::of("reboot.pending", reboot_pending(&subject.system)),
    ]
}

fn age_days(system: &System) -> Result<Value, Missing> {
    let now = system.clock().now().unix;
    let updated = updated(system)?;
    if updated.0 > now.0.saturating_add(DAY_MS) {
        // Touched by hand, or the clock is wrong: either way no evidence.
        return Err(Missing::Error(
            "the last update lies in the future".to_owned(),
        ));
    }
    let days = now.since(updated).as_secs() * 1_000 / DAY_MS;
    Ok(Value::Integer(i64::try_from(days).unwrap_or(i64::MAX)))
}

/// When packages last changed.
fn updated(system: &System) -> Result<UnixMillis, Missing> {
    for group in STAMPS {
        let mut youngest = None;
        for path in *group {
            match system.modified(path) {
                Ok(at) => youngest = youngest.max(Some(at)),
                Err(Missing::Absent) => {}
                Err(missing) => return Err(missing),
            }
        }
        if let Some(at) = youngest {
            return Ok(at);
        }
    }
    Err(Missing::Absent)
}

/// Pending when the package manager says so, when the running kernel's modules were replaced, or
/// when a newer kernel of its kind lies beside it.
fn reboot_pending(system: &System) -> Result<Value, Missing> {
    let asked = ["/run/reboot-required", "/var/run/reboot-required"]
        .iter()
        .any(|path| system.exists(path));
    if asked {
        return Ok(Value::Bool(true));
    }
    let running = os::build(system)?;
    let newer = |release: &str| Kernel(release).is_newer_than(&Kernel(&running));
    let mut modules = entries(system, "/usr/lib/modules")?;
    if modules.is_empty() {
        modules = entries(system, "/lib/modules")?;
    }
    let replaced = !modules.is_empty() && !modules.contains(&running);
    if replaced || modules.iter().any(|release| newer(release)) {
        return Ok(Value::Bool(true));
    }
    let images = entries(system, "/boot")?;
    Ok(Value::Bool(
        images
            .iter()
            .filter_map(|name| name.strip_prefix("vmlinuz-"))
            .any(newer),
    ))
}

/// The names in a directory that need not exist.
fn entries(system: &System, dir: &str) -> Result<Vec<String>, Missing> {
    match system.entries(dir) {
        Err(Missing::Absent) => Ok(Vec::new()),
        other => other,
    }
}

/// A kernel's release, such as `6.1.0-18-amd64`: a version, and behind it the kind of kernel.
struct Kernel<'a>(&'a str);

impl Kernel<'_> {
    /// Whether this is a later version of the same kind: one of another kind may never be meant to run.
    fn is_newer_than(&self, other: &Self) -> bool {
        let ((version, kind), (other, other_kind)) = (self.parts(), other.parts());
        kind == other_kind && numbers(version) > numbers(other)
    }

    /// The kind begins at the first part that begins with a letter: `amd64`, `generic`, `rt-amd64`.
    fn parts(&self) -> (&str, &str) {
        let kind = self.0.match_indices('-').find(|(at, dash)| {
            let rest = self.0.get(at + dash.len()..).unwrap_or_default();
            rest.starts_with(|c: char| c.is_ascii_alphabetic())
        });
        kind.and_then(|(at, _)| self.0.split_at_checked(at))
            .unwrap_or((self.0, ""))
    }
}

/// All numbers of a version, in order: none in a name that is no version, which is older than any.
fn numbers(version: &str) -> Vec<u64> {
    if !version.starts_with(|c: char| c.is_ascii_digit()) {
        return Vec::new();
    }
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use cardea_host::clock::Clock;
    use cardea_proto::posture::Reading;

    use super::*;
    use crate::probe::testing::{Tree, found};

    #[test]
    fn the_youngest_stamp_of_the_package_manager_counts() {
        let tree = Tree::new()
            .file("/var/lib/dpkg/status", "")
            .file("/var/lib/apt/periodic/upgrade-stamp", "")
            .file("/lib/apk/db/installed", "");
        touch(&tree, "/var/lib/dpkg/status", 40);
        touch(&tree, "/var/lib/apt/periodic/upgrade-stamp", 3);
        assert_eq!(
            found(&PROBE, &tree)["patch.age_days"],
            Reading::Value(Value::Integer(3))
        );
    }

    #[test]
    fn a_refreshed_index_is_no_patch() {
        let tree = Tree::new()
            .file("/var/lib/apt/periodic/update-success-stamp", "")
            .file("/var/lib/apt/periodic/update-stamp", "")
            .dir("/var/lib/apt/lists");
        assert_eq!(found(&PROBE, &tree)["patch.age_days"], Reading::Absent);
        let tree = tree.file("/var/lib/dpkg/status", "");
        touch(&tree, "/var/lib/dpkg/status", 200);
        assert_eq!(
            found(&PROBE, &tree)["patch.age_days"],
            Reading::Value(Value::Integer(200))
        );
    }

    #[test]
    fn a_newer_kernel_beside_the_running_one_waits_for_a_reboot() {
        let check = |running: &str, other: &str, expected: bool| {
            for beside in [
                format!("/boot/vmlinuz-{other}"),
                format!("/lib/modules/{other}/x"),
            ] {
                let tree = Tree::new()
                    .file("/proc/sys/kernel/osrelease", format!("{running}\n"))
                    .file(&format!("/lib/modules/{running}/x"), "")
                    .file(&beside, "");
                assert_eq!(
                    found(&PROBE, &tree)["reboot.pending"],
                    Reading::Value(Value::Bool(expected)),
                    "{running} {beside}"
                );
            }
        };
        check("6.1.0-18-amd64", "6.1.0-21-amd64", true);
        check("6.1.0-9-amd64", "6.1.0-10-amd64", true);
        check("6.1.0-18-amd64", "6.1.0-9-amd64", false);
        check("6.1.0-18-amd64", "6.1.0-18-amd64", false);
        check("6.12.9+deb13-amd64", "6.12.57+deb13-amd64", true);
        check("6.5.0-28-generic", "6.8.0-31-generic", true);
        check("6.8.5-301.fc40.x86_64", "6.8.9-300.fc40.x86_64", true);
        check("6.1.0-18-amd64", "6.1.0-21-rt-amd64", false);
        check("6.8.5-301.fc40.x86_64", "0-rescue-0123456789abcdef", false);
        check("6.1.0-18-amd64", "linux-amd64", false);
        check("6.1", "6.1.1", true);
    }

    #[test]
    fn what_cannot_be_looked_into_is_no_good_news() {
        let kernel = || Tree::new().file("/proc/sys/kernel/osrelease", "6.1\n");
        // A link to itself leads nowhere, for root too.
        let loops = |path: &str| {
            let name = path.rsplit('/').next().unwrap();
            found(&PROBE, &kernel().link(path, name))["reboot.pending"].clone()
        };
        for path in ["/usr/lib/modules", "/lib/modules", "/boot"] {
            assert!(matches!(loops(path), Reading::Error(_)), "{path}");
        }
        let tree = Tree::new()
            .link("/var/lib/dpkg/status", "status")
            .file("/lib/apk/db/installed", "");
        assert!(matches!(
            found(&PROBE, &tree)["patch.age_days"],
            Reading::Error(_)
        ));
    }

    #[test]
    fn a_stamp_from_the_future_is_no_evidence() {
        let tree = Tree::new().file("/lib/apk/db/installed", "");
        touch(&tree, "/lib/apk/db/installed", -30);
        assert!(matches!(
            found(&PROBE, &tree)["patch.age_days"],
            Reading::Error(_)
        ));
        assert_eq!(
            found(&PROBE, &Tree::new())["patch.age_days"],
            Reading::Absent
        );
    }

    #[test]
    fn a_reboot_is_pending_when_asked_for_or_when_the_kernel_was_replaced() {
        let kernel = || Tree::new().file("/proc/sys/kernel/osrelease", "6.1\n");
        let check = |tree: Tree, expected: bool| {
            assert_eq!(
                found(&PROBE, &tree)["reboot.pending"],
                Reading::Value(Value::Bool(expected))
            );
        };
        check(kernel(), false);
        check(kernel().file("/usr/lib/modules/6.1/modules.dep", ""), false);
        check(kernel().file("/usr/lib/modules/6.2/modules.dep", ""), true);
        check(kernel().file("/run/reboot-required", ""), true);
        assert_eq!(
            found(&PROBE, &Tree::new())["reboot.pending"],
            Reading::Absent
        );
    }

    fn touch(tree: &Tree, path: &str, days_ago: i64) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(Clock::system().now().unix.0);
        let by = Duration::from_millis(days_ago.unsigned_abs() * DAY_MS + 60_000);
        let at = if days_ago < 0 { now + by } else { now - by };
        let file = std::fs::File::options()
            .append(true)
            .open(tree.path(path))
            .unwrap();
        file.set_modified(at).unwrap();
    }
}
