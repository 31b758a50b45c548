//! The command line, from which help, completions and man pages are made.

use std::{net::SocketAddr, path::PathBuf};

use cardea_host::{
    guard::{Guard, GuardCommand},
    unlock::Unlock,
};
use cardea_proto::name::Name;
use clap::{ArgAction, Args, Parser, Subcommand};

use cardea_relay_server::config::{DecoyFiles, Rate};

use crate::values::{Place, Places, Span};

/// The controller of Cardea: decides, issues certificates, keeps the ledger.
#[derive(Debug, Parser)]
#[command(
    name = "cardea-controller",
    version,
    about,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        cardea-controller up --domain corp.example --advertise ztna.corp.example\n  \
        cardea-controller init --domain corp.example --state /srv/cardea\n  \
        cardea-controller run --state /srv/cardea\n\n\
        Flags come before the environment (CARDEA_*), which comes before the configuration file."
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Says more; twice, much more.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Says only what is wrong.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a trust domain where there is none, then runs, with the relay.
    #[command(after_help = "Example:\n  \
        cardea-controller up --domain corp.example --advertise ztna.corp.example")]
    Up(Flags),
    /// Makes a trust domain: ledger, certificate authority, first admin key, default policy.
    #[command(after_help = "Example:\n  \
        cardea-controller init --domain corp.example --advertise ztna.corp.example")]
    Init(Flags),
    /// Runs the controller of a trust domain that was made.
    #[command(after_help = "Example:\n  cardea-controller run --state /srv/cardea --relay")]
    Run(Flags),
    /// Makes a new intermediate certificate with the root key, which lives 30 days.
    #[command(after_help = "Example, with the root key on a stick:\n  \
        cardea-controller renew --root /media/stick/root && systemctl restart cardea-controller")]
    Renew(RenewFlags),
    /// Looks at a ledger that does not load, and says what can be done about it.
    #[command(after_help = "Examples:\n  \
        cardea-controller repair\n  \
        cardea-controller repair --cut")]
    Repair(RepairFlags),
    /// Seals the state's key with another secret, without rewriting anything else.
    #[command(after_help = "Example:\n  \
        cardea-controller rewrap --unlock file:/etc/cardea/old.key --to credential:cardea")]
    Rewrap(RewrapFlags),
    /// The host guard, which `--guard` puts before this machine's ports.
    #[command(after_help = "Example:\n  cardea-controller guard remove")]
    Guard {
        /// What to do with it.
        #[command(subcommand)]
        command: GuardCommand,
    },
    /// Prints a completion script for a shell.
    #[command(after_help = "Example:\n  \
        cardea-controller completion bash > /etc/bash_completion.d/cardea-controller")]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Prints the man pages, or writes them to a folder.
    #[command(after_help = "Example:\n  cardea-controller man /usr/local/share/man/man1")]
    Man {
        /// Where to write one file for each command.
        folder: Option<PathBuf>,
    },
}

/// What opens a sealed state.
#[derive(Clone, Debug, Default, Args)]
pub struct UnlockFlag {
    /// Where the key comes from that the state is sealed with: file:PATH, credential:NAME (of
    /// systemd) or passphrase (typed, or a line on stdin).
    #[arg(long, env = "CARDEA_UNLOCK", value_name = "SOURCE")]
    pub unlock: Option<Unlock>,
}

/// What `rewrap` does.
#[derive(Clone, Debug, Args)]
pub struct RewrapFlags {
    /// The state folder.
    #[arg(long, env = "CARDEA_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The key that it has.
    #[command(flatten)]
    pub unlock: UnlockFlag,
    /// The key that it gets; a file that is missing is made.
    #[arg(long, value_name = "SOURCE")]
    pub to: Unlock,
}

/// What `repair` does.
#[derive(Clone, Debug, Default, Args)]
pub struct RepairFlags {
    /// The state folder.
    #[arg(long, env = "CARDEA_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The key of a sealed state.
    #[command(flatten)]
    pub unlock: UnlockFlag,
    /// Keep the entries before the damage and lose those behind it.
    #[arg(long)]
    pub cut: bool,
}

