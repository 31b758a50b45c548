//! Many tunnels at one connector and at one agent: what each takes of memory, what idle ones take of a core,
//! and whether one more opens, and one is revoked, as fast as when there are few.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use cardea_e2e::{deployment::Deployment, program::Program, traffic::WebServer};

use crate::{
    agent::{Agent, deployment},
    load::{first_byte_through_proxy, source},
    process::Process,
    report::{Report, Row, median, percentile},
    revoke::revoke,
};

/// Agents that share the tunnels.
const AGENTS: u32 = 10;

/// Openings at one time while tunnels are made.
const WORKERS: u32 = 8;

/// Openings and revocations that are timed with few tunnels, and with all.
const TIMED: u32 = 30;

/// How long idle programs are watched.
const WATCHED: Duration = Duration::from_secs(60);

/// Opens `tunnels` at one connector, a tenth of them from each of ten agents, over either carrier.
///
/// # Errors
/// When an app cannot be opened, or a tunnel is gone before its time.
pub(crate) fn run(report: &mut Report, tunnels: u32) -> Result<()> {
    for carrier in ["wireguard", "quic"] {
        over(report, carrier, tunnels.div_ceil(AGENTS))?;
    }
    Ok(())
}

/// One carrier, and `each` tunnels of each agent.
fn over(report: &mut Report, carrier: &str, each: u32) -> Result<()> {
    let deployment = deployment()?;
    let target = source()?;
    let web = WebServer::start("127.0.0.1:0", "page\n")?;
    publish(&deployment, carrier, each, (target, web.address))?;
    let connector = deployment.start_connector(None, "connector", "default")?;
    let connector = Watched::new(&connector)?;
    let first = Agent::start(&deployment, "agent-0")?;
    let agent = Watched::new(&first.daemon)?;
    if carrier == "wireguard" {
        report.add_figures([
            ("agent, no tunnel", agent.mib, Some(25.0), "MiB"),
            ("agent, no tunnel, idle", agent.percent()?, Some(0.1), CORE),
        ]);
    }
    let few = Times::take(&deployment, &first, "app", target.port())?;
    open_all(&first, each, target.port())?;
    let mut others = Vec::new();
    for number in 1..AGENTS {
        let other = Agent::start(&deployment, &format!("agent-{number}"))?;
        open_all(&other, each, target.port())?;
        others.push(other);
    }
    let total = each * AGENTS;
    let row = |what: &str| format!("{carrier}, {what}");
    let idle = format!("connector, {total} idle");
    let figures = [
        (connector.kib_for_each(total)?, connector.percent()?),
        (agent.kib_for_each(each)?, agent.percent()?),
    ];
    // After they were watched: that none of them is gone.
    let open =
        serde_json::from_str::<Vec<serde_json::Value>>(&deployment.ctl("grant ls -o json")?)?;
    let open = u32::try_from(open.len())?;
    ensure!(open >= total, "{open} of {total} tunnels are open");
    let [(at_connector, connector), (at_agent, agent)] = figures;
    report.add_figures([
        (
            &row("at the connector"),
            at_connector,
            Some(16.0),
            "KiB/tunnel",
        ),
        (&row("at an agent"), at_agent, Some(16.0), "KiB/tunnel"),
        (&row(&idle), connector, Some(0.5), CORE),
        (&row(&format!("agent, {each} idle")), agent, None, CORE),
    ]);
    let many = Times::take(&deployment, &first, "more", target.port())?;
    for (what, many, few) in [
        ("first byte, p50", many.opened, few.opened),
        ("revoke, p50", many.revoked, few.revoked),
    ] {
        report.add(Row {
            case: row(what),
            ours: median(&many),
            range: (percentile(&many, 0.0), percentile(&many, 1.0)),
            peer: Some(("with few".to_owned(), median(&few))),
            floor: None,
            goal: Some(1.0),
            unit: "ms",
        });
    }
    Ok(())
}

const CORE: &str = "% of a core";

/// Apps for all tunnels, for those that are timed when all are open, and one whose grant is revoked.
fn publish(
    deployment: &Deployment,
    carrier: &str,
    each: u32,
    (source, bulk): (SocketAddr, SocketAddr),
) -> Result<()> {
    let add = |app: &str, target| {
        let line = format!(
            "app add {app} --target {target} --allow-host-scoped --allow group:staff \
             --transport {carrier}"
        );
        deployment.ctl(&line).map(drop)
    };
    for index in 0..each.max(TIMED) {
        add(&format!("app-{index}"), source)?;
    }
    for index in 0..TIMED {
        add(&format!("more-{index}"), source)?;
    }
    add("timed", bulk)
}

/// A process with what it took when it was alone.
struct Watched {
    process: Process,
    mib: f64,
}

impl Watched {
    fn new(program: &Program) -> Result<Self> {
        let process = Process::of(program.id());
        let mib = process.resident_kib()? / 1_024.0;
        Ok(Self { process, mib })
    }

    /// What it takes more, for each of `count`.
    fn kib_for_each(&self, count: u32) -> Result<f64> {
        Ok((self.process.resident_kib()? - self.mib * 1_024.0) / f64::from(count))
    }

    /// The share of a core that it takes while nothing is asked of it.
    #[expect(clippy::disallowed_methods, reason = "there is nothing to wait for")]
    fn percent(&self) -> Result<f64> {
        let before = self.process.cpu()?;
        thread::sleep(WATCHED);
        let used = self.process.cpu()?.saturating_sub(before);
        Ok(used.as_secs_f64() / WATCHED.as_secs_f64() * 100.0)
    }
}

/// How long it takes to open one tunnel more, and to revoke one, in milliseconds.
struct Times {
    opened: Vec<f64>,
    revoked: Vec<f64>,
}

impl Times {
    /// Opens those apps of `agent` whose names begin so, and revokes another one as often.
    fn take(deployment: &Deployment, agent: &Agent, apps: &str, port: u16) -> Result<Self> {
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        let open = |index| first_byte_through_proxy(&agent.proxy, &format!("{apps}-{index}"), port);
        let opened = (0..TIMED).map(|index| open(index).map(ms));
        let opened = opened.collect::<Result<_>>()?;
        let (_forward, address) = deployment.forward(None, &agent.name, "timed")?;
        let revoked = (0..TIMED).map(|_| revoke(deployment, "timed", &address).map(ms));
        let revoked = revoked.collect::<Result<_>>()?;
        Ok(Self { opened, revoked })
    }
}

/// Opens all the apps of one agent, some at a time.
fn open_all(agent: &Agent, apps: u32, port: u16) -> Result<()> {
    let next = Arc::new(AtomicU32::new(0));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (next, proxy) = (Arc::clone(&next), agent.proxy.clone());
            thread::spawn(move || -> Result<()> {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= apps {
                        return Ok(());
                    }
                    first_byte_through_proxy(&proxy, &format!("app-{index}"), port)?;
                }
            })
        })
        .collect();
    for worker in workers {
        worker
            .join()
            .map_err(|_| anyhow!("an opening panicked"))??;
    }
    Ok(())
}
