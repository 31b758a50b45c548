//! Why a decision is a denial: which conditions of which rules stood in the way.
//!
//! The conditions are split into goals that must all hold, and Cedar itself evaluates each of them
//! for the same request: an explanation cannot disagree with the decision that it explains.

use std::{collections::BTreeMap, sync::Arc};

use cardea_proto::decision::Check;
use cedar_policy::{
    AuthorizationError, Authorizer, Policy, PolicySet,
    pst::{self, ActionConstraint, Clause, Effect, PrincipalConstraint, ResourceConstraint},
};

use super::{
    condition::{Goal, Words},
    request::{Asked, Question},
    rule::Rule,
};

/// What stood in the way, and what to do about it.
#[derive(Debug, Default)]
pub(super) struct Finding {
    pub(super) checks: Vec<Check>,
    pub(super) remedy: Option<String>,
}

/// The goals of a rule, as policies that Cedar evaluates.
#[derive(Debug, Default)]
pub(super) struct Probe {
    goals: Vec<Goal>,
    set: PolicySet,
}

/// How a goal came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Held,
    Failed,
    /// It could not be evaluated, because another goal that guards it failed.
    Errored,
}

/// Checks about facts, and the remedies of all.
#[derive(Debug, Default)]
struct Advice {
    checks: Vec<Check>,
    remedies: Vec<String>,
    about_posture: bool,
}

/// Which checks made these rules forbid.
pub(super) fn forbidden<'r>(
    asked: Asked<'_>,
    question: &Question,
    rules: impl Iterator<Item = &'r Rule>,
) -> Finding {
    let mut advice = Advice::default();
    for rule in rules {
        let probe = rule.probe();
        let came = evaluate(question, probe);
        advice.add(rule, &failed(asked, probe, &came));
    }
    advice.finish()
}

/// Which of these permits came nearest to holding, and which of its checks failed.
pub(super) fn not_permitted<'r>(
    asked: Asked<'_>,
    question: &Question,
    rules: impl Iterator<Item = &'r Rule>,
) -> Option<(&'r Rule, Finding)> {
    let nearest = rules
        .map(|rule| {
            let probe = rule.probe();
            let came = evaluate(question, probe);
            (rule, failed(asked, probe, &came))
        })
        .min_by_key(|(_, failed)| failed.len());
    nearest.map(|(rule, failed)| {
        let mut advice = Advice::default();
        advice.add(rule, &failed);
        (rule, advice.finish())
    })
}

impl Probe {
    /// The goals that would make a permit hold, or a forbid not.
    pub(super) fn of(effect: cedar_policy::Effect, clauses: &[Clause]) -> Self {
        let mut goals = Vec::new();
        match effect {
            cedar_policy::Effect::Permit => {
                for clause in clauses {
                    match clause {
                        Clause::When(expr) => Goal::split(expr, false, &mut goals),
                        Clause::Unless(expr) => Goal::split(expr, true, &mut goals),
                    }
                }
            }
            cedar_policy::Effect::Forbid => forbid_goals(clauses, &mut goals),
        }
        let mut set = PolicySet::new();
        for (number, goal) in goals.iter().enumerate() {
            // A goal that cannot be made counts as one that held, and is not shown.
            if let Some(policy) = goal_policy(number, goal) {
                let _added = set.add(policy);
            }
        }
        Self { goals, set }
    }
}

/// A rule that forbids `unless { a && b }` needs a and b; one that forbids `when { a && b }` needs
/// either not to hold, and then all are shown but those that only ask whether something is there.
fn forbid_goals(clauses: &[Clause], goals: &mut Vec<Goal>) {
    let mut when = Vec::new();
    for clause in clauses {
        match clause {
            Clause::Unless(expr) => Goal::split(expr, false, goals),
            Clause::When(expr) => Goal::split(expr, false, &mut when),
        }
    }
    if goals.is_empty() {
        let shown = when.iter().filter(|goal| !goal.is_presence());
        let shown: Vec<&Goal> = shown.collect();
        let shown = if shown.is_empty() {
            when.iter().collect()
        } else {
            shown
        };
        goals.extend(shown.into_iter().map(|goal| Goal {
            expr: Arc::clone(&goal.expr),
            negated: !goal.negated,
        }));
    }
}

