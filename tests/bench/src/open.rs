//! First byte through a new tunnel, from the request at the local socket, all on one machine.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Result, anyhow};
use cardea_e2e::{
    deployment::Deployment,
    program::{PATIENCE, now, run as run_program},
};

use crate::{
    agent::{Agent, deployment},
    load::{first_byte_through_proxy, source},
    report::{Report, Row},
};

/// Apps that the agents open.
const APPS: usize = 50;

/// Agents that open them at the same time, ten tunnels each.
const AGENTS: usize = 100;

/// Tunnels of one agent.
const TUNNELS_EACH: usize = 10;

/// Measures `rounds` openings one after the other, then a thousand at once.
///
/// # Errors
/// When an app cannot be opened.
pub(crate) fn run(report: &mut Report, rounds: u32) -> Result<()> {
    let deployment = deployment()?;
    let target = source()?;
    for app in 0..APPS {
        deployment.ctl(&format!(
            "app add app-{app} --target {target} --allow-host-scoped --allow group:staff"
        ))?;
    }
    let _connector = deployment.start_connector(None, "connector", "default")?;
    let port = target.port();
    let first = Agent::start(&deployment, "agent-0")?;
    for carrier in ["quic", "wireguard"] {
        deployment.ctl(&format!("app set app-0 --transport {carrier} --yes"))?;
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(reopen(&first.proxy, port)?);
            end_grants(&deployment)?;
        }
        report.add_times(
            &format!("first byte, {carrier}"),
            &times,
            (25.0, 100.0),
            (8.0, 30.0),
        );
    }
    at_once(report, &deployment, first, port)
}

/// Opens `app-0` anew; for a moment after a withdrawal an agent does not ask again, and that moment
/// is not counted.
fn reopen(proxy: &str, port: u16) -> Result<Duration> {
    let deadline = now() + PATIENCE;
    loop {
        match first_byte_through_proxy(proxy, "app-0", port) {
            Err(_) if now() < deadline => thread::yield_now(),
            result => return result,
        }
    }
}

/// Ends all grants, so that the next request needs a new tunnel.
fn end_grants(deployment: &Deployment) -> Result<()> {
    let grants: serde_json::Value = serde_json::from_str(&deployment.ctl("grant ls -o json")?)?;
    for grant in grants.as_array().into_iter().flatten() {
        if let Some(id) = grant["id"].as_str() {
            deployment.ctl(&format!("grant revoke {id} --yes"))?;
        }
    }
    Ok(())
}

/// A thousand tunnels to fifty apps from a hundred agents, all asked for in the same moment.
fn at_once(report: &mut Report, deployment: &Deployment, first: Agent, port: u16) -> Result<()> {
    let mut agents = vec![first];
    for agent in 1..AGENTS {
        agents.push(Agent::start(deployment, &format!("agent-{agent}"))?);
    }
    let start = now();
    let openings: Vec<_> = (0..AGENTS * TUNNELS_EACH)
        .map(|opening| {
            let agent = agents
                .get(opening / TUNNELS_EACH)
                .map(|agent| agent.proxy.clone());
            let app = (opening / TUNNELS_EACH * 7 + opening % TUNNELS_EACH) % APPS;
            let app = format!("app-{app}");
            let name = app.clone();
            let opened = thread::spawn(move || -> Result<Duration> {
                let proxy = agent.ok_or_else(|| anyhow!("no agent"))?;
                first_byte_through_proxy(&proxy, &name, port)
            });
            (opening / TUNNELS_EACH, app, opened)
        })
        .collect();
    let mut errors = 0_u32;
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    let mut times = Vec::new();
    for (agent, app, opened) in openings {
        match opened.join().map_err(|_| anyhow!("an opening panicked"))? {
            Ok(time) => times.push(time.as_secs_f64() * 1_000.0),
            Err(error) => {
                errors += 1;
                let why = why_not(deployment, agent, &app).unwrap_or_default();
                *kinds.entry(format!("{error}; {why}")).or_default() += 1;
            }
        }
    }
    for (kind, count) in &kinds {
        eprintln!("{count} openings failed: {kind}");
    }
    let took = now().duration_since(start).as_secs_f64() * 1_000.0;
    let range = (
        crate::report::percentile(&times, 0.0),
        crate::report::percentile(&times, 1.0),
    );
    for (case, ours, floor) in [
        (
            "1,000 tunnels at once, errors",
            f64::from(errors),
            Some(0.0),
        ),
        ("1,000 tunnels at once, all open", took, None),
        (
            "1,000 tunnels at once, p50",
            crate::report::median(&times),
            None,
        ),
    ] {
        let unit = if floor.is_some() { "errors" } else { "ms" };
        report.add(Row {
            case: case.to_owned(),
            ours,
            range,
            peer: None,
            floor,
            goal: None,
            unit,
        });
    }
    Ok(())
}

/// What an agent says of an app that it could not open.
fn why_not(deployment: &Deployment, agent: usize, app: &str) -> Result<String> {
    let command = deployment.cardea(None, &format!("agent-{agent}"), "status -o json");
    let status: serde_json::Value = serde_json::from_slice(&run_program(command)?.stdout)?;
    let rows = status.get("apps").and_then(|apps| apps.as_array());
    let mut rows = rows.into_iter().flatten();
    let row = rows.find(|row| row.get("name").is_some_and(|name| name == app));
    let why = row.and_then(|row| row.get("why"));
    Ok(why.map(ToString::to_string).unwrap_or_default())
}
