//! How a controller is.

use cardea_host::exit::{Code, Failure};
use cardea_proto::admin::{Knocks, RelayRow, StatusView};
use serde_json::{Value, json};

use crate::{args::Format, console::Console, table};

use super::{data, lines, yes_no};

/// Prints it; warnings stand last, where people look.
pub(crate) fn status(
    status: &StatusView,
    format: Format,
    console: &mut Console,
) -> Result<(), Failure> {
    if format != Format::Table {
        return data(&named(status)?, format, console);
    }
    let count =
        |(enrolled, connected): (u32, u32)| format!("{enrolled} enrolled, {connected} connected");
    let mut fields = vec![
        ("Trust domain", status.domain.to_string()),
        ("Controller", status.controller.to_string()),
        ("Program", status.program.clone()),
        ("Addresses", lines(&status.addresses)),
        ("Since", status.started_at.clone()),
        ("Store", status.store.clone()),
        ("Revision", status.revision.to_string()),
        ("Policy revision", status.policy_revision.to_string()),
        ("Devices", count(status.devices)),
        ("Connectors", count(status.connectors)),
        ("Grants", status.grants.to_string()),
        ("Intermediate until", status.intermediate_not_after.clone()),
        ("Simulated posture", yes_no(status.simulated_posture)),
        ("Knocks", knocks(&status.knocks)),
        ("Relays", lines(status.relays.iter().map(relay))),
    ];
    if let Some(rollback) = &status.rollback {
        fields.push((
            "Safe mode",
            format!(
                "the ledger was rolled back or written anew: {} knows {} entries of another one. \
                 Nothing is granted and nobody enrolled until: cardeactl status --acknowledge-rollback",
                rollback.node, rollback.size
            ),
        ));
    }
    let warnings = status
        .warnings
        .iter()
        .map(|warning| format!("{}: {}. {}", warning.code, warning.title, warning.fix));
    if !status.warnings.is_empty() {
        fields.push(("Warnings", lines(warnings)));
    }
    console.data(&table::fields(&fields))
}

/// Where a relay is and whether it answers.
fn relay(relay: &RelayRow) -> String {
    let state = if relay.answers { "answers" } else { "silent" };
    format!("{} {state}", relay.addresses.join(", "))
}

/// How many were answered, and why the others were not.
fn knocks(knocks: &Knocks) -> String {
    let reasons = [
        (knocks.unknown, "unknown"),
        (knocks.forged, "forged"),
        (knocks.early, "early"),
        (knocks.late, "late"),
        (knocks.replayed, "replayed"),
        (knocks.too_many, "too many"),
    ];
    let unanswered = reasons
        .iter()
        .fold(0_u64, |sum, (count, _)| sum.saturating_add(*count));
    let mut text = format!("{} opened, {unanswered} unanswered", knocks.opened);
    let named: Vec<String> = reasons
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, reason)| format!("{count} {reason}"))
        .collect();
    if !named.is_empty() {
        text.push_str(&format!(" ({})", named.join(", ")));
    }
    text
}

/// Pairs of counts with their names.
fn named(status: &StatusView) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(status)
        .map_err(|error| Failure::of(Code::Failed, "output", error, ""))?;
    if let Some(object) = value.as_object_mut() {
        for (name, (enrolled, connected)) in [
            ("devices", status.devices),
            ("connectors", status.connectors),
        ] {
            object.insert(
                name.to_owned(),
                json!({ "enrolled": enrolled, "connected": connected }),
            );
        }
    }
    Ok(value)
}
