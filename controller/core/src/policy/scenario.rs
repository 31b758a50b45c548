//! The tests of a policy folder: files that end in `.test.toml`.
//!
//! Each test says what is given, what is asked and what is expected. What is given for the whole
//! file stands in `[given]`; a test may change parts of it.
//!
//! ```toml
//! [given]
//! allow = ["group:staff wiki"]               # everyday rules, as `cardeactl allow` takes them
//! address = "192.0.2.7"                      # where the device is connected from
//! time = 2026-01-05T09:00:00Z                # the controller's clock
//!
//! [given.users]                              # groups of each user; others have none
//! "alice@corp.example" = ["staff"]
//!
//! [given.apps.wiki]                          # apps; `site` is "default" where it is not said
//! labels = { env = "prod" }
//!
//! [given.devices.laptop]
//! user = "alice@corp.example"
//! os = "linux"                               # and where not said
//! clock_skew_s = 0                           # and where not said
//! [given.devices.laptop.posture]             # a value alone is graded `os` and just read
//! "agent.version" = "0.1.0"
//! "disk.encrypted" = { value = true, grade = "hardware", age_s = 20 }
//! "firewall.enabled" = { reading = "denied" }   # or absent, unsupported, error
//!
//! [[test]]
//! name = "staff may open the wiki"
//! ask = { connect = "wiki", device = "laptop" } # `user` is the device's where it is not said
//! expect = { allowed = true, rules = ["allow/group:staff/wiki"] }
//!
//! [[test]]
//! name = "a laptop without disk encryption is not certified"
//! given.devices.laptop.posture = { "disk.encrypted" = false }
//! ask = { certify = "laptop" }
//! expect = { allowed = false, reason = "check_failed", checks = ["disk.encrypted"] }
//! ```
//!
//! Of what is expected, `allowed` must be said; `reason`, `rules`, `checks` (their subjects) and
//! `remedy` are compared where they are said. As in real life, nobody opens an app on a device that
//! may not hold a certificate: then the reason is `not_compliant`.

use std::collections::{BTreeMap, BTreeSet};

use cardea_proto::{
    decision::{Decision, Reason},
    policy::{PolicyFile, PolicyProblem, PolicyTestResult},
};
use serde::Deserialize;

use super::{
    engine::{Engine, not_compliant},
    given::{Given, World},
};

/// The tests of one file.
#[derive(Debug)]
pub(super) struct Scenarios {
    path: String,
    tests: Vec<Scenario>,
}

#[derive(Debug)]
struct Scenario {
    name: String,
    given: Given,
    ask: Ask,
    expect: Expect,
}

/// A file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    given: toml::Table,
    #[serde(default)]
    test: Vec<Test>,
}

/// A test as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    name: String,
    #[serde(default)]
    given: toml::Table,
    ask: Ask,
    expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    certify: Option<String>,
    connect: Option<String>,
    device: Option<String>,
    user: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    allowed: bool,
    reason: Option<Reason>,
    rules: Option<BTreeSet<String>>,
    checks: Option<BTreeSet<String>>,
    remedy: Option<String>,
}

/// Tables of `given` down to this depth are merged, so that a test changes one fact and keeps the
/// others: `devices`, a device, its `posture`.
const MERGE_DEPTH: u8 = 3;

/// Reads the tests of a folder.
pub(super) fn parse(files: &[PolicyFile]) -> Result<Vec<Scenarios>, Vec<PolicyProblem>> {
    let mut all = Vec::new();
    let mut problems = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.path.ends_with(".test.toml"))
    {
        match parse_file(file) {
            Ok(scenarios) => all.push(scenarios),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(all)
    } else {
        Err(problems)
    }
}

fn parse_file(file: &PolicyFile) -> Result<Scenarios, PolicyProblem> {
    let problem = |line: Option<u32>, message: String| PolicyProblem {
        path: file.path.clone(),
        line,
        message,
    };
    let parsed: File = toml::from_str(&file.text).map_err(|error| {
        let before = error.span().and_then(|span| file.text.get(..span.start));
        let line = before.map(|text| text.matches('\n').count().saturating_add(1));
        let message = error.message().trim().replace('\n', " ");
        problem(line.and_then(|line| u32::try_from(line).ok()), message)
    })?;
    let mut tests = Vec::with_capacity(parsed.test.len());
    for Test {
        name,
        given,
        ask,
        expect,
    } in parsed.test
    {
        let mut merged = parsed.given.clone();
        merge(&mut merged, given, MERGE_DEPTH);
        let scenario = merged
            .try_into()
            .map_err(|error: toml::de::Error| error.message().trim().replace('\n', " "))
            .map(|given| Scenario {
                name: name.clone(),
                given,
                ask,
                expect,
            })
            .and_then(|scenario| scenario.decide_nothing().map(|()| scenario))
            .map_err(|error| problem(line_of(&file.text, &name), format!("{name:?}: {error}")))?;
        tests.push(scenario);
    }
    Ok(Scenarios {
        path: file.path.clone(),
        tests,
    })
}

