//! What an agent knows of the machine it runs on: its posture, and the key that names the device.
//!
//! Everything here reads; nothing decides. A fact that cannot be read is reported as such, and only
//! the controller says what that means.
#![forbid(unsafe_code)]

pub mod collector;
pub mod key;
pub mod posture;
pub mod watch;

mod facts_file;
mod probe;
mod system;
