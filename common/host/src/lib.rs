//! The shell's tools: clocks, entropy, files, sockets, channels, telemetry.
//!
//! Everything that the pure crates may not touch is here, so that there is one place to read for
//! what a program of ours does to the machine it runs on.

pub mod addresses;
pub mod arguments;
pub mod channel;
pub mod clock;
pub mod detour;
pub mod entropy;
pub mod exit;
pub mod files;
pub mod frame;
pub mod guard;
mod keyboard;
pub mod knock_log;
pub mod local_port;
pub mod nat;
pub mod places;
pub mod process;
pub mod resolv_conf;
pub mod resolved;
#[expect(unsafe_code, reason = "two socket options have no wrapper")]
pub mod sieve;
pub mod supervisor;
pub mod tcp;
pub mod telemetry;
#[expect(unsafe_code, reason = "a TUN is made by ioctl")]
pub mod tun;
pub mod udp;
pub mod unix;
pub mod unlock;
