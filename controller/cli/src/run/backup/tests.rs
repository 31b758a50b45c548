use std::{
    io::Cursor,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{
    super::verify::tests::{genuine, key},
    *,
};

/// A state folder with a ledger, as far as a backup looks at it.
pub(in crate::run) fn made(state: &Path) {
    for folder in ["ledger", "keys", "policy"] {
        fs::create_dir_all(state.join(folder)).unwrap();
    }
    genuine().write(&state.join("ledger"));
    let public = format!("{}\n", key(1).verifier());
    fs::write(state.join("keys/ledger.pub"), public).unwrap();
    fs::write(state.join("policy/base.cedar"), "// none\n").unwrap();
    fs::write(state.join("controller.toml"), "domain = \"corp.example\"\n").unwrap();
}

/// A file as a copy of the state holds it.
fn copied(state: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mark = fs::read(state.join("ledger").join(mark::NAME))?;
    let mut archive = tar::Builder::new(Vec::new());
    copy(&mut archive, state, Mark::parse(&mark).unwrap())?;
    let mut archive = tar::Archive::new(Cursor::new(archive.into_inner()?));
    let mut copied = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()? == Path::new(name) {
            entry.read_to_end(&mut copied)?;
        }
    }
    Ok(copied)
}

#[test]
fn a_file_that_is_replaced_meanwhile_is_copied_as_it_was_before_or_after() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path();
    made(state);
    let contents = [vec![b'a'; 2_000], vec![b'b'; 9_000]];
    let replace = |with: &[u8]| {
        fs::write(state.join(".new"), with).unwrap();
        fs::rename(state.join(".new"), state.join("keys/replaced")).unwrap();
    };
    replace(&contents[0]);
    let is_done = AtomicBool::new(false);
    let wrong = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                contents.iter().rev().for_each(|with| replace(with));
            }
        });
        let copies = (0..4_000).map(|_| copied(state, "keys/replaced"));
        let is_wrong =
            |copy: &io::Result<Vec<u8>>| !copy.as_ref().is_ok_and(|copy| contents.contains(copy));
        let wrong = copies.into_iter().find(is_wrong);
        is_done.store(true, Ordering::Relaxed);
        wrong
    });
    assert!(wrong.is_none(), "{wrong:?}");
}

#[test]
fn what_is_shorter_than_its_header_says_is_no_entry() {
    let mut archive = tar::Builder::new(Vec::new());
    let name = Path::new("ledger/0001.seg");
    append(&mut archive, name, 3, Cursor::new("abc")).unwrap();
    let error = append(&mut archive, name, 5, Cursor::new("abc")).unwrap_err();
    assert!(error.to_string().contains("0001.seg is 2 bytes"), "{error}");
}
