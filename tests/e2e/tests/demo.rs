//! `deploy/demo --json`: every step that is promised, in its order; what is kept serves; nothing stays
//! behind, and a second run works.

use std::{fs, io::Write as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    program::{PATIENCE, Program, binaries, command as command_of, now, run, run_ok, running_with},
    traffic::fetch,
};

/// What scripts rely on.
const STEPS: [&str; 16] = [
    "controller",
    "connector",
    "enroll",
    "certificate",
    "open.wireguard",
    "fetch.wireguard",
    "open.quic",
    "fetch.quic",
    "udp",
    "deny.other_app",
    "posture.broken",
    "access.closed",
    "posture.mended",
    "access.back",
    "revoke",
    "audit.tail",
];

#[test]
fn the_demo_tells_every_step_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    tell(place.path()).unwrap();
    keep(place.path()).unwrap();
}

fn tell(place: &Path) -> Result<()> {
    let output = run(demo(place, &["--json"])?)?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let steps = steps(&said)?;
    ensure!(steps == STEPS, "{steps:?}");
    nothing_is_left(place)
}

/// What is kept serves until it is told to end, and its lines are for programs too.
fn keep(place: &Path) -> Result<()> {
    let (told_to_end, mut tell) = std::io::pipe()?;
    let command = demo(place, &["--json", "--keep"])?;
    let mut demo = Program::start_with("cardea-demo", command, told_to_end.into())?;
    let kept: serde_json::Value = serde_json::from_str(&demo.wait_for("\"keep\"")?)?;
    for program in ["cardea-controller up", "cardea-connector up", "cardea up"] {
        let running = running(place)?;
        let is_there = running.iter().any(|line| line.contains(program));
        ensure!(is_there, "no {program}: {running:?}");
    }
    let lines = kept.get("try").and_then(|lines| lines.as_array());
    let lines: Vec<&str> = lines
        .context("nothing to try")?
        .iter()
        .filter_map(|line| line.as_str())
        .collect();
    let of = |program: &str| -> Result<Command> {
        let line = lines.iter().find(|line| line.starts_with(program));
        let mut words = line.context("another list")?.split_whitespace();
        let name = words.next().context("an empty line")?;
        Ok(command_of(binaries()?.join(name), words))
    };
    let status = run_ok(of("cardea status")?)?;
    ensure!(status.contains("connected"), "{status}");
    // For half a second a revocation answers whoever asks again.
    let deadline = now() + PATIENCE;
    let (mut forward, address) = loop {
        let mut forward = Program::start("cardea forward", of("cardea forward wiki")?)?;
        match forward.wait_for_address() {
            Ok(address) => break (forward, address),
            Err(error) => ensure!(now() < deadline, "{error:#}"),
        }
    };
    ensure!(fetch(&address)?.starts_with("Her power"));
    ensure!(run_ok(of("cardeactl grant ls")?)?.contains("wiki"));
    forward.stop()?;
    ensure!(demo.is_alive()?, "it ended by itself: {}", demo.said());

    writeln!(tell)?;
    ensure!(demo.wait()? == Some(0), "{}", demo.said());
    demo.wait_for("\"stop\"")?;
    let steps = steps(&demo.said())?;
    let expected = STEPS.into_iter().chain(["keep", "stop"]);
    ensure!(steps.iter().eq(expected), "{steps:?}");
    nothing_is_left(place)
}

fn demo(place: &Path, arguments: &[&str]) -> Result<Command> {
    let mut demo = command_of(binaries()?.join("cardea-demo"), arguments);
    demo.env("TMPDIR", place);
    Ok(demo)
}

/// The steps that these lines tell, all of which went well.
fn steps(said: &str) -> Result<Vec<String>> {
    let mut steps = Vec::new();
    for line in said.lines() {
        let line: serde_json::Value = serde_json::from_str(line).context(line.to_owned())?;
        ensure!(line.get("ok") == Some(&true.into()), "{line}");
        let ms = line.get("ms").and_then(serde_json::Value::as_f64);
        ensure!(ms.is_some_and(|ms| ms >= 0.0), "{line}");
        let step = line.get("step").and_then(|step| step.as_str());
        steps.push(step.context("no step")?.to_owned());
    }
    Ok(steps)
}

/// The command lines of what runs on files in this folder.
fn running(place: &Path) -> Result<Vec<String>> {
    running_with(&place.display().to_string())
}

/// Neither files nor processes.
fn nothing_is_left(place: &Path) -> Result<()> {
    let left: Vec<_> = fs::read_dir(place)?.collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    let running = running(place)?;
    ensure!(running.is_empty(), "still running: {running:?}");
    Ok(())
}
