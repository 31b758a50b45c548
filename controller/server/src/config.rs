//! The configuration: a file, the flags over it, and the settings that both become.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use cardea_core::{CERTIFICATE_LIFE_MAX, CERTIFICATE_LIFE_MIN, TTL_MAX, TTL_MIN};
use cardea_host::{
    exit::{Code, Failure},
    files::{CONFIG_BYTES_MAX, ReadError, read_named_text},
    guard::Guard,
    unlock::Unlock,
};
use cardea_proto::{PORT_CHANNEL, PORT_RELAY, name::Name};
use cardea_relay_server::config::{DecoyFiles, Rate};
use serde::{Deserialize, Serialize};

use crate::{
    arguments::Flags,
    values::{Place, Places, Span},
};

/// The file's name in the state folder.
pub const FILE: &str = "controller.toml";

const POLL_MIN: Duration = Duration::from_secs(1);
const POLL_MAX: Duration = Duration::from_secs(3_600);

/// What a configuration file may say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The trust domain, which `init` makes; a state of another one is not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Name>,
    /// Where nodes reach this controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertise: Vec<Place>,
    /// Where it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// What stands before this machine's ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Where the key of a sealed state comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlock: Option<Unlock>,
    /// Life of a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_life: Option<Span>,
    /// Life of a grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant_ttl: Option<Span>,
    /// Time between reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posture_poll: Option<Span>,
    /// Whether facts may be made up. Never written: it holds for as long as it is asked for.
    #[serde(skip_serializing)]
    pub allow_simulated_posture: Option<bool>,
    /// The relay.
    #[serde(skip_serializing_if = "RelayConfig::is_empty")]
    pub relay: RelayConfig,
}

/// What a configuration file may say about relays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    /// Whether this controller carries one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedded: Option<bool>,
    /// Where that one listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Where nodes reach the first relay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Place>,
    /// Relays elsewhere that stand by, each with its addresses between commas.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub standby: Vec<Places>,
    /// Where that one's front listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_tls: Option<SocketAddr>,
    /// Where nodes reach the front.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_addresses: Vec<Place>,
    /// What strangers see at the front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_decoy: Option<DecoyFiles>,
    /// How much one end of a tunnel may send through that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl RelayConfig {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Config {
    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// A message that names the line.
    pub fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let place = path.display().to_string();
        let text = match read_named_text(path, CONFIG_BYTES_MAX) {
            Ok(text) => text,
            Err(ReadError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error.failure(path)),
        };
        let config = toml::from_str(&text).map_err(|error| {
            let why = error.to_string();
            Failure::of(Code::Usage, &place, why.trim_end(), "Mend that line")
        })?;
        Ok(Some(config))
    }

    /// The same with everything that the flags say.
    #[must_use]
    pub fn under(self, flags: &Flags) -> Self {
        let over = |list: &Vec<Place>, below: Vec<Place>| match list.is_empty() {
            true => below,
            false => list.clone(),
        };
        Self {
            domain: flags.domain.clone().or(self.domain),
            advertise: over(&flags.advertise, self.advertise),
            listen: flags.listen.or(self.listen),
            guard: flags.guard.or(self.guard),
            unlock: flags.unlock.unlock.clone().or(self.unlock),
            certificate_life: flags.certificate_life.or(self.certificate_life),
            grant_ttl: flags.grant_ttl.or(self.grant_ttl),
            posture_poll: flags.posture_poll.or(self.posture_poll),
            allow_simulated_posture: flags
                .allow_simulated_posture
                .or(self.allow_simulated_posture),
            relay: RelayConfig {
                embedded: flags.relay.or(self.relay.embedded),
                listen: flags.relay_listen.or(self.relay.listen),
                addresses: over(&flags.relay_address, self.relay.addresses),
                standby: match flags.standby_relay.is_empty() {
                    true => self.relay.standby,
                    false => flags.standby_relay.clone(),
                },
                listen_tls: flags.listen_tls.or(self.relay.listen_tls),
                tls_addresses: over(&flags.tls_address, self.relay.tls_addresses),
                tls_decoy: flags.tls_decoy.clone().or(self.relay.tls_decoy),
                rate: flags.relay_rate.or(self.relay.rate),
            },
        }
    }

    /// The file's text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).unwrap_or_default();
        format!(
            "# Configuration of cardea-controller. Flags and CARDEA_* variables come before it.\n\
             # `cardea-controller run --help` tells what may stand here.\n{body}"
        )
    }
}

