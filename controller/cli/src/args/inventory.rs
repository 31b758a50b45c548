//! Commands about codes, sites, nodes, people and applications.

use cardea_proto::{
    app::{Principal, Target, Transport},
    id::InviteId,
    invite::INVITE_DAYS_MAX,
    name::Name,
    pattern::Pattern,
};
use clap::{Args, Subcommand};

use super::{Label, Life, ParseLifeError};

/// One-time codes.
#[derive(Debug, Subcommand)]
pub enum InviteCommand {
    /// Prints a code that admits a device of a user
    #[command(after_help = "Examples:
  cardeactl invite device --user alice@corp.example --group staff
  cardeactl invite device --user bob --expires 15m")]
    Device {
        /// The owner
        #[arg(long)]
        user: Name,
        /// A group that the user joins; may be repeated
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<Name>,
        /// How long the code is good
        #[arg(long, default_value = "1h", value_parser = invite_life)]
        expires: Life,
    },
    /// Prints a code that admits a connector
    #[command(after_help = "Examples:
  cardeactl invite connector
  cardeactl invite connector --site office --expires 10m")]
    Connector {
        /// Where it will stand
        #[arg(long, default_value = "default")]
        site: Name,
        /// How long the code is good
        #[arg(long, default_value = "1h", value_parser = invite_life)]
        expires: Life,
    },
    /// Lists codes; the codes themselves are shown only once, when they are made
    #[command(after_help = "Examples:
  cardeactl invite ls
  cardeactl invite ls -o json")]
    Ls,
    /// Takes a code back
    #[command(after_help = "Examples:
  cardeactl invite rm inv_aebagbafaydqqcik")]
    Rm {
        /// Its id, as invite ls prints it
        id: InviteId,
    },
}

/// How long a code is good: not longer than a controller lets it be.
fn invite_life(text: &str) -> Result<Life, String> {
    let life: Life = text
        .parse()
        .map_err(|error: ParseLifeError| error.to_string())?;
    if life.0.as_secs() > INVITE_DAYS_MAX * 24 * 3_600 {
        return Err(format!(
            "a code is good for {INVITE_DAYS_MAX} days at most, such as 1h or 7d"
        ));
    }
    Ok(life)
}

/// Sites.
#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// Adds a site
    #[command(after_help = "Examples:
  cardeactl site add office")]
    Add {
        /// Its name
        name: Name,
    },
    /// Lists sites
    #[command(after_help = "Examples:
  cardeactl site ls")]
    Ls,
    /// Shows a site
    #[command(after_help = "Examples:
  cardeactl site show office")]
    Show {
        /// Its name
        name: String,
    },
    /// Removes a site that has neither apps nor connectors
    #[command(after_help = "Examples:
  cardeactl site rm office")]
    Rm {
        /// Its name
        name: Name,
    },
}

/// Connectors.
#[derive(Debug, Subcommand)]
pub enum ConnectorCommand {
    /// Lists connectors
    #[command(after_help = "Examples:
  cardeactl connector ls")]
    Ls,
    /// Shows a connector
    #[command(after_help = "Examples:
  cardeactl connector show rack-7")]
    Show {
        /// Its name or id
        connector: String,
    },
    /// Removes a connector for good
    #[command(after_help = "Examples:
  cardeactl connector rm rack-7")]
    Rm {
        /// Its name or id
        connector: String,
    },
}

/// Devices.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Lists devices
    #[command(after_help = "Examples:
  cardeactl device ls
  cardeactl device ls -o json")]
    Ls,
    /// Shows a device with the facts that it reports
    #[command(after_help = "Examples:
  cardeactl device show laptop")]
    Show {
        /// Its name or id
        device: String,
    },
    /// Ends all access of a device until it is unblocked
    #[command(after_help = "Examples:
  cardeactl device block laptop")]
    Block {
        /// Its name or id
        device: String,
    },
    /// Lifts the block
    #[command(after_help = "Examples:
  cardeactl device unblock laptop")]
    Unblock {
        /// Its name or id
        device: String,
    },
    /// Removes a device for good
    #[command(after_help = "Examples:
  cardeactl device rm laptop")]
    Rm {
        /// Its name or id
        device: String,
    },
}

