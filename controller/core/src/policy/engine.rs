//! The pure function that decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cardea_proto::{
    decision::{Decision, Reason},
    ledger::{Link, Revision},
    policy::{PolicyFile, PolicyProblem, PolicyTestResult},
};
use cedar_policy::Effect;

use super::{
    ask::{CertifyAsk, ConnectAsk},
    explain::{self, Finding},
    links::{self, LINKS_FILE},
    load::{self, Loaded},
    needs::Needs,
    request::{Asked, Question},
    rule::{Action, Rule},
    scenario::{self, Scenarios},
    slice::{Bucket, Index, Lineage},
};

/// A policy folder and the everyday rules, ready to decide.
///
/// Cheap to clone; [`Engine::with_links`] shares the folder.
#[derive(Clone, Debug)]
pub struct Engine {
    folder: Arc<Folder>,
    links: Arc<Index>,
    linked: Arc<BTreeSet<Link>>,
    revision: Revision,
}

#[derive(Debug)]
struct Folder {
    files: Vec<PolicyFile>,
    loaded: Loaded,
    scenarios: Vec<Scenarios>,
}

/// What the policies at hand came to, by id.
#[derive(Debug, Default)]
struct Outcome<'t> {
    permits: BTreeMap<&'t str, &'t Rule>,
    forbids: BTreeMap<&'t str, &'t Rule>,
    errors: BTreeMap<&'t str, String>,
}

impl Engine {
    /// Makes an engine of a folder and the everyday rules.
    ///
    /// # Errors
    /// Everything that is wrong with the folder: what does not parse, does not agree with the
    /// schema, or is named twice.
    pub fn new(files: &[PolicyFile], links: &BTreeSet<Link>) -> Result<Self, Vec<PolicyProblem>> {
        let scenarios = scenario::parse(files);
        let loaded = load::load(files);
        let (loaded, scenarios) = match (loaded, scenarios) {
            (Ok(loaded), Ok(scenarios)) => (loaded, scenarios),
            (loaded, scenarios) => {
                let mut problems = loaded.err().unwrap_or_default();
                problems.extend(scenarios.err().unwrap_or_default());
                return Err(problems);
            }
        };
        let folder = Folder {
            files: files.to_vec(),
            loaded,
            scenarios,
        };
        Self {
            folder: Arc::new(folder),
            links: Arc::default(),
            linked: Arc::default(),
            revision: Revision::default(),
        }
        .with_links(links)
    }

    /// The same folder with other everyday rules.
    ///
    /// # Errors
    /// A link that Cedar refuses; none that [`Link`] can hold is known.
    pub fn with_links(&self, links: &BTreeSet<Link>) -> Result<Self, Vec<PolicyProblem>> {
        let index = links::index(links).map_err(|message| {
            vec![PolicyProblem {
                path: LINKS_FILE.to_owned(),
                line: None,
                message,
            }]
        })?;
        Ok(Self {
            folder: Arc::clone(&self.folder),
            links: Arc::new(index),
            linked: Arc::new(links.clone()),
            revision: self.revision,
        })
    }

    /// The same engine, whose decisions name the commit that set the policy.
    #[must_use]
    pub fn at(mut self, revision: Revision) -> Self {
        self.revision = revision;
        self
    }

    /// The commit that set the policy, as told by [`Engine::at`].
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The folder, with the everyday rules in `links.cedar` when there are any.
    #[must_use]
    pub fn files(&self) -> Vec<PolicyFile> {
        let mut files = self.folder.files.clone();
        if !self.linked.is_empty() {
            files.push(PolicyFile {
                path: LINKS_FILE.to_owned(),
                text: links::render_links(&self.linked),
            });
        }
        files
    }

    /// The everyday rules.
    #[must_use]
    pub fn links(&self) -> &BTreeSet<Link> {
        &self.linked
    }

    /// Programs that rules look for in `process.running`; devices are told to watch them.
    #[must_use]
    pub fn watched_processes(&self) -> &BTreeSet<String> {
        &self.folder.loaded.watched
    }

    /// Runs the tests of the folder, with the everyday rules that each test gives.
    #[must_use]
    pub fn run_tests(&self) -> Vec<PolicyTestResult> {
        scenario::run(self, &self.folder.scenarios)
    }

    /// May this device hold a certificate?
    #[must_use]
    pub fn decide_certify(&self, ask: &CertifyAsk<'_>) -> Decision {
        self.decide(Asked::Certify(ask))
    }

    /// May this user, on this device, open this app?
    ///
    /// The device's appraisal is not part of the answer: ask [`Engine::decide_certify`] first, and
    /// [`not_compliant`] where it denies.
    #[must_use]
    pub fn decide_connect(&self, ask: &ConnectAsk<'_>) -> Decision {
        self.decide(Asked::Connect(ask))
    }

