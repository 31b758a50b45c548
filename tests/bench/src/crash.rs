//! Kills a controller at random moments, under load, and asks what it still knows.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a client hears what it waits for and passes over the rest"
)]

mod clients;
mod facts;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment},
    program::{free_port, now},
};
use rand_core::{OsRng, RngCore};
use rustix::process::Signal;

use self::{
    clients::{Admin, Shared},
    facts::Facts,
};
use crate::report::Report;

/// Clients that enroll, renew, open and revoke at the same time.
const CLIENTS: usize = 48;

/// Longest time between two kills, in milliseconds.
const LIFE_MS: u64 = 600;

/// Operations of the disk, some of them before it serves, among which one is chosen to die at.
const POINTS: u64 = 600;

/// How soon a killed controller must serve again.
const RETURN: f64 = 2.0;

/// Kills `kills` times.
///
/// # Errors
/// When something that was acknowledged is not there, or the ledger does not verify.
pub(crate) fn run(report: &mut Report, kills: u32) -> Result<()> {
    let mut campaign = Campaign::new()?;
    kill(&mut campaign, report, kills).map_err(|error| {
        let kept = campaign.deployment.keep();
        error.context(format!("the state is kept in {}", kept.display()))
    })
}

fn kill(campaign: &mut Campaign, report: &mut Report, kills: u32) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut slowest: f64 = 0.0;
    let mut deaths = 0_u32;
    for kill in 0..kills {
        let begin = now();
        // Every other one dies by itself, at some operation of its disk.
        let point = match kill % 2 {
            0 => 0,
            _ => 1 + OsRng.next_u64() % POINTS,
        };
        if let Err(error) = campaign.start(point) {
            ensure!(point > 0, "the controller does not come back: {error:#}");
            // It died before it served; one that refuses to start would refuse again.
            campaign.start(0)?;
            campaign.deployment.controller()?.signal(Signal::KILL)?;
            campaign.deployment.controller()?.wait()?;
            campaign.deployment.verify_ledger()?;
            deaths += 1;
            continue;
        }
        slowest = slowest.max(now().duration_since(begin).as_secs_f64());
        let life = Duration::from_millis(OsRng.next_u64() % LIFE_MS);
        runtime.block_on(campaign.live(life))?;
        campaign.deployment.verify_ledger()?;
        deaths += 1;
    }
    campaign.start(0)?;
    runtime.block_on(campaign.check())?;
    campaign.deployment.stop_controller()?;
    campaign.deployment.verify_ledger()?;
    let facts = &campaign.shared.facts;
    report.add_figures([
        ("kills", f64::from(deaths), None, ""),
        ("acknowledged facts", facts.acknowledged(), None, ""),
        ("lost", facts.lost(), Some(0.0), ""),
        ("half-applied", facts.half_applied(), Some(0.0), ""),
        ("codes used twice", facts.used_twice(), Some(0.0), ""),
        ("slowest return", slowest, Some(RETURN), "s"),
    ]);
    let bad = facts.describe();
    ensure!(bad.is_empty(), "{bad}");
    Ok(())
}

/// One deployment whose controller dies again and again.
struct Campaign {
    deployment: Deployment,
    shared: Arc<Shared>,
    ports: (u16, u16),
}

impl Campaign {
    fn new() -> Result<Self> {
        let deployment = Deployment::new()?;
        let ports = (free_port()?, free_port()?);
        let shared = Arc::new(Shared {
            state: deployment.path("controller"),
            address: ([127, 0, 0, 1], ports.0).into(),
            facts: Facts::default(),
        });
        let mut this = Self {
            deployment,
            shared,
            ports,
        };
        this.start(0)?;
        this.deployment
            .ctl("app add wiki --target 10.9.0.10:80 --allow group:staff --transport quic")?;
        this.deployment.stop_controller()?;
        Ok(this)
    }

    /// Starts it; with a `point`, it dies there.
    fn start(&mut self, point: u64) -> Result<()> {
        let point = point.to_string();
        self.deployment.start_controller(&ControllerOptions {
            port: self.ports.0,
            relay_port: self.ports.1,
            environment: &[("CARDEA_FAILPOINT", &point)],
            ..Default::default()
        })
    }

    /// Lets everybody work for a while, kills the controller, and starts the next round with a look
    /// at what it should know.
    async fn live(&mut self, life: Duration) -> Result<()> {
        // It may die while it is asked.
        if let Err(error) = self.check().await
            && !self.is_dying().await?
        {
            return Err(error);
        }
        let mut clients = tokio::task::JoinSet::new();
        clients.spawn(clients::connector(Arc::clone(&self.shared)));
        for number in 0..CLIENTS {
            clients.spawn(clients::device(Arc::clone(&self.shared), number));
        }
        tokio::time::sleep(life).await;
        if self.deployment.controller()?.is_alive()? {
            self.deployment.controller()?.signal(Signal::KILL)?;
        }
        self.deployment.controller()?.wait()?;
        clients.shutdown().await;
        Ok(())
    }

    /// Whether the controller ends now: its sockets close before the process is gone.
    async fn is_dying(&mut self) -> Result<bool> {
        for _ in 0..40 {
            if !self.deployment.controller()?.is_alive()? {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(false)
    }

    /// Reads what the ledger has gained, and holds what was acknowledged against it.
    async fn check(&self) -> Result<()> {
        let mut admin = Admin::connect(&self.shared.state)
            .await
            .context("the controller that came back takes no admin")?;
        self.shared.facts.read(&mut admin).await?;
        clients::try_used_codes(&self.shared).await;
        Ok(())
    }
}
