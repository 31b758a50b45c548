//! Changes as editors and tools make them.

use std::{
    process::{Command, Output},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cardea_e2e::needs;

use super::*;

/// Far more than a notification takes, far less than the second that a change may take.
const SOON: Duration = Duration::from_millis(900);

/// Long enough for a notification that must not come.
const QUIET: Duration = Duration::from_millis(100);

#[test]
fn a_facts_file_that_is_written_or_replaced_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("facts.json");
    std::fs::write(&path, "{}").unwrap();
    let mut watch = watch(place.path(), Some(&path));
    assert_eq!(wait(&mut watch, QUIET), Woken::Due);

    std::fs::write(&path, "{\"a\": 1}").unwrap();
    assert_eq!(wait(&mut watch, SOON), Woken::Changed);
    quiet(&mut watch);

    let new = place.path().join("facts.json.new");
    std::fs::write(&new, "{\"a\": 2}").unwrap();
    assert_eq!(wait(&mut watch, QUIET), Woken::Due);
    std::fs::rename(&new, &path).unwrap();
    assert_eq!(wait(&mut watch, SOON), Woken::Changed);
    quiet(&mut watch);

    std::fs::remove_file(&path).unwrap();
    assert_eq!(wait(&mut watch, SOON), Woken::Changed);
    quiet(&mut watch);
    std::fs::write(&path, "{}").unwrap();
    assert_eq!(wait(&mut watch, SOON), Woken::Changed);
}

#[test]
fn what_a_linked_facts_file_leads_to_is_watched_too() {
    let place = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let target = other.path().join("real.json");
    std::fs::write(&target, "{}").unwrap();
    let link = place.path().join("facts.json");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let mut watch = watch(place.path(), Some(&link));
    std::fs::write(&target, "{\"a\": 1}").unwrap();
    assert_eq!(wait(&mut watch, SOON), Woken::Changed);
}

#[test]
fn a_file_whose_directory_does_not_exist_yet_is_waited_for() {
    let place = tempfile::tempdir().unwrap();
    let mut watch = watch(place.path(), None);
    for step in ["etc", "etc/ufw"] {
        std::fs::create_dir(place.path().join(step)).unwrap();
        assert_eq!(wait(&mut watch, SOON), Woken::Changed, "{step}");
        quiet(&mut watch);
    }
    std::fs::write(place.path().join("etc/ufw/ufw.conf"), "ENABLED=no\n").unwrap();
    assert_eq!(wait(&mut watch, SOON), Woken::Changed);
    quiet(&mut watch);
    std::fs::write(place.path().join("etc/hosts"), "").unwrap();
    assert_eq!(wait(&mut watch, QUIET), Woken::Due);
}

#[test]
fn another_thread_wakes_it() {
    let place = tempfile::tempdir().unwrap();
    let mut watch = watch(place.path(), None);
    let waker = watch.waker();
    let thread = std::thread::spawn(move || waker.wake());
    assert_eq!(wait(&mut watch, SOON), Woken::Asked);
    thread.join().unwrap();
    assert_eq!(wait(&mut watch, QUIET), Woken::Due);
}

#[test]
fn the_end_of_a_watched_program_is_noticed() {
    let mut program = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    let mut watch = Watch::new(&Settings::new("/nonexistent")).unwrap();
    let pid = program.id();
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    watch.follow(&[path.to_string_lossy().into_owned()]);
    assert!(!watch.processes.is_empty());
    program.kill().unwrap();
    program.wait().unwrap();
    assert_eq!(wait(&mut watch, SOON), Woken::Changed);
}

#[test]
fn a_machine_that_woke_up_is_looked_at_at_the_next_turn() {
    static SLEPT: AtomicU64 = AtomicU64::new(7);
    let place = tempfile::tempdir().unwrap();
    let mut watch = watch(place.path(), None);
    watch.sleeps = Sleeps::new(|| Duration::from_secs(SLEPT.load(Ordering::Relaxed)));
    assert_eq!(wait(&mut watch, QUIET), Woken::Due);
    SLEPT.store(30, Ordering::Relaxed);
    assert_eq!(wait(&mut watch, QUIET), Woken::Changed);
    assert_eq!(wait(&mut watch, QUIET), Woken::Due);
}

/// In a network and with mounts of its own, so that nothing of the machine changes and nobody else is heard.
#[test]
fn what_the_kernel_tells_of_is_noticed() {
    const NAME: &str = "watch::tests::what_the_kernel_tells_of_is_noticed";
    if std::env::var_os(WITHIN).is_none() {
        return within_namespaces(NAME);
    }
    let place = tempfile::tempdir().unwrap();
    let at = place.path().display();
    let mut watch = Watch::new(&Settings::new("/nonexistent")).unwrap();
    for line in [
        &format!("mount -t tmpfs none {at}"),
        &format!("umount {at}"),
        "nft add table inet cardea",
        "nft add chain inet cardea input { type filter hook input priority 0; policy drop; }",
        "nft add rule inet cardea input tcp dport 22 accept",
        "nft flush ruleset",
        "ip link set lo up",
        "ip address add 192.0.2.7/32 dev lo",
        "ip route add 192.0.2.9/32 dev lo",
        "ip route del 192.0.2.9/32",
    ] {
        quiet(&mut watch);
        let output = tool(line).output().unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output));
        assert_eq!(wait(&mut watch, SOON), Woken::Changed, "{line}");
    }
    quiet(&mut watch);
    // As `udevadm trigger` has the kernel speak of a device that is as it was.
    if std::fs::write("/sys/class/block/loop0/uevent", "change").is_ok() {
        assert_eq!(wait(&mut watch, SOON), Woken::Changed, "a block device");
        quiet(&mut watch);
    }
}

/// Set where a test is started again in namespaces of its own.
const WITHIN: &str = "CARDEA_WITHIN_NAMESPACES";

/// Runs one test of this program again, alone, as root in namespaces of its own.
fn within_namespaces(test: &str) {
    if !needs::root_and(&["unshare", "mount", "nft", "ip"]) {
        return;
    }
    let can = tool("unshare --net --mount true").status();
    if !can.is_ok_and(|status| status.success()) {
        return needs::leave_out("it needs namespaces");
    }
    let again = tool("unshare --net --mount")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(WITHIN, "yes")
        .output()
        .unwrap();
    let said = text(&again);
    assert!(again.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

fn tool(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn watch(root: &Path, facts_from: Option<&Path>) -> Watch {
    let mut settings = Settings::new("/var/lib/cardea/cardea");
    settings.root = root.to_owned();
    settings.facts_from = facts_from.map(Path::to_owned);
    Watch::new(&settings).unwrap()
}

fn wait(watch: &mut Watch, time: Duration) -> Woken {
    let due = Clock::system().now().instant + time;
    watch.wait(due).unwrap()
}

/// One change is several events; takes them all.
fn quiet(watch: &mut Watch) {
    while wait(watch, QUIET) == Woken::Changed {}
}
