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
//!
//! Where to read: `controller` is the table of contents; `judge` takes every decision; `enrollment`,
//! `certificates`, `appraisal`, `grants` and `admin` each follow one thing from its plan to its
//! effects; `reviews` says what a changed record means for those that it concerns.
#![forbid(unsafe_code)]

mod admin;
mod allowance;
mod api;
mod appraisal;
mod certificates;
mod channels;
mod controller;
mod dice;
mod enrollment;
mod explain;
mod grants;
mod heard;
mod judge;
mod knocks;
mod nodes;
pub mod policy;
mod posture;
mod proposals;
mod refusals;
mod relays;
mod reviews;
mod search;
mod settings;
mod sizes;
pub mod state;
mod suggest;
#[cfg(test)]
mod testing;
mod tickets;
mod timers;
mod verdict;
mod who;
mod witnesses;
mod world;

pub use self::{
    api::{
        AdminSession, CallId, ChannelId, CommitError, Contradicted, Input, Outbox, Peer,
        ProofRequest, Proposal, ProposalId,
    },
    controller::{Controller, StartError},
    heard::Heard,
    relays::Watch,
    search::Search,
    settings::{
        CERTIFICATE_LIFE_MAX, CERTIFICATE_LIFE_MIN, CLOCK_SKEW_MAX, Keys, POLLS_MISSED_MAX,
        Settings, TTL_MAX, TTL_MIN,
    },
    sizes::Sizes,
    state::{Revisions, State},
    who::who,
};