fn goal_policy(number: usize, goal: &Goal) -> Option<Policy> {
    let expr = Arc::clone(&goal.expr);
    let clause = if goal.negated {
        Clause::Unless(expr)
    } else {
        Clause::When(expr)
    };
    let template = pst::Template::new(
        pst::PolicyID::from(number.to_string().as_str()),
        Effect::Permit,
        PrincipalConstraint::Any,
        ActionConstraint::Any,
        ResourceConstraint::Any,
    )
    .try_with_clauses(vec![clause])
    .ok()?;
    let policy = pst::StaticPolicy::try_from(template).ok()?;
    Policy::from_pst(policy.into()).ok()
}

fn evaluate(question: &Question, probe: &Probe) -> Vec<Came> {
    let mut came: Vec<Came> = vec![Came::Failed; probe.goals.len()];
    let response =
        Authorizer::new().is_authorized(&question.request, &probe.set, &question.entities);
    let mut set = |id: &str, how| {
        if let Some(slot) = id.parse().ok().and_then(|n: usize| came.get_mut(n)) {
            *slot = how;
        }
    };
    for id in response.diagnostics().reason() {
        set(id.as_ref(), Came::Held);
    }
    for AuthorizationError::PolicyEvaluationError(error) in response.diagnostics().errors() {
        set(error.policy_id().as_ref(), Came::Errored);
    }
    came
}

/// The goals that did not hold, in words, each thing that is missing once.
fn failed(asked: Asked<'_>, probe: &Probe, came: &[Came]) -> Vec<Words> {
    let mut shown: Vec<Words> = Vec::new();
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    for (goal, came) in probe.goals.iter().zip(came) {
        if *came == Came::Held {
            continue;
        }
        let words = goal.words(asked);
        if !words.missing {
            if *came == Came::Failed {
                shown.push(words);
            }
            continue;
        }
        match missing
            .get(&words.subject)
            .and_then(|at| shown.get_mut(*at))
        {
            Some(before) if before.telling < words.telling => *before = words,
            Some(_) => {}
            None => {
                missing.insert(words.subject.clone(), shown.len());
                shown.push(words);
            }
        }
    }
    shown
}

impl Advice {
    fn add(&mut self, rule: &Rule, failed: &[Words]) {
        for words in failed {
            let fact = words.fact.map(|fact| fact.attribute.as_str());
            let remedy = rule.remedy(fact);
            self.about_posture |= fact.is_some();
            self.remedies.extend(remedy.map(str::to_owned));
            self.checks.push(Check {
                subject: words.subject.clone(),
                observed: words.observed.clone(),
                needed: words.needed.clone(),
                rule: rule.id.clone(),
                remedy: remedy.map(str::to_owned),
            });
        }
        if failed.is_empty() {
            self.remedies.extend(rule.remedy(None).map(str::to_owned));
        }
    }

    /// One sentence: each remedy once, and the command that shows whether it helped.
    fn finish(self) -> Finding {
        let mut sentence = String::new();
        for remedy in &self.remedies {
            let remedy = remedy.trim_end_matches('.');
            if sentence.split("; ").any(|said| said == remedy) {
                continue;
            }
            if !sentence.is_empty() {
                sentence.push_str("; ");
            }
            sentence.push_str(remedy);
        }
        if self.about_posture && !sentence.is_empty() {
            sentence.push_str(", then: cardea posture");
        }
        Finding {
            checks: self.checks,
            remedy: (!sentence.is_empty()).then_some(sentence),
        }
    }
}
