//! Commands about policies, decisions, grants and the ledger.

use std::path::PathBuf;

use cardea_host::unlock::Unlock;
use cardea_proto::{ledger::Revision, name::Name, time::UnixMillis};
use clap::{Args, Subcommand, ValueEnum};

/// Policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Prints the policy in force, rules for everyday use included
    #[command(after_help = "Examples:
  cardeactl policy show
  cardeactl policy show --recommended
  cardeactl policy show --dir policy    # writes the folder, to edit and apply")]
    Show {
        /// The stricter rules that lie beside the default ones
        #[arg(long)]
        recommended: bool,
        /// Write the files into this directory, which must be empty or new
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Says whether a folder parses and agrees with the schema
    #[command(after_help = "Examples:
  cardeactl policy check policy/")]
    Check {
        /// The folder: *.cedar and *.test.toml
        dir: PathBuf,
    },
    /// Runs the tests of a folder
    #[command(after_help = "Examples:
  cardeactl policy test policy/")]
    Test {
        /// The folder
        dir: PathBuf,
    },
    /// Says whom a folder would give or take access
    #[command(after_help = "Examples:
  cardeactl policy diff policy/
  cardeactl policy diff --recommended")]
    Diff(PolicySource),
    /// Makes a folder the policy, after its tests passed
    #[command(after_help = "Examples:
  cardeactl policy apply policy/ --dry-run
  cardeactl policy apply policy/
  cardeactl policy apply --recommended")]
    Apply {
        /// What to apply
        #[command(flatten)]
        source: PolicySource,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
}

/// A folder, or the one that lies beside the default one.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PolicySource {
    /// The folder: *.cedar and *.test.toml
    pub dir: Option<PathBuf>,
    /// The stricter rules: disk encryption, firewall, patch age, screen lock
    #[arg(long)]
    pub recommended: bool,
}

/// Grants.
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// Lists what is open
    #[command(after_help = "Examples:
  cardeactl grant ls
  cardeactl grant ls -o json")]
    Ls,
    /// Shows a grant, and why it was given
    #[command(after_help = "Examples:
  cardeactl grant show grt_aebagbafaydqqcik")]
    Show {
        /// Its id, or its name as grant ls prints it
        grant: String,
    },
    /// Ends a grant at once; while policy permits it, the next connection gets another
    ///
    /// To end it for good, take the rule back (cardeactl disallow PRINCIPAL APP) or block the device
    /// (cardeactl device block NAME).
    #[command(after_help = "Examples:
  cardeactl grant revoke grt_aebagbafaydqqcik
  cardeactl grant revoke 'wiki for alice@corp.example' --yes")]
    Revoke {
        /// Its id, or its name as grant ls prints it
        grant: String,
    },
}

/// Tunnels.
#[derive(Debug, Subcommand)]
pub enum TunnelCommand {
    /// Lists tunnels with their traffic
    #[command(after_help = "Examples:
  cardeactl tunnel ls
  cardeactl tunnel ls -o json")]
    Ls,
}

/// The ledger.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Prints the last entries
    #[command(after_help = "Examples:
  cardeactl audit tail
  cardeactl audit tail -n 100 -o json
  cardeactl audit tail --follow")]
    Tail {
        /// How many, 1000 at most
        #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT",
              value_parser = clap::value_parser!(u32).range(0..=1_000))]
        lines: u32,
        /// Go on with what is committed from now on; as JSON, one entry a line
        #[arg(short, long)]
        follow: bool,
    },
    /// Shows one entry with its changes, its decision and its signature
    #[command(after_help = "Examples:
  cardeactl audit show 42
  cardeactl audit show 42 -o json")]
    Show {
        /// Its revision
        #[arg(value_parser = revision)]
        revision: Revision,
    },
    /// Finds the last entries about a device, a user, an app; by an actor; from a time
    #[command(after_help = "Examples:
  cardeactl audit search --device laptop --from 2026-03-01
  cardeactl audit search --app db-prod --decision deny -n 50
  cardeactl audit search --user alice@corp.example -o json")]
    Search(Search),
    /// Who could reach an app at a time, and by which rule
    #[command(after_help = "Examples:
  cardeactl audit who --app db-prod --at 2026-03-03T12:00:00Z
  cardeactl audit who --app db-prod --at 2026-03-03 -o json")]
    Who {
        /// The app
        #[arg(long)]
        app: Name,
        /// When: RFC 3339, or a day, which begins at midnight UTC
        #[arg(long, value_name = "TIME", value_parser = moment)]
        at: UnixMillis,
    },
    /// Prints the whole ledger for a log collector, a line for each entry
    #[command(after_help = "Examples:
  cardeactl audit export --format ocsf > ledger.jsonl
  cardeactl audit export --format cef --follow
  cardeactl audit export --format json --from 1284 --out ledger.jsonl")]
    Export(Export),
    /// Prints the latest checkpoint, to keep where nobody can reach it and to verify against
    #[command(after_help = "Examples:
  cardeactl audit checkpoint
  cardeactl audit checkpoint > /mnt/elsewhere/last.checkpoint")]
    Checkpoint,
    /// Checks every entry, checkpoint and signature, without the controller
    #[command(after_help = "Examples:
  cardeactl audit verify --key corp.example/ledger+0a1b2c3d+AQ…=
  cardeactl audit verify --ledger /mnt/copy --key ledger.pub --since last.checkpoint")]
    Verify(Verify),
}

