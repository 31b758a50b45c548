use cardea_proto::{
    codec::Bytes,
    id::{ConnectorId, DeviceId, GrantId, ID_BYTES},
};

use super::*;
use crate::testing::{TestDomain, TestNode};

const NOW: UnixMillis = UnixMillis(1_767_225_600_000);

#[test]
fn an_offer_and_its_answer_read_back_as_themselves() {
    let all = Scene::new();
    let offer = all.offer();
    let (read, leaf) = verify_offer(&offer, &all.domain.trust, NOW).unwrap();
    assert_eq!(read, all.offer_body());
    assert_eq!(leaf.identity.holder, all.device.holder);

    let answer = all.answer();
    let (read, leaf) = verify_answer(&answer, &all.domain.trust, NOW).unwrap();
    assert_eq!(read.offer, offer_digest(&offer));
    assert_eq!(leaf.identity.holder, all.connector.holder);
}

#[test]
fn a_statement_that_was_touched_anywhere_is_refused() {
    let all = Scene::new();
    let offer = all.offer();
    for at in (0..offer.body.0.len()).step_by(7) {
        let mut changed = offer.clone();
        changed.body.0[at] ^= 1;
        assert_eq!(
            verify_offer(&changed, &all.domain.trust, NOW),
            Err(StatementError::NotProven)
        );
    }
    let answer = all.answer();
    for at in 0..answer.signature.0.len() {
        let mut changed = answer.clone();
        changed.signature.0[at] ^= 1;
        assert_eq!(
            verify_answer(&changed, &all.domain.trust, NOW),
            Err(StatementError::NotProven)
        );
    }
}

#[test]
fn a_statement_under_somebody_elses_certificate_is_refused() {
    let all = Scene::new();
    let other = all.domain.node(all.device.holder, NOW);
    let mut offer = all.offer();
    offer.chain = other.chain;
    assert_eq!(
        verify_offer(&offer, &all.domain.trust, NOW),
        Err(StatementError::NotProven)
    );
}

#[test]
fn an_offer_is_no_answer_and_an_answer_is_no_offer() {
    let all = Scene::new();
    assert_eq!(
        verify_answer(&all.offer(), &all.domain.trust, NOW),
        Err(StatementError::NotProven)
    );
    assert_eq!(
        verify_offer(&all.answer(), &all.domain.trust, NOW),
        Err(StatementError::NotProven)
    );
}

#[test]
fn nobody_speaks_for_another_node() {
    let all = Scene::new();
    let mut body = all.offer_body();
    body.device = DeviceId::from_bytes([99; ID_BYTES]);
    let offer = sign_offer(&body, &all.device.chain, all.device.signer.as_ref()).unwrap();
    assert_eq!(
        verify_offer(&offer, &all.domain.trust, NOW),
        Err(StatementError::OtherNode)
    );
    // A connector cannot offer, not even in a device's name.
    let offer = sign_offer(
        &all.offer_body(),
        &all.connector.chain,
        all.connector.signer.as_ref(),
    )
    .unwrap();
    assert_eq!(
        verify_offer(&offer, &all.domain.trust, NOW),
        Err(StatementError::OtherNode)
    );
}

#[test]
fn a_chain_that_does_not_hold_is_named() {
    let all = Scene::new();
    let late = NOW.plus(crate::testing::LEAF_LIFE * 2);
    assert!(matches!(
        verify_offer(&all.offer(), &all.domain.trust, late),
        Err(StatementError::Chain(ChainError::Expired { .. }))
    ));
    let stranger = TestDomain::new("corp.example", NOW);
    assert!(matches!(
        verify_offer(&all.offer(), &stranger.trust, NOW),
        Err(StatementError::Chain(ChainError::UnknownAuthority(_)))
    ));
}

#[test]
fn a_signed_statement_that_cannot_be_used_is_refused() {
    let all = Scene::new();
    let mut body = all.offer_body();
    body.kem.0.pop();
    let offer = sign_offer(&body, &all.device.chain, all.device.signer.as_ref()).unwrap();
    assert_eq!(
        verify_offer(&offer, &all.domain.trust, NOW),
        Err(StatementError::KeyLength)
    );
    let signed = |body: Vec<u8>| {
        sign(
            OFFER_CONTEXT,
            body,
            &all.device.chain,
            all.device.signer.as_ref(),
        )
        .unwrap()
    };
    for body in [vec![], vec![0xff], vec![0; BODY_BYTES_MAX + 1]] {
        assert!(matches!(
            verify_offer(&signed(body), &all.domain.trust, NOW),
            Err(StatementError::Unreadable(_))
        ));
    }
}

struct Scene {
    domain: TestDomain,
    device: TestNode,
    connector: TestNode,
}

impl Scene {
    fn new() -> Self {
        let domain = TestDomain::new("corp.example", NOW);
        let device = Holder::Device(DeviceId::from_bytes([7; ID_BYTES]));
        let connector = Holder::Connector(ConnectorId::from_bytes([8; ID_BYTES]));
        Self {
            device: domain.node(device, NOW),
            connector: domain.node(connector, NOW),
            domain,
        }
    }

    fn offer_body(&self) -> Offer {
        Offer {
            device: DeviceId::from_bytes([7; ID_BYTES]),
            app: "wiki".parse().unwrap(),
            nonce: Bytes([1; 16]),
            wireguard: Bytes([2; 32]),
            kem: vec![3; KEM_KEY_BYTES].into(),
            candidates: Vec::new(),
            packets: false,
            host: None,
        }
    }

    fn offer(&self) -> Signed {
        let (chain, signer) = (&self.device.chain, self.device.signer.as_ref());
        sign_offer(&self.offer_body(), chain, signer).unwrap()
    }

    fn answer(&self) -> Signed {
        let answer = Answer {
            connector: ConnectorId::from_bytes([8; ID_BYTES]),
            grant: GrantId::from_bytes([9; ID_BYTES]),
            offer: offer_digest(&self.offer()),
            wireguard: Bytes([4; 32]),
            kem: vec![5; KEM_CIPHERTEXT_BYTES].into(),
            candidates: Vec::new(),
        };
        let (chain, signer) = (&self.connector.chain, self.connector.signer.as_ref());
        sign_answer(&answer, chain, signer).unwrap()
    }
}
