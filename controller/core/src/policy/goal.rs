//! The conditions of a rule, one by one, so that a denial can name those that stood in its way.

use std::sync::{Arc, OnceLock};

use cedar_policy::{
    Effect,
    pst::{BinaryOp, Clause, Expr, UnaryOp},
};

use super::{
    compiled::Compiled,
    condition::{self, Words},
    request::{Asked, Question},
};

/// One thing that must hold: an expression, or its opposite.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    expr: Arc<Expr>,
    negated: bool,
    compiled: OnceLock<Result<Compiled, String>>,
}

/// How a goal came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Held,
    Failed,
    /// It could not be evaluated, because another goal that guards it failed.
    Errored,
}

impl Goal {
    /// What would make a permit with these clauses hold, or a forbid not.
    pub(super) fn all(effect: Effect, clauses: &[Clause]) -> Vec<Self> {
        let mut goals = Vec::new();
        match effect {
            Effect::Permit => {
                for clause in clauses {
                    match clause {
                        Clause::When(expr) => Self::split(expr, false, &mut goals),
                        Clause::Unless(expr) => Self::split(expr, true, &mut goals),
                    }
                }
            }
            Effect::Forbid => Self::against(clauses, &mut goals),
        }
        goals
    }

    /// A rule that forbids `unless { a && b }` needs a and b; one that forbids `when { a && b }`
    /// needs either not to hold, and then all are shown but those that only ask whether something
    /// is there.
    fn against(clauses: &[Clause], goals: &mut Vec<Self>) {
        let mut when = Vec::new();
        for clause in clauses {
            match clause {
                Clause::Unless(expr) => Self::split(expr, false, goals),
                Clause::When(expr) => Self::split(expr, false, &mut when),
            }
        }
        if !goals.is_empty() {
            return;
        }
        if !when.iter().all(Self::is_presence) {
            when.retain(|goal| !goal.is_presence());
        }
        goals.extend(when.into_iter().map(|goal| Self {
            negated: !goal.negated,
            ..goal
        }));
    }

    /// How the goal comes out.
    pub(super) fn came(&self, question: &Question) -> Came {
        let compiled = self.compiled.get_or_init(|| Compiled::unparsed(&self.expr));
        let held = compiled.as_ref().map(|compiled| compiled.holds(question));
        match held {
            Ok(Ok(held)) if held != self.negated => Came::Held,
            Ok(Ok(_)) => Came::Failed,
            Ok(Err(_)) | Err(_) => Came::Errored,
        }
    }

    /// Splits a condition into goals that must all hold.
    fn split(expr: &Arc<Expr>, negated: bool, out: &mut Vec<Self>) {
        match (&**expr, negated) {
            (
                Expr::BinaryOp {
                    op: BinaryOp::And,
                    left,
                    right,
                },
                false,
            )
            | (
                Expr::BinaryOp {
                    op: BinaryOp::Or,
                    left,
                    right,
                },
                true,
            ) => {
                Self::split(left, negated, out);
                Self::split(right, negated, out);
            }
            (
                Expr::UnaryOp {
                    op: UnaryOp::Not,
                    expr,
                },
                _,
            ) => Self::split(expr, !negated, out),
            _ => out.push(Self {
                expr: Arc::clone(expr),
                negated,
                compiled: OnceLock::new(),
            }),
        }
    }

    /// The goal in words, about what `asked` says.
    pub(super) fn words(&self, asked: Asked<'_>) -> Words {
        condition::words(asked, &self.expr, self.negated)
    }

    /// Whether the goal only asks that something be there.
    fn is_presence(&self) -> bool {
        !self.negated && matches!(&*self.expr, Expr::HasAttr { .. })
    }
}
