//! The knock: how somebody who may talk to a controller shows it in the first bytes of all.
//!
//! A controller's port is silent. What opens it is the destination connection id of a QUIC
//! connection's first packet, which its client chooses freely (RFC 9000 §7.2, §17.2.2). Twenty bytes
//! in the place of twenty random ones tell a server that holds the same seed who knocks and when:
//!
//! ```text
//!  0               6               12                      20
//!  ├── id ─────────┼── masked ─────┼── tag ────────────────┤
//!  id     = HMAC(id key, epoch)[..6]         rotates, so that the server finds the key at once
//!  tag    = HMAC(tag key, id | time | nonce)[..8]
//!  masked = (time | nonce) ^ HMAC(mask key, id | tag)[..6]
//! ```
//!
//! The time is that of the knocker's clock in 1,024ths of a second, so that a door which has just been
//! opened tells what was made before from what is made for it.
//!
//! The three keys come from a seed of 32 bytes and the digest of the trust domain's root, so that a
//! knock opens no door of another domain. They are not bound to an address or a port, because a port
//! that somebody forwards is reached under another one than it has.
//!
//! A knock is a filter and never an authorization: whoever passes has been promised an answer, and
//! nothing else. It is not bound to the rest of the packet either; who takes one off the wire before
//! it arrives may use it once, from its own address.

mod attempts;
mod door;
mod ids;
mod pass;
mod record;

use std::{
    fmt,
    time::{Duration, Instant},
};

use cardea_proto::{
    codec::{Digest, Secret32},
    detour::FRONT_PROOF_BYTES,
    id::NodeId,
    time::{Now, UnixMillis},
};

pub use self::{
    attempts::ATTEMPT_TIME,
    door::{Answer, Door, DoorChange, Knocker, Stay, WINDOW},
    ids::{CONNECTION_ID_BYTES, ConnectionIds},
    pass::{FrontKey, PassDoor, pass_keys, pass_label},
};
use crate::{
    authority, key,
    mac::{self, MacKey},
};

/// Bytes of a knock: the longest connection id of QUIC version 1. Source: RFC 9000 §17.2.
pub const KNOCK_BYTES: usize = 20;

/// How long a knocker's id stays the same. An observer can tell by it that two knocks are of one
/// certificate, which the address tells as well; ids of three epochs are known at a time.
pub const EPOCH: Duration = Duration::from_secs(2 * 3_600);

/// How long the seeds that nodes are given stay the same.
///
/// As long as an intermediate certificate lives, which bounds how long a node may be away and still
/// renew: what it was given is then of this period or of the one before.
const SEED_PERIOD: Duration = authority::INTERMEDIATE_LIFE;

/// How far ahead our own clock may have been, unnoticed and unrecorded, when it gave a seed.
const CLOCK_AHEAD: Duration = Duration::from_secs(24 * 3_600);

/// Bytes of the rotating id.
const ID_BYTES: usize = 6;

/// Bytes of time and nonce.
const MOMENT_BYTES: usize = 6;

/// Bytes of the tag: one forgery in 2^64 passes, and each try costs its sender a datagram.
const TAG_BYTES: usize = 8;

/// A rotating id.
pub(crate) type Id = [u8; ID_BYTES];

/// A knock, as it stands in a packet. It is not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Knock(pub [u8; KNOCK_BYTES]);

/// Bits of the nonce; those before it are the 1,024ths of the second.
const NONCE_BITS: u32 = 6;

/// When a knock was made: seconds since 1970, 1,024ths of one, and a nonce to tell those of one such
/// moment apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) secs: u32,
    /// 1,024ths (10 bits) | nonce (6 bits)
    rest: u16,
}

/// The keys of a seed in a trust domain: what makes knocks, and what opens them.
#[derive(Clone)]
pub struct KnockKeys {
    id: Secret32,
    tag: Secret32,
    mask: Secret32,
}

impl KnockKeys {
    /// The keys of `seed` in the domain whose root certificate has this digest.
    #[must_use]
    pub fn new(seed: &Secret32, root: &Digest) -> Self {
        Self {
            id: derive(seed, ID_LABEL, root),
            tag: derive(seed, b"cardea knock tag", root),
            mask: derive(seed, b"cardea knock mask", root),
        }
    }

