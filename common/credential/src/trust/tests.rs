use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyUsagePurpose, SanType};

use cardea_proto::{
    id::{ConnectorId, DeviceId, ID_BYTES},
    identity::Role,
};

use super::*;
use crate::{
    authority::{Leaf, RcgenKey, leaf_params},
    key::{KeyAlgorithm, Signer as _, SoftwareKey},
    testing::{LEAF_LIFE, TestDomain},
};

const NOW: UnixMillis = UnixMillis(1_767_225_600_000);
const HOUR: Duration = Duration::from_secs(60 * 60);

#[test]
fn a_chain_of_leaf_and_intermediate_proves_its_holder() {
    let domain = TestDomain::new("corp.example", NOW);
    let leaf = domain
        .trust
        .verify(&domain.node(device(), NOW).chain, NOW)
        .unwrap();
    assert_eq!(leaf.identity.holder, device());
    assert_eq!(leaf.identity.domain.as_str(), "corp.example");
}

#[test]
fn chains_of_any_other_shape_are_filler() {
    let domain = TestDomain::new("corp.example", NOW);
    let chain = domain.node(device(), NOW).chain;
    let (leaf, intermediate) = (chain[0].clone(), chain[1].clone());
    let root: Blob = domain.root.certificate().to_vec().into();
    let other: Blob = TestDomain::intermediate(&domain.root, NOW)
        .certificate()
        .to_vec()
        .into();
    for chain in [
        vec![],
        vec![leaf.clone()],
        vec![leaf.clone(), intermediate.clone(), root.clone()],
        vec![leaf.clone(), intermediate.clone(), other.clone()],
        vec![leaf.clone(), other.clone(), intermediate.clone()],
        vec![leaf.clone(), intermediate.clone(), leaf.clone()],
    ] {
        assert_eq!(domain.trust.verify(&chain, NOW), Err(ChainError::Filler));
    }
    for chain in [
        vec![leaf.clone(), root],
        vec![leaf.clone(), leaf.clone()],
        vec![intermediate, leaf],
    ] {
        assert!(domain.trust.verify(&chain, NOW).is_err());
    }
}

#[test]
fn a_leaf_under_the_root_itself_does_not_make_its_second_certificate_useful() {
    let domain = TestDomain::new("corp.example", NOW);
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let leaf = domain.leaf(device(), key.public_key(), NOW);
    let by_root = [
        domain.root.sign_directly(&leaf),
        domain.intermediate.certificate().to_vec().into(),
    ];
    assert_eq!(domain.trust.verify(&by_root, NOW), Err(ChainError::Filler));
}

#[test]
fn a_swapped_intermediate_or_another_authority_is_unknown() {
    let domain = TestDomain::new("corp.example", NOW);
    let unknown = Err(ChainError::UnknownAuthority(domain.trust.domain().clone()));
    let chain = domain.node(device(), NOW).chain;

    let other = TestDomain::intermediate(&domain.root, NOW);
    let swapped = [chain[0].clone(), other.certificate().to_vec().into()];
    assert_eq!(domain.trust.verify(&swapped, NOW), unknown);

    let stranger = TestDomain::new("corp.example", NOW);
    let chain = stranger.node(device(), NOW).chain;
    assert_eq!(domain.trust.verify(&chain, NOW), unknown);
}

#[test]
fn a_leaf_holds_from_its_first_moment_to_its_last_and_no_longer() {
    let domain = TestDomain::new("corp.example", NOW);
    let node = domain.node(device(), NOW);
    let verify = |at: UnixMillis| domain.trust.verify(&node.chain, at);
    let end = NOW.plus(LEAF_LIFE);
    let begin = crate::authority::backdated(NOW);
    assert!(verify(begin).is_ok());
    assert!(verify(end).is_ok());
    assert_eq!(
        verify(UnixMillis(begin.0 - 1)),
        Err(ChainError::NotYetValid { not_before: begin })
    );
    assert_eq!(
        verify(UnixMillis(end.0 + 1)),
        Err(ChainError::Expired { not_after: end })
    );
    assert!(matches!(
        verify(UnixMillis(0)),
        Err(ChainError::NotYetValid { .. })
    ));
    assert!(matches!(
        verify(UnixMillis(u64::MAX)),
        Err(ChainError::Expired { .. })
    ));
}

