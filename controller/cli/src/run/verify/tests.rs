use std::{collections::BTreeSet, io::Cursor};

use cardea_credential::{
    admin::{admin_key_id, admin_public_key, sign_change},
    key::SoftwareKey,
};
use cardea_ledger::{checkpoint::LedgerKey, entry::Encoded, frame, seal::Nonces, tree::Tree};
use cardea_proto::{
    admin::{AdminChange, ChangeOrder},
    codec::Bytes,
    id::{AdminKeyId, ControllerId, DeviceId},
    ledger::{Actor, Change, Draft, Entry, Founded, Revision, User},
    time::UnixMillis,
};
use proptest::{prelude::*, sample::Index};

use super::*;

/// Frames' payloads of a ledger, segment by segment, as its controller writes them.
#[derive(Clone)]
pub(in crate::run) struct Ledger {
    segments: Vec<Vec<Vec<u8>>>,
    acknowledged: u64,
}

pub(in crate::run) fn key(seed: u8) -> LedgerKey {
    LedgerKey::from_seed(&"corp.example".parse().unwrap(), &[seed; 32]).unwrap()
}

fn admin() -> (SoftwareKey, AdminKeyId, [u8; 32]) {
    let key = SoftwareKey::from_seed(&[9; 32]).unwrap();
    let public = admin_public_key(&key).unwrap();
    (key, admin_key_id(&public), public)
}

fn drafts() -> Vec<Draft> {
    let (signer, id, public) = admin();
    let founded = Change::Founded(Founded {
        domain: "corp.example".parse().unwrap(),
        controller: ControllerId::from_bytes([1; 10]),
        root: Bytes([2; 32]),
        admin: (id, public.to_vec().into()),
        ticket_key: vec![3; 32].into(),
        ledger_key: key(1).verifier().public().to_vec().into(),
    });
    let draft = |at, actor, change| Draft {
        at: UnixMillis(at),
        actor,
        changes: vec![change],
        decision: None,
        signed: None,
    };
    let controller = Actor::Controller(ControllerId::from_bytes([1; 10]));
    let mut drafts = vec![draft(1_000, controller.clone(), founded)];
    for number in 1..8 {
        let site: cardea_proto::name::Name = format!("site-{number}").parse().unwrap();
        let at = 1_000 + number * 400;
        if number % 2 == 0 {
            let device = DeviceId::from_bytes([5; 10]);
            let compliant = number % 4 == 0;
            let appraised = Change::Appraised { device, compliant };
            drafts.push(draft(at, controller.clone(), appraised));
            continue;
        }
        let order = ChangeOrder {
            domain: "corp.example".parse().unwrap(),
            nonce: Bytes([4; 16]),
            sequence: number,
            at: UnixMillis(at),
            change: AdminChange::SiteAdd(site.clone()),
        };
        let mut signed = draft(at, Actor::Admin(id), Change::SiteAdded(site));
        signed.signed = Some(sign_change(&order, &signer).unwrap());
        drafts.push(signed);
    }
    drafts
}

/// Chains drafts into a ledger of two segments with a checkpoint after every third entry.
fn ledger(drafts: Vec<Draft>, key: &LedgerKey) -> Ledger {
    let mut tree = Tree::new();
    let mut previous = Bytes([0; 32]);
    let mut segments = vec![Vec::new(), Vec::new()];
    let count = drafts.len();
    for (revision, draft) in (1..).zip(drafts) {
        let encoded = Encoded::new(Entry {
            revision: Revision(revision),
            previous,
            draft,
        });
        previous = encoded.hash;
        tree.push(encoded.hash);
        let segment = &mut segments[usize::from(revision > 4)];
        segment.push(encoded.bytes);
        if revision % 3 == 0 {
            segment.push(key.sign(tree.size(), tree.root(), 0).unwrap().into_bytes());
        }
    }
    Ledger {
        segments,
        acknowledged: count.try_into().unwrap(),
    }
}

pub(in crate::run) fn genuine() -> Ledger {
    ledger(drafts(), &key(1))
}

impl Ledger {
    /// Writes it as files whose headers, checksums and mark fit what is in them.
    pub(in crate::run) fn write(&self, dir: &Path) {
        self.write_sealed(dir, None);
    }

