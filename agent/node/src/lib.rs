//! The two roles that stand at the ends of a tunnel, as plain values: [`Agent`] and [`Connector`].
//!
//! Pure: each takes one input at a time with both clocks, and fills an outbox; neither reads a clock
//! nor opens a socket. A node cannot decide: it asks, obeys, checks what the other end signed, and
//! lets go when its own monotonic clock says so, with or without a controller.
//!
//! ```text
//! agent      Wanted → Request(offer) ──▶ controller ──▶ Admit(offer)      connector
//!            Install ◀── Granted(answer) ◀── controller ◀── Admitted(answer) → Install
//! ```
#![forbid(unsafe_code)]

mod agent;
mod channel;
mod connector;
mod entropy;
mod limits;
pub mod names;
pub mod netcheck;
mod outbox;
mod reasons;
#[cfg(test)]
mod testing;
mod usage;

pub use self::{
    agent::{Agent, AgentInput, AgentOutbox, AgentSettings, Collected},
    connector::{Connector, ConnectorInput, ConnectorOutbox, ConnectorSettings, GRANTS_MAX},
    limits::TTL_MAX,
    outbox::{Connect, NodeOutbox},
    reasons::is_no_way,
};
