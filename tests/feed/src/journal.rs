//! A ledger's files, as a disk or whoever had them may have left them.
#![expect(
    clippy::expect_used,
    reason = "what is made here is made of constants, or in a folder of our own"
)]

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::LazyLock,
};

use cardea_credential::{
    admin::{admin_key_id, admin_public_key, sign_change, verify_change},
    key::SoftwareKey,
};
use cardea_ledger::{
    audit::{Audit, Fault},
    checkpoint::{LedgerKey, Verifier},
    entry::{self, Encoded},
    frame,
    mark::{self, Mark},
    segment::{self, HEADER_BYTES, Next, Place, Reader},
    wide,
};
use cardea_proto::{
    admin::ChangeOrder,
    codec::{self, Bytes, Digest, MESSAGE_BYTES_MAX_ADMIN},
    id::ControllerId,
    ledger::{Actor, Change, Draft, Entry, Founded, Revision},
    name::Name,
    time::UnixMillis,
};
use cardea_store::repair::{Examination, examine};
use tempfile::TempDir;

use crate::same;

/// Of the ledger that the corpus has a segment of.
const LEDGER_SEED: [u8; 32] = [5; 32];

/// Of its admin.
const ADMIN_SEED: [u8; 32] = [9; 32];

static LEDGER: LazyLock<Ledger> = LazyLock::new(Ledger::new);

/// Any bytes as a whole file, and as what stands in the frames of one.
pub(crate) fn journal(bytes: &[u8]) {
    if let Some(mark) = Mark::parse(bytes) {
        assert_eq!(mark.bytes(), bytes);
    }
    if let Some(header) = segment::Header::parse(bytes) {
        assert_eq!(bytes.get(..HEADER_BYTES), Some(header.bytes().as_slice()));
    }
    same::<Entry>(bytes, MESSAGE_BYTES_MAX_ADMIN);
    file(bytes);
    drafts(bytes);
}

/// As a segment's file: frames come in their order and lie within it, and an auditor takes them or not.
fn file(bytes: &[u8]) {
    let mut audit = Audit::new(LEDGER.key.verifier().clone(), None);
    let Ok(mut reader) = Reader::at(&bytes, wide(HEADER_BYTES).min(wide(bytes.len()))) else {
        return;
    };
    let mut before = 0;
    while let Ok(Next::Frame { offset, payload }) = reader.advance() {
        assert!(offset >= before && payload.len() <= bytes.len());
        before = offset;
        if audit.record(payload).is_err() {
            break;
        }
    }
    drop(audit.finish(None));
    if segment::Header::parse(bytes).is_some() {
        scan(bytes);
    }
}

/// As drafts, each behind its length in two bytes, of entries that have their right place and chain
/// behind a genuine founding: what only an admin may change needs a request that he signed.
fn drafts(bytes: &[u8]) {
    let mut segment = LEDGER.header.clone();
    let mut audit = Audit::new(LEDGER.key.verifier().clone(), None);
    let mut head = LEDGER.founding.hash;
    audit
        .record(&LEDGER.founding.bytes)
        .expect("the founding holds");
    frame::append(&mut segment, &LEDGER.founding.bytes);
    let mut rest = bytes;
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(behind.len());
        let (draft, behind) = behind.split_at(len);
        rest = behind;
        let revision = audit.head().next();
        let payload = behind_head(revision, head, draft);
        if audit.record(&payload).is_ok() {
            may_stand(&payload);
            head = cardea_ledger::tree::leaf(&payload);
            frame::append(&mut segment, &payload);
        }
        let revision = audit.head().next();
        if let Some(entry) = signed_anew(revision, head, draft) {
            let once = audit.record(&entry.bytes);
            if once.is_ok() {
                head = entry.hash;
                frame::append(&mut segment, &entry.bytes);
                let again = Entry {
                    revision: revision.next(),
                    previous: head,
                    draft: entry.entry.draft,
                };
                let again = audit.record(&Encoded::new(again).bytes);
                assert_eq!(again, Err(Fault::Replayed), "an order is carried out twice");
            }
        }
    }
    if audit.head() > Revision(1) {
        segment.extend_from_slice(rest);
        scan(&segment);
    }
}

