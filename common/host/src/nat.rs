//! Forwarding and source translation by the kernel, as one nftables table of our own.
//!
//! The rules are written in one transaction that first takes away what an earlier process left, so
//! that setting them twice is setting them once; they go when this is dropped. `nft` makes them, which
//! every distribution has and which alone keeps up with its kernel.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

use crate::tun::Prefix;

/// The rules of one interface, in force.
#[derive(Debug)]
pub struct Nat {
    /// Whether this host forwarded nothing before.
    forwarding_was_off: bool,
    /// Whether the kernel forwards IPv6 as well.
    forwards_v6: bool,
}

/// Why there is no translation. The environment is at fault.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// The program is missing.
    #[error("nft is missing: install nftables")]
    NoProgram,
    /// The rules were not taken.
    #[error("nft refused the rules: {0}")]
    Refused(String),
    /// The kernel does not let this process forward.
    #[error("{FORWARD_V4} cannot be set: {0}")]
    NoForwarding(#[source] io::Error),
    /// Anything else.
    #[error("nft did not run")]
    Io(#[source] io::Error),
}

impl Nat {
    /// Forwards between `interface` and the host's networks, for packets from `ranges` alone, which
    /// leave with the host's own addresses. Nothing begins a conversation towards the interface, and a
    /// host that was no router before forwards nothing else.
    ///
    /// IPv6 is forwarded only where it was already: switching it on would make the host ignore the
    /// routers that announce themselves to it.
    ///
    /// # Errors
    /// [`NatError`].
    pub fn set(interface: &str, ranges: [Prefix; 2]) -> Result<Self, NatError> {
        let is_on = |path: &str| {
            std::fs::read_to_string(path).is_ok_and(|text| text.trim().starts_with('1'))
        };
        // A process that was killed left both the switch and the rule that it was off before.
        let forwarding_was_off = !is_on(FORWARD_V4) || left_over(interface)?;
        let nat = Self {
            forwarding_was_off,
            forwards_v6: is_on(FORWARD_V6),
        };
        run(&rules(interface, ranges, forwarding_was_off))?;
        if forwarding_was_off {
            std::fs::write(FORWARD_V4, "1").map_err(NatError::NoForwarding)?;
        }
        Ok(nat)
    }

    /// Whether the kernel forwards IPv6 as well.
    #[must_use]
    pub const fn forwards_v6(&self) -> bool {
        self.forwards_v6
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        if self.forwarding_was_off
            && let Err(error) = std::fs::write(FORWARD_V4, "0")
        {
            tracing::warn!(%error, "this host goes on forwarding");
        }
        if let Err(error) = run(&format!("delete table inet {TABLE}\n")) {
            tracing::warn!(%error, "our nftables table stays");
        }
    }
}

/// Whether an earlier process switched forwarding on and did not get to switch it off.
fn left_over(interface: &str) -> Result<bool, NatError> {
    let output = Command::new("nft")
        .args(["list", "table", "inet", TABLE])
        .stdin(Stdio::null())
        .output()
        .map_err(missing)?;
    Ok(String::from_utf8_lossy(&output.stdout).contains(&no_router(interface)))
}

/// The rule of a host that forwards nothing else, as nft shows it.
fn no_router(interface: &str) -> String {
    format!("iifname != \"{interface}\" oifname != \"{interface}\" drop")
}

fn missing(error: io::Error) -> NatError {
    if error.kind() == io::ErrorKind::NotFound {
        NatError::NoProgram
    } else {
        NatError::Io(error)
    }
}

fn rules(interface: &str, [v4, v6]: [Prefix; 2], was_off: bool) -> String {
    let other = if was_off {
        no_router(interface)
    } else {
        String::new()
    };
    format!(
        "table inet {TABLE} {{}}
delete table inet {TABLE}
table inet {TABLE} {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname \"{interface}\" ct state established,related accept
    oifname \"{interface}\" drop
    iifname \"{interface}\" ip saddr {}/{} accept
    iifname \"{interface}\" ip6 saddr {}/{} accept
    iifname \"{interface}\" drop
    {other}
  }}
  chain source {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname != \"{interface}\" ip saddr {}/{} masquerade
    oifname != \"{interface}\" ip6 saddr {}/{} masquerade
  }}
}}
",
        v4.address, v4.bits, v6.address, v6.bits, v4.address, v4.bits, v6.address, v6.bits
    )
}

fn run(rules: &str) -> Result<(), NatError> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(rules.as_bytes()).map_err(NatError::Io)?;
    }
    let output = nft.wait_with_output().map_err(NatError::Io)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("it does not say why");
    Err(NatError::Refused(first.to_owned()))
}

const TABLE: &str = "cardea";
const FORWARD_V4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
