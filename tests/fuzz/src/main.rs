//! libFuzzer around the target that the environment names; `tests/fuzz/run` sets it.
#![no_main]

use std::sync::LazyLock;

use cardea_fuzz_feed::{Feed, TARGETS};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Feed> = LazyLock::new(|| {
    let wanted = std::env::var("CARDEA_FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.iter().find(|(name, _)| *name == wanted);
    target.map_or_else(|| panic!("no target {wanted:?}"), |(_, feed)| *feed)
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
