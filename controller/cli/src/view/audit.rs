//! Entries of the ledger: a line each, or whole.

use cardea_credential::admin::ChangeError;
use cardea_host::exit::{Code, Failure};
use cardea_proto::{
    admin::{ChangeOrder, WhoRow},
    codec::{self, MESSAGE_BYTES_MAX_ADMIN},
    ledger::{Admits, Change, Entry, Revision},
    time::UnixMillis,
};

use crate::{args::Format, console::Console, table};

use super::{data, joined, lines};

const HEADING: &[&str] = &["REVISION", "TIME", "ACTOR", "WHAT", "DECISION"];

/// Prints entries, a line each.
pub(crate) fn entries(
    entries: &[Entry],
    format: Format,
    console: &mut Console,
) -> Result<(), Failure> {
    if format != Format::Table {
        return data(&entries, format, console);
    }
    let rows: Vec<Vec<String>> = entries.iter().map(cells).collect();
    console.data(&table::table(HEADING, &rows))
}

/// Prints an entry of many that come one by one: a line for people, a line of JSON for programs.
pub(crate) fn followed(
    entry: &Entry,
    format: Format,
    console: &mut Console,
) -> Result<(), Failure> {
    match format {
        Format::Table => console.data(&line(entry)),
        Format::Json => {
            let line = serde_json::to_string(entry)
                .map_err(|error| Failure::of(Code::Failed, "output", error, ""))?;
            console.data(&line)
        }
        // A document for each.
        Format::Yaml => {
            console.data("---")?;
            data(entry, format, console)
        }
    }
}

/// Prints one entry whole.
pub(crate) fn entry(entry: &Entry, format: Format, console: &mut Console) -> Result<(), Failure> {
    if format != Format::Table {
        return data(entry, format, console);
    }
    let mut fields = vec![
        ("Revision", entry.revision.to_string()),
        ("Time", entry.draft.at.to_rfc3339()),
        ("Actor", entry.draft.actor.to_string()),
        ("Previous", format!("{:?}", entry.previous)),
        ("Changes", lines(entry.draft.changes.iter().map(described))),
    ];
    if let Some(decision) = &entry.draft.decision {
        fields.push(("Decision", decision.to_string()));
    }
    if let Some(signed) = &entry.draft.signed {
        let order: Result<ChangeOrder, ChangeError> =
            codec::decode(signed.body.as_ref(), MESSAGE_BYTES_MAX_ADMIN)
                .map_err(ChangeError::Unreadable);
        let about = order.map_or_else(
            |error| error.to_string(),
            |order| {
                format!(
                    "change {} of its connection, {}",
                    order.sequence,
                    order.at.to_rfc3339()
                )
            },
        );
        fields.push(("Signed by", format!("{}\n{about}", signed.key)));
    }
    console.data(&table::fields(&fields))
}

/// Prints who could reach an app.
pub(crate) fn who(
    revision: Revision,
    rows: &[WhoRow],
    format: Format,
    console: &mut Console,
) -> Result<(), Failure> {
    if format != Format::Table {
        return data(
            &serde_json::json!({ "revision": revision, "rows": rows }),
            format,
            console,
        );
    }
    console.say(&format!("as of entry {revision}"));
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let grant = row
                .grant
                .map_or_else(|| "-".to_owned(), |grant| grant.to_string());
            vec![
                row.user.to_string(),
                row.device.to_string(),
                joined(&row.rules),
                grant,
            ]
        })
        .collect();
    console.data(&table::table(
        &["USER", "DEVICE", "RULES", "OPEN GRANT"],
        &rows,
    ))
}

/// What an entry changed, in a few words.
pub(super) fn what(entry: &Entry) -> String {
    let changes = entry.draft.changes.iter().map(described);
    changes.collect::<Vec<String>>().join("; ")
}