    /// A knock of this moment. `nonce` is random, and its last six bits count: they tell apart what one
    /// millisecond brings.
    #[must_use]
    pub fn knock(&self, at: UnixMillis, nonce: [u8; 2]) -> Knock {
        let moment = Moment::new(at, u16::from_be_bytes(nonce));
        let id = self.id(epoch_of(moment.secs));
        let tag = self.tag(&id, moment);
        let masked = xor(moment.to_bytes(), self.mask(&id, &tag));
        let mut bytes = [0; KNOCK_BYTES];
        for (to, from) in bytes.iter_mut().zip(id.iter().chain(&masked).chain(&tag)) {
            *to = *from;
        }
        Knock(bytes)
    }

    /// What a front says first to whoever knocked with these keys: that it holds them too, and that
    /// nobody stands between, who would see another `exporter` at each side.
    #[must_use]
    pub fn front_proof(&self, exporter: &[u8; 32]) -> [u8; FRONT_PROOF_BYTES] {
        // Longer than anything that a knock's tag is over.
        mac(&self.tag, &[b"cardea front proof", exporter])
    }

    /// Whether a front's proof is that of these keys; takes the same time for every proof.
    #[must_use]
    pub fn is_front_proof(&self, exporter: &[u8; 32], proof: &[u8; FRONT_PROOF_BYTES]) -> bool {
        key::equal_secrets(&self.front_proof(exporter), proof)
    }

    /// The id of an epoch.
    fn id(&self, epoch: u32) -> Id {
        id(&MacKey::from_seed(&self.id.0), epoch)
    }

    /// The ids of some epochs, made without the keys that open.
    pub(crate) fn ids(
        seed: &Secret32,
        root: &Digest,
        epochs: impl Iterator<Item = u32>,
    ) -> impl Iterator<Item = Id> {
        let key = MacKey::from_seed(&derive(seed, ID_LABEL, root).0);
        epochs.map(move |epoch| id(&key, epoch))
    }

    /// When a knock of these keys was made; `None` when it is of others. Takes the same time for
    /// every tag.
    pub(crate) fn open(&self, knock: &Knock) -> Option<Moment> {
        let (id, masked, tag) = knock.parts();
        let moment = Moment::from_bytes(xor(masked, self.mask(&id, &tag)));
        let is_ours = key::equal_secrets(&self.tag(&id, moment), &tag)
            && key::equal_secrets(&self.id(epoch_of(moment.secs)), &id);
        is_ours.then_some(moment)
    }

    fn tag(&self, id: &Id, moment: Moment) -> [u8; TAG_BYTES] {
        first(&mac(&self.tag, &[id, &moment.to_bytes()]))
    }

    fn mask(&self, id: &Id, tag: &[u8; TAG_BYTES]) -> [u8; MOMENT_BYTES] {
        first(&mac(&self.mask, &[id, tag]))
    }
}

impl fmt::Debug for KnockKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnockKeys(…)")
    }
}

impl Knock {
    /// The knock that a connection id would be; `None` when it has another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The knock as a label of a domain name: on a TLS connection it stands first in the server's
    /// name (RFC 6066 §3), which is read before anything is sent.
    #[must_use]
    pub fn label(&self) -> String {
        data_encoding::BASE32_NOPAD
            .encode(&self.0)
            .to_ascii_lowercase()
    }

    /// The knock that a label is; `None` when it is none. Case means nothing in names (RFC 1035
    /// §2.3.3).
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        let bytes = data_encoding::BASE32_NOPAD.decode(label.to_ascii_uppercase().as_bytes());
        Self::from_bytes(&bytes.ok()?)
    }

    pub(crate) fn parts(&self) -> (Id, [u8; MOMENT_BYTES], [u8; TAG_BYTES]) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, tag @ ..] = self.0;
        ([a, b, c, d, e, f], [g, h, i, j, k, l], tag)
    }
}

impl Moment {
    fn new(at: UnixMillis, nonce: u16) -> Self {
        let parts = (at.0 % 1_000) * 1_024 / 1_000;
        let parts = u16::try_from(parts).unwrap_or(0) << NONCE_BITS;
        let nonce = nonce & ((1 << NONCE_BITS) - 1);
        Self {
            secs: secs_of(at),
            rest: parts | nonce,
        }
    }

    /// The first of what this moment brings.
    fn first_at(at: UnixMillis) -> Self {
        Self::new(at, 0)
    }

    fn to_bytes(self) -> [u8; MOMENT_BYTES] {
        let [a, b, c, d] = self.secs.to_be_bytes();
        let [e, f] = self.rest.to_be_bytes();
        [a, b, c, d, e, f]
    }

