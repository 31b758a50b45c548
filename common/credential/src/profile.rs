//! What our certificates look like: the one place that both the authority and the check read.

use std::borrow::Cow;

use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_X509_EXT_EXTENDED_KEY_USAGE, Oid},
    prelude::FromDer as _,
};

use cardea_proto::{
    identity::{Identity, Role},
    name::Name,
    time::UnixMillis,
};

/// Contents of our arc as an OBJECT IDENTIFIER, `2.25.165805268178440319256851219813192666500`.
///
/// The number is a random UUID (f5ebe904-4c82-4547-ace9-0687432880be), so the arc is ours without
/// anybody's registration. Source: ITU-T X.667 §6.3.
const ARC: [u8; 20] = [
    0x69, 0x81, 0xf9, 0xbc, 0xf7, 0xb7, 0xe4, 0x96, 0xca, 0xa9, 0xb3, 0xa7, 0xb4, 0xe8, 0x9c, 0xbd,
    0xa3, 0xfe, 0x9b, 0x04,
];

/// id-kp-serverAuth, 1.3.6.1.5.5.7.3.1 (RFC 5280 §4.2.1.12).
const SERVER_AUTH: [u8; 8] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];

/// id-kp-clientAuth, 1.3.6.1.5.5.7.3.2 (RFC 5280 §4.2.1.12).
const CLIENT_AUTH: [u8; 8] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// id-ce-extKeyUsage, 2.5.29.37.
pub(crate) const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];

const DER_SEQUENCE: u8 = 0x30;
const DER_OID: u8 = 0x06;

/// The key purposes of a role: our own for the role, then the ends of TLS at which it stands.
fn purposes(role: Role) -> Vec<Vec<u8>> {
    let (number, tls): (u8, &[&[u8]]) = match role {
        Role::Device => (1, &[&CLIENT_AUTH]),
        Role::Connector => (2, &[&CLIENT_AUTH, &SERVER_AUTH]),
        Role::Controller => (3, &[&SERVER_AUTH]),
        Role::Relay => (4, &[&SERVER_AUTH]),
    };
    std::iter::once([&ARC[..], &[number]].concat())
        .chain(tls.iter().map(|oid| oid.to_vec()))
        .collect()
}

/// The contents of a role's extended key usage extension.
pub(crate) fn extended_key_usage(role: Role) -> Vec<u8> {
    let body: Vec<u8> = purposes(role)
        .iter()
        .flat_map(|oid| tlv(DER_OID, oid))
        .collect();
    tlv(DER_SEQUENCE, &body)
}

/// The URI in a certificate authority's certificate: the trust domain alone.
///
/// Source: SPIFFE X.509-SVID §4.1: a signing certificate's SPIFFE ID has no path.
pub(crate) fn domain_uri(domain: &Name) -> String {
    format!("spiffe://{domain}")
}

/// A tag, a short length and contents. Ours are far below the 127 bytes that a short length holds.
fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = u8::try_from(contents.len()).unwrap_or(u8::MAX);
    debug_assert!(length < 0x80, "a short length");
    [&[tag, length], contents].concat()
}

/// What a certificate must not say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("it is not an X.509 v3 certificate in DER")]
    NotACertificate,
    #[error("it names not exactly one URI")]
    NotOneUri,
    #[error("its URI is no identity")]
    NotAnIdentity,
    #[error("its key purposes are not those of a {0}")]
    KeyPurposes(Role),
    #[error("its basic constraints are not those of its place")]
    BasicConstraints,
    #[error("its key usage is not that of its place")]
    KeyUsage,
    #[error("its key or serial number is of a kind that we do not issue")]
    Unsuitable,
}

/// What a leaf says, once its form is right. Says nothing about who signed it.
#[derive(Debug)]
pub(crate) struct LeafClaims {
    pub(crate) identity: Identity,
    pub(crate) public_key: Vec<u8>,
    pub(crate) serial: [u8; 16],
    pub(crate) not_before: UnixMillis,
    pub(crate) not_after: UnixMillis,
}

/// What an authority's certificate says, once its form is right.
#[derive(Debug)]
pub(crate) struct AuthorityClaims {
    pub(crate) domain: Name,
    pub(crate) public_key: Vec<u8>,
    pub(crate) common_name: String,
    pub(crate) path_length: Option<u32>,
    pub(crate) not_before: UnixMillis,
    pub(crate) not_after: UnixMillis,
}

