//! The relay's configuration: flags over environment over file.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroU64,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use cardea_credential::knock::FrontKey;
use cardea_host::{
    files::{CONFIG_BYTES_MAX, read_named_text},
    guard::Guard,
};
use cardea_proto::{PORT_RELAY, codec::Secret32};
use cardea_relay::Settings;

use crate::front::Decoy;

/// What `--config FILE` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen, `ADDRESS:PORT`.
    pub listen: Option<SocketAddr>,
    /// The controller's public ticket key: 64 hexadecimal digits, or a file that holds them.
    pub ticket_key: Option<String>,
    /// Where the front listens, if there is one.
    pub listen_tls: Option<SocketAddr>,
    /// What the front shares with the controller: 64 hexadecimal digits, or a file that holds them.
    pub front_key: Option<String>,
    /// The controller to which the front leads, `HOST:PORT`.
    pub controller: Option<String>,
    /// What strangers see at the front.
    pub tls_decoy: Option<DecoyFiles>,
    /// What stands before this machine's ports.
    pub guard: Option<Guard>,
    /// Most ends that are bound at once; a tunnel has two.
    pub ends_max: Option<usize>,
    /// How long an end may be silent before it is forgotten, such as `"90s"`.
    #[serde(default, deserialize_with = "duration")]
    pub idle: Option<Duration>,
    /// Most tickets that are checked in a second.
    pub checks_per_second: Option<u32>,
    /// How much one end of a tunnel may send.
    pub relay_rate: Option<Rate>,
}

/// How much one end of a tunnel may send, such as `50mbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    bits_per_second: NonZeroU64,
}

/// The units of a rate, as `tc` has them, the largest first.
const UNITS: [(&str, u64); 4] = [
    ("gbit", 1_000_000_000),
    ("mbit", 1_000_000),
    ("kbit", 1_000),
    ("bit", 1),
];

/// The slowest rate that is taken: less lets no tunnel open in time.
const RATE_MIN: NonZeroU64 = NonZeroU64::new(64_000).unwrap();

impl Rate {
    /// In bytes, as the relay counts.
    #[must_use]
    pub fn bytes_per_second(self) -> NonZeroU64 {
        NonZeroU64::new(self.bits_per_second.get() / 8).unwrap_or(NonZeroU64::MIN)
    }
}

impl FromStr for Rate {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
            .unwrap_or((text, 0));
        let bits = number.parse::<u64>().ok();
        let bits = bits.and_then(|number| NonZeroU64::new(number.checked_mul(unit)?));
        match bits {
            Some(bits_per_second) if bits_per_second >= RATE_MIN => Ok(Self { bits_per_second }),
            Some(_) => Err(ConfigError(format!(
                "{text} is less than 64kbit, over which no tunnel opens in time"
            ))),
            None => Err(ConfigError(format!(
                "{text:?} is no rate. For example: 50mbit, 1gbit"
            ))),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits_per_second.get();
        let whole = |(_, unit): &&(&str, u64)| bits.is_multiple_of(*unit);
        let (name, unit) = UNITS.iter().find(whole).unwrap_or(&("bit", 1));
        write!(f, "{}{name}", bits / unit)
    }
}

