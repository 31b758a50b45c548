//! The program `cardea-controller`: what it prints, what it refuses, and how it ends.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_types,
    reason = "what a test does outside of its test function may panic as well, and may use sockets"
)]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    os::unix::{
        fs::{FileExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Child, ChildStderr, Command, Output, Stdio},
};

use cardea_e2e::needs;
use cardea_ledger::mark::{self, Mark};
use rustix::process::{Pid, Signal};

/// A user who owns nothing.
const NOBODY: u32 = 65_534;

#[test]
fn a_trust_domain_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c");
    let made = controller("init", &state, &["--domain", "corp.example"]);
    expect(&made, 0, "back up");
    let mode = |name: &str| fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o700);
    for name in [
        "root/root.key",
        "ca/intermediate.key",
        "keys/admin.key",
        "keys/ticket.key",
    ] {
        assert_eq!(mode(name), 0o600, "{name}");
        let secret = fs::read_to_string(state.join(name)).unwrap();
        let said = text(&made);
        assert!(
            secret
                .lines()
                .all(|line| line.is_empty() || !said.contains(line)),
            "{name}"
        );
    }
    for name in [
        "policy/base.cedar",
        "policy-recommended/base.cedar",
        "controller.toml",
    ] {
        assert!(state.join(name).is_file(), "{name}");
    }
    let before = fs::read(state.join("root/root.crt")).unwrap();
    let again = controller("init", &state, &["--domain", "other.example"]);
    expect(&again, 1, "corp.example is there already");
    assert_eq!(fs::read(state.join("root/root.crt")).unwrap(), before);
}

#[test]
fn a_state_of_another_trust_domain_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c");
    expect(
        &controller("init", &state, &["--domain", "corp.example"]),
        0,
        "is made",
    );
    for verb in ["run", "up"] {
        let mut more = vec!["--domain", "other.example"];
        more.extend(LOOPBACK);
        let refused = controller(verb, &state, &more);
        expect(&refused, 2, "is the state of corp.example");
    }
}

#[test]
fn a_state_folder_that_cannot_be_used_is_refused_with_exit_7() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    expect(
        &controller("run", &place("missing"), &[]),
        7,
        "cardea-controller init",
    );
    assert!(!place("missing").exists());
    fs::write(place("file"), "").unwrap();
    expect(
        &controller("run", &place("file"), &[]),
        7,
        "not a directory",
    );
    std::os::unix::fs::symlink("file", place("link")).unwrap();
    expect(&controller("run", &place("link"), &[]), 7, "symbolic links");
    fs::create_dir(place("open")).unwrap();
    fs::set_permissions(place("open"), fs::Permissions::from_mode(0o777)).unwrap();
    expect(&controller("run", &place("open"), &[]), 7, "chmod");
    fs::create_dir(place("empty")).unwrap();
    expect(
        &controller("run", &place("empty"), &[]),
        7,
        "no trust domain",
    );
}

#[test]
fn a_folder_of_another_user_or_without_leave_to_write_is_refused_with_exit_7() {
    if !rustix::process::geteuid().is_root() {
        return needs::leave_out("only root can become somebody else");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let place = |name: &str| folder.path().join(name);
    fs::create_dir(place("foreign")).unwrap();
    std::os::unix::fs::chown(place("foreign"), Some(NOBODY), None).unwrap();
    expect(&controller("run", &place("foreign"), &[]), 7, "belongs to");
    // The program lies where only root may read, perhaps; a copy does not.
    let copy = place("cardea-controller");
    // Made by a process of its own: a copy that this one has open for writing could be inherited
    // by a program that another test starts, and what is open for writing cannot be run.
    let copied = Command::new("cp")
        .args([
            env!("CARGO_BIN_EXE_cardea-controller").as_ref(),
            copy.as_os_str(),
        ])
        .status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(&copy);
    command.args(["init", "--domain", "corp.example", "--state"]);
    command.arg(place("new")).uid(NOBODY);
    expect(&command.output().unwrap(), 7, "Permission denied");
    let read_only = place("read-only");
    fs::create_dir(&read_only).unwrap();
    std::os::unix::fs::chown(&read_only, Some(NOBODY), None).unwrap();
    fs::set_permissions(&read_only, fs::Permissions::from_mode(0o500)).unwrap();
    let mut command = Command::new(&copy);
    command.args(["init", "--domain", "corp.example", "--state"]);
    command.arg(&read_only).uid(NOBODY);
    expect(&command.output().unwrap(), 7, "Permission denied");
}

#[test]
fn what_runs_is_stopped_in_order_and_a_second_one_is_refused_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c");
    let mut first = Running::start(&state, &[]);
    expect(&controller("run", &state, &[]), 7, "opened twice");
    expect(
        &controller("init", &state, &["--domain", "d"]),
        7,
        "opened twice",
    );
    assert!(state.join("admin.sock").exists());
    first.signal(Signal::TERM);
    assert_eq!(first.child.wait().unwrap().code(), Some(0));
    assert!(!state.join("admin.sock").exists());
    let mut second = Running::start(&state, &[]);
    second.signal(Signal::INT);
    assert_eq!(second.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_killed_controller_leaves_nothing_that_keeps_the_next_one_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c");
    for _ in 0..5 {
        let mut running = Running::start(&state, &[]);
        running.signal(Signal::KILL);
        running.child.wait().unwrap();
    }
    let is_told = |running: &Running| running.said.contains("never acknowledged was cut off");
    assert!(!is_told(&Running::start(&state, &[])));
    // As if the last write had been torn.
    let mark = fs::read(state.join("ledger").join(mark::NAME)).unwrap();
    let mark = Mark::parse(&mark).unwrap();
    let segment = state.join("ledger/0001.seg");
    let file = fs::File::options().write(true).open(&segment).unwrap();
    file.write_all_at(&[0, 0, 1, 0, 7], mark.end.offset)
        .unwrap();
    let running = Running::start(&state, &[]);
    assert!(is_told(&running), "{}", running.said);
    let place = format!("offset={}", mark.end.offset);
    assert!(running.said.contains(&place), "{}", running.said);
    drop(running);
    assert!(!is_told(&Running::start(&state, &[])));
}

#[test]
fn a_damaged_ledger_is_refused_with_its_file_and_offset() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c");
    expect(
        &controller("init", &state, &["--domain", "corp.example"]),
        0,
        "",
    );
    let segment = state.join("ledger/0001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    if let Some(byte) = bytes.get_mut(200) {
        *byte ^= 4;
    }
    fs::write(&segment, &bytes).unwrap();
    let refused = controller("run", &state, &[]);
    expect(
        &refused,
        7,
        &format!("{} is damaged at byte 60", segment.display()),
    );
    let repair = format!("cardea-controller repair --state {}", state.display());
    expect(&refused, 7, &repair);
    for more in [&[][..], &["--cut"]] {
        let choices = controller("repair", &state, more);
        expect(&choices, 7, "No entry is whole");
        expect(&choices, 7, "cardeactl restore");
    }
    assert_eq!(fs::read(&segment).unwrap(), bytes);
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_chooses_another() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c");
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let domain = ["--domain", "corp.example"];
    let channel = [&domain[..], &["--listen", &taken]].concat();
    expect(&controller("up", &state, &channel), 1, &taken);
    let relay = [
        &domain[..],
        &["--listen", "127.0.0.1:0", "--relay-listen", &taken],
    ]
    .concat();
    expect(&controller("up", &state, &relay), 1, "--relay-listen");
}

