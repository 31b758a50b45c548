use cardea_proto::{
    id::{DeviceId, ID_BYTES},
    identity::Holder,
};

use super::*;
use crate::{key::SoftwareKey, testing::TestDomain};

const NOW: UnixMillis = UnixMillis(1_767_225_600_000);

#[test]
fn an_issued_leaf_says_what_was_asked_for_and_nothing_else() {
    let domain = TestDomain::new("corp.example", NOW);
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Ed25519] {
        let key = SoftwareKey::generate(algorithm).unwrap();
        let leaf = domain.leaf(device(), key.public_key(), NOW);
        let chain = domain.intermediate.issue(&leaf).unwrap();
        assert_eq!(chain.len(), 2);
        assert_eq!(chain[1].as_ref(), domain.intermediate.certificate());
        let verified = domain.trust.verify(&chain, NOW).unwrap();
        assert_eq!(verified.identity, leaf.identity);
        assert_eq!(verified.public_key, key.public_key());
        assert_eq!(verified.key, key::digest(key.public_key()));
        assert_eq!(verified.serial, serial_text(&leaf.serial));
        assert_eq!(verified.not_before, leaf.not_before);
        assert_eq!(verified.not_after, leaf.not_after);
    }
}

#[test]
fn every_leaf_has_one_uri_critical_purposes_and_no_authority() {
    let domain = TestDomain::new("corp.example", NOW);
    let node = domain.node(device(), NOW);
    let (_, leaf) = x509_parser::parse_x509_certificate(node.chain[0].as_ref()).unwrap();
    let purposes = leaf.extended_key_usage().unwrap().unwrap();
    assert!(purposes.critical && purposes.value.client_auth && !purposes.value.server_auth);
    assert_eq!(purposes.value.other.len(), 1);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert_eq!(leaf.version(), x509_parser::x509::X509Version::V3);
}

#[test]
fn authorities_live_as_long_as_the_profile_says() {
    let domain = TestDomain::new("corp.example", NOW);
    let days = |days: u64| UnixMillis(NOW.0 + days * 24 * 60 * 60 * 1_000);
    assert_eq!(domain.intermediate.not_after(), days(30));
    assert_eq!(domain.intermediate.not_before(), backdated(NOW));
    assert_eq!(domain.root.claims.not_after, days(3_650));
    assert_eq!(domain.root.claims.path_length, Some(1));
    assert_eq!(domain.intermediate.claims.path_length, Some(0));
}

#[test]
fn a_leaf_that_should_not_be_is_not_issued() {
    let domain = TestDomain::new("corp.example", NOW);
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let check = |change: fn(&mut Leaf), expected: &str| {
        let mut leaf = domain.leaf(device(), key.public_key(), NOW);
        change(&mut leaf);
        let error = domain.intermediate.issue(&leaf).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(
        |leaf| leaf.identity.domain = "other.example".parse().unwrap(),
        "trust domain",
    );
    check(|leaf| leaf.public_key = vec![1, 2, 3].into(), "public key");
    check(
        |leaf| {
            let key = SoftwareKey::generate(KeyAlgorithm::P384).unwrap();
            leaf.public_key = key.public_key().to_vec().into();
        },
        "public key",
    );
    check(
        |leaf| leaf.not_after = NOW.plus(INTERMEDIATE_LIFE).plus(Duration::from_secs(1)),
        "after its issuer",
    );
    check(|leaf| leaf.not_after = leaf.not_before, "before it begins");
    check(|leaf| leaf.serial = Bytes([0; 16]), "serial");
    check(|leaf| leaf.serial = Bytes([0xff; 16]), "serial");
}

#[test]
fn a_leaf_may_live_exactly_as_long_as_its_intermediate() {
    let domain = TestDomain::new("corp.example", NOW);
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let mut leaf = domain.leaf(device(), key.public_key(), NOW);
    leaf.not_after = domain.intermediate.not_after();
    assert!(domain.intermediate.issue(&leaf).is_ok());
}

#[test]
fn an_authority_has_the_key_of_its_kind_and_its_own() {
    let p256 = || Arc::new(SoftwareKey::generate(KeyAlgorithm::P256).unwrap());
    let p384 = || Arc::new(SoftwareKey::generate(KeyAlgorithm::P384).unwrap());
    let name: Name = "corp.example".parse().unwrap();
    assert!(Root::create(&name, p256(), serial_number([1; 16]), NOW).is_err());

    let domain = TestDomain::new("corp.example", NOW);
    let root = domain.root.certificate().to_vec();
    let intermediate = domain.intermediate.certificate().to_vec();
    let controller = ControllerId::from_bytes([1; ID_BYTES]);
    let issue = |key: &dyn Signer| {
        let serial = serial_number([2; 16]);
        domain
            .root
            .issue_intermediate(controller, key.public_key(), serial, NOW)
    };
    assert!(issue(p384().as_ref()).is_err());
    assert!(issue(p256().as_ref()).is_ok());
    assert!(matches!(
        Root::load(root.clone(), p384()),
        Err(LoadError::OtherKey)
    ));
    assert!(matches!(
        Intermediate::load(intermediate, p256()),
        Err(LoadError::OtherKey)
    ));
    // A root is no intermediate, and a leaf is neither.
    assert!(Intermediate::load(root, domain.root.key.clone()).is_err());
    let node = domain.node(device(), NOW);
    assert!(Intermediate::load(node.chain[0].0.clone(), node.signer).is_err());
}

#[test]
fn a_key_that_does_not_sign_issues_nothing() {
    #[derive(Debug)]
    struct Gone(Arc<dyn Signer>);
    impl Signer for Gone {
        fn algorithm(&self) -> KeyAlgorithm {
            self.0.algorithm()
        }
        fn public_key(&self) -> &[u8] {
            self.0.public_key()
        }
        fn sign(&self, _: &[u8]) -> Result<Vec<u8>, SignError> {
            Err(SignError("unplugged".to_owned()))
        }
    }
    let domain = TestDomain::new("corp.example", NOW);
    let mut broken = domain.intermediate.clone();
    broken.key = Arc::new(Gone(broken.key));
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let leaf = domain.leaf(device(), key.public_key(), NOW);
    assert!(matches!(broken.issue(&leaf), Err(IssueError::Sign(_))));
}

#[test]
fn random_bytes_make_positive_serial_numbers() {
    assert_eq!(serial_number([0xff; 16]).0[0], 0x7f);
    assert_ne!(serial_number([0; 16]).0, [0; 16]);
    let serial = serial_number([0; 16]);
    let domain = TestDomain::new("corp.example", NOW);
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let mut leaf = domain.leaf(device(), key.public_key(), NOW);
    leaf.serial = serial;
    let chain = domain.intermediate.issue(&leaf).unwrap();
    let verified = domain.trust.verify(&chain, NOW).unwrap();
    assert_eq!(verified.serial, serial_text(&serial));
}

impl Root {
    /// A leaf that the root itself signed, as no root of ours does.
    pub(crate) fn sign_directly(&self, leaf: &Leaf) -> Blob {
        let subject = RcgenKey::of_public_key(leaf.public_key.as_ref()).unwrap();
        let issuer = issuer(&self.claims, self.key.as_ref()).unwrap();
        let params = leaf_params(leaf).unwrap();
        let certificate = params.signed_by(&subject, &issuer).unwrap();
        certificate.der().to_vec().into()
    }
}

fn device() -> Holder {
    Holder::Device(DeviceId::from_bytes([7; ID_BYTES]))
}
