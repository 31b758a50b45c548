//! How this machine starts, and whether it has a security chip.

use cardea_proto::posture::Value;

use super::{Observed, Probe, Subject};
use crate::system::{Missing, System};

pub(super) const PROBE: Probe = Probe {
    name: "boot",
    facts: &["secure.boot", "tpm.present", "tpm.version"],
    read,
};

/// The vendor of the variables that the firmware itself keeps.
///
/// Source: UEFI specification 2.10 §3.3, `EFI_GLOBAL_VARIABLE`.
const GLOBAL_VARIABLE: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

fn read(subject: &Subject) -> Vec<Observed> {
    let tpm = tpm_version(&subject.system);
    vec![
        Observed::of("secure.boot", secure_boot(&subject.system)),
        Observed::of(
            "tpm.present",
            match &tpm {
                Ok(_) => Ok(Value::Bool(true)),
                Err(Missing::Absent) => Ok(Value::Bool(false)),
                Err(missing) => Err(missing.clone()),
            },
        ),
        Observed::of("tpm.version", tpm.map(Value::Text)),
    ]
}

/// On when the firmware enforces signatures and is not in setup mode, in which anybody may enroll keys.
fn secure_boot(system: &System) -> Result<Value, Missing> {
    if !system.exists("/sys/firmware/efi") {
        return Err(Missing::Absent);
    }
    let enforced = variable(system, "SecureBoot")?;
    let setup = match variable(system, "SetupMode") {
        Err(Missing::Absent) => 0,
        other => other?,
    };
    Ok(Value::Bool(enforced == 1 && setup == 0))
}

/// A variable of one byte, behind its four bytes of attributes.
fn variable(system: &System, name: &str) -> Result<u8, Missing> {
    let bytes = system.bytes(format!(
        "/sys/firmware/efi/efivars/{name}-{GLOBAL_VARIABLE}"
    ))?;
    match bytes.as_slice() {
        [_, _, _, _, value] => Ok(*value),
        _ => Err(Missing::Error(format!("{name} has {} bytes", bytes.len()))),
    }
}

fn tpm_version(system: &System) -> Result<String, Missing> {
    match system.text("/sys/class/tpm/tpm0/tpm_version_major") {
        Ok(text) => Ok(text.trim().to_owned()),
        // Kernels before 5.6 do not tell the version; only TPM 2.0 has a resource manager.
        Err(Missing::Absent) if system.exists("/sys/class/tpmrm/tpmrm0") => Ok("2".to_owned()),
        Err(Missing::Absent) if system.exists("/sys/class/tpm/tpm0") => Ok("1".to_owned()),
        Err(missing) => Err(missing),
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::posture::Reading;

    use super::*;
    use crate::probe::testing::{Tree, found};

    #[test]
    fn secure_boot_is_on_when_enforced_and_out_of_setup_mode() {
        check(
            Some([6, 0, 0, 0, 1].as_slice()),
            Some(0),
            Reading::Value(Value::Bool(true)),
        );
        check(
            Some([6, 0, 0, 0, 1].as_slice()),
            None,
            Reading::Value(Value::Bool(true)),
        );
        check(
            Some([6, 0, 0, 0, 1].as_slice()),
            Some(1),
            Reading::Value(Value::Bool(false)),
        );
        check(
            Some([6, 0, 0, 0, 0].as_slice()),
            Some(0),
            Reading::Value(Value::Bool(false)),
        );
        check(None, None, Reading::Absent);
    }

    #[test]
    fn a_variable_of_another_length_is_an_error() {
        let error = Reading::Error("SecureBoot has 4 bytes".to_owned());
        check(Some([6, 0, 0, 0].as_slice()), Some(0), error);
    }

    #[test]
    fn a_machine_that_does_not_boot_by_efi_has_no_secure_boot() {
        assert_eq!(found(&PROBE, &Tree::new())["secure.boot"], Reading::Absent);
    }

    #[test]
    fn a_tpm_is_found_with_its_version() {
        let tree = Tree::new().file("/sys/class/tpm/tpm0/tpm_version_major", "2\n");
        let facts = found(&PROBE, &tree);
        assert_eq!(facts["tpm.present"], Reading::Value(Value::Bool(true)));
        assert_eq!(
            facts["tpm.version"],
            Reading::Value(Value::Text("2".to_owned()))
        );
        let facts = found(&PROBE, &Tree::new());
        assert_eq!(facts["tpm.present"], Reading::Value(Value::Bool(false)));
        assert_eq!(facts["tpm.version"], Reading::Absent);
    }

    fn check(secure: Option<&[u8]>, setup: Option<u8>, expected: Reading) {
        let dir = "/sys/firmware/efi/efivars";
        let mut tree = Tree::new().dir(dir);
        if let Some(bytes) = secure {
            tree = tree.file(&format!("{dir}/SecureBoot-{GLOBAL_VARIABLE}"), bytes);
        }
        if let Some(mode) = setup {
            tree = tree.file(
                &format!("{dir}/SetupMode-{GLOBAL_VARIABLE}"),
                [6, 0, 0, 0, mode],
            );
        }
        assert_eq!(found(&PROBE, &tree)["secure.boot"], expected);
    }
}
