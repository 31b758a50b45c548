//! Everything that can be typed. Help, completions and man pages come from here.

use std::path::PathBuf;

use cardea_host::unlock::Unlock;
use cardea_proto::{app::Principal, name::Name};
use clap::{Args, Parser, Subcommand, ValueEnum};

mod inventory;
mod policy;
mod values;

pub use inventory::{
    AppAdd, AppCommand, AppFields, AppSet, ConnectorCommand, DeviceCommand, InviteCommand,
    SiteCommand, UserCommand,
};
pub use policy::{
    AuditCommand, DecisionKind, Export, ExportFormat, GrantCommand, PolicyCommand, PolicySource,
    Search, TunnelCommand, Verify,
};
pub use values::{Label, Life, ParseLabelError, ParseLifeError};

/// Configures a Cardea controller: who and what may reach which application.
#[derive(Debug, Parser)]
#[command(
    name = "cardeactl",
    version,
    max_term_width = 100,
    after_help = "Examples:
  cardeactl app add wiki --target 10.9.0.10:80 --allow group:staff
  cardeactl invite connector
  cardeactl invite device --user alice@corp.example --group staff
  cardeactl explain --user alice@corp.example --device laptop --app wiki
  cardeactl audit tail --follow

Exit codes: 0 ok, 1 failed, 2 usage, 3 denied by policy, 4 not enrolled, 5 not reachable,
6 posture failed, 7 storage refused."
)]
pub struct Cli {
    /// Where and how.
    #[command(flatten)]
    pub global: Global,
    /// What.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The controller's admin socket [default: admin.sock in its state directory]
    #[arg(long, global = true, env = "CARDEA_ADMIN", value_name = "unix:PATH")]
    pub admin: Option<String>,
    /// The admin's key, which signs every change [default: the one that init made]
    #[arg(long, global = true, env = "CARDEA_ADMIN_KEY", value_name = "FILE")]
    pub admin_key: Option<PathBuf>,
    /// State directory of the controller on this machine
    #[arg(long, global = true, env = "CARDEA_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// A TOML file with admin, admin_key, state and output
    #[arg(long, global = true, env = "CARDEA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to print [default: table]
    #[arg(
        short,
        long,
        global = true,
        env = "CARDEA_OUTPUT",
        value_name = "FORMAT"
    )]
    pub output: Option<Format>,
    /// Do not ask before what cuts people off
    #[arg(short, long, global = true)]
    pub yes: bool,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// JSON, whose field names are stable.
    Json,
    /// The same as YAML.
    Yaml,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One-time codes that admit a device or a connector
    #[command(
        subcommand,
        after_help = "Examples:
  cardeactl invite connector
  cardeactl invite ls"
    )]
    Invite(InviteCommand),
    /// Places with applications and connectors
    #[command(
        subcommand,
        after_help = "Examples:
  cardeactl site add office
  cardeactl site ls"
    )]
    Site(SiteCommand),
    /// The hidden ends beside the applications
    #[command(subcommand, after_help = "Example: cardeactl connector ls")]
    Connector(ConnectorCommand),
    /// Machines with an agent
    #[command(
        subcommand,
        after_help = "Examples:
  cardeactl device ls
  cardeactl device block laptop"
    )]
    Device(DeviceCommand),
    /// People and their groups
    #[command(subcommand, after_help = "Example: cardeactl user ls")]
    User(UserCommand),
    /// Published applications
    #[command(
        subcommand,
        after_help = "Examples:
  cardeactl app add wiki --target 10.9.0.10:80 --allow group:staff
  cardeactl app ls"
    )]
    App(AppCommand),
    /// Lets somebody open an application
    #[command(after_help = "Examples:
  cardeactl allow group:staff wiki
  cardeactl allow user:alice@corp.example db-prod
  cardeactl allow everyone status-page")]
    Allow(Rule),
    /// Takes such a rule back
    #[command(after_help = "Examples:
  cardeactl disallow group:staff wiki
  cardeactl disallow everyone status-page --yes")]
    Disallow(Rule),
    /// Cedar policies with their tests, as a folder
    #[command(
        subcommand,
        after_help = "Examples:
  cardeactl policy show --dir policy
  cardeactl policy apply policy"
    )]
    Policy(PolicyCommand),
    /// The decision now, and why
    #[command(after_help = "Examples:
  cardeactl explain --user alice@corp.example --device laptop --app wiki
  cardeactl explain --user alice@corp.example --device laptop --app wiki -o json")]
    Explain(Explain),
    /// Who may reach what at this moment
    #[command(subcommand, after_help = "Example: cardeactl grant ls")]
    Grant(GrantCommand),
    /// Tunnels and their traffic
    #[command(subcommand, after_help = "Example: cardeactl tunnel ls")]
    Tunnel(TunnelCommand),
    /// The ledger: everything that was changed, granted and refused
    #[command(
        subcommand,
        after_help = "Examples:
  cardeactl audit tail --follow
  cardeactl audit search --user alice@corp.example"
    )]
    Audit(AuditCommand),
    /// How the controller is
    #[command(after_help = "Examples:
  cardeactl status
  cardeactl status -o json
  cardeactl status --acknowledge-rollback")]
    Status {
        /// Let the ledger go on from where it was rolled back to: what was lost stays lost
        #[arg(long)]
        acknowledge_rollback: bool,
    },
    /// Copies the controller's state into one file, while it runs; on the controller's host
    #[command(after_help = "Examples:
  cardeactl backup /mnt/backups/cardea-2026-03-03.tar
  cardeactl backup /mnt/backups/today.tar --state /srv/cardea")]
    Backup {
        /// The file to make. It holds keys: keep it as safe as the controller
        file: PathBuf,
    },
    /// Makes a state directory from a backup, and checks it
    #[command(after_help = "Examples:
  cardeactl restore /mnt/backups/today.tar --state /srv/cardea")]
    Restore {
        /// The backup
        file: PathBuf,
        /// The key of a sealed one: file:PATH, credential:NAME or passphrase
        #[arg(long, env = "CARDEA_UNLOCK", value_name = "SOURCE")]
        unlock: Option<Unlock>,
    },
    /// Prints the completions of a shell
    #[command(after_help = "Examples:
  cardeactl completion bash > /etc/bash_completion.d/cardeactl
  cardeactl completion zsh > ~/.zfunc/_cardeactl")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, or writes all of them into a directory
    #[command(after_help = "Examples:
  cardeactl man | man -l -
  cardeactl man --dir /usr/local/share/man/man1")]
    Man {
        /// Where to write one page for each command
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// A rule for everyday use.
#[derive(Debug, Args)]
pub struct Rule {
    /// user:NAME, group:NAME or everyone
    pub principal: Principal,
    /// The application
    pub app: Name,
}

/// What to explain.
#[derive(Debug, Args)]
pub struct Explain {
    /// The user
    #[arg(long)]
    pub user: Name,
    /// The device, by name or id
    #[arg(long)]
    pub device: String,
    /// The application
    #[arg(long)]
    pub app: Name,
}

#[cfg(test)]
mod tests;
