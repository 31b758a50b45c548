//! The command line of `cardea-connector`.

use std::{path::PathBuf, process::ExitCode};

use cardea_host::{
    arguments,
    exit::{Failure, finish},
    guard::GuardCommand,
};
use cardea_proto::{
    identity::Role,
    local::{ConnectorStatus, ControllerState, LocalAnswer, LocalRequest},
    netcheck::NetReport,
};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use super::{
    CodeArgument, Output, Place, client, netcheck, show,
    start::{self, Local, Program},
};
use crate::talk;

const PROGRAM: Program = Program {
    name: "cardea-connector",
    role: Role::Connector,
};

/// Brings applications to those who may reach them, and is reached by nobody else.
#[derive(Debug, Parser)]
#[command(
    name = "cardea-connector",
    version,
    about,
    after_help = "Start here: cardea-connector up CODE"
)]
struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Enrolls when new, then serves in the foreground
    #[command(after_help = "Example: cardea-connector up --code-file code.txt")]
    Up {
        #[command(flatten)]
        code: CodeArgument,
    },
    /// Makes the connector's key, proves it and gets the first certificate
    #[command(after_help = "Example: cardea-connector enroll --code-file code.txt")]
    Enroll {
        #[command(flatten)]
        code: CodeArgument,
    },
    /// Serves in the foreground
    #[command(after_help = "Example: cardea-connector run")]
    Run {
        /// How apps are reached
        #[arg(long, value_enum, default_value_t, env = "CARDEA_MODE")]
        mode: Mode,
        /// Which addresses devices have on this host with --mode kernel: a range for IPv4, one for IPv6
        #[arg(
            long,
            env = "CARDEA_RANGES",
            value_delimiter = ',',
            value_name = "ADDRESS/BITS"
        )]
        range: Vec<String>,
    },
    /// Is it connected, and how many grants does it serve
    #[command(after_help = "Example: cardea-connector status -o json")]
    Status {
        /// How output is written
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
        /// Looks at the network as well, as `netcheck` does; by itself where it is not connected
        #[arg(long)]
        net: bool,
    },
    /// Looks at the network: controllers by UDP and TLS, relays, NAT, MTU, clock; and what to do
    #[command(after_help = "Example: cardea-connector netcheck -o json")]
    Netcheck {
        /// How output is written
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// The host guard, which `--guard` puts before this machine's ports
    #[command(after_help = "Example: cardea-connector guard remove")]
    Guard {
        /// What to do with it
        #[command(subcommand)]
        verb: GuardCommand,
    },
    /// Prints completions for a shell
    #[command(after_help = "Example: cardea-connector completion zsh > _cardea-connector")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages into a directory
    #[command(after_help = "Example: cardea-connector man /usr/local/share/man/man1")]
    Man {
        /// The directory
        directory: PathBuf,
    },
}

/// How apps are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Each flow ends here and is dialed anew, without root.
    #[default]
    Userspace,
    /// The kernel forwards packets, as root.
    Kernel,
}

/// Runs `cardea-connector`.
#[must_use]
pub fn main() -> ExitCode {
    finish(run(arguments::parse::<Arguments>()))
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = arguments.place.settle(PROGRAM.name)?;
    match arguments.verb {
        Verb::Up { code } => start::up(PROGRAM, &settings, &code, (None, &Local::Sockets)),
        Verb::Enroll { code } => start::enroll(PROGRAM, &settings, &code, None),
        Verb::Run { mode, range } => {
            let local = match mode {
                Mode::Userspace => Local::Sockets,
                Mode::Kernel => Local::Interface {
                    ranges: range,
                    names: None,
                },
            };
            start::run(PROGRAM, &settings, None, &local)
        }
        Verb::Netcheck { output } => netcheck::examine(PROGRAM, &settings, output),
        Verb::Status { output, net } => {
            let answer = client::ask(&settings, PROGRAM.name, &LocalRequest::Status)?;
            let LocalAnswer::ConnectorStatus(status) = answer else {
                return Err(client::unexpected());
            };
            let is_up = status.controller.state == ControllerState::Connected;
            let network = (net || !is_up)
                .then(|| netcheck::report(PROGRAM, &settings))
                .transpose()?;
            let status = WithNetwork {
                status: *status,
                network,
            };
            show::show(output, &status, WithNetwork::table)
        }
        Verb::Guard { verb } => {
            talk::say(verb.carry_out()?.trim_end());
            Ok(())
        }
        Verb::Completion { shell } => {
            super::complete::<Arguments>(PROGRAM.name, shell);
            Ok(())
        }
        Verb::Man { directory } => super::manual::<Arguments>(&directory),
    }
}

/// A connector's status, and how its network is where somebody looked.
#[derive(Debug, Serialize)]
struct WithNetwork {
    #[serde(flatten)]
    status: ConnectorStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<NetReport>,
}

impl WithNetwork {
    fn table(&self) -> String {
        let status = show::connector(&self.status);
        match &self.network {
            None => status,
            Some(network) => format!("{status}\n\n{}", netcheck::table(network)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_verb_has_an_example() {
        let mut command = Arguments::command();
        command.clone().debug_assert();
        for verb in command.get_subcommands_mut() {
            let name = verb.get_name().to_owned();
            assert!(verb.get_after_help().is_some(), "{name}");
        }
    }
}
