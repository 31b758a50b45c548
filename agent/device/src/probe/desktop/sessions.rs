//! Who sits before a screen of this machine, and which desktop is on it.

use std::path::PathBuf;

use crate::system::{Missing, System};

/// A graphical session of a person.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The user's number.
    pub(super) user: u32,
    /// The number of their first group.
    pub(super) group: u32,
    /// Where their settings are.
    pub(super) home: PathBuf,
    name: String,
}

/// How a desktop's locker is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Desktop {
    /// By three keys: whether it locks, how long after the screen went dark, and when that is.
    Gsettings {
        lock: (&'static str, &'static str),
        delay: (&'static str, &'static str),
        idle: (&'static str, &'static str),
        /// What it counts time in, in seconds.
        unit_s: i64,
    },
    /// By a file.
    Plasma,
    /// Not at all.
    Other,
}

const GNOME: Desktop = Desktop::Gsettings {
    lock: ("org.gnome.desktop.screensaver", "lock-enabled"),
    delay: ("org.gnome.desktop.screensaver", "lock-delay"),
    idle: ("org.gnome.desktop.session", "idle-delay"),
    unit_s: 1,
};

const CINNAMON: Desktop = Desktop::Gsettings {
    lock: ("org.cinnamon.desktop.screensaver", "lock-enabled"),
    delay: ("org.cinnamon.desktop.screensaver", "lock-delay"),
    idle: ("org.cinnamon.desktop.session", "idle-delay"),
    unit_s: 1,
};

/// Source: MATE's `org.mate.session.gschema.xml` and `org.mate.screensaver.gschema.xml`: minutes.
const MATE: Desktop = Desktop::Gsettings {
    lock: ("org.mate.screensaver", "lock-enabled"),
    delay: ("org.mate.screensaver", "lock-delay"),
    idle: ("org.mate.session", "idle-delay"),
    unit_s: 60,
};

/// The graphical sessions that logind knows; none where there is no logind.
///
/// Source: systemd, `src/login/logind-session.c`: what `sd_session_get_*` read.
pub(super) fn graphical(system: &System) -> Result<Vec<Session>, Missing> {
    let dir = "/run/systemd/sessions";
    let names = match system.entries(dir) {
        Err(Missing::Absent) => return Ok(Vec::new()),
        other => other?,
    };
    let mut sessions = Vec::new();
    for name in names.iter().filter(|name| !name.ends_with(".ref")) {
        // One that ends meanwhile is none.
        let Ok(text) = system.text(format!("{dir}/{name}")) else {
            continue;
        };
        let field = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        };
        let is_graphical = matches!(field("TYPE"), Some("x11" | "wayland" | "mir"));
        if is_graphical && field("CLASS") == Some("user") && field("STATE") != Some("closing") {
            let user = field("UID")
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| Missing::Error("a session has no user".to_owned()))?;
            let (group, home) = account(system, user)?;
            sessions.push(Session {
                user,
                group,
                home,
                name: field("DESKTOP").unwrap_or_default().to_lowercase(),
            });
        }
    }
    Ok(sessions)
}

/// First group and home of a user, from the local file or wherever else accounts come from.
fn account(system: &System, user: u32) -> Result<(u32, PathBuf), Missing> {
    let find = |text: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.split(':').skip(2);
            let number: u32 = fields.next()?.parse().ok()?;
            let group = fields.next()?.parse().ok()?;
            let home = fields.nth(1)?;
            (number == user && home.starts_with('/')).then(|| (group, PathBuf::from(home)))
        })
    };
    if let Some(found) = find(&system.text("/etc/passwd")?) {
        return Ok(found);
    }
    let tool = system.tool(&["/usr/bin/getent"]).ok_or(Missing::Absent)?;
    find(&system.run(tool, &["passwd", &user.to_string()])?)
        .ok_or_else(|| Missing::Error(format!("user {user} has no account")))
}

impl Session {
    pub(super) fn desktop(&self, system: &System) -> Desktop {
        let is = |names: &[&str]| names.iter().any(|name| self.name.contains(name));
        if is(&["plasma", "kde"]) {
            Desktop::Plasma
        } else if is(&["cinnamon"]) {
            CINNAMON
        } else if is(&["mate"]) {
            MATE
        } else if is(&["gnome", "ubuntu", "budgie", "pop", "unity"]) {
            GNOME
        } else if self.name.is_empty() && system.tool(&["/usr/bin/gnome-shell"]).is_some() {
            // Some display managers do not say what they start.
            GNOME
        } else {
            Desktop::Other
        }
    }
}
