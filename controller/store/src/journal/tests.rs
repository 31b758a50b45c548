#![expect(clippy::as_conversions, reason = "lengths of a test fit every integer")]

use std::io::ErrorKind;

use cardea_proto::{
    codec::Digest,
    id::ControllerId,
    ledger::{Actor, Change, Draft, Entry, Revision},
    time::UnixMillis,
};

use super::*;
use crate::disk::faulty::{FaultyDisk, Operation};

/// Small enough that a few entries fill a segment.
const SEGMENT: u64 = 700;

/// Small enough that a few entries fill it.
const RESERVE: u64 = 400;

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_what_was_acknowledged_stays() {
    let disk = FaultyDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    append(&mut journal, &["a", "b"]);
    let acknowledged = disk.bytes("0001.seg").len();
    let mark = disk.bytes("acknowledged");
    append(&mut journal, &["c", "d"]);
    let all = disk.bytes("0001.seg");
    let boundary = frame_end(&all, acknowledged);
    for length in acknowledged..=all.len() {
        let torn = disk
            .with("0001.seg", |bytes| bytes.truncate(length))
            .with("acknowledged", |bytes| bytes.clone_from(&mark));
        let (mut journal, cut) = open(&torn).unwrap();
        let whole = [acknowledged, boundary, all.len()];
        let kept = whole.iter().rposition(|end| *end <= length).unwrap();
        assert_eq!(
            journal.head().revision,
            Revision(2 + kept as u64),
            "{length}"
        );
        // Zeros are space that was reserved, and no write.
        let blank = all[whole[kept]..length].iter().all(|byte| *byte == 0);
        let expected = if blank {
            0
        } else {
            (length - whole[kept]) as u64
        };
        assert_eq!(cut.map_or(0, |cut| cut.bytes), expected, "{length}");
        append(&mut journal, &["e"]);
        let (journal, cut) = open(&torn).unwrap();
        assert_eq!(journal.head().revision, Revision(3 + kept as u64));
        assert_eq!(cut, None);
    }
}

#[test]
fn a_write_torn_within_reserved_space_is_cut_and_what_was_acknowledged_stays() {
    let disk = FaultyDisk::default();
    let (mut journal, _) = open_with(&disk, RESERVE).unwrap();
    append(&mut journal, &["a"]);
    let begin = journal.end.offset as usize;
    let (before, mark) = (disk.bytes("0001.seg"), disk.bytes("acknowledged"));
    append(&mut journal, &["b"]);
    let end = journal.end.offset as usize;
    let after = disk.bytes("0001.seg");
    assert_eq!(before.len(), after.len(), "the space was reserved");
    for written in begin..=end {
        let torn = disk
            .with("0001.seg", |bytes| {
                bytes[written..].copy_from_slice(&before[written..]);
            })
            .with("acknowledged", |bytes| bytes.clone_from(&mark));
        let (mut journal, cut) = open_with(&torn, RESERVE).unwrap();
        let whole = after[written..end].iter().all(|byte| *byte == 0);
        assert_eq!(journal.head().revision.0, 1 + u64::from(whole), "{written}");
        let blank = after[begin..written].iter().all(|byte| *byte == 0);
        assert_eq!(cut.is_none(), whole || blank, "{written}");
        append(&mut journal, &["c", "d", "e"]);
        let (again, cut) = open_with(&torn, RESERVE).unwrap();
        assert_eq!((again.head(), cut), (journal.head(), None));
    }
}

#[test]
fn what_is_left_of_reserved_space_is_no_torn_write_however_little_it_is() {
    let disk = FaultyDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    append(&mut journal, &["a"]);
    for bytes in 0..20 {
        let reserved = disk.with("0001.seg", |file| file.resize(file.len() + bytes, 0));
        let (mut again, cut) = open_with(&reserved, RESERVE).unwrap();
        assert_eq!((again.head(), cut), (journal.head(), None), "{bytes}");
        append(&mut again, &["b"]);
        let (once_more, cut) = open_with(&reserved, RESERVE).unwrap();
        assert_eq!((once_more.head(), cut), (again.head(), None), "{bytes}");
    }
}

#[test]
fn a_full_segment_keeps_nothing_of_what_was_reserved() {
    let disk = FaultyDisk::default();
    let (mut journal, _) = open_with(&disk, RESERVE).unwrap();
    while !disk.all().contains(&"0003.seg".to_owned()) {
        append(&mut journal, &["a", "b"]);
    }
    for name in ["0001.seg", "0002.seg"] {
        for at in 0..disk.bytes(name).len() {
            let flipped = disk.with(name, |bytes| bytes[at] ^= 0x10);
            assert!(damaged(open_with(&flipped, RESERVE)), "{name} {at}");
        }
        let longer = disk.with(name, |bytes| bytes.extend([0; 9]));
        assert!(damaged(open_with(&longer, RESERVE)), "{name}");
    }
    let (again, cut) = open_with(&disk, RESERVE).unwrap();
    assert_eq!((again.head(), cut), (journal.head(), None));
}