impl Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The files of what strangers see at a front, `CERT,KEY[,PAGE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoyFiles {
    /// Certificates, PEM, the leaf first.
    certificate: PathBuf,
    /// Its private key, PEM (PKCS#8).
    key: PathBuf,
    /// HTML.
    page: Option<PathBuf>,
}

impl DecoyFiles {
    /// Reads them.
    ///
    /// # Errors
    /// [`ConfigError`] names the file.
    pub fn load(&self) -> Result<Decoy, ConfigError> {
        let page = self.page.as_deref().map(read).transpose()?;
        Decoy::new(&read(&self.certificate)?, &read(&self.key)?, page)
            .map_err(|error| ConfigError(format!("{self}: {error}")))
    }
}

impl FromStr for DecoyFiles {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut files = text.split(',').map(PathBuf::from);
        let mut next = || files.next().filter(|file| !file.as_os_str().is_empty());
        match (next(), next(), next(), files.next()) {
            (Some(certificate), Some(key), page, None) => Ok(Self {
                certificate,
                key,
                page,
            }),
            _ => Err(ConfigError(format!("{text:?} is not CERT,KEY[,PAGE]"))),
        }
    }
}

impl fmt::Display for DecoyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.certificate.display(), self.key.display())?;
        match &self.page {
            Some(page) => write!(f, ",{}", page.display()),
            None => Ok(()),
        }
    }
}

impl Serialize for DecoyFiles {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DecoyFiles {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a configuration cannot be used. Who wrote it is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads a file of at most [`CONFIG_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?)
            .map_err(|error| ConfigError(format!("{}: {error}", path.display())))
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the line.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError(error.to_string()))
    }

    /// `over` where it says something, `self` where it does not.
    #[must_use]
    pub fn overridden(self, over: Self) -> Self {
        Self {
            listen: over.listen.or(self.listen),
            ticket_key: over.ticket_key.or(self.ticket_key),
            listen_tls: over.listen_tls.or(self.listen_tls),
            front_key: over.front_key.or(self.front_key),
            controller: over.controller.or(self.controller),
            tls_decoy: over.tls_decoy.or(self.tls_decoy),
            guard: over.guard.or(self.guard),
            ends_max: over.ends_max.or(self.ends_max),
            idle: over.idle.or(self.idle),
            checks_per_second: over.checks_per_second.or(self.checks_per_second),
            relay_rate: over.relay_rate.or(self.relay_rate),
        }
    }

    /// The relay's limits.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let default = Settings::default();
        Settings {
            ends_max: self.ends_max.unwrap_or(default.ends_max),
            idle: self.idle.unwrap_or(default.idle),
            checks_per_second: self.checks_per_second.unwrap_or(default.checks_per_second),
            bytes_per_second: self.relay_rate.map(Rate::bytes_per_second),
        }
    }

    /// The controller's public ticket key.
    ///
    /// # Errors
    /// [`ConfigError`] when there is none, or when it is none.
    pub fn key(&self) -> Result<[u8; 32], ConfigError> {
        let given = self.ticket_key.as_deref().ok_or_else(|| {
            ConfigError("no ticket key. Give the controller's with --ticket-key".to_owned())
        })?;
        key_of("ticket", given)
    }

    /// What a front shares with the controller.
    ///
    /// # Errors
    /// [`ConfigError`] when there is none, or when it is none.
    pub fn front_key(&self) -> Result<FrontKey, ConfigError> {
        let given = self.front_key.as_deref().ok_or_else(|| {
            let why = "no front key. Give the controller's keys/front.key with --front-key";
            ConfigError(why.to_owned())
        })?;
        key_of("front", given).map(|key| FrontKey::new(Secret32(key)))
    }
}

/// A key that is given by its digits or in a file.
fn key_of(what: &str, given: &str) -> Result<[u8; 32], ConfigError> {
    if let Some(key) = key(given) {
        return Ok(key);
    }
    let text = read(Path::new(given)).map_err(|error| {
        ConfigError(format!(
            "the {what} key is neither 64 hexadecimal digits nor a file: {error}"
        ))
    })?;
    key(&text).ok_or_else(|| {
        let file = if what == "ticket" {
            "ticket.pub"
        } else {
            "front.key"
        };
        ConfigError(format!(
            "{given}: holds no key of 64 hexadecimal digits. Copy the controller's: keys/{file}"
        ))
    })
}

/// Where a relay listens when nobody says otherwise: every address of both families.
#[must_use]
pub fn default_listen() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, PORT_RELAY).into()
}

/// Parses `250ms`, `90s`, `5m` or `1h`.
///
/// # Errors
/// [`ConfigError`] shows what it is not.
pub fn parse_duration(text: &str) -> Result<Duration, ConfigError> {
    let parse = || {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
            "h" => Some(Duration::from_secs(number.checked_mul(3_600)?)),
            _ => None,
        }
    };
    parse()
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| ConfigError(format!("{text:?} is not a duration such as 90s, 5m or 1h")))
}

fn key(text: &str) -> Option<[u8; 32]> {
    data_encoding::HEXLOWER_PERMISSIVE
        .decode(text.trim().as_bytes())
        .ok()?
        .try_into()
        .ok()
}

fn read(path: &Path) -> Result<String, ConfigError> {
    read_named_text(path, CONFIG_BYTES_MAX)
        .map_err(|error| ConfigError(error.failure(path).message))
}

