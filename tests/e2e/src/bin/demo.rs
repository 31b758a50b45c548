//! `deploy/demo`: the whole path on this machine, without root, with the real programs.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the demo talks to a person"
)]

use std::{
    io::{BufRead, stdin},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    program::{Program, now, run},
    traffic::{Bulk, WebServer, fetch, udp_echo, udp_round_trip},
};

/// What the page of the demo's application says.
const PAGE: &str = "Her power is to open what is shut, and to shut what is open.\n";

/// Longest time that access may take to close before the demo calls it a failure.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut voice = Voice {
        json: false,
        failed: false,
    };
    let mut keep = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => voice.json = true,
            "--keep" => keep = true,
            "--help" | "-h" => {
                println!("usage: deploy/demo [--json] [--keep]\n\n{HELP}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!(
                    "deploy/demo: unknown argument {other:?}; only --json and --keep are known"
                );
                return ExitCode::from(2);
            }
        }
    }
    match Demo::run(&mut voice, keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            voice.failure(&error);
            ExitCode::FAILURE
        }
    }
}

const HELP: &str = "Starts a controller with a relay, a connector and a device on this machine,
opens an app over WireGuard and over QUIC, breaks posture and shows access closing.

  --json   one JSON object a line: {\"step\":…,\"ok\":…,\"ms\":…}
  --keep   leaves everything running until a line is read, with a list of what to try";

/// How the demo speaks: sentences for people, or a JSON object a line.
#[derive(Debug)]
struct Voice {
    json: bool,
    failed: bool,
}

impl Voice {
    /// Runs one step and tells how it went and how long it took.
    fn step<T>(&mut self, step: &str, what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = now();
        let result = act();
        self.tell(
            step,
            what,
            result.is_ok(),
            start.elapsed_until(now()),
            result.as_ref().err(),
        );
        result.with_context(|| format!("step {step} failed"))
    }

    /// Tells of a step whose time was measured within.
    fn tell(
        &mut self,
        step: &str,
        what: &str,
        ok: bool,
        took: Duration,
        error: Option<&anyhow::Error>,
    ) {
        let ms = took.as_secs_f64() * 1_000.0;
        self.failed |= !ok;
        if self.json {
            let mut line =
                serde_json::json!({"step": step, "ok": ok, "ms": (ms * 100.0).round() / 100.0});
            if let (Some(error), Some(object)) = (error, line.as_object_mut()) {
                object.insert("error".to_owned(), format!("{error:#}").into());
            }
            println!("{line}");
        } else {
            let mark = if ok { "ok  " } else { "FAIL" };
            println!("{mark} {what:<66} {ms:>9.1} ms");
        }
    }

    fn say(&self, text: &str) {
        if !self.json {
            println!("     {text}");
        }
    }

    /// Tells what may be tried while everything runs, and how to end it.
    fn invite(&self, lines: &[String], facts: &Path) {
        if self.json {
            let facts = facts.display().to_string();
            let line = serde_json::json!(
                {"step": "keep", "ok": true, "ms": 0, "try": lines, "facts": facts}
            );
            println!("{line}");
            return;
        }
        println!("\nEverything is running. Try, in another terminal:");
        for line in lines {
            println!("  {line}");
        }
        println!("  edit {}   (posture; it is watched)", facts.display());
        println!("The programs are in target/debug. Press Enter here to end it.");
    }

    fn failure(&self, error: &anyhow::Error) {
        eprintln!("deploy/demo: {error:#}");
    }
}

/// Everything that runs during the demo; it ends when this is dropped.
#[derive(Debug)]
struct Demo {
    deployment: Deployment,
    nodes: Vec<Program>,
    facts: PathBuf,
}

impl Demo {
    fn run(voice: &mut Voice, keep: bool) -> Result<()> {
        let mut demo = Self::start(voice)?;
        let wiki = demo.carriers(voice)?;
        demo.limits(voice)?;
        demo.posture(voice, &wiki)?;
        demo.revoke(voice, &wiki)?;
        let tail = voice.step("audit.tail", "the ledger tells what happened", || {
            let tail = demo.deployment.ctl("audit tail -n 8")?;
            ensure!(
                tail.contains("revoke"),
                "no revocation in the ledger:\n{tail}"
            );
            Ok(tail)
        })?;
        tail.lines().for_each(|line| voice.say(line));
        if keep { demo.keep(voice) } else { demo.stop() }
    }

    fn start(voice: &mut Voice) -> Result<Self> {
        let mut deployment = Deployment::new()?;
        voice.step(
            "controller",
            "controller with relay: `cardea-controller up`",
            || {
                let more = ["--allow-simulated-posture", "--posture-poll", "5s"];
                deployment.start_controller(&ControllerOptions {
                    more: &more,
                    ..Default::default()
                })
            },
        )?;
        deployment.ctl("policy apply --recommended --yes")?;
        publish(&deployment)?;
        let connector = voice.step(
            "connector",
            "connector: dials out, answers no stranger",
            || deployment.start_connector(None, "connector", "default"),
        )?;
        let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
        let laptop = voice.step(
            "enroll",
            "device: posture checked, enrolled, connected",
            || deployment.start_device(None, "laptop", "alice@corp.example", "staff", Some(&facts)),
        )?;
        let demo = Self {
            deployment,
            nodes: vec![connector, laptop],
            facts,
        };
        let until = voice.step("certificate", "device certificate, short-lived", || {
            let status = demo.status()?;
            let until = status
                .pointer("/certificate/not_after")
                .and_then(|at| at.as_str())
                .context("no certificate")?;
            Ok(until.to_owned())
        })?;
        voice.say(&format!(
            "valid until {until}, renewed only while posture passes"
        ));
        Ok(demo)
    }

    /// Opens the same app over both carriers, and a UDP app.
    fn carriers(&mut self, voice: &mut Voice) -> Result<String> {
        let mut address = String::new();
        for (carrier, label) in [("wireguard", "WireGuard"), ("quic", "QUIC")] {
            self.deployment
                .ctl(&format!("app set wiki --transport {carrier} --yes"))?;
            let open = format!("app wiki opened over {label}: `cardea forward wiki`");
            address = voice.step(&format!("open.{carrier}"), &open, || self.forward("wiki"))?;
            let page = voice.step(
                &format!("fetch.{carrier}"),
                &format!("page fetched over {label}"),
                || fetch(&address),
            )?;
            ensure!(page == PAGE, "a wrong page came back: {page:?}");
            let status = self.status()?;
            let transport = app(&status, "wiki")?["transport"].clone();
            ensure!(
                transport == carrier,
                "the tunnel is {transport}, not {carrier}"
            );
            voice.say(&format!("\"{}\"", page.trim()));
        }
        voice.step("udp", "UDP app answers through its own tunnel", || {
            udp_round_trip(&self.forward("echo")?, "cardea")
        })?;
        Ok(address)
    }

    /// Asks for what may not be had.
    fn limits(&self, voice: &mut Voice) -> Result<()> {
        let why = voice.step(
            "deny.other_app",
            "another app is denied, and it says why",
            || {
                let output = run(self.deployment.cardea(None, "laptop", "forward payroll"))?;
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                ensure!(
                    output.status.code() == Some(3),
                    "exit {:?}: {said}",
                    output.status.code()
                );
                Ok(said)
            },
        )?;
        voice.say(&why);
        Ok(())
    }

    /// Breaks posture under an open flow, and mends it again.
    fn posture(&self, voice: &mut Voice, wiki: &str) -> Result<()> {
        let bulk = Bulk::open(wiki)?;
        let start = now();
        voice.step(
            "posture.broken",
            "disk encryption switched off on the device",
            || {
                let broken =
                    GOOD_FACTS.replace("\"disk.encrypted\": true", "\"disk.encrypted\": false");
                self.deployment.write_facts("laptop", &broken)
            },
        )?;
        close(
            voice,
            "access.closed",
            "open flow cut, from the change to the last byte",
            bulk,
            start,
        )?;
        let output = run(self.deployment.cardea(None, "laptop", "explain wiki"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        voice.say(said.lines().next().unwrap_or_default());
        ensure!(fetch(wiki).is_err(), "the app still answers");

        voice.step(
            "posture.mended",
            "disk encryption switched on again",
            || {
                let seen = self.facts.clone();
                self.deployment.write_facts("laptop", GOOD_FACTS)?;
                ensure!(seen.exists(), "the facts are gone");
                self.until(|status| status.pointer("/posture/compliant") == Some(&true.into()))
            },
        )?;
        voice.step("access.back", "the app opens again by itself", || {
            fetch(wiki).map(drop)
        })
    }

    /// Revokes the grant under an open flow.
    fn revoke(&self, voice: &mut Voice, wiki: &str) -> Result<()> {
        let bulk = Bulk::open(wiki)?;
        let grants: serde_json::Value =
            serde_json::from_str(&self.deployment.ctl("grant ls -o json")?)?;
        let grants = grants.as_array().context("grant ls prints no array")?;
        let grant = grants
            .iter()
            .find(|grant| grant["app"] == "wiki")
            .context("no grant on wiki")?;
        let id = grant["id"].as_str().context("a grant without id")?;
        let start = now();
        self.deployment.ctl(&format!("grant revoke {id} --yes"))?;
        close(
            voice,
            "revoke",
            "`cardeactl grant revoke`: flow cut, to the last byte",
            bulk,
            start,
        )
    }

    fn forward(&mut self, app: &str) -> Result<String> {
        let (program, address) = self.deployment.forward(None, "laptop", app)?;
        self.nodes.push(program);
        Ok(address)
    }

    fn status(&self) -> Result<serde_json::Value> {
        let output = run(self.deployment.cardea(None, "laptop", "status -o json"))?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("cardea status: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Asks for the status until it is as wanted.
    fn until(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
        let deadline = now() + CLOSE_LIMIT;
        while now() < deadline {
            if wanted(&self.status()?) {
                return Ok(());
            }
        }
        bail!("not within {CLOSE_LIMIT:?}; status: {}", self.status()?)
    }

    fn keep(mut self, voice: &mut Voice) -> Result<()> {
        let folder = self.deployment.keep();
        voice.invite(&self.worth_trying(&folder), &self.facts);
        stdin().lock().read_line(&mut String::new())?;
        voice.step("stop", "everything stopped, and its files removed", || {
            self.stop()?;
            std::fs::remove_dir_all(folder).context("cannot remove the demo's folder")
        })
    }

    /// Command lines for whoever plays with what runs.
    fn worth_trying(&self, folder: &Path) -> Vec<String> {
        let cardea = format!("--state {}", folder.join("laptop").display());
        let socket = folder.join("controller").join("admin.sock");
        let admin = format!("--admin unix:{}", socket.display());
        let who = "--user alice@corp.example --device laptop";
        vec![
            format!("cardea status {cardea}"),
            format!("cardea explain payroll {cardea}"),
            format!("cardea forward wiki {cardea}"),
            format!("cardeactl grant ls {admin}"),
            format!("cardeactl explain {who} --app wiki {admin}"),
            format!("cardeactl audit tail --follow {admin}"),
        ]
    }

    fn stop(&mut self) -> Result<()> {
        while let Some(mut node) = self.nodes.pop() {
            node.stop()?;
        }
        self.deployment.stop_controller()
    }
}

/// Publishes the demo's applications: two that the device may open, one that it may not.
fn publish(deployment: &Deployment) -> Result<()> {
    let wiki = WebServer::start("127.0.0.1:0", PAGE)?;
    let payroll = WebServer::start("127.0.0.1:0", "salaries\n")?;
    let echo = udp_echo("127.0.0.1:0")?;
    let host = "--allow-host-scoped";
    deployment.ctl(&format!(
        "app add wiki --target {} {host} --name wiki.corp.example --allow group:staff",
        wiki.address
    ))?;
    deployment.ctl(&format!(
        "app add echo --target {echo}/udp {host} --allow group:staff"
    ))?;
    deployment.ctl(&format!(
        "app add payroll --target {} {host} --allow group:hr",
        payroll.address
    ))?;
    Ok(())
}

fn close(voice: &mut Voice, step: &str, what: &str, bulk: Bulk, start: Instant) -> Result<()> {
    let last = bulk.last_byte(CLOSE_LIMIT);
    let took = last
        .as_ref()
        .map_or(CLOSE_LIMIT, |last| start.elapsed_until(*last));
    voice.tell(step, what, last.is_ok(), took, last.as_ref().err());
    last.map(drop)
}

fn app<'a>(status: &'a serde_json::Value, name: &str) -> Result<&'a serde_json::Value> {
    let apps = status["apps"].as_array().context("a status without apps")?;
    apps.iter()
        .find(|app| app["name"] == name)
        .with_context(|| format!("no app {name}"))
}

/// Time from one moment to another.
trait ElapsedUntil {
    fn elapsed_until(self, later: Instant) -> Duration;
}

impl ElapsedUntil for Instant {
    fn elapsed_until(self, later: Instant) -> Duration {
        later.saturating_duration_since(self)
    }
}
