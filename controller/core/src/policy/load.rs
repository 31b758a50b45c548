//! From the files of a policy folder to rules, or to everything that is wrong with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use cardea_proto::policy::{POLICY_FILE_BYTES_MAX, POLICY_FILES_MAX, PolicyFile, PolicyProblem};
use cedar_policy::{
    Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator,
    pst::{Expr, Literal},
};
use miette::Diagnostic;

use super::{
    facts,
    limits::{self, TooComplex},
    links::LINKS_FILE,
    needs,
    rule::{self, Action, Rule},
    slice::Index,
};

/// The schema of every decision, in Cedar's schema language: published text.
pub const SCHEMA: &str = include_str!("../../policies/cardea.cedarschema");

static PARSED_SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "a constant, parsed by every test")]
    let (schema, _warnings) = Schema::from_cedarschema_str(SCHEMA).expect("our schema parses");
    schema
});

/// The rules of a folder, sorted for decisions.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) certify: Index,
    pub(super) connect: Index,
    /// Programs that rules look for in `process.running`.
    pub(super) watched: BTreeSet<String>,
}

/// A policy and where it stands.
struct Found<'f> {
    policy: Policy,
    rule: Arc<Rule>,
    path: &'f str,
}

/// The schema, parsed.
pub(super) fn schema() -> &'static Schema {
    &PARSED_SCHEMA
}

/// Parses, names, validates and sorts the policies of a folder.
pub(super) fn load(files: &[PolicyFile]) -> Result<Loaded, Vec<PolicyProblem>> {
    let mut problems = check_paths(files);
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".cedar")) {
        parse(file, &mut found, &mut problems);
    }
    let texts: BTreeMap<&str, &str> = files
        .iter()
        .map(|file| (file.path.as_str(), file.text.as_str()))
        .collect();
    let set = gather(&found, &texts, &mut problems);
    if problems.is_empty() {
        validate(&set, &found, &texts, &mut problems);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(sort(&found))
}

fn check_paths(files: &[PolicyFile]) -> Vec<PolicyProblem> {
    let mut problems = Vec::new();
    if files.len() > POLICY_FILES_MAX {
        let message = format!("a policy folder has at most {POLICY_FILES_MAX} files");
        return vec![problem("", None, message)];
    }
    let mut seen = BTreeSet::new();
    for PolicyFile { path, text } in files {
        let strange = path.is_empty()
            || path.starts_with('/')
            || path.split('/').any(|part| matches!(part, "" | "." | ".."))
            || path.chars().any(|c| c.is_control() || c == '\\');
        let message = if strange {
            "not a path within the folder".to_owned()
        } else if !path.ends_with(".cedar") && !path.ends_with(".test.toml") {
            "a policy folder has *.cedar and *.test.toml only".to_owned()
        } else if path == LINKS_FILE {
            "everyday rules are no part of the folder: use `cardeactl allow` and \
             `cardeactl disallow`, and leave this file out"
                .to_owned()
        } else if text.len() > POLICY_FILE_BYTES_MAX {
            format!("larger than {POLICY_FILE_BYTES_MAX} bytes")
        } else if !seen.insert(path) {
            "the same path twice".to_owned()
        } else {
            continue;
        };
        problems.push(problem(path, None, message));
    }
    problems
}

fn parse<'f>(file: &'f PolicyFile, found: &mut Vec<Found<'f>>, problems: &mut Vec<PolicyProblem>) {
    if let Err(TooComplex { offset, message }) = limits::check(&file.text) {
        problems.push(problem(&file.path, line_at(&file.text, offset), message));
        return;
    }
    let set: PolicySet = match file.text.parse() {
        Ok(set) => set,
        Err(errors) => {
            let errors: &cedar_policy::ParseErrors = &errors;
            problems.extend(errors.iter().map(|error| {
                let line = line_of(error, &file.text);
                problem(&file.path, line, explain(error))
            }));
            return;
        }
    };
    if let Some(template) = set.templates().next() {
        let line = template
            .annotation("id")
            .and_then(|id| line_of_id(&file.text, id, 0));
        let message =
            "templates are not part of a folder: use `cardeactl allow` for everyday rules";
        problems.push(problem(&file.path, line, message.to_owned()));
    }
    let mut policies: Vec<&Policy> = set.policies().collect();
    policies.sort_by_key(|policy| {
        let number = policy.id().to_string();
        number
            .trim_start_matches("policy")
            .parse::<u64>()
            .unwrap_or(u64::MAX)
    });
    for policy in policies {
        let id = match policy.annotation("id") {
            Some(id) if !id.is_empty() => id.to_owned(),
            _ => format!("{}:{}", file.path, policy.id()),
        };
        let policy = policy.new_id(PolicyId::new(id));
        match rule_of(&policy) {
            Ok(rule) => {
                for name in rule.conditions().flat_map(needs::unknown_facts) {
                    let message = format!("rule {}: {}", rule.id, unknown_fact(&name));
                    problems.push(problem(
                        &file.path,
                        line_of_word(&file.text, &name),
                        message,
                    ));
                }
                for name in rule.spared_by_absence() {
                    let message = format!(
                        "rule {}: this forbid passes over a device whose {name} is missing; \
                         write: unless {{ context.device.posture has {name} && … }}",
                        rule.id
                    );
                    let line = line_of_word(&file.text, &name);
                    problems.push(problem(&file.path, line, message));
                }
                found.push(Found {
                    policy,
                    rule,
                    path: &file.path,
                });
            }
            Err(message) => problems.push(problem(&file.path, None, message)),
        }
    }
}

