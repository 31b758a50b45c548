//! Passes: the label with which a node comes in at a front that has no ledger.

use cardea_credential::knock::{Answer, FrontKey, PassDoor};
use cardea_proto::{codec::Secret32, time::testing};
use data_encoding::BASE32_NOPAD;

/// The one label of the corpus that opens, made at [`testing::start`] with the key below.
const LABEL: &str = include_str!("../../fuzz/corpus/passes/label");

const KEY: [u8; 32] = [7; 32];

/// A label as it stands in a server's name, and any bytes as what a label stands for.
pub(crate) fn passes(bytes: &[u8]) {
    if let Ok(label) = std::str::from_utf8(bytes) {
        knock(label);
    }
    knock(&BASE32_NOPAD.encode(bytes));
}

/// Knocks twice.
fn knock(label: &str) {
    let now = testing::start();
    let mut door = PassDoor::new(FrontKey::new(Secret32(KEY)), now);
    let mut knock = || door.knock_once(label, now).err();
    let (first, again) = (knock(), knock());
    if label.eq_ignore_ascii_case(LABEL) {
        assert_eq!((first, again), (None, Some(Answer::Replayed)));
    } else {
        assert!(first.is_some(), "a pass that nobody gave");
        assert_eq!(first, again, "a stranger is remembered");
    }
}