fn cells(entry: &Entry) -> Vec<String> {
    let decision = entry
        .draft
        .decision
        .as_ref()
        .map_or_else(String::new, |decision| {
            if decision.allowed {
                format!("allowed: {}", decision.rules.join(", "))
            } else {
                decision.summary()
            }
        });
    vec![
        entry.revision.to_string(),
        moment(entry.draft.at),
        entry.draft.actor.to_string(),
        what(entry),
        decision,
    ]
}

/// The same in columns that are as wide as they usually must be.
fn line(entry: &Entry) -> String {
    const WIDTHS: [usize; 4] = [8, 24, 20, 60];
    let line: Vec<String> = cells(entry)
        .iter()
        .zip(WIDTHS.into_iter().chain(std::iter::repeat(0)))
        .map(|(cell, width)| format!("{:<width$}", table::escaped(cell)))
        .collect();
    line.join("  ").trim_end_matches(['-', ' ']).to_owned()
}

/// RFC 3339 with three decimals, so that times stand below each other.
fn moment(at: UnixMillis) -> String {
    let text = at.to_rfc3339();
    let Some(whole) = text.strip_suffix('Z') else {
        return text;
    };
    let (whole, fraction) = whole.split_once('.').unwrap_or((whole, ""));
    format!("{whole}.{fraction:0<3}Z")
}

/// A change in a few words.
fn described(change: &Change) -> String {
    match change {
        Change::Founded(founded) => format!("trust domain {} founded", founded.domain),
        Change::InviteCreated(invite) => {
            let whom = match &invite.admits {
                Admits::Device { user, groups } if groups.is_empty() => {
                    format!("a device of {user}")
                }
                Admits::Device { user, groups } => {
                    format!("a device of {user}, group {}", joined(groups))
                }
                Admits::Connector { site } => format!("a connector of {site}"),
            };
            format!("invite {} made for {whom}", invite.id)
        }
        Change::InviteRemoved(id) => format!("invite {id} taken back"),
        Change::InviteUsed { invite, by } => format!("invite {invite} used by {by}"),
        Change::NodeEnrolled(node) => format!("{} {} enrolled", node.id, node.name),
        Change::DeviceBlocked(id) => format!("{id} blocked"),
        Change::DeviceUnblocked(id) => format!("{id} unblocked"),
        Change::NodeRemoved(id) => format!("{id} removed"),
        Change::CertificateIssued(record) => format!(
            "certificate {:?} of {} until {}",
            record.serial,
            record.node,
            record.not_after.to_rfc3339()
        ),
        Change::Appraised { device, compliant } => {
            format!(
                "posture of {device} {}",
                if *compliant { "passes" } else { "fails" }
            )
        }
        Change::SiteAdded(name) => format!("site {name} added"),
        Change::SiteRemoved(name) => format!("site {name} removed"),
        Change::UserSet(user) => format!("user {} in groups [{}]", user.name, joined(&user.groups)),
        Change::AppSet(app) => format!("app {} at {}", app.name, joined(&app.targets)),
        Change::AppRemoved(name) => format!("app {name} removed"),
        Change::PolicySet(files) => format!("policy of {} files", files.len()),
        Change::Allowed(link) => format!("{} may open {}", link.principal, link.app),
        Change::Disallowed(link) => format!("{} may no longer open {}", link.principal, link.app),
        Change::GrantOffered(grant) => format!(
            "{} offered: {} on {} to {} through {} by {}",
            grant.id,
            grant.user,
            grant.device,
            grant.app,
            grant.connector,
            grant.carrier.as_str()
        ),
        Change::GrantAdmitted(id) => format!("{id} open"),
        Change::GrantEnded { grant, reason } => format!("{grant} ended: {reason}"),
        Change::RollbackNoticed(rollback) => format!(
            "rollback of the ledger noticed: {} knows {} entries of another one",
            rollback.node, rollback.size
        ),
        Change::RollbackAcknowledged => "rollback of the ledger acknowledged".to_owned(),
        Change::Refused(record) => {
            format!(
                "{} refused: {} {}",
                record.attempt, record.code, record.subject
            )
        }
    }
}
