//! Names that people give to devices, apps, sites, users and groups.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, de::Visitor};

/// Longest name, in bytes: that of a DNS name (RFC 1035 §2.3.4).
pub const NAME_BYTES_MAX: usize = 253;

/// A name: 1 to 253 bytes of letters, digits, `-`, `.`, `_` and `@`, of which the first is a letter, a
/// digit or `_`: no name can be taken for a flag, a hidden file or a folder above.
///
/// Copies share their text: a state of many records names the same users, apps and sites often.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Text that cannot be a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseNameError {
    /// Empty, or more than [`NAME_BYTES_MAX`] bytes.
    #[error("a name has 1 to 253 bytes, not {0}")]
    Length(usize),
    /// A first character with which no name begins.
    #[error("a name begins with a letter, a digit or '_', not with {0:?}")]
    First(char),
    /// A character outside the permitted set.
    #[error("a name has letters, digits, '-', '.', '_' and '@', not {0:?}")]
    Character(char),
}

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(ParseNameError::Length(text.len()));
        }
        let wrong = text
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && !"-._@".contains(*c));
        if let Some(wrong) = wrong {
            return Err(ParseNameError::Character(wrong));
        }
        match text.chars().next() {
            Some(first) if "-.@".contains(first) => Err(ParseNameError::First(first)),
            Some(_) | None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parse)
    }
}

struct Parse;

impl Visitor<'_> for Parse {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Name, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_for_its_length_or_its_first_wrong_character() {
        assert_eq!("".parse::<Name>(), Err(ParseNameError::Length(0)));
        assert_eq!(
            "a".repeat(254).parse::<Name>(),
            Err(ParseNameError::Length(254))
        );
        assert_eq!("a b/c".parse::<Name>(), Err(ParseNameError::Character(' ')));
        assert_eq!(
            "x\u{1b}[0m".parse::<Name>(),
            Err(ParseNameError::Character('\u{1b}'))
        );
        for (text, first) in [
            (".", '.'),
            ("..", '.'),
            ("-x", '-'),
            ("@", '@'),
            (".ssh", '.'),
        ] {
            assert_eq!(text.parse::<Name>(), Err(ParseNameError::First(first)));
        }
        for text in ["alice@corp.example", "_dmarc.corp.example", "7", "a-", "a."] {
            assert!(text.parse::<Name>().is_ok(), "{text}");
        }
    }
}