    /// The same, sealed where there is a key; tells where each header and frame begins.
    fn write_sealed(&self, dir: &Path, key: Option<&DataKey>) -> Vec<Begin> {
        let mut begins = Vec::new();
        let mut end = 0;
        let (mut first, mut previous) = (1, Bytes([0; 32]));
        let mut nonces = Nonces::new([6; 8]);
        for (number, payloads) in (1..).zip(&self.segments) {
            let header = segment::Header {
                is_sealed: key.is_some(),
                number,
                first: Revision(first),
                previous,
            };
            let mut bytes = header.bytes();
            let mut begin = |segment, at, entry| begins.push(Begin { segment, at, entry });
            begin(number, 0, first);
            for payload in payloads {
                let at = bytes.len();
                begin(number, at, first);
                match key.map(|key| key.segment(&header).unwrap()) {
                    None => frame::append(&mut bytes, payload),
                    Some(key) => {
                        let sealed = key.seal(wide(at), nonces.draw().unwrap(), payload);
                        frame::append(&mut bytes, &sealed.unwrap());
                    }
                }
                if !payload[0].is_ascii() {
                    first += 1;
                    previous = cardea_ledger::tree::leaf(payload);
                }
            }
            end = wide(bytes.len());
            std::fs::write(dir.join(segment::name(number)), bytes).unwrap();
        }
        let mark = Mark {
            end: Place {
                segment: self.segments.len().try_into().unwrap(),
                offset: end,
            },
            revision: Revision(self.acknowledged),
        };
        std::fs::write(dir.join(mark::NAME), mark.bytes()).unwrap();
        begins
    }

    fn checked(&self) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path());
        verify(dir.path(), None)
    }
}

/// Where a header or a frame begins, and which entry is the first that is not before it.
struct Begin {
    segment: u64,
    at: usize,
    entry: u64,
}

fn verify(dir: &Path, since: Option<&str>) -> Result<String, String> {
    verify_before(dir, since, true).map(|(out, _)| out)
}

/// What is printed, and what a person sees meanwhile.
fn verify_before(
    dir: &Path,
    since: Option<&str>,
    is_person: bool,
) -> Result<(String, String), String> {
    let place = tempfile::tempdir().unwrap();
    let since = since.map(|note| {
        let path = place.path().join("checkpoint");
        std::fs::write(&path, note).unwrap();
        path
    });
    let what = Verify {
        unlock: None,
        ledger: Some(dir.to_owned()),
        key: key(1).verifier().to_string(),
        since,
    };
    let settings = Settings {
        socket: PathBuf::new(),
        key: PathBuf::new(),
        format: Format::Json,
        yes: false,
    };
    let [out, talk] = [0, 1].map(|_| std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
    let mut console = Console::new(
        Box::new(Shared(std::sync::Arc::clone(&out))),
        Box::new(Shared(std::sync::Arc::clone(&talk))),
        Box::new(Cursor::new("")),
        is_person,
    );
    run(&what, &settings, &mut console).map_err(|failure| failure.message)?;
    let [out, talk] =
        [out, talk].map(|text| String::from_utf8(text.lock().unwrap().clone()).unwrap());
    Ok((out, talk))
}

struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_genuine_ledger_holds_and_is_counted() {
    let printed = genuine().checked().unwrap();
    let row: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(row["entries"], 8);
    assert_eq!(row["checkpoints"], 2);
    assert_eq!(row["admin_signatures"], 4);
    assert_eq!(row["covered"], 6);
}

#[test]
fn every_flipped_byte_is_found_and_the_first_bad_entry_named() {
    every_flip_is_named(None);
}

#[test]
fn every_flipped_byte_of_a_sealed_ledger_is_found_and_the_first_bad_entry_named() {
    every_flip_is_named(Some(DataKey::new([8; 32].into())));
}

fn every_flip_is_named(seal: Option<DataKey>) {
    let dir = tempfile::tempdir().unwrap();
    let begins = genuine().write_sealed(dir.path(), seal.as_ref());
    let check = || {
        let ledger = Copy::open(dir.path()).unwrap();
        let mut console = nobody();
        let walk = Walk {
            ledger: &ledger,
            key: seal.clone(),
            audit: Audit::new(key(1).verifier().clone(), None),
            read: 0,
            console: &mut console,
        };
        walk.run().map(|checked| checked.report.entries)
    };
    assert_eq!(check().unwrap(), 8);
    for number in [1, 2] {
        let path = dir.path().join(segment::name(number));
        let genuine = std::fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for (at, byte) in genuine.iter().enumerate() {
            let is_behind = |begin: &&Begin| begin.segment == number && begin.at <= at;
            let begin = begins.iter().rfind(is_behind).unwrap();
            let put = |byte| file.write_all_at(&[byte], wide(at)).unwrap();
            put(byte ^ 1);
            let error = check().expect_err("a flipped byte").message;
            put(*byte);
            let entry = format!("entry {}: ", begin.entry);
            let place = format!("({}, byte {})", path.display(), begin.at);
            assert!(error.starts_with(&entry), "{at}: {entry}{error}");
            assert!(error.contains(&place), "{at}: {place}: {error}");
        }
    }
}

fn nobody() -> Console {
    let sink = || Box::new(io::sink());
    Console::new(sink(), sink(), Box::new(Cursor::new("")), false)
}

#[test]
fn whatever_is_missing_from_the_end_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    genuine().write(dir.path());
    let path = dir.path().join(segment::name(2));
    let genuine = std::fs::read(&path).unwrap();
    for length in 0..genuine.len() {
        std::fs::write(&path, &genuine[..length]).unwrap();
        assert!(verify(dir.path(), None).is_err(), "{length} bytes");
    }
    std::fs::remove_file(&path).unwrap();
    let error = verify(dir.path(), None).unwrap_err();
    assert!(error.contains("entry 8 was acknowledged"), "{error}");
}

