//! Processes as they are, and as somebody would like them to look.

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use cardea_host::clock::Clock;
use cardea_proto::posture::Reading;

use super::*;
use crate::probe::testing::{Tree, best_grade, found, found_by};

#[test]
fn programs_are_found_by_path_and_by_name() {
    let tree = Tree::new()
        .link("/proc/1/exe", "/usr/lib/systemd/systemd")
        .link("/proc/20/exe", "/usr/sbin/clamd (deleted)")
        .link("/proc/self/exe", "/usr/bin/falcon-sensor")
        .dir("/proc/21");
    check(&tree, &["clamd", "falcon-sensor"], &["clamd"]);
    check(&tree, &["/usr/sbin/clamd"], &["/usr/sbin/clamd"]);
    check(&tree, &["/tmp/clamd", "system"], &[]);
}

#[test]
fn a_name_on_the_command_line_is_not_the_program_that_runs() {
    let tree = Tree::new()
        .link("/proc/1/exe", "/usr/bin/sleep")
        .file("/proc/1/cmdline", "/usr/sbin/clamd\0")
        .file("/proc/1/comm", "clamd\n");
    check(&tree, &["clamd", "/usr/sbin/clamd"], &[]);
}

#[test]
fn without_a_question_there_is_an_empty_answer() {
    let facts = found(&PROBE, &Tree::new());
    assert_eq!(
        facts["process.running"],
        Reading::Value(Value::List(Vec::new()))
    );
}