/// Runs tests on an engine's folder.
pub(super) fn run(engine: &Engine, scenarios: &[Scenarios]) -> Vec<PolicyTestResult> {
    let results = scenarios.iter().flat_map(|Scenarios { path, tests }| {
        tests.iter().map(move |test| {
            let detail = match test.decide(engine) {
                Ok(decision) => test.expect.differs(&decision),
                Err(error) => Some(error),
            };
            PolicyTestResult {
                path: path.clone(),
                name: test.name.clone(),
                passed: detail.is_none(),
                detail,
            }
        })
    });
    results.collect()
}

impl Scenario {
    fn decide(&self, engine: &Engine) -> Result<Decision, String> {
        let world = World::new(&self.given)?;
        let engine = engine.with_links(world.links()).map_err(|problems| {
            let first = problems.into_iter().next();
            first.map_or_else(String::new, |problem| problem.message)
        })?;
        let Ask {
            certify,
            connect,
            device,
            user,
        } = &self.ask;
        match (certify, connect, device) {
            (Some(device), None, None) if user.is_none() => {
                Ok(engine.decide_certify(&world.certify(device)?))
            }
            (None, Some(app), Some(device)) => {
                let certify = engine.decide_certify(&world.certify(device)?);
                let ask = world.connect(app, device, user.as_deref())?;
                Ok(if certify.allowed {
                    engine.decide_connect(&ask)
                } else {
                    not_compliant(&ask, &certify)
                })
            }
            _ => Err(
                "ask is { certify = DEVICE } or { connect = APP, device = DEVICE, user = USER }, \
                 where user may be left out"
                    .to_owned(),
            ),
        }
    }

    /// Whether everything that the test names is given.
    fn decide_nothing(&self) -> Result<(), String> {
        let empty = Engine::new(&[], &BTreeSet::new()).map_err(|_| String::new())?;
        self.decide(&empty).map(drop)
    }
}

impl Expect {
    /// In words, what was decided and what was expected, when they differ.
    fn differs(&self, decision: &Decision) -> Option<String> {
        let rules: BTreeSet<String> = decision.rules.iter().cloned().collect();
        let checks: BTreeSet<String> = decision
            .checks
            .iter()
            .map(|check| check.subject.clone())
            .collect();
        let mut wrong = BTreeMap::new();
        if self.allowed != decision.allowed {
            wrong.insert("allowed", format!("{}", self.allowed));
        }
        if let Some(reason) = self.reason.filter(|reason| *reason != decision.reason) {
            wrong.insert("reason", word(reason));
        }
        if let Some(expected) = self.rules.as_ref().filter(|expected| **expected != rules) {
            wrong.insert("rules", listed(expected));
        }
        if let Some(expected) = self.checks.as_ref().filter(|expected| **expected != checks) {
            wrong.insert("checks", listed(expected));
        }
        if let Some(expected) = &self.remedy
            && decision.remedy.as_ref() != Some(expected)
        {
            wrong.insert("remedy", format!("\"{expected}\""));
        }
        if wrong.is_empty() {
            return None;
        }
        let expected: Vec<String> = wrong
            .iter()
            .map(|(what, it)| format!("{what} {it}"))
            .collect();
        Some(format!(
            "expected {}; decided: {} (reason {}, rules {}, checks {})",
            expected.join(", "),
            decision.summary(),
            word(decision.reason),
            listed(&rules),
            listed(&checks),
        ))
    }
}

/// A reason as a test names it.
fn word(reason: Reason) -> String {
    let word = toml::Value::try_from(reason).ok();
    let word = word.and_then(|word| word.as_str().map(ToOwned::to_owned));
    word.unwrap_or_default()
}

/// Names as people list them.
fn listed(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.join(" and ")
}

fn merge(base: &mut toml::Table, over: toml::Table, depth: u8) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(value)) if depth > 0 => {
                merge(below, value, depth.saturating_sub(1));
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn line_of(text: &str, name: &str) -> Option<u32> {
    let quoted = format!("{name:?}");
    let line = text.lines().position(|line| {
        let line = line.trim_start();
        line.starts_with("name") && line.contains(&quoted)
    })?;
    u32::try_from(line).ok()?.checked_add(1)
}
