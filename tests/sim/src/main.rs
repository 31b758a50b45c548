//! Runs seeds of the simulation and prints what each saw.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command that prints is what this is")]

use std::process::ExitCode;

/// Seeds that run when none are named: those of `cargo test`.
const SEEDS: u64 = 50;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut until_failure = false;
    let seeds = match *arguments.as_slice() {
        [] => Some(0..SEEDS),
        ["--seed", seed] => seed
            .parse()
            .ok()
            .map(|seed: u64| seed..seed.saturating_add(1)),
        ["--seeds", count] => count.parse().ok().map(|count| 0..count),
        // What the mutants ask for.
        ["--until-failure", count] => {
            until_failure = true;
            count.parse().ok().map(|count| 0..count)
        }
        _ => None,
    };
    let Some(seeds) = seeds else {
        println!("usage: tests/sim/run [--seed N | --seeds COUNT | --mutants [WORD]]");
        return ExitCode::from(2);
    };
    let mut failed = 0_u32;
    for seed in seeds {
        match cardea_sim::run(seed) {
            Ok(summary) => println!(
                "seed {seed}: ok, {} grants, {} records delivered, {} entries, {} s",
                summary.grants,
                summary.delivered,
                summary.entries,
                summary.time.as_secs()
            ),
            Err(failure) => {
                failed += 1;
                println!("{failure}");
                if until_failure {
                    break;
                }
            }
        }
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        println!("{failed} seeds failed");
        ExitCode::FAILURE
    }
}
