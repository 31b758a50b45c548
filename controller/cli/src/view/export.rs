//! Entries in the formats that log collectors read.

use cardea_proto::{
    PROGRAM_VERSION,
    ledger::{Actor, Change, Entry},
};
use serde_json::{Value, json};

use super::audit;
use crate::args::ExportFormat;

/// Version of the Open Cybersecurity Schema Framework that is written.
const OCSF_VERSION: &str = "1.3.0";

/// One entry as one line.
pub(crate) fn line(entry: &Entry, format: ExportFormat) -> Result<String, serde_json::Error> {
    match format {
        ExportFormat::Json => serde_json::to_string(entry),
        ExportFormat::Ocsf => serde_json::to_string(&ocsf(entry)?),
        ExportFormat::Cef => Ok(cef(entry)),
    }
}

/// What kind of thing an entry is, for those who sort by it.
#[derive(Clone, Copy)]
struct Kind {
    /// OCSF class: 3001 account change, 3002 authentication, 3003 authorize session, 3004 entity
    /// management, 2003 compliance finding.
    class: u32,
    /// The activity within the class.
    activity: u32,
    /// A word for people and CEF.
    name: &'static str,
    /// OCSF severity: 1 informational, 2 low, 3 medium, 4 high.
    severity: u32,
}

/// The kind of an entry: that of its weightiest change.
fn kind(entry: &Entry) -> Kind {
    let kinds = entry.draft.changes.iter().map(kind_of);
    kinds
        .max_by_key(|kind| (kind.severity, kind.class))
        .unwrap_or(Kind {
            class: 3004,
            activity: 99,
            name: "note",
            severity: 1,
        })
}

fn kind_of(change: &Change) -> Kind {
    let kind = |class, activity, name, severity| Kind {
        class,
        activity,
        name,
        severity,
    };
    match change {
        Change::Founded(_) => kind(3004, 1, "founded", 2),
        Change::InviteCreated(_) => kind(3004, 1, "invite created", 1),
        Change::InviteRemoved(_) => kind(3004, 4, "invite removed", 1),
        Change::InviteUsed { .. } => kind(3004, 3, "invite used", 1),
        Change::NodeEnrolled(_) => kind(3004, 1, "node enrolled", 2),
        Change::DeviceBlocked(_) => kind(3004, 3, "device blocked", 3),
        Change::DeviceUnblocked(_) => kind(3004, 3, "device unblocked", 2),
        Change::NodeRemoved(_) => kind(3004, 4, "node removed", 2),
        Change::CertificateIssued(_) => kind(3002, 3, "certificate issued", 1),
        Change::Appraised { compliant, .. } => {
            let severity = if *compliant { 1 } else { 3 };
            kind(2003, 1, "posture appraised", severity)
        }
        Change::SiteAdded(_) => kind(3004, 1, "site added", 1),
        Change::SiteRemoved(_) => kind(3004, 4, "site removed", 1),
        Change::UserSet(_) => kind(3001, 7, "user set", 2),
        Change::AppSet(_) => kind(3004, 3, "app set", 2),
        Change::AppRemoved(_) => kind(3004, 4, "app removed", 2),
        Change::PolicySet(_) => kind(3004, 3, "policy set", 3),
        Change::Allowed(_) => kind(3001, 7, "rule added", 2),
        Change::Disallowed(_) => kind(3001, 8, "rule removed", 2),
        Change::GrantOffered(_) => kind(3003, 1, "grant offered", 1),
        Change::GrantAdmitted(_) => kind(3003, 1, "grant open", 1),
        Change::GrantEnded { .. } => kind(3003, 99, "grant ended", 1),
        Change::Refused(_) => kind(3002, 1, "refused", 3),
        Change::RollbackNoticed(_) => kind(2003, 1, "ledger rollback noticed", 4),
        Change::RollbackAcknowledged => kind(2003, 3, "ledger rollback acknowledged", 4),
    }
}

/// An OCSF event. What has no field of its own is under `unmapped`, whole.
fn ocsf(entry: &Entry) -> Result<Value, serde_json::Error> {
    let Kind {
        class,
        activity,
        name,
        severity,
    } = kind(entry);
    let failed = denied(entry);
    let draft = &entry.draft;
    let mut event = json!({
        "metadata": {
            "version": OCSF_VERSION,
            "product": { "name": "Cardea", "vendor_name": "Cardea", "version": PROGRAM_VERSION },
            "log_name": "ledger",
            "uid": entry.revision.to_string(),
            "sequence": entry.revision,
        },
        "category_uid": class / 1_000,
        "class_uid": class,
        "activity_id": activity,
        "activity_name": name,
        "type_uid": u64::from(class) * 100 + u64::from(activity),
        "time": draft.at.0,
        "severity_id": severity,
        "status_id": if failed { 2 } else { 1 },
        "message": audit::what(entry),
        "actor": actor(&draft.actor),
        "unmapped": {
            "changes": serde_json::to_value(&draft.changes)?,
            "decision": serde_json::to_value(&draft.decision)?,
            "previous": serde_json::to_value(entry.previous)?,
        },
    });
    for change in &draft.changes {
        if let (Change::GrantOffered(grant), Some(event)) = (change, event.as_object_mut()) {
            event.insert(
                "user".to_owned(),
                json!({ "name": grant.user, "uid": grant.user }),
            );
            event.insert(
                "device".to_owned(),
                json!({ "uid": grant.device, "type_id": 0 }),
            );
            event.insert(
                "session".to_owned(),
                json!({ "uid": grant.id, "expiration_time": draft.at.0.saturating_add(grant.ttl_ms) }),
            );
        }
    }
    Ok(event)
}

