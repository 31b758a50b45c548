//! Facts from a file, for tests and demos. The controller refuses them unless it was told not to.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cardea_host::files::{ReadError, read_named};
use cardea_proto::posture::{
    Collected, FACT_LIST_MAX, FACT_TEXT_BYTES_MAX, FACTS_MAX, FactName, Grade, Reading, Value,
};
use serde_json::Value as Json;

/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Longest name of a fact, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// How often a file that does not parse is read again, because an editor may be writing it.
const TRIES: u32 = 3;

/// How long such an editor gets each time.
const TRY_INTERVAL: Duration = Duration::from_millis(20);

/// A flat JSON object of facts.
#[derive(Debug)]
pub(crate) struct FactsFile {
    path: PathBuf,
}

/// Why a file gives no facts.
#[derive(Debug, thiserror::Error)]
enum FactsFileError {
    #[error("facts file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: ReadError },
    #[error("facts file {}: {source}", path.display())]
    NotJson {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("facts file {}: more than {} facts", path.display(), FACTS_MAX / 2)]
    TooMany { path: PathBuf },
    #[error("facts file {}: {name:?} is no name of a fact", path.display())]
    Name { path: PathBuf, name: String },
}

impl FactsFile {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The facts of the file; when it gives none, each of `names` is an error, so that access ends.
    pub(crate) fn read(
        &self,
        names: BTreeSet<FactName>,
        at: Instant,
    ) -> BTreeMap<FactName, Collected> {
        let mut outcome = parse(&self.path);
        for _ in 1..TRIES {
            if outcome.is_ok() {
                break;
            }
            std::thread::park_timeout(TRY_INTERVAL);
            outcome = parse(&self.path);
        }
        let readings = outcome.unwrap_or_else(|error| {
            tracing::warn!(%error, "no facts from the file");
            let why = error.to_string();
            names
                .into_iter()
                .map(|name| (name, Reading::Error(why.clone())))
                .collect()
        });
        readings
            .into_iter()
            .map(|(name, reading)| {
                let fact = Collected {
                    name: name.clone(),
                    reading,
                    grade: Grade::Simulated,
                    at,
                };
                (name, fact)
            })
            .collect()
    }
}

fn parse(path: &Path) -> Result<BTreeMap<FactName, Reading>, FactsFileError> {
    let bytes = read_named(path, FILE_BYTES_MAX).map_err(|source| FactsFileError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let object: BTreeMap<String, Json> =
        serde_json::from_slice(&bytes).map_err(|source| FactsFileError::NotJson {
            path: path.to_owned(),
            source,
        })?;
    if object.len() > FACTS_MAX / 2 {
        return Err(FactsFileError::TooMany {
            path: path.to_owned(),
        });
    }
    if let Some(name) = object.keys().find(|name| !is_fact_name(name)) {
        return Err(FactsFileError::Name {
            path: path.to_owned(),
            name: name.chars().take(NAME_BYTES_MAX).collect(),
        });
    }
    Ok(object
        .into_iter()
        .map(|(name, value)| (name, reading(value)))
        .collect())
}

fn is_fact_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte))
}

/// `null` is a fact that is absent; what cannot be a fact's value is an error in its place.
fn reading(value: Json) -> Reading {
    let wrong = |why: &str| Reading::Error(format!("in the facts file: {why}"));
    match value {
        Json::Null => Reading::Absent,
        Json::Bool(value) => Reading::Value(Value::Bool(value)),
        Json::Number(number) => number.as_i64().map_or_else(
            || wrong("not a whole number of 64 bits"),
            |value| Reading::Value(Value::Integer(value)),
        ),
        Json::String(text) if text.len() <= FACT_TEXT_BYTES_MAX => {
            Reading::Value(Value::Text(text))
        }
        Json::String(_) => wrong("text too long"),
        Json::Array(items) if items.len() > FACT_LIST_MAX => wrong("list too long"),
        Json::Array(items) => items
            .into_iter()
            .map(|item| match item {
                Json::String(text) if text.len() <= FACT_TEXT_BYTES_MAX => Some(text),
                Json::String(_)
                | Json::Null
                | Json::Bool(_)
                | Json::Number(_)
                | Json::Array(_)
                | Json::Object(_) => None,
            })
            .collect::<Option<Vec<String>>>()
            .map_or_else(
                || wrong("a list has texts"),
                |items| Reading::Value(Value::List(items)),
            ),
        Json::Object(_) => wrong("an object is no value"),
    }
}

#[cfg(test)]
mod tests {
    use cardea_host::clock::Clock;

    use super::*;

    #[test]
    fn every_kind_of_value_is_read_with_the_grade_simulated() {
        let facts = read(
            r#"{"disk.encrypted":true,"patch.age_days":3,"os.name":"debian","process.running":["a","b"],"tpm.present":null}"#,
        );
        assert_eq!(
            facts["disk.encrypted"].reading,
            Reading::Value(Value::Bool(true))
        );
        assert_eq!(
            facts["patch.age_days"].reading,
            Reading::Value(Value::Integer(3))
        );
        assert_eq!(
            facts["os.name"].reading,
            Reading::Value(Value::Text("debian".to_owned()))
        );
        assert_eq!(
            facts["process.running"].reading,
            Reading::Value(Value::List(vec!["a".to_owned(), "b".to_owned()]))
        );
        assert_eq!(facts["tpm.present"].reading, Reading::Absent);
        assert!(facts.values().all(|fact| fact.grade == Grade::Simulated));
    }

    #[test]
    fn what_cannot_be_a_value_is_an_error_of_that_fact_alone() {
        let facts = read(r#"{"a":1.5,"b":{},"c":[1],"d":18446744073709551615,"e":true}"#);
        for name in ["a", "b", "c", "d"] {
            assert!(matches!(facts[name].reading, Reading::Error(_)), "{name}");
        }
        assert_eq!(facts["e"].reading, Reading::Value(Value::Bool(true)));
    }

    #[test]
    fn a_file_that_gives_no_facts_makes_every_fact_an_error() {
        for text in ["", "[]", "{\"a\": tru", "{\"A B\": true}"] {
            let facts = read(text);
            assert!(
                matches!(facts["disk.encrypted"].reading, Reading::Error(_)),
                "{text}"
            );
        }
        let gone = FactsFile::new("/no/such/file".into());
        let facts = gone.read(
            BTreeSet::from(["x".to_owned()]),
            Clock::system().now().instant,
        );
        assert!(matches!(facts["x"].reading, Reading::Error(_)));
    }

    fn read(text: &str) -> BTreeMap<FactName, Collected> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts.json");
        std::fs::write(&path, text).unwrap();
        let names = BTreeSet::from(["disk.encrypted".to_owned()]);
        FactsFile::new(path).read(names, Clock::system().now().instant)
    }
}
