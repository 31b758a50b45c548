//! Names that are almost right.

/// `, did you mean x or y?` for the names that are close to `wanted`; nothing when none is.
pub(crate) fn did_you_mean<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let wanted_length = wanted.chars().count();
    let most = (wanted_length / 3).clamp(1, 3);
    let mut close: Vec<(usize, &str)> = names
        .into_iter()
        .map(|name| (distance(wanted, name), name))
        .filter(|(distance, name)| {
            *distance <= most || (wanted_length >= 3 && name.starts_with(wanted))
        })
        .collect();
    close.sort_unstable();
    close.dedup();
    let close: Vec<&str> = close.into_iter().map(|(_, name)| name).take(3).collect();
    if close.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", close.join(" or "))
    }
}

/// How many characters must be put in, taken out or replaced (Levenshtein), ignoring case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().take(256).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.to_lowercase().chars().take(256).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (above, b) in row.iter().skip(1).zip(&b) {
            left = (diagonal + usize::from(a != *b))
                .min(above + 1)
                .min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (a, b, expected) in [
            ("", "", 0),
            ("wiki", "wiki", 0),
            ("wikki", "wiki", 1),
            ("kitten", "sitting", 3),
            ("abc", "", 3),
            ("Wiki", "wiki", 0),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_what_is_close_is_suggested() {
        let names = ["wiki", "wiki-test", "payroll"];
        assert_eq!(did_you_mean("wikki", names), "; did you mean wiki?");
        assert_eq!(
            did_you_mean("wik", names),
            "; did you mean wiki or wiki-test?"
        );
        assert_eq!(did_you_mean("database", names), "");
    }
}
