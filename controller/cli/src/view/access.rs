//! Applications, and who reaches them: grants and tunnels.

use cardea_proto::admin::{AdminAnswer, AdminQuery, AppRow, GrantRow, TunnelRow};

use super::{Row, joined, lines, or_none, rows_of, yes_no};

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
        "TOLD",
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
            or_none(self.told_at.as_ref()),
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
            ("Told", or_none(self.told_at.as_ref())),
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
