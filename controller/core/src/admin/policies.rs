//! Policy folders: checked, tested, compared and applied.

use cardea_proto::{
    admin::AdminAnswer,
    id::NodeId,
    ledger::{Change, RecordKey},
    policy::{PolicyFile, PolicyProblem, PolicyTestResult},
    refusal::{Refusal, RefusalCode},
    time::Now,
};

use super::{
    find::{counted, is_device},
    inventory::invalid,
    plan::Plan,
};
use crate::{
    controller::Controller,
    judge::Foreseen,
    policy::{self, Engine, Prepared, Subject},
    world::first_problem,
};

impl Controller {
    /// Plans to make a folder the policy: it must load, and its own tests must pass.
    pub(super) fn plan_policy(
        &self,
        now: Now,
        files: &[PolicyFile],
        prepared: Option<&Prepared>,
    ) -> Result<Plan, Refusal> {
        let engine = self.engine_of(files, prepared)?;
        let results = find_prepared(files, prepared)?.tests();
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

    /// Whom a folder would give or take access, of the devices that have reported, and which have not.
    pub(super) fn policy_effects(
        &self,
        now: Now,
        files: &[PolicyFile],
        prepared: Option<&Prepared>,
    ) -> Result<AdminAnswer, Refusal> {
        let engine = self.engine_of(files, prepared)?;
        let judge = self.judge(now);
        let subjects = self.postures.devices().into_iter().filter_map(|device| {
            let (certify, connects) = judge.asks(device)?;
            Some(Subject { certify, connects })
        });
        let effects = policy::diff(&self.world.engine, &engine, subjects);
        let devices = self.world.state.nodes().filter(|record| is_device(record));
        let unjudged = devices.filter(|record| match record.node.id {
            NodeId::Device(device) => self.postures.facts(device).is_none(),
            NodeId::Connector(_) => false,
        });
        Ok(AdminAnswer::PolicyEffects {
            effects,
            unjudged: unjudged.map(|record| record.node.name.clone()).collect(),
        })
    }

    fn engine_of(
        &self,
        files: &[PolicyFile],
        prepared: Option<&Prepared>,
    ) -> Result<Engine, Refusal> {
        let prepared = find_prepared(files, prepared)?;
        let linked = match prepared.engine() {
            Ok(engine) => engine.with_links(self.world.state.links()),
            Err(problems) => Err(problems.clone()),
        };
        linked
            .map(|engine| engine.at(self.world.policy_revision()))
            .map_err(|problems| does_not_load(&problems))
    }
}

/// Everything wrong with a folder.
pub(super) fn policy_problems(
    files: &[PolicyFile],
    prepared: Option<&Prepared>,
) -> Result<AdminAnswer, Refusal> {
    let problems = find_prepared(files, prepared)?.engine().err();
    Ok(AdminAnswer::PolicyProblems(
        problems.cloned().unwrap_or_default(),
    ))
}

/// How a folder's tests go.
pub(super) fn policy_tests(
    files: &[PolicyFile],
    prepared: Option<&Prepared>,
) -> Result<AdminAnswer, Refusal> {
    let prepared = find_prepared(files, prepared)?;
    match prepared.engine() {
        Ok(_) => Ok(AdminAnswer::PolicyTests(prepared.tests().to_vec())),
        Err(problems) => Err(does_not_load(problems)),
    }
}

/// What was made of the folder before; the shell never leaves it out.
fn find_prepared<'p>(
    files: &[PolicyFile],
    prepared: Option<&'p Prepared>,
) -> Result<&'p Prepared, Refusal> {
    prepared
        .filter(|prepared| prepared.is_of(files))
        .ok_or_else(|| Refusal::new(RefusalCode::Internal, "the policy was not compiled"))
}

fn does_not_load(problems: &[PolicyProblem]) -> Refusal {
    invalid(format!(
        "the policy does not load: {}",
        first_problem(problems)
    ))
    .with_next("Look at all: cardeactl policy check DIR")
}
