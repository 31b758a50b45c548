//! Policy folders: checked, tested, compared and applied.

use cardea_proto::{
    admin::AdminAnswer,
    ledger::{Change, RecordKey},
    policy::{PolicyEffect, PolicyFile, PolicyProblem, PolicyTestResult},
    refusal::{Refusal, RefusalCode},
    time::Now,
};

use super::{find::counted, inventory::invalid, plan::Plan};
use crate::{
    controller::Controller,
    judge::Foreseen,
    policy::{self, Engine, Subject},
    world::first_problem,
};

impl Controller {
    /// Plans to make a folder the policy: it must load, and its own tests must pass.
    pub(super) fn plan_policy(&self, now: Now, files: &[PolicyFile]) -> Result<Plan, Refusal> {
        let engine = self.engine_of(files)?;
        let results = engine.run_tests();
        let failed: Vec<&PolicyTestResult> =
            results.iter().filter(|result| !result.passed).collect();
        if let Some(first) = failed.first() {
            let detail = first.detail.as_deref().unwrap_or("the decision differs");
            return Err(Refusal::new(
                RefusalCode::PolicyTestFailed,
                format!(
                    "{} of {} failed; the first: {} ({}): {detail}",
                    failed.len(),
                    counted(results.len(), "policy test"),
                    first.name,
                    first.path
                ),
            )
            .with_next("Look at all: cardeactl policy test DIR"));
        }
        let foreseen = Foreseen {
            engine: Some(&engine),
            ..Foreseen::default()
        };
        let grants = self.world.state.grants().map(|record| record.grant.id);
        let ends = self.would_end(now, foreseen, grants);
        let message = format!(
            "policy of {} applied; {} passed",
            counted(files.len(), "file"),
            counted(results.len(), "test")
        );
        let plan = Plan::new(
            Change::PolicySet(files.to_vec()),
            [RecordKey::Policy],
            message,
        );
        Ok(plan.ending(ends))
    }

    /// Everything wrong with a folder.
    pub(super) fn policy_problems(&self, files: &[PolicyFile]) -> AdminAnswer {
        AdminAnswer::PolicyProblems(
            Engine::new(files, self.world.state.links())
                .err()
                .unwrap_or_default(),
        )
    }

    /// How a folder's tests go.
    pub(super) fn policy_tests(&self, files: &[PolicyFile]) -> Result<AdminAnswer, Refusal> {
        let engine = self.engine_of(files)?;
        Ok(AdminAnswer::PolicyTests(engine.run_tests()))
    }

    /// Whom a folder would give or take access, of the devices that have reported.
    pub(super) fn policy_effects(
        &self,
        now: Now,
        files: &[PolicyFile],
    ) -> Result<Vec<PolicyEffect>, Refusal> {
        let engine = self.engine_of(files)?;
        let judge = self.judge(now);
        let subjects = self.postures.devices().into_iter().filter_map(|device| {
            let (certify, connects) = judge.asks(device)?;
            Some(Subject { certify, connects })
        });
        Ok(policy::diff(&self.world.engine, &engine, subjects))
    }

    fn engine_of(&self, files: &[PolicyFile]) -> Result<Engine, Refusal> {
        Engine::new(files, self.world.state.links())
            .map(|engine| engine.at(self.world.policy_revision()))
            .map_err(|problems: Vec<PolicyProblem>| {
                invalid(format!(
                    "the policy does not load: {}",
                    first_problem(&problems)
                ))
                .with_next("Look at all: cardeactl policy check DIR")
            })
    }
}
