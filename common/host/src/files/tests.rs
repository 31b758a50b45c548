use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

#[test]
fn a_missing_directory_is_made_private() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    dir.write_atomic("key", b"secret").unwrap();
    assert_eq!(mode(&dir.join("key")), 0o600);
    assert_eq!(dir.read("key").unwrap().unwrap(), b"secret");
    assert_eq!(dir.read("other").unwrap(), None);
}

#[test]
fn the_second_process_is_told_that_it_is_the_second() {
    let (_keep, path) = place();
    let first = StateDir::open(&path).unwrap();
    let error = StateDir::open(&path).unwrap_err();
    assert!(matches!(error, StateError::OpenedTwice { .. }));
    assert!(error.to_string().contains("opened twice"));
    drop(first);
    StateDir::open(&path).unwrap();
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let (_keep, path) = place();
    std::fs::create_dir(&path).unwrap();
    for bits in [0o770, 0o702, 0o777] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
        let error = StateDir::open(&path).unwrap_err();
        assert!(matches!(error, StateError::Writable { mode, .. } if mode == bits));
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    StateDir::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn a_foreign_directory_is_refused() {
    // Whoever runs this, root or not, one of the two belongs to somebody else.
    let (_keep, path) = place();
    std::fs::create_dir(&path).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        assert!(matches!(
            StateDir::open(&path).unwrap_err(),
            StateError::ForeignOwner { owner: 65_534, .. }
        ));
    } else {
        assert!(matches!(
            Dir::open(Path::new("/")).unwrap_err(),
            StateError::ForeignOwner { owner: 0, .. }
        ));
    }
}

#[test]
fn links_are_not_followed() {
    let (keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    let link = keep.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(
        Dir::open(&link).unwrap_err(),
        StateError::NotADirectory { .. }
    ));
    std::fs::write(keep.path().join("outside"), b"x").unwrap();
    symlink(keep.path().join("outside"), dir.join("inside")).unwrap();
    assert!(dir.read("inside").is_err());
    // A link that waits where the temporary file goes is replaced, not written through.
    symlink(keep.path().join("outside"), dir.join(".key.new")).unwrap();
    dir.write_atomic("key", b"new").unwrap();
    assert_eq!(std::fs::read(keep.path().join("outside")).unwrap(), b"x");
}

#[test]
fn a_path_that_cannot_be_made_says_so() {
    let (keep, _) = place();
    std::fs::write(keep.path().join("file"), b"x").unwrap();
    let error = StateDir::open(&keep.path().join("file/state")).unwrap_err();
    assert!(matches!(error, StateError::Io { .. }));
    let error = StateDir::open(&keep.path().join("file")).unwrap_err();
    assert!(matches!(error, StateError::NotADirectory { .. }));
}

#[test]
fn the_default_directory_is_the_systems_for_root_and_the_users_otherwise() {
    let path = |text: &str| Some(PathBuf::from(text));
    assert_eq!(
        state_for("agent", true, path("/x"), path("/home/a")),
        path("/var/lib/cardea/agent")
    );
    assert_eq!(
        state_for("agent", false, path("/x"), path("/home/a")),
        path("/x/cardea/agent")
    );
    assert_eq!(
        state_for("agent", false, path("relative"), path("/home/a")),
        path("/home/a/.local/state/cardea/agent")
    );
    assert_eq!(state_for("agent", false, None, None), None);
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let keep = tempfile::tempdir().unwrap();
    let path = keep.path().join("state");
    (keep, path)
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path)
        .unwrap()
        .permissions()
        .mode()
        & 0o7777
}