/// The bytes of an entry up to its draft, and then these.
fn behind_head(Revision(revision): Revision, previous: Digest, draft: &[u8]) -> Vec<u8> {
    let mut payload = b"\xa3\x68revision".to_vec();
    payload.extend_from_slice(&codec::encode(&revision));
    payload.extend_from_slice(b"\x68previous\x58\x20");
    payload.extend_from_slice(&previous.0);
    payload.extend_from_slice(b"\x65draft");
    payload.extend_from_slice(draft);
    payload
}

/// The entry of a draft whose request, where it has one, the admin has signed.
fn signed_anew(revision: Revision, previous: Digest, draft: &[u8]) -> Option<Encoded> {
    let mut draft: Draft = codec::decode(draft, MESSAGE_BYTES_MAX_ADMIN).ok()?;
    let body = draft.signed.as_ref()?.body.as_ref();
    let order: ChangeOrder = codec::decode(body, MESSAGE_BYTES_MAX_ADMIN).ok()?;
    let signed = sign_change(&order, &LEDGER.admin).ok()?;
    draft.actor = Actor::Admin(signed.key);
    draft.signed = Some(signed);
    Some(Encoded::new(Entry {
        revision,
        previous,
        draft,
    }))
}

/// An auditor has taken an entry: it is one that the admin has signed, or one that needs no admin.
fn may_stand(payload: &[u8]) {
    // What can be known of an entry without decoding it may be enough for an auditor; a controller decodes.
    let Ok(Entry { draft, .. }) = entry::decode(payload) else {
        return;
    };
    if let Some(signed) = &draft.signed {
        let is_his = verify_change(&LEDGER.admin_public, signed).is_ok();
        return assert!(is_his, "nobody but the admin has his key");
    }
    let is_admins = matches!(draft.actor, Actor::Admin(_));
    assert!(!is_admins, "an admin's entry without his signature");
    assert!(
        !draft.changes.iter().any(needs_admin),
        "a change that is an admin's alone"
    );
}

const fn needs_admin(change: &Change) -> bool {
    matches!(
        change,
        Change::Founded(_)
            | Change::InviteCreated(_)
            | Change::InviteRemoved(_)
            | Change::DeviceBlocked(_)
            | Change::DeviceUnblocked(_)
            | Change::NodeRemoved(_)
            | Change::SiteAdded(_)
            | Change::SiteRemoved(_)
            | Change::AppSet(_)
            | Change::AppRemoved(_)
            | Change::PolicySet(_)
            | Change::Allowed(_)
            | Change::Disallowed(_)
            | Change::RollbackAcknowledged
    )
}

/// As the one segment of a ledger that a controller starts with.
fn scan(bytes: &[u8]) {
    thread_local! {
        static FOLDER: TempDir = {
            let folder = tempfile::tempdir().expect("a folder");
            fs::create_dir(folder.path().join("ledger")).expect("a folder");
            folder
        };
    }
    FOLDER.with(|folder| examined(folder.path(), bytes));
}

fn examined(state: &Path, bytes: &[u8]) {
    let (file, mark) = (
        state.join("ledger").join(segment::name(1)),
        state.join("ledger").join(mark::NAME),
    );
    let end = |offset| Mark {
        end: Place { segment: 1, offset },
        revision: Revision(0),
    };
    write(&file, bytes);
    // All of it was acknowledged: nothing is cut.
    write(&mark, &end(wide(bytes.len())).bytes());
    if let Ok(Examination::Whole { torn, .. }) = examine(state, None) {
        let cuts = torn.is_some_and(|torn| torn.bytes > 0);
        assert!(!cuts, "what was acknowledged would be cut");
    }
    // Nothing was: what is left when the rest was cut is whole.
    write(&mark, &end(0).bytes());
    if let Ok(Examination::Whole { last, torn }) = examine(state, None)
        && let Some(torn) = torn
    {
        let kept = usize::try_from(torn.offset).ok();
        let kept = kept.and_then(|kept| bytes.get(..kept));
        write(&file, kept.expect("it is cut within the file"));
        let again = examine(state, None);
        let is_whole = matches!(
            again,
            Ok(Examination::Whole { last: again, torn: None }) if again == last
        );
        assert!(is_whole || torn.offset < wide(HEADER_BYTES), "{again:?}");
    }
}