#[test]
fn a_torn_write_behind_what_was_acknowledged_is_none_of_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    genuine().write(dir.path());
    let path = dir.path().join(segment::name(2));
    let genuine = std::fs::read(&path).unwrap();
    for (behind, torn) in [(&[0, 0, 1][..], 3), (&[0; 500][..], 0)] {
        std::fs::write(&path, [&genuine, behind].concat()).unwrap();
        let printed = verify(dir.path(), None).unwrap();
        let row: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(row["unacknowledged_bytes"], torn);
    }
}

proptest! {
    /// Frames that were removed, doubled or swapped by somebody who makes the checksums, the headers
    /// and the mark fit.
    #[test]
    fn frames_out_of_their_place_are_found(
        segment in 0_usize..2, one: Index, other: Index, kind in 0..4,
    ) {
        let mut touched = genuine();
        let payloads = &mut touched.segments[segment];
        let (one, other) = (one.index(payloads.len()), other.index(payloads.len()));
        match kind {
            0 => {
                payloads.remove(one);
            }
            1 => payloads.insert(other, payloads[one].clone()),
            2 if one != other => payloads.swap(one, other),
            _ => {
                let payload = &mut payloads[one];
                let at = other % payload.len();
                payload[at] ^= 0x10;
            }
        }
        let only_a_checkpoint_less = kind == 0 && genuine().segments[segment][one][0].is_ascii();
        // The last entry is behind the last checkpoint: nobody has signed it yet.
        prop_assume!(kind != 3 || segment == 0 || one + 1 < genuine().segments[1].len());
        let same = touched.segments == genuine().segments;
        prop_assert_eq!(touched.checked().is_ok(), same || only_a_checkpoint_less);
    }
}

#[test]
fn a_history_that_was_written_anew_is_found_at_its_first_checkpoint() {
    let mut drafts = drafts();
    drafts[4].at = UnixMillis(2_601);
    let mut forged = ledger(drafts, &key(1));
    // The forger has no key: the checkpoints are the old ones.
    forged.segments[1][2] = genuine().segments[1][2].clone();
    let error = forged.checked().unwrap_err();
    assert!(error.contains("signed over other entries"), "{error}");
    assert!(error.starts_with("entry 7"), "{error}");
    let error = ledger(self::drafts(), &key(2)).checked().unwrap_err();
    assert!(error.contains("not signed by the ledger's key"), "{error}");
}

#[test]
fn an_admins_entry_needs_the_admins_signature() {
    let mut unsigned = drafts();
    unsigned[1].signed = None;
    let error = ledger(unsigned, &key(1)).checked().unwrap_err();
    assert!(error.contains("carries no signature"), "{error}");
    let mut forged = drafts();
    forged[3].signed = forged[1].signed.clone();
    forged[3].signed.as_mut().unwrap().signature.0[5] ^= 1;
    let error = ledger(forged, &key(1)).checked().unwrap_err();
    assert!(
        error.starts_with("entry 4: the admin's signed request"),
        "{error}"
    );
}

