//! The whole system on one virtual clock, from one seed.
//!
//! The real controller over the memory store, real agents, connectors, tunnels and relay, joined by
//! links that lose, delay, repeat and break. Devices crash, sleep, roam and fall out of compliance;
//! admins revoke, block and change rules; the controller restarts; the store conflicts and fills up.
//! One device is a villain with a modified agent. A small reference model watches the ledger and the
//! wire, and says after every step whether ARCHITECTURE §7 still holds:
//!
//! 1. A flow or packet reaches an app only under a live grant for that device, app and port.
//! 2. After a revocation is committed, delivery stops within one push, and within `ttl` when cut off.
//! 3. No certificate goes to a device whose latest appraisal fails.
//! 5. Every effect has a committed entry before it.
//!
//! When the faults stop, every permitted flow completes and every denied one is told why.
#![forbid(unsafe_code)]

mod clock;
mod control;
mod device;
mod dice;
mod founding;
mod liar;
mod member;
mod model;
mod network;
mod plan;
mod schedule;
mod script;
mod setup;
mod site;
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
