//! systemd-resolved, told which names to ask of whom on an interface of ours.
//!
//! What it is told belongs to the interface and goes with it, so that there is nothing to undo.
//! `busctl` says it, which comes with the service. Source: org.freedesktop.resolve1(5).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

use crate::resolv_conf::ResolvConf;

/// The file that it keeps with the servers of all networks, for whom it does not answer itself.
pub const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// Where its own files are.
const FOLDER: &str = "/run/systemd/resolve";

/// Where it answers.
const STUB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 53));

/// How long it may take.
const CALL_TIME: Duration = Duration::from_secs(5);

/// Why it does not do what it is told. The environment is at fault.
#[derive(Debug, thiserror::Error)]
pub enum ResolvedError {
    /// The program is missing.
    #[error("busctl did not run")]
    Program(#[source] io::Error),
    /// It does not answer.
    #[error("systemd-resolved does not answer within {} s", CALL_TIME.as_secs())]
    Silent,
    /// It said no.
    #[error("{call}: {said}")]
    Refused {
        /// What it was told.
        call: &'static str,
        /// What it said.
        said: String,
    },
}

/// Whether programs of this machine ask it.
#[must_use]
pub fn is_asked(file: &ResolvConf) -> bool {
    let leads_to_it = std::fs::canonicalize(file.path()).is_ok_and(|at| at.starts_with(FOLDER));
    let names_it = || {
        let said = file.look().and_then(|found| file.said(&found));
        said.is_ok_and(|said| said.servers.iter().any(|server| server.ip() == STUB))
    };
    Path::new(FOLDER).exists() && (leads_to_it || names_it())
}

/// Has it ask `servers` for everything in `domains`, and for nothing else, through interface `index`.
///
/// # Errors
/// [`ResolvedError`]; the first call that failed is the last one.
pub async fn route(
    index: u32,
    servers: &[SocketAddr],
    domains: &[String],
) -> Result<(), ResolvedError> {
    for (call, words) in calls(index, servers, domains) {
        tell(call, &words).await?;
    }
    Ok(())
}

/// What it is told, in the words of `busctl`.
fn calls(
    index: u32,
    servers: &[SocketAddr],
    domains: &[String],
) -> Vec<(&'static str, Vec<String>)> {
    let index = index.to_string();
    let mut addresses = vec![index.clone(), servers.len().to_string()];
    for server in servers {
        let (family, octets) = match server.ip() {
            IpAddr::V4(v4) => (2, v4.octets().to_vec()),
            IpAddr::V6(v6) => (10, v6.octets().to_vec()),
        };
        addresses.extend([family.to_string(), octets.len().to_string()]);
        addresses.extend(octets.iter().map(ToString::to_string));
        // The port, and no name to check.
        addresses.extend([server.port().to_string(), String::new()]);
    }
    let mut routed = vec![index.clone(), domains.len().to_string()];
    for domain in domains {
        routed.extend([domain.clone(), "true".to_owned()]);
    }
    let one = |value: &str| vec![index.clone(), value.to_owned()];
    let mut unsigned = vec![index.clone(), domains.len().to_string()];
    unsigned.extend(domains.iter().cloned());
    let with = |kind: &str, words: Vec<String>| [vec![kind.to_owned()], words].concat();
    vec![
        ("SetLinkDNSEx", with("ia(iayqs)", addresses)),
        // The flag makes a domain one that routes and is not searched.
        ("SetLinkDomains", with("ia(sb)", routed)),
        ("SetLinkDefaultRoute", with("ib", one("false"))),
        // Nobody has signed what the stub answers, and other hosts do not know it.
        ("SetLinkDNSSEC", with("is", one("no"))),
        ("SetLinkDNSSECNegativeTrustAnchors", with("ias", unsigned)),
        ("SetLinkDNSOverTLS", with("is", one("no"))),
        ("SetLinkLLMNR", with("is", one("no"))),
        ("SetLinkMulticastDNS", with("is", one("no"))),
        ("FlushCaches", Vec::new()),
    ]
}

async fn tell(call: &'static str, words: &[String]) -> Result<(), ResolvedError> {
    let output = Command::new("busctl")
        .args(["--system", "--timeout=4", "call"])
        .args([
            "org.freedesktop.resolve1",
            "/org/freedesktop/resolve1",
            "org.freedesktop.resolve1.Manager",
            call,
        ])
        .args(words)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(CALL_TIME, output)
        .await
        .map_err(|_| ResolvedError::Silent)?
        .map_err(ResolvedError::Program)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said
        .lines()
        .next()
        .unwrap_or("it does not say why")
        .to_owned();
    Err(ResolvedError::Refused { call, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_have_their_signatures_values() {
        let servers = ["100.64.0.1:53".parse().unwrap()];
        let calls = calls(7, &servers, &["corp.example".to_owned()]);
        let text = |name: &str| {
            let (_, words) = calls.iter().find(|(call, _)| *call == name).unwrap();
            words.join(" ")
        };
        assert_eq!(text("SetLinkDNSEx"), "ia(iayqs) 7 1 2 4 100 64 0 1 53 ");
        assert_eq!(text("SetLinkDomains"), "ia(sb) 7 1 corp.example true");
        assert_eq!(text("SetLinkDefaultRoute"), "ib 7 false");
        assert_eq!(
            text("SetLinkDNSSECNegativeTrustAnchors"),
            "ias 7 1 corp.example"
        );
        assert_eq!(text("FlushCaches"), "");
    }
}
