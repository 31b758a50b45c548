use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;

const THEIRS: &str = "nameserver 192.0.2.1\nsearch corp.example\noptions edns0\n";
const LATER: &str = "nameserver 192.0.2.2\n";

#[test]
fn the_file_is_ours_while_it_is_held_and_theirs_before_and_after() {
    let world = World::new();
    let ways: [&dyn Fn(&Path); 3] = [
        &|path| fs::write(path, THEIRS).unwrap(),
        &|path| symlink("elsewhere", path).unwrap(),
        &|_| {},
    ];
    for make in ways {
        make(&world.path);
        let before = ResolvConf::at(&world.path).look().unwrap();
        let mut held = world.held();
        held.tend(start(), true).unwrap();
        assert!(world.is_ours() && held.is_in_place());
        assert!(held.undo().unwrap());
        assert_eq!(ResolvConf::at(&world.path).look().unwrap(), before);
        assert!(!is_changed(&world.dir()) && !held.undo().unwrap());
        ResolvConf::at(&world.path)
            .restore(&Former::Missing)
            .unwrap();
    }
}

#[test]
fn search_lists_and_options_stay_and_servers_are_asked_by_us() {
    let world = World::new();
    fs::write(&world.path, THEIRS).unwrap();
    let mut held = world.held();
    held.tend(start(), true).unwrap();
    let text = fs::read_to_string(&world.path).unwrap();
    let said = Said::parse(&text);
    assert_eq!(said.servers, ["100.64.0.1:53".parse().unwrap()]);
    assert_eq!(said.others, ["search corp.example", "options edns0"]);
    assert_eq!(held.servers(), ["192.0.2.1:53".parse().unwrap()]);
}

#[test]
fn what_a_killed_process_left_is_undone_unless_somebody_else_wrote_since() {
    let world = World::new();
    fs::write(&world.path, THEIRS).unwrap();
    world.held().tend(start(), true).unwrap();
    assert!(is_changed(&world.dir()));
    assert!(restore(&world.dir()).unwrap());
    assert_eq!(fs::read_to_string(&world.path).unwrap(), THEIRS);
    assert!(!restore(&world.dir()).unwrap());
    world.held().tend(start(), true).unwrap();
    fs::write(&world.path, LATER).unwrap();
    assert!(!restore(&world.dir()).unwrap());
    assert_eq!(fs::read_to_string(&world.path).unwrap(), LATER);
    assert!(!is_changed(&world.dir()));
    world.dir().write_atomic(JOURNAL_FILE, b"{").unwrap();
    let error = restore(&world.dir()).unwrap_err().to_string();
    assert!(error.contains("dns.json: is damaged"), "{error}");
}

#[test]
fn a_process_that_died_before_it_wrote_changes_nothing() {
    let world = World::new();
    fs::write(&world.path, THEIRS).unwrap();
    let journal = Journal {
        version: 1,
        path: world.path.clone(),
        former: Former::Missing,
    };
    let line = serde_json::to_vec(&journal).unwrap();
    world.dir().write_atomic(JOURNAL_FILE, &line).unwrap();
    assert!(!restore(&world.dir()).unwrap());
    assert_eq!(fs::read_to_string(&world.path).unwrap(), THEIRS);
}

#[test]
fn without_a_journal_a_file_of_ours_says_itself_what_was_there() {
    let world = World::new();
    fs::write(&world.path, THEIRS).unwrap();
    world.held().tend(start(), true).unwrap();
    world.dir().remove(JOURNAL_FILE).unwrap();
    let mut held = world.held();
    held.tend(start(), true).unwrap();
    assert_eq!(held.servers(), ["192.0.2.1:53".parse().unwrap()]);
    held.undo().unwrap();
    assert_eq!(fs::read_to_string(&world.path).unwrap(), THEIRS);
}

#[test]
fn what_others_write_is_taken_as_what_was_there() {
    let world = World::new();
    fs::write(&world.path, THEIRS).unwrap();
    let mut held = world.held();
    held.tend(start(), true).unwrap();
    fs::write(&world.path, LATER).unwrap();
    held.tend(start(), true).unwrap();
    assert!(world.is_ours());
    assert_eq!(held.servers(), ["192.0.2.2:53".parse().unwrap()]);
    // Somebody who edits ours has not said anything about theirs.
    let mut text = fs::read_to_string(&world.path).unwrap();
    text.push_str("options debug\n");
    fs::write(&world.path, text).unwrap();
    held.tend(start(), true).unwrap();
    held.undo().unwrap();
    assert_eq!(fs::read_to_string(&world.path).unwrap(), LATER);
}

#[test]
fn whoever_writes_again_and_again_is_left_alone_for_a_minute_and_it_is_said() {
    let world = World::new();
    fs::write(&world.path, THEIRS).unwrap();
    let mut held = world.held();
    held.tend(start(), true).unwrap();
    for _ in 1..CHANGES_MAX {
        fs::write(&world.path, LATER).unwrap();
        held.tend(start(), true).unwrap();
    }
    fs::write(&world.path, LATER).unwrap();
    let warning = held.tend(start(), true).unwrap_err();
    assert_eq!(warning.code, "dns_fought");
    assert!(!held.is_in_place());
    assert_eq!(held.tend(start(), true).unwrap_err().code, "dns_fought");
    assert_eq!(fs::read_to_string(&world.path).unwrap(), LATER);
    held.tend(start() + CHANGES_TIME, true).unwrap();
    assert!(world.is_ours());
}

#[test]
fn servers_behind_a_link_are_followed() {
    let world = World::new();
    let target = world.path.with_file_name("elsewhere");
    fs::write(&target, THEIRS).unwrap();
    symlink("elsewhere", &world.path).unwrap();
    let mut held = world.held();
    held.tend(start(), true).unwrap();
    assert_eq!(held.servers(), ["192.0.2.1:53".parse().unwrap()]);
    fs::write(&target, LATER).unwrap();
    held.tend(start(), true).unwrap();
    assert_eq!(held.servers(), ["192.0.2.2:53".parse().unwrap()]);
    assert_eq!(fs::read_to_string(&target).unwrap(), LATER);
}

#[test]
fn nobody_is_sent_to_a_stub_that_does_not_answer() {
    let world = World::new();
    fs::write(&world.path, THEIRS).unwrap();
    let mut held = world.held();
    held.tend(start(), false).unwrap();
    assert_eq!(fs::read_to_string(&world.path).unwrap(), THEIRS);
    held.tend(start(), true).unwrap();
    held.tend(start(), false).unwrap();
    assert_eq!(fs::read_to_string(&world.path).unwrap(), THEIRS);
}

#[test]
fn what_cannot_be_read_is_said() {
    let world = World::new();
    fs::create_dir(&world.path).unwrap();
    let warning = world.held().tend(start(), true).unwrap_err();
    assert_eq!(warning.code, "dns_file");
    assert!(warning.title.contains("cannot be changed"), "{warning:?}");
}

struct World {
    place: tempfile::TempDir,
    path: PathBuf,
}

impl World {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("etc")).unwrap();
        let path = place.path().join("etc/resolv.conf");
        Self { place, path }
    }

    fn dir(&self) -> Dir {
        Dir::create(&self.place.path().join("state")).unwrap()
    }

    fn held(&self) -> Held {
        let own = vec!["100.64.0.1".parse().unwrap()];
        Held::new(ResolvConf::at(&self.path), own, self.dir())
    }

    fn is_ours(&self) -> bool {
        resolv_conf::is_ours(&ResolvConf::at(&self.path).look().unwrap())
    }
}

fn start() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(|| cardea_host::clock::Clock::system().now().instant)
}
