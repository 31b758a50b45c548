//! Apps: what an admin publishes, and to whom.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    name::Name,
    pattern::{self, Pattern},
};

/// Transport protocol of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of an app with its protocol: all that a flow inside a tunnel may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Service {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port, never 0.
    pub port: u16,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// The exact place that a connector may reach for an app: `HOST:PORT[/tcp|udp]`.
///
/// With `*.NAME` as its host it is a place for each host of a wildcard name, whose first label takes the
/// place of the star.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// An address or a name that the connector resolves, without brackets.
    pub host: String,
    /// Port and protocol, the same inside the tunnel and outside.
    pub service: Service,
}

/// Text that is not a target.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not HOST:PORT, HOST:PORT/tcp or HOST:PORT/udp (an IPv6 HOST stands in brackets)")]
pub struct ParseTargetError(String);

impl Target {
    /// The literal address, when the host is one.
    #[must_use]
    pub fn address(&self) -> Option<std::net::IpAddr> {
        self.host.parse().ok()
    }

    /// Of a target for many hosts, the name below which they are.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        pattern::parent(&self.host)
    }

    /// The exact target for a host of this first label; `None` when it would be no name.
    #[must_use]
    pub fn at(&self, label: &str) -> Option<Self> {
        let Some(parent) = self.parent() else {
            return Some(self.clone());
        };
        let host: Name = format!("{}.{parent}", label.to_ascii_lowercase())
            .parse()
            .ok()?;
        pattern::is_label(label).then(|| Self {
            host: host.to_string(),
            service: self.service,
        })
    }
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let parse = || {
            let (place, protocol) = match text.rsplit_once('/') {
                Some((place, "tcp")) => (place, Protocol::Tcp),
                Some((place, "udp")) => (place, Protocol::Udp),
                Some(_) => return None,
                None => (text, Protocol::Tcp),
            };
            let (host, port) = place.rsplit_once(':')?;
            let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
            let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
                Some(inner) => inner?.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
                None => host.parse::<std::net::Ipv4Addr>().map_or_else(
                    |_| host.parse::<Pattern>().ok().map(|name| name.to_string()),
                    |address| Some(address.to_string()),
                )?,
            };
            Some(Self {
                host,
                service: Service { protocol, port },
            })
        };
        parse().ok_or_else(|| ParseTargetError(text.chars().take(300).collect()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, service } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{service}")
        } else {
            write!(f, "{host}:{service}")
        }
    }
}

/// Which carrier an app's tunnels use.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// The controller chooses: QUIC for agents that carry flows, WireGuard for those that carry packets.
    #[default]
    Auto,
    /// WireGuard.
    #[serde(rename = "wireguard")]
    WireGuard,
    /// QUIC.
    Quic,
}

/// The protected way that a grant was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// WireGuard.
    #[serde(rename = "wireguard")]
    WireGuard,
    /// QUIC.
    Quic,
}

/// Whom a rule for everyday use is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// One person, `user:U`.
    User(Name),
    /// Everybody in a group, `group:G`.
    Group(Name),
    /// Every enrolled user, `everyone`.
    Everyone,
}

/// An application as an admin publishes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// Its name, unique.
    pub name: Name,
    /// Where it is.
    pub site: Name,
    /// The exact targets that its connectors may reach; at least one.
    pub targets: Vec<Target>,
    /// DNS names under which users know it, and wildcards for many.
    pub names: Vec<Pattern>,
    /// Which carrier.
    pub transport: Transport,
    /// Labels that policies may look at.
    pub labels: BTreeMap<String, String>,
    /// Whether targets on the connector's own host, link-local and metadata addresses are meant.
    pub host_scoped: bool,
}

impl AppSpec {
    /// Its wildcard names.
    pub fn wildcards(&self) -> impl Iterator<Item = &Pattern> {
        self.names.iter().filter(|name| name.parent().is_some())
    }

    /// The exact targets for one of its hosts, or for none.
    ///
    /// # Errors
    /// [`pattern::HostError`].
    pub fn targets_for(&self, host: Option<&Name>) -> Result<Vec<Target>, pattern::HostError> {
        pattern::targets(&self.names, &self.targets, host)
    }

    /// The ports that flows in this app's tunnels may ask for, without duplicates.
    #[must_use]
    pub fn services(&self) -> Vec<Service> {
        let mut services: Vec<Service> = self.targets.iter().map(|target| target.service).collect();
        services.sort_unstable();
        services.dedup();
        services
    }
}

/// Text that names no principal.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not user:NAME, group:NAME or everyone")]
pub struct ParsePrincipalError(String);

impl FromStr for Principal {
    type Err = ParsePrincipalError;

    fn from_str(text: &str) -> Result<Self, ParsePrincipalError> {
        let wrong = || ParsePrincipalError(text.chars().take(300).collect());
        match text.split_once(':') {
            None if text == "everyone" => Ok(Self::Everyone),
            Some(("user", name)) => name.parse().map(Self::User).map_err(|_| wrong()),
            Some(("group", name)) => name.parse().map(Self::Group).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Everyone => f.write_str("everyone"),
        }
    }
}

/// Text that names no transport.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not auto, wireguard or quic")]
pub struct ParseTransportError(String);

impl FromStr for Transport {
    type Err = ParseTransportError;

    fn from_str(text: &str) -> Result<Self, ParseTransportError> {
        match text {
            "auto" => Ok(Self::Auto),
            "wireguard" => Ok(Self::WireGuard),
            "quic" => Ok(Self::Quic),
            _ => Err(ParseTransportError(text.chars().take(40).collect())),
        }
    }
}

impl Transport {
    /// The transport as flags and JSON write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::WireGuard => "wireguard",
            Self::Quic => "quic",
        }
    }
}

impl Carrier {
    /// The carrier as JSON writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WireGuard => "wireguard",
            Self::Quic => "quic",
        }
    }
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Target, Principal);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back_as_themselves() {
        for text in [
            "10.9.0.10:80/tcp",
            "[2001:db8::1]:53/udp",
            "db.corp.example:5432/tcp",
            "*.dev.corp.example:80/tcp",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!(
            "h:80".parse::<Target>().unwrap().service.protocol,
            Protocol::Tcp
        );
    }

    #[test]
    fn what_is_not_exactly_one_place_is_no_target() {
        for text in [
            "",
            "h",
            "h:0",
            "h:80/sctp",
            "h:99999",
            "::1:80",
            "[::1:80",
            "a b:80",
            "h:80-90",
            "*:80",
            "*.example:80",
            "a.*.example:80",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn principals_read_back_as_themselves() {
        for text in ["user:alice@corp.example", "group:staff", "everyone"] {
            assert_eq!(text.parse::<Principal>().unwrap().to_string(), text);
        }
        assert!("alice".parse::<Principal>().is_err());
    }
}
