//! Runs seeds of the simulation and prints what each saw.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command that prints is what this is")]

use std::{
    num::NonZero,
    ops::Range,
    process::ExitCode,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

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
    let failed = run_all(seeds, until_failure);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        println!("{failed} seeds failed");
        ExitCode::FAILURE
    }
}

/// Runs seeds on all cores and prints what each saw, in the order in which they end; says how many
/// failed.
fn run_all(seeds: Range<u64>, until_failure: bool) -> u32 {
    let next = AtomicU64::new(seeds.start);
    let (sender, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        for _ in 0..cores {
            let (sender, next, seeds) = (sender.clone(), &next, &seeds);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_wanted = seeds.contains(&seed);
                    if !is_wanted || sender.send((seed, cardea_sim::run(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut failed = 0;
        for (seed, result) in ended {
            match result {
                Ok(summary) => println!(
                    "seed {seed}: ok, {} grants, {} records delivered, {} datagrams past the relay, {} ends lost with relays, {} turned to another, {} lies of relays, {} entries, {} s, trace {:016x}",
                    summary.grants,
                    summary.delivered,
                    summary.beside,
                    summary.forgotten,
                    summary.turned,
                    summary.lies,
                    summary.entries,
                    summary.time.as_secs(),
                    summary.digest
                ),
                Err(failure) => {
                    failed += 1;
                    println!("{failure}");
                    if until_failure {
                        next.store(seeds.end, Ordering::Relaxed);
                        break;
                    }
                }
            }
        }
        failed
    })
}
