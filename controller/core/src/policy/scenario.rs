//! The tests of a policy folder: `*.test.toml`.

use cardea_proto::policy::{PolicyFile, PolicyProblem, PolicyTestResult};

use super::engine::Engine;

/// The tests of one file.
#[derive(Debug)]
pub(super) struct Scenarios;

pub(super) fn parse(_files: &[PolicyFile]) -> Result<Vec<Scenarios>, Vec<PolicyProblem>> {
    Ok(Vec::new())
}

pub(super) fn run(_engine: &Engine, _scenarios: &[Scenarios]) -> Vec<PolicyTestResult> {
    Vec::new()
}