#[test]
fn an_intermediate_that_ended_takes_its_leaves_along() {
    let domain = TestDomain::new("corp.example", NOW);
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let mut leaf = domain.leaf(device(), key.public_key(), NOW);
    leaf.not_after = domain.intermediate.not_after().plus(HOUR);
    let chain = sign(&domain, &leaf, &leaf_params(&leaf).unwrap());
    let end = domain.intermediate.not_after();
    assert!(domain.trust.verify(&chain, end).is_ok());
    assert_eq!(
        domain.trust.verify(&chain, UnixMillis(end.0 + 1)),
        Err(ChainError::Expired { not_after: end })
    );
}

#[test]
fn a_leaf_that_has_ended_is_known_again_as_long_as_its_intermediate_lives() {
    let domain = TestDomain::new("corp.example", NOW);
    let chain = domain.node(device(), NOW).chain;
    let end = domain.intermediate.not_after();
    // The second time the intermediate was proven before.
    for trust in [
        Trust::of_root(domain.root.certificate().to_vec()).unwrap(),
        domain.trust.clone(),
    ] {
        for at in [NOW, NOW.plus(LEAF_LIFE * 2), end] {
            let leaf = trust.verify_lapsed(&chain, at).unwrap();
            assert_eq!(leaf.not_after, NOW.plus(LEAF_LIFE));
        }
        assert_eq!(
            trust.verify_lapsed(&chain, UnixMillis(end.0 + 1)),
            Err(ChainError::Expired { not_after: end })
        );
        assert!(matches!(
            trust.verify_lapsed(&chain, UnixMillis(NOW.0 - 86_400_000)),
            Err(ChainError::NotYetValid { .. })
        ));
        assert!(trust.verify(&chain, NOW.plus(LEAF_LIFE * 2)).is_err());
        let early = domain.node(device(), NOW.plus(HOUR)).chain;
        assert!(trust.verify_lapsed(&early, NOW).is_ok());
        assert!(trust.verify(&early, NOW).is_err());
    }
    let other = TestDomain::new("corp.example", NOW);
    let result = other.trust.verify_lapsed(&chain, NOW.plus(LEAF_LIFE * 2));
    assert!(matches!(result, Err(ChainError::UnknownAuthority(_))));
}

#[test]
fn a_leaf_outside_the_profile_is_refused_though_our_own_authority_signed_it() {
    check(
        |params, leaf| {
            let second = Identity {
                holder: connector(),
                ..leaf.identity.clone()
            };
            params.subject_alt_names.push(uri(&second.to_string()));
        },
        "not exactly one URI",
    );
    check(
        |params, _| {
            let name = "wiki.corp.example".try_into().unwrap();
            params.subject_alt_names.push(SanType::DnsName(name));
        },
        "not exactly one URI",
    );
    check(|params, _| params.subject_alt_names.clear(), "one URI");
    check(
        |params, _| params.subject_alt_names = vec![uri("spiffe://corp.example/device/root")],
        "no identity",
    );
    check(
        |params, _| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        "",
    );
    check(|params, _| params.is_ca = IsCa::NoCa, "basic constraints");
    check(|params, _| params.custom_extensions.clear(), "key purposes");
    check(
        |params, _| params.custom_extensions = vec![purposes(Role::Connector)],
        "key purposes are not those of a device",
    );
    check(
        |params, _| {
            params.custom_extensions.clear();
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        },
        "key purposes",
    );
    check(
        |params, _| params.key_usages.push(KeyUsagePurpose::KeyCertSign),
        "key usage",
    );
    check(|params, _| params.key_usages.clear(), "key usage");
}

#[test]
fn a_leaf_of_another_domain_under_our_root_is_refused() {
    let domain = TestDomain::new("corp.example", NOW);
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let mut leaf = domain.leaf(device(), key.public_key(), NOW);
    leaf.identity.domain = "other.example".parse().unwrap();
    let chain = sign(&domain, &leaf, &leaf_params(&leaf).unwrap());
    assert_eq!(
        domain.trust.verify(&chain, NOW),
        Err(ChainError::OtherDomain(leaf.identity))
    );
}

