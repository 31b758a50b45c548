//! Codes, sites, nodes and people.

use cardea_proto::{
    admin::{AdminAnswer, AdminQuery, ConnectorRow, DeviceRow, InviteRow, SiteRow, UserRow},
    posture::{Fact, Reading},
};

use super::{Row, joined, lines, or_none, rows_of};

impl Row for InviteRow {
    rows_of!("invite", Invites);

    const HEADING: &'static [&'static str] =
        &["ID", "ADMITS", "FOR", "STATE", "EXPIRES", "USED BY"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.role.to_string(),
            self.name.to_string(),
            self.state.clone(),
            self.expires_at.clone(),
            or_none(self.used_by.as_ref()),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Id", self.id.to_string()),
            ("Admits", self.role.to_string()),
            ("For", self.name.to_string()),
            ("State", self.state.clone()),
            ("Expires", self.expires_at.clone()),
            ("Used by", or_none(self.used_by.as_ref())),
        ]
    }
}

impl Row for SiteRow {
    rows_of!("site", Sites);

    const HEADING: &'static [&'static str] = &["NAME", "APPS", "CONNECTORS", "CONNECTED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.to_string(),
            self.apps.to_string(),
            self.connectors.to_string(),
            self.connectors_online.to_string(),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Name", self.name.to_string()),
            ("Apps", self.apps.to_string()),
            ("Connectors", self.connectors.to_string()),
            ("Connected", self.connectors_online.to_string()),
        ]
    }
}

impl Row for ConnectorRow {
    rows_of!("connector", Connectors);

    const HEADING: &'static [&'static str] = &[
        "NAME",
        "ID",
        "SITE",
        "STATE",
        "TUNNELS",
        "LAST SEEN",
        "CERTIFICATE UNTIL",
        "PROGRAM",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.to_string(),
            self.id.to_string(),
            self.site.to_string(),
            self.state.clone(),
            self.tunnels.to_string(),
            or_none(self.last_seen.as_ref()),
            or_none(self.certificate_not_after.as_ref()),
            or_none(self.program.as_ref()),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Name", self.name.to_string()),
            ("Id", self.id.to_string()),
            ("Site", self.site.to_string()),
            ("State", self.state.clone()),
            ("Tunnels", self.tunnels.to_string()),
            ("Last seen", or_none(self.last_seen.as_ref())),
            (
                "Certificate until",
                or_none(self.certificate_not_after.as_ref()),
            ),
            ("Program", or_none(self.program.as_ref())),
        ]
    }
}

impl Row for DeviceRow {
    rows_of!("device", Devices);

    const HEADING: &'static [&'static str] = &[
        "NAME",
        "ID",
        "USER",
        "STATE",
        "POSTURE",
        "CHECKED",
        "LAST SEEN",
        "CERTIFICATE UNTIL",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.to_string(),
            self.id.to_string(),
            self.user.to_string(),
            self.state.clone(),
            posture(self, ", "),
            checked(self),
            or_none(self.last_seen.as_ref()),
            or_none(self.certificate_not_after.as_ref()),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Name", self.name.to_string()),
            ("Id", self.id.to_string()),
            ("User", self.user.to_string()),
            ("System", self.os.clone()),
            ("State", self.state.clone()),
            ("Posture", posture(self, "\n")),
            ("Checked", checked(self)),
            ("Last seen", or_none(self.last_seen.as_ref())),
            (
                "Certificate until",
                or_none(self.certificate_not_after.as_ref()),
            ),
            ("Program", or_none(self.program.as_ref())),
            (
                "Facts",
                lines(self.facts.iter().map(|(name, fact)| self::fact(name, fact))),
            ),
        ]
    }
}

/// When the verdict was true last: the controller keeps verdicts across a restart, and not their time.
fn checked(device: &DeviceRow) -> String {
    match (&device.checked_at, device.compliant) {
        (Some(at), _) => at.clone(),
        (None, Some(_)) => "before the controller started".to_owned(),
        (None, None) => String::new(),
    }
}

/// The verdict, and what failed.
fn posture(device: &DeviceRow, separator: &str) -> String {
    match device.compliant {
        None => String::new(),
        Some(true) => "passes".to_owned(),
        Some(false) if device.failed.is_empty() => device
            .why
            .as_ref()
            .map_or_else(|| "fails".to_owned(), |why| format!("fails: {why}")),
        Some(false) if separator == "\n" => format!("fails\n{}", lines(&device.failed)),
        Some(false) => {
            let failed: Vec<&str> = device
                .failed
                .iter()
                .map(|check| check.subject.as_str())
                .collect();
            format!("fails: {}", failed.join(separator))
        }
    }
}

fn fact(name: &str, fact: &Fact) -> String {
    let reading = match &fact.reading {
        Reading::Value(value) => value.to_string(),
        Reading::Absent => "absent".to_owned(),
        Reading::Unsupported => "unsupported".to_owned(),
        Reading::Denied => "denied".to_owned(),
        Reading::Error(why) => format!("error: {why}"),
    };
    let age = fact.age_ms / 1_000;
    format!(
        "{name} = {reading} ({}, {age} s old when reported)",
        fact.grade
    )
}

impl Row for UserRow {
    rows_of!("user", Users);

    const HEADING: &'static [&'static str] = &["NAME", "GROUPS", "DEVICES"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.to_string(),
            joined(&self.groups),
            joined(&self.devices),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Name", self.name.to_string()),
            ("Groups", lines(&self.groups)),
            ("Devices", lines(&self.devices)),
        ]
    }
}
