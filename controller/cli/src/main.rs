//! `cardeactl`, the admin's command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use cardea_cli::{args::Cli, console::Console, run::run};
use cardea_host::exit;
use clap::Parser;

fn main() -> ExitCode {
    exit::finish(run(Cli::parse(), &mut Console::of_process()))
}
