//! Comparisons in conditions, and how they are said.

use cedar_policy::pst::BinaryOp;

use super::request::grade_name;

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Eq,
    NotEq,
    Less,
    LessEq,
    Greater,
    GreaterEq,
}

impl Sign {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "Cedar's operators are non-exhaustive, and nothing else compares"
    )]
    pub(super) const fn of(op: BinaryOp) -> Option<Self> {
        Some(match op {
            BinaryOp::Eq => Self::Eq,
            BinaryOp::NotEq => Self::NotEq,
            BinaryOp::Less => Self::Less,
            BinaryOp::LessEq => Self::LessEq,
            BinaryOp::Greater => Self::Greater,
            BinaryOp::GreaterEq => Self::GreaterEq,
            _ => return None,
        })
    }

    /// What holds when this does not.
    pub(super) const fn opposite(self) -> Self {
        match self {
            Self::Eq => Self::NotEq,
            Self::NotEq => Self::Eq,
            Self::Less => Self::GreaterEq,
            Self::LessEq => Self::Greater,
            Self::Greater => Self::LessEq,
            Self::GreaterEq => Self::Less,
        }
    }

    /// The same with its sides exchanged.
    pub(super) const fn mirrored(self) -> Self {
        match self {
            Self::Eq => Self::Eq,
            Self::NotEq => Self::NotEq,
            Self::Less => Self::Greater,
            Self::LessEq => Self::GreaterEq,
            Self::Greater => Self::Less,
            Self::GreaterEq => Self::LessEq,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Eq => "==",
            Self::NotEq => "!=",
            Self::Less => "<",
            Self::LessEq => "<=",
            Self::Greater => ">",
            Self::GreaterEq => ">=",
        }
    }

    /// What is needed of a value that is compared with `text`.
    pub(super) fn before(self, text: &str) -> String {
        match self {
            Self::Eq => text.to_owned(),
            Self::NotEq => format!("not {text}"),
            Self::Less | Self::LessEq | Self::Greater | Self::GreaterEq => {
                format!("{} {text}", self.as_str())
            }
        }
    }
}

/// The grade that a comparison with a rank asks for, in words.
pub(super) fn grade_needed(sign: Sign, rank: i64) -> String {
    let least = match sign {
        Sign::Greater => rank.saturating_add(1),
        Sign::Eq | Sign::NotEq | Sign::Less | Sign::LessEq | Sign::GreaterEq => rank,
    };
    match (sign, grade_name(least)) {
        (Sign::GreaterEq | Sign::Greater, Some("hardware")) => "grade hardware".to_owned(),
        (Sign::GreaterEq | Sign::Greater, Some(name)) => format!("grade {name} or better"),
        (Sign::Eq, Some(name)) => format!("grade {name}"),
        (Sign::NotEq, Some(name)) => format!("grade not {name}"),
        _ => format!("grade_rank {} {rank}", sign.as_str()),
    }
}
