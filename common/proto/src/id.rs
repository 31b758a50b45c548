//! Identifiers: a type for each kind of thing, shown with a prefix, so that a wrong id fails to parse.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Random bytes in an identifier: 80 bits make sixteen characters of base32 without padding.
pub const ID_BYTES: usize = 10;

/// Text that is not an identifier of the expected kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not an id that begins with {prefix}_")]
pub struct ParseIdError {
    text: String,
    prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$docs:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$docs])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; ID_BYTES]);

        impl $name {
            /// What every id of this kind begins with, before the underscore.
            pub const PREFIX: &str = $prefix;

            /// Makes an id of random bytes that the caller drew.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Text::of(concat!($prefix, "_"), &self.0).as_str().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse(text, $prefix).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(Text::of(concat!($prefix, "_"), &self.0).as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// A machine with an agent on it.
    DeviceId = "dev";
    /// An enforcing end beside applications.
    ConnectorId = "con";
    /// A controller.
    ControllerId = "ctl";
    /// A relay.
    RelayId = "rly";
    /// The record that a subject may reach an app until its ttl ends.
    GrantId = "grt";
    /// A one-time code that admits a node to enrollment.
    InviteId = "inv";
    /// An admin's signing key.
    AdminKeyId = "adm";
}

/// An agent's device or a connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeId {
    /// An agent's device.
    Device(DeviceId),
    /// A connector.
    Connector(ConnectorId),
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(id) => id.fmt(f),
            Self::Connector(id) => id.fmt(f),
        }
    }
}

/// Characters of an id: a prefix of three, an underscore, and five bits a character.
const TEXT_BYTES: usize = 20;

/// An id as text, without an allocation: every entry of the ledger has half a dozen.
struct Text([u8; TEXT_BYTES]);

impl Text {
    fn of(prefix: &str, bytes: &[u8; ID_BYTES]) -> Self {
        let mut text = [0; TEXT_BYTES];
        if let Some((first, rest)) = text.split_at_mut_checked(prefix.len()) {
            first.copy_from_slice(prefix.as_bytes());
            data_encoding::BASE32_NOPAD.encode_mut(bytes, rest);
            rest.make_ascii_lowercase();
        }
        Self(text)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn parse(text: &str, prefix: &'static str) -> Result<[u8; ID_BYTES], ParseIdError> {
    let wrong = || ParseIdError {
        text: text.chars().take(40).collect(),
        prefix,
    };
    let rest = text
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('_'))
        .ok_or_else(wrong)?;
    if rest.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(wrong());
    }
    let bytes = data_encoding::BASE32_NOPAD
        .decode(rest.to_ascii_uppercase().as_bytes())
        .map_err(|_| wrong())?;
    bytes.try_into().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_itself() {
        let id = GrantId::from_bytes([7; ID_BYTES]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with("grt_"));
    }

    #[test]
    fn an_id_of_another_kind_does_not_parse() {
        let id = GrantId::from_bytes([7; ID_BYTES]).to_string();
        assert!(id.parse::<DeviceId>().is_err());
        assert!("grt_".parse::<GrantId>().is_err());
        assert!(id.to_uppercase().parse::<GrantId>().is_err());
    }
}
