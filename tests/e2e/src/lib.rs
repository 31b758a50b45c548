//! The real binaries, as users run them: what the demo and the end-to-end tests are written with.
//!
//! [`program`] starts and watches processes, [`deployment`] puts a controller, a connector and a
//! device together, [`traffic`] makes the pages and bytes that go through a tunnel, and
//! [`namespace`] and [`nat`] make hosts and NATs out of network namespaces.
#![forbid(unsafe_code)]

pub mod deployment;
pub mod namespace;
pub mod nat;
pub mod program;
pub mod proxy;
pub mod stranger;
pub mod traffic;
