//! What the fuzzers have found is fed again, and so is every golden message, whole, cut and flipped.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a helper of a test fails by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use cardea_fuzz_feed::{Feed, TARGETS};

/// Longest input that is also fed with each of its bytes flipped and cut.
const TOUCHED_BYTES_MAX: usize = 2_048;

#[test]
fn every_target_takes_its_corpus() {
    for (name, feed) in TARGETS {
        let files = files(&folder("../fuzz/corpus").join(name));
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            fed(*feed, &fs::read(file).unwrap());
        }
    }
}

#[test]
fn every_corpus_belongs_to_a_target() {
    for entry in fs::read_dir(folder("../fuzz/corpus")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "{name}");
    }
}

#[test]
fn every_golden_message_is_taken_whole_cut_and_flipped() {
    let goldens = files(&folder("../../common/proto/tests/golden"));
    let mut fed_count = 0;
    for golden in goldens {
        let Ok(text) = fs::read_to_string(&golden) else {
            continue;
        };
        if golden
            .extension()
            .is_none_or(|extension| extension != "hex")
        {
            continue;
        }
        let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(digits.replace(' ', "").as_bytes())
            .unwrap();
        for (name, feed) in TARGETS {
            if ["messages", "admin", "journal", "local"].contains(name) {
                fed(*feed, &bytes);
            }
        }
        fed_count += 1;
    }
    assert!(
        fed_count > 100,
        "only {fed_count} golden messages were found"
    );
}

fn fed(feed: Feed, bytes: &[u8]) {
    feed(bytes);
    if bytes.len() > TOUCHED_BYTES_MAX {
        return;
    }
    for at in 0..bytes.len() {
        feed(&bytes[..at]);
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << (at % 8);
        feed(&flipped);
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
