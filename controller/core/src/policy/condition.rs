//! Conditions of rules as people read them: what was looked at, what was found, what is needed.

use std::sync::Arc;

use cardea_proto::posture::Value;
use cedar_policy::pst::{BinaryOp, Expr, Literal, PatternElem, UnaryOp, Var};

use super::{
    compare::{Sign, grade_needed},
    facts::{self, KnownFact, Observed},
    needs,
    request::{Asked, time_fields},
};

/// A condition, or its opposite, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// A fact (`disk.encrypted`) or an attribute (`context.place.address`).
    pub(super) subject: String,
    /// What was found.
    pub(super) observed: String,
    /// What is needed.
    pub(super) needed: String,
    /// The fact, where the subject is one.
    pub(super) fact: Option<&'static KnownFact>,
    /// Whether there is nothing where the goal looks, so that all goals about it fail alike.
    pub(super) missing: bool,
    /// Which of several goals about something that is missing says most: the highest.
    pub(super) telling: u8,
}

/// What a path in a condition leads to.
enum Place<'e> {
    /// A field of a fact, the last of its path; `None` for the fact itself.
    Fact(&'static KnownFact, Option<&'e str>),
    /// Anything else.
    Attribute(Var, Vec<&'e str>),
}

/// A condition, or its opposite, in words, about what `asked` says.
pub(super) fn words(asked: Asked<'_>, expr: &Expr, negated: bool) -> Words {
    describe(asked, expr, negated).unwrap_or_else(|| {
        let text = expr.to_string();
        Words {
            subject: text.chars().take(SUBJECT_CHARS_MAX).collect(),
            observed: negated.to_string(),
            needed: (!negated).to_string(),
            fact: None,
            missing: false,
            telling: 0,
        }
    })
}

/// Longest text of a condition that is shown as it stands, in characters.
const SUBJECT_CHARS_MAX: usize = 200;

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "Cedar's syntax tree is non-exhaustive; what is not described is shown as it stands"
)]
fn describe(asked: Asked<'_>, expr: &Expr, negated: bool) -> Option<Words> {
    match expr {
        Expr::UnaryOp {
            op: UnaryOp::Not,
            expr,
        } => describe(asked, expr, !negated),
        Expr::HasAttr { .. } => {
            let place = Place::of(expr)?;
            let needed = if negated { "absent" } else { "present" };
            Some(place.words(asked, needed.to_owned(), 1))
        }
        Expr::GetAttr { .. } => {
            let place = Place::of(expr)?;
            Some(place.words(asked, (!negated).to_string(), 4))
        }
        Expr::Like { expr, pattern } => {
            let place = Place::of(expr)?;
            let not = if negated { "not " } else { "" };
            Some(place.words(asked, format!("{not}like {}", pattern_text(pattern)), 4))
        }
        Expr::BinaryOp { op, left, right } => binary(asked, *op, left, right, negated),
        _ => None,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "Cedar's operators are non-exhaustive; what is not described is shown as it stands"
)]
fn binary(
    asked: Asked<'_>,
    op: BinaryOp,
    left: &Expr,
    right: &Expr,
    negated: bool,
) -> Option<Words> {
    let not = if negated { "not " } else { "" };
    match op {
        BinaryOp::And | BinaryOp::Or => {
            let join = match (op == BinaryOp::And) != negated {
                true => "and",
                false => "or",
            };
            let first = describe(asked, left, negated)?;
            let second = describe(asked, right, negated)?;
            (first.subject == second.subject && first.observed == second.observed).then(|| Words {
                needed: format!("{} {join} {}", first.needed, second.needed),
                missing: first.missing && second.missing,
                ..first
            })
        }
        BinaryOp::Contains => match Place::of(left) {
            Some(place) => {
                let needed = format!("{not}containing {}", literal(right)?);
                Some(place.words(asked, needed, 4))
            }
            None => {
                let Expr::Set(elements) = left else {
                    return None;
                };
                let needed = one_of(elements, negated)?;
                Some(Place::of(right)?.words(asked, needed, 4))
            }
        },
        BinaryOp::ContainsAll | BinaryOp::ContainsAny => {
            let Expr::Set(elements) = right else {
                return None;
            };
            let shown: Vec<String> = elements.iter().map(|e| literal(e)).collect::<Option<_>>()?;
            let which = match op {
                BinaryOp::ContainsAll => "all of",
                _ => "any of",
            };
            let needed = format!("{not}containing {which} {}", shown.join(", "));
            Some(Place::of(left)?.words(asked, needed, 4))
        }
        BinaryOp::In | BinaryOp::IsInRange => {
            let needed = match right {
                Expr::Set(elements) => one_of(elements, negated)?,
                other => format!("{not}in {}", literal(other)?),
            };
            Some(Place::of(left)?.words(asked, needed, 4))
        }
        _ => {
            let sign = Sign::of(op)?;
            let sign = if negated { sign.opposite() } else { sign };
            match (Place::of(left), Place::of(right)) {
                (Some(place), None) => place.compared(asked, sign, right),
                (None, Some(place)) => place.compared(asked, sign.mirrored(), left),
                _ => None,
            }
        }
    }
}

