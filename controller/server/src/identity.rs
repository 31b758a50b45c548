//! The controller's own leaf certificate: its key lives in memory, and it is replaced in time.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cardea_credential::{
    authority::{Intermediate, Leaf, backdated, serial_number},
    key::{KeyAlgorithm, Signer, SoftwareKey},
    tls::{ServerIdentity, channel_server},
    trust::Trust,
};
use cardea_host::{clock::Clock, entropy};
use cardea_proto::{
    codec::Blob,
    id::ControllerId,
    identity::{Holder, Identity},
    time::UnixMillis,
};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// How often it is looked whether the leaf is past half of its life. By looking, and not by one
/// long timer, a clock that was set is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// What the controller shows to nodes.
#[derive(Debug)]
pub(crate) struct OwnIdentity {
    intermediate: Intermediate,
    trust: Trust,
    controller: ControllerId,
    life: Duration,
    clock: Clock,
    shown: Arc<Shown>,
    renew_from: UnixMillis,
    not_before: UnixMillis,
}

/// Why the controller has no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnIdentityError {
    /// The intermediate has ended, or is not yet good.
    #[error("the intermediate certificate ended at {}", .0.to_rfc3339())]
    IntermediateEnded(UnixMillis),
    /// No key.
    #[error("no key could be made")]
    Key(#[from] cardea_credential::key::SignError),
    /// No certificate.
    #[error("no certificate could be issued")]
    Issue(#[from] cardea_credential::authority::IssueError),
}

impl OwnIdentity {
    /// Issues the first leaf; the TLS configuration of channels always presents the latest.
    pub(crate) fn new(
        intermediate: Intermediate,
        trust: Trust,
        controller: ControllerId,
        life: Duration,
    ) -> Result<(Self, Arc<ServerConfig>), OwnIdentityError> {
        let clock = Clock::system();
        let mut this = Self {
            intermediate,
            trust,
            controller,
            life,
            clock,
            shown: Arc::default(),
            renew_from: UnixMillis(0),
            not_before: UnixMillis(0),
        };
        let mut config = ServerConfig::clone(this.issue(clock.now().unix)?.as_ref());
        let shown: Arc<dyn ResolvesServerCert> = Arc::<Shown>::clone(&this.shown);
        config.cert_resolver = shown;
        Ok((this, Arc::new(config)))
    }

    /// Replaces the leaf whenever it is due, for as long as it is polled.
    pub(crate) async fn keep(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.clock.now().unix;
            if (self.not_before..self.renew_from).contains(&now) {
                continue;
            }
            match self.issue(now) {
                Ok(_) => tracing::debug!("the controller has a new certificate"),
                Err(error) => {
                    let reason = crate::chain(&error);
                    tracing::error!(reason, "the controller's certificate is not renewed");
                }
            }
        }
    }

    /// Issues a leaf and shows it from here on.
    fn issue(&mut self, now: UnixMillis) -> Result<Arc<ServerConfig>, OwnIdentityError> {
        let ends = self.intermediate.not_after();
        if ends <= now {
            return Err(OwnIdentityError::IntermediateEnded(ends));
        }
        let not_after = now.plus(self.life).min(ends);
        let key = SoftwareKey::generate(KeyAlgorithm::P256)?;
        let leaf = Leaf {
            identity: Identity {
                domain: self.intermediate.domain().clone(),
                holder: Holder::Controller(self.controller),
            },
            public_key: key.public_key().to_vec().into(),
            serial: serial_number(entropy::bytes()),
            not_before: backdated(now),
            not_after,
        };
        let identity = ServerIdentity {
            chain: self.intermediate.issue(&leaf)?,
            root: Blob(self.trust.root().to_vec()),
            signer: Arc::new(key),
        };
        let time = Arc::new(self.clock);
        let config = channel_server(identity, self.trust.clone(), time);
        self.shown.set(Arc::clone(&config.cert_resolver));
        self.not_before = leaf.not_before;
        self.renew_from = now.plus(not_after.since(now) / 2);
        Ok(config)
    }
}

/// Presents whatever was set last.
#[derive(Debug, Default)]
struct Shown(RwLock<Option<Arc<dyn ResolvesServerCert>>>);

impl Shown {
    fn set(&self, resolver: Arc<dyn ResolvesServerCert>) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(resolver);
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let current = current.clone()?;
        current.resolve(hello)
    }
}

#[cfg(test)]
mod tests {
    use cardea_credential::authority::Root;

    use super::*;

    #[test]
    fn a_leaf_is_due_at_half_of_its_life_and_never_outlives_its_intermediate() {
        let now = Clock::system().now().unix;
        let mut identity = identity(now);
        assert!(identity.renew_from.since(now) >= Duration::from_secs(1_799));
        let ends = identity.intermediate.not_after();
        let late = UnixMillis(ends.0 - 60_000);
        identity.issue(late).unwrap();
        assert_eq!(identity.renew_from, UnixMillis(ends.0 - 30_000));
        assert!(matches!(
            identity.issue(ends),
            Err(OwnIdentityError::IntermediateEnded(_))
        ));
    }

    fn identity(now: UnixMillis) -> OwnIdentity {
        let domain = "corp.example".parse().unwrap();
        let controller = ControllerId::from_bytes([7; 10]);
        let key = |algorithm| Arc::new(SoftwareKey::generate(algorithm).unwrap());
        let serial = || serial_number(entropy::bytes());
        let root = Root::create(&domain, key(KeyAlgorithm::P384), serial(), now).unwrap();
        let signer = key(KeyAlgorithm::P256);
        let certificate = root
            .issue_intermediate(controller, signer.public_key(), serial(), now)
            .unwrap();
        let intermediate = Intermediate::load(certificate, signer).unwrap();
        let trust = Trust::new(domain, root.certificate().to_vec()).unwrap();
        let life = Duration::from_secs(3_600);
        OwnIdentity::new(intermediate, trust, controller, life)
            .unwrap()
            .0
    }
}
