//! The certificate authority: a root that is rarely touched, and intermediates that issue leaves.
//!
//! The profile is the authority's alone. From a request comes nothing but the public key.

use std::{sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use time::OffsetDateTime;

use cardea_proto::{
    codec::{Blob, Bytes, Digest},
    id::ControllerId,
    identity::Identity,
    name::Name,
    time::UnixMillis,
};

use crate::{
    key::{self, KeyAlgorithm, SignError, Signer},
    profile::{self, AuthorityClaims},
};

/// How long a root lives: ten years.
pub const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How long an intermediate lives: thirty days.
pub const INTERMEDIATE_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How far before its making a certificate begins, so that a clock five minutes behind accepts it.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// A root and its key, as long as the key is at hand.
#[derive(Clone, Debug)]
pub struct Root {
    certificate: Vec<u8>,
    claims: Arc<AuthorityClaims>,
    key: Arc<dyn Signer>,
}

/// An intermediate and its key: what a controller issues leaves with.
#[derive(Clone, Debug)]
pub struct Intermediate {
    certificate: Vec<u8>,
    claims: Arc<AuthorityClaims>,
    key: Arc<dyn Signer>,
}

/// A leaf to be issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Whom it is for.
    pub identity: Identity,
    /// The proven public key: SubjectPublicKeyInfo in DER, P-256 or Ed25519.
    pub public_key: Blob,
    /// Sixteen random bytes, the top bit clear; see [`serial_number`].
    pub serial: Bytes<16>,
    /// When it begins; usually [`BACKDATE`] before now.
    pub not_before: UnixMillis,
    /// When it ends: never after [`Intermediate::not_after`].
    pub not_after: UnixMillis,
}

/// Why a certificate was not issued. The caller is at fault, but for `Sign`.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The identity belongs to another trust domain than the authority.
    #[error("{0} is not of this authority's trust domain")]
    OtherDomain(Identity),
    /// The key is of a kind that this certificate may not have.
    #[error("the public key is of a kind that this certificate may not have")]
    UnsuitableKey,
    /// It would live longer than the certificate that signs it.
    #[error("it would end at {}, after its issuer at {}", not_after.to_rfc3339(), issuer.to_rfc3339())]
    OutlivesIssuer {
        /// When it would end.
        not_after: UnixMillis,
        /// When its issuer ends.
        issuer: UnixMillis,
    },
    /// It would end before it begins.
    #[error("it would end before it begins")]
    NoLife,
    /// The serial number is zero or its top bit is set.
    #[error("a serial number is positive and its top bit is clear")]
    BadSerial,
    /// The key did not sign.
    #[error("could not sign")]
    Sign(#[source] SignError),
    /// The certificate could not be written.
    #[error("could not write the certificate: {0}")]
    Encode(String),
}

/// Why a certificate and a key are not an authority.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The certificate is not of our profile.
    #[error("not a certificate of a Cardea authority: {0}")]
    NotAnAuthority(String),
    /// The key is another certificate's.
    #[error("the key does not belong to the certificate")]
    OtherKey,
}

