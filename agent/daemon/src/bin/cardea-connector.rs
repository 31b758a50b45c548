//! The connector: beside the apps, dials out, answers no stranger.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    cardea_daemon::cli::connector::main()
}
