//! Whether somebody is logged in without a password when the machine starts.

use super::ini_values;
use crate::system::{Missing, System};

/// True when any display manager or console logs a user in by itself.
pub(super) fn enabled(system: &System) -> Result<bool, Missing> {
    Ok(gdm(system)? || sddm(system)? || lightdm(system)? || greetd(system)? || console(system)?)
}

/// Source: GDM reference manual, `daemon` section: a timed login needs no password either.
fn gdm(system: &System) -> Result<bool, Missing> {
    for path in [
        "/etc/gdm3/custom.conf",
        "/etc/gdm3/daemon.conf",
        "/etc/gdm/custom.conf",
    ] {
        let text = optional(system, path)?;
        let values = ini_values(&text, |section| section == "daemon");
        let is_on = |wanted: &str| {
            values
                .iter()
                .rfind(|(key, _)| key.eq_ignore_ascii_case(wanted))
                .is_some_and(|(_, value)| value.eq_ignore_ascii_case("true") || *value == "1")
        };
        if is_on("AutomaticLoginEnable") || is_on("TimedLoginEnable") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Source: sddm.conf(5): later files win, an empty user switches it off.
fn sddm(system: &System) -> Result<bool, Missing> {
    let mut paths = directory(system, "/usr/lib/sddm/sddm.conf.d")?;
    paths.extend(directory(system, "/etc/sddm.conf.d")?);
    paths.push("/etc/sddm.conf".to_owned());
    last_is_set(system, &paths, |section| section == "Autologin", "User")
}

/// Source: LightDM's `lightdm.conf` example: `autologin-user` of any seat.
fn lightdm(system: &System) -> Result<bool, Missing> {
    let mut paths = directory(system, "/usr/share/lightdm/lightdm.conf.d")?;
    paths.extend(directory(system, "/etc/lightdm/lightdm.conf.d")?);
    paths.push("/etc/lightdm/lightdm.conf".to_owned());
    let seat = |section: &str| section.starts_with("Seat:") || section == "SeatDefaults";
    last_is_set(system, &paths, seat, "autologin-user")
}

/// Source: greetd(5): an initial session starts without a greeter.
fn greetd(system: &System) -> Result<bool, Missing> {
    let text = optional(system, "/etc/greetd/config.toml")?;
    Ok(!ini_values(&text, |section| section == "initial_session").is_empty())
}

/// Drop-ins that give `agetty` a user.
fn console(system: &System) -> Result<bool, Missing> {
    let units = "/etc/systemd/system";
    let names = match system.entries(units) {
        Err(Missing::Absent) => return Ok(false),
        other => other?,
    };
    let gettys = names.iter().filter(|name| {
        ["getty@", "serial-getty@", "autovt@", "console-getty"]
            .iter()
            .any(|start| name.starts_with(start))
    });
    for name in gettys {
        let at = format!("{units}/{name}");
        let paths = if name.ends_with(".d") {
            directory(system, &at)?
        } else {
            vec![at]
        };
        for path in paths {
            let text = optional(system, &path)?;
            let starts = ini_values(&text, |section| section == "Service");
            let logs_in = starts.iter().any(|(key, value)| {
                *key == "ExecStart"
                    && value
                        .split_whitespace()
                        .any(|word| word == "-a" || word.starts_with("--autologin"))
            });
            if logs_in {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether the last of these files that has the key gives it a value.
fn last_is_set(
    system: &System,
    paths: &[String],
    section: impl Fn(&str) -> bool,
    key: &str,
) -> Result<bool, Missing> {
    let mut set = false;
    for path in paths {
        let text = optional(system, path)?;
        let values = ini_values(&text, &section);
        if let Some((_, value)) = values.iter().rfind(|(name, _)| *name == key) {
            set = !value.is_empty();
        }
    }
    Ok(set)
}

/// The `.conf` files of a directory that need not exist, in order.
fn directory(system: &System, dir: &str) -> Result<Vec<String>, Missing> {
    match system.entries(dir) {
        Ok(names) => Ok(names
            .iter()
            .filter(|name| name.ends_with(".conf"))
            .map(|name| format!("{dir}/{name}"))
            .collect()),
        Err(Missing::Absent) => Ok(Vec::new()),
        Err(missing) => Err(missing),
    }
}

/// The text of a file that need not exist. One that may not be read may say anything.
fn optional(system: &System, path: &str) -> Result<String, Missing> {
    match system.text(path) {
        Err(Missing::Absent) => Ok(String::new()),
        other => other,
    }
}