impl<'e> Place<'e> {
    fn of(expr: &'e Expr) -> Option<Self> {
        let (var, path) = needs::path(expr)?;
        let in_posture = match (&var, path.as_slice()) {
            (Var::Context, ["posture", rest @ ..] | ["device", "posture", rest @ ..]) => Some(rest),
            _ => None,
        };
        match in_posture {
            Some([name, rest @ ..]) => {
                let (_, fact) = facts::find(name)?;
                Some(Self::Fact(fact, rest.last().copied()))
            }
            Some([]) => None,
            None => Some(Self::Attribute(var, path)),
        }
    }

    fn compared(&self, asked: Asked<'_>, sign: Sign, with: &Expr) -> Option<Words> {
        let with_text = literal(with)?;
        let number = with_text.parse::<i64>().ok();
        let plain = sign.before(&with_text);
        let (needed, telling) = match (self, number) {
            (Self::Fact(_, Some("grade_rank")), Some(rank)) => (grade_needed(sign, rank), 3),
            (Self::Fact(_, Some("grade")), _) => (format!("grade {plain}"), 3),
            (Self::Fact(_, Some("age_s")), _) => (format!("read {plain} s ago"), 2),
            (Self::Fact(_, Some(part @ ("major" | "minor" | "patch"))), _) => {
                (format!("{part} {plain}"), 4)
            }
            (Self::Fact(..) | Self::Attribute(..), _) => (plain, 4),
        };
        Some(self.words(asked, needed, telling))
    }

    fn words(&self, asked: Asked<'_>, needed: String, telling: u8) -> Words {
        let words = |subject: String, observed: Option<String>, fact| Words {
            subject,
            missing: observed.is_none(),
            observed: observed.unwrap_or_else(|| "absent".to_owned()),
            needed,
            fact,
            telling,
        };
        match self {
            Self::Fact(fact, field) => {
                let subject = fact.name.to_owned();
                match facts::observe(&asked.device(), fact) {
                    Observed::Nothing(why) => Words {
                        observed: why.into_owned(),
                        ..words(subject, None, Some(*fact))
                    },
                    Observed::Value(value, grade, age_s) => {
                        let text = match field {
                            Some("grade" | "grade_rank") => format!("grade {grade}"),
                            Some("age_s") => format!("read {age_s} s ago"),
                            _ => value.to_string(),
                        };
                        let numberless =
                            matches!(field, Some("number" | "major" | "minor" | "patch"))
                                && !matches!(&*value, Value::Text(text)
                                if facts::version_numbers(text).is_some());
                        Words {
                            missing: numberless,
                            ..words(subject, Some(text), Some(*fact))
                        }
                    }
                }
            }
            Self::Attribute(var, path) => {
                let subject = std::iter::once(var_name(var))
                    .chain(path.iter().copied())
                    .collect::<Vec<_>>()
                    .join(".");
                words(subject, attribute(asked, var, path), None)
            }
        }
    }
}

