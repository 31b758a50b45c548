//! How long ago the system was last brought up to date, and whether it waits for a reboot.

use cardea_proto::posture::Value;

use super::{Observed, Probe, Subject, os};
use crate::system::{Missing, System};

pub(super) const PROBE: Probe = Probe {
    name: "patch",
    facts: &["patch.age_days", "reboot.pending"],
    read,
};

/// What package managers touch when they have refreshed or applied updates. The first group with a
/// file in it counts, and in it the youngest.
const STAMPS: &[&[&str]] = &[
    &[
        "/var/lib/apt/periodic/update-success-stamp",
        "/var/lib/apt/periodic/upgrade-stamp",
        "/var/lib/apt/periodic/unattended-upgrades-stamp",
        "/var/lib/apt/periodic/upgrade",
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
    &["/var/lib/apt/lists"],
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
    let updated = STAMPS
        .iter()
        .find_map(|group| {
            group
                .iter()
                .filter_map(|path| system.modified(path).ok())
                .max()
        })
        .ok_or(Missing::Absent)?;
    if updated.0 > now.0.saturating_add(DAY_MS) {
        // Touched by hand, or the clock is wrong: either way no evidence.
        return Err(Missing::Error(
            "the last update lies in the future".to_owned(),
        ));
    }
    let days = now.since(updated).as_secs() * 1_000 / DAY_MS;
    Ok(Value::Integer(i64::try_from(days).unwrap_or(i64::MAX)))
}

/// Pending when the package manager says so, or when the running kernel's modules were replaced.
fn reboot_pending(system: &System) -> Result<Value, Missing> {
    let asked = ["/run/reboot-required", "/var/run/reboot-required"]
        .iter()
        .any(|path| system.exists(path));
    if asked {
        return Ok(Value::Bool(true));
    }
    let running = os::build(system)?;
    let installed = ["/usr/lib/modules", "/lib/modules"]
        .iter()
        .find_map(|dir| system.entries(dir).ok())
        .unwrap_or_default();
    Ok(Value::Bool(
        !installed.is_empty() && !installed.contains(&running),
    ))
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
            .file("/var/lib/apt/periodic/update-success-stamp", "")
            .file("/var/lib/apt/periodic/upgrade-stamp", "")
            .file("/lib/apk/db/installed", "");
        touch(&tree, "/var/lib/apt/periodic/update-success-stamp", 3);
        touch(&tree, "/var/lib/apt/periodic/upgrade-stamp", 40);
        assert_eq!(
            found(&PROBE, &tree)["patch.age_days"],
            Reading::Value(Value::Integer(3))
        );
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
