//! Policies, findings about them, and what they would change.

use cardea_host::exit::Failure;
use cardea_proto::{
    ledger::Revision,
    policy::{PolicyEffect, PolicyFile, PolicyProblem, PolicyTestResult},
};
use serde_json::json;

use crate::{args::Format, console::Console, table};

use super::{data, yes_no};

/// Prints files one after another, each under its path.
pub(crate) fn files(
    revision: Option<Revision>,
    files: &[PolicyFile],
    format: Format,
    console: &mut Console,
) -> Result<(), Failure> {
    if format != Format::Table {
        let value = revision.map_or_else(
            || json!({ "files": files }),
            |revision| json!({ "revision": revision, "files": files }),
        );
        return data(&value, format, console);
    }
    let mut text = revision.map_or_else(String::new, |revision| {
        format!("// policy revision {revision}\n")
    });
    for file in files {
        let mark = if file.path.ends_with(".toml") {
            "#"
        } else {
            "//"
        };
        text.push_str(&format!(
            "\n{mark} {}\n{}\n",
            file.path,
            file.text.trim_end()
        ));
    }
    console.data(text.trim_start_matches('\n'))
}

/// Prints findings as compilers do: `path:line: message`.
pub(crate) fn problems(
    problems: &[PolicyProblem],
    format: Format,
    console: &mut Console,
) -> Result<(), Failure> {
    if format != Format::Table {
        return data(&problems, format, console);
    }
    let text: String = problems
        .iter()
        .map(|problem| {
            let line = problem
                .line
                .map(|line| format!(":{line}"))
                .unwrap_or_default();
            format!("{}{line}: {}\n", problem.path, problem.message)
        })
        .collect();
    console.data(&text)
}

/// Prints how tests went; those that failed with their reason.
pub(crate) fn tests(
    results: &[PolicyTestResult],
    format: Format,
    console: &mut Console,
) -> Result<(), Failure> {
    if format != Format::Table {
        return data(&results, format, console);
    }
    let text: String = results
        .iter()
        .map(|result| {
            let outcome = if result.passed { "ok  " } else { "FAIL" };
            let detail = result
                .detail
                .as_ref()
                .map(|detail| format!(": {detail}"))
                .unwrap_or_default();
            format!("{outcome} {}: {}{detail}\n", result.path, result.name)
        })
        .collect();
    console.data(&text)
}

/// Prints whom a folder would give or take access.
pub(crate) fn effects(
    effects: &[PolicyEffect],
    format: Format,
    console: &mut Console,
) -> Result<(), Failure> {
    if format != Format::Table {
        return data(&effects, format, console);
    }
    console.data(&effects_table(effects))
}

/// The same as text.
pub(crate) fn effects_table(effects: &[PolicyEffect]) -> String {
    let rows: Vec<Vec<String>> = effects
        .iter()
        .map(|effect| {
            vec![
                effect.device.clone(),
                effect.user.clone(),
                effect.action.clone(),
                effect.app.clone().unwrap_or_default(),
                yes_no(effect.before),
                yes_no(effect.after),
                effect.why.clone(),
            ]
        })
        .collect();
    let heading = ["DEVICE", "USER", "ACTION", "APP", "BEFORE", "AFTER", "WHY"];
    table::table(&heading, &rows)
}
