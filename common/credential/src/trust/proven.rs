//! Intermediates that a whole path was proven through before.
//!
//! Checking a root's P-384 signature takes longer than all the rest of a chain. A controller has
//! one intermediate, and every chain of its nodes has it; so what was proven once is remembered,
//! byte for byte, and its times are checked every time.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{CertificateDer, TrustAnchor};

use crate::profile::AuthorityClaims;

/// An intermediate under our root.
#[derive(Debug)]
pub(super) struct Proven {
    certificate: Vec<u8>,
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

/// Intermediates at once: several controllers, each with an old and a new one.
const REMEMBERED_MAX: usize = 8;
