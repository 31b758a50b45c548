//! `deploy/demo --json`: every step that is promised, in its order; nothing stays behind, and a second
//! run works.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::program::{binaries, command, run};

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
    for _ in 0..2 {
        tell(place.path()).unwrap();
    }
}

fn tell(place: &std::path::Path) -> Result<()> {
    let mut demo = command(binaries()?.join("cardea-demo"), ["--json"]);
    demo.env("TMPDIR", place);
    let output = run(demo)?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut steps = Vec::new();
    for line in said.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        ensure!(line.get("ok") == Some(&true.into()), "{line}");
        let ms = line.get("ms").and_then(serde_json::Value::as_f64);
        ensure!(ms.is_some_and(|ms| ms >= 0.0), "{line}");
        let step = line.get("step").and_then(|step| step.as_str());
        steps.push(step.context("no step")?.to_owned());
    }
    ensure!(steps == STEPS, "{steps:?}");
    let left: Vec<_> = fs::read_dir(place)?.collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