/// How a controller runs: everything is there and within its limits.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain that is meant, when it is named: another one is not run.
    pub domain: Option<Name>,
    /// Where nodes reach this controller.
    pub advertise: Vec<Place>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the embedded relay listens, if there is one.
    pub relay_listen: Option<SocketAddr>,
    /// Where nodes reach the first relay.
    pub relay_addresses: Vec<Place>,
    /// Relays elsewhere that stand by.
    pub relay_standby: Vec<Places>,
    /// Where the relay's front listens, if it has one.
    pub front_listen: Option<SocketAddr>,
    /// Where nodes reach the front.
    pub front_addresses: Vec<Place>,
    /// What strangers see there.
    pub decoy: Option<DecoyFiles>,
    /// How much one end of a tunnel may send through the relay.
    pub relay_rate: Option<Rate>,
    /// Life of a certificate.
    pub certificate_life: Duration,
    /// Life of a grant.
    pub grant_ttl: Duration,
    /// Time between reports.
    pub posture_poll: Duration,
    /// Whether facts may be made up.
    pub allow_simulated_posture: bool,
    /// What stands before this machine's ports.
    pub guard: Guard,
}

impl Settings {
    /// Checks a configuration and fills in what it leaves open.
    ///
    /// # Errors
    /// A message that names the flag whose value is out of its range.
    pub fn of(config: Config) -> Result<Self, Failure> {
        let defaults = cardea_core::Settings::default();
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let relay = config.relay.embedded.unwrap_or(false);
        if config.relay.listen_tls.is_some() && config.relay.embedded.is_none() {
            let why = "it is the relay that takes TLS, and this controller carries none";
            let next = "Run with --relay";
            return Err(Failure::of(Code::Usage, "--listen-tls", why, next));
        }
        Ok(Self {
            domain: config.domain,
            advertise: config.advertise,
            listen: config.listen.unwrap_or(any(PORT_CHANNEL)),
            relay_listen: relay.then_some(config.relay.listen.unwrap_or(any(PORT_RELAY))),
            relay_addresses: config.relay.addresses,
            relay_standby: config.relay.standby,
            front_listen: config.relay.listen_tls.filter(|_| relay),
            front_addresses: config.relay.tls_addresses,
            decoy: config.relay.tls_decoy,
            relay_rate: config.relay.rate,
            certificate_life: within(
                "--certificate-life",
                config.certificate_life,
                defaults.certificate_life,
                (CERTIFICATE_LIFE_MIN, CERTIFICATE_LIFE_MAX),
            )?,
            grant_ttl: within(
                "--grant-ttl",
                config.grant_ttl,
                defaults.ttl,
                (TTL_MIN, TTL_MAX),
            )?,
            posture_poll: within(
                "--posture-poll",
                config.posture_poll,
                defaults.posture_poll,
                (POLL_MIN, POLL_MAX),
            )?,
            allow_simulated_posture: config.allow_simulated_posture.unwrap_or(false),
            guard: config.guard.unwrap_or_default(),
        })
    }
}

