//! `cardeactl`, the admin's command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use cardea_cli::{args::Cli, console::Console, run::run};
use cardea_host::{exit, process};
use clap::Parser;

fn main() -> ExitCode {
    process::keep_no_core();
    exit::finish(run(Cli::parse(), &mut Console::of_process()))
}
