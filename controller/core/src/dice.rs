//! Everything random, from one seed.

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use cardea_credential::authority::serial_number;
use cardea_proto::{
    codec::Bytes,
    id::{ConnectorId, DeviceId, GrantId},
};

/// A cryptographic generator over the seed that the shell drew. Not for private keys.
pub(crate) struct Dice(ChaCha20Rng);

impl std::fmt::Debug for Dice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dice(…)")
    }
}

impl Dice {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    pub(crate) fn device_id(&mut self) -> DeviceId {
        DeviceId::from_bytes(self.bytes())
    }

    pub(crate) fn connector_id(&mut self) -> ConnectorId {
        ConnectorId::from_bytes(self.bytes())
    }

    pub(crate) fn grant_id(&mut self) -> GrantId {
        GrantId::from_bytes(self.bytes())
    }

    pub(crate) fn nonce(&mut self) -> Bytes<16> {
        Bytes(self.bytes())
    }

    /// A certificate's serial number: positive in DER.
    pub(crate) fn serial(&mut self) -> Bytes<16> {
        serial_number(self.bytes())
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}