/// The key of a map and the one behind it change places: the same entry in other bytes.
fn swapped(encoded: &[u8], one: &str, other: &str) -> Vec<u8> {
    let mut entry: ciborium::Value = ciborium::from_reader(encoded).unwrap();
    let pairs = entry.as_map_mut().unwrap();
    let draft = pairs
        .iter_mut()
        .find(|(key, _)| key.as_text() == Some("draft"));
    let draft = draft.unwrap().1.as_map_mut().unwrap();
    let place = |name| {
        draft
            .iter()
            .position(|(key, _)| key.as_text() == Some(name))
    };
    let (one, other) = (place(one).unwrap(), place(other).unwrap());
    draft.swap(one, other);
    let mut bytes = Vec::new();
    ciborium::into_writer(&entry, &mut bytes).unwrap();
    assert_ne!(bytes, encoded);
    bytes
}

#[test]
fn an_entry_in_other_bytes_needs_the_admins_signature_all_the_same() {
    let unsigned = |actor: Option<Actor>| {
        let mut draft = drafts().remove(1);
        draft.signed = None;
        draft.actor = actor.unwrap_or(draft.actor);
        [drafts().remove(0), draft]
    };
    let controller = Actor::Controller(ControllerId::from_bytes([1; 10]));
    for (actor, expected) in [
        (None, "carries no signature"),
        (Some(controller), "only an admin"),
    ] {
        for (one, other) in [
            ("decision", "signed"),
            ("changes", "signed"),
            ("at", "actor"),
        ] {
            let mut touched = ledger(unsigned(actor.clone()).to_vec(), &key(1));
            let payload = touched.segments[0].pop().unwrap();
            touched.segments[0].push(swapped(&payload, one, other));
            touched.segments.pop();
            let error = touched.checked().unwrap_err();
            assert!(
                error.starts_with("entry 2") && error.contains(expected),
                "{one}: {error}"
            );
        }
    }
}

#[test]
fn a_domain_is_founded_once() {
    let mut drafts = drafts();
    drafts[2].changes = drafts[0].changes.clone();
    let error = ledger(drafts, &key(1)).checked().unwrap_err();
    assert!(
        error.starts_with("entry 3") && error.contains("only an admin"),
        "{error}"
    );
}

