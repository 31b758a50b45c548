//! What the conditions of policies look at, so that a request carries that and nothing else.

use std::collections::BTreeSet;

use cedar_policy::pst::{Clause, Expr, Var};

use super::facts;

/// What must be in a request for some policies to come out as they would with everything in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// A condition uses the context, a device or the whole posture as one value.
    pub(super) everything: bool,
    /// Facts of the posture, by their names in policies.
    pub(super) facts: BTreeSet<&'static str>,
    /// First parts of paths into the context, other than the posture.
    pub(super) context: BTreeSet<Part>,
    /// Attributes of the principal.
    pub(super) principal: bool,
    /// Attributes of the resource.
    pub(super) resource: bool,
}

/// A part of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Auth,
    Device,
    Place,
    Risk,
    Time,
}

impl Needs {
    /// Everything there is.
    #[cfg(test)]
    pub(super) fn all() -> Self {
        Self {
            everything: true,
            principal: true,
            resource: true,
            ..Self::default()
        }
    }

    pub(super) fn of(clauses: &[Clause]) -> Self {
        let mut needs = Self::default();
        for clause in clauses {
            let (Clause::When(condition) | Clause::Unless(condition)) = clause;
            needs.add(condition);
        }
        needs
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.everything |= other.everything;
        self.principal |= other.principal;
        self.resource |= other.resource;
        self.facts.extend(&other.facts);
        self.context.extend(&other.context);
    }

    /// Whether a fact must be in the request.
    pub(super) fn fact(&self, attribute: &str) -> bool {
        self.everything || self.facts.contains(attribute)
    }

    /// Whether a part of the context must be in the request.
    pub(super) fn part(&self, part: Part) -> bool {
        self.everything || self.context.contains(&part)
    }

    fn add(&mut self, expr: &Expr) {
        if let Some((var, path)) = path(expr) {
            self.add_path(&var, &path);
            return;
        }
        for child in children(expr) {
            self.add(child);
        }
    }

    fn add_path(&mut self, var: &Var, path: &[&str]) {
        match (var, path) {
            (Var::Context, ["posture", fact, ..] | ["device", "posture", fact, ..]) => {
                if let Some(known) = facts::known().get(*fact) {
                    self.facts.insert(&known.attribute);
                }
            }
            (Var::Context, ["device", "id" | "name" | "os", ..]) => {
                self.context.insert(Part::Device);
            }
            (Var::Context, ["auth", ..]) => {
                self.context.insert(Part::Auth);
            }
            (Var::Context, ["place", ..]) => {
                self.context.insert(Part::Place);
            }
            (Var::Context, ["risk", ..]) => {
                self.context.insert(Part::Risk);
            }
            (Var::Context, ["time", ..]) => {
                self.context.insert(Part::Time);
            }
            (Var::Context, _) => self.everything = true,
            (Var::Principal, path) => self.principal |= !path.is_empty(),
            (Var::Resource, path) => self.resource |= !path.is_empty(),
            (Var::Action, _) => {}
        }
    }
}

/// Facts that a condition asks for and that do not exist, by their names in policies.
pub(super) fn unknown_facts(expr: &Expr) -> Vec<String> {
    let Some((var, path)) = path(expr) else {
        return children(expr).into_iter().flat_map(unknown_facts).collect();
    };
    match (var, path.as_slice()) {
        (Var::Context, ["posture", fact, ..] | ["device", "posture", fact, ..])
            if !facts::known().contains_key(*fact) =>
        {
            vec![(*fact).to_owned()]
        }
        _ => Vec::new(),
    }
}

/// The variable and attributes of `context.a.b`, or of `context.a has b`.
pub(super) fn path(expr: &Expr) -> Option<(Var, Vec<&str>)> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "Cedar's syntax tree is non-exhaustive, and nothing else is a path"
    )]
    match expr {
        Expr::Var(var) => Some((var.clone(), Vec::new())),
        Expr::GetAttr { expr, attr } => {
            let (var, mut found) = path(expr)?;
            found.push(attr.as_str());
            Some((var, found))
        }
        Expr::HasAttr { expr, attrs } => {
            let (var, mut found) = path(expr)?;
            found.extend(attrs.iter().map(|attr| attr.as_str()));
            Some((var, found))
        }
        _ => None,
    }
}

/// The expressions right below one.
pub(super) fn children(expr: &Expr) -> Vec<&Expr> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "Cedar's syntax tree is non-exhaustive; the rest are leaves"
    )]
    match expr {
        Expr::UnaryOp { expr, .. }
        | Expr::GetAttr { expr, .. }
        | Expr::HasAttr { expr, .. }
        | Expr::Like { expr, .. } => vec![&**expr],
        Expr::BinaryOp { left, right, .. } => vec![&**left, &**right],
        Expr::Is { expr, in_expr, .. } => {
            std::iter::once(&**expr).chain(in_expr.as_deref()).collect()
        }
        Expr::IfThenElse {
            cond,
            then_expr,
            else_expr,
        } => vec![&**cond, &**then_expr, &**else_expr],
        Expr::Set(elements) => elements.iter().map(|element| &**element).collect(),
        Expr::Record(fields) => fields.values().map(|field| &**field).collect(),
        _ => Vec::new(),
    }
}
