//! A scanner, nmap, in the hands of a stranger.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    namespace::Namespace,
    program::{Program, now, run_ok},
};

/// Ports, or protocols, and all that a scanner says of each: its state, and what it takes to be there.
pub type Seen = Vec<(String, String)>;

/// A port that says nothing, as a scanner calls it.
pub const SILENT: &str = "open|filtered";

/// A scanner on a stranger's host, and whom it scans.
#[derive(Clone, Copy, Debug)]
pub struct Scanner<'a> {
    /// Where it runs.
    pub from: &'a Namespace,
    /// Whom it scans: an address of either family.
    pub target: &'a str,
}

impl Scanner<'_> {
    /// Scans as the words of `kind` say, and returns what came of it.
    ///
    /// # Errors
    /// When there is no result.
    pub fn scan(&self, kind: &str) -> Result<Seen> {
        seen(&run_ok(self.command(kind))?)
    }

    /// Begins a scan, of which [`finish`] tells.
    ///
    /// # Errors
    /// When nmap does not start.
    pub fn begin(&self, kind: &str) -> Result<Program> {
        Program::start("nmap", self.command(kind))
    }

    fn command(&self, kind: &str) -> std::process::Command {
        let family = self.target.contains(':').then_some("-6");
        let words = kind.split_whitespace().chain(TIMING.split_whitespace());
        let words = words.chain(family).chain([self.target]);
        self.from.command("nmap", words)
    }
}

/// What came of a scan that was begun.
///
/// # Errors
/// When it does not end, or has no result.
pub fn finish(mut scan: Program) -> Result<Seen> {
    let deadline = now() + SCAN_TIME;
    let code = loop {
        match scan.wait() {
            Err(_) if now() < deadline && scan.is_alive()? => {}
            ended => break ended?,
        }
    };
    ensure!(code == Some(0), "nmap: {code:?}: {}", scan.said());
    seen(&scan.said())
}

/// `Host: 10.77.0.1 () Ports: 4009/closed/udp//a-name///, 7443/open|filtered/udp//…`
fn seen(said: &str) -> Result<Seen> {
    let ports = said.lines().find_map(|line| line.split_once("Ports: "));
    let ports = ports.or_else(|| said.lines().find_map(|line| line.split_once("Protocols: ")));
    let (_, ports) = ports.with_context(|| format!("no result: {said}"))?;
    let ports = ports.split('\t').next().unwrap_or_default();
    let of = |port: &str| {
        let (port, rest) = port.trim().split_once('/')?;
        Some((port.to_owned(), rest.to_owned()))
    };
    Ok(ports.split(", ").filter_map(of).collect())
}

/// Whether a scanner saw this state, and no more of what may be there than a number tells.
#[must_use]
pub fn is_state(said: &str, state: &str) -> bool {
    said.split('/').next() == Some(state)
}

/// Writes nmap's probes to `file` with the shortest wait for an answer that it takes, a tenth of a second.
/// Every one is still sent; with its own waits of 5 s a silent port takes minutes.
///
/// # Errors
/// When nmap's own are not there.
pub fn write_quick_probes(file: &Path) -> Result<()> {
    let known = fs::read_to_string(PROBES).context(PROBES)?;
    let mut quick = String::new();
    for line in known.lines() {
        if line.starts_with("totalwaitms") || line.starts_with("tcpwrappedms") {
            continue;
        }
        writeln!(quick, "{line}")?;
        if line.starts_with("Probe ") {
            writeln!(quick, "totalwaitms 100")?;
        }
    }
    Ok(fs::write(file, quick)?)
}

/// How long a scan may take, which on a busy machine is many times what it takes on an idle one: 10 s.
const SCAN_TIME: Duration = Duration::from_secs(300);

/// Where nmap has what it asks services.
pub const PROBES: &str = "/usr/share/nmap/nmap-service-probes";

/// Hosts are side by side, and none is looked for.
const TIMING: &str =
    "-Pn -n --max-retries 1 --initial-rtt-timeout 100ms --max-rtt-timeout 200ms -oG -";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nmap_writes_is_read() {
        let said = "# Nmap\nHost: 10.77.0.1 ()\tStatus: Up\nHost: 10.77.0.1 ()\tPorts: \
                    22/closed/tcp//ssh///, 443/open/tcp//https///\tIgnored State: filtered (1)\n";
        let port = |port: &str, rest: &str| (port.to_owned(), rest.to_owned());
        let expected = [
            port("22", "closed/tcp//ssh///"),
            port("443", "open/tcp//https///"),
        ];
        assert_eq!(seen(said).unwrap(), expected);
        assert!(is_state(&expected[1].1, "open") && !is_state(&expected[0].1, "open"));
        assert!(seen("nothing").is_err());
    }
}
