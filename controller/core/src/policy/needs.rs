//! What the conditions of policies look at, so that a request carries that and nothing else.

use cedar_policy::pst::{BinaryOp, Clause, Expr, Var};

use super::facts::{self, CATALOGUE};

/// What must be in a request for some policies to come out as they would with everything in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// A condition uses the context, a device or the whole posture as one value.
    everything: bool,
    /// Fields of each fact of the catalogue.
    facts: [Bits; CATALOGUE.len()],
    /// Parts of the context other than the posture.
    parts: Bits,
    /// Attributes of the principal.
    pub(super) principal: bool,
    /// Attributes of the resource.
    pub(super) resource: bool,
    /// What the principal and the resource are in.
    pub(super) hierarchy: bool,
}

/// A small set of parts or of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits(u8);

/// A part of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Auth,
    Device,
    Place,
    Risk,
    Time,
}

/// A field of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The fact itself, for `has`.
    Present,
    Value,
    Number,
    Grade,
    GradeRank,
    Age,
}

impl Bits {
    const ALL: Self = Self(u8::MAX);

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether a field is among these.
    pub(super) const fn field(self, field: Field) -> bool {
        self.has(field.bit())
    }
}

impl Part {
    const fn bit(self) -> Bits {
        Bits(match self {
            Self::Auth => 1,
            Self::Device => 2,
            Self::Place => 4,
            Self::Risk => 8,
            Self::Time => 16,
        })
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "auth" => Self::Auth,
            "place" => Self::Place,
            "risk" => Self::Risk,
            "time" => Self::Time,
            _ => return None,
        })
    }
}

impl Field {
    const fn bit(self) -> Bits {
        Bits(match self {
            Self::Present => 1,
            Self::Value => 2,
            Self::Number => 4,
            Self::Grade => 8,
            Self::GradeRank => 16,
            Self::Age => 32,
        })
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "value" => Self::Value,
            "number" => Self::Number,
            "grade" => Self::Grade,
            "grade_rank" => Self::GradeRank,
            "age_s" => Self::Age,
            _ => return None,
        })
    }
}

impl Needs {
    /// Everything there is.
    #[cfg(test)]
    pub(super) fn all() -> Self {
        Self {
            everything: true,
            principal: true,
            resource: true,
            hierarchy: true,
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
        self.hierarchy |= other.hierarchy;
        self.parts = self.parts.or(other.parts);
        for (fact, other) in self.facts.iter_mut().zip(other.facts) {
            *fact = fact.or(other);
        }
    }

    /// The facts that must be in the request, by their place in the catalogue, and their fields.
    pub(super) fn facts(&self) -> impl Iterator<Item = (usize, Bits)> {
        let everything = self.everything;
        let needed = move |bits: Bits| if everything { Bits::ALL } else { bits };
        let facts = self.facts.into_iter().map(needed).enumerate();
        facts.filter(|(_, bits)| *bits != Bits::default())
    }

    /// Whether a part of the context must be in the request.
    pub(super) const fn part(&self, part: Part) -> bool {
        self.everything || self.parts.has(part.bit())
    }

    fn add(&mut self, expr: &Expr) {
        if let Some((var, path)) = path(expr) {
            self.add_path(&var, &path, matches!(expr, Expr::HasAttr { .. }));
            return;
        }
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "Cedar's syntax tree is non-exhaustive; nothing else looks at an entity"
        )]
        match expr {
            Expr::BinaryOp {
                op: BinaryOp::In, ..
            }
            | Expr::Is {
                in_expr: Some(_), ..
            } => {
                self.hierarchy = true;
            }
            // An attribute of an entity that the rule names itself, or chooses: it may be ours.
            Expr::GetAttr { .. } | Expr::HasAttr { .. } => {
                self.principal = true;
                self.resource = true;
            }
            _ => {}
        }
        for child in children(expr) {
            self.add(child);
        }
    }

    fn add_path(&mut self, var: &Var, path: &[&str], only_has: bool) {
        match (var, path) {
            (
                Var::Context,
                ["posture", fact, rest @ ..] | ["device", "posture", fact, rest @ ..],
            ) => {
                let needed = match rest.first() {
                    None if only_has => Field::Present.bit(),
                    None => Bits::ALL,
                    Some(field) => Field::named(field).map_or(Bits::ALL, Field::bit),
                };
                let slot = facts::find(fact).and_then(|(number, _)| self.facts.get_mut(number));
                if let Some(bits) = slot {
                    *bits = bits.or(needed);
                }
            }
            (Var::Context, ["device", "id" | "name" | "os", ..]) => {
                self.parts = self.parts.or(Part::Device.bit());
            }
            (Var::Context, [first, ..]) => match Part::named(first) {
                Some(part) => self.parts = self.parts.or(part.bit()),
                None => self.everything = true,
            },
            (Var::Context, []) => self.everything = true,
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
            if facts::find(fact).is_none() =>
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
