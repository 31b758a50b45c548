//! Decisions: the one place where everything that a decision looks at comes together.
//!
//! A request, a renewal, an extension, `cardea explain` and `cardeactl explain` all ask here, so
//! they cannot differ. What passes comes out as a proof value ([`PassingAppraisal`], [`Allowed`])
//! that nothing else makes.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use cardea_proto::{
    app::AppSpec,
    decision::{Check, Decision, Reason},
    id::DeviceId,
    ledger::User,
    name::Name,
    time::{Now, UnixMillis},
};

use crate::{
    channels::Channels,
    policy::{
        Auth, CLOCK_SKEW, CertifyAsk, Circumstances, ConnectAsk, DeviceFacts, Engine, not_compliant,
    },
    posture::{Facts, Postures},
    settings::{CLOCK_SKEW_MAX, Settings},
    state::NodeRecord,
    world::World,
};

/// The rule under which a clock that is far off fails an appraisal, whatever the policy says.
pub(crate) const RULE_CLOCK: &str = "controller/clock";

/// The rule under which simulated facts fail an appraisal, unless the controller accepts them.
pub(crate) const RULE_SIMULATED: &str = "controller/simulated-posture";

/// Asks for decisions at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Judge<'a> {
    world: &'a World,
    postures: &'a Postures,
    channels: &'a Channels,
    now: Now,
    foreseen: Foreseen<'a>,
}

/// Records as they would be after a change that is only planned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Foreseen<'a> {
    /// Another policy or other everyday rules.
    pub(crate) engine: Option<&'a Engine>,
    /// A user with other groups.
    pub(crate) user: Option<&'a User>,
    /// An app with another specification.
    pub(crate) app: Option<&'a AppSpec>,
}

/// Proof that a device's latest report is fresh and passes.
#[derive(Clone, Debug)]
pub(crate) struct PassingAppraisal {
    reported_at: UnixMillis,
    decision: Decision,
}

/// Proof that a subject may open an app at this moment.
#[derive(Clone, Debug)]
pub(crate) struct Allowed {
    decision: Decision,
    certificate_life: Duration,
}

/// A device that asks for its first certificate, or one that has had some.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applicant<'a> {
    pub(crate) id: DeviceId,
    pub(crate) name: &'a Name,
    pub(crate) os: &'a str,
    pub(crate) owner: &'a Name,
    pub(crate) groups: &'a BTreeSet<Name>,
    pub(crate) address: Option<IpAddr>,
}

impl PassingAppraisal {
    /// When the facts behind it came.
    pub(crate) const fn reported_at(&self) -> UnixMillis {
        self.reported_at
    }

    pub(crate) const fn decision(&self) -> &Decision {
        &self.decision
    }
}

impl Allowed {
    pub(crate) const fn decision(&self) -> &Decision {
        &self.decision
    }

    /// How long the device's certificate still lives: no grant is given for longer.
    pub(crate) const fn certificate_life(&self) -> Duration {
        self.certificate_life
    }
}

impl<'a> Judge<'a> {
    pub(crate) const fn new(
        world: &'a World,
        postures: &'a Postures,
        channels: &'a Channels,
        now: Now,
    ) -> Self {
        Self {
            world,
            postures,
            channels,
            now,
            foreseen: Foreseen {
                engine: None,
                user: None,
                app: None,
            },
        }
    }

    /// The same questions, as if a change that is only planned were made.
    pub(crate) const fn foreseeing(self, foreseen: Foreseen<'a>) -> Self {
        Self { foreseen, ..self }
    }

    /// May this device hold a certificate, by its latest report? Blocks are another question.
    pub(crate) fn appraise(&self, device: DeviceId) -> Result<PassingAppraisal, Box<Decision>> {
        let Some(record) = self.world.state.device(device) else {
            return Err(self.certify_denial(device, Reason::Gone));
        };
        let (Some(facts), Some(owner)) = (self.postures.facts(device), record.node.user.as_ref())
        else {
            return Err(self.certify_denial(device, Reason::StalePosture));
        };
        if facts.age(self.now) > self.world.settings.posture_stale_after() {
            return Err(self.certify_denial(device, Reason::StalePosture));
        }
        let applicant = Applicant {
            id: device,
            name: &record.node.name,
            os: &record.node.os,
            owner,
            groups: self.groups(owner),
            address: self.channels.address(device),
        };
        appraise(
            self.engine(),
            &self.world.settings,
            self.world.domain(),
            applicant,
            facts,
            self.now,
        )
    }

    /// The same, and neither blocked: what a certificate takes.
    pub(crate) fn certify(&self, device: DeviceId) -> Result<PassingAppraisal, Box<Decision>> {
        match self.world.state.device(device) {
            None => Err(self.certify_denial(device, Reason::Gone)),
            Some(record) if record.blocked => Err(self.certify_denial(device, Reason::Blocked)),
            Some(_) => self.appraise(device),
        }
    }

