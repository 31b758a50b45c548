//! Certificates, requests for them, statements and orders, held against a genuine trust domain.
//!
//! The corpus holds the domain and what is genuine of it, none of whose keys were kept: whatever else
//! passes was forged.
#![expect(
    clippy::expect_used,
    reason = "what is made here is made of files of the corpus"
)]

use std::sync::LazyLock;

use cardea_credential::{
    admin::{admin_public_key, verify_change},
    key::SoftwareKey,
    proof::VerifiedRequest,
    signed::{verify_answer, verify_offer},
    ticket::verify_ticket,
    trust::Trust,
};
use cardea_proto::{
    access::Signed,
    admin::SignedChange,
    codec::{self, Blob, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX_ADMIN},
    time::UnixMillis,
};

/// When the corpus was made.
const AT: UnixMillis = UnixMillis(1_767_225_600_000);

/// Of the connection on which the requests of the corpus were made.
const EXPORTER: [u8; 32] = [7; 32];

/// Of the admin who signed the change in the corpus.
const ADMIN_SEED: [u8; 32] = [9; 32];

/// Bytes of the public keys that a node may have, with P-384, which it may not: Ed25519, P-256, P-384.
const PUBLIC_KEY_BYTES: [usize; 3] = [44, 91, 120];

const ROOT: &[u8] = include_bytes!("../../fuzz/corpus/certificates/root");
const INTERMEDIATE: &[u8] = include_bytes!("../../fuzz/corpus/certificates/intermediate");
const LEAF: &[u8] = include_bytes!("../../fuzz/corpus/certificates/leaf");
const CONNECTOR: &[u8] = include_bytes!("../../fuzz/corpus/certificates/connector");
/// Ended before [`AT`], while its intermediate had not.
const LAPSED: &[u8] = include_bytes!("../../fuzz/corpus/certificates/lapsed");
const OFFER: &[u8] = include_bytes!("../../fuzz/corpus/certificates/offer");
const ANSWER: &[u8] = include_bytes!("../../fuzz/corpus/certificates/answer");
const CHANGE: &[u8] = include_bytes!("../../fuzz/corpus/certificates/change");
const REQUESTS: [&[u8]; 2] = [
    include_bytes!("../../fuzz/corpus/certificates/request-ed25519"),
    include_bytes!("../../fuzz/corpus/certificates/request-p256"),
];

static GENUINE: LazyLock<Genuine> = LazyLock::new(|| {
    let admin = SoftwareKey::from_seed(&ADMIN_SEED).expect("a key");
    Genuine {
        trust: Trust::of_root(ROOT.to_vec()).expect("the corpus has a root"),
        offer: codec::decode(OFFER, MESSAGE_BYTES_MAX).expect("the corpus has an offer"),
        answer: codec::decode(ANSWER, MESSAGE_BYTES_MAX).expect("the corpus has an answer"),
        admin: admin_public_key(&admin).expect("an Ed25519 key"),
        change: codec::decode(CHANGE, MESSAGE_BYTES_MAX_ADMIN).expect("the corpus has a change"),
    }
});

/// What nobody but the fuzzers' corpus has.
struct Genuine {
    trust: Trust,
    offer: Signed,
    answer: Signed,
    admin: [u8; 32],
    change: SignedChange,
}

/// Takes any bytes as everything that somebody signs.
pub(crate) fn certificates(bytes: &[u8]) {
    if let Ok(trust) = Trust::of_root(bytes.to_vec()) {
        assert_eq!(trust.root(), bytes);
        let chain = [Blob(bytes.to_vec()), Blob(bytes.to_vec())];
        assert!(trust.verify(&chain, AT).is_err(), "a root is no leaf");
    }
    chains(bytes);
    requests(bytes);
    statements(bytes);
    if let Ok(signed) = codec::decode::<SignedChange>(bytes, MESSAGE_BYTES_MAX_ADMIN)
        && verify_change(&GENUINE.admin, &signed).is_ok()
    {
        assert_eq!(signed, GENUINE.change, "an order that no admin signed");
    }
    let ticket = verify_ticket(&[7; 32], bytes);
    assert!(ticket.is_none(), "nobody has that key");
}

/// As the leaf and as the intermediate of a chain.
fn chains(bytes: &[u8]) {
    let trust = &GENUINE.trust;
    let any = || Blob(bytes.to_vec());
    let leaf = [any(), Blob(INTERMEDIATE.to_vec())];
    if trust.verify(&leaf, AT).is_ok() {
        assert!([LEAF, CONNECTOR].contains(&bytes), "it was not issued");
    }
    if trust.verify_lapsed(&leaf, AT).is_ok() {
        let issued = [LEAF, CONNECTOR, LAPSED];
        assert!(issued.contains(&bytes), "it was not issued");
    }
    let intermediate = [Blob(LEAF.to_vec()), any()];
    let passes = [
        trust.verify(&intermediate, AT),
        trust.verify_lapsed(&intermediate, AT),
    ]
    .iter()
    .any(Result::is_ok);
    if passes {
        assert_eq!(bytes, INTERMEDIATE, "it was not issued");
    }
}

/// As a public key, and as one with the proof that somebody holds it behind it.
fn requests(bytes: &[u8]) {
    let none = VerifiedRequest::verify(&EXPORTER, bytes, bytes);
    assert!(none.is_err(), "a key proves nothing");
    for length in PUBLIC_KEY_BYTES {
        let Some((key, proof)) = bytes.split_at_checked(length) else {
            continue;
        };
        if let Ok(request) = VerifiedRequest::verify(&EXPORTER, key, proof) {
            assert_eq!(request.public_key(), key);
            let is_genuine = REQUESTS.iter().any(|genuine| genuine.starts_with(key));
            assert!(is_genuine, "a key that nobody proved");
        }
    }
}

/// As what two ends of a tunnel tell each other.
fn statements(bytes: &[u8]) {
    let Ok(signed) = codec::decode::<Signed>(bytes, MESSAGE_BYTES_MAX) else {
        return;
    };
    let trust = &GENUINE.trust;
    if verify_offer(&signed, trust, AT).is_ok() {
        assert_eq!(signed.body, GENUINE.offer.body, "an offer of nobody");
    }
    if verify_answer(&signed, trust, AT).is_ok() {
        assert_eq!(signed.body, GENUINE.answer.body, "an answer of nobody");
    }
}

#[cfg(test)]
mod tests {
    use cardea_credential::trust::ChainError;

    use super::*;

    #[test]
    fn what_is_genuine_passes_so_that_what_is_near_it_is_read_to_its_end() {
        let trust = &GENUINE.trust;
        let chain = |leaf: &[u8]| [Blob(leaf.to_vec()), Blob(INTERMEDIATE.to_vec())];
        trust.verify(&chain(LEAF), AT).unwrap();
        trust.verify_lapsed(&chain(LAPSED), AT).unwrap();
        let ended = trust.verify(&chain(LAPSED), AT);
        assert!(matches!(ended, Err(ChainError::Expired { .. })));
        verify_offer(&GENUINE.offer, trust, AT).unwrap();
        verify_answer(&GENUINE.answer, trust, AT).unwrap();
        verify_change(&GENUINE.admin, &GENUINE.change).unwrap();
        for (request, length) in REQUESTS.iter().zip(PUBLIC_KEY_BYTES) {
            let (key, proof) = request.split_at(length);
            VerifiedRequest::verify(&EXPORTER, key, proof).unwrap();
        }
    }
}
