//! The whole system on one virtual clock, from one seed.
//!
//! Real controllers over one memory store, real agents, connectors, tunnels and relay, joined by
//! links that lose, delay, repeat and break, and behind NATs between which direct paths come and go. Devices crash, sleep, roam and fall out of compliance;
//! admins revoke, block and change rules; controllers stop, start and lose sight of the store; the
//! relay crashes and knows nobody when it is back; clocks step; the store conflicts and fills up. One device is a villain with a modified agent, one
//! connector may lie, and a stranger sends to everybody. A small reference model watches the ledger
//! and the wire, and says after every step whether ARCHITECTURE §7 still holds:
//!
//! 1. A flow or packet reaches an app only under a live grant for that device, app and port.
//! 2. After a revocation is committed, delivery stops within one push, and within `ttl` when cut off.
//! 3. No certificate goes to a device whose latest appraisal fails.
//! 4. No byte goes to a stranger.
//! 5. Every effect has a committed entry before it.
//! 6. All controllers' folds are equal at equal revisions.
//! 7. What was acknowledged is durable.
//!
//! When the faults stop, every permitted flow completes, every denied one is told why, and nobody
//! holds more than what is live.
#![forbid(unsafe_code)]

mod beside;
mod channel;
mod clock;
mod control;
mod device;
mod dice;
mod founding;
mod growth;
mod liar;
mod member;
mod model;
mod nat;
mod network;
mod plan;
mod relay;
mod schedule;
mod script;
mod setup;
mod site;
mod store;
mod stranger;
mod tag;
mod trace;
mod user;
mod verdict;
mod villain;
mod world;

pub use self::{
    model::Violation,
    verdict::{Failure, Summary, run},
};
