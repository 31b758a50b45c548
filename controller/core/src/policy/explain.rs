//! Why a decision is a denial.

use cardea_proto::decision::Check;

use super::{
    request::{Asked, Question},
    rule::Rule,
};

/// What stood in the way, and what to do about it.
#[derive(Debug, Default)]
pub(super) struct Finding {
    pub(super) checks: Vec<Check>,
    pub(super) remedy: Option<String>,
}

/// Which checks made these rules forbid.
pub(super) fn forbidden<'r>(
    _asked: Asked<'_>,
    _question: &Question,
    _rules: impl Iterator<Item = &'r Rule>,
) -> Finding {
    Finding::default()
}

/// Which of these permits came nearest to holding, and which of its checks failed.
pub(super) fn not_permitted<'r>(
    _asked: Asked<'_>,
    _question: &Question,
    mut rules: impl Iterator<Item = &'r Rule>,
) -> Option<(&'r Rule, Finding)> {
    rules.next().map(|rule| (rule, Finding::default()))
}
