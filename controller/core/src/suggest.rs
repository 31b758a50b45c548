//! "Did you mean": the nearest of the names that exist.

/// The name nearest to `wrong` that a typing error could explain; never `wrong` itself.
pub(crate) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let far = (wrong.chars().count() / 3).clamp(1, 3);
    names
        .filter(|name| *name != wrong && name.len().abs_diff(wrong.len()) <= far)
        .map(|name| (distance(wrong, name), name))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbors that lead from one text to the other.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, &left) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, &right) in to.iter().enumerate() {
            let at = |cells: &[usize], column: usize| cells.get(column).copied().unwrap_or(0);
            let replaced = at(&last, column) + usize::from(left != right);
            let mut best = replaced
                .min(at(&last, column + 1) + 1)
                .min(at(&current, column) + 1);
            let swapped = row > 0
                && column > 0
                && from.get(row - 1) == Some(&right)
                && to.get(column - 1) == Some(&left);
            if swapped {
                best = best.min(at(&before_last, column - 1) + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_name_and_another_word_does_not() {
        let names = ["wiki", "db-prod", "db-test", "mail"];
        let nearest = |wrong| nearest(wrong, names.into_iter());
        assert_eq!(nearest("wkii"), Some("wiki"));
        assert_eq!(nearest("wik"), Some("wiki"));
        assert_eq!(nearest("db-prd"), Some("db-prod"));
        assert_eq!(nearest("payroll"), None);
        assert_eq!(nearest("wiki"), None);
        assert_eq!(nearest(""), None);
    }
}
