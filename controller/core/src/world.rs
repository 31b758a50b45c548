//! What every part of the controller reads: settings, keys, the state, and the engine made from it.

use std::collections::BTreeSet;

use cardea_proto::{
    id::ControllerId,
    ledger::{Actor, Draft, Founded, Link, RecordKey, Revision},
    name::Name,
    policy::{PolicyFile, PolicyProblem},
    time::{Now, UnixMillis},
};

use crate::{
    Keys, Settings, State,
    dice::Dice,
    policy::{Engine, Prepared},
    relays::Relays,
    tickets::Places,
};

/// The parts that others are given to read.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) keys: Keys,
    pub(crate) state: State,
    pub(crate) engine: Engine,
    pub(crate) dice: Dice,
    pub(crate) places: Places,
    /// How the trust domain began, which never changes.
    pub(crate) founded: Founded,
    /// Why the policy on record cannot be used, if so; everything is denied meanwhile.
    pub(crate) policy_problem: Option<String>,
    /// Which relays answer.
    pub(crate) relays: Relays,
}

/// The records on which a plan rests, with the revisions at which it saw them.
#[derive(Debug, Default)]
pub(crate) struct Expects(BTreeSet<RecordKey>);

impl Expects {
    pub(crate) fn of(keys: impl IntoIterator<Item = RecordKey>) -> Self {
        Self(keys.into_iter().collect())
    }

    pub(crate) fn and(mut self, key: RecordKey) -> Self {
        self.0.insert(key);
        self
    }

    pub(crate) fn at(self, state: &State) -> Vec<(RecordKey, Revision)> {
        self.0
            .into_iter()
            .map(|key| {
                let revision = state.revision_of(&key);
                (key, revision)
            })
            .collect()
    }
}

impl World {
    /// The trust domain.
    pub(crate) const fn domain(&self) -> &Name {
        &self.founded.domain
    }

    /// Who acts when the controller itself does.
    pub(crate) const fn itself(&self) -> Actor {
        Actor::Controller(self.controller())
    }

    pub(crate) const fn controller(&self) -> ControllerId {
        self.founded.controller
    }

    /// The revision of the policy in force.
    pub(crate) fn policy_revision(&self) -> Revision {
        self.state.revision_of(&RecordKey::Policy)
    }

    /// Makes the engine of the state again, after its policy or its everyday rules moved.
    ///
    /// A policy that does not load denies everything until an admin applies one that does. One that
    /// was `prepared` need not be compiled again.
    pub(crate) fn reload(&mut self, policy_moved: bool, prepared: Option<&Prepared>) {
        let (policy, links) = (self.state.policy(), self.state.links());
        let prepared = prepared.filter(|prepared| prepared.is_of(policy));
        let made = match prepared.map(Prepared::engine) {
            Some(Ok(engine)) if policy_moved => engine.with_links(links),
            Some(_) | None if policy_moved || self.policy_problem.is_some() => {
                Engine::new(policy, links)
            }
            Some(_) | None => self.engine.with_links(links),
        };
        let revision = self.policy_revision();
        match made {
            Ok(engine) => {
                self.engine = engine.at(revision);
                self.policy_problem = None;
            }
            Err(problems) => {
                let problem = first_problem(&problems);
                tracing::error!(%problem, %revision, "policy not usable: everything is denied");
                self.engine = nothing_permitted(revision);
                self.policy_problem = Some(problem);
            }
        }
    }

    /// An empty draft of the controller's own.
    pub(crate) fn draft(&self, now: Now) -> Draft {
        draft(now.unix, self.itself())
    }
}

/// An empty draft of `actor`.
pub(crate) const fn draft(at: UnixMillis, actor: Actor) -> Draft {
    Draft {
        at,
        actor,
        changes: Vec::new(),
        decision: None,
        signed: None,
    }
}

/// An engine that permits nothing.
pub(crate) fn nothing_permitted(revision: Revision) -> Engine {
    #[expect(
        clippy::expect_used,
        reason = "no file and no link: there is nothing to refuse"
    )]
    Engine::new(&Vec::<PolicyFile>::new(), &BTreeSet::<Link>::new())
        .expect("an empty folder loads")
        .at(revision)
}

/// The first of several problems, as one line.
pub(crate) fn first_problem(problems: &[PolicyProblem]) -> String {
    let Some(problem) = problems.first() else {
        return "it does not load".to_owned();
    };
    let line = problem
        .line
        .map_or_else(String::new, |line| format!(":{line}"));
    let more = match problems.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    format!("{}{line}: {}{more}", problem.path, problem.message)
}
