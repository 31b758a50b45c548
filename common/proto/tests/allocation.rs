//! Memory grows with what has come, never with what was announced.
//!
//! One test in a binary of its own: it looks at the whole process.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a helper of a test fails by panicking"
)]

use cardea_proto::codec;
use samples::all;

mod samples;

/// What decoding may add to the address space: the decoder's own buffers, and the one mebibyte that
/// serde reserves at most for an announced list.
const GROWTH_KIB_MAX: u64 = 16 * 1024;

#[test]
fn announced_lengths_reserve_nothing() {
    let samples = all();
    for sample in &samples {
        (sample.again)(&sample.bytes).unwrap();
    }
    let before = peak_kib();
    for sample in &samples {
        for at in 0..sample.bytes.len() {
            for kind in [0x5b, 0x7b, 0x9b, 0xbb] {
                for size in [0x10, 0x7f, 0xff] {
                    let lie = [kind, size, 0, 0, 0, 0, 0, 0, 0];
                    let bytes = [&sample.bytes[..at], &lie].concat();
                    // Where it stands within a blob it may be content, and no lie.
                    drop((sample.again)(&bytes));
                }
            }
        }
    }
    let grown = peak_kib() - before;
    assert!(grown <= GROWTH_KIB_MAX, "{grown} KiB more");
    assert!(codec::decode_length([0xff; 4], 1_024).is_err());
}

/// The most address space that this process had so far.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmPeak:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
