//! How long an open bulk flow lives after its grant was revoked or posture broke, from the commit.

use std::{
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cardea_e2e::{
    deployment::{Deployment, GOOD_FACTS},
    program::{self, now},
    traffic::{Bulk, WebServer},
};
use cardea_proto::time::UnixMillis;

use crate::{agent::deployment, report::Report};

/// Longest time to wait for a flow to be cut.
const LIMIT: Duration = Duration::from_secs(10);

/// How often one device breaks: more would need more room in the ledger than a device has.
const BREAKS_EACH: usize = 20;

/// A flow that has brought nothing for so long is not cut, it hangs.
const STALL: Duration = Duration::from_millis(20);

/// Measures `rounds` revocations and as many broken postures.
///
/// # Errors
/// When a flow is not cut, or anything of the deployment fails.
pub(crate) fn run(report: &mut Report, rounds: u32) -> Result<()> {
    let deployment = deployment()?;
    deployment.ctl("policy apply --recommended --yes")?;
    let web = WebServer::start("127.0.0.1:0", "page\n")?;
    for carrier in ["quic", "wireguard"] {
        let target = web.address;
        deployment.ctl(&format!(
            "app add {carrier} --target {target} --allow-host-scoped --allow group:staff --transport {carrier}"
        ))?;
    }
    let _connector = deployment.start_connector(None, "connector", "default")?;
    let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
    let user = "alice@corp.example";
    let _laptop = deployment.start_device(None, "laptop", user, "staff", Some(&facts))?;
    for carrier in ["quic", "wireguard"] {
        let (_forward, address) = deployment.forward(None, "laptop", carrier)?;
        let revoked = (0..rounds).map(|_| revoke(&deployment, carrier, &address));
        let revoked = revoked.collect::<Result<Vec<_>>>()?;
        report.add_times(
            &format!("revoke, {carrier}"),
            &revoked,
            (20.0, 100.0),
            (5.0, 20.0),
        );
        let mut broken = Vec::new();
        for begun in (0..rounds).step_by(BREAKS_EACH) {
            let tries = (rounds - begun).min(u32::try_from(BREAKS_EACH)?);
            let device = format!("{carrier}-{begun}");
            broken.extend(break_posture(&deployment, carrier, &device, tries)?);
        }
        report.add_times(
            &format!("posture breaks, {carrier}"),
            &broken,
            (20.0, 100.0),
            (5.0, 20.0),
        );
    }
    Ok(())
}

/// How long a bulk flow through `address` lives after the grant on `app`, which nobody else has, was revoked.
///
/// # Errors
/// When it is not cut.
pub(crate) fn revoke(deployment: &Deployment, app: &str, address: &str) -> Result<Duration> {
    let reader = open(address)?;
    let id = grant_of(deployment, app)?;
    cut(deployment, reader, &id, || {
        deployment
            .ctl(&format!("grant revoke {id} --yes"))
            .map(drop)
    })
}

/// Breaks and mends the posture of a new device, over and over.
fn break_posture(
    deployment: &Deployment,
    app: &str,
    device: &str,
    tries: u32,
) -> Result<Vec<Duration>> {
    let facts = deployment.write_facts(device, GOOD_FACTS)?;
    let user = "bob@corp.example";
    let _device = deployment.start_device(None, device, user, "staff", Some(&facts))?;
    let (_forward, address) = deployment.forward(None, device, app)?;
    let broken = GOOD_FACTS.replace("\"disk.encrypted\": true", "\"disk.encrypted\": false");
    let one = |_| {
        let reader = open(&address)?;
        let id = grant_of(deployment, app)?;
        let took = cut(deployment, reader, &id, || {
            deployment.write_facts(device, &broken).map(drop)
        })?;
        deployment.write_facts(device, GOOD_FACTS)?;
        wait_until_compliant(deployment, device)?;
        Ok(took)
    };
    (0..tries).map(one).collect()
}

fn wait_until_compliant(deployment: &Deployment, device: &str) -> Result<()> {
    let deadline = now() + LIMIT;
    while now() < deadline {
        let status = program::run(deployment.cardea(None, device, "status -o json"))?;
        let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
        if status.pointer("/posture/compliant") == Some(&true.into()) {
            return Ok(());
        }
    }
    bail!("posture does not recover")
}

/// Reads a flow until it is cut, and tells when its last byte came.
type Reader = JoinHandle<Result<Instant>>;

/// Opens a bulk flow that is read from now on; for a moment after a withdrawal an agent does not
/// ask again.
fn open(address: &str) -> Result<Reader> {
    let deadline = now() + LIMIT;
    loop {
        match Bulk::open(address) {
            Ok(bulk) => return Ok(std::thread::spawn(move || bulk.last_byte(LIMIT))),
            Err(error) if now() >= deadline => return Err(error),
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// The open grant on `app`.
fn grant_of(deployment: &Deployment, app: &str) -> Result<String> {
    let grants: serde_json::Value = serde_json::from_str(&deployment.ctl("grant ls -o json")?)?;
    let grants = grants.as_array().context("grant ls prints no array")?;
    let grant = grants
        .iter()
        .find(|grant| grant["app"] == app)
        .context("no grant")?;
    Ok(grant["id"]
        .as_str()
        .context("a grant without id")?
        .to_owned())
}

/// Time from the commit of the grant's end to the last byte.
///
/// An entry carries the wall time at which it was planned, which is before it was durable: the
/// figure errs against us, by the time of one commit.
fn cut(
    deployment: &Deployment,
    reader: Reader,
    id: &str,
    act: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let anchor = (now(), wall());
    act()?;
    let last = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    let last = anchor.1 + last.saturating_duration_since(anchor.0);
    let entries: serde_json::Value =
        serde_json::from_str(&deployment.ctl("audit tail -n 20 -o json")?)?;
    let entries = entries.as_array().context("audit tail prints no array")?;
    let ended = entries.iter().rev().find(|entry| {
        let text = entry
            .pointer("/draft/changes")
            .map(ToString::to_string)
            .unwrap_or_default();
        text.contains("grant_ended") && text.contains(id)
    });
    let at = ended
        .and_then(|entry| UnixMillis::from_rfc3339(entry.pointer("/draft/at")?.as_str()?))
        .context("no end of the grant")?;
    let at = Duration::from_millis(at.0);
    // Bytes come in bursts: when the last one was before the commit, the figure is 0.
    ensure!(
        last + STALL >= at,
        "the flow had stalled for {:?} when it was cut",
        at.saturating_sub(last)
    );
    Ok(last.saturating_sub(at))
}

#[expect(
    clippy::disallowed_methods,
    reason = "compares with the stamps of the ledger"
)]
fn wall() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}
