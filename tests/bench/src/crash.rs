//! Kills a controller under load, at random moments and at operations of its disk, and asks what it
//! still knows.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a client hears what it waits for and passes over the rest"
)]

pub(crate) mod clients;
pub(crate) mod facts;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment},
    program::{free_port, now},
};
use cardea_proto::admin::{AdminAnswer, AdminQuery};
use rand_core::{OsRng, RngCore};
use rustix::process::Signal;

use self::{
    clients::{Admin, Shared},
    facts::Facts,
};
use crate::report::Report;

/// Clients that enroll, renew, open and revoke at the same time, all of them under one connector.
const CLIENTS: usize = 50;

/// Longest time until a kill at a random moment, in milliseconds.
const LIFE_MS: u64 = 600;

/// How long a controller may take to come to the operation of the disk at which it dies.
const POINT_TIME: Duration = Duration::from_secs(10);

/// Operations of the disk, some of them before it serves, among which one is chosen to die at.
const POINTS: u64 = 600;

/// How soon a killed controller must serve again.
const RETURN: f64 = 2.0;

/// Kills of one state: its whole ledger is verified after each, which a thousand would make the longer
/// the longer it is.
const KILLS_EACH: usize = 100;

/// Kills `kills` times.
///
/// # Errors
/// When something that was acknowledged is not there, or the ledger does not verify.
pub(crate) fn run(report: &mut Report, kills: u32) -> Result<()> {
    let mut total = Total::default();
    for done in (0..kills).step_by(KILLS_EACH) {
        let count = (kills - done).min(u32::try_from(KILLS_EACH)?);
        let mut campaign = Campaign::new()?;
        kill(&mut campaign, &mut total, count).map_err(|error| {
            let kept = campaign.deployment.keep();
            error.context(format!("the state is kept in {}", kept.display()))
        })?;
        eprintln!(
            "{} kills, {} facts, {} lost",
            done + count,
            total.acknowledged,
            total.lost
        );
    }
    report.add_figures([
        (
            "kills",
            f64::from(total.at_points + total.at_moments),
            None,
            "",
        ),
        (
            "at operations of the disk",
            f64::from(total.at_points),
            None,
            "",
        ),
        ("at random moments", f64::from(total.at_moments), None, ""),
        ("acknowledged facts", total.acknowledged, None, ""),
        ("lost", total.lost, Some(0.0), ""),
        ("half-applied", total.half_applied, Some(0.0), ""),
        ("codes used twice", total.used_twice, Some(0.0), ""),
        ("slowest return", total.slowest, Some(RETURN), "s"),
    ]);
    Ok(())
}

/// What came of all states.
#[derive(Debug, Default)]
struct Total {
    at_points: u32,
    at_moments: u32,
    acknowledged: f64,
    lost: f64,
    half_applied: f64,
    used_twice: f64,
    /// Seconds until a controller served again.
    slowest: f64,
}

impl Total {
    fn add(&mut self, facts: &Facts) {
        self.acknowledged += facts.acknowledged();
        self.lost += facts.lost();
        self.half_applied += facts.half_applied();
        self.used_twice += facts.used_twice();
    }
}

fn kill(campaign: &mut Campaign, total: &mut Total, kills: u32) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    for kill in 0..kills {
        let begin = now();
        // Every other one dies by itself, at some operation of its disk.
        let point = match kill % 2 {
            0 => None,
            _ => Some(1 + OsRng.next_u64() % POINTS),
        };
        if let Err(error) = campaign.start(point) {
            ensure!(
                point.is_some(),
                "the controller does not come back: {error:#}"
            );
            // It died before it served; one that refuses to start would refuse again.
            campaign.verify()?;
            campaign.start(None)?;
            campaign.deployment.controller()?.signal(Signal::KILL)?;
            campaign.deployment.controller()?.wait()?;
            campaign.verify()?;
            total.at_points += 1;
            continue;
        }
        total.slowest = total.slowest.max(now().duration_since(begin).as_secs_f64());
        match runtime.block_on(campaign.live(point.is_some()))? {
            Death::AtPoint => total.at_points += 1,
            Death::AtMoment => total.at_moments += 1,
        }
        campaign.verify()?;
    }
    campaign.start(None)?;
    runtime.block_on(campaign.check())?;
    campaign.deployment.stop_controller()?;
    campaign.verify()?;
    let facts = &campaign.shared.facts;
    total.add(facts);
    let bad = facts.describe();
    ensure!(bad.is_empty(), "{bad}");
    Ok(())
}

/// How a controller died.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// By itself, at an operation of its disk.
    AtPoint,
    /// Killed while it was doing anything.
    AtMoment,
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
        this.start(None)?;
        this.deployment
            .ctl("app add wiki --target 10.9.0.10:80 --allow group:staff --transport quic")?;
        this.deployment.stop_controller()?;
        Ok(this)
    }

    /// Starts it; with a `point`, it dies there.
    fn start(&mut self, point: Option<u64>) -> Result<()> {
        let point = point.unwrap_or(0).to_string();
        self.deployment.start_controller(&ControllerOptions {
            port: self.ports.0,
            relay_port: self.ports.1,
            environment: &[("CARDEA_FAILPOINT", &point)],
            ..Default::default()
        })
    }

    /// What an auditor says of what is there, by itself and since the checkpoint that he kept.
    fn verify(&self) -> Result<()> {
        self.deployment.verify_ledger()?;
        let kept = self.kept();
        match kept.exists() {
            true => self.deployment.verify_ledger_since(&kept),
            false => Ok(()),
        }
    }

    fn kept(&self) -> PathBuf {
        self.deployment.path("kept.checkpoint")
    }

    /// Looks at what the controller should know and lets everybody work, until the controller dies
    /// at its point, or for a while and then kills it.
    async fn live(&mut self, has_point: bool) -> Result<Death> {
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
        if has_point {
            let deadline = now() + POINT_TIME;
            while now() < deadline && self.deployment.controller()?.is_alive()? {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        } else {
            tokio::time::sleep(Duration::from_millis(OsRng.next_u64() % LIFE_MS)).await;
        }
        let death = match self.deployment.controller()?.is_alive()? {
            true => {
                self.deployment.controller()?.signal(Signal::KILL)?;
                Death::AtMoment
            }
            false => Death::AtPoint,
        };
        self.deployment.controller()?.wait()?;
        clients.shutdown().await;
        Ok(death)
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
        if let AdminAnswer::Checkpoint(note) = admin.query(AdminQuery::Checkpoint).await? {
            std::fs::write(self.kept(), note)?;
        }
        clients::try_used_codes(&self.shared).await;
        Ok(())
    }
}
