//! DNS names of apps: of one host, or of all hosts one label below a name.
//!
//! An app with a wildcard name has a tunnel for each of its hosts. Which host it is stands in the
//! offer that the device signs; controller and connector each make the targets of it here.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    app::Target,
    message::AppView,
    name::{Name, ParseNameError},
};

/// A DNS name of an app, or `*.NAME`: every name that has exactly one label before that one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

/// Text that is no [`Pattern`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParsePatternError {
    /// Not a name behind an eventual `*.`.
    #[error(transparent)]
    Name(#[from] ParseNameError),
    /// A wildcard for more than anybody has.
    #[error(
        "a wildcard stands alone before a name of two labels at least, as in *.dev.corp.example"
    )]
    Wildcard,
}

/// Why an app has no target for a host. The device is at fault, or asks for what was just changed.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostError {
    /// No wildcard name of the app covers the host.
    #[error("the app has no such name")]
    Outside,
    /// Its targets depend on the host, and none was named.
    #[error("the app has many hosts, and none was named")]
    Missing,
}

/// Which app somebody means who says a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant<'a> {
    /// The app.
    pub view: &'a AppView,
    /// Which of its hosts, if it has a wildcard name that covers what was said; in small letters.
    pub host: Option<Name>,
}

impl Pattern {
    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of a wildcard, the name below which it stands.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        parent(&self.0)
    }

    /// The first label of `host` when this is a wildcard that covers it.
    ///
    /// Exactly one label, as in certificates (RFC 6125 §6.4.3): what lies deeper is another app's, or
    /// nobody's. Names are compared as DNS compares them (RFC 4343).
    #[must_use]
    pub fn label<'a>(&self, host: &'a str) -> Option<&'a str> {
        let (label, rest) = host.split_once('.')?;
        let is_below = self.parent()?.eq_ignore_ascii_case(rest);
        (is_below && is_label(label)).then_some(label)
    }
}

impl Meant<'_> {
    /// What an agent calls it: the host, else the app.
    #[must_use]
    pub fn name(&self) -> Name {
        self.host.clone().unwrap_or_else(|| self.view.name.clone())
    }
}

/// Finds the app that `name` means: by its name, by a DNS name, then by a wildcard.
#[must_use]
pub fn meant<'a>(apps: &'a [AppView], name: &str) -> Option<Meant<'a>> {
    let name = name.trim_end_matches('.');
    let is = |text: &str| text.trim_end_matches('.').eq_ignore_ascii_case(name);
    let exactly = apps
        .iter()
        .find(|view| view.name.as_str() == name)
        .or_else(|| apps.iter().find(|view| is(view.name.as_str())))
        .or_else(|| {
            let has = |view: &&AppView| view.names.iter().any(|one| is(one.as_str()));
            apps.iter().find(has)
        });
    if let Some(view) = exactly {
        return Some(Meant { view, host: None });
    }
    let covers = |view: &&AppView| view.names.iter().any(|one| one.label(name).is_some());
    let view = apps.iter().find(covers)?;
    let host = name.to_ascii_lowercase().parse().ok()?;
    let host = Some(host);
    Some(Meant { view, host })
}

/// The exact targets of an app for a host, or for none.
///
/// # Errors
/// [`HostError`]; in doubt there is no target.
pub fn targets<'a>(
    patterns: impl IntoIterator<Item = &'a Pattern>,
    targets: &[Target],
    host: Option<&Name>,
) -> Result<Vec<Target>, HostError> {
    let Some(host) = host else {
        let all_exact = targets.iter().all(|target| target.parent().is_none());
        return all_exact
            .then(|| targets.to_vec())
            .ok_or(HostError::Missing);
    };
    let mut patterns = patterns.into_iter();
    let label = patterns
        .find_map(|pattern| pattern.label(host.as_str()))
        .ok_or(HostError::Outside)?;
    let exact = targets.iter().map(|target| target.at(label));
    exact.collect::<Option<_>>().ok_or(HostError::Outside)
}

/// Of `*.NAME`, the name.
pub(crate) fn parent(text: &str) -> Option<&str> {
    text.strip_prefix(WILDCARD)
}

/// Whether this is one label of a host's name (RFC 1123 §2.1), or of what people name hosts, with `_`.
pub(crate) fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl FromStr for Pattern {
    type Err = ParsePatternError;

    fn from_str(text: &str) -> Result<Self, ParsePatternError> {
        match parent(text) {
            None => drop(text.parse::<Name>()?),
            Some(parent) => {
                parent.parse::<Name>()?;
                let labels = || parent.split('.');
                if labels().count() < PARENT_LABELS_MIN || !labels().all(is_label) {
                    return Err(ParsePatternError::Wildcard);
                }
            }
        }
        Ok(Self(text.into()))
    }
}