#[test]
fn without_room_to_reserve_what_there_is_room_for_is_taken() {
    let disk = FaultyDisk::default();
    let (mut journal, _) = open_with(&disk, RESERVE).unwrap();
    let used: usize = disk.all().iter().map(|name| disk.bytes(name).len()).sum();
    disk.set_space(Some(used + 300));
    append(&mut journal, &["a"]);
    let batch = encoded(journal.head(), &["b", "c"]);
    assert_eq!(journal.append(&batch), Err(AppendError::Full));
    disk.set_space(None);
    append(&mut journal, &["b", "c"]);
    assert_eq!(open_with(&disk, RESERVE).unwrap().0.head(), journal.head());
}

#[test]
fn every_flipped_byte_of_an_acknowledged_journal_is_found_and_named() {
    let disk = three_segments();
    for name in ["0001.seg", "0002.seg", "0003.seg"] {
        for at in 0..disk.bytes(name).len() {
            let flipped = disk.with(name, |bytes| bytes[at] ^= 0x10);
            match open(&flipped) {
                Err(LoadError::Damaged { file, offset, .. }) => {
                    assert_eq!(file, disk.path(name));
                    assert!(offset <= at as u64, "{name} {at} {offset}");
                }
                other => panic!("{name} {at}: {other:?}"),
            }
            assert_eq!(flipped.bytes(name).len(), disk.bytes(name).len());
        }
    }
}

#[test]
fn a_damaged_mark_loses_nothing_and_is_made_again() {
    let disk = three_segments();
    let (journal, _) = open(&disk).unwrap();
    for at in 0..disk.bytes("acknowledged").len() {
        let flipped = disk.with("acknowledged", |bytes| bytes[at] ^= 0x10);
        let (opened, cut) = open(&flipped).unwrap();
        assert_eq!((opened.head(), cut), (journal.head(), None));
        assert_eq!(flipped.bytes("acknowledged"), disk.bytes("acknowledged"));
    }
}

#[test]
fn without_a_mark_nothing_is_cut() {
    let disk = three_segments().without("acknowledged");
    assert!(open(&disk.with("0003.seg", |bytes| bytes.push(1))).is_err());
    assert!(open(&disk).is_ok());
}

#[test]
fn acknowledged_entries_that_are_gone_are_damage_wherever_the_cut_is() {
    let disk = three_segments();
    for name in ["0001.seg", "0002.seg", "0003.seg"] {
        assert!(damaged(open(&disk.without(name))), "{name}");
        for length in 0..disk.bytes(name).len() {
            let shorter = disk.with(name, |bytes| bytes.truncate(length));
            assert!(damaged(open(&shorter)), "{name} {length}");
        }
    }
}

#[test]
fn segments_in_each_others_place_are_damage() {
    let disk = three_segments();
    let (second, third) = (disk.bytes("0002.seg"), disk.bytes("0003.seg"));
    let swapped = disk
        .with("0002.seg", |bytes| *bytes = third)
        .with("0003.seg", |bytes| *bytes = second);
    assert!(damaged(open(&swapped)));
}

#[test]
fn entries_are_read_across_segments() {
    let disk = three_segments();
    let (journal, _) = open(&disk).unwrap();
    let last = journal.head().revision.0;
    for first in 1..=last {
        let entries = journal
            .reading()
            .entries(Revision(first), 100, None)
            .unwrap();
        let revisions: Vec<u64> = entries.iter().map(|entry| entry.revision.0).collect();
        assert_eq!(revisions, (first..=last).collect::<Vec<_>>());
    }
}

#[test]
fn a_full_disk_takes_nothing_and_recovers_when_space_returns() {
    let disk = FaultyDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    append(&mut journal, &["a"]);
    let used: usize = disk.all().iter().map(|name| disk.bytes(name).len()).sum();
    let before = disk.bytes("0001.seg");
    for space in 0..100 {
        disk.set_space(Some(used + space));
        let batch = encoded(journal.head(), &["b"]);
        assert_eq!(journal.append(&batch), Err(AppendError::Full), "{space}");
        assert_eq!(disk.bytes("0001.seg"), before);
    }
    disk.set_space(None);
    append(&mut journal, &["b", "c"]);
    assert_eq!(open(&disk).unwrap().0.head(), journal.head());
}