    fn decide(&self, asked: Asked<'_>) -> Decision {
        let buckets = self.buckets(asked);
        let mut needs = Needs::default();
        for bucket in &buckets {
            needs.merge(bucket.needs());
        }
        let question = match Question::new(asked, &needs, None) {
            Ok(question) => question,
            Err(error) => {
                let errors = vec![error.to_string()];
                return self.decision(asked, Reason::EvaluationError, Vec::new(), errors);
            }
        };
        let outcome = evaluate(&question, &buckets);
        self.conclude(asked, &question, &buckets, outcome)
    }

    fn buckets(&self, asked: Asked<'_>) -> Vec<&Bucket> {
        let mut buckets = Vec::with_capacity(4);
        let folder = &self.folder.loaded;
        match asked {
            Asked::Certify(ask) => {
                let device = ask.device.id.to_string();
                let principal = Lineage {
                    id: &device,
                    parents: std::iter::empty::<&str>(),
                };
                let resource = Lineage {
                    id: ask.domain.as_str(),
                    parents: std::iter::empty::<&str>(),
                };
                folder.certify.matching(principal, resource, &mut buckets);
            }
            Asked::Connect(ask) => {
                for index in [&folder.connect, &*self.links] {
                    let principal = Lineage {
                        id: ask.user.as_str(),
                        parents: ask.groups.iter(),
                    };
                    let resource = Lineage {
                        id: ask.app.name.as_str(),
                        parents: std::iter::once(&ask.app.site),
                    };
                    index.matching(principal, resource, &mut buckets);
                }
            }
        }
        buckets
    }

    fn conclude(
        &self,
        asked: Asked<'_>,
        question: &Question,
        buckets: &[&Bucket],
        outcome: Outcome<'_>,
    ) -> Decision {
        let named = |rules: &BTreeMap<&str, &Rule>| rules.keys().map(ToString::to_string).collect();
        let errors: Vec<String> = outcome
            .errors
            .iter()
            .map(|(id, error)| format!("rule {id}: {error}"))
            .collect();
        if !outcome.forbids.is_empty() {
            let rules = named(&outcome.forbids);
            let finding = explain::forbidden(asked, question, outcome.forbids.values().copied());
            let decision = self.decision(asked, Reason::Forbidden, rules, errors);
            return explained(decision, finding);
        }
        if !outcome.errors.is_empty() {
            let rules = outcome.errors.keys().map(ToString::to_string).collect();
            return self.decision(asked, Reason::EvaluationError, rules, errors);
        }
        if !outcome.permits.is_empty() {
            let rules = named(&outcome.permits);
            return self.decision(asked, Reason::Permitted, rules, errors);
        }
        let candidates = buckets
            .iter()
            .flat_map(|bucket| bucket.rules())
            .filter(|rule| rule.effect == Effect::Permit);
        match explain::not_permitted(asked, question, candidates) {
            Some((rule, finding)) => {
                let rules = vec![rule.id.clone()];
                let decision = self.decision(asked, Reason::CheckFailed, rules, errors);
                explained(decision, finding)
            }
            None => self.decision(asked, Reason::NoRule, Vec::new(), errors),
        }
    }

    fn decision(
        &self,
        asked: Asked<'_>,
        reason: Reason,
        rules: Vec<String>,
        errors: Vec<String>,
    ) -> Decision {
        let mut decision = Decision {
            action: asked.action().as_str().to_owned(),
            principal: asked.principal(),
            resource: asked.resource(),
            allowed: reason == Reason::Permitted,
            reason,
            rules,
            checks: Vec::new(),
            remedy: None,
            errors,
            policy_revision: self.revision,
            appraisal: None,
        };
        decision.remedy = decision.advice();
        decision
    }
}

/// The answer to `ask` for a device whose appraisal, `certify`, does not pass.
#[must_use]
pub fn not_compliant(ask: &ConnectAsk<'_>, certify: &Decision) -> Decision {
    Decision {
        action: Action::Connect.as_str().to_owned(),
        principal: ask.user.to_string(),
        resource: ask.app.name.to_string(),
        allowed: false,
        reason: Reason::NotCompliant,
        appraisal: Some(certify.reason),
        ..certify.clone()
    }
}

fn explained(mut decision: Decision, finding: Finding) -> Decision {
    decision.checks = finding.checks;
    decision.remedy = finding.remedy;
    decision.remedy = decision.advice();
    decision
}

fn evaluate<'t>(question: &Question, buckets: &[&'t Bucket]) -> Outcome<'t> {
    let mut outcome = Outcome::default();
    for rule in buckets.iter().flat_map(|bucket| bucket.rules()) {
        match (rule.holds(question), rule.effect) {
            (Ok(false), _) => {}
            (Ok(true), Effect::Permit) => {
                outcome.permits.insert(&rule.id, rule);
            }
            (Ok(true), Effect::Forbid) => {
                outcome.forbids.insert(&rule.id, rule);
            }
            (Err(error), _) => {
                outcome.errors.insert(&rule.id, error);
            }
        }
    }
    outcome
}
