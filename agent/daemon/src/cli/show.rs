//! Answers as tables for people, and as JSON and YAML for programs.

use std::net::IpAddr;

use cardea_host::exit::{Code, Failure};
use cardea_proto::{
    local::{AgentStatus, AppError, AppState, AppStatus, ConnectorStatus, ControllerState},
    posture::{Fact, Grade, PostureVerdict, Reading, Report, Value},
};
use serde::Serialize;

use super::Output;
use crate::talk;

/// Prints a value for programs, or what `table` makes of it for people.
pub(super) fn show<T: Serialize>(
    output: Output,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(Code::Failed, why);
    let text = match output {
        Output::Table => table(value),
        Output::Json => {
            serde_json::to_string_pretty(value).map_err(|error| failed(error.to_string()))?
        }
        Output::Yaml => {
            serde_yaml_ng::to_string(value).map_err(|error| failed(error.to_string()))?
        }
    };
    talk::print(text.trim_end())
}

/// The status of an agent.
pub(super) fn status(status: &AgentStatus) -> String {
    let posture = match status.posture.compliant {
        None if status.controller.state == ControllerState::Unreachable => "not judged".to_owned(),
        None => "not judged yet".to_owned(),
        Some(true) => "passes".to_owned(),
        Some(false) => format!("fails: {}", status.posture.failed.join("; ")),
    };
    let user = status.user.as_ref().map_or("-", |user| user.as_str());
    let mut lines = vec![
        format!("Device       {} ({})", status.device.name, status.device.id),
        format!("User         {user}"),
        format!(
            "Controller   {} {} since {}",
            controller(status.controller.state),
            status.controller.address,
            status.controller.since
        ),
        format!("Certificate  until {}", status.certificate.not_after),
        format!("Posture      {posture}"),
    ];
    if !status.apps.is_empty() {
        lines.push(String::new());
        lines.push(apps(&status.apps));
    }
    for warning in &status.warnings {
        lines.push(String::new());
        lines.push(format!("Warning: {}. {}", warning.title, warning.fix));
    }
    lines.join("\n")
}

/// The status of a connector.
pub(super) fn connector(status: &ConnectorStatus) -> String {
    [
        format!(
            "Connector    {} ({})",
            status.connector.name, status.connector.id
        ),
        format!(
            "Controller   {} {} since {}",
            controller(status.controller.state),
            status.controller.address,
            status.controller.since
        ),
        format!("Certificate  until {}", status.certificate.not_after),
        format!("Grants       {}", status.grants.len()),
    ]
    .join("\n")
}

/// What a device may reach.
pub(super) fn apps(apps: &[AppStatus]) -> String {
    let dash = || "-".to_owned();
    let rows = apps.iter().map(|app| {
        let services: Vec<String> = app.services.iter().map(ToString::to_string).collect();
        vec![
            app.name.to_string(),
            state(app.state).to_owned(),
            services.join(","),
            addresses(&app.addresses),
            app.transport.clone(),
            app.path.clone().unwrap_or_else(dash),
            app.rtt_ms.map_or_else(dash, |rtt| format!("{rtt} ms")),
            format!("{}/{}", app.bytes_in, app.bytes_out),
            why(app),
        ]
    });
    let head = [
        "NAME",
        "STATE",
        "PORTS",
        "ADDRESS",
        "TRANSPORT",
        "PATH",
        "RTT",
        "IN/OUT",
        "WHY",
    ];
    table(&head, rows.collect())
}

