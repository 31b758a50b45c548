//! One condition, ready to be evaluated by Cedar again and again.
//!
//! Scopes are matched by the slices and not evaluated: a policy whose bucket is taken applies. What
//! is left of it are its conditions, and evaluating those alone costs a third of evaluating the
//! policy. A test compares all decisions with Cedar's own, which are made of whole policies.

use std::sync::Arc;

use cedar_policy::{
    AuthorizationError, Authorizer, Decision, EvalResult, Expression, Policy, PolicySet,
    eval_expression,
    pst::{self, ActionConstraint, Clause, Effect, Expr, PrincipalConstraint, ResourceConstraint},
};

use super::request::Question;

/// A condition.
#[derive(Clone, Debug)]
pub(super) enum Compiled {
    /// The condition alone.
    Expression(Expression),
    /// A policy around it, where it is seldom evaluated or its text does not read back as itself.
    Policy(Box<PolicySet>),
}

impl Compiled {
    /// # Errors
    /// Cedar's text about a condition that it does not take back.
    pub(super) fn new(condition: &Arc<Expr>) -> Result<Self, String> {
        let text = condition.to_string();
        if reads_back(condition, &text)
            && let Ok(expression) = text.parse()
        {
            return Ok(Self::Expression(expression));
        }
        Self::unparsed(condition)
    }

    /// The same without a parse: a hundred times as fast to make, and three times as slow to
    /// evaluate.
    pub(super) fn unparsed(condition: &Arc<Expr>) -> Result<Self, String> {
        let mut set = PolicySet::new();
        set.add(around(condition)?)
            .map_err(|error| error.to_string())?;
        Ok(Self::Policy(Box::new(set)))
    }

    /// Whether the condition holds.
    ///
    /// # Errors
    /// Cedar's text, when it cannot be evaluated.
    pub(super) fn holds(&self, question: &Question) -> Result<bool, String> {
        match self {
            Self::Expression(expression) => {
                match eval_expression(&question.request, &question.entities, expression) {
                    Ok(EvalResult::Bool(holds)) => Ok(holds),
                    Ok(other) => Err(format!("neither true nor false: {other}")),
                    Err(error) => Err(error.to_string()),
                }
            }
            Self::Policy(set) => {
                let response =
                    Authorizer::new().is_authorized(&question.request, set, &question.entities);
                match response.diagnostics().errors().next() {
                    Some(AuthorizationError::PolicyEvaluationError(error)) => {
                        Err(error.inner().to_string())
                    }
                    None => Ok(response.decision() == Decision::Allow),
                }
            }
        }
    }
}

/// Whether a condition's text means that condition.
fn reads_back(condition: &Arc<Expr>, text: &str) -> bool {
    let policy = Policy::parse(
        None,
        format!("permit (principal, action, resource) when {{ {text} }};"),
    );
    policy
        .ok()
        .and_then(|policy| policy.to_pst().ok())
        .is_some_and(|tree| {
            matches!(tree.body().clauses().as_slice(), [Clause::When(same)] if same == condition)
        })
}

fn around(condition: &Arc<Expr>) -> Result<Policy, String> {
    let template = pst::Template::new(
        pst::PolicyID::from("condition"),
        Effect::Permit,
        PrincipalConstraint::Any,
        ActionConstraint::Any,
        ResourceConstraint::Any,
    )
    .try_with_clauses(vec![Clause::When(Arc::clone(condition))])
    .map_err(|error| error.to_string())?;
    let policy = pst::StaticPolicy::try_from(template).map_err(|error| error.to_string())?;
    Policy::from_pst(policy.into()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(condition: &str) {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        let policy: Policy = text.parse().unwrap();
        let tree = policy.to_pst().unwrap();
        let [Clause::When(parsed)] = tree.body().clauses().as_slice() else {
            panic!("one condition");
        };
        let compiled = Compiled::new(parsed).unwrap();
        assert!(matches!(compiled, Compiled::Expression(_)), "{condition}");
        let unparsed = Compiled::unparsed(parsed).unwrap();
        assert!(matches!(unparsed, Compiled::Policy(_)), "{condition}");
    }

    #[test]
    fn conditions_as_people_write_them_are_evaluated_alone() {
        for condition in [
            "context.device.posture has disk_encrypted && context.device.posture.disk_encrypted.value",
            "context.device.posture has agent_version.number",
            "!(context.a > -300 || context.b >= 3 && context.c != \"x\\n\\\"y\")",
            "[\"a\", \"b\"].contains(principal.os) && principal in [User::\"u\", Group::\"g\"]",
            "principal is User in Group::\"g\" || resource.name like \"a*\\*b\"",
            "context.place.address.isInRange(ip(\"10.0.0.0/8\"))",
            "if context.x then context.y - 1 == 2 * 3 else {a: 1} == {\"b c\": 2}",
            "principal has \"odd name\" && principal[\"odd name\"]",
        ] {
            check(condition);
        }
    }
}