    /// May this user, on this device, open this app now?
    pub(crate) fn connect(
        &self,
        device: DeviceId,
        user: &Name,
        app: &Name,
    ) -> Result<Allowed, Box<Decision>> {
        let Some(record) = self.world.state.device(device) else {
            return Err(self.denial(user, app, Reason::Gone));
        };
        if record.blocked {
            return Err(self.denial(user, app, Reason::Blocked));
        }
        let certificate_life = record
            .certificate
            .as_ref()
            .map_or(Duration::ZERO, |held| held.not_after.since(self.now.unix));
        if certificate_life.is_zero() {
            return Err(self.denial(user, app, Reason::CertificateExpired));
        }
        let Some(spec) = self.app(app) else {
            return Err(self.unknown_app(user, app));
        };
        let certified = match self.appraise(device) {
            Err(decision) if decision.reason == Reason::StalePosture => {
                return Err(self.denial(user, app, Reason::StalePosture));
            }
            certified => certified,
        };
        let ask = |facts| self.connect_ask(record, facts, user, spec);
        let facts = self.postures.facts(device);
        let (ask, certified) = match (facts.map(ask), certified) {
            (Some(ask), Ok(certified)) => (ask, certified),
            (Some(ask), Err(certify)) => return Err(Box::new(not_compliant(&ask, &certify))),
            (None, _) => return Err(self.denial(user, app, Reason::StalePosture)),
        };
        let decision = self.engine().decide_connect(&ask);
        if decision.allowed && certified.decision().allowed {
            Ok(Allowed {
                decision,
                certificate_life,
            })
        } else {
            Err(Box::new(decision))
        }
    }

    /// Whether a device may know that an app exists: a rule would permit it, be its posture right.
    pub(crate) fn may_know(&self, device: DeviceId, app: &AppSpec) -> bool {
        let Some(record) = self.world.state.device(device) else {
            return false;
        };
        let (Some(user), Some(facts)) = (record.node.user.as_ref(), self.postures.facts(device))
        else {
            return false;
        };
        let ask = self.connect_ask(record, facts, user, app);
        matches!(
            self.engine().decide_connect(&ask).reason,
            Reason::Permitted | Reason::CheckFailed
        )
    }

    /// Everything that a decision about this device and app looks at, for a comparison of policies.
    pub(crate) fn asks(&self, device: DeviceId) -> Option<(CertifyAsk<'a>, Vec<ConnectAsk<'a>>)> {
        let record = self.world.state.device(device)?;
        let facts = self.postures.facts(device)?;
        let user = record.node.user.as_ref()?;
        let certify = CertifyAsk {
            domain: self.world.domain(),
            device: device_facts(record, facts, user, self.now),
            groups: self.groups(user),
            circumstances: self.circumstances(device),
        };
        let connects = self
            .world
            .state
            .apps()
            .map(|app| self.connect_ask(record, facts, user, &app.spec))
            .collect();
        Some((certify, connects))
    }

    fn connect_ask<'b>(
        &self,
        record: &'b NodeRecord,
        facts: &'b Facts,
        user: &'b Name,
        app: &'b AppSpec,
    ) -> ConnectAsk<'b>
    where
        'a: 'b,
    {
        let owner = record.node.user.as_ref().unwrap_or(user);
        let device = device_facts(record, facts, owner, self.now);
        ConnectAsk {
            user,
            groups: self.groups(user),
            app,
            auth: Auth::default(),
            circumstances: self.circumstances(device.id),
            device,
            risk: None,
        }
    }

    fn circumstances(&self, device: DeviceId) -> Circumstances {
        Circumstances {
            address: self.channels.address(device),
            time: self.now.unix,
        }
    }

    fn engine(&self) -> &'a Engine {
        self.foreseen.engine.unwrap_or(&self.world.engine)
    }

    fn groups(&self, user: &Name) -> &'a BTreeSet<Name> {
        let foreseen = self.foreseen.user.filter(|other| other.name == *user);
        foreseen
            .or_else(|| self.world.state.user(user))
            .map_or(&NO_GROUPS, |user| &user.groups)
    }

    fn app(&self, name: &Name) -> Option<&'a AppSpec> {
        let foreseen = self.foreseen.app.filter(|other| other.name == *name);
        foreseen.or_else(|| self.world.state.app(name).map(|record| &record.spec))
    }

    fn certify_denial(&self, device: DeviceId, reason: Reason) -> Box<Decision> {
        denial(
            "certify",
            device.to_string(),
            self.world.domain().to_string(),
            reason,
            self.engine(),
        )
    }

    fn denial(&self, user: &Name, app: &Name, reason: Reason) -> Box<Decision> {
        denial(
            "connect",
            user.to_string(),
            app.to_string(),
            reason,
            self.engine(),
        )
    }

    /// The words that an app without any rule gets: who may not know of it learns nothing.
    fn unknown_app(&self, user: &Name, app: &Name) -> Box<Decision> {
        let mut decision = self.denial(user, app, Reason::NoRule);
        decision.remedy = Some(format!(
            "Ask an admin to run: cardeactl allow user:{user} {app}"
        ));
        decision
    }
}