#[test]
fn wrong_values_are_refused_with_exit_2_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c");
    for (more, said) in [
        (&["--certificate-life", "1m"][..], "between 5m and 1d"),
        (&["--grant-ttl", "2h"], "between 30s and 1h"),
        (&["--grant-ttl", "90"], "duration"),
        (&["--advertise", "a b"], "HOST"),
        (&["--domain", "a/b"], "name"),
        (&["--config", "/nonexistent.toml"], "no such file"),
        (&["--no-such-flag"], "no-such-flag"),
    ] {
        let arguments = [&["--domain", "corp.example"][..], more].concat();
        let arguments = match more.first() {
            Some(&"--domain") => more,
            _ => &arguments,
        };
        expect(&controller("up", &state, arguments), 2, said);
        assert!(!state.exists(), "{more:?}");
    }
    let file = folder.path().join("controller.toml");
    fs::write(&file, "\n[relay]\nport = 1\n").unwrap();
    let file = file.display().to_string();
    let arguments = ["--domain", "corp.example", "--config", &file];
    expect(&controller("up", &state, &arguments), 2, "line 3");
}

#[test]
fn the_intermediate_is_renewed_with_a_root_that_is_kept_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c");
    expect(
        &controller("init", &state, &["--domain", "corp.example"]),
        0,
        "",
    );
    let stick = folder.path().join("stick");
    fs::create_dir(&stick).unwrap();
    fs::copy(state.join("root/root.crt"), stick.join("root.crt")).unwrap();
    fs::rename(state.join("root/root.key"), stick.join("root.key")).unwrap();
    let before = fs::read(state.join("ca/intermediate.crt")).unwrap();
    expect(&controller("renew", &state, &[]), 7, "root.key");
    let stick = stick.display().to_string();
    expect(
        &controller("renew", &state, &["--root", &stick]),
        0,
        "lives until",
    );
    assert_ne!(fs::read(state.join("ca/intermediate.crt")).unwrap(), before);
    drop(Running::start(&state, &[]));
}

#[test]
fn completions_and_man_pages_come_from_the_same_definitions() {
    let said = command(&["completion", "bash"]).output().unwrap();
    expect(&said, 0, "--certificate-life");
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display().to_string();
    expect(&command(&["man", &place]).output().unwrap(), 0, "");
    let page = fs::read_to_string(folder.path().join("cardea-controller-up.1")).unwrap();
    assert!(page.contains("advertise"));
    expect(&command(&["--help"]).output().unwrap(), 0, "Examples:");
}

/// A controller that runs; killed when dropped.
struct Running {
    child: Child,
    /// What it said until it listened.
    said: String,
    _rest: BufReader<ChildStderr>,
}

impl Running {
    /// Starts `up` and waits until it listens.
    fn start(state: &Path, more: &[&str]) -> Self {
        let mut command = command(&["up", "--domain", "corp.example", "--state"]);
        command.arg(state).args(LOOPBACK).args(more);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut rest = BufReader::new(child.stderr.take().unwrap());
        let (mut said, mut line) = (String::new(), String::new());
        while !line.starts_with("listening on") {
            line.clear();
            assert_ne!(rest.read_line(&mut line).unwrap(), 0, "it ended: {said}");
            said.push_str(&line);
        }
        Self {
            child,
            said,
            _rest: rest,
        }
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const LOOPBACK: [&str; 6] = [
    "--listen",
    "127.0.0.1:0",
    "--relay-listen",
    "127.0.0.1:0",
    "--advertise",
    "127.0.0.1",
];

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cardea-controller"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn controller(verb: &str, state: &Path, more: &[&str]) -> Output {
    let mut command = command(&[verb, "--state"]);
    command.arg(state).args(more).output().unwrap()
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn expect(output: &Output, code: i32, said: &str) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(said), "no {said:?} in: {text}");
    assert!(!text.contains("panicked"), "{text}");
}
