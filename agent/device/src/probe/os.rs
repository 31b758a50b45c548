//! What runs here: system, version, kernel, our own version, uptime, and whether it is a machine at all.

use cardea_proto::{PROGRAM_VERSION, posture::Value};

use super::{Observed, Probe, Subject};
use crate::system::{Missing, System};

pub(super) const PROBE: Probe = Probe {
    name: "os",
    facts: &[
        "os.name",
        "os.version",
        "os.build",
        "agent.version",
        "uptime_s",
        "virtual.machine",
    ],
    read,
};

fn read(subject: &Subject) -> Vec<Observed> {
    let system = &subject.system;
    let release = release(system);
    vec![
        Observed::of("os.name", field(&release, "ID", Some("linux"))),
        Observed::of("os.version", field(&release, "VERSION_ID", None)),
        Observed::of("os.build", build(system).map(Value::Text)),
        Observed::of("agent.version", Ok(Value::Text(PROGRAM_VERSION.to_owned()))),
        Observed::of("uptime_s", uptime(system)),
        Observed::of("virtual.machine", virtual_machine(system)),
    ]
}

/// The running kernel's release.
pub(super) fn build(system: &System) -> Result<String, Missing> {
    Ok(system.text("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// Source: os-release(5): the file in `/etc` first.
fn release(system: &System) -> Result<String, Missing> {
    system
        .text("/etc/os-release")
        .or_else(|_| system.text("/usr/lib/os-release"))
}

fn field(
    release: &Result<String, Missing>,
    name: &str,
    default: Option<&str>,
) -> Result<Value, Missing> {
    let text = release.as_ref().map_err(Clone::clone)?;
    text.lines()
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| unquoted(value))
        .next_back()
        .filter(|value| !value.is_empty())
        .or_else(|| default.map(str::to_owned))
        .map(Value::Text)
        .ok_or(Missing::Absent)
}

/// A shell-style value without its quotes and escapes.
fn unquoted(value: &str) -> String {
    let inner = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(value);
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        text.extend(if c == '\\' {
            characters.next()
        } else {
            Some(c)
        });
    }
    text
}

fn uptime(system: &System) -> Result<Value, Missing> {
    let text = system.text("/proc/uptime")?;
    let whole = text.split(['.', ' ']).next().unwrap_or_default();
    whole
        .parse()
        .map(Value::Integer)
        .map_err(|_| Missing::Error("/proc/uptime does not begin with a number".to_owned()))
}

/// Firmware strings of virtual machines, lower case.
const VIRTUAL: &[&str] = &[
    "qemu",
    "kvm",
    "vmware",
    "virtualbox",
    "innotek",
    "xen",
    "bochs",
    "bhyve",
    "parallels",
    "openstack",
    "amazon ec2",
    "google compute engine",
    "virtual machine",
    "apple virtualization",
    "firecracker",
    "cloud hypervisor",
];

/// Whether a hypervisor is below: it says so itself, or the firmware names one.
fn virtual_machine(system: &System) -> Result<Value, Missing> {
    let processor = system.text("/proc/cpuinfo");
    let flagged = processor.as_ref().is_ok_and(|text| {
        text.lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
    });
    let hypervisor = [
        "/sys/hypervisor/type",
        "/proc/device-tree/hypervisor/compatible",
    ]
    .iter()
    .any(|path| system.exists(path));
    let named = ["sys_vendor", "product_name", "board_vendor", "bios_vendor"]
        .iter()
        .filter_map(|name| system.text(format!("/sys/class/dmi/id/{name}")).ok())
        .any(|text| {
            let text = text.to_lowercase();
            VIRTUAL.iter().any(|name| text.contains(name))
        });
    match processor {
        // Xen's privileged domain is the machine's own system.
        _ if system
            .text("/proc/xen/capabilities")
            .is_ok_and(|text| text.contains("control_d")) =>
        {
            Ok(Value::Bool(false))
        }
        _ if flagged || hypervisor || named => Ok(Value::Bool(true)),
        Ok(_) => Ok(Value::Bool(false)),
        Err(missing) => Err(missing),
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::posture::Reading;

    use super::*;
    use crate::probe::testing::{Tree, found};

    #[test]
    fn the_system_is_named_as_its_release_file_names_it() {
        let tree = Tree::new()
            .file(
                "/usr/lib/os-release",
                "NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"12\"\n",
            )
            .link("/etc/os-release", "../usr/lib/os-release")
            .file("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")
            .file("/proc/uptime", "350735.47 234388.90\n")
            .file("/proc/cpuinfo", "flags\t\t: fpu vme\n");
        let facts = found(&PROBE, &tree);
        assert_eq!(
            facts["os.name"],
            Reading::Value(Value::Text("debian".to_owned()))
        );
        assert_eq!(
            facts["os.version"],
            Reading::Value(Value::Text("12".to_owned()))
        );
        assert_eq!(
            facts["os.build"],
            Reading::Value(Value::Text("6.1.0-18-amd64".to_owned()))
        );
        assert_eq!(facts["uptime_s"], Reading::Value(Value::Integer(350_735)));
        assert_eq!(facts["virtual.machine"], Reading::Value(Value::Bool(false)));
        assert_eq!(
            facts["agent.version"],
            Reading::Value(Value::Text(PROGRAM_VERSION.to_owned()))
        );
    }

    #[test]
    fn a_rolling_release_has_no_version_and_an_unnamed_system_is_linux() {
        let tree = Tree::new().file("/etc/os-release", "PRETTY_NAME='x'\n");
        let facts = found(&PROBE, &tree);
        assert_eq!(
            facts["os.name"],
            Reading::Value(Value::Text("linux".to_owned()))
        );
        assert_eq!(facts["os.version"], Reading::Absent);
        assert_eq!(facts["uptime_s"], Reading::Absent);
        assert_eq!(found(&PROBE, &Tree::new())["os.name"], Reading::Absent);
    }

    #[test]
    fn a_hypervisor_is_noticed_by_flag_and_by_firmware() {
        let flag = Tree::new().file("/proc/cpuinfo", "flags : fpu hypervisor\n");
        assert_eq!(
            found(&PROBE, &flag)["virtual.machine"],
            Reading::Value(Value::Bool(true))
        );
        let firmware = Tree::new()
            .file("/proc/cpuinfo", "flags : fpu\n")
            .file("/sys/class/dmi/id/sys_vendor", "QEMU\n");
        assert_eq!(
            found(&PROBE, &firmware)["virtual.machine"],
            Reading::Value(Value::Bool(true))
        );
    }

    #[test]
    fn values_lose_their_quotes_and_nothing_else() {
        assert_eq!(unquoted("\"a \\\"b\\\"\""), "a \"b\"");
        assert_eq!(unquoted("'it'"), "it");
        assert_eq!(unquoted("\"half"), "\"half");
        assert_eq!(unquoted(""), "");
    }
}