fn within(
    name: &str,
    given: Option<Span>,
    default: Duration,
    (min, max): (Duration, Duration),
) -> Result<Duration, Failure> {
    match given {
        None => Ok(default),
        Some(Span(given)) if (min..=max).contains(&given) => Ok(given),
        Some(given) => {
            let why = format!("{given} is not between {} and {}", Span(min), Span(max));
            let next = format!("For example: {name} {}", Span(default));
            Err(Failure::of(Code::Usage, name, why, &next))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
domain = "corp.example"
advertise = ["ztna.corp.example", "192.0.2.1:443"]
listen = "[::]:7443"
guard = "nft"
certificate_life = "1h"
grant_ttl = "5m"
posture_poll = "1m"

[relay]
embedded = true
listen = "[::]:7444"
addresses = ["ztna.corp.example:7444"]
listen_tls = "[::]:443"
tls_addresses = ["ztna.corp.example"]
tls_decoy = "a.pem,b.pem"
rate = "50mbit"
"#;

    #[test]
    fn a_device_is_no_configuration_and_nothing_is_none() {
        let failure = Config::read(Path::new("/dev/zero")).unwrap_err();
        assert!(
            failure.message.starts_with("/dev/zero: is a device"),
            "{failure}"
        );
        assert_eq!(Config::read(Path::new("/nonexistent/x")).unwrap(), None);
    }

    #[test]
    fn that_facts_may_be_made_up_is_not_remembered() {
        let allowed = Config {
            allow_simulated_posture: Some(true),
            ..Config::default()
        };
        assert_eq!(
            toml::from_str::<Config>(&allowed.to_toml()).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn a_configuration_reads_back_as_itself() {
        let config: Config = toml::from_str(FULL).unwrap();
        assert_eq!(toml::from_str::<Config>(&config.to_toml()).unwrap(), config);
        assert_eq!(config.relay.embedded, Some(true));
        let empty = Config::default();
        assert_eq!(toml::from_str::<Config>(&empty.to_toml()).unwrap(), empty);
    }

    #[test]
    fn an_unknown_field_or_a_bare_number_is_refused_with_its_line() {
        for text in [
            "[relay]\nembeded = true\n",
            "\ngrant_ttl = 300\n",
            "\ngrant_ttl = \"300\"\n",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(FILE);
            std::fs::write(&path, text).unwrap();
            let failure = Config::read(&path).unwrap_err();
            assert!(failure.message.contains("line 2"), "{}", failure.message);
            assert_eq!(failure.code, 2);
        }
    }

    #[test]
    fn flags_come_before_the_file() {
        let flags = Flags {
            grant_ttl: Some("1m".parse().unwrap()),
            advertise: vec!["h".parse().unwrap()],
            relay: Some(false),
            ..Flags::default()
        };
        let config = toml::from_str::<Config>(FULL).unwrap().under(&flags);
        let settings = Settings::of(config).unwrap();
        assert_eq!(settings.grant_ttl, Duration::from_secs(60));
        assert_eq!(settings.advertise, ["h".parse().unwrap()]);
        assert_eq!(settings.relay_listen, None);
        assert_eq!(settings.front_listen, None, "it is the relay's");
        assert_eq!(settings.certificate_life, Duration::from_secs(3_600));
    }

    #[test]
    fn a_front_without_a_relay_is_refused() {
        let text = "[relay]\nlisten_tls = \"[::]:443\"\n";
        let failure = Settings::of(toml::from_str(text).unwrap()).unwrap_err();
        assert!(failure.message.starts_with("--listen-tls: "), "{failure}");
        let text = format!("{text}embedded = true\n");
        let settings = Settings::of(toml::from_str(&text).unwrap()).unwrap();
        assert_eq!(settings.front_listen, Some("[::]:443".parse().unwrap()));
    }

    #[test]
    fn figures_out_of_their_range_are_refused_by_name() {
        for (life, name) in [
            (r#"certificate_life = "4m""#, "--certificate-life"),
            (r#"certificate_life = "25h""#, "--certificate-life"),
            (r#"grant_ttl = "29s""#, "--grant-ttl"),
            (r#"posture_poll = "500ms""#, "--posture-poll"),
        ] {
            let failure = Settings::of(toml::from_str(life).unwrap()).unwrap_err();
            assert!(failure.message.starts_with(name), "{}", failure.message);
        }
    }
}
