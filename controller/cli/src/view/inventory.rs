//! Codes, sites, nodes, people, applications, grants and tunnels.

use cardea_proto::{
    admin::{
        AdminAnswer, AdminQuery, AppRow, ConnectorRow, DeviceRow, GrantRow, InviteRow, SiteRow,
        TunnelRow, UserRow,
    },
    posture::{Fact, Reading},
};

use super::{Row, joined, lines, or_none, yes_no};

/// The part of every implementation that is the same but for its names.
macro_rules! rows_of {
    ($kind:literal, $variant:ident) => {
        const KIND: &'static str = $kind;
        const QUERY: AdminQuery = AdminQuery::$variant;

        fn of(answer: AdminAnswer) -> Option<Vec<Self>> {
            let AdminAnswer::$variant(rows) = answer else {
                return None;
            };
            Some(rows)
        }

        fn id(&self) -> String {
            self.id.to_string()
        }

        fn name(&self) -> String {
            self.name.to_string()
        }
    };
}

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
            ("Checked", or_none(self.checked_at.as_ref())),
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

/// The verdict, and what failed.
fn posture(device: &DeviceRow, separator: &str) -> String {
    match device.compliant {
        None => String::new(),
        Some(true) => "passes".to_owned(),
        Some(false) if separator == "\n" => {
            let failed = lines(&device.failed);
            format!("fails\n{failed}").trim_end().to_owned()
        }
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

impl Row for AppRow {
    const KIND: &'static str = "app";
    const QUERY: AdminQuery = AdminQuery::Apps;
    const HEADING: &'static [&'static str] = &[
        "NAME",
        "SITE",
        "TARGETS",
        "TRANSPORT",
        "ALLOWED",
        "TUNNELS",
        "CONNECTORS",
    ];

    fn of(answer: AdminAnswer) -> Option<Vec<Self>> {
        let AdminAnswer::Apps(rows) = answer else {
            return None;
        };
        Some(rows)
    }

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn name(&self) -> String {
        self.spec.name.to_string()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.spec.name.to_string(),
            self.spec.site.to_string(),
            joined(&self.spec.targets),
            self.spec.transport.as_str().to_owned(),
            joined(&self.allow),
            self.grants.to_string(),
            self.connectors_online.to_string(),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let labels = self
            .spec
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        vec![
            ("Name", self.spec.name.to_string()),
            ("Site", self.spec.site.to_string()),
            ("Targets", lines(&self.spec.targets)),
            ("DNS names", lines(&self.spec.names)),
            ("Transport", self.spec.transport.as_str().to_owned()),
            ("Labels", lines(labels)),
            ("Host-scoped", yes_no(self.spec.host_scoped)),
            ("Allowed", lines(&self.allow)),
            ("Tunnels", self.grants.to_string()),
            ("Connectors", self.connectors_online.to_string()),
        ]
    }
}

impl Row for GrantRow {
    rows_of!("grant", Grants);

    const HEADING: &'static [&'static str] = &[
        "ID",
        "APP",
        "USER",
        "DEVICE",
        "CONNECTOR",
        "CARRIER",
        "STATE",
        "SINCE",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.app.to_string(),
            self.user.to_string(),
            self.device.to_string(),
            self.connector.to_string(),
            self.carrier.as_str().to_owned(),
            self.state.clone(),
            self.since.clone(),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Id", self.id.to_string()),
            ("Name", self.name.clone()),
            ("App", self.app.to_string()),
            ("User", self.user.to_string()),
            ("Device", self.device.to_string()),
            ("Connector", self.connector.to_string()),
            ("Carrier", self.carrier.as_str().to_owned()),
            ("State", self.state.clone()),
            ("Since", self.since.clone()),
            ("Lives without extension", format!("{} s", self.ttl_s)),
            ("Granted at revision", self.revision.to_string()),
            ("By rules", lines(&self.rules)),
        ]
    }
}

impl Row for TunnelRow {
    rows_of!("tunnel", Tunnels);

    const HEADING: &'static [&'static str] = &[
        "ID",
        "APP",
        "USER",
        "DEVICE",
        "CARRIER",
        "PATH",
        "FLOWS",
        "TO DEVICE",
        "TO APP",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.app.to_string(),
            self.user.to_string(),
            self.device.to_string(),
            self.carrier.as_str().to_owned(),
            self.path.clone(),
            self.flows.to_string(),
            bytes(self.bytes_in),
            bytes(self.bytes_out),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Grant", self.id.to_string()),
            ("Name", self.name.clone()),
            ("Device", self.device.to_string()),
            ("Carrier", self.carrier.as_str().to_owned()),
            ("Path", self.path.clone()),
            ("Flows", self.flows.to_string()),
            ("To device", bytes(self.bytes_in)),
            ("To app", bytes(self.bytes_out)),
        ]
    }
}

/// With a unit of 1,024 and one decimal.
fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut tenths = u128::from(count) * 10 / 1_024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths /= 1_024;
        unit += 1;
    }
    let unit = units.get(unit).copied().unwrap_or_default();
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_have_the_largest_unit_that_fits() {
        for (count, shown) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            (10 * 1_024 * 1_024, "10.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(super::bytes(count), shown);
        }
    }
}
