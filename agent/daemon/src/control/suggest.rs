//! "Did you mean": the name that somebody probably wanted to type.

/// Most changes of one character between what was typed and what is suggested.
const CHANGES_MAX: usize = 2;

/// The known name that is nearest to `typed`, when it is near.
pub(super) fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (changes(typed, name), name))
        .filter(|(count, name)| *count <= CHANGES_MAX && *count < name.chars().count())
        .min()
        .map(|(_, name)| name)
}

/// Insertions, deletions and replacements that make `b` of `a` (Levenshtein).
fn changes(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (line, from) in a.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        let mut next = vec![left];
        for (to, above) in b.chars().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(from != to);
            left = replaced.min(left + 1).min(above + 1);
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
    fn a_slip_is_understood_and_another_word_is_not() {
        let known = ["wiki", "payroll", "db"];
        for (typed, meant) in [
            ("wikki", Some("wiki")),
            ("wkii", Some("wiki")),
            ("payrol", Some("payroll")),
            ("d", Some("db")),
            ("grafana", None),
            ("xy", None),
        ] {
            assert_eq!(nearest(typed, known.into_iter()), meant, "{typed}");
        }
    }

    #[test]
    fn changes_are_counted_as_by_hand() {
        for (a, b, count) in [("", "abc", 3), ("kitten", "sitting", 3), ("a", "a", 0)] {
            assert_eq!(changes(a, b), count, "{a} {b}");
        }
    }
}
