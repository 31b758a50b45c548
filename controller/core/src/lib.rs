//! The controller as one plain value: the policy engine and the administrator.
//!
//! Pure: [`Controller::handle`] takes one [`Input`] and puts what must follow into an [`Outbox`];
//! it reads no clock and opens no socket. Everything that changes is first planned, then proposed
//! to the store, and only what comes back as [`Input::Committed`] has an effect:
//!
//! ```text
//! input ─▶ plan    what should change, and on which revisions that rests  ─▶ Outbox::proposals
//!       ─▶ commit  (the store takes all of it durably, or none)
//!       ─▶ apply   Input::Committed: folded into State; what nodes and admins are told starts here
//! ```
#![forbid(unsafe_code)]

mod api;
mod controller;
pub mod policy;
mod settings;
pub mod state;

pub use self::{
    api::{
        AdminSession, CallId, ChannelId, CommitError, Input, Outbox, Peer, Proposal, ProposalId,
    },
    controller::{Controller, StartError},
    settings::{
        CERTIFICATE_LIFE_MAX, CERTIFICATE_LIFE_MIN, CLOCK_SKEW_MAX, Keys, POLLS_MISSED_MAX,
        Settings, TTL_MAX, TTL_MIN,
    },
    state::State,
};
