//! The one check of a certificate chain, used for TLS and for everything that a node signs.

mod proven;

use std::{fmt, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use cardea_proto::{
    codec::{Blob, Digest},
    identity::{Holder, Identity},
    name::Name,
    time::UnixMillis,
};

use self::proven::{Proven, ProvenIntermediates, ProvenLeaves};
use crate::{key, profile};

/// Largest certificate that is looked at, in bytes; ours have less than 900.
pub const CERTIFICATE_BYTES_MAX: usize = 4_096;

/// One trust domain and its root. Cheap to clone.
#[derive(Clone)]
pub struct Trust(Arc<Inner>);

struct Inner {
    domain: Name,
    root: Vec<u8>,
    anchor: TrustAnchor<'static>,
    proven: ProvenIntermediates,
    leaves: ProvenLeaves,
}

/// What a chain proved about the holder of its leaf. Only [`Trust::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedLeaf {
    /// Who holds it.
    pub identity: Identity,
    /// SHA-256 of the public key: how records name it.
    pub key: Digest,
    /// The public key: SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
    /// The serial number: 32 digits of lower-case hexadecimal.
    pub serial: String,
    /// When it begins.
    pub not_before: UnixMillis,
    /// When it ends.
    pub not_after: UnixMillis,
}

/// Bytes that are not the root of a trust domain.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Not a certificate authority of our profile.
    #[error("not a root certificate of Cardea: {0}")]
    NotARoot(String),
    /// The root of another trust domain.
    #[error("the root certificate is of {found}, not of {expected}")]
    OtherDomain {
        /// What the root says.
        found: Name,
        /// What it should say.
        expected: Name,
    },
}

/// Why a chain proves nothing. The peer is at fault, or a clock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not exactly a leaf and an intermediate, or one of them is not used.
    #[error("the chain is not exactly a leaf and the intermediate that issued it")]
    Filler,
    /// A certificate larger than [`CERTIFICATE_BYTES_MAX`].
    #[error("a certificate of the chain is too large")]
    TooLarge,
    /// No path to our root.
    #[error("the chain does not lead to the root of {0}")]
    UnknownAuthority(Name),
    /// The root is not the one that was pinned.
    #[error("the root certificate is not the one that the code names")]
    OtherRoot,
    /// The leaf or its intermediate has ended.
    #[error("the certificate ended at {}", not_after.to_rfc3339())]
    Expired {
        /// When.
        not_after: UnixMillis,
    },
    /// The leaf or its intermediate has not begun.
    #[error("the certificate begins at {}", not_before.to_rfc3339())]
    NotYetValid {
        /// When.
        not_before: UnixMillis,
    },
    /// The leaf or its intermediate does not follow the profile.
    #[error("the certificate does not follow the profile: {0}")]
    Profile(String),
    /// The identity is of another trust domain.
    #[error("{0} is of another trust domain")]
    OtherDomain(Identity),
    /// The chain is good, but its holder is not who was expected.
    #[error("the certificate is that of {0}, which is not who belongs here")]
    OtherHolder(Identity),
    /// The chain and its holder are good, but it is for another key than was agreed on.
    #[error("the certificate of {0} is for another key than the one agreed on")]
    OtherKey(Identity),
}

impl Trust {
    /// Trust in the root certificate (DER) of `domain`.
    ///
    /// # Errors
    /// [`RootError`] when that is not what it is.
    pub fn new(domain: Name, root: Vec<u8>) -> Result<Self, RootError> {
        let trust = Self::of_root(root)?;
        if trust.domain() == &domain {
            Ok(trust)
        } else {
            Err(RootError::OtherDomain {
                found: trust.domain().clone(),
                expected: domain,
            })
        }
    }

    /// Trust in a root certificate (DER) for the domain that it names.
    ///
    /// # Errors
    /// [`RootError`] when it is none.
    pub fn of_root(root: Vec<u8>) -> Result<Self, RootError> {
        let claims = profile::read_authority(&root)
            .map_err(|error| RootError::NotARoot(error.to_string()))?;
        let anchor = webpki::anchor_from_trusted_cert(&CertificateDer::from(root.as_slice()))
            .map_err(|error| RootError::NotARoot(error.to_string()))?
            .to_owned();
        Ok(Self(Arc::new(Inner {
            domain: claims.domain,
            root,
            anchor,
            proven: ProvenIntermediates::default(),
            leaves: ProvenLeaves::default(),
        })))
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &Name {
        &self.0.domain
    }

    /// The root certificate, DER.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        &self.0.root
    }