    const fn from_bytes([a, b, c, d, e, f]: [u8; MOMENT_BYTES]) -> Self {
        Self {
            secs: u32::from_be_bytes([a, b, c, d]),
            rest: u16::from_be_bytes([e, f]),
        }
    }
}

/// What a controller makes the seeds of its nodes from.
///
/// It follows from the ticket key's seed, which every state folder has and every backup keeps, so
/// that a controller that comes back from its backup still knows its nodes.
#[derive(Clone)]
pub struct SeedMaster(Secret32);

impl SeedMaster {
    pub(crate) fn of(ticket_seed: &[u8; 32]) -> Self {
        Self(Secret32(mac(
            &Secret32(*ticket_seed),
            &[b"cardea knock seeds"],
        )))
    }

    /// The seed that a node is given at this moment, with whatever certificate it is issued.
    ///
    /// It follows from who the node is and when that was, and not from the certificate: a controller
    /// that was restored from an old backup has no record of the certificates since, and must open
    /// to their holders all the same.
    #[must_use]
    pub fn node_seed(&self, node: NodeId, at: UnixMillis) -> Secret32 {
        self.seed_of(node, period_of(at))
    }

    /// All seeds that a node may have at this moment, whose last certificate on record is valid from
    /// `issued`: of this period, of the one before, in which it was last seen perhaps, and of the
    /// next, where our own clock was or may have been ahead when it was given.
    #[must_use]
    pub fn node_seeds(&self, node: NodeId, at: UnixMillis, issued: UnixMillis) -> Vec<Secret32> {
        let period = period_of(at);
        let latest = period_of(at.plus(CLOCK_AHEAD).max(issued)).min(period.saturating_add(1));
        (period.saturating_sub(1)..=latest)
            .map(|period| self.seed_of(node, period))
            .collect()
    }

    fn seed_of(&self, node: NodeId, period: u32) -> Secret32 {
        let node = node.to_string();
        Secret32(mac(
            &self.0,
            &[node.as_bytes(), b"|", &period.to_be_bytes()],
        ))
    }
}

impl fmt::Debug for SeedMaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeedMaster(…)")
    }
}

/// The seed of an invite, from the SHA-256 of its secret.
///
/// Who holds the code and the ledger both have that hash, so the code need not grow. Whoever reads
/// the ledger could knock with it, and would be asked for the secret then.
#[must_use]
pub fn invite_seed(secret_hash: &Digest) -> Secret32 {
    Secret32(mac(&Secret32(secret_hash.0), &[b"cardea knock invite"]))
}

/// What the key of ids is derived with.
const ID_LABEL: &[u8] = b"cardea knock id";

fn derive(seed: &Secret32, label: &[u8], root: &Digest) -> Secret32 {
    Secret32(mac(seed, &[label, &root.0]))
}

fn id(key: &MacKey, epoch: u32) -> Id {
    first(&key.tag(&[&epoch.to_be_bytes()]))
}

/// A tag over some parts, of which at most one has no fixed length.
fn mac(key: &Secret32, parts: &[&[u8]]) -> [u8; mac::TAG_BYTES] {
    MacKey::from_seed(&key.0).tag(parts)
}

/// The first bytes of a longer output.
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

fn xor<const N: usize>(mut left: [u8; N], right: [u8; N]) -> [u8; N] {
    for (left, right) in left.iter_mut().zip(right) {
        *left ^= right;
    }
    left
}

/// When a door was opened, as the wall clock has it by now: one that was wrong then and has been set
/// must not keep everybody waiting. It is never too late, and up to two milliseconds too early: within
/// those no process ends and another one takes its place.
fn since_opened(opened_at: Instant, now: Now) -> Moment {
    let since = now.instant.saturating_duration_since(opened_at);
    let since = u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    Moment::first_at(UnixMillis(now.unix.0.saturating_sub(since)))
}

/// Whole seconds; four bytes of them last until 2106.
pub(crate) fn secs_of(at: UnixMillis) -> u32 {
    u32::try_from(at.as_secs()).unwrap_or(u32::MAX)
}

fn period_of(at: UnixMillis) -> u32 {
    let period = at.as_secs() / SEED_PERIOD.as_secs();
    u32::try_from(period).unwrap_or(u32::MAX)
}

pub(crate) fn epoch_of(secs: u32) -> u32 {
    secs / u32::try_from(EPOCH.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
