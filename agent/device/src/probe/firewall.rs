//! Whether something stands before this machine's ports: the live rules where we may see them, else
//! what the firewall's own configuration says.

use cardea_proto::posture::{Grade, Value};

use super::{Observed, Probe, Subject, ini_values};
use crate::system::{Missing, System};

use rules::{Family, Ruleset};

mod rules;

pub(super) const PROBE: Probe = Probe {
    name: "firewall",
    facts: &["firewall.enabled"],
    read,
};

const NFT: &[&str] = &["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];

fn read(subject: &Subject) -> Vec<Observed> {
    let system = &subject.system;
    let (enabled, grade) = match live(system) {
        // Without the right to look, or without a tool, what was configured is the best that there is:
        // a file says what was meant, whoever reads it.
        Err(missing @ (Missing::Denied | Missing::Absent)) if configured(system) => {
            tracing::trace!(?missing, "the firewall's live rules cannot be read");
            (Ok(true), Grade::Own)
        }
        live => (live, Grade::Os),
    };
    vec![Observed::of("firewall.enabled", enabled.map(Value::Bool)).at_most(grade)]
}

/// Whether the rules in the kernel close the input of every address family in use.
fn live(system: &System) -> Result<bool, Missing> {
    let mut ruleset = Ruleset::default();
    let nft = system.tool(NFT);
    if let Some(tool) = nft {
        // Terse and stateless: no elements of sets, no counters.
        ruleset.add_nft(&system.run(tool, &["-s", "-t", "list", "ruleset"])?);
    }
    let mut asked = nft.is_some();
    for (family, names, tools) in [
        (
            Family::V4,
            "/proc/net/ip_tables_names",
            [
                "/usr/sbin/iptables-legacy",
                "/usr/sbin/iptables",
                "/sbin/iptables",
            ],
        ),
        (
            Family::V6,
            "/proc/net/ip6_tables_names",
            [
                "/usr/sbin/ip6tables-legacy",
                "/usr/sbin/ip6tables",
                "/sbin/ip6tables",
            ],
        ),
    ] {
        let legacy = system
            .text(names)
            .is_ok_and(|tables| tables.lines().any(|table| table == "filter"));
        if (legacy || nft.is_none())
            && let Some(tool) = system.tool(&tools)
        {
            ruleset.add_iptables(family, &system.run(tool, &["-S"])?);
            asked = true;
        }
    }
    if !asked {
        return Err(Missing::Absent);
    }
    Ok(ruleset.closes(Family::V4) && (ruleset.closes(Family::V6) || !speaks_ipv6(system)?))
}

/// Whether any interface but the loopback has an IPv6 address.
fn speaks_ipv6(system: &System) -> Result<bool, Missing> {
    let interfaces = match system.text("/proc/net/if_inet6") {
        // A kernel without IPv6 has no such file.
        Err(Missing::Absent) => return Ok(false),
        other => other?,
    };
    Ok(interfaces
        .lines()
        .any(|line| line.split_whitespace().next_back() != Some("lo")))
}

/// Whether ufw is switched on or firewalld runs.
fn configured(system: &System) -> bool {
    let ufw = system.text("/etc/ufw/ufw.conf").is_ok_and(|text| {
        ini_values(&text, str::is_empty)
            .iter()
            .rfind(|(key, _)| *key == "ENABLED")
            .is_some_and(|(_, value)| value.trim_matches('"').eq_ignore_ascii_case("yes"))
    });
    ufw || firewalld_runs(system)
}

/// Its pid file is root's; the process must be alive and be firewalld.
fn firewalld_runs(system: &System) -> bool {
    ["/run/firewalld.pid", "/var/run/firewalld.pid"]
        .iter()
        .filter_map(|path| system.text(path).ok())
        .filter_map(|text| text.trim().parse::<u32>().ok())
        .filter_map(|pid| system.bytes(format!("/proc/{pid}/cmdline")).ok())
        .any(|arguments| {
            arguments
                .split(|byte| *byte == 0)
                .any(|argument| argument.ends_with(b"/firewalld"))
        })
}

#[cfg(test)]
mod tests;
