//! Completions and manual pages, from the same definitions as the commands.

use std::path::Path;

use cardea_host::exit::{Code, Failure, io_advice};
use clap::CommandFactory;

use crate::{args::Cli, console::Console};

pub(crate) fn completion(
    shell: clap_complete::Shell,
    console: &mut Console,
) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cardeactl", &mut text);
    console.data(&String::from_utf8_lossy(&text))
}

pub(crate) fn manual(dir: Option<&Path>, console: &mut Console) -> Result<(), Failure> {
    if let Some(dir) = dir {
        let failed = |error| {
            Failure::of(
                Code::Failed,
                &dir.display().to_string(),
                &error,
                io_advice(&error),
            )
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        return clap_mangen::generate_to(Cli::command(), dir).map_err(failed);
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut text)
        .map_err(|error| Failure::of(Code::Failed, "manual page", &error, io_advice(&error)))?;
    console.data(&String::from_utf8_lossy(&text))
}
