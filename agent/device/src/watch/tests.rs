//! Changes as editors and tools make them.

use std::time::Duration;

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
    let mut program = std::process::Command::new("/bin/sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let mut watch = Watch::new(&Settings::new("/nonexistent")).unwrap();
    let pid = program.id();
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    watch.follow(&[path.to_string_lossy().into_owned()]);
    assert!(!watch.processes.is_empty());
    program.kill().unwrap();
    program.wait().unwrap();
    assert_eq!(wait(&mut watch, SOON), Woken::Changed);
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
