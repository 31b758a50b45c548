//! Aligned columns of text that cannot drive a terminal.

/// Rows under a heading; nothing when there are no rows.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(&heading)
        .chain(rows)
        .map(|row| row.iter().map(|cell| escaped(cell)).collect())
        .collect();
    aligned(&lines)
}

/// `Name:  value` lines; a value of several lines goes on below itself.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let mut lines = Vec::new();
    for (name, value) in fields {
        let mut parts = value.lines();
        lines.push(vec![
            format!("{name}:"),
            escaped(parts.next().unwrap_or("-")),
        ]);
        lines.extend(parts.map(|part| vec![String::new(), escaped(part)]));
    }
    aligned(&lines)
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut shown = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            // A format's own width ends at 65,535, and a device's word may be longer.
            let missing = width.saturating_sub(cell.chars().count());
            shown.push_str(cell);
            shown.push_str(&" ".repeat(missing + 2));
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}

/// `-` for nothing, and every control character as its escape.
pub(crate) fn escaped(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.chars()
        .flat_map(|c| {
            let escape = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escape.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_do_not_end_in_spaces() {
        let rows = [
            vec!["laptop".to_owned(), "alice".to_owned()],
            vec!["pc".to_owned(), String::new()],
        ];
        let shown = table(&["NAME", "USER"], &rows);
        assert_eq!(shown, "NAME    USER\nlaptop  alice\npc      -\n");
    }

    #[test]
    fn nothing_is_printed_for_nothing() {
        assert_eq!(table(&["NAME"], &[]), "");
    }

    #[test]
    fn what_a_device_calls_itself_cannot_drive_the_terminal() {
        let shown = table(&["N"], &[vec!["\u{1b}[2J\nx".to_owned()]]);
        assert_eq!(shown, "N\n\\u{1b}[2J\\nx\n");
    }

    #[test]
    fn a_cell_of_any_length_is_shown() {
        let long = "p".repeat(100_000);
        let rows = [vec![long.clone(), "x".to_owned()], vec!["a".to_owned()]];
        assert_eq!(
            table(&["N", "M"], &rows).lines().nth(1),
            Some(&*format!("{long}  x"))
        );
    }

    #[test]
    fn long_values_go_on_below_themselves() {
        let shown = fields(&[
            ("Name", "x".to_owned()),
            ("Targets", "a\nb".to_owned()),
            ("None", String::new()),
        ]);
        assert_eq!(
            shown,
            "Name:     x\nTargets:  a\n          b\nNone:     -\n"
        );
    }
}
