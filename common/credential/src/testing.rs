//! A trust domain made in a moment, for the tests of every crate that needs real certificates.

use std::{sync::Arc, time::Duration};

use cardea_proto::{
    codec::Blob,
    id::{ControllerId, ID_BYTES},
    identity::{Holder, Identity},
    name::Name,
    time::UnixMillis,
};

use crate::{
    authority::{Intermediate, Leaf, Root, backdated, serial_number},
    key::{self, KeyAlgorithm, Signer, SoftwareKey},
    tls::Peer,
    trust::Trust,
};

/// How long the leaves of a [`TestDomain`] live: an hour, as in production.
pub const LEAF_LIFE: Duration = Duration::from_secs(60 * 60);

/// A root, an intermediate, and trust in them.
#[derive(Clone, Debug)]
pub struct TestDomain {
    /// The root with its key.
    pub root: Root,
    /// The intermediate with its key.
    pub intermediate: Intermediate,
    /// Trust in the root.
    pub trust: Trust,
}

/// A node of a [`TestDomain`]: its certificate and its key.
#[derive(Clone, Debug)]
pub struct TestNode {
    /// Who it is.
    pub holder: Holder,
    /// Leaf, then intermediate; DER.
    pub chain: Vec<Blob>,
    /// The leaf's key.
    pub signer: Arc<dyn Signer>,
}

impl TestDomain {
    /// A trust domain that begins at `now`.
    ///
    /// # Panics
    /// When `name` is no name, or the cryptographic library fails.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests want to know at once")]
    pub fn new(name: &str, now: UnixMillis) -> Self {
        let domain: Name = name.parse().expect("a name");
        let root_key = SoftwareKey::generate(KeyAlgorithm::P384).expect("a key");
        let root =
            Root::create(&domain, Arc::new(root_key), serial_number([1; 16]), now).expect("a root");
        let intermediate = Self::intermediate(&root, now);
        let trust = Trust::new(domain, root.certificate().to_vec()).expect("trust in the root");
        Self {
            root,
            intermediate,
            trust,
        }
    }

    /// One more intermediate under `root`.
    ///
    /// # Panics
    /// When the cryptographic library fails.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests want to know at once")]
    pub fn intermediate(root: &Root, now: UnixMillis) -> Intermediate {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).expect("a key");
        let certificate = root
            .issue_intermediate(
                ControllerId::from_bytes([1; ID_BYTES]),
                key.public_key(),
                serial_number([2; 16]),
                now,
            )
            .expect("an intermediate");
        Intermediate::load(certificate, Arc::new(key)).expect("an intermediate")
    }

    /// A node with a new P-256 key and a certificate for [`LEAF_LIFE`] from `now`.
    ///
    /// # Panics
    /// When the cryptographic library fails.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests want to know at once")]
    pub fn node(&self, holder: Holder, now: UnixMillis) -> TestNode {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).expect("a key");
        self.node_with_key(holder, Arc::new(key), now)
    }

    /// The same for a key that exists.
    ///
    /// # Panics
    /// When the cryptographic library fails.
    #[must_use]
    #[expect(clippy::expect_used, reason = "tests want to know at once")]
    pub fn node_with_key(
        &self,
        holder: Holder,
        signer: Arc<dyn Signer>,
        now: UnixMillis,
    ) -> TestNode {
        let chain = self
            .intermediate
            .issue(&self.leaf(holder, signer.public_key(), now))
            .expect("a leaf");
        TestNode {
            holder,
            chain,
            signer,
        }
    }

    /// A leaf to be issued, for tests that change something about it.
    #[must_use]
    pub fn leaf(&self, holder: Holder, public_key: &[u8], now: UnixMillis) -> Leaf {
        Leaf {
            identity: Identity {
                domain: self.trust.domain().clone(),
                holder,
            },
            public_key: public_key.to_vec().into(),
            serial: serial_number([3; 16]),
            not_before: backdated(now),
            not_after: now.plus(LEAF_LIFE),
        }
    }
}

impl TestNode {
    /// The node as the other end of a tunnel expects it.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer {
            holder: self.holder,
            key: key::digest(self.signer.public_key()),
        }
    }
}
