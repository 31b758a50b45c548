//! The agent: the user's command line and the daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    cardea_daemon::cli::agent::main()
}
