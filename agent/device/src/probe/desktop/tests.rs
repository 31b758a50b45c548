//! Desktops as their files show them, and what must be said of each.

use cardea_proto::posture::Reading;

use super::*;
use crate::probe::testing::{Tree, best_grade, found};

#[test]
fn a_machine_without_a_screen_has_no_lock() {
    lock(Tree::new(), Reading::Absent, Reading::Absent);
    let greeter = session(Tree::new(), "gnome", "greeter");
    lock(greeter, Reading::Absent, Reading::Absent);
}

#[test]
fn gnome_is_asked_by_key() {
    let gnome = |lock: &str, idle: &str| {
        let script = format!(
            "#!/bin/sh\ncase $3 in\nlock-enabled) echo {lock};;\nidle-delay) echo {idle};;\n*) echo uint32 30;;\nesac\n"
        );
        executable(session(Tree::new(), "gnome", "user").file(GSETTINGS, script))
    };
    let on = Reading::Value(Value::Bool(true));
    let off = Reading::Value(Value::Bool(false));
    lock(
        gnome("true", "uint32 300"),
        on,
        Reading::Value(Value::Integer(330)),
    );
    lock(gnome("false", "uint32 300"), off.clone(), Reading::Absent);
    lock(gnome("true", "uint32 0"), off, Reading::Absent);
    let facts = found(&PROBE, &gnome("perhaps", "uint32 0"));
    assert!(matches!(facts["screen.lock"], Reading::Error(_)));
}

#[test]
fn a_delay_that_cannot_be_read_is_not_none() {
    let script = "#!/bin/sh\ncase $3 in\nlock-enabled) echo true;;\nidle-delay) echo 60;;\n*) exit 1;;\nesac\n";
    let tree = executable(session(Tree::new(), "gnome", "user").file(GSETTINGS, script));
    let facts = found(&PROBE, &tree);
    assert!(matches!(facts["screen.lock_delay_s"], Reading::Error(_)));
    assert!(matches!(facts["screen.lock"], Reading::Error(_)));
}

#[test]
fn mate_counts_minutes() {
    let script = "#!/bin/sh\ncase $3 in\nlock-enabled) echo true;;\nidle-delay) echo 5;;\n*) echo 2;;\nesac\n";
    let tree = executable(session(Tree::new(), "mate", "user").file(GSETTINGS, script));
    let on = Reading::Value(Value::Bool(true));
    lock(tree, on, Reading::Value(Value::Integer(420)));
}

#[test]
fn plasma_locks_unless_it_was_told_not_to() {
    let plasma = |text: &str| {
        session(Tree::new(), "KDE", "user").file("/home/a/.config/kscreenlockerrc", text)
    };
    let on = || Reading::Value(Value::Bool(true));
    let off = || Reading::Value(Value::Bool(false));
    let default = session(Tree::new(), "plasma", "user");
    lock(default, on(), Reading::Value(Value::Integer(305)));
    let ten = plasma("[Daemon]\nTimeout=10\nLockGrace=0\n");
    lock(ten, on(), Reading::Value(Value::Integer(600)));
    lock(plasma("[Daemon]\nAutolock=false\n"), off(), Reading::Absent);
    lock(plasma("[Daemon]\nTimeout=0\n"), off(), Reading::Absent);
    let enforced = plasma("").file("/etc/xdg/kscreenlockerrc", "[Daemon]\nAutolock[$i]=false\n");
    lock(enforced, off(), Reading::Absent);
}

#[test]
fn an_unknown_desktop_has_no_known_lock() {
    lock(
        session(Tree::new(), "sway", "user"),
        Reading::Absent,
        Reading::Absent,
    );
}

#[test]
fn what_people_may_set_themselves_is_their_own_word() {
    let best = |tree: Tree, fact: &str| best_grade(&PROBE, &tree.subject(), fact);
    let plasma = || session(Tree::new(), "plasma", "user");
    assert_eq!(best(plasma(), "screen.lock"), Grade::Own);
    assert_eq!(best(plasma(), "screen.lock_delay_s"), Grade::Own);
    assert_eq!(best(plasma(), "autologin"), Grade::Os);
    assert_eq!(best(Tree::new(), "screen.lock"), Grade::Os);
}

#[test]
fn nobody_is_logged_in_by_default() {
    autologin(Tree::new(), false);
    autologin(
        Tree::new().file(
            "/etc/gdm3/custom.conf",
            "[daemon]\n#AutomaticLoginEnable=true\n",
        ),
        false,
    );
    autologin(
        Tree::new().file("/etc/sddm.conf", "[Autologin]\nUser=\n"),
        false,
    );
    autologin(
        Tree::new().file("/etc/lightdm/lightdm.conf", "[Seat:*]\n#autologin-user=a\n"),
        false,
    );
}

#[test]
fn every_way_to_log_in_without_a_password_is_seen() {
    let on = [
        (
            "/etc/gdm3/custom.conf",
            "[daemon]\nAutomaticLoginEnable = True\nAutomaticLogin = a\n",
        ),
        ("/etc/gdm/custom.conf", "[daemon]\nTimedLoginEnable=true\n"),
        ("/etc/sddm.conf.d/10.conf", "[Autologin]\nUser=a\n"),
        (
            "/etc/lightdm/lightdm.conf.d/50.conf",
            "[Seat:*]\nautologin-user=a\n",
        ),
        (
            "/etc/greetd/config.toml",
            "[initial_session]\ncommand = \"sway\"\nuser = \"a\"\n",
        ),
        (
            "/etc/systemd/system/getty@tty1.service.d/override.conf",
            "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin a %I\n",
        ),
    ];
    for (path, text) in on {
        autologin(Tree::new().file(path, text), true);
    }
}

#[test]
fn a_later_file_takes_it_back() {
    let tree = Tree::new()
        .file("/etc/sddm.conf.d/10.conf", "[Autologin]\nUser=a\n")
        .file("/etc/sddm.conf", "[Autologin]\nUser=\n");
    autologin(tree, false);
}

fn lock(tree: Tree, enabled: Reading, delay: Reading) {
    let facts = found(&PROBE, &tree);
    assert_eq!(facts["screen.lock"], enabled);
    assert_eq!(facts["screen.lock_delay_s"], delay);
}

fn autologin(tree: Tree, expected: bool) {
    assert_eq!(
        found(&PROBE, &tree)["autologin"],
        Reading::Value(Value::Bool(expected))
    );
}

/// A session of the user that runs the tests.
fn session(tree: Tree, desktop: &str, class: &str) -> Tree {
    let user = cardea_host::process::effective_user();
    tree.file(
        "/run/systemd/sessions/3",
        format!("UID={user}\nTYPE=wayland\nCLASS={class}\nSTATE=active\nDESKTOP={desktop}\n"),
    )
    .file("/etc/passwd", format!("a:x:{user}:100:A:/home/a:/bin/sh\n"))
}

fn executable(tree: Tree) -> Tree {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(tree.path(GSETTINGS), mode).unwrap();
    tree
}