/// Which entries are looked for: those that all of these let through.
#[derive(Debug, Args)]
pub struct Search {
    /// About this device, by id or name
    #[arg(long)]
    pub device: Option<String>,
    /// About this user
    #[arg(long)]
    pub user: Option<Name>,
    /// About this app
    #[arg(long)]
    pub app: Option<Name>,
    /// Caused by this admin key, node or controller, by id; a device by its name too
    #[arg(long)]
    pub actor: Option<String>,
    /// Not before: RFC 3339, or a day, which begins at midnight UTC
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub from: Option<UnixMillis>,
    /// Not after
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub to: Option<UnixMillis>,
    /// With a decision of this kind
    #[arg(long)]
    pub decision: Option<DecisionKind>,
    /// How many, 1000 at most
    #[arg(short = 'n', long, default_value_t = 100, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub lines: u32,
}

/// What a decision said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DecisionKind {
    /// Allowed.
    Allow,
    /// Denied, or refused before any decision.
    Deny,
}

/// An export of the ledger.
#[derive(Debug, Args)]
pub struct Export {
    /// How each entry is written
    #[arg(long, default_value = "json")]
    pub format: ExportFormat,
    /// The first entry
    #[arg(long, default_value = "1", value_name = "REVISION", value_parser = revision)]
    pub from: Revision,
    /// Go on with what is committed from now on
    #[arg(short, long)]
    pub follow: bool,
    /// A file, which is written anew, in place of standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// How an entry is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// The entry as it is.
    Json,
    /// Open Cybersecurity Schema Framework, as JSON.
    Ocsf,
    /// ArcSight common event format.
    Cef,
}

/// A check of a ledger that needs no controller.
#[derive(Debug, Args)]
pub struct Verify {
    /// The state directory of a controller, a copy of its ledger/, or a backup [default: the one on
    /// this machine]
    #[arg(long, value_name = "DIR|FILE")]
    pub ledger: Option<PathBuf>,
    /// The ledger's public key, or the file that holds it: init printed it
    #[arg(long, value_name = "PUBKEY")]
    pub key: String,
    /// A checkpoint that was kept: the ledger must contain what it was signed over
    #[arg(long, value_name = "FILE")]
    pub since: Option<PathBuf>,
    /// The key of a sealed one: file:PATH, credential:NAME or passphrase
    #[arg(long, env = "CARDEA_UNLOCK", value_name = "SOURCE")]
    pub unlock: Option<Unlock>,
}

fn moment(text: &str) -> Result<UnixMillis, String> {
    let day = || UnixMillis::from_rfc3339(&format!("{text}T00:00:00Z"));
    let at = text
        .contains('-')
        .then(|| UnixMillis::from_rfc3339(text).or_else(day));
    at.flatten()
        .ok_or_else(|| "a time is like 2026-03-03T12:00:00Z or 2026-03-03".to_owned())
}

fn revision(text: &str) -> Result<Revision, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(Revision(number)),
        Ok(_) | Err(_) => Err("a revision is a number from 1".to_owned()),
    }
}
