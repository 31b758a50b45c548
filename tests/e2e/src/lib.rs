//! The real binaries, as users run them: what the demo and the end-to-end tests are written with.
//!
//! [`program`] starts and watches processes, [`deployment`] puts a controller, a connector and a
//! device together, [`traffic`] makes the pages and bytes that go through a tunnel, [`apps`] starts
//! what others serve with, [`wireguard_go`] other ends of WireGuard, [`namespace`] and [`nat`] make hosts
//! and NATs out of network namespaces, [`internet`] what lies between them, and [`capture`] sees what
//! passes. [`disk`] can be full, [`dark`] is a whole host under a stranger's probes, and [`scan`] what a
//! scanner makes of one. [`needs`] leaves out what a machine cannot do.
#![forbid(unsafe_code)]

pub mod apps;
pub mod capture;
pub mod dark;
pub mod deployment;
pub mod disk;
pub mod internet;
pub mod namespace;
pub mod nat;
pub mod needs;
pub mod program;
pub mod proxy;
pub mod scan;
pub mod sockets;
pub mod stranger;
pub mod traffic;
pub mod wireguard_go;
