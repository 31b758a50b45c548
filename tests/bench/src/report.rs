//! Figures, as a table for people and as JSON lines for scripts.

use std::time::Duration;

use anyhow::{Result, ensure};

/// One row: ours, a peer or a limit, and what must hold.
#[derive(Debug)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) case: String,
    /// Our median.
    pub(crate) ours: f64,
    /// Smallest and largest of ours.
    pub(crate) range: (f64, f64),
    /// Whom it is compared with; `None` for an absolute figure.
    pub(crate) peer: Option<(String, f64)>,
    /// What must hold: of the ratio when there is a peer, else of the figure.
    pub(crate) floor: Option<f64>,
    /// Where we are going.
    pub(crate) goal: Option<f64>,
    /// Unit of the figures.
    pub(crate) unit: &'static str,
}

/// All rows of one benchmark.
#[derive(Debug)]
pub(crate) struct Report {
    bench: String,
    /// JSON lines instead of a table.
    pub(crate) json: bool,
    rows: Vec<Row>,
    /// What may not be, whatever else was measured.
    failures: Vec<String>,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(bench: &str) -> Self {
        Self {
            bench: bench.to_owned(),
            json: false,
            rows: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds percentiles of `times` in milliseconds with what must hold of them.
    pub(crate) fn add_times(
        &mut self,
        case: &str,
        times: &[Duration],
        floors: (f64, f64),
        goals: (f64, f64),
    ) {
        let ms: Vec<f64> = times
            .iter()
            .map(|time| time.as_secs_f64() * 1_000.0)
            .collect();
        let range = (percentile(&ms, 0.0), percentile(&ms, 1.0));
        for (name, at, floor, goal) in [
            ("p50", 0.5, floors.0, goals.0),
            ("p99", 0.99, floors.1, goals.1),
        ] {
            self.add(Row {
                case: format!("{case} {name}"),
                ours: percentile(&ms, at),
                range,
                peer: None,
                floor: Some(floor),
                goal: Some(goal),
                unit: "ms",
            });
        }
    }

    /// Adds single figures, each with what must hold of it and its unit.
    pub(crate) fn add_figures<const N: usize>(
        &mut self,
        figures: [(&str, f64, Option<f64>, &'static str); N],
    ) {
        for (case, ours, floor, unit) in figures {
            self.add(Row {
                case: case.to_owned(),
                ours,
                range: (ours, ours),
                peer: None,
                floor,
                goal: None,
                unit,
            });
        }
    }

    /// Notes that something did not hold that no machine is too slow for.
    pub(crate) fn demand(&mut self, holds: bool, what: &str) {
        if !holds {
            self.failures.push(what.to_owned());
        }
    }

    /// Prints everything.
    ///
    /// # Errors
    /// What was demanded and did not hold.
    pub(crate) fn end(&self) -> Result<()> {
        self.print();
        ensure!(self.failures.is_empty(), "{}", self.failures.join("; "));
        Ok(())
    }

    fn print(&self) {
        if self.json {
            self.rows
                .iter()
                .for_each(|row| println!("{}", self.line(row)));
            return;
        }
        println!(
            "{:<34} {:>10} {:>21}  {:<22} {:>7} {:>7} {:>7}  unit",
            "case", "ours", "range", "against", "ratio", "floor", "goal"
        );
        for row in &self.rows {
            let number =
                |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
            let against = row
                .peer
                .as_ref()
                .map_or("-".to_owned(), |(name, value)| format!("{name} {value:.2}"));
            println!(
                "{:<34} {:>10.2} {:>10.2}-{:<10.2}  {:<22} {:>7} {:>7} {:>7}  {}",
                row.case,
                row.ours,
                row.range.0,
                row.range.1,
                against,
                number(row.ratio()),
                number(row.floor),
                number(row.goal),
                row.unit
            );
        }
    }

    fn line(&self, row: &Row) -> serde_json::Value {
        serde_json::json!({
            "bench": self.bench,
            "case": row.case,
            "ours": row.ours,
            "range": [row.range.0, row.range.1],
            "peer": row.peer.as_ref().map(|(name, _)| name),
            "peer_value": row.peer.as_ref().map(|(_, value)| value),
            "ratio": row.ratio(),
            "floor": row.floor,
            "goal": row.goal,
            "unit": row.unit,
        })
    }
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|(_, value)| self.ours / value)
    }
}

/// An id, or a hash, of its own for each number.
pub(crate) fn bytes_of<const N: usize>(number: u64) -> [u8; N] {
    let mut bytes = [0; N];
    bytes
        .iter_mut()
        .zip(number.to_be_bytes())
        .for_each(|(to, from)| *to = from);
    bytes
}

/// The value below which this share of `values` lies; 0 for none.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a short list"
    )]
    let at = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

/// The middle one of `values`.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_from_the_sorted_values() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(
            (
                median(&values),
                percentile(&values, 0.0),
                percentile(&values, 1.0)
            ),
            (3.0, 1.0, 5.0)
        );
        assert_eq!(median(&[]), 0.0);
    }
}