#[test]
fn a_leaf_with_a_key_that_no_leaf_may_have_is_refused() {
    let domain = TestDomain::new("corp.example", NOW);
    let key = SoftwareKey::generate(KeyAlgorithm::P384).unwrap();
    let leaf = domain.leaf(device(), key.public_key(), NOW);
    let chain = sign(&domain, &leaf, &leaf_params(&leaf).unwrap());
    assert!(matches!(
        domain.trust.verify(&chain, NOW),
        Err(ChainError::Profile(_))
    ));
}

#[test]
fn trust_is_in_a_root_of_the_domain_alone() {
    let domain = TestDomain::new("corp.example", NOW);
    let root = domain.root.certificate().to_vec();
    assert_eq!(
        Trust::new("other.example".parse().unwrap(), root).unwrap_err(),
        RootError::OtherDomain {
            found: "corp.example".parse().unwrap(),
            expected: "other.example".parse().unwrap(),
        }
    );
    let leaf = domain.node(device(), NOW).chain[0].0.clone();
    assert!(matches!(Trust::of_root(leaf), Err(RootError::NotARoot(_))));
    assert!(matches!(
        Trust::of_root(vec![]),
        Err(RootError::NotARoot(_))
    ));
}

#[test]
fn a_leaf_is_expected_by_holder_and_key() {
    let domain = TestDomain::new("corp.example", NOW);
    let leaf = || {
        let key = SoftwareKey::from_seed(&[1; 32]).unwrap();
        let node = domain.node_with_key(device(), Arc::new(key), NOW);
        domain.trust.verify(&node.chain, NOW).unwrap()
    };
    let agreed = leaf().key;
    assert_eq!(leaf().expect(device(), agreed), Ok(leaf()));
    assert_eq!(
        leaf().expect(connector(), agreed),
        Err(ChainError::OtherHolder(leaf().identity))
    );
    assert_eq!(
        leaf().expect(device(), key::digest(b"")),
        Err(ChainError::OtherKey(leaf().identity))
    );
}

#[test]
fn an_intermediate_that_was_proven_before_excuses_nothing() {
    let domain = TestDomain::new("corp.example", NOW);
    let node = domain.node(device(), NOW);
    let warm = |domain: &TestDomain| {
        assert!(domain.trust.verify(&node.chain, NOW).is_ok());
        assert!(domain.trust.verify(&node.chain, NOW).is_ok());
    };
    warm(&domain);
    let unknown = Err(ChainError::UnknownAuthority(domain.trust.domain().clone()));

    // A leaf of another intermediate, or of the root itself.
    let other = TestDomain {
        intermediate: TestDomain::intermediate(&domain.root, NOW),
        ..domain.clone()
    };
    let foreign = other.node(device(), NOW).chain;
    let mixed = [foreign[0].clone(), node.chain[1].clone()];
    assert_eq!(domain.trust.verify(&mixed, NOW), unknown);
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let leaf = domain.leaf(device(), key.public_key(), NOW);
    let by_root = [domain.root.sign_directly(&leaf), node.chain[1].clone()];
    assert_eq!(domain.trust.verify(&by_root, NOW), unknown);

    // The same leaf, too early and too late, and an intermediate that has ended.
    let verify = |chain: &[Blob], at: UnixMillis| domain.trust.verify(chain, at);
    assert!(matches!(
        verify(&node.chain, UnixMillis(0)),
        Err(ChainError::NotYetValid { .. })
    ));
    assert!(matches!(
        verify(&node.chain, NOW.plus(LEAF_LIFE * 2)),
        Err(ChainError::Expired { .. })
    ));
    let mut long = leaf;
    long.not_after = domain.intermediate.not_after().plus(HOUR);
    let chain = sign(&domain, &long, &leaf_params(&long).unwrap());
    let end = domain.intermediate.not_after();
    assert!(verify(&chain, end).is_ok());
    assert_eq!(
        verify(&chain, UnixMillis(end.0 + 1)),
        Err(ChainError::Expired { not_after: end })
    );

    // More intermediates than are remembered: all go on being accepted.
    for _ in 0..12 {
        let next = TestDomain {
            intermediate: TestDomain::intermediate(&domain.root, NOW),
            ..domain.clone()
        };
        assert!(verify(&next.node(device(), NOW).chain, NOW).is_ok());
    }
    warm(&domain);
}

