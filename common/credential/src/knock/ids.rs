//! Connection ids that their issuer knows again without remembering them.

use std::fmt;

use super::first;
use crate::{key, mac::MacKey};

/// Bytes of a connection id of ours: eight random ones and eight of a MAC over them.
pub const CONNECTION_ID_BYTES: usize = 16;

/// Half of a connection id.
const HALF: usize = CONNECTION_ID_BYTES / 2;

/// Makes and recognizes the connection ids of one endpoint, under a key of its own.
///
/// Whoever sends to an id that was never issued is told apart before QUIC sees the packet. Ids that
/// were issued may be known to whoever saw them pass, so a valid one earns no answer by itself.
pub struct ConnectionIds(MacKey);

impl ConnectionIds {
    /// Ids under this key, which is random and nobody else's.
    ///
    /// A key for each process is enough: nothing is ever said about a connection of the process
    /// before (RFC 9000 §10.3 would reset it), so its ids need not be known.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(MacKey::from_seed(key))
    }

    /// The id of eight random bytes.
    #[must_use]
    pub fn issue(&self, random: [u8; HALF]) -> [u8; CONNECTION_ID_BYTES] {
        let mut id = [0; CONNECTION_ID_BYTES];
        let mac = self.mac(&random);
        for (to, from) in id.iter_mut().zip(random.iter().chain(&mac)) {
            *to = *from;
        }
        id
    }

    /// Whether an id is one of ours.
    #[must_use]
    pub fn is_ours(&self, id: &[u8]) -> bool {
        let Some((random, mac)) = id.split_first_chunk::<HALF>() else {
            return false;
        };
        key::equal_secrets(&self.mac(random), mac)
    }

    fn mac(&self, random: &[u8; HALF]) -> [u8; HALF] {
        first(&self.0.tag(&[random]))
    }
}

impl fmt::Debug for ConnectionIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionIds(…)")
    }
}
