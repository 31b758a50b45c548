//! Values as they stand in flags, the environment and the configuration file.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use cardea_proto::name::Name;
use serde::{Deserialize, Serialize};

/// A duration as people write it: `30s`, `5m`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// Text that is no duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a duration such as 30s, 5m, 1h30m or 2d")]
pub struct ParseSpanError(String);

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        let parse = || {
            let mut rest = text;
            let mut total = Duration::ZERO;
            while !rest.is_empty() {
                let digits = rest.find(|c: char| !c.is_ascii_digit())?;
                let (number, tail) = rest.split_at_checked(digits)?;
                let letters = tail
                    .find(|c: char| c.is_ascii_digit())
                    .unwrap_or(tail.len());
                let (unit, tail) = tail.split_at_checked(letters)?;
                let millis: u64 = match unit {
                    "ms" => 1,
                    "s" => 1_000,
                    "m" => 60_000,
                    "h" => 3_600_000,
                    "d" => 86_400_000,
                    _ => return None,
                };
                let part = number.parse::<u64>().ok()?.checked_mul(millis)?;
                total = total.checked_add(Duration::from_millis(part))?;
                rest = tail;
            }
            (!text.is_empty()).then_some(Self(total))
        };
        parse().ok_or_else(|| ParseSpanError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in [
            ("d", 86_400_000),
            ("h", 3_600_000),
            ("m", 60_000),
            ("s", 1_000),
        ] {
            if millis >= size {
                write!(f, "{}{unit}", millis / size)?;
                millis %= size;
            }
        }
        if millis > 0 {
            write!(f, "{millis}ms")?;
        }
        Ok(())
    }
}

/// Where something can be reached: `HOST` or `HOST:PORT`; an IPv6 host stands in brackets when a
/// port follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// An address or a DNS name, without brackets.
    pub host: String,
    /// The port, if one was given.
    pub port: Option<u16>,
}

/// Text that is no place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not HOST or HOST:PORT (an IPv6 HOST with a port stands in brackets)")]
pub struct ParsePlaceError(String);

impl Place {
    /// The host as an address, when it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// `HOST:PORT`, with `port` where none was given.
    #[must_use]
    pub fn with_port(&self, port: u16) -> String {
        let full = Self {
            host: self.host.clone(),
            port: Some(self.port.unwrap_or(port)),
        };
        full.to_string()
    }
}

impl FromStr for Place {
    type Err = ParsePlaceError;

    fn from_str(text: &str) -> Result<Self, ParsePlaceError> {
        let host_of = |host: &str| {
            let address = host.parse::<IpAddr>().map(|address| address.to_string());
            address.or_else(|_| host.parse::<Name>().map(|name| name.to_string()))
        };
        let port_of = |port: &str| port.parse().ok().filter(|port: &u16| *port != 0);
        let parse = || {
            if let Some(rest) = text.strip_prefix('[') {
                let (host, rest) = rest.split_once(']')?;
                let host = host.parse::<std::net::Ipv6Addr>().ok()?.to_string();
                let port = match rest.strip_prefix(':') {
                    Some(port) => Some(port_of(port)?),
                    None if rest.is_empty() => None,
                    None => return None,
                };
                return Some(Self { host, port });
            }
            if let Ok(host) = host_of(text) {
                return Some(Self { host, port: None });
            }
            let (host, port) = text.rsplit_once(':')?;
            let port = Some(port_of(port)?);
            let host = host_of(host).ok().filter(|host| !host.contains(':'))?;
            Some(Self { host, port })
        };
        parse().ok_or_else(|| ParsePlaceError(text.chars().take(300).collect()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match port {
            Some(port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Some(port) => write!(f, "{host}:{port}"),
            None => f.write_str(host),
        }
    }
}

/// The places of one relay, with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places(pub Vec<Place>);

impl FromStr for Places {
    type Err = ParsePlaceError;

    fn from_str(text: &str) -> Result<Self, ParsePlaceError> {
        let places: Result<Vec<Place>, _> = text.split(',').map(str::parse).collect();
        places.map(Self)
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&places.join(","))
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

as_text!(Span, Place, Places);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_themselves() {
        for text in ["30s", "5m", "1h30m", "2d", "1s500ms", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("90m".parse(), Ok(Span(Duration::from_secs(5_400))));
    }

    #[test]
    fn a_number_without_a_unit_is_no_duration() {
        for text in [
            "",
            "30",
            "s",
            "30x",
            "1h30",
            "-5s",
            "99999999999999999999s",
            "5 m",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_addresses_of_one_relay_stand_between_commas() {
        let text = "192.0.2.1,[2001:db8::1]:7";
        assert_eq!(text.parse::<Places>().unwrap().to_string(), text);
        assert!("192.0.2.1,".parse::<Places>().is_err());
    }

    #[test]
    fn places_read_back_as_themselves() {
        for (text, host, port) in [
            ("ztna.corp.example", "ztna.corp.example", None),
            ("ztna.corp.example:443", "ztna.corp.example", Some(443)),
            ("192.0.2.1:7443", "192.0.2.1", Some(7443)),
            ("[2001:db8::1]:7443", "2001:db8::1", Some(7443)),
            ("2001:db8::1", "2001:db8::1", None),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!((place.host.as_str(), place.port), (host, port));
            assert_eq!(place.to_string(), text);
        }
        let place: Place = "::1".parse().unwrap();
        assert_eq!(place.with_port(7_443), "[::1]:7443");
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "",
            "a b",
            "h:0",
            "h:99999",
            "[::1",
            "[::1]7443",
            "[h]:1",
            "h:p",
            "::1:7443:",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