impl Root {
    /// Makes a root for `domain` with a P-384 key, to be moved offline.
    ///
    /// # Errors
    /// [`IssueError`] says why not.
    pub fn create(
        domain: &Name,
        key: Arc<dyn Signer>,
        serial: Bytes<16>,
        now: UnixMillis,
    ) -> Result<Self, IssueError> {
        if key.algorithm() != KeyAlgorithm::P384 {
            return Err(IssueError::UnsuitableKey);
        }
        let life = (backdated(now), now.plus(ROOT_LIFE));
        let mut params = authority_params(domain, &format!("Cardea root of {domain}"), life)?;
        params.serial_number = Some(checked_serial(serial)?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        let certificate = params
            .self_signed(&RcgenKey::of_signer(key.as_ref())?)
            .map_err(encode_error)?;
        Self::load(certificate.der().to_vec(), key).map_err(load_error)
    }

    /// Reads a root that was made before.
    ///
    /// # Errors
    /// [`LoadError`] says what does not fit.
    pub fn load(certificate: Vec<u8>, key: Arc<dyn Signer>) -> Result<Self, LoadError> {
        let claims = read_authority(&certificate, key.as_ref())?;
        Ok(Self {
            certificate,
            claims: Arc::new(claims),
            key,
        })
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &Name {
        &self.claims.domain
    }

    /// SHA-256 of the certificate: what invite codes carry.
    #[must_use]
    pub fn digest(&self) -> Digest {
        key::digest(&self.certificate)
    }

    /// Issues an intermediate to `controller` for its P-256 public key; the certificate in DER.
    ///
    /// # Errors
    /// [`IssueError`] says why not.
    pub fn issue_intermediate(
        &self,
        controller: ControllerId,
        public_key: &[u8],
        serial: Bytes<16>,
        now: UnixMillis,
    ) -> Result<Vec<u8>, IssueError> {
        let subject = RcgenKey::of_public_key(public_key)?;
        if subject.algorithm != KeyAlgorithm::P256 {
            return Err(IssueError::UnsuitableKey);
        }
        let life = (backdated(now), now.plus(INTERMEDIATE_LIFE));
        within(life, &self.claims)?;
        let name = format!("Cardea intermediate of {controller}");
        let mut params = authority_params(self.domain(), &name, life)?;
        params.serial_number = Some(checked_serial(serial)?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        let issuer = issuer(&self.claims, self.key.as_ref())?;
        let certificate = params.signed_by(&subject, &issuer).map_err(encode_error)?;
        Ok(certificate.der().to_vec())
    }
}

impl Intermediate {
    /// Joins an intermediate's certificate (DER) and its key.
    ///
    /// # Errors
    /// [`LoadError`] says what does not fit.
    pub fn load(certificate: Vec<u8>, key: Arc<dyn Signer>) -> Result<Self, LoadError> {
        let claims = read_authority(&certificate, key.as_ref())?;
        if claims.path_length != Some(0) {
            return Err(LoadError::NotAnAuthority(
                "it is not an intermediate".to_owned(),
            ));
        }
        Ok(Self {
            certificate,
            claims: Arc::new(claims),
            key,
        })
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &Name {
        &self.claims.domain
    }

    /// When it begins.
    #[must_use]
    pub fn not_before(&self) -> UnixMillis {
        self.claims.not_before
    }

    /// When it ends, and with it the last moment of every leaf that it issues.
    #[must_use]
    pub fn not_after(&self) -> UnixMillis {
        self.claims.not_after
    }

    /// Issues `leaf`; the chain in DER, the leaf first, then this intermediate.
    ///
    /// # Errors
    /// [`IssueError`] says why not; nothing is clamped, because what is issued is what was recorded.
    pub fn issue(&self, leaf: &Leaf) -> Result<Vec<Blob>, IssueError> {
        if leaf.identity.domain != self.claims.domain {
            return Err(IssueError::OtherDomain(leaf.identity.clone()));
        }
        let subject = RcgenKey::of_public_key(leaf.public_key.as_ref())?;
        if !subject.algorithm.fits_a_leaf() {
            return Err(IssueError::UnsuitableKey);
        }
        within((leaf.not_before, leaf.not_after), &self.claims)?;
        self.sign(&leaf_params(leaf)?, &subject)
    }

    /// Signs whatever `params` say: [`Self::issue`] checked them, and tests make bad ones on purpose.
    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        subject: &RcgenKey<'_>,
    ) -> Result<Vec<Blob>, IssueError> {
        let issuer = issuer(&self.claims, self.key.as_ref())?;
        let certificate = params.signed_by(subject, &issuer).map_err(encode_error)?;
        Ok(vec![
            certificate.der().to_vec().into(),
            self.certificate.clone().into(),
        ])
    }
}

/// A serial number of sixteen random bytes, with the top bit cleared so that DER keeps it positive.
#[must_use]
pub fn serial_number(mut random: [u8; 16]) -> Bytes<16> {
    let [first, .., last] = &mut random;
    *first &= 0x7f;
    *last |= u8::from(*first == 0);
    Bytes(random)
}

/// A serial number as people and JSON write it: 32 digits of lower-case hexadecimal.
#[must_use]
pub fn serial_text(serial: &Bytes<16>) -> String {
    data_encoding::HEXLOWER.encode(&serial.0)
}

/// [`BACKDATE`] before `now`.
#[must_use]
pub fn backdated(now: UnixMillis) -> UnixMillis {
    let backdate = u64::try_from(BACKDATE.as_millis()).unwrap_or(0);
    UnixMillis(now.0.saturating_sub(backdate))
}

/// When a certificate that begins at `not_before` was issued: the other way of [`backdated`].
#[must_use]
pub fn issued(not_before: UnixMillis) -> UnixMillis {
    not_before.plus(BACKDATE)
}

pub(crate) fn leaf_params(leaf: &Leaf) -> Result<CertificateParams, IssueError> {
    let mut params = params(
        &leaf.identity.holder.to_string(),
        &leaf.identity.to_string(),
        (leaf.not_before, leaf.not_after),
    )?;
    let mut usage = CustomExtension::from_oid_content(
        profile::EXTENDED_KEY_USAGE,
        profile::extended_key_usage(leaf.identity.holder.role()),
    );
    usage.set_criticality(true);
    params.serial_number = Some(checked_serial(leaf.serial)?);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.custom_extensions = vec![usage];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn authority_params(
    domain: &Name,
    common_name: &str,
    life: (UnixMillis, UnixMillis),
) -> Result<CertificateParams, IssueError> {
    let mut params = params(common_name, &profile::domain_uri(domain), life)?;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(
    common_name: &str,
    uri: &str,
    (not_before, not_after): (UnixMillis, UnixMillis),
) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(common_name);
    params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(encode_error)?)];
    params.not_before = moment(not_before)?;
    params.not_after = moment(not_after)?;
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn issuer<'a>(
    claims: &AuthorityClaims,
    key: &'a dyn Signer,
) -> Result<Issuer<'static, RcgenKey<'a>>, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&claims.common_name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(Issuer::new(params, RcgenKey::of_signer(key)?))
}

fn within(life: (UnixMillis, UnixMillis), issuer: &AuthorityClaims) -> Result<(), IssueError> {
    let (not_before, not_after) = life;
    if not_before >= not_after {
        Err(IssueError::NoLife)
    } else if not_after > issuer.not_after {
        Err(IssueError::OutlivesIssuer {
            not_after,
            issuer: issuer.not_after,
        })
    } else {
        Ok(())
    }
}

fn read_authority(certificate: &[u8], key: &dyn Signer) -> Result<AuthorityClaims, LoadError> {
    let claims = profile::read_authority(certificate)
        .map_err(|error| LoadError::NotAnAuthority(error.to_string()))?;
    if claims.public_key == key.public_key() {
        Ok(claims)
    } else {
        Err(LoadError::OtherKey)
    }
}

fn checked_serial(serial: Bytes<16>) -> Result<SerialNumber, IssueError> {
    let [first, ..] = serial.0;
    if first & 0x80 != 0 || serial.0 == [0; 16] {
        return Err(IssueError::BadSerial);
    }
    Ok(SerialNumber::from_slice(&serial.0))
}

fn moment(at: UnixMillis) -> Result<OffsetDateTime, IssueError> {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| IssueError::Encode("a time past the year 9999".to_owned()))
}