impl std::fmt::Debug for Judge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge")
            .field("now", &self.now)
            .field("foreseen", &self.foreseen)
            .finish_non_exhaustive()
    }
}

/// Appraises one report: the controller's own conditions, then the policy.
pub(crate) fn appraise(
    engine: &Engine,
    settings: &Settings,
    domain: &Name,
    applicant: Applicant<'_>,
    facts: &Facts,
    now: Now,
) -> Result<PassingAppraisal, Box<Decision>> {
    let builtin = clock_check(facts).or_else(|| simulated_check(settings, facts));
    if let Some(check) = builtin {
        let mut decision = denial(
            "certify",
            applicant.id.to_string(),
            domain.to_string(),
            Reason::CheckFailed,
            engine,
        );
        decision.rules = vec![check.rule.clone()];
        decision.remedy.clone_from(&check.remedy);
        decision.checks = vec![check];
        return Err(decision);
    }
    let decision = engine.decide_certify(&CertifyAsk {
        domain,
        device: DeviceFacts {
            id: applicant.id,
            name: applicant.name,
            os: applicant.os,
            owner: applicant.owner,
            posture: facts.facts(),
            report_age: facts.age(now),
            clock_skew_s: Some(facts.skew_ms() / 1_000),
        },
        groups: applicant.groups,
        circumstances: Circumstances {
            address: applicant.address,
            time: now.unix,
        },
    });
    if decision.allowed {
        Ok(PassingAppraisal {
            reported_at: facts.received_at(),
            decision,
        })
    } else {
        Err(Box::new(decision))
    }
}

static NO_GROUPS: BTreeSet<Name> = BTreeSet::new();

fn device_facts<'a>(
    record: &'a NodeRecord,
    facts: &'a Facts,
    owner: &'a Name,
    now: Now,
) -> DeviceFacts<'a> {
    let id = match record.node.id {
        cardea_proto::id::NodeId::Device(id) => id,
        // No connector has facts or a user, so none gets here; this id is nobody's.
        cardea_proto::id::NodeId::Connector(_) => DeviceId::from_bytes([0; 10]),
    };
    DeviceFacts {
        id,
        name: &record.node.name,
        os: &record.node.os,
        owner,
        posture: facts.facts(),
        report_age: facts.age(now),
        clock_skew_s: Some(facts.skew_ms() / 1_000),
    }
}

fn clock_check(facts: &Facts) -> Option<Check> {
    let skew = Duration::from_millis(facts.skew_ms().unsigned_abs());
    if skew <= CLOCK_SKEW_MAX {
        return None;
    }
    let direction = if facts.skew_ms() > 0 {
        "ahead of"
    } else {
        "behind"
    };
    Some(Check {
        subject: CLOCK_SKEW.to_owned(),
        observed: (facts.skew_ms() / 1_000).to_string(),
        needed: format!("within {} s", CLOCK_SKEW_MAX.as_secs()),
        rule: RULE_CLOCK.to_owned(),
        remedy: Some(format!(
            "Set this device's clock: it is {} s {direction} the controller's",
            skew.as_secs()
        )),
    })
}

fn simulated_check(settings: &Settings, facts: &Facts) -> Option<Check> {
    if settings.allow_simulated_posture {
        return None;
    }
    facts.simulated().map(|name| Check {
        subject: name.clone(),
        observed: "grade simulated".to_owned(),
        needed: "collected on the device".to_owned(),
        rule: RULE_SIMULATED.to_owned(),
        remedy: Some(
            "Run the agent without --facts-from, or the controller with --allow-simulated-posture"
                .to_owned(),
        ),
    })
}

fn denial(
    action: &str,
    principal: String,
    resource: String,
    reason: Reason,
    engine: &Engine,
) -> Box<Decision> {
    Box::new(Decision {
        action: action.to_owned(),
        principal,
        resource,
        allowed: false,
        reason,
        rules: Vec::new(),
        checks: Vec::new(),
        remedy: match reason {
            Reason::StalePosture => Some("Look at: cardea posture".to_owned()),
            Reason::Blocked => Some("Ask an admin to run: cardeactl device unblock".to_owned()),
            Reason::CertificateExpired => Some("Look at: cardea status".to_owned()),
            Reason::Permitted
            | Reason::NoRule
            | Reason::CheckFailed
            | Reason::Forbidden
            | Reason::EvaluationError
            | Reason::NotCompliant
            | Reason::Gone => None,
        },
        errors: Vec::new(),
        policy_revision: engine.revision(),
    })
}
