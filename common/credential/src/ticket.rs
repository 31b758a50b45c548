//! Tickets: what a controller signs so that a relay forwards for one end of one tunnel.

use std::fmt;

use cardea_proto::relay::{TICKET_BODY_BYTES, TICKET_BYTES, TICKET_CONTEXT, Ticket};

use crate::{
    key::{self, ParseKeyError, SignError, Signer, SoftwareKey},
    knock::{FrontKey, SeedMaster},
};

/// The Ed25519 key with which a controller signs tickets. Relays hold its public half alone.
pub struct TicketKey {
    key: SoftwareKey,
    seeds: SeedMaster,
    fronts: FrontKey,
}

impl TicketKey {
    /// The key of a 32-byte seed.
    ///
    /// # Errors
    /// [`ParseKeyError`] when the library refuses it.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, ParseKeyError> {
        Ok(Self {
            key: SoftwareKey::from_seed(seed)?,
            seeds: SeedMaster::of(seed),
            fronts: FrontKey::of(seed),
        })
    }

    /// What the seeds of knocks are made from, which follows from the same 32 bytes.
    #[must_use]
    pub const fn seeds(&self) -> &SeedMaster {
        &self.seeds
    }

    /// What is shared with fronts elsewhere, which follows from them as well.
    #[must_use]
    pub const fn fronts(&self) -> &FrontKey {
        &self.fronts
    }

    /// The public half, 32 bytes.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.key
            .public_key()
            .last_chunk()
            .copied()
            .unwrap_or_default()
    }

    /// Signs `ticket` into the bytes that travel.
    ///
    /// # Errors
    /// [`SignError`] when the library refuses.
    pub fn sign(&self, ticket: &Ticket) -> Result<[u8; TICKET_BYTES], SignError> {
        let body = ticket.body();
        let signature = self.key.sign(&[TICKET_CONTEXT, &body].concat())?;
        [body.as_slice(), &signature]
            .concat()
            .try_into()
            .map_err(|_| SignError("a signature of another length".to_owned()))
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey(…)")
    }
}

/// Reads a ticket that the holder of `public` signed; `None` when it is anything else.
///
/// Says nothing about its time.
#[must_use]
pub fn verify_ticket(public: &[u8; 32], bytes: &[u8]) -> Option<Ticket> {
    let bytes: &[u8; TICKET_BYTES] = bytes.try_into().ok()?;
    let (body, signature) = bytes.split_first_chunk::<TICKET_BODY_BYTES>()?;
    let ticket = Ticket::from_body(body)?;
    key::verify(
        &key::ed25519_public_key(public),
        &[TICKET_CONTEXT, body].concat(),
        signature,
    )
    .ok()?;
    Some(ticket)
}

#[cfg(test)]
mod tests {
    use cardea_proto::{
        codec::Bytes,
        relay::{Handle, Side},
        time::UnixMillis,
    };

    use super::*;

    #[test]
    fn a_signed_ticket_reads_back_as_itself() {
        let key = TicketKey::from_seed(&[7; 32]).unwrap();
        let bytes = key.sign(&ticket()).unwrap();
        assert_eq!(verify_ticket(&key.public(), &bytes), Some(ticket()));
    }

    #[test]
    fn a_ticket_with_any_flipped_bit_is_none() {
        let key = TicketKey::from_seed(&[7; 32]).unwrap();
        let bytes = key.sign(&ticket()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify_ticket(&key.public(), &flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_ticket_of_another_controller_or_length_is_none() {
        let key = TicketKey::from_seed(&[7; 32]).unwrap();
        let other = TicketKey::from_seed(&[8; 32]).unwrap();
        let bytes = key.sign(&ticket()).unwrap();
        assert_eq!(verify_ticket(&other.public(), &bytes), None);
        for length in 0..TICKET_BYTES {
            assert_eq!(verify_ticket(&key.public(), &bytes[..length]), None);
        }
        assert_eq!(
            verify_ticket(&key.public(), &[&bytes[..], &[0]].concat()),
            None
        );
    }

    fn ticket() -> Ticket {
        Ticket {
            tunnel: Bytes([3; 16]),
            side: Side::Agent,
            handle: Handle::from_bytes([9; 7]),
            not_after: UnixMillis(1_767_225_600_000),
        }
    }
}
