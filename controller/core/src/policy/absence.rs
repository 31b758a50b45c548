//! Facts that a `forbid` needs to be there.
//!
//! A fact that is missing must never help a device. A `permit` that asks for one does not hold without
//! it; a `forbid` that asks `posture has firewall_enabled` first does not hold either, and lets the
//! device pass whose firewall nobody can read. Such a rule is refused with the form that is right.

use std::collections::BTreeSet;

use cedar_policy::pst::{BinaryOp, Clause, Expr, UnaryOp, Var};

use super::needs;

/// The facts, by their names in policies, without which a `forbid` of these clauses would not hold.
pub(super) fn spared(clauses: &[Clause]) -> BTreeSet<String> {
    let mut asked = Asked::default();
    for clause in clauses {
        match clause {
            Clause::When(condition) => asked.add(condition, true),
            Clause::Unless(condition) => asked.add(condition, false),
        }
    }
    // A rule that also asks for the absence has thought of it.
    asked.present.difference(&asked.absent).cloned().collect()
}

/// The facts whose presence, or whose absence, makes a rule hold.
#[derive(Default)]
struct Asked {
    present: BTreeSet<String>,
    absent: BTreeSet<String>,
}

impl Asked {
    /// Reads a condition that makes the rule hold when it comes out as `wanted`.
    fn add(&mut self, expr: &Expr, wanted: bool) {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "Cedar's syntax tree is non-exhaustive; what is not read through says nothing"
        )]
        match expr {
            Expr::UnaryOp {
                op: UnaryOp::Not,
                expr,
            } => self.add(expr, !wanted),
            Expr::BinaryOp {
                op: BinaryOp::And | BinaryOp::Or,
                left,
                right,
            } => {
                self.add(left, wanted);
                self.add(right, wanted);
            }
            // Which branch is taken may be what the presence decides.
            Expr::IfThenElse {
                then_expr,
                else_expr,
                ..
            } => {
                self.add(then_expr, wanted);
                self.add(else_expr, wanted);
            }
            Expr::HasAttr { .. } => {
                let facts = if wanted {
                    &mut self.present
                } else {
                    &mut self.absent
                };
                facts.extend(fact_of(expr));
            }
            _ => {}
        }
    }
}

fn fact_of(expr: &Expr) -> Option<String> {
    match needs::path(expr)? {
        (Var::Context, path) => match path.as_slice() {
            ["posture", fact, ..] | ["device", "posture", fact, ..] => Some((*fact).to_owned()),
            _ => None,
        },
        (Var::Principal | Var::Action | Var::Resource, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cardea_proto::policy::PolicyFile;

    use crate::policy::Engine;

    const PERMIT: &str =
        "@id(\"p\") permit(principal is User, action == Action::\"connect\", resource);";

    #[test]
    fn a_forbid_that_a_missing_fact_would_escape_is_refused() {
        for (clause, escapes) in [
            ("when { P has F && !P.F.value }", true),
            (
                "when { context.time.hour == 3 } when { P has F && !P.F.value }",
                true,
            ),
            ("unless { !(P has F && !P.F.value) }", true),
            (
                "when { context.time.hour == 3 || (P has F && P.F.age_s > 600) }",
                true,
            ),
            ("unless { P has F && P.F.value }", false),
            ("when { !(P has F && P.F.value) }", false),
            ("when { if P has F then !P.F.value else true }", false),
            ("when { !(P has F) }", false),
        ] {
            let clause = clause
                .replace('P', "context.device.posture")
                .replace('F', "firewall_enabled");
            let text = format!(
                "{PERMIT}\n@id(\"f\") forbid(principal is User, action == Action::\"connect\", resource) {clause};"
            );
            let file = PolicyFile {
                path: "a.cedar".to_owned(),
                text,
            };
            let found = Engine::new(&[file], &BTreeSet::new())
                .err()
                .unwrap_or_default();
            let refused = found.iter().any(|problem| {
                problem.line == Some(2)
                    && problem
                        .message
                        .contains("whose firewall_enabled is missing")
            });
            assert_eq!(
                (refused, found.len()),
                (escapes, usize::from(escapes)),
                "{clause}: {found:?}"
            );
        }
    }
}