/// Replaces what a file holds. Not by way of an empty file, which ext4 would write out at once.
fn write(path: &Path, bytes: &[u8]) {
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(false).open(path);
    let mut file = file.expect("it is opened");
    file.write_all(bytes).expect("it is written");
    file.set_len(wide(bytes.len())).expect("it is cut");
}

/// A ledger that is genuine up to its founding.
struct Ledger {
    key: LedgerKey,
    admin: SoftwareKey,
    admin_public: [u8; 32],
    /// Of its first segment.
    header: Vec<u8>,
    founding: Encoded,
}

impl Ledger {
    fn new() -> Self {
        let domain: Name = "corp.example".parse().expect("a name");
        let key = LedgerKey::from_seed(&domain, &LEDGER_SEED).expect("a key");
        let admin = SoftwareKey::from_seed(&ADMIN_SEED).expect("a key");
        let admin_public = admin_public_key(&admin).expect("an Ed25519 key");
        let header = segment::Header {
            number: 1,
            first: Revision(1),
            previous: Bytes([0; 32]),
            is_sealed: false,
        };
        Self {
            header: header.bytes(),
            founding: founding(&domain, key.verifier(), admin_public),
            key,
            admin,
            admin_public,
        }
    }
}

fn founding(domain: &Name, ledger: &Verifier, admin: [u8; 32]) -> Encoded {
    let controller = ControllerId::from_bytes([1; 10]);
    let founded = Change::Founded(Founded {
        domain: domain.clone(),
        controller,
        root: Bytes([2; 32]),
        admin: (admin_key_id(&admin), admin.to_vec().into()),
        ticket_key: vec![3; 32].into(),
        ledger_key: ledger.public().to_vec().into(),
    });
    Encoded::new(Entry {
        revision: Revision(1),
        previous: Bytes([0; 32]),
        draft: Draft {
            at: UnixMillis(1_767_225_600_000),
            actor: Actor::Controller(controller),
            changes: vec![founded],
            decision: None,
            signed: None,
        },
    })
}

#[cfg(test)]
mod tests {
    use cardea_proto::admin::AdminChange;

    use super::*;

    #[test]
    fn what_the_admin_asked_for_passes_behind_the_founding_so_that_what_is_near_it_is_judged() {
        let mut audit = Audit::new(LEDGER.key.verifier().clone(), None);
        audit.record(&LEDGER.founding.bytes).unwrap();
        let order = ChangeOrder {
            domain: "corp.example".parse().unwrap(),
            nonce: Bytes([4; 16]),
            sequence: 1,
            at: UnixMillis(5),
            change: AdminChange::SiteAdd("office".parse().unwrap()),
        };
        let signed = sign_change(&order, &LEDGER.admin).unwrap();
        let draft = codec::encode(&Draft {
            at: UnixMillis(1_767_225_600_001),
            actor: Actor::Admin(signed.key),
            changes: vec![Change::SiteAdded("office".parse().unwrap())],
            decision: None,
            signed: Some(signed),
        });
        let entry = signed_anew(Revision(2), LEDGER.founding.hash, &draft).unwrap();
        let written = behind_head(Revision(2), LEDGER.founding.hash, &draft);
        assert_eq!(entry.bytes, written);
        audit.record(&written).unwrap();
        assert_eq!(audit.finish(None).unwrap().signatures, 1);
    }
}