fn gather(
    found: &[Found<'_>],
    texts: &BTreeMap<&str, &str>,
    problems: &mut Vec<PolicyProblem>,
) -> PolicySet {
    let mut set = PolicySet::new();
    let mut first: BTreeMap<String, &str> = BTreeMap::new();
    for Found { policy, path, .. } in found {
        let id = policy.id().to_string();
        if id.starts_with("allow/") || id.chars().any(char::is_control) {
            let message = format!(
                "@id({id:?}) is not free: names that begin with allow/ are those of everyday rules, \
                 and control characters cannot be shown"
            );
            let line = texts.get(path).and_then(|text| line_of_id(text, &id, 0));
            problems.push(problem(path, line, message));
        } else if let Some(other) = first.get(&id) {
            let nth = usize::from(other == path);
            let line = texts.get(path).and_then(|text| line_of_id(text, &id, nth));
            let message = format!("@id({id:?}) is taken by another rule in {other}");
            problems.push(problem(path, line, message));
        } else {
            first.insert(id, path);
            if let Err(error) = set.add(policy.clone()) {
                problems.push(problem(path, None, error.to_string()));
            }
        }
    }
    set
}

fn validate(
    set: &PolicySet,
    found: &[Found<'_>],
    texts: &BTreeMap<&str, &str>,
    problems: &mut Vec<PolicyProblem>,
) {
    let paths: BTreeMap<&PolicyId, &str> = found
        .iter()
        .map(|Found { policy, path, .. }| (policy.id(), *path))
        .collect();
    let result = Validator::new(schema().clone()).validate(set, ValidationMode::Strict);
    for error in result.validation_errors() {
        let path = paths.get(error.policy_id()).copied().unwrap_or_default();
        let text = texts.get(path).copied().unwrap_or_default();
        problems.push(problem(path, line_of(error, text), explain(error)));
    }
    // A rule that can never apply is a mistake, and a forbid that never applies is a dangerous one.
    for warning in result.validation_warnings() {
        let path = paths.get(warning.policy_id()).copied().unwrap_or_default();
        let text = texts.get(path).copied().unwrap_or_default();
        problems.push(problem(path, line_of(warning, text), explain(warning)));
    }
    problems.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
}

fn sort(found: &[Found<'_>]) -> Loaded {
    let mut loaded = Loaded::default();
    for Found { policy, rule, .. } in found {
        for condition in rule.conditions() {
            watch(condition, &mut loaded.watched);
        }
        for (action, index) in [
            (Action::Certify, &mut loaded.certify),
            (Action::Connect, &mut loaded.connect),
        ] {
            if let Some((principal, resource)) = rule::scopes(policy, action) {
                index.bucket(resource, principal).add(Arc::clone(rule));
            }
        }
    }
    loaded
}

fn rule_of(policy: &Policy) -> Result<Arc<Rule>, String> {
    let tree = policy.to_pst().map_err(|error| error.to_string())?;
    Rule::new(policy, tree.body().clauses().clone()).map(Arc::new)
}

/// Collects the programs of `…process_running.value.contains("sshd")` and its kin.
fn watch(expr: &Expr, out: &mut BTreeSet<String>) {
    if let Expr::BinaryOp { left, right, .. } = expr
        && let Some((_, path)) = needs::path(left)
        && path.ends_with(&["process_running", "value"])
    {
        let mut texts = vec![&**right];
        while let Some(expr) = texts.pop() {
            if let Expr::Literal(Literal::String(text)) = expr {
                out.insert(text.to_string());
            }
            texts.extend(needs::children(expr));
        }
    }
    for child in needs::children(expr) {
        watch(child, out);
    }
}

fn problem(path: &str, line: Option<u32>, message: String) -> PolicyProblem {
    PolicyProblem {
        path: path.to_owned(),
        line,
        message,
    }
}

/// What is wrong and what would be right, in one line.
fn explain(error: &impl Diagnostic) -> String {
    let help = error.help().map(|help| format!(" ({help})"));
    format!("{error}{}", help.unwrap_or_default())
}

fn line_of(error: &impl Diagnostic, text: &str) -> Option<u32> {
    let offset = error.labels()?.next()?.offset();
    line_at(text, offset)
}

/// Cedar takes `has` of an attribute that no schema has as false, so a misspelt fact would pass.
fn unknown_fact(name: &str) -> String {
    let nearest = facts::known()
        .iter()
        .map(|known| (distance(&known.attribute, name), &known.attribute))
        .min()
        .filter(|(distance, _)| *distance <= DISTANCE_MAX);
    let hint = nearest.map(|(_, known)| format!(", did you mean {known}?"));
    format!(
        "policies know no fact {name}{}",
        hint.unwrap_or_else(|| ": cardea.cedarschema has them all".to_owned())
    )
}

/// Most letters that a misspelt name differs in.
const DISTANCE_MAX: usize = 3;

/// How many letters must be added, removed or changed to make one word of another (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (line, a) in one.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line.saturating_add(1);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (slot, b) in row.iter_mut().skip(1).zip(other.chars()) {
            let changed = diagonal.saturating_add(usize::from(a != b));
            diagonal = *slot;
            left = changed
                .min(diagonal.saturating_add(1))
                .min(left.saturating_add(1));
            *slot = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

fn line_of_word(text: &str, word: &str) -> Option<u32> {
    line_at(text, text.find(word)?)
}

fn line_of_id(text: &str, id: &str, nth: usize) -> Option<u32> {
    let annotation = format!("@id({id:?})");
    let (offset, _) = text.match_indices(&annotation).nth(nth)?;
    line_at(text, offset)
}

fn line_at(text: &str, offset: usize) -> Option<u32> {
    let before = text.as_bytes().get(..offset)?;
    let lines = before.iter().filter(|byte| **byte == b'\n').count();
    u32::try_from(lines).ok()?.checked_add(1)
}