/// People.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Lists people
    #[command(after_help = "Examples:
  cardeactl user ls")]
    Ls,
    /// Shows a person
    #[command(after_help = "Examples:
  cardeactl user show alice@corp.example")]
    Show {
        /// Their name
        user: String,
    },
    /// Makes these groups all groups of a person
    #[command(after_help = "Examples:
  cardeactl user set alice@corp.example --group staff --group ops
  cardeactl user set alice@corp.example --no-groups")]
    Set {
        /// Their name
        user: Name,
        /// A group; may be repeated
        #[arg(
            long = "group",
            value_name = "GROUP",
            required_unless_present = "no_groups"
        )]
        groups: Vec<Name>,
        /// No group at all
        #[arg(long, conflicts_with = "groups")]
        no_groups: bool,
    },
}

/// Applications.
#[derive(Debug, Subcommand)]
pub enum AppCommand {
    /// Publishes an application
    #[command(after_help = "Examples:
  cardeactl app add wiki --target 10.9.0.10:80 --name wiki.corp.example --allow group:staff
  cardeactl app add dns --target 10.9.0.53:53/udp --target 10.9.0.53:53/tcp --transport quic
  cardeactl app add db-prod --site office --target db.corp.example:5432 --label env=prod")]
    Add(AppAdd),
    /// Lists applications
    #[command(after_help = "Examples:
  cardeactl app ls
  cardeactl app ls -o yaml")]
    Ls,
    /// Shows an application
    #[command(after_help = "Examples:
  cardeactl app show wiki")]
    Show {
        /// Its name
        app: String,
    },
    /// Changes an application; what is not given stays
    #[command(after_help = "Examples:
  cardeactl app set wiki --transport wireguard
  cardeactl app set wiki --target 10.9.0.11:80 --target 10.9.0.12:80
  cardeactl app set wiki --no-labels --yes")]
    Set(AppSet),
    /// Removes an application and the rules about it
    #[command(after_help = "Examples:
  cardeactl app rm wiki")]
    Rm {
        /// Its name
        app: Name,
    },
}

/// A new application.
#[derive(Debug, Args)]
pub struct AppAdd {
    /// Its name
    pub app: Name,
    /// Where it is
    #[arg(long, default_value = "default")]
    pub site: Name,
    /// What connectors may reach for it: HOST:PORT, /tcp or /udp behind it; may be repeated. A HOST
    /// `*.NAME` is a host for each that a wildcard DNS name covers
    #[arg(long = "target", value_name = "TARGET", required = true)]
    pub targets: Vec<Target>,
    /// A DNS name under which users know it, or `*.NAME` for all that have one label before NAME; may be
    /// repeated
    #[arg(long = "name", value_name = "DNSNAME")]
    pub names: Vec<Pattern>,
    /// Who may open it: user:NAME, group:NAME or everyone; may be repeated
    #[arg(long = "allow", value_name = "PRINCIPAL")]
    pub allow: Vec<Principal>,
    /// Which carrier: auto, wireguard or quic
    #[arg(long, default_value = "auto")]
    pub transport: Transport,
    /// Something for policies to look at; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
    /// The target is meant although it is loopback, link-local or a metadata service
    #[arg(long)]
    pub allow_host_scoped: bool,
}

/// A change of an application.
#[derive(Debug, Args)]
pub struct AppSet {
    /// Its name
    pub app: Name,
    /// What changes.
    #[command(flatten)]
    pub fields: AppFields,
}

/// New fields of an application, at least one.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct AppFields {
    /// All targets; may be repeated
    #[arg(long = "target", value_name = "TARGET")]
    pub targets: Vec<Target>,
    /// All DNS names; may be repeated
    #[arg(long = "name", value_name = "DNSNAME")]
    pub names: Vec<Pattern>,
    /// No DNS names
    #[arg(long, conflicts_with = "names")]
    pub no_names: bool,
    /// Which carrier: auto, wireguard or quic
    #[arg(long)]
    pub transport: Option<Transport>,
    /// All labels; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
    /// No labels
    #[arg(long, conflicts_with = "labels")]
    pub no_labels: bool,
    /// Targets on the connector's own host, link-local and metadata addresses are meant
    #[arg(long)]
    pub allow_host_scoped: bool,
    /// They are not
    #[arg(long, conflicts_with = "allow_host_scoped")]
    pub no_host_scoped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_for_too_long_is_told_in_days() {
        assert_eq!(
            invite_life("30d").map(|life| life.0.as_secs()),
            Ok(2_592_000)
        );
        let refused = invite_life("400d").unwrap_err();
        assert!(refused.contains("30 days at most"), "{refused}");
        assert!(invite_life("soon").unwrap_err().contains("a unit"));
    }
}