/// How the controller is made and runs. What is not given comes from the file, then from defaults.
#[derive(Clone, Debug, Default, Args)]
pub struct Flags {
    /// The state folder.
    #[arg(long, env = "CARDEA_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The key of a sealed state; `init` seals a new one with it.
    #[command(flatten)]
    pub unlock: UnlockFlag,
    /// The configuration file [default: controller.toml in the state folder].
    #[arg(long, env = "CARDEA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The trust domain, for good.
    #[arg(long, env = "CARDEA_DOMAIN", value_name = "DOMAIN")]
    pub domain: Option<Name>,
    /// Where nodes reach this controller; may be given more than once.
    #[arg(
        long,
        env = "CARDEA_ADVERTISE",
        value_name = "HOST[:PORT]",
        value_delimiter = ','
    )]
    pub advertise: Vec<Place>,
    /// Where to listen for channels (UDP) [default: every address, port 7443].
    #[arg(long, env = "CARDEA_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Whether to carry a relay [default: true for `up`].
    #[arg(
        long,
        env = "CARDEA_RELAY",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub relay: Option<bool>,
    /// Where the relay listens (UDP) [default: every address, port 7444].
    #[arg(long, env = "CARDEA_RELAY_LISTEN", value_name = "ADDRESS:PORT")]
    pub relay_listen: Option<SocketAddr>,
    /// Where nodes reach the first relay, which is this controller's own if it carries one
    /// [default: where they reach this controller].
    #[arg(
        long,
        env = "CARDEA_RELAY_ADDRESS",
        value_name = "HOST[:PORT]",
        value_delimiter = ','
    )]
    pub relay_address: Vec<Place>,
    /// A relay elsewhere that stands by, with all of its addresses; may be given more than once.
    #[arg(
        long,
        env = "CARDEA_STANDBY_RELAY",
        value_name = "HOST[:PORT][,HOST[:PORT]]",
        value_delimiter = ';'
    )]
    pub standby_relay: Vec<Places>,
    /// Where the relay also takes TLS (TCP), for nodes whose network drops UDP; 443 passes most
    /// firewalls [default: nowhere].
    #[arg(long, env = "CARDEA_LISTEN_TLS", value_name = "ADDRESS:PORT")]
    pub listen_tls: Option<SocketAddr>,
    /// Where nodes reach that [default: where they reach this controller].
    #[arg(
        long,
        env = "CARDEA_TLS_ADDRESS",
        value_name = "HOST[:PORT]",
        value_delimiter = ','
    )]
    pub tls_address: Vec<Place>,
    /// What strangers see there instead of nothing: a certificate and its key (PEM), and perhaps a
    /// page.
    #[arg(long, env = "CARDEA_TLS_DECOY", value_name = "CERT,KEY[,PAGE]")]
    pub tls_decoy: Option<DecoyFiles>,
    /// How much one end of a tunnel may send through this controller's relay, such as 50mbit
    /// [default: as much as it likes].
    #[arg(long, env = "CARDEA_RELAY_RATE", value_name = "RATE")]
    pub relay_rate: Option<Rate>,
    /// What keeps this machine from telling strangers which UDP ports are closed: none or nft
    /// (as root) [default: none].
    #[arg(long, env = "CARDEA_GUARD", value_name = "GUARD")]
    pub guard: Option<Guard>,
    /// How long a certificate lives, 5m to 24h [default: 1h].
    #[arg(long, env = "CARDEA_CERTIFICATE_LIFE", value_name = "DURATION")]
    pub certificate_life: Option<Span>,
    /// How long a grant lives without an extension, 30s to 1h [default: 5m].
    #[arg(long, env = "CARDEA_GRANT_TTL", value_name = "DURATION")]
    pub grant_ttl: Option<Span>,
    /// How often devices report when nothing changes, 1s to 1h [default: 60s].
    #[arg(long, env = "CARDEA_POSTURE_POLL", value_name = "DURATION")]
    pub posture_poll: Option<Span>,
    /// Accepts facts that a file made up. For tests and demos alone.
    #[arg(
        long,
        env = "CARDEA_ALLOW_SIMULATED_POSTURE",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub allow_simulated_posture: Option<bool>,
}

/// How an intermediate is renewed.
#[derive(Clone, Debug, Args)]
pub struct RenewFlags {
    /// The state folder.
    #[arg(long, env = "CARDEA_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The key of a sealed state.
    #[command(flatten)]
    pub unlock: UnlockFlag,
    /// The folder with root.key and root.crt [default: root in the state folder].
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_switch_needs_no_value_and_can_be_turned_off() {
        for (flag, expected) in [
            ("--relay", true),
            ("--relay=false", false),
            ("--relay=true", true),
        ] {
            let parsed = Arguments::try_parse_from(["cardea-controller", "run", flag]).unwrap();
            let Command::Run(flags) = parsed.command else {
                panic!("{flag}");
            };
            assert_eq!(flags.relay, Some(expected));
        }
    }
}