/// Why it is as it is, and what went wrong last although it is open.
fn why(app: &AppStatus) -> String {
    let error = app.last_error.as_ref().map(|error| {
        let AppError { message, at, count } = error;
        let times = if *count == 1 {
            String::new()
        } else {
            format!(", {count} times")
        };
        format!("{message} (at {at}{times})")
    });
    // Of an open app, why it goes the way that it goes.
    let way = app.path_why.clone().filter(|_| app.why.is_none());
    let all = [app.why.clone(), way, error];
    all.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The first address, which is IPv4: programs that prefer the other find it in JSON.
fn addresses(all: &[IpAddr]) -> String {
    all.first()
        .map_or_else(|| "-".to_owned(), IpAddr::to_string)
}

/// Every fact of a device with the controller's verdict, as programs read it.
#[derive(Debug, Serialize)]
pub(super) struct PostureOutput {
    facts: Vec<FactOutput>,
    compliant: Option<bool>,
    checked_at: Option<String>,
    failed: Vec<String>,
    remedy: Option<String>,
}

#[derive(Debug, Serialize)]
struct FactOutput {
    name: String,
    state: &'static str,
    value: Option<Value>,
    error: Option<String>,
    grade: &'static str,
    age_ms: u64,
}

impl PostureOutput {
    pub(super) fn new(report: &Report, verdict: Option<&PostureVerdict>) -> Self {
        let facts = report
            .facts
            .iter()
            .map(|(name, fact)| FactOutput::new(name, fact));
        let skew = verdict.and_then(|verdict| verdict.clock_skew_s);
        let mut facts: Vec<_> = facts.chain(skew.map(FactOutput::clock_skew)).collect();
        facts.sort_by(|one, other| one.name.cmp(&other.name));
        Self {
            facts,
            compliant: verdict.map(|verdict| verdict.compliant),
            checked_at: verdict.map(|verdict| verdict.checked_at.to_rfc3339()),
            failed: verdict.map_or_else(Vec::new, PostureVerdict::reasons),
            remedy: verdict.and_then(|verdict| verdict.remedy.clone()),
        }
    }

    pub(super) fn table(&self) -> String {
        let rows = self.facts.iter().map(|fact| {
            let value = fact.value.as_ref().map(ToString::to_string);
            let error = fact.error.as_ref().map(|why| format!("error: {why}"));
            vec![
                fact.name.clone(),
                value.or(error).unwrap_or_else(|| fact.state.to_owned()),
                fact.grade.to_owned(),
                format!(
                    "{:.1} s",
                    std::time::Duration::from_millis(fact.age_ms).as_secs_f64()
                ),
            ]
        });
        table(&["FACT", "VALUE", "GRADE", "AGE"], rows.collect())
    }
}

impl FactOutput {
    /// What the controller alone can read: how far this device's clock was ahead at the verdict.
    fn clock_skew(seconds: i64) -> Self {
        let reading = Reading::Value(Value::Integer(seconds));
        let grade = Grade::Os;
        Self::new(
            "clock.skew_s",
            &Fact {
                reading,
                grade,
                age_ms: 0,
            },
        )
    }

    fn new(name: &str, fact: &Fact) -> Self {
        let (state, value, error) = match &fact.reading {
            Reading::Value(value) => ("value", Some(value.clone()), None),
            Reading::Absent => ("absent", None, None),
            Reading::Unsupported => ("unsupported", None, None),
            Reading::Denied => ("denied", None, None),
            Reading::Error(why) => ("error", None, Some(why.clone())),
        };
        Self {
            name: name.to_owned(),
            state,
            value,
            error,
            grade: fact.grade.as_str(),
            age_ms: fact.age_ms,
        }
    }
}

const fn controller(state: ControllerState) -> &'static str {
    match state {
        ControllerState::Connected => "connected to",
        ControllerState::Connecting => "connecting to",
        ControllerState::Unreachable => "not connected to",
    }
}

const fn state(state: AppState) -> &'static str {
    match state {
        AppState::Idle => "idle",
        AppState::Opening => "opening",
        AppState::Open => "open",
        AppState::Denied => "denied",
        AppState::Unreachable => "unreachable",
    }
}

/// Columns as wide as their widest cell; the last one is as long as it is.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| {
                // A format's own width ends at 65,535, and a fact may be longer.
                let missing = width.saturating_sub(cell.chars().count());
                format!("{cell}{}", " ".repeat(missing))
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let lines: Vec<String> = [&head].into_iter().chain(&rows).map(line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cardea_proto::{codec::Bytes, time::UnixMillis};

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let text = table(
            &["NAME", "WHY"],
            vec![row("x", ""), row("longer", "because")],
        );
        assert_eq!(text, "NAME    WHY\nx\nlonger  because");
    }

    #[test]
    fn a_posture_shows_the_clock_and_why_it_fails_where_no_check_says_it() {
        let report = Report {
            counter: 1,
            nonce: Bytes([0; 16]),
            clock: UnixMillis(0),
            facts: BTreeMap::new(),
        };
        let verdict = PostureVerdict {
            compliant: false,
            checked_at: UnixMillis(0),
            failed: Vec::new(),
            remedy: None,
            report: None,
            why: Some("no rule permits a certificate for laptop".to_owned()),
            clock_skew_s: Some(-7),
            blocked: false,
        };
        let shown = PostureOutput::new(&report, Some(&verdict));
        assert_eq!(shown.failed, ["no rule permits a certificate for laptop"]);
        assert_eq!(
            shown.table(),
            "FACT          VALUE  GRADE  AGE\nclock.skew_s  -7     os     0.0 s"
        );
    }
}
