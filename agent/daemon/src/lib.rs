//! The daemon behind `cardea` and `cardea-connector`: one event loop serves both ends of a tunnel.
//!
//! Two halves joined by values. The control half, on a runtime of one thread, feeds a pure core with
//! what its controller, its user and the clock say; the data half ([`data`]), on a thread of its
//! own, moves users' bytes.
#![forbid(unsafe_code)]

pub mod cli;
pub mod data;
pub mod dial;
pub mod enroll;
pub mod state;
pub mod talk;
pub mod virtual_addresses;

mod control;
mod hosts;
mod line;
mod local;
mod names;
mod netcheck;
mod operator;
