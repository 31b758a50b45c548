//! Whether the screens of this machine lock themselves.

use cardea_proto::posture::{Grade, Value};

use super::{Observed, Probe, Subject, ini_values};
use crate::system::{Missing, System};

mod autologin;
mod sessions;

use sessions::{Desktop, Session};

pub(super) const PROBE: Probe = Probe {
    name: "desktop",
    facts: &["screen.lock", "screen.lock_delay_s", "autologin"],
    read,
};

const GSETTINGS: &str = "/usr/bin/gsettings";

/// How a screen locks.
#[derive(Debug, PartialEq, Eq)]
struct Lock {
    enabled: bool,
    /// From the last key to the lock.
    delay_s: i64,
}

fn read(subject: &Subject) -> Vec<Observed> {
    let system = &subject.system;
    let sessions = sessions::graphical(system);
    // People may change the settings of their own screen, so these are their word, whoever reads them.
    let grade = match &sessions {
        Ok(sessions) if !sessions.is_empty() => Grade::Own,
        Ok(_) | Err(_) => Grade::Os,
    };
    let lock = sessions.and_then(|sessions| screen_lock(system, &sessions));
    let (enabled, delay) = match lock {
        Ok(lock) => (
            Ok(Value::Bool(lock.enabled)),
            if lock.enabled {
                Ok(Value::Integer(lock.delay_s))
            } else {
                Err(Missing::Absent)
            },
        ),
        Err(missing) => (Err(missing.clone()), Err(missing)),
    };
    vec![
        Observed::of("screen.lock", enabled).at_most(grade),
        Observed::of("screen.lock_delay_s", delay).at_most(grade),
        Observed::of("autologin", autologin::enabled(system).map(Value::Bool)),
    ]
}

/// Homes of the people before this machine's screens.
pub(super) fn homes(system: &System) -> Vec<std::path::PathBuf> {
    sessions::graphical(system)
        .unwrap_or_default()
        .into_iter()
        .map(|session| session.home)
        .collect()
}

/// The weakest of all graphical sessions; absent where nobody has a screen.
fn screen_lock(system: &System, sessions: &[Session]) -> Result<Lock, Missing> {
    let mut weakest: Option<Lock> = None;
    for session in sessions {
        let lock = lock_of(system, session)?;
        weakest = Some(match weakest {
            None => lock,
            Some(other) => Lock {
                enabled: other.enabled && lock.enabled,
                delay_s: other.delay_s.max(lock.delay_s),
            },
        });
    }
    weakest.ok_or(Missing::Absent)
}

fn lock_of(system: &System, session: &Session) -> Result<Lock, Missing> {
    match session.desktop(system) {
        Desktop::Gsettings {
            lock,
            delay,
            idle,
            unit_s,
        } => {
            let ask = |(schema, key): (&str, &str)| {
                let said = gsettings(system, session, schema, key)?;
                parse(&said).ok_or_else(|| {
                    let said: String = said.chars().take(40).collect();
                    Missing::Error(format!("{schema} {key} is {said:?}"))
                })
            };
            let (lock, idle, delay) = (ask(lock)?, ask(idle)?, ask(delay)?);
            Ok(Lock {
                enabled: lock != 0 && idle > 0,
                delay_s: idle.saturating_add(delay).saturating_mul(unit_s),
            })
        }
        Desktop::Plasma => plasma(system, session),
        // A desktop whose locker we cannot ask: the controller decides what that is worth.
        Desktop::Other => Err(Missing::Absent),
    }
}

/// Source: `kscreenlockersettings.kcfg` of KDE Plasma: the defaults, minutes and seconds.
fn plasma(system: &System, session: &Session) -> Result<Lock, Missing> {
    let mut lock = Lock {
        enabled: true,
        delay_s: 5 * 60,
    };
    let mut grace_s = 5;
    let own = session.home.join(".config/kscreenlockerrc");
    for path in [std::path::Path::new("/etc/xdg/kscreenlockerrc"), &own] {
        let text = match system.text(path) {
            Err(Missing::Absent) => continue,
            other => other?,
        };
        for (key, value) in ini_values(&text, |section| section == "Daemon") {
            // `[$i]` marks what the user may not change.
            match (key.trim_end_matches("[$i]"), value.parse::<i64>()) {
                ("Autolock", _) => lock.enabled = value == "true",
                ("Timeout", Ok(minutes)) => lock.delay_s = minutes.saturating_mul(60),
                ("LockGrace", Ok(seconds)) => grace_s = seconds,
                _ => {}
            }
        }
    }
    lock.enabled = lock.enabled && lock.delay_s > 0;
    lock.delay_s = lock.delay_s.saturating_add(grace_s);
    Ok(lock)
}

/// The value in force, system-wide locks and defaults included, read as the session's user.
fn gsettings(
    system: &System,
    session: &Session,
    schema: &str,
    key: &str,
) -> Result<String, Missing> {
    let home = session.home.to_string_lossy().into_owned();
    let runtime = format!("/run/user/{}", session.user);
    let environment = [
        ("HOME", home.as_str()),
        ("XDG_RUNTIME_DIR", runtime.as_str()),
    ];
    let own = cardea_host::process::effective_user();
    let identity = match own {
        _ if own == session.user => None,
        0 => Some((session.user, session.group)),
        _ => return Err(Missing::Denied),
    };
    system.run_as(GSETTINGS, &["get", schema, key], &environment, identity)
}

/// `true`, `false`, or a number with or without its type: 1, 0, or that number.
fn parse(said: &str) -> Option<i64> {
    match said.trim() {
        "true" => Some(1),
        "false" => Some(0),
        number => number.split_whitespace().next_back()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests;