fn encode_error(error: rcgen::Error) -> IssueError {
    if error == rcgen::Error::RemoteKeyError {
        IssueError::Sign(SignError("the key refused or is gone".to_owned()))
    } else {
        IssueError::Encode(error.to_string())
    }
}

fn load_error(error: LoadError) -> IssueError {
    IssueError::Encode(error.to_string())
}

/// One of our keys as rcgen wants to see it: with a signer for issuers, without for subjects.
pub(crate) struct RcgenKey<'a> {
    algorithm: KeyAlgorithm,
    raw: &'a [u8],
    signer: Option<&'a dyn Signer>,
}

impl<'a> RcgenKey<'a> {
    fn of_signer(signer: &'a dyn Signer) -> Result<Self, IssueError> {
        let key = Self::of_public_key(signer.public_key())?;
        Ok(Self {
            signer: Some(signer),
            ..key
        })
    }

    pub(crate) fn of_public_key(public_key: &'a [u8]) -> Result<Self, IssueError> {
        let (algorithm, raw) =
            key::split_public_key(public_key).ok_or(IssueError::UnsuitableKey)?;
        Ok(Self {
            algorithm,
            raw,
            signer: None,
        })
    }
}

impl PublicKeyData for RcgenKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.raw
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.algorithm {
            KeyAlgorithm::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyAlgorithm::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

impl SigningKey for RcgenKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer
            .and_then(|signer| signer.sign(message).ok())
            .ok_or(rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
mod tests;
