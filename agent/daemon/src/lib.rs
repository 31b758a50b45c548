//! The daemon behind `cardea` and `cardea-connector`: one event loop serves both ends of a tunnel.
#![forbid(unsafe_code)]

pub mod data;
