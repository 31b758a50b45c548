//! A few kills of the campaign that `tests/bench/run crash` makes many of.

#![expect(clippy::indexing_slicing, reason = "JSON that lacks a field is null")]

use anyhow::Result;
use cardea_e2e::program::{binaries, command, run_ok};

#[test]
fn a_controller_that_is_killed_under_load_has_lost_nothing() {
    ten_kills().unwrap();
}

fn ten_kills() -> Result<()> {
    let campaign = binaries()?.join("cardea-bench");
    let printed = run_ok(command(campaign, ["crash", "--n", "10", "--json"]))?;
    for line in printed.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let (Some(case), Some(ours)) = (row["case"].as_str(), row["ours"].as_f64()) else {
            anyhow::bail!("no row: {line}");
        };
        match case {
            // Half of them, but for one that is slow to come to its operation; a release has none.
            "at operations of the disk" => {
                anyhow::ensure!(ours > 2.5 || !cfg!(debug_assertions), "{line}");
            }
            "at random moments" => {}
            "kills" => anyhow::ensure!(ours > 9.5, "{line}"),
            "acknowledged facts" => anyhow::ensure!(ours > 50.0, "nothing was done: {line}"),
            // A figure of the benchmark, on a machine that has nothing else to do.
            "slowest return" => {}
            _ => anyhow::ensure!(Some(ours) <= row["floor"].as_f64(), "{line}"),
        }
    }
    Ok(())
}