    /// SHA-256 of the root certificate.
    #[must_use]
    pub fn root_digest(&self) -> Digest {
        key::digest(&self.0.root)
    }

    /// Checks a chain of exactly a leaf and its intermediate at the moment `at`.
    ///
    /// # Errors
    /// [`ChainError`] names the first thing that does not hold.
    pub fn verify(&self, chain: &[Blob], at: UnixMillis) -> Result<VerifiedLeaf, ChainError> {
        match chain {
            [leaf, intermediate] => self.verify_pair(leaf.as_ref(), intermediate.as_ref(), at),
            _ => Err(ChainError::Filler),
        }
    }

    /// The same for a chain whose leaf may have ended, or not begun by a clock that was set back since
    /// it was issued; its intermediate must be good at that moment: enough to ask for the next
    /// certificate, and for nothing else.
    ///
    /// # Errors
    /// [`ChainError`] names the first thing that does not hold.
    pub fn verify_lapsed(
        &self,
        chain: &[Blob],
        at: UnixMillis,
    ) -> Result<VerifiedLeaf, ChainError> {
        match chain {
            [leaf, intermediate] => {
                self.verify_lapsed_pair(leaf.as_ref(), intermediate.as_ref(), at)
            }
            _ => Err(ChainError::Filler),
        }
    }

    /// [`Self::verify`] for a chain whose two certificates are at hand.
    pub(crate) fn verify_pair(
        &self,
        leaf: &[u8],
        intermediate: &[u8],
        at: UnixMillis,
    ) -> Result<VerifiedLeaf, ChainError> {
        self.verify_at(leaf, intermediate, at)
            .map(|(verified, _)| verified)
    }

    /// [`Self::verify_lapsed`] for a chain whose two certificates are at hand.
    pub(crate) fn verify_lapsed_pair(
        &self,
        leaf: &[u8],
        intermediate: &[u8],
        at: UnixMillis,
    ) -> Result<VerifiedLeaf, ChainError> {
        if leaf.len() > CERTIFICATE_BYTES_MAX {
            return Err(ChainError::TooLarge);
        }
        // What the leaf says of its life is proven below, by the signature over all of it.
        let claims = profile::read_leaf(leaf).map_err(not_profile)?;
        let alive = at.max(claims.not_before).min(claims.not_after);
        let (verified, issuer) = self.verify_at(leaf, intermediate, alive)?;
        let (not_before, not_after) = (issuer.claims.not_before, issuer.claims.not_after);
        if at > not_after {
            Err(ChainError::Expired { not_after })
        } else if at < not_before {
            Err(ChainError::NotYetValid { not_before })
        } else {
            Ok(verified)
        }
    }

    fn verify_at(
        &self,
        leaf: &[u8],
        intermediate: &[u8],
        at: UnixMillis,
    ) -> Result<(VerifiedLeaf, Arc<Proven>), ChainError> {
        if leaf.len().max(intermediate.len()) > CERTIFICATE_BYTES_MAX {
            return Err(ChainError::TooLarge);
        }
        let issuer = match self.0.proven.find(intermediate) {
            Some(issuer) => {
                if let Some(known) = self.0.leaves.find(leaf, &issuer) {
                    within(&known, &issuer, at)?;
                    return Ok((known.as_ref().clone(), issuer));
                }
                self.verify_under(leaf, &issuer, at)?;
                issuer
            }
            None => self.verify_path(leaf, intermediate, at)?,
        };
        let claims = profile::read_leaf(leaf).map_err(not_profile)?;
        if claims.identity.domain != self.0.domain {
            return Err(ChainError::OtherDomain(claims.identity));
        }
        let verified = VerifiedLeaf {
            key: key::digest(&claims.public_key),
            public_key: claims.public_key,
            serial: data_encoding::HEXLOWER.encode(&claims.serial),
            identity: claims.identity,
            not_before: claims.not_before,
            not_after: claims.not_after,
        };
        within(&verified, &issuer, at)?;
        self.0.leaves.remember(leaf, &issuer, &verified);
        Ok((verified, issuer))
    }

