//! Why a decision is a denial: which conditions of which rules stood in the way.
//!
//! The conditions are split into goals that must all hold, and Cedar itself evaluates each of them
//! for the same request: an explanation cannot disagree with the decision that it explains.

use std::collections::BTreeMap;

use cardea_proto::decision::Check;

use super::{
    condition::Words,
    goal::Came,
    request::{Asked, Question},
    rule::Rule,
};

/// What stood in the way, and what to do about it.
#[derive(Debug, Default)]
pub(super) struct Finding {
    pub(super) checks: Vec<Check>,
    pub(super) remedy: Option<String>,
}

/// Checks about facts, and the remedies of all.
#[derive(Debug, Default)]
struct Advice {
    checks: Vec<Check>,
    remedies: Vec<String>,
    about_posture: bool,
}

/// Which checks made these rules forbid.
pub(super) fn forbidden<'r>(
    asked: Asked<'_>,
    question: &Question,
    rules: impl Iterator<Item = &'r Rule>,
) -> Finding {
    let mut advice = Advice::default();
    for rule in rules {
        advice.add(rule, &failed(asked, question, rule));
    }
    advice.finish()
}

/// Which of these permits came nearest to holding, and which of its checks failed.
pub(super) fn not_permitted<'r>(
    asked: Asked<'_>,
    question: &Question,
    rules: impl Iterator<Item = &'r Rule>,
) -> Option<(&'r Rule, Finding)> {
    let nearest = rules
        .map(|rule| (rule, failed(asked, question, rule)))
        .min_by_key(|(_, failed)| failed.len());
    nearest.map(|(rule, failed)| {
        let mut advice = Advice::default();
        advice.add(rule, &failed);
        (rule, advice.finish())
    })
}

/// The goals that did not hold, in words, each thing that is missing once.
fn failed(asked: Asked<'_>, question: &Question, rule: &Rule) -> Vec<Words> {
    let mut shown: Vec<Words> = Vec::new();
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    for goal in rule.goals() {
        let came = goal.came(question);
        if came == Came::Held {
            continue;
        }
        let words = goal.words(asked);
        if !words.missing {
            if came == Came::Failed {
                shown.push(words);
            }
            continue;
        }
        match missing
            .get(&words.subject)
            .and_then(|at| shown.get_mut(*at))
        {
            Some(before) if before.telling < words.telling => *before = words,
            Some(_) => {}
            None => {
                missing.insert(words.subject.clone(), shown.len());
                shown.push(words);
            }
        }
    }
    shown
}

/// Most characters of a value that a decision quotes: it is recorded, sent and read again and again,
/// and a device may report a long one.
const QUOTED_CHARS_MAX: usize = 200;

/// The beginning of a long value.
fn shortened(value: &str) -> String {
    match value.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}

impl Advice {
    fn add(&mut self, rule: &Rule, failed: &[Words]) {
        for words in failed {
            let fact = words.fact.map(|fact| fact.attribute.as_str());
            let remedy = rule.remedy(fact);
            self.about_posture |= fact.is_some();
            self.remedies.extend(remedy.map(str::to_owned));
            self.checks.push(Check {
                subject: words.subject.clone(),
                observed: shortened(&words.observed),
                needed: shortened(&words.needed),
                rule: rule.id.clone(),
                remedy: remedy.map(str::to_owned),
            });
        }
        if failed.is_empty() {
            self.remedies.extend(rule.remedy(None).map(str::to_owned));
        }
    }

    /// One sentence: each remedy once, and the command that shows whether it helped.
    fn finish(self) -> Finding {
        let mut sentence = String::new();
        for remedy in &self.remedies {
            let remedy = remedy.trim_end_matches('.');
            if sentence.split("; ").any(|said| said == remedy) {
                continue;
            }
            if !sentence.is_empty() {
                sentence.push_str("; ");
            }
            sentence.push_str(remedy);
        }
        if self.about_posture && !sentence.is_empty() {
            sentence.push_str(", then: cardea posture");
        }
        Finding {
            checks: self.checks,
            remedy: (!sentence.is_empty()).then_some(sentence),
        }
    }
}
