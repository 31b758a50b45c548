//! Side-by-side benchmarks. `tests/bench/run NAME` builds what they need and runs them.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its figures"
)]

mod agent;
mod crash;
mod darkness;
mod decide;
mod domain;
mod load;
mod open;
mod peers;
mod process;
mod reconnect;
mod relay;
mod report;
mod restart;
mod revoke;
mod scale;
mod store;
mod tunnel;
mod userspace;
mod ways;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::report::Report;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tests/bench/run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().context("which benchmark?")?;
    if name == restart::START {
        let dir = arguments.next().context("which folder?")?;
        let entries = arguments.next().context("how many entries?")?.parse()?;
        let (seconds, mib) = restart::start(dir.as_ref(), entries)?;
        println!("{seconds} {mib}");
        return Ok(());
    }
    let mut report = Report::new(&name);
    let mut rounds = None;
    let mut only = None;
    let mut picture = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => report.json = true,
            "--rounds" | "--n" | "--probes" => {
                let number = arguments.next().context("how many?")?;
                rounds = Some(number.parse().context("a count is a number")?);
            }
            "--only" => only = arguments.next(),
            "--picture" => picture = arguments.next().map(PathBuf::from),
            other => bail!("unknown argument {other:?}"),
        }
    }
    match name.as_str() {
        "revoke" => revoke::run(&mut report, rounds.unwrap_or(100))?,
        "open" => open::run(&mut report, rounds.unwrap_or(100))?,
        "userspace" => userspace::run(&mut report, rounds.unwrap_or(5))?,
        "crash" => crash::run(&mut report, rounds.unwrap_or(100))?,
        "darkness" => darkness::run(&mut report, u64::from(rounds.unwrap_or(1_000_000)))?,
        "decide" => decide::run(&mut report, rounds.unwrap_or(5))?,
        "relay" => relay::run(&mut report, rounds.unwrap_or(5))?,
        "reconnect" => reconnect::run(&mut report, rounds.unwrap_or(10_000))?,
        "restart" => restart::run(&mut report, rounds.unwrap_or(3))?,
        "scale" => scale::run(&mut report, rounds.unwrap_or(10_000))?,
        "store" => store::run(&mut report, rounds.unwrap_or(5))?,
        "tunnel" => {
            let rounds = rounds.unwrap_or(5);
            tunnel::run(&mut report, rounds, only.as_deref(), picture.as_deref())?
        }
        "ways" => ways::run(&mut report, rounds.unwrap_or(5))?,
        other => {
            bail!(
                "no benchmark {other:?}; there are revoke, open, userspace, ways, tunnel, policy, store, decide, restart, reconnect, scale, relay, crash, darkness"
            )
        }
    }
    report.end()
}