    /// Signatures, times and constraints from the leaf over the intermediate to the root.
    fn verify_path(
        &self,
        leaf: &[u8],
        intermediate: &[u8],
        at: UnixMillis,
    ) -> Result<Arc<Proven>, ChainError> {
        let above = [CertificateDer::from(intermediate)];
        if self.count_used(leaf, &above, &self.0.anchor, at)? != above.len() {
            return Err(ChainError::Filler);
        }
        let claims = profile::read_authority(intermediate).map_err(not_profile)?;
        if claims.domain != self.0.domain {
            return Err(ChainError::UnknownAuthority(self.0.domain.clone()));
        }
        self.0
            .proven
            .remember(intermediate, claims)
            .map_err(|error| self.chain_error(error))
    }

    /// The same for a leaf whose intermediate was proven before.
    fn verify_under(&self, leaf: &[u8], issuer: &Proven, at: UnixMillis) -> Result<(), ChainError> {
        self.count_used(leaf, &[], &issuer.anchor, at).map(|_| ())
    }

    /// Builds a path, and counts the certificates between the leaf and the anchor that it needs.
    fn count_used(
        &self,
        leaf: &[u8],
        above: &[CertificateDer<'_>],
        anchor: &TrustAnchor<'static>,
        at: UnixMillis,
    ) -> Result<usize, ChainError> {
        let leaf = CertificateDer::from(leaf);
        let leaf = EndEntityCert::try_from(&leaf).map_err(|error| self.chain_error(error))?;
        let path = leaf
            .verify_for_usage(
                CHAIN_ALGORITHMS,
                std::slice::from_ref(anchor),
                above,
                UnixTime::since_unix_epoch(Duration::from_secs(at.as_secs())),
                OurProfile,
                None,
                None,
            )
            .map_err(|error| self.chain_error(error))?;
        Ok(path.intermediate_certificates().count())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "not our enum, and what it adds is a refusal as well"
    )]
    fn chain_error(&self, error: webpki::Error) -> ChainError {
        let millis = |time: UnixTime| UnixMillis(time.as_secs().saturating_mul(1_000));
        match error {
            webpki::Error::CertExpired { not_after, .. } => ChainError::Expired {
                not_after: millis(not_after),
            },
            webpki::Error::CertNotValidYet { not_before, .. } => ChainError::NotYetValid {
                not_before: millis(not_before),
            },
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                ChainError::UnknownAuthority(self.0.domain.clone())
            }
            other => ChainError::Profile(other.to_string()),
        }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({})", self.0.domain)
    }
}

impl VerifiedLeaf {
    /// Passes the leaf on when it is `holder`'s, with the key that was agreed on.
    ///
    /// # Errors
    /// [`ChainError::OtherHolder`] or [`ChainError::OtherKey`].
    pub fn expect(self, holder: Holder, key: Digest) -> Result<Self, ChainError> {
        if self.identity.holder != holder {
            Err(ChainError::OtherHolder(self.identity))
        } else if self.key != key {
            Err(ChainError::OtherKey(self.identity))
        } else {
            Ok(self)
        }
    }
}

/// Whether `at` is in the time of a leaf and of its issuer.
fn within(leaf: &VerifiedLeaf, issuer: &Proven, at: UnixMillis) -> Result<(), ChainError> {
    let not_before = leaf.not_before.max(issuer.claims.not_before);
    let not_after = leaf.not_after.min(issuer.claims.not_after);
    if at < not_before {
        Err(ChainError::NotYetValid { not_before })
    } else if at > not_after {
        Err(ChainError::Expired { not_after })
    } else {
        Ok(())
    }
}

/// What our authorities sign with: P-384 for a root, P-256 for an intermediate.
const CHAIN_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
];

fn not_profile(error: profile::ProfileError) -> ChainError {
    ChainError::Profile(error.to_string())
}

/// Leaves the extended key usage to [`profile`], which wants it exact and in the leaf alone.
struct OurProfile;

impl ExtendedKeyUsageValidator for OurProfile {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
