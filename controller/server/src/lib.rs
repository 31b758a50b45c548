//! The controller as a program: sockets, files and threads around [`cardea_core::Controller`].
//!
//! [`founding`] makes a trust domain, [`serve`] runs it. The one loop in `turn` owns the controller;
//! everything else brings it events or does what it says.
#![forbid(unsafe_code)]

use std::path::Path;

use cardea_host::exit::{Code, Failure};

mod admin;
pub mod arguments;
mod attendance;
pub mod config;
pub mod folder;
pub mod founding;
mod identity;
mod ledger;
mod nodes;
mod reach;
pub mod seal;
pub mod serve;
mod sockets;
mod turn;
pub mod values;
mod watched;

/// An error with all of its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A state folder without a trust domain, as it is shown.
#[must_use]
pub fn no_state(path: &Path) -> Failure {
    let place = path.display().to_string();
    let next = format!("Make one with: cardea-controller init --domain DOMAIN --state {place}");
    Failure::of(
        Code::Storage,
        &place,
        "there is no trust domain here",
        &next,
    )
}
