//! The data plane: what users send goes in, sealed datagrams come out, and back.
//!
//! One [`Tunnels`] value serves either [`End`]: an agent's, where flows begin, or a connector's,
//! where they are admitted and dialed. It knows packets, flows and keys; names, grants and decisions
//! live in the control half, which speaks [`Command`] and hears [`Event`]. It reads no clock and opens
//! no socket; a shell feeds it [`Input`]s, moves flow bytes with [`Tunnels::write`] and
//! [`Tunnels::read`], calls [`Tunnels::flush`] once a turn, and sends what stands in the [`Outbox`].
//!
//! ```text
//! agent      OpenFlow, write → carrier.seal → Transmit ─▶ relay ─▶ Datagram → carrier.open
//! connector  → source check → filter → Dial → Dialed → read → the app's socket
//! ```
//!
//! Where an end has a network stack instead of sockets, its packets come as [`Bundle`]s, which are
//! split and sealed where they will be sent from, and leave as [`Packets`], which were opened and
//! checked like everything else. A connector with sockets makes flows of such packets, under either
//! carrier; flows of an agent with sockets are packets at a connector under WireGuard alone.
//!
//! What is not purely ours: rustls and quinn draw entropy. Nothing that decides whether bytes pass
//! rests on either.
#![forbid(unsafe_code)]

pub mod bundle;
mod carrier;
mod command;
mod context;
mod drops;
pub mod egress;
mod filter;
mod inner;
mod input;
pub mod keys;
mod life;
mod link;
mod outbox;
mod packets;
mod path;
mod quic;
mod schedule;
mod tunnel;
mod tunnels;
mod udp;
mod wireguard;

pub use bundle::Bundle;
pub use command::{CarrierKeys, Command, Edge, End, Family, Install};
pub use drops::{DropReason, Drops};
pub use egress::{Egress, PermittedAddress};
pub use inner::packet;
pub use input::{DialError, FlowId, Input, Read};
pub use link::Meeting;
pub use outbox::{
    CloseReason, Event, FlowEvent, Outbox, ResetReason, Silence, TRANSMIT_BYTES_MAX,
    TRANSMIT_SEGMENTS_MAX, Transmit, USED_INTERVAL, Via,
};
pub use packets::{PACKET_BYTES_MAX, Packets};
pub use path::{Path, PathReason, permit::is_reachable};
pub use quic::wire;
pub use tunnel::TunnelStats;
pub use tunnels::{Sizes, TUNNELS_MAX, Tunnels};
pub use wireguard::fragments;
