//! The host guard: what keeps this machine from telling strangers which of its UDP ports are closed.
//!
//! A port that is silent stands out among ports whose system answers "port unreachable" (RFC 1122
//! §4.1.3.1), and a program that is down makes its own port such a one. The guard is a table of its own
//! in nftables that lets no such answer leave the machine, so that an open port, a closed one and one
//! whose program has crashed look alike. It stands before the first socket and stays when the program
//! is gone, however it went; programs on this machine itself still hear of closed ports.

use std::{
    fmt,
    io::{self, Write as _},
    path::Path,
    process::{Command, Output, Stdio},
    str::FromStr,
};

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::exit::{Code, Failure, io_advice};

/// Which guard stands before a program's ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// None; one that is there stays.
    #[default]
    None,
    /// A table in nftables.
    Nft,
}

/// Text that names no guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a guard: none or nft")]
pub struct ParseGuardError;

impl FromStr for Guard {
    type Err = ParseGuardError;

    fn from_str(text: &str) -> Result<Self, ParseGuardError> {
        match text {
            "none" => Ok(Self::None),
            "nft" => Ok(Self::Nft),
            _ => Err(ParseGuardError),
        }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Nft => "nft",
        })
    }
}

impl Guard {
    /// Puts the guard in its place; one that is there already is replaced, in one step. Whoever finds
    /// it reads that `program` takes it away.
    ///
    /// # Errors
    /// What is missing: the program nft, or the right to change the system's rules.
    pub fn install(self, program: &'static str) -> Result<(), Failure> {
        match self {
            Self::None => Ok(()),
            Self::Nft => nft(&script(program)).map(drop),
        }
    }
}

/// What can be done with the host guard, in every program that has one.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum GuardCommand {
    /// Takes it away; it outlives the programs that it stands before.
    Remove,
}

impl GuardCommand {
    /// Does it, and says what came of it.
    ///
    /// # Errors
    /// As [`Guard::install`].
    pub fn carry_out(self) -> Result<&'static str, Failure> {
        match self {
            Self::Remove => Ok(match remove()? {
                true => "The host guard is removed.\n",
                false => "There was no host guard.\n",
            }),
        }
    }
}

/// Takes the guard away; says whether there was one.
fn remove() -> Result<bool, Failure> {
    let tables = nft("list tables inet\n")?;
    let is_there = tables
        .lines()
        .any(|line| line.trim() == format!("table inet {TABLE}"));
    if is_there {
        nft(&format!("delete table inet {TABLE}\n"))?;
    }
    Ok(is_there)
}

/// Has `nft` carry out a script, all of it or nothing.
fn nft(script: &str) -> Result<String, Failure> {
    let failed = |why: &str, next: &str| Failure::of(Code::Failed, "host guard", why, next);
    let path = PATHS.into_iter().find(|path| Path::new(path).exists());
    let path = path.ok_or_else(|| {
        failed(
            "the program nft is not installed",
            "Install nftables, or leave out --guard",
        )
    })?;
    let output =
        run(path, script).map_err(|error| failed(&error.to_string(), io_advice(&error)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(
        reason(&said),
        "It needs root, or the capability CAP_NET_ADMIN",
    ))
}

/// What went wrong, of what nft says: `FILE:LINE:COLUMN-COLUMN: Error: WHY`, and the line below it.
fn reason(said: &str) -> &str {
    let first = said.lines().next().unwrap_or("nft failed");
    first.split_once("Error: ").map_or(first, |(_, why)| why)
}

fn run(program: &str, script: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
    }
    child.wait_with_output()
}

/// Where systems keep it; never what somebody's search path says.
const PATHS: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];

/// The guard's table; nobody else's rules stand in it.
const TABLE: &str = "cardea_guard";

/// Deleting needs a table that is there: made first, so that the whole is one step from any state.
fn script(program: &'static str) -> String {
    format!(
        r#"
table inet cardea_guard
delete table inet cardea_guard
table inet cardea_guard {{
    comment "Cardea: strangers do not learn which UDP ports are closed. Away with it: {program} guard remove"
    chain output {{
        type filter hook output priority 0; policy accept;
        oifname "lo" accept
        icmp type destination-unreachable icmp code port-unreachable counter drop
        icmpv6 type destination-unreachable icmpv6 code port-unreachable counter drop
    }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_reads_back_as_itself_and_nothing_else_is_one() {
        for guard in [Guard::None, Guard::Nft] {
            assert_eq!(guard.to_string().parse(), Ok(guard));
        }
        assert_eq!("iptables".parse::<Guard>(), Err(ParseGuardError));
    }

    #[test]
    fn the_script_is_about_our_table_alone() {
        let script = script("cardea");
        let tables: Vec<&str> = script.matches("table inet cardea_guard").collect();
        assert_eq!(tables.len(), script.matches("table ").count());
        assert_eq!(TABLE, "cardea_guard");
        assert!(script.contains(": cardea guard remove\""));
    }

    #[test]
    fn what_nft_says_is_told_without_the_place_in_a_script_that_nobody_sees() {
        let said =
            "/dev/stdin:2:1-24: Error: Could not process rule: Operation not permitted\ntable";
        let why = "Could not process rule: Operation not permitted";
        assert_eq!(reason(said), why);
        assert_eq!(reason("netlink: no"), "netlink: no");
        assert_eq!(reason(""), "nft failed");
    }
}