#[test]
fn a_leaf_that_was_proven_before_still_ends_and_is_known_under_its_own_intermediate_alone() {
    let domain = TestDomain::new("corp.example", NOW);
    let chain = domain.node(device(), NOW).chain;
    let first = domain.trust.verify(&chain, NOW).unwrap();
    assert_eq!(domain.trust.verify(&chain, NOW), Ok(first.clone()));
    let (before, after) = (first.not_before, first.not_after);
    let early = UnixMillis(before.0 - 1);
    assert_eq!(
        domain.trust.verify(&chain, early),
        Err(ChainError::NotYetValid { not_before: before })
    );
    let late = UnixMillis(after.0 + 1);
    assert_eq!(
        domain.trust.verify(&chain, late),
        Err(ChainError::Expired { not_after: after })
    );

    // Another intermediate that is proven too.
    let other = TestDomain::intermediate(&domain.root, NOW);
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let leaf = domain.leaf(device(), key.public_key(), NOW);
    let under_other = other.issue(&leaf).unwrap();
    domain.trust.verify(&under_other, NOW).unwrap();
    let swapped = vec![chain[0].clone(), under_other[1].clone()];
    assert!(domain.trust.verify(&swapped, NOW).is_err());
}

#[test]
fn an_oversized_certificate_is_not_looked_at() {
    let domain = TestDomain::new("corp.example", NOW);
    let large: Blob = vec![0x30; CERTIFICATE_BYTES_MAX + 1].into();
    let chain = domain.node(device(), NOW).chain;
    for chain in [[chain[0].clone(), large.clone()], [large, chain[1].clone()]] {
        assert_eq!(domain.trust.verify(&chain, NOW), Err(ChainError::TooLarge));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_flipped_bit_leaves_a_chain_whole(
        certificate in 0..2_usize,
        bit in 0..8_000_usize,
        proven_before: bool,
    ) {
        let domain = TestDomain::new("corp.example", NOW);
        let mut chain = domain.node(device(), NOW).chain;
        if proven_before {
            prop_assert!(domain.trust.verify(&chain, NOW).is_ok());
        }
        let bytes = &mut chain[certificate].0;
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(domain.trust.verify(&chain, NOW).is_err());
    }

    #[test]
    fn no_bytes_panic_the_check(leaf: Vec<u8>, intermediate: Vec<u8>) {
        thread_local! {
            static DOMAIN: TestDomain = TestDomain::new("corp.example", NOW);
        }
        DOMAIN.with(|domain| {
            let chain = [leaf.into(), intermediate.into()];
            assert!(domain.trust.verify(&chain, NOW).is_err());
        });
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Issues a device's leaf that `change` made bad, and expects the refusal to mention `expected`.
fn check(change: fn(&mut CertificateParams, &Leaf), expected: &str) {
    let domain = TestDomain::new("corp.example", NOW);
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let leaf = domain.leaf(device(), key.public_key(), NOW);
    let mut params = leaf_params(&leaf).unwrap();
    change(&mut params, &leaf);
    let chain = sign(&domain, &leaf, &params);
    match domain.trust.verify(&chain, NOW) {
        Err(ChainError::Profile(why)) => assert!(why.contains(expected), "{why}"),
        other => panic!("expected {expected:?}, got {other:?}"),
    }
}

fn sign(domain: &TestDomain, leaf: &Leaf, params: &CertificateParams) -> Vec<Blob> {
    let subject = RcgenKey::of_public_key(leaf.public_key.as_ref()).unwrap();
    domain.intermediate.sign(params, &subject).unwrap()
}

fn purposes(role: Role) -> CustomExtension {
    CustomExtension::from_oid_content(
        profile::EXTENDED_KEY_USAGE,
        profile::extended_key_usage(role),
    )
}

fn device() -> Holder {
    Holder::Device(DeviceId::from_bytes([7; ID_BYTES]))
}

fn connector() -> Holder {
    Holder::Connector(ConnectorId::from_bytes([8; ID_BYTES]))
}