#[test]
fn a_full_disk_at_the_beginning_of_a_segment_leaves_no_segment_behind() {
    let disk = FaultyDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    while disk.bytes("0001.seg").len() < SEGMENT as usize {
        append(&mut journal, &["a"]);
    }
    let used: usize = disk.all().iter().map(|name| disk.bytes(name).len()).sum();
    disk.set_space(Some(used + 10));
    let batch = encoded(journal.head(), &["b"]);
    assert_eq!(journal.append(&batch), Err(AppendError::Full));
    assert_eq!(disk.all(), ["0001.seg", "acknowledged"]);
    disk.set_space(None);
    append(&mut journal, &["b"]);
    assert_eq!(disk.all(), ["0001.seg", "0002.seg", "acknowledged"]);
    assert_eq!(open(&disk).unwrap().0.head(), journal.head());
}

#[test]
fn after_an_error_of_the_disk_nothing_is_accepted_until_the_journal_is_opened_again() {
    for (operation, kind) in [
        (Operation::Write, ErrorKind::Other),
        (Operation::Write, ErrorKind::ReadOnlyFilesystem),
        (Operation::Sync, ErrorKind::Other),
        (Operation::Sync, ErrorKind::StorageFull),
    ] {
        let disk = FaultyDisk::default();
        let (mut journal, _) = open(&disk).unwrap();
        append(&mut journal, &["a"]);
        let acknowledged = journal.head();
        disk.fail(operation, 0, kind);
        for _ in 0..3 {
            let batch = encoded(journal.head(), &["b"]);
            let refused = journal.append(&batch);
            assert!(
                matches!(refused, Err(AppendError::Latched(_))),
                "{operation:?} {kind:?}"
            );
        }
        assert_eq!(journal.head(), acknowledged);
        let (mut journal, _) = open(&disk).unwrap();
        assert!(journal.head().revision >= acknowledged.revision);
        append(&mut journal, &["c"]);
    }
}

#[test]
fn what_a_failed_sync_left_in_memory_is_written_again_before_it_counts() {
    for segments in [0, 1] {
        let disk = FaultyDisk::default();
        let (mut journal, _) = open(&disk).unwrap();
        append(&mut journal, &["a"]);
        while disk.all().len() < 2 + segments {
            append(&mut journal, &["b"]);
        }
        disk.fail(Operation::Sync, 0, ErrorKind::Other);
        let batch = encoded(journal.head(), &["c", "d"]);
        assert!(journal.append(&batch).is_err());
        let (mut journal, _) = open(&disk).unwrap();
        append(&mut journal, &["e"]);
        let head = journal.head();
        for seed in 0..50 {
            let (opened, _) = open(&disk.after_power_loss(seed)).unwrap();
            assert_eq!(opened.head(), head, "{segments} {seed}");
        }
    }
}

#[test]
fn damage_before_the_last_checkpoint_is_damage_although_the_power_went() {
    let disk = FaultyDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    append(&mut journal, &["a", "b"]);
    let begin = disk.bytes("0001.seg").len();
    append(&mut journal, &["c"]);
    journal.note("corp.example/ledger\n").unwrap();
    let covered = journal.end.offset as usize;
    append(&mut journal, &["d"]);
    for seed in 0..20 {
        let left = disk.after_power_loss(seed);
        for at in begin..covered {
            let flipped = left.with("0001.seg", |bytes| bytes[at] ^= 0x10);
            assert!(damaged(open(&flipped)), "{seed} {at}");
        }
    }
}

#[test]
fn a_write_that_cannot_be_undone_is_no_full_disk() {
    let disk = FaultyDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    append(&mut journal, &["a"]);
    let used: usize = disk.all().iter().map(|name| disk.bytes(name).len()).sum();
    disk.set_space(Some(used + 5));
    disk.fail(Operation::Truncate, 0, ErrorKind::Other);
    let batch = encoded(journal.head(), &["b"]);
    assert!(matches!(
        journal.append(&batch),
        Err(AppendError::Latched(_))
    ));
    disk.set_space(None);
    let (journal, cut) = open(&disk).unwrap();
    assert_eq!(journal.head().revision, Revision(1));
    assert_eq!(cut.unwrap().bytes, 5);
}

