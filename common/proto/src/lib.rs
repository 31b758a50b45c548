//! Every noun and every message that the programs of Cardea share, and their encoding.
//!
//! Pure: nothing here reads a clock, draws entropy or touches a socket. Types are parsed once, at
//! the edge, into values that cannot be wrong; what crosses a wire is CBOR through [`codec`].
#![forbid(unsafe_code)]

pub mod access;
pub mod admin;
pub mod app;
pub mod codec;
pub mod decision;
pub mod detour;
pub mod enroll;
pub mod id;
pub mod identity;
pub mod invite;
pub mod ledger;
pub mod local;
pub mod message;
pub mod name;
pub mod netcheck;
pub mod path;
pub mod pattern;
pub mod policy;
pub mod posture;
pub mod refusal;
pub mod relay;
pub mod scope;
pub mod source;
pub mod time;

/// Version of the channel protocol that this build speaks; the first message of each side names it.
pub const PROTOCOL_VERSION: u16 = 1;

/// Oldest version of the channel protocol that this build still understands.
pub const PROTOCOL_VERSION_MIN: u16 = 1;

/// ALPN of a node's channel: mutual TLS.
pub const ALPN_CHANNEL: &[u8] = b"cardea/1";

/// ALPN of enrollment: the node has no certificate yet and proves itself with an invite.
pub const ALPN_ENROLL: &[u8] = b"cardea-enroll/1";

/// ALPN of renewal: mutual TLS with a certificate that may have ended, for the next one and nothing
/// else.
pub const ALPN_RENEW: &[u8] = b"cardea-renew/1";

/// ALPN of a QUIC tunnel between an agent and a connector.
pub const ALPN_TUNNEL: &[u8] = b"cardea-tunnel/1";

/// Label of the TLS exporter whose 32 bytes a node signs to prove that it holds its key.
///
/// Source: RFC 9266 gives the pattern: a proof bound to one connection cannot be relayed to another.
pub const EXPORTER_PROOF: &[u8] = b"EXPORTER-cardea-proof-of-possession";

/// Default UDP port of the controller's channels.
pub const PORT_CHANNEL: u16 = 7443;

/// Default UDP port of the relay.
pub const PORT_RELAY: u16 = 7444;

/// Default TCP port of a relay's front.
pub const PORT_FRONT: u16 = 443;

/// Version of the programs built from this tree.
pub const PROGRAM_VERSION: &str = env!("CARGO_PKG_VERSION");