fn actor(actor: &Actor) -> Value {
    let uid = actor.to_string();
    match actor {
        Actor::Admin(_) => json!({ "user": { "uid": uid, "type_id": 2, "type": "Admin" } }),
        Actor::Node(_) => json!({ "app_uid": uid, "app_name": "node" }),
        Actor::Controller(_) => json!({ "app_uid": uid, "app_name": "controller" }),
        Actor::Stranger(_) => json!({ "user": { "uid": uid, "type_id": 0, "type": "Unknown" } }),
    }
}

fn denied(entry: &Entry) -> bool {
    let refused = |change: &Change| matches!(change, Change::Refused(_));
    let decision = entry.draft.decision.as_ref();
    decision.is_some_and(|decision| !decision.allowed) || entry.draft.changes.iter().any(refused)
}

/// An ArcSight common event: `CEF:0|vendor|product|version|class|name|severity|extensions`.
fn cef(entry: &Entry) -> String {
    let kind = kind(entry);
    let severity = match kind.severity {
        1 => 2,
        2 => 4,
        3 => 6,
        _ => 9,
    };
    let draft = &entry.draft;
    let mut fields = vec![
        ("rt", draft.at.0.to_string()),
        ("externalId", entry.revision.to_string()),
        ("suid", draft.actor.to_string()),
        (
            "outcome",
            if denied(entry) { "failure" } else { "success" }.to_owned(),
        ),
        ("msg", audit::what(entry)),
    ];
    for change in &draft.changes {
        if let Change::GrantOffered(grant) = change {
            fields.push(("duser", grant.user.to_string()));
            fields.push(("deviceExternalId", grant.device.to_string()));
            fields.push(("destinationServiceName", grant.app.to_string()));
        }
        if let Change::Refused(record) = change {
            fields.push(("reason", record.code.to_string()));
        }
    }
    let fields: Vec<String> = fields
        .into_iter()
        .map(|(name, value)| format!("{name}={}", extension(&value)))
        .collect();
    format!(
        "CEF:0|Cardea|Cardea|{}|{}|{}|{severity}|{}",
        header(PROGRAM_VERSION),
        header(&kind.class.to_string()),
        header(kind.name),
        fields.join(" ")
    )
}

/// A field of the header: a bar would end it.
fn header(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|")
}

/// The value of an extension: an equals sign would begin the next.
fn extension(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('=', "\\=")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use cardea_proto::{
        codec::Bytes,
        ledger::{Draft, RefusedRecord, Revision},
        refusal::RefusalCode,
        time::UnixMillis,
    };

    use super::*;

    fn refused(subject: &str) -> Entry {
        Entry {
            revision: Revision(7),
            previous: Bytes([1; 32]),
            draft: Draft {
                at: UnixMillis(1_800_000_000_000),
                actor: Actor::Stranger("192.0.2.1:7".to_owned()),
                changes: vec![Change::Refused(RefusedRecord {
                    attempt: "enroll".to_owned(),
                    code: RefusalCode::InviteUsed,
                    subject: subject.to_owned(),
                })],
                decision: None,
                signed: None,
            },
        }
    }

    #[test]
    fn nothing_in_an_entry_can_end_a_field_of_cef() {
        let line = line(&refused("a=b|c\\d\ne"), ExportFormat::Cef).unwrap();
        assert!(line.starts_with("CEF:0|Cardea|Cardea|"), "{line}");
        assert_eq!(line.lines().count(), 1);
        assert!(line.contains("a\\=b|c\\\\d\\ne"), "{line}");
        assert!(line.contains(" outcome=failure "), "{line}");
        assert!(line.contains(" reason=invite_used"), "{line}");
    }

    #[test]
    fn an_ocsf_event_has_what_the_schema_requires() {
        let line = line(&refused("x"), ExportFormat::Ocsf).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        for field in [
            "metadata",
            "category_uid",
            "class_uid",
            "activity_id",
            "type_uid",
            "time",
            "severity_id",
        ] {
            assert!(!event[field].is_null(), "{field}");
        }
        assert_eq!(event["type_uid"], 300_201);
        assert_eq!(event["status_id"], 2);
        assert_eq!(event["metadata"]["version"], OCSF_VERSION);
    }

    #[test]
    fn json_is_the_entry_itself() {
        let entry = refused("x");
        let line = line(&entry, ExportFormat::Json).unwrap();
        let read: Entry = serde_json::from_str(&line).unwrap();
        assert_eq!(read, entry);
    }
}
