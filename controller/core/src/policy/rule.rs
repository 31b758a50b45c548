//! One policy as the engine keeps it: its name, its advice, and where its scope puts it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PrincipalConstraint, ResourceConstraint,
    pst::{Clause, Expr},
};

use super::{
    absence, compiled::Compiled, goal::Goal, needs::Needs, request::Question, slice::Scope,
};

/// A policy of a folder, or an everyday rule.
#[derive(Debug)]
pub(super) struct Rule {
    /// Its `@id`, or `file:policyN`.
    pub(super) id: String,
    /// Permit or forbid.
    pub(super) effect: Effect,
    /// What its conditions look at.
    pub(super) needs: Needs,
    /// Its `when` and `unless`, in order.
    clauses: Vec<Clause>,
    /// The same, ready to be evaluated, each with what it must come out as.
    compiled: Vec<(Compiled, bool)>,
    /// All its annotations.
    annotations: BTreeMap<String, String>,
    /// Its conditions one by one, made when a denial is first explained.
    goals: OnceLock<Vec<Goal>>,
}

/// An action that the engine decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Certify,
    Connect,
}

impl Action {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Certify => "certify",
            Self::Connect => "connect",
        }
    }

    /// Entity types of the principal and of what it may be in.
    const fn principal_types(self) -> (&'static str, &'static str) {
        match self {
            Self::Certify => ("Device", ""),
            Self::Connect => ("User", "Group"),
        }
    }

    /// Entity types of the resource and of what it may be in.
    const fn resource_types(self) -> (&'static str, &'static str) {
        match self {
            Self::Certify => ("TrustDomain", ""),
            Self::Connect => ("App", "Site"),
        }
    }
}

impl Rule {
    /// # Errors
    /// Cedar's text about a condition that it does not take back.
    pub(super) fn new(policy: &Policy, clauses: Vec<Clause>) -> Result<Self, String> {
        let compile = |clause: &Clause| match clause {
            Clause::When(condition) => Ok((Compiled::new(condition)?, true)),
            Clause::Unless(condition) => Ok((Compiled::new(condition)?, false)),
        };
        Ok(Self {
            id: policy.id().to_string(),
            effect: policy.effect(),
            needs: Needs::of(&clauses),
            compiled: clauses.iter().map(compile).collect::<Result<_, String>>()?,
            clauses,
            annotations: policy
                .annotations()
                .map(|(key, text)| (key.to_owned(), text.to_owned()))
                .collect(),
            goals: OnceLock::new(),
        })
    }

    /// Whether its conditions hold, for a request that its scope matches.
    ///
    /// # Errors
    /// Cedar's text about the first condition that cannot be evaluated, when those before it hold.
    pub(super) fn holds(&self, question: &Question) -> Result<bool, String> {
        for (condition, wanted) in &self.compiled {
            if condition.holds(question)? != *wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What would make it hold, if it permits, or not hold, if it forbids.
    pub(super) fn goals(&self) -> &[Goal] {
        self.goals
            .get_or_init(|| Goal::all(self.effect, &self.clauses))
    }

    /// Facts without which it would not hold, if it forbids: what a device must not hide.
    pub(super) fn spared_by_absence(&self) -> BTreeSet<String> {
        match self.effect {
            Effect::Permit => BTreeSet::new(),
            Effect::Forbid => absence::spared(&self.clauses),
        }
    }

    /// The expressions of its `when` and `unless`.
    pub(super) fn conditions(&self) -> impl Iterator<Item = &Expr> {
        self.clauses.iter().map(|clause| match clause {
            Clause::When(condition) | Clause::Unless(condition) => &**condition,
        })
    }

    /// What a person can do where this rule stands in the way because of `fact`:
    /// `@remedy_disk_encrypted("…")`, else `@remedy("…")`.
    pub(super) fn remedy(&self, fact: Option<&str>) -> Option<&str> {
        fact.and_then(|fact| self.annotations.get(&format!("remedy_{fact}")))
            .or_else(|| self.annotations.get("remedy"))
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }
}

/// Where a policy's scope puts it among those of `action`; `None` when it can never apply to one.
pub(super) fn scopes(policy: &Policy, action: Action) -> Option<(Scope, Scope)> {
    let applies = match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::In(actions) => actions.iter().any(|uid| is_action(uid, action)),
        ActionConstraint::Eq(uid) => is_action(&uid, action),
    };
    if !applies {
        return None;
    }
    let resource = match policy.resource_constraint() {
        ResourceConstraint::Any => Scope::Any,
        ResourceConstraint::Is(kind) => of_type(kind.basename(), action.resource_types())?,
        ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) => {
            named(&uid, action.resource_types())?
        }
        ResourceConstraint::IsIn(kind, uid) => {
            of_type(kind.basename(), action.resource_types())?;
            named(&uid, action.resource_types())?
        }
    };
    let principal = match policy.principal_constraint() {
        PrincipalConstraint::Any => Scope::Any,
        PrincipalConstraint::Is(kind) => of_type(kind.basename(), action.principal_types())?,
        PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) => {
            named(&uid, action.principal_types())?
        }
        PrincipalConstraint::IsIn(kind, uid) => {
            of_type(kind.basename(), action.principal_types())?;
            named(&uid, action.principal_types())?
        }
    };
    Some((principal, resource))
}

fn is_action(uid: &EntityUid, action: Action) -> bool {
    uid.type_name().basename() == "Action" && uid.id().unescaped() == action.as_str()
}

fn of_type(kind: &str, (itself, _): (&str, &str)) -> Option<Scope> {
    (kind == itself).then_some(Scope::Any)
}

fn named(uid: &EntityUid, (itself, parent): (&str, &str)) -> Option<Scope> {
    let id = uid.id().unescaped().to_owned();
    let kind = uid.type_name().basename();
    if kind == itself {
        Some(Scope::Itself(id))
    } else if kind == parent {
        Some(Scope::Parent(id))
    } else {
        None
    }
}
