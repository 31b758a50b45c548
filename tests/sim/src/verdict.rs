//! A run from its beginning to its verdict.

use std::{fmt, time::Duration};

use cardea_proto::{admin::Warning, enroll::EnrollAnswer};

use crate::{
    founding::app_name,
    model::Violation,
    plan::{CALM, CHECK, LULL},
    user::SERVICES,
    world::World,
};

/// What a run that held every property saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records that reached an app.
    pub delivered: u64,
    /// Datagrams that went past the relay, without small probes.
    pub beside: u64,
    /// Ends that relays had bound when they crashed.
    pub forgotten: u64,
    /// Ends that went on with another relay.
    pub turned: u64,
    /// Datagrams that lying relays did not forward as they came.
    pub lies: u64,
    /// Grants that were ever offered.
    pub grants: usize,
    /// Entries of the ledger.
    pub entries: u64,
    /// Virtual time that passed.
    pub time: Duration,
    /// Everything that happened, as one number: the same when the seed is run again.
    pub digest: u64,
}

/// A run in which a property did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What did not hold, and when.
    pub violations: Vec<(Duration, Violation)>,
    /// What happened before.
    pub notes: Vec<String>,
    /// Everything that happened, as one number: the same when the seed is run again.
    pub digest: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        for (at, violation) in &self.violations {
            writeln!(f, "{:>9.3} s  {violation}", at.as_secs_f64())?;
        }
        write!(
            f,
            "seed {0} failed (trace {1:016x}); replay it: tests/sim/run --seed {0}",
            self.seed, self.digest
        )
    }
}

/// Runs the world of a seed to its end.
///
/// # Errors
/// [`Failure`] says which property did not hold, and how to see it again.
pub fn run(seed: u64) -> Result<Summary, Box<Failure>> {
    let setup = |why: String| {
        let what = format!("the world could not be set up: {why}");
        let violation = Violation { property: 0, what };
        Box::new(Failure {
            seed,
            violations: vec![(Duration::ZERO, violation)],
            notes: Vec::new(),
            digest: 0,
        })
    };
    let mut world = World::new(seed).map_err(setup)?;
    world.plan_between(seed);
    world.plan_relays(seed);
    live(seed, world)
}

/// Lets a world live to its end.
fn live(seed: u64, mut world: World) -> Result<Summary, Box<Failure>> {
    world.live();
    let World { log, model, .. } = &world;
    if log.failures.is_empty() {
        Ok(Summary {
            delivered: log.delivered,
            beside: log.beside,
            forgotten: world.relays.iter().map(|relay| relay.forgotten).sum(),
            turned: log.turned,
            lies: world.relays.iter().map(|relay| relay.lies).sum(),
            grants: model.grants_seen(),
            entries: model.entries_seen(),
            time: world.now.instant - world.begun,
            digest: log.trace.digest(),
        })
    } else {
        Err(Box::new(Failure {
            seed,
            violations: log.failures.clone(),
            notes: log.notes.iter().cloned().collect(),
            digest: log.trace.digest(),
        }))
    }
}

impl World {
    fn live(&mut self) {
        self.run_until(self.now.instant + Duration::from_secs(2));
        self.set_active(true);
        self.plan_acts();
        self.run_until(self.now.instant + self.plan.chaos);
        self.calm();
        self.run_until(self.now.instant + LULL);
        self.set_active(false);
        for index in 0..self.plan.devices {
            self.finish_all(index);
        }
        self.run_until(self.now.instant + CALM);
        self.ask_for_everything();
        self.run_until(self.now.instant + CHECK);
        if self.log.failures.is_empty() {
            self.judge_codes();
            self.judge_answers();
            self.judge_statuses();
            self.judge_growth();
        }
    }

    fn set_active(&mut self, is_active: bool) {
        for device in &mut self.devices {
            device.user.is_active = is_active;
        }
    }

    /// Every honest user wants every app.
    fn ask_for_everything(&mut self) {
        for index in 0..self.plan.villain() {
            self.finish_all(index);
            if let Some(device) = self.devices.get_mut(index) {
                device.user.echoes.clear();
            }
            for app in 0..self.plan.apps {
                self.want(index, app);
            }
        }
    }