/// Reads a leaf of the profile.
pub(crate) fn read_leaf(der: &[u8]) -> Result<LeafClaims, ProfileError> {
    let certificate = parse(der)?;
    let identity: Identity = one_uri(&certificate)?
        .parse()
        .map_err(|_| ProfileError::NotAnIdentity)?;
    let role = identity.holder.role();
    if !has_exactly(&certificate, &extended_key_usage(role))? {
        return Err(ProfileError::KeyPurposes(role));
    }
    let constraints = certificate.basic_constraints().ok().flatten();
    if constraints.is_none_or(|extension| extension.value.ca) {
        return Err(ProfileError::BasicConstraints);
    }
    let usage = certificate.key_usage().ok().flatten();
    if usage.is_none_or(|extension| extension.value.flags != DIGITAL_SIGNATURE) {
        return Err(ProfileError::KeyUsage);
    }
    let public_key = certificate.public_key().raw.to_vec();
    let fits = crate::key::split_public_key(&public_key)
        .is_some_and(|(algorithm, _)| algorithm.fits_a_leaf());
    let serial = serial(certificate.raw_serial()).filter(|_| fits);
    Ok(LeafClaims {
        identity,
        public_key,
        serial: serial.ok_or(ProfileError::Unsuitable)?,
        not_before: moment(certificate.validity().not_before),
        not_after: moment(certificate.validity().not_after),
    })
}

/// Reads a root or an intermediate.
pub(crate) fn read_authority(der: &[u8]) -> Result<AuthorityClaims, ProfileError> {
    let certificate = parse(der)?;
    let domain = one_uri(&certificate)?
        .strip_prefix("spiffe://")
        .and_then(|domain| domain.parse().ok())
        .ok_or(ProfileError::NotAnIdentity)?;
    let constraints = certificate.basic_constraints().ok().flatten();
    let constraints = constraints
        .filter(|extension| extension.value.ca)
        .ok_or(ProfileError::BasicConstraints)?;
    let usage = certificate.key_usage().ok().flatten();
    if usage.is_none_or(|extension| extension.value.flags != CERTIFICATE_AND_CRL_SIGN) {
        return Err(ProfileError::KeyUsage);
    }
    let common_name = certificate
        .subject()
        .iter_common_name()
        .find_map(|name| name.as_str().ok())
        .ok_or(ProfileError::Unsuitable)?;
    Ok(AuthorityClaims {
        domain,
        public_key: certificate.public_key().raw.to_vec(),
        common_name: common_name.to_owned(),
        path_length: constraints.value.path_len_constraint,
        not_before: moment(certificate.validity().not_before),
        not_after: moment(certificate.validity().not_after),
    })
}

/// Bit 0 of the key usage extension, as the parser counts it (RFC 5280 §4.2.1.3).
const DIGITAL_SIGNATURE: u16 = 1;

/// Bits 5 and 6, as the parser counts them.
const CERTIFICATE_AND_CRL_SIGN: u16 = 1 << 5 | 1 << 6;

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, ProfileError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(ProfileError::NotACertificate),
    }
}

/// The subject alternative name, when it is one URI and nothing else.
fn one_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, ProfileError> {
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .ok_or(ProfileError::NotOneUri)?;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => Ok(uri),
        _ => Err(ProfileError::NotOneUri),
    }
}

/// Whether the extended key usage is there once and has exactly these contents.
fn has_exactly(certificate: &X509Certificate<'_>, usage: &[u8]) -> Result<bool, ProfileError> {
    let oid: &Oid<'_> = &OID_X509_EXT_EXTENDED_KEY_USAGE;
    let extension = certificate
        .get_extension_unique(oid)
        .map_err(|_| ProfileError::NotACertificate)?;
    Ok(extension.is_some_and(|extension| {
        matches!(
            extension.parsed_extension(),
            ParsedExtension::ExtendedKeyUsage(_)
        ) && Cow::Borrowed(extension.value) == usage
    }))
}

/// A serial number as our sixteen bytes: DER drops leading zeros.
fn serial(raw: &[u8]) -> Option<[u8; 16]> {
    let mut serial = [0; 16];
    let start = serial.len().checked_sub(raw.len())?;
    serial.get_mut(start..)?.copy_from_slice(raw);
    Some(serial)
}

fn moment(time: x509_parser::time::ASN1Time) -> UnixMillis {
    UnixMillis(
        u64::try_from(time.timestamp())
            .unwrap_or(0)
            .saturating_mul(1_000),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_arc_is_the_number_that_the_docs_say() {
        let number = ARC[1..]
            .iter()
            .fold(0_u128, |number, byte| number << 7 | u128::from(byte & 0x7f));
        assert_eq!(ARC[0], 2 * 40 + 25);
        assert_eq!(number, 165_805_268_178_440_319_256_851_219_813_192_666_500);
    }

    #[test]
    fn every_role_has_key_purposes_of_its_own() {
        let all =
            [Role::Device, Role::Connector, Role::Controller, Role::Relay].map(extended_key_usage);
        for (at, usage) in all.iter().enumerate() {
            assert!(!all[..at].contains(usage));
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for bytes in [&b""[..], b"x", &[0x30, 0x80], &[0x30; 4_000]] {
            assert_eq!(read_leaf(bytes).unwrap_err(), ProfileError::NotACertificate);
            assert_eq!(
                read_authority(bytes).unwrap_err(),
                ProfileError::NotACertificate
            );
        }
    }
}