#[test]
fn only_what_root_alone_could_arrange_is_the_systems_word() {
    let ours = PathBuf::from("user:[2]");
    let entry = |inode, mode| Entry {
        id: (8, inode),
        owner: 0,
        mode,
    };
    let genuine = Sighting {
        users: ours.clone(),
        executes: entry(7, 0o100_755),
        file: entry(7, 0o100_755),
        above: vec![entry(3, 0o40_755), entry(2, 0o40_755)],
    };
    assert_eq!(genuine.grade(&ours), Grade::Os);
    type Forgery = (&'static str, fn(&mut Sighting));
    let forgeries: &[Forgery] = &[
        ("other users", |seen| seen.users = "user:[9]".into()),
        ("another file", |seen| seen.executes.id.1 = 8),
        ("another disk", |seen| seen.executes.id.0 = 9),
        ("somebody's file", |seen| seen.file.owner = 1000),
        ("the group's file", |seen| seen.file.mode = 0o100_775),
        ("anybody's file", |seen| seen.file.mode = 0o100_757),
        ("a link", |seen| seen.file.mode = 0o120_755),
        ("somebody's directory", |seen| seen.above[1].owner = 1000),
        ("the group's directory", |seen| {
            seen.above[0].mode = 0o40_775
        }),
        ("anybody's directory", |seen| seen.above[0].mode = 0o41_777),
        ("a linked directory", |seen| seen.above[0].mode = 0o120_755),
    ];
    for (what, forge) in forgeries {
        let mut seen = genuine.clone();
        forge(&mut seen);
        assert_eq!(seen.grade(&ours), Grade::Own, "{what}");
    }
}

#[test]
fn a_copy_under_the_right_name_runs_by_its_own_word() {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("cardea-test-daemon");
    // By another process: a file that we wrote ourselves may still be open in a fork of ours.
    let copied = Command::new("/bin/cp")
        .arg("/bin/sleep")
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let running = Running::start(&copy);
    let subject = on_this_machine("cardea-test-daemon");
    assert_eq!(
        found_by(&PROBE, &subject)["process.running"],
        Reading::Value(Value::List(vec!["cardea-test-daemon".to_owned()]))
    );
    assert_eq!(best_grade(&PROBE, &subject, "process.running"), Grade::Own);
    drop(running);
}

#[test]
fn a_path_forged_in_a_user_namespace_is_its_makers_word() {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("cat");
    let copied = Command::new("/bin/cp").arg("/bin/cat").arg(&copy).status();
    assert!(copied.unwrap().success());
    let forge = "mount --bind \"$0\" /usr/bin/tac && exec /usr/bin/tac";
    let forger = Command::new("/usr/bin/unshare")
        .args(["-Urm", "/bin/sh", "-c", forge])
        .arg(&copy)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    // Not every machine lets everybody have such namespaces.
    let Ok(forger) = forger else { return };
    let mut forger = Running(forger);
    let mut echo = [0];
    // Open until the end: at the end of its input it ends.
    let mut input = forger.0.stdin.take().unwrap();
    let said = input.write_all(b"x\n");
    let heard = forger.0.stdout.take().unwrap().read_exact(&mut echo);
    if said.is_err() || heard.is_err() {
        return;
    }
    let subject = on_this_machine("/usr/bin/tac");
    assert_eq!(
        found_by(&PROBE, &subject)["process.running"],
        Reading::Value(Value::List(vec!["/usr/bin/tac".to_owned()]))
    );
    assert_eq!(best_grade(&PROBE, &subject, "process.running"), Grade::Own);
    drop(input);
    drop(forger);
}

#[test]
fn a_program_of_this_machine_runs_by_the_systems_word() {
    let running = Running::start(Path::new("/bin/sleep"));
    let path = std::fs::read_link(format!("/proc/{}/exe", running.0.id())).unwrap();
    let subject = on_this_machine(path.to_str().unwrap());
    // Where the tests run in a user namespace, root's files may belong to nobody.
    let expected = match subject.system.entry(&path).unwrap().owner {
        0 => Grade::Os,
        _ => Grade::Own,
    };
    assert_eq!(best_grade(&PROBE, &subject, "process.running"), expected);
    drop(running);
}

#[test]
fn a_program_with_another_digest_does_not_run() {
    let running = Running::start(Path::new("/bin/sleep"));
    let path = std::fs::read_link(format!("/proc/{}/exe", running.0.id())).unwrap();
    let genuine = cardea_credential::key::digest(&std::fs::read(&path).unwrap());
    let asked = |digest: String| format!("{} sha256:{digest}", path.display());
    let right = asked(format!("{genuine:?}"));
    let mut subject = on_this_machine(&right);
    subject.watched_processes.push(asked("0".repeat(64)));
    subject.watched_processes.push(asked(String::new()));
    assert_eq!(
        found_by(&PROBE, &subject)["process.running"],
        Reading::Value(Value::List(vec![right.clone()]))
    );
    assert!(pids(&subject.system, &[right]).contains(&running.0.id()));
    drop(running);
}

#[test]
fn one_program_that_is_known_badly_lowers_the_list() {
    let tree = Tree::new().link("/proc/1/exe", "/usr/sbin/clamd");
    let mut subject = tree.subject();
    assert_eq!(best_grade(&PROBE, &subject, "process.running"), Grade::Os);
    subject.watched_processes = vec!["clamd".to_owned(), "auditd".to_owned()];
    assert_eq!(best_grade(&PROBE, &subject, "process.running"), Grade::Own);
    subject.watched_processes = vec!["auditd".to_owned()];
    assert_eq!(best_grade(&PROBE, &subject, "process.running"), Grade::Os);
}

#[test]
fn where_the_path_may_not_be_read_a_process_is_taken_at_its_word() {
    use std::os::unix::process::CommandExt;

    const NOBODY: u32 = 65_534;
    if cardea_host::process::effective_user() == 0 {
        // Root may read everything: this test again, as somebody who may not.
        let again = Command::new("/proc/self/exe")
            .args(["--exact", "probe::process::tests::where_the_path_may_not_be_read_a_process_is_taken_at_its_word"])
            .uid(NOBODY)
            .gid(NOBODY)
            .stdout(Stdio::null())
            .status();
        assert!(again.unwrap().success());
        return;
    }
    let system = System::new("/".into(), Clock::system());
    let others = system.entries("/proc").unwrap().into_iter().find(|pid| {
        system.link(format!("/proc/{pid}/exe")) == Err(Missing::Denied)
            && system
                .bytes(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.starts_with(b"/"))
    });
    // A container with one user hides nothing from it.
    let Some(pid) = others else { return };
    let program = program(&system, &pid);
    let word = system.text(format!("/proc/{pid}/comm")).unwrap();
    assert!(program.is(word.trim_end()));
    assert!(program.path.as_deref().is_some_and(|path| program.is(path)));
    assert!(!program.is("/opt/no-such-program"));
    assert!(Sighting::of(&system, &pid, &program).is_err());
}

struct Running(std::process::Child);

impl Running {
    fn start(program: &Path) -> Self {
        Self(Command::new(program).arg("60").spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn on_this_machine(program: &str) -> Subject {
    Subject {
        system: System::new("/".into(), Clock::system()),
        state_dir: "/tmp".into(),
        watched_processes: vec![program.to_owned()],
    }
}

fn check(tree: &Tree, asked: &[&str], expected: &[&str]) {
    let mut subject = tree.subject();
    subject.watched_processes = asked.iter().map(|name| (*name).to_owned()).collect();
    let expected = expected.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(
        found_by(&PROBE, &subject)["process.running"],
        Reading::Value(Value::List(expected))
    );
}
