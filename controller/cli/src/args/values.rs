//! Small values as people write them.

use std::{str::FromStr, time::Duration};

/// How long something is good: `90s`, `30m`, `1h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life(pub Duration);

/// Text that is no [`Life`].
#[derive(Debug, PartialEq, Eq)]
pub struct ParseLifeError;

/// A label of an app: `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Before the first `=`.
    pub key: String,
    /// After it.
    pub value: String,
}

/// Text that is no [`Label`].
#[derive(Debug, PartialEq, Eq)]
pub struct ParseLabelError;

impl FromStr for Life {
    type Err = ParseLifeError;

    fn from_str(text: &str) -> Result<Self, ParseLifeError> {
        let unit = text.chars().next_back().ok_or(ParseLifeError)?;
        let number = text.strip_suffix(unit).ok_or(ParseLifeError)?;
        let seconds: u64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            _ => return Err(ParseLifeError),
        };
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseLifeError);
        }
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(seconds))
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or(ParseLifeError)
    }
}

impl FromStr for Label {
    type Err = ParseLabelError;

    fn from_str(text: &str) -> Result<Self, ParseLabelError> {
        let (key, value) = text.split_once('=').ok_or(ParseLabelError)?;
        let is_word = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
        if key.is_empty() || !key.chars().all(is_word) || value.chars().any(char::is_control) {
            return Err(ParseLabelError);
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl std::fmt::Display for ParseLifeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a duration is a number and a unit, such as 90s, 30m, 1h or 7d")
    }
}

impl std::fmt::Display for ParseLabelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a label is KEY=VALUE, the key of letters, digits, '-', '.', '_' and '/'")
    }
}

impl std::error::Error for ParseLifeError {}

impl std::error::Error for ParseLabelError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(text.parse(), Ok(Life(Duration::from_secs(seconds))));
        }
        for text in [
            "",
            "h",
            "1",
            "0s",
            "1w",
            "-1h",
            "1 h",
            "1.5h",
            "99999999999999999999d",
            "1ħ",
        ] {
            assert_eq!(text.parse::<Life>(), Err(ParseLifeError), "{text}");
        }
    }

    #[test]
    fn labels_have_a_key_and_a_value() {
        let label: Label = "env=prod=1".parse().unwrap();
        assert_eq!(
            (label.key.as_str(), label.value.as_str()),
            ("env", "prod=1")
        );
        assert_eq!("env=".parse::<Label>().unwrap().value, "");
        for text in ["", "env", "=prod", "e v=1", "env=\u{1b}[0m"] {
            assert_eq!(text.parse::<Label>(), Err(ParseLabelError), "{text:?}");
        }
    }
}
