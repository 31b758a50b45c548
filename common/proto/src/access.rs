//! Access to an app: what two ends promise each other, and the grant that lets them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    app::{Carrier, Service, Target},
    codec::{Blob, Bytes, Digest},
    id::{ConnectorId, DeviceId, GrantId},
    name::Name,
    pattern::Pattern,
};

/// Context that an offer's signature also covers.
pub const OFFER_CONTEXT: &[u8] = b"cardea offer v1\0";

/// Context that an answer's signature also covers.
pub const ANSWER_CONTEXT: &[u8] = b"cardea answer v1\0";

/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203 §8).
pub const KEM_KEY_BYTES: usize = 1_184;

/// Bytes of an ML-KEM-768 ciphertext (FIPS 203 §8).
pub const KEM_CIPHERTEXT_BYTES: usize = 1_088;

/// A statement signed by a node's leaf key, which the controller forwards and cannot change.
///
/// `body` is the CBOR of an [`Offer`] or an [`Answer`]; `signature` is by the key of the first
/// certificate over the context, then the body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The exact bytes that are signed, after the context.
    pub body: Blob,
    /// Leaf, then intermediate; DER.
    pub chain: Vec<Blob>,
    /// The signature.
    pub signature: Blob,
}

/// What an agent offers for one tunnel: keys that live in memory only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The device that offers; must be the one that the leaf names.
    pub device: DeviceId,
    /// The app that the tunnel is for.
    pub app: Name,
    /// Random, so that two offers are never the same.
    pub nonce: Bytes<16>,
    /// X25519 public key for the WireGuard carrier.
    pub wireguard: Bytes<32>,
    /// ML-KEM-768 encapsulation key, [`KEM_KEY_BYTES`] long.
    pub kem: Blob,
    /// Where this end may be reached directly, at most [`crate::path::CANDIDATES_MAX`] addresses; what it
    /// learns later goes through the relay, sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<SocketAddr>,
    /// Whether the agent has packets of a network stack to send, and not flows alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub packets: bool,
    /// Which of the app's hosts, where a wildcard name covers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
}

/// What a connector answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The connector that answers; must be the one that the leaf names.
    pub connector: ConnectorId,
    /// The grant.
    pub grant: GrantId,
    /// SHA-256 of the offer's body.
    pub offer: Digest,
    /// X25519 public key for the WireGuard carrier.
    pub wireguard: Bytes<32>,
    /// ML-KEM-768 ciphertext, [`KEM_CIPHERTEXT_BYTES`] long; its secret is the preshared key.
    pub kem: Blob,
    /// Where this end may be reached directly, at most [`crate::path::CANDIDATES_MAX`] addresses; what it
    /// learns later goes through the relay, sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<SocketAddr>,
}

/// The addresses inside a tunnel. There are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerAddresses {
    /// The agent's, from 100.64.0.0/10.
    pub device_v4: Ipv4Addr,
    /// The agent's, from our ULA.
    pub device_v6: Ipv6Addr,
    /// The app's, from 100.64.0.0/10.
    pub app_v4: Ipv4Addr,
    /// The app's, from our ULA.
    pub app_v6: Ipv6Addr,
}

/// How a tunnel's ends reach each other: through a relay, and through others when that one dies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendezvous {
    /// The relay's addresses, tried in order.
    pub relay: Vec<SocketAddr>,
    /// This end's signed ticket, [`crate::relay::TICKET_BYTES`] long.
    pub ticket: Blob,
    /// The relays that stand by, at most [`STANDBY_MAX`], in the same order for both ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standby: Vec<Standby>,
}

/// A relay that both ends know before they need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// Its addresses, tried in order.
    pub relay: Vec<SocketAddr>,
    /// This end's signed ticket for a place of its own: what one relay has seen opens nothing at
    /// another one.
    pub ticket: Blob,
}

/// Most relays that stand by for one tunnel: each costs both ends a keepalive every 20 s.
pub const STANDBY_MAX: usize = 2;

/// What an agent is told when it may open a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The agent's request.
    pub request: u64,
    /// The grant.
    pub grant: GrantId,
    /// The app.
    pub app: Name,
    /// The carrier.
    pub carrier: Carrier,
    /// How long it lives from its arrival, in milliseconds.
    pub ttl_ms: u64,
    /// The connector at the other end.
    pub connector: ConnectorId,
    /// SHA-256 of the connector's public key (SubjectPublicKeyInfo, DER).
    pub connector_key: Digest,
    /// The connector's signed [`Answer`].
    pub answer: Signed,
    /// The ports of the app.
    pub services: Vec<Service>,
    /// The addresses inside.
    pub inner: InnerAddresses,
    /// The way there.
    pub rendezvous: Rendezvous,
}

/// What a connector is told when it must admit a subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admit {
    /// The grant.
    pub grant: GrantId,
    /// The app.
    pub app: Name,
    /// The carrier.
    pub carrier: Carrier,
    /// How long it lives from its arrival, in milliseconds.
    pub ttl_ms: u64,
    /// The device at the other end.
    pub device: DeviceId,
    /// SHA-256 of the device's public key (SubjectPublicKeyInfo, DER).
    pub device_key: Digest,
    /// The agent's signed [`Offer`].
    pub offer: Signed,
    /// Where flows may go, and nowhere else; with a wildcard, once the offer's host has taken its place.
    pub targets: Vec<Target>,
    /// The wildcard names that the offer's host must be one of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<Pattern>,
    /// Whether loopback, link-local and metadata targets are meant.
    pub host_scoped: bool,
    /// Addresses that are never dialed: controllers and relays.
    pub never: Vec<IpAddr>,
    /// The addresses inside.
    pub inner: InnerAddresses,
    /// The way there.
    pub rendezvous: Rendezvous,
}

/// More life for a grant that still holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extend {
    /// The grant.
    pub grant: GrantId,
    /// Its new life from the arrival of this message, in milliseconds.
    pub ttl_ms: u64,
    /// A ticket for that time.
    pub ticket: Blob,
    /// The same for the relays that stand by, in the order in which the grant named them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standby: Vec<Blob>,
}