fn duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

/// Longest duration that makes sense here: a day.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn a_device_is_neither_a_configuration_nor_a_key() {
        let zero = Path::new("/dev/zero");
        let error = Config::load(zero).unwrap_err();
        assert!(
            error.to_string().starts_with("/dev/zero: is a device"),
            "{error}"
        );
        let config = Config {
            ticket_key: Some("/dev/zero".to_owned()),
            ..Config::default()
        };
        let error = config.key().unwrap_err().to_string();
        assert!(error.contains("/dev/zero: is a device"), "{error}");
    }

    #[test]
    fn a_file_becomes_settings_and_flags_go_before_it() {
        let file = Config::parse(
            "listen = \"192.0.2.1:7444\"\nidle = \"2m\"\nends_max = 10\nchecks_per_second = 7",
        )
        .unwrap();
        let flags = Config {
            listen: Some(([192, 0, 2, 2], 1).into()),
            ticket_key: Some(HEX.to_owned()),
            ..Config::default()
        };
        let both = file.overridden(flags);
        assert_eq!(both.listen, Some(([192, 0, 2, 2], 1).into()));
        assert_eq!(both.key().unwrap()[31], 31);
        assert_eq!(
            both.settings(),
            Settings {
                ends_max: 10,
                idle: Duration::from_secs(120),
                checks_per_second: 7,
                bytes_per_second: None,
            }
        );
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_line() {
        for (text, expected) in [
            ("\nlissten = 1", "line 2"),
            ("idle = 90", "string"),
            ("idle = \"90\"", "duration"),
            ("idle = \"90 years\"", "duration"),
            ("listen = \"relay\"", "line 1"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_key_is_digits_or_a_file_of_digits() {
        let key = |text: &str| {
            Config {
                ticket_key: Some(text.to_owned()),
                ..Config::default()
            }
            .key()
        };
        assert_eq!(key(HEX), key(&HEX.to_uppercase()));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ticket.pub");
        std::fs::write(&file, format!("{HEX}\n")).unwrap();
        assert_eq!(key(file.to_str().unwrap()), key(HEX));
        std::fs::write(&file, "ab").unwrap();
        assert!(key(file.to_str().unwrap()).is_err());
        assert!(key("/nonexistent/ticket.pub").is_err());
        assert!(Config::default().key().is_err());
    }

    #[test]
    fn what_strangers_see_is_two_files_and_perhaps_a_page() {
        for text in ["a.pem,b.pem", "/a,/b,/c.html"] {
            assert_eq!(text.parse::<DecoyFiles>().unwrap().to_string(), text);
        }
        for text in ["", "a", "a,", ",b", "a,b,c,d"] {
            assert!(text.parse::<DecoyFiles>().is_err(), "{text}");
        }
        let missing: DecoyFiles = "/nonexistent/a,/nonexistent/b".parse().unwrap();
        let error = missing.load().unwrap_err().to_string();
        assert!(error.contains("/nonexistent/a"), "{error}");
    }

    #[test]
    fn rates_have_units_and_a_least_value() {
        for (text, bytes, shown) in [
            ("50mbit", 6_250_000, "50mbit"),
            ("1000mbit", 125_000_000, "1gbit"),
            ("64000bit", 8_000, "64kbit"),
            ("64001bit", 8_000, "64001bit"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.bytes_per_second().get(), bytes, "{text}");
            assert_eq!(rate.to_string(), shown);
        }
        for wrong in [
            "",
            "50",
            "mbit",
            "-1mbit",
            "1.5mbit",
            "50MB",
            "0mbit",
            "99999999999gbit",
        ] {
            let error = wrong.parse::<Rate>().unwrap_err();
            assert!(error.to_string().contains("is no rate"), "{wrong}: {error}");
        }
        let slow = "63kbit".parse::<Rate>().unwrap_err();
        assert!(slow.to_string().contains("less than 64kbit"), "{slow}");
        let config = Config::parse("relay_rate = \"8mbit\"").unwrap();
        let settings = config.settings();
        assert_eq!(settings.bytes_per_second, NonZeroU64::new(1_000_000));
        assert!(Config::parse("relay_rate = \"8\"").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3_600)));
        for text in ["", "s", "90", "-1s", "1d", "99999999999999999999s", "25h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
