//! `cardeactl`, the admin's command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use cardea_cli::{args::Cli, console::Console, run::run};
use cardea_host::{arguments, exit, process};

fn main() -> ExitCode {
    process::keep_no_core();
    exit::finish(run(arguments::parse::<Cli>(), &mut Console::of_process()))
}
