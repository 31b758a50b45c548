//! Detours: datagrams over TLS on TCP, for networks where UDP does not pass.
//!
//! ```text
//! node                                                    front
//!   [CONNECT through a proxy]
//!   ClientHello, the knock first in its server name  ──▶  no byte goes back before it has opened
//!   ◀────────────────────── TLS 1.3 ───────────────────▶
//!   ◀──  proof that the front holds the knocker's seed, over this connection's exporter
//!   ◀──────────── frames: `cardea_proto::detour` ──────▶  the relay, the controller
//! ```
//!
//! What the frames hold is sealed and authenticated end to end without this layer: whoever breaks it
//! is where he would be on the path of UDP. Datagrams are lost where they would pile up, as on any
//! link, so that those who send them notice how much the stream carries.

mod address;
mod exceptions;
mod open;
mod proxy;
mod stream;

pub use self::{
    address::{Detours, Joined},
    exceptions::Exceptions,
    open::{OpenError, open},
    proxy::{ParseProxyError, Proxy},
    stream::{Frame, TlsStream},
};

/// Datagrams that wait for a stream before the next one is lost.
///
/// A third of a second of 10 Mbit/s; more would only delay what comes behind.
pub const WAITING_MAX: usize = 256;