/// An attribute of a request as people read it; `None` when there is none.
fn attribute(asked: Asked<'_>, var: &Var, path: &[&str]) -> Option<String> {
    let device = asked.device();
    let circumstances = asked.circumstances();
    let list = |items: &mut dyn Iterator<Item = String>| {
        format!("[{}]", items.collect::<Vec<_>>().join(", "))
    };
    match (var, path, asked) {
        (Var::Principal, [] | ["name"], Asked::Certify(_)) => Some(device.name.to_string()),
        (Var::Principal, ["os"], Asked::Certify(_)) | (Var::Context, ["device", "os"], _) => {
            Some(device.os.escape_default().to_string())
        }
        (Var::Principal, ["owner"] | ["owner", "name"], Asked::Certify(_)) => {
            Some(device.owner.to_string())
        }
        (Var::Principal, [], Asked::Connect(ask)) => {
            let groups = list(&mut ask.groups.iter().map(ToString::to_string));
            Some(format!("{} in {groups}", ask.user))
        }
        (Var::Principal, ["name"], Asked::Connect(ask)) => Some(ask.user.to_string()),
        (Var::Resource, [] | ["name"], _) => Some(asked.resource()),
        (Var::Resource, ["labels"], Asked::Connect(ask)) => {
            let mut labels = ask.app.labels.iter().map(|(k, v)| format!("{k}={v}"));
            Some(list(&mut labels).escape_default().to_string())
        }
        (Var::Resource, ["sensitivity"], Asked::Connect(ask)) => {
            let labels = &ask.app.labels;
            Some(
                labels
                    .get("sensitivity")
                    .map_or_else(|| "normal".to_owned(), Clone::clone),
            )
        }
        (Var::Context, ["device", "id"], _) => Some(device.id.to_string()),
        (Var::Context, ["device", "name"], _) => Some(device.name.to_string()),
        (Var::Context, ["auth", "method"], Asked::Connect(ask)) => Some(ask.auth.method.to_owned()),
        (Var::Context, ["risk"], Asked::Connect(ask)) => ask.risk.map(|risk| risk.to_string()),
        (Var::Context, ["place", "address"], _) => circumstances.address.map(|a| a.to_string()),
        (Var::Context, ["time", part], _) => time_fields(circumstances.time.as_secs())
            .iter()
            .find(|(name, _)| name == part)
            .map(|(_, value)| value.to_string()),
        _ => None,
    }
}

/// A constant as people read it.
fn literal(expr: &Expr) -> Option<String> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "Cedar's syntax tree is non-exhaustive; nothing else is a constant"
    )]
    match expr {
        Expr::Literal(Literal::Bool(value)) => Some(value.to_string()),
        Expr::Literal(Literal::Long(value)) => Some(value.to_string()),
        Expr::Literal(Literal::String(text)) => Some(text.escape_default().to_string()),
        Expr::Literal(Literal::EntityUID(uid)) => Some(uid.to_string()),
        Expr::UnaryOp {
            op: UnaryOp::Neg,
            expr,
        } => literal(expr).map(|text| format!("-{text}")),
        Expr::UnaryOp {
            op: UnaryOp::Ip,
            expr,
        } => literal(expr),
        _ => None,
    }
}

fn one_of(elements: &[Arc<Expr>], negated: bool) -> Option<String> {
    let shown: Vec<String> = elements
        .iter()
        .map(|element| literal(element))
        .collect::<Option<_>>()?;
    let which = if negated { "none of" } else { "one of" };
    Some(format!("{which} {}", shown.join(", ")))
}

fn pattern_text(pattern: &[PatternElem]) -> String {
    pattern
        .iter()
        .map(|element| match element {
            PatternElem::Char(c) => c.escape_default().to_string(),
            PatternElem::Wildcard => "*".to_owned(),
        })
        .collect()
}

const fn var_name(var: &Var) -> &'static str {
    match var {
        Var::Principal => "principal",
        Var::Action => "action",
        Var::Resource => "resource",
        Var::Context => "context",
    }
}
