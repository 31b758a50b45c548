//! Probes at every port of a host that runs everything of ours, in every phase of its life, and what
//! garbage costs.
//!
//! What answers is counted by the host's own rules, behind everything that could hold it back: not one
//! packet may leave for the stranger's address.
#![expect(
    clippy::disallowed_types,
    reason = "a stranger uses sockets as he likes"
)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    dark::{Resting, Target, probe_a_life},
    needs,
    program::now,
    stranger::probe,
};

use crate::{process::Process, report::Report};

/// Garbage a second while its cost is measured.
const RATE: u32 = 50_000;

/// How long its cost is measured.
const COST_TIME: Duration = Duration::from_secs(10);

/// One of many datagrams, by its number.
type Garbage<'a> = dyn Fn(u64) -> Vec<u8> + Sync + 'a;

/// Percent of a core that 10,000 packets of garbage a second may cost.
const COST_MAX: f64 = 2.0;

/// Megabytes that half a million packets of garbage may leave behind.
const GROWN_MAX: f64 = 1.0;

/// Sends `probes` probes.
///
/// # Errors
/// When something of the deployment fails: a node must get in while strangers knock.
pub(crate) fn run(report: &mut Report, probes: u64) -> Result<()> {
    ensure!(needs::root_and(&["ip", "nft"]), "darkness needs root");
    let (probed, costs) = probe_a_life(probes, |resting| {
        let mut costs = Vec::new();
        for target in resting.targets {
            let forgery = |number| target.hears.forgery(number);
            let kinds: [(_, &Garbage<'_>); 2] =
                [("of every shape", &probe), ("that looks right", &forgery)];
            for (kind, garbage) in kinds {
                costs.push((target.clone(), kind, cost(&resting, target, garbage)?));
            }
        }
        Ok(costs)
    })?;
    let answers = probed.answers;
    report.demand(
        answers == 0,
        &format!("{answers} packets left for the stranger"),
    );
    report.add_figures([
        ("probes", count(probed.sent), None, ""),
        ("answers", count(answers), Some(0.0), ""),
    ]);
    for (target, kind, cost) in costs {
        let port = target.address.port();
        let at = format!("{} at port {port}, {kind}", target.program);
        let mib = cost.grown_kib / 1_024.0;
        report.demand(
            cost.percent <= COST_MAX,
            &format!("garbage is dear at the {at}"),
        );
        report.demand(mib <= GROWN_MAX, &format!("memory grows at the {at}"));
        let cpu = format!("CPU for 10,000 of garbage a second, {at}");
        report.add_figures([
            (&*cpu, cost.percent, Some(COST_MAX), "% of a core"),
            (
                &*format!("garbage that was judged, {at}"),
                cost.judged,
                None,
                "/s",
            ),
            (
                &*format!("memory grown under it, {at}"),
                mib,
                Some(GROWN_MAX),
                "MiB",
            ),
        ]);
    }
    for (phase, sent) in probed.phases {
        report.add_figures([(&format!("probes, {phase}"), count(sent), None, "")]);
    }
    Ok(())
}

/// What garbage cost a program.
struct Cost {
    /// Of a core, for 10,000 a second that were judged: what there was no room for costs nothing. It is the
    /// program's own time; what the network stack takes of any datagram is not in it.
    percent: f64,
    /// What was judged in a second, by the program or by the kernel for it.
    judged: f64,
    grown_kib: f64,
}

/// What a program spends on garbage at one of its sockets, beyond what it spends anyway.
fn cost(resting: &Resting<'_>, target: &Target, garbage: &Garbage<'_>) -> Result<Cost> {
    let lost = lost(target)?;
    let process = Process::of(target.process);
    let (before, memory) = (process.cpu()?, process.resident_kib()?);
    pause(COST_TIME);
    let idle = process.cpu()? - before;
    let sent = resting.stranger.within(|| paced(target.address, garbage))?;
    let lost = self::lost(target)? - lost;
    let judged = count(sent.saturating_sub(lost)) / COST_TIME.as_secs_f64();
    let busy = process.cpu()? - before - idle;
    let share = busy.saturating_sub(idle).as_secs_f64() / COST_TIME.as_secs_f64();
    Ok(Cost {
        percent: share * 100.0 / (judged / 10_000.0),
        judged,
        grown_kib: process.resident_kib()? - memory,
    })
}

/// Datagrams that the target's host lost because those before were not read yet, of both families.
fn lost(target: &Target) -> Result<u64> {
    let counters =
        |file: &str| std::fs::read_to_string(format!("/proc/{}/net/{file}", target.process));
    let (v4, v6) = (counters("snmp")?, counters("snmp6")?);
    let mut lines = v4.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = lines
        .next()
        .zip(lines.next())
        .context("no counters of UDP")?;
    let of_v4 = names
        .split(' ')
        .zip(values.split(' '))
        .find(|(name, _)| *name == "RcvbufErrors");
    let of_v6 = v6
        .lines()
        .find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    let (_, of_v4) = of_v4.context("no counter of IPv4")?;
    let of_v6 = of_v6.context("no counter of IPv6")?;
    Ok(of_v4.parse::<u64>()? + of_v6.trim().parse::<u64>()?)
}

/// Sends at [`RATE`] for [`COST_TIME`], a millisecond's worth at once; returns how many it sent.
fn paced(target: SocketAddr, garbage: &Garbage<'_>) -> Result<u64> {
    let any = match target.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    let begin = now();
    let (mut number, mut sent) = (0_u64, 0_u64);
    loop {
        let passed = now().duration_since(begin);
        if passed >= COST_TIME {
            let due = COST_TIME.as_secs() * u64::from(RATE);
            let is_flood = sent >= due / 10 * 9;
            ensure!(is_flood, "only {sent} of {due} datagrams were sent in time");
            return Ok(sent);
        }
        let due = u64::try_from(passed.as_millis())? * u64::from(RATE) / 1_000;
        while number < due {
            // A full queue takes none.
            sent += u64::from(socket.send_to(&garbage(number), target).is_ok());
            number += 1;
        }
        pause(Duration::from_millis(1));
    }
}

fn pause(time: Duration) {
    let deadline = now() + time;
    while now() < deadline {
        std::thread::park_timeout(deadline.saturating_duration_since(now()));
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a count of packets, for people"
)]
const fn count(number: u64) -> f64 {
    number as f64
}
