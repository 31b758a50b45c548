//! What was proven before: intermediates that a whole path leads through, and leaves under them.
//!
//! Checking a root's P-384 signature takes longer than all the rest of a chain. A controller has
//! one intermediate, and every chain of its nodes has it; so what was proven once is remembered,
//! byte for byte, and its times are checked every time. A leaf is shown at each handshake and with
//! each statement that its node signs; its signature is checked the first time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use cardea_proto::codec::Digest;

use rustls::pki_types::{CertificateDer, TrustAnchor};

use super::VerifiedLeaf;
use crate::{key, profile::AuthorityClaims};

/// An intermediate under our root.
#[derive(Debug)]
pub(super) struct Proven {
    certificate: Vec<u8>,
    digest: Digest,
    /// What the intermediate's leaves are verified under.
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) claims: AuthorityClaims,
}

/// The latest few of them.
#[derive(Debug, Default)]
pub(super) struct ProvenIntermediates(Mutex<Vec<Arc<Proven>>>);

impl ProvenIntermediates {
    pub(super) fn find(&self, certificate: &[u8]) -> Option<Arc<Proven>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .find(|proven| proven.certificate == certificate)
            .cloned()
    }

    /// Remembers an intermediate that a whole path was just proven through.
    pub(super) fn remember(
        &self,
        certificate: &[u8],
        claims: AuthorityClaims,
    ) -> Result<Arc<Proven>, webpki::Error> {
        let proven = Arc::new(Proven {
            anchor: webpki::anchor_from_trusted_cert(&CertificateDer::from(certificate))?
                .to_owned(),
            certificate: certificate.to_vec(),
            digest: key::digest(certificate),
            claims,
        });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED_MAX {
            all.remove(0);
        }
        all.push(proven.clone());
        Ok(proven)
    }
}

/// Leaves whose signature was checked, each under the intermediate that it was shown with.
#[derive(Debug, Default)]
pub(super) struct ProvenLeaves(Mutex<BTreeMap<Digest, Arc<VerifiedLeaf>>>);

impl ProvenLeaves {
    pub(super) fn find(&self, leaf: &[u8], issuer: &Proven) -> Option<Arc<VerifiedLeaf>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&name(leaf, issuer)).cloned()
    }

    /// Remembers a leaf that was just proven, and forgets all others when they are too many.
    pub(super) fn remember(&self, leaf: &[u8], issuer: &Proven, verified: &VerifiedLeaf) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= LEAVES_MAX {
            all.clear();
        }
        all.insert(name(leaf, issuer), Arc::new(verified.clone()));
    }
}

/// The leaf and its issuer, whose key its signature was checked with.
fn name(leaf: &[u8], issuer: &Proven) -> Digest {
    key::digest(&[issuer.digest.0.as_slice(), leaf].concat())
}

/// Leaves at once: those of the nodes that are busy, in about 4 MiB.
const LEAVES_MAX: usize = 8_192;

/// Intermediates at once: several controllers, each with an old and a new one.
const REMEMBERED_MAX: usize = 8;
