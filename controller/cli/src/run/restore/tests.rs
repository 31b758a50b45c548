use std::io::Cursor;

use super::{super::backup, *};

fn settings(state: &Path) -> Settings {
    Settings {
        socket: state.join("admin.sock"),
        key: PathBuf::new(),
        format: Format::Json,
        yes: false,
    }
}

fn console() -> Console {
    let nobody = || Box::new(io::sink());
    Console::new(nobody(), nobody(), Box::new(Cursor::new("")), false)
}

fn restored(backup: &Path, state: &Path) -> Result<(), String> {
    let restored = restore(backup, None, &settings(state), &mut console());
    restored.map_err(|failure| failure.message)
}

/// A state, its backup, and a place for what is restored from it.
fn backed_up(place: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let [state, backup, again] = ["state", "backup.tar", "again"].map(|name| place.join(name));
    backup::tests::made(&state);
    backup::backup(&backup, &settings(&state), &mut console()).unwrap();
    (state, backup, again)
}

#[test]
fn a_backup_that_was_cut_anywhere_is_refused_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (state, backup, again) = backed_up(place.path());
    let whole = fs::read(&backup).unwrap();
    let mut ends = Vec::new();
    for entry in tar::Archive::new(Cursor::new(&whole)).entries().unwrap() {
        let entry = entry.unwrap();
        let length = entry.size().next_multiple_of(512);
        ends.push(entry.raw_file_position() + length);
    }
    let last = ends.pop().unwrap();
    assert!(ends.len() >= 5, "{ends:?}");
    let around = |end: &u64| [end - 1, *end, end + 1, end + 512];
    let cuts = [0, 1, 512, last - 600, last - 513];
    for cut in ends.iter().flat_map(around).chain(cuts) {
        let cut = usize::try_from(cut).unwrap();
        fs::write(&backup, &whole[..cut]).unwrap();
        let error = restored(&backup, &again).expect_err("a part of a backup");
        assert!(error.ends_with("Nothing was restored"), "{cut}: {error}");
        let mut left: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
        left.retain(|entry| entry.as_ref().is_ok_and(|entry| entry.path() != backup));
        assert_eq!(left.len(), 1, "{cut}: {left:?}");
    }
    fs::write(&backup, &whole).unwrap();
    restored(&backup, &again).unwrap();
    for name in ["ledger/0001.seg", "ledger/acknowledged", "keys/ledger.pub"] {
        let [was, is] = [&state, &again].map(|folder| fs::read(folder.join(name)).unwrap());
        assert_eq!(was, is, "{name}");
    }
}

#[test]
fn a_restore_that_was_interrupted_is_no_state_and_the_next_one_says_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    let (_, backup, again) = backed_up(place.path());
    let beside = begin(&again).unwrap();
    // Killed while it unpacked, or before the folder took its place.
    unpack(File::open(&backup).unwrap(), &beside).unwrap();
    assert!(!again.exists());
    let error = restored(&backup, &again).unwrap_err();
    let next = format!("rm -r {}", beside.display());
    assert!(
        error.contains("interrupted") && error.contains(&next),
        "{error}"
    );
    fs::remove_dir_all(&beside).unwrap();
    restored(&backup, &again).unwrap();
    assert!(!beside.exists());
    let error = restored(&backup, &again).unwrap_err();
    assert!(error.contains("is not empty"), "{error}");
}

#[test]
fn an_empty_folder_is_replaced_and_one_that_is_not_ours_to_replace_is_named() {
    let place = tempfile::tempdir().unwrap();
    let (_, backup, again) = backed_up(place.path());
    fs::create_dir(&again).unwrap();
    restored(&backup, &again).unwrap();
    assert!(again.join("ledger/acknowledged").exists());
    let deep = place.path().join("not/there/yet");
    restored(&backup, &deep).unwrap();
    let error = restored(&backup, &place.path().join("not/..")).unwrap_err();
    assert!(error.contains("is not empty"), "{error}");
    assert!(
        begin(Path::new(".."))
            .unwrap_err()
            .message
            .contains("--state DIR")
    );
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    for name in ["", "/etc/passwd", "../x", "a/../../x", "./x"] {
        assert!(!is_inside(Path::new(name)), "{name}");
    }
    assert!(is_inside(Path::new("ledger/0001.seg")));
}
