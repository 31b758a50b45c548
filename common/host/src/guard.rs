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
    /// Puts the guard in its place; one that is there already is replaced, in one step.
    ///
    /// # Errors
    /// What is missing: the program, or the right to change the system's rules.
    pub fn install(self) -> Result<(), Failure> {
        match self {
            Self::None => Ok(()),
            Self::Nft => nft(INSTALL).map(drop),
        }
    }
}

/// Takes the guard away; says whether there was one.
///
/// # Errors
/// As [`Guard::install`].
pub fn remove() -> Result<bool, Failure> {
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
    let first = said.lines().next().unwrap_or("nft failed").to_owned();
    Err(failed(
        &first,
        "It needs root, or the capability CAP_NET_ADMIN",
    ))
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
const INSTALL: &str = r#"
table inet cardea_guard
delete table inet cardea_guard
table inet cardea_guard {
    comment "Cardea: strangers do not learn which UDP ports are closed. Away with it: cardea-controller guard remove"
    chain output {
        type filter hook output priority 0; policy accept;
        oifname "lo" accept
        icmp type destination-unreachable icmp code port-unreachable counter drop
        icmpv6 type destination-unreachable icmpv6 code port-unreachable counter drop
    }
}
"#;

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
        let tables: Vec<&str> = INSTALL.matches("table inet cardea_guard").collect();
        assert_eq!(tables.len(), INSTALL.matches("table ").count());
        assert_eq!(TABLE, "cardea_guard");
    }
}