impl From<Name> for Pattern {
    fn from(name: Name) -> Self {
        Self(name.as_str().into())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

const WILDCARD: &str = "*.";

/// Source: RFC 1035 §2.3.4.
const LABEL_BYTES_MAX: usize = 63;

/// `*.example` would be a whole registry.
const PARENT_LABELS_MIN: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Transport;

    #[test]
    fn a_wildcard_covers_one_label_and_neither_more_nor_its_parent() {
        let pattern: Pattern = "*.dev.corp.example".parse().unwrap();
        for (host, label) in [
            ("api.dev.corp.example", Some("api")),
            ("API.Dev.corp.EXAMPLE", Some("API")),
            ("_x.dev.corp.example", Some("_x")),
            ("dev.corp.example", None),
            ("a.b.dev.corp.example", None),
            ("api.dev.corp.example.evil.example", None),
            ("api.prod.corp.example", None),
            ("apidev.corp.example", None),
            (".dev.corp.example", None),
            ("*.dev.corp.example", None),
            ("a@b.dev.corp.example", None),
            ("-a.dev.corp.example", None),
            ("api", None),
        ] {
            assert_eq!(pattern.label(host), label, "{host}");
        }
        let long = format!("{}.dev.corp.example", "a".repeat(64));
        assert_eq!(pattern.label(&long), None);
        let exact: Pattern = "dev.corp.example".parse().unwrap();
        assert_eq!(exact.label("api.dev.corp.example"), None);
    }

    #[test]
    fn a_wildcard_stands_first_and_before_two_labels() {
        for text in [
            "*.dev.corp.example",
            "*.corp.example",
            "wiki.corp.example",
            "wiki",
        ] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for text in [
            "*",
            "*.",
            "*.example",
            "*.*.corp.example",
            "a.*.corp.example",
            "*a.corp.example",
            "*..corp.example",
            "*.corp.example.",
            "*.a@b.example",
            "",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_makes_targets_and_what_is_outside_makes_none() {
        let patterns = ["*.dev.corp.example".parse::<Pattern>().unwrap()];
        let wild: Vec<Target> = vec!["*.dev.internal.example:80".parse().unwrap()];
        let exact: Vec<Target> = vec!["10.9.0.10:443".parse().unwrap()];
        let host = |text: &str| Some(text.parse::<Name>().unwrap());
        let made = |targets: &[Target], host: Option<Name>| {
            let made = super::targets(&patterns, targets, host.as_ref());
            made.map(|made| made.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let api = host("api.dev.corp.example");
        assert_eq!(
            made(&wild, api.clone()),
            Ok(vec!["api.dev.internal.example:80/tcp".to_owned()])
        );
        assert_eq!(made(&exact, api), Ok(vec!["10.9.0.10:443/tcp".to_owned()]));
        assert_eq!(made(&exact, None), Ok(vec!["10.9.0.10:443/tcp".to_owned()]));
        assert_eq!(made(&wild, None), Err(HostError::Missing));
        for outside in [
            "api.prod.corp.example",
            "a.b.dev.corp.example",
            "dev.corp.example",
        ] {
            assert_eq!(
                made(&wild, host(outside)),
                Err(HostError::Outside),
                "{outside}"
            );
            assert_eq!(
                made(&exact, host(outside)),
                Err(HostError::Outside),
                "{outside}"
            );
        }
    }

    #[test]
    fn who_lists_a_name_exactly_has_it_before_a_wildcard() {
        let apps = [
            view("dev", &["*.dev.corp.example"]),
            view("wiki", &["wiki.dev.corp.example"]),
        ];
        let said = |name: &str| {
            meant(&apps, name).map(|meant| (meant.view.name.to_string(), meant.name().to_string()))
        };
        let found = |app: &str, name: &str| Some((app.to_owned(), name.to_owned()));
        assert_eq!(said("wiki.dev.corp.example"), found("wiki", "wiki"));
        assert_eq!(
            said("API.dev.corp.example."),
            found("dev", "api.dev.corp.example")
        );
        assert_eq!(said("DEV"), found("dev", "dev"));
        assert_eq!(said("api.prod.corp.example"), None);
    }

    fn view(name: &str, names: &[&str]) -> AppView {
        AppView {
            name: name.parse().unwrap(),
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            services: Vec::new(),
            transport: Transport::Auto,
            allowed: true,
            why: None,
        }
    }
}