    /// Whoever came with a used code was refused.
    fn judge_codes(&mut self) {
        let admits = |answer: &EnrollAnswer| matches!(answer, EnrollAnswer::Enrolled(_));
        if self.control.enrollments.iter().any(admits) {
            self.fail(0, "a code admitted somebody again".to_owned());
        }
    }

    /// When the faults have stopped, who is permitted gets through, and who is not is told so.
    fn judge_answers(&mut self) {
        let mut failures = Vec::new();
        for (index, device) in self.devices.iter().enumerate().take(self.plan.villain()) {
            for app in 0..self.plan.apps {
                let is_allowed = self.model.allows(device.id, &app_name(app));
                let answer = device.user.answers.get(&app);
                let echoes: Vec<u64> = SERVICES
                    .iter()
                    .map(|service| device.user.echoes.get(&(app, *service)).copied())
                    .map(Option::unwrap_or_default)
                    .collect();
                match (is_allowed, answer) {
                    (true, Some(Ok(_))) if !echoes.contains(&0) => {}
                    (false, Some(Err(_))) => {}
                    (_, answer) => failures.push(format!(
                        "device {index} on {}: allowed {is_allowed}, answered {answer:?}, echoes {echoes:?}",
                        app_name(app)
                    )),
                }
            }
        }
        for what in failures {
            self.fail(0, what);
        }
    }

    /// Nothing reads `open` whose tunnel is not there.
    pub(crate) fn judge_statuses(&mut self) {
        let mut failures = Vec::new();
        for (index, device) in self.devices.iter().enumerate().take(self.plan.villain()) {
            let Some(running) = device.running.as_ref().filter(|_| !device.is_asleep) else {
                continue;
            };
            let status = running.agent.status(device.skew.show(self.now));
            let open = status
                .apps
                .iter()
                .filter(|app| app.state == cardea_proto::local::AppState::Open)
                .count();
            let tunnels = running.tunnels.grants().count();
            let doubts = |warning: &Warning| warning.code == "ledger_doubtful";
            if status.warnings.iter().any(doubts) {
                failures.push(format!("device {index} doubts the ledger"));
            }
            if open > tunnels {
                failures.push(format!(
                    "device {index} says that {open} apps are open, with {tunnels} tunnels"
                ));
            }
        }
        for what in failures {
            self.fail(0, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_failing_seed_says_how_to_see_it_again() {
        let violation = Violation {
            property: 2,
            what: "a grant outlived its ttl".to_owned(),
        };
        let failure = Failure {
            seed: 8_511,
            violations: vec![(Duration::from_millis(1_500), violation)],
            notes: vec!["the relay crashed".to_owned()],
            digest: 0xabc,
        };
        let said = failure.to_string();
        assert!(said.contains("a grant outlived its ttl"), "{said}");
        let (_, command) = said.split_once("replay it: ").unwrap();
        assert_eq!(command, "tests/sim/run --seed 8511");
    }

    #[test]
    fn a_failing_seed_tells_the_same_story_twice() {
        let failures: Vec<Box<Failure>> = (0..50).filter_map(failed).take(3).collect();
        assert_eq!(failures.len(), 3);
        for first in &failures {
            let again = failed(first.seed).unwrap();
            assert_eq!(again.digest, first.digest, "seed {}", first.seed);
            assert_eq!(again.violations, first.violations, "seed {}", first.seed);
            assert_eq!(again.notes, first.notes, "seed {}", first.seed);
        }
        let stories: BTreeSet<u64> = failures.iter().map(|failure| failure.digest).collect();
        assert_eq!(stories.len(), 3, "each seed has its own");
    }

    /// The world of a seed, judged by a model that no world can please.
    fn failed(seed: u64) -> Option<Box<Failure>> {
        let mut world = World::new(seed).unwrap();
        world.plan_between(seed);
        world.plan_relays(seed);
        world.model.bear_no_delay();
        live(seed, world).err()
    }
}