#[test]
fn an_epoch_begins_with_an_admins_acknowledgment_and_not_by_the_ledgers_key_alone() {
    let signed_in = |epoch| {
        let mut drafts = drafts();
        let (signer, id, _) = admin();
        let order = ChangeOrder {
            domain: "corp.example".parse().unwrap(),
            nonce: Bytes([4; 16]),
            sequence: 100,
            at: UnixMillis(2_600),
            change: AdminChange::RollbackAcknowledge,
        };
        drafts[4] = Draft {
            at: UnixMillis(2_600),
            actor: Actor::Admin(id),
            changes: vec![Change::RollbackAcknowledged],
            decision: None,
            signed: Some(sign_change(&order, &signer).unwrap()),
        };
        let mut ledger = ledger(drafts, &key(1));
        let note = String::from_utf8(ledger.segments[1].remove(2)).unwrap();
        let checkpoint = key(1).verifier().verify(&note).unwrap();
        let note = key(1)
            .sign(checkpoint.size, checkpoint.root, epoch)
            .unwrap();
        ledger.segments[1].insert(2, note.into_bytes());
        ledger.checked()
    };
    assert!(signed_in(1).is_ok());
    for said in [0, 2] {
        let error = signed_in(said).unwrap_err();
        let expected = format!("says epoch {said}, but 1 rollbacks were acknowledged");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn a_signed_request_stands_for_what_it_asks_for_once_and_in_its_domain() {
    let site = |name: &str| Change::SiteAdded(name.parse().unwrap());
    let checked = |change: &dyn Fn(&mut Vec<Draft>)| {
        let mut drafts = drafts();
        change(&mut drafts);
        ledger(drafts, &key(1)).checked().unwrap_err()
    };
    // Another site than the one that was signed for, and one besides.
    let error = checked(&|drafts| drafts[3].changes = vec![site("other")]);
    assert!(
        error.contains("entry 4") && error.contains("something else"),
        "{error}"
    );
    let error = checked(&|drafts| drafts[3].changes.push(site("other")));
    assert!(error.contains("something else"), "{error}");
    let error = checked(&|drafts| drafts[3].changes.clear());
    assert!(error.contains("something else"), "{error}");
    // Carried out twice.
    let error = checked(&|drafts| drafts[5] = drafts[3].clone());
    assert!(
        error.contains("entry 6") && error.contains("carried out before"),
        "{error}"
    );
    // Without an admin, in the controller's name.
    let error = checked(&|drafts| drafts[2].changes = vec![site("other")]);
    assert!(
        error.contains("entry 3") && error.contains("only an admin"),
        "{error}"
    );
    let user = User {
        name: "alice".parse().unwrap(),
        groups: BTreeSet::new(),
    };
    for change in [Change::RollbackAcknowledged, Change::UserSet(user)] {
        let error = checked(&|drafts| drafts[2].changes = vec![change.clone()]);
        assert!(error.contains("only an admin"), "{error}");
    }
    // Of another domain of the same admin.
    let error = checked(&|drafts| {
        let (signer, ..) = admin();
        let order = ChangeOrder {
            domain: "other.example".parse().unwrap(),
            nonce: Bytes([4; 16]),
            sequence: 3,
            at: UnixMillis(1),
            change: AdminChange::SiteAdd("site-3".parse().unwrap()),
        };
        drafts[3].signed = Some(sign_change(&order, &signer).unwrap());
    });
    assert!(error.contains("other.example"), "{error}");
}

#[test]
fn a_ledger_is_held_against_a_checkpoint_that_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let genuine = genuine();
    let last = String::from_utf8(genuine.segments[1][2].clone()).unwrap();
    genuine.write(dir.path());
    assert!(verify(dir.path(), Some(&last)).is_ok());
    // Rolled back to its first three entries, whose mark was made to fit.
    let earlier = Ledger {
        segments: vec![genuine.segments[0][..4].to_vec()],
        acknowledged: 3,
    };
    std::fs::remove_file(dir.path().join(segment::name(2))).unwrap();
    earlier.write(dir.path());
    assert!(verify(dir.path(), None).is_ok());
    let error = verify(dir.path(), Some(&last)).unwrap_err();
    assert!(error.contains("rolled back"), "{error}");
    // Written anew by somebody who has the ledger's key.
    let mut drafts = drafts();
    drafts[4].at = UnixMillis(2_601);
    let forked = ledger(drafts, &key(1));
    forked.write(dir.path());
    assert!(verify(dir.path(), None).is_ok());
    let error = verify(dir.path(), Some(&last)).unwrap_err();
    assert!(
        error.contains("not those that the known checkpoint"),
        "{error}"
    );
}

#[test]
fn entries_that_no_checkpoint_covers_for_long_are_suspicious() {
    let mut drafts = drafts();
    drafts[7].at = UnixMillis(500_000);
    let error = ledger(drafts, &key(1)).checked().unwrap_err();
    assert!(
        error.contains("no checkpoint covers the entries from 7 on"),
        "{error}"
    );
}

#[test]
fn a_person_sees_how_far_it_has_come_and_nobody_else_does() {
    let dir = tempfile::tempdir().unwrap();
    genuine().write(dir.path());
    let (out, talk) = verify_before(dir.path(), None, true).unwrap();
    let steps: Vec<&str> = talk.split("\r\x1b[K").collect();
    // One in each segment, and none is left behind.
    assert!(
        matches!(steps[..], ["", first, second, ""]
            if first.ends_with(" %, entry 1") && second.ends_with(" %, entry 5")),
        "{steps:?}"
    );
    let (quiet, nothing) = verify_before(dir.path(), None, false).unwrap();
    assert_eq!((quiet, nothing), (out, String::new()));
}

#[test]
fn a_folder_without_a_ledger_and_a_key_that_is_none_are_said() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        verify(dir.path(), None)
            .unwrap_err()
            .contains("no ledger here")
    );
    assert!(
        verifier("x")
            .unwrap_err()
            .message
            .contains("not a ledger's public key")
    );
}

#[test]
fn whoever_checks_a_copy_without_its_mark_is_told_what_cannot_be_told() {
    let dir = tempfile::tempdir().unwrap();
    genuine().write(dir.path());
    let said = || verify_before(dir.path(), None, false).unwrap().1;
    assert!(!said().contains("missing at its end"), "{}", said());
    std::fs::remove_file(dir.path().join(mark::NAME)).unwrap();
    assert!(said().contains("missing at its end"), "{}", said());
}