#[test]
fn whatever_fails_while_a_segment_begins_the_next_start_goes_on() {
    for operation in [
        Operation::Create,
        Operation::Write,
        Operation::Sync,
        Operation::SyncFolder,
        Operation::Truncate,
    ] {
        let disk = FaultyDisk::default();
        let (mut journal, _) = open(&disk).unwrap();
        while disk.bytes("0001.seg").len() < SEGMENT as usize {
            append(&mut journal, &["a"]);
        }
        disk.fail(operation, 0, ErrorKind::Other);
        let batch = encoded(journal.head(), &["b"]);
        assert!(journal.append(&batch).is_err(), "{operation:?}");
        let (mut opened, _) = open(&disk).unwrap();
        assert_eq!(opened.head(), journal.head());
        append(&mut opened, &["b"]);
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_with_its_name() {
    for operation in [Operation::Create, Operation::Write, Operation::Sync] {
        let disk = FaultyDisk::default();
        disk.fail(operation, 0, ErrorKind::ReadOnlyFilesystem);
        let Err(LoadError::Io { path, source, .. }) = open(&disk) else {
            panic!("{operation:?}");
        };
        assert!(path.starts_with("ledger"));
        assert_eq!(source.kind(), ErrorKind::ReadOnlyFilesystem);
    }
}

#[test]
fn what_was_acknowledged_survives_the_loss_of_power_at_every_step() {
    let (mut cut_short, all) = (0, power_losses(2_000));
    for seed in 0..all {
        let reserve = if seed % 2 == 0 { 0 } else { RESERVE };
        let disk = FaultyDisk::default();
        let (mut journal, _) = open_with(&disk, reserve).unwrap();
        for _ in 0..seed % 7 {
            append(&mut journal, &["a", "b", "c"]);
        }
        let acknowledged = journal.head();
        // The last batch is written, and the power goes before its sync returns.
        disk.fail(Operation::Sync, (seed % 3) as usize, ErrorKind::Other);
        let batch = encoded(journal.head(), &["d", "e", "f"]);
        let last = journal.append(&batch).map(|_| journal.head());
        cut_short += u64::from(last.is_err());
        let left = disk.after_power_loss(seed);
        let opened = open_with(&left, reserve);
        let (mut opened, _) = opened.unwrap_or_else(|error| panic!("{seed}: {error}"));
        let least = last.unwrap_or(acknowledged);
        assert!(opened.head().revision >= least.revision, "{seed}");
        if least.revision.0 > 0 {
            let hash = opened.reading().leaves(least.revision, 1, None).unwrap();
            assert_eq!(hash, [least.hash], "{seed}");
        }
        append(&mut opened, &["g"]);
    }
    assert!(
        cut_short * 4 > all,
        "only {cut_short} of {all} were cut short"
    );
}

/// How often the power goes: a campaign asks for more than a test.
#[expect(
    clippy::disallowed_methods,
    reason = "the campaign's command says how often"
)]
pub(crate) fn power_losses(in_a_test: u64) -> u64 {
    let asked = std::env::var("CARDEA_POWER_LOSSES");
    asked.map_or(in_a_test, |asked| asked.parse().unwrap())
}

#[test]
fn a_founding_interrupted_anywhere_can_be_done_again() {
    for operation in [
        Operation::Create,
        Operation::Write,
        Operation::Sync,
        Operation::SyncFolder,
    ] {
        for skip in 0..4 {
            for seed in 0..20 {
                let disk = FaultyDisk::default();
                disk.fail(operation, skip, ErrorKind::Other);
                drop(open(&disk));
                let (mut journal, _) = open(&disk.after_power_loss(seed)).unwrap();
                append(&mut journal, &["a"]);
            }
        }
    }
}

fn three_segments() -> FaultyDisk {
    let disk = FaultyDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    while !disk.all().contains(&"0003.seg".to_owned()) {
        append(&mut journal, &["a", "b"]);
    }
    append(&mut journal, &["c"]);
    disk
}

fn open(disk: &FaultyDisk) -> Result<(Journal, Option<TornTail>), LoadError> {
    open_with(disk, 0)
}

fn open_with(disk: &FaultyDisk, reserve: u64) -> Result<(Journal, Option<TornTail>), LoadError> {
    let sizes = Sizes {
        segment: SEGMENT,
        reserve,
        snapshot: SIZES.snapshot,
    };
    let closed = ClosedJournal::lock(Box::new(disk.clone()), sizes, None)?;
    let scan = closed.scan(&mut |_| Ok(()))?;
    closed.open(scan)
}

fn damaged(opened: Result<(Journal, Option<TornTail>), LoadError>) -> bool {
    matches!(opened, Err(LoadError::Damaged { .. }))
}

fn append(journal: &mut Journal, names: &[&str]) {
    let batch = encoded(journal.head(), names);
    journal.append(&batch).unwrap();
}

fn encoded(head: Head, names: &[&str]) -> Vec<Encoded> {
    let mut previous: Digest = head.hash;
    (head.revision.0 + 1..)
        .zip(names)
        .map(|(revision, name)| {
            let encoded = Encoded::new(Entry {
                revision: Revision(revision),
                previous,
                draft: Draft {
                    at: UnixMillis(1),
                    actor: Actor::Controller(ControllerId::from_bytes([1; 10])),
                    changes: vec![Change::SiteAdded(name.parse().unwrap())],
                    decision: None,
                    signed: None,
                },
            });
            previous = encoded.hash;
            encoded
        })
        .collect()
}

fn frame_end(bytes: &[u8], begin: usize) -> usize {
    let length = u32::from_be_bytes(bytes[begin..begin + 4].try_into().unwrap());
    begin + frame::HEADER_BYTES + length as usize
}
