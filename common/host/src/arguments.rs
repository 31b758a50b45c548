//! The command line of every program.

use std::ffi::OsStr;

use clap::{Arg, Command, Parser, builder::Resettable};

/// Parses the command line of this process, or ends it with what is wrong about it.
///
/// A variable that is set to nothing (`CARDEA_STATE=`) is one that is not set: a unit file or a shell
/// that has no value for it would otherwise name the empty path.
#[must_use]
pub fn parse<T: Parser>() -> T {
    let command = without_empty(T::command(), &|name| {
        std::env::var_os(name).is_some_and(|value| value.is_empty())
    });
    let mut matches = command.get_matches();
    T::from_arg_matches_mut(&mut matches)
        .unwrap_or_else(|error| error.format(&mut T::command()).exit())
}

fn without_empty(command: Command, is_empty: &dyn Fn(&OsStr) -> bool) -> Command {
    let heed = |arg: Arg| {
        let unset = arg.get_env().is_some_and(is_empty);
        if unset {
            arg.env(Resettable::Reset)
        } else {
            arg
        }
    };
    command
        .mut_args(heed)
        .mut_subcommands(|verb| without_empty(verb, is_empty))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(subcommand)]
        verb: Verb,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Verb {
        Run {
            #[arg(long, env = "CARDEA_TEST_STATE")]
            state: Option<std::path::PathBuf>,
        },
    }

    #[test]
    fn a_variable_that_is_set_to_nothing_is_not_set() {
        let variable = |empty: bool| {
            let command = without_empty(Program::command(), &|_| empty);
            let run = command.find_subcommand("run").unwrap();
            let state = run.get_arguments().find(|arg| arg.get_id() == "state");
            state.unwrap().get_env().map(OsStr::to_owned)
        };
        assert_eq!(variable(true), None);
        assert_eq!(variable(false).unwrap(), "CARDEA_TEST_STATE");
    }
}
