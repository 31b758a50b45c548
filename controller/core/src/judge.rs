//! Decisions: the one place where everything that a decision looks at comes together.
//!
//! A request, a renewal, an extension, `cardea explain` and `cardeactl explain` all ask here, so
//! they cannot differ. What passes comes out as a proof value ([`PassingAppraisal`], [`Allowed`])
//! that nothing else makes.

mod appraise;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use cardea_proto::{
    app::AppSpec,
    decision::{Check, Decision, Reason},
    id::DeviceId,
    ledger::User,
    name::Name,
    time::{Now, UnixMillis},
};

use self::appraise::denial;
pub(crate) use self::appraise::{RULE_CLOCK, RULE_SIMULATED, appraise};
use crate::{
    channels::Channels,
    policy::{Auth, CertifyAsk, Circumstances, ConnectAsk, DeviceFacts, Engine, not_compliant},
    posture::{Facts, Postures},
    state::NodeRecord,
    world::World,
};

/// The rule under which a device does not pass that has filled the ledger by passing and failing.
const RULE_CHANGES: &str = "controller/changes";

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

/// How a device stands at one moment, whatever app it asks for.
#[derive(Debug)]
pub(crate) struct Standing<'a> {
    /// Its name, while it is enrolled.
    name: Option<&'a Name>,
    /// Its record and its latest report; `None` without either.
    of: Option<(&'a NodeRecord, &'a Facts)>,
    /// How long its certificate still lives, or why it may open nothing.
    certified: Result<Duration, Barred>,
}

/// Why a device may open nothing.
#[derive(Debug)]
enum Barred {
    /// A reason without further words.
    For(Reason),
    /// Its appraisal fails.
    Appraised(Box<Decision>),
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
        let passing = appraise(
            self.engine(),
            &self.world.settings,
            self.world.domain(),
            applicant,
            facts,
            self.now,
        )?;
        let waits = self.channels.pass_waits(device, self.now.instant);
        if record.compliant == Some(false) && !waits.is_zero() {
            return Err(self.restless(device));
        }
        Ok(passing)
    }

    /// A device that passes, and has filled the ledger by passing and failing.
    fn restless(&self, device: DeviceId) -> Box<Decision> {
        let mut decision = self.certify_denial(device, Reason::CheckFailed);
        decision.rules = vec![RULE_CHANGES.to_owned()];
        let remedy = "Leave it as it is for some minutes";
        decision.remedy = Some(format!("{remedy}, then: cardea posture"));
        decision.checks = vec![Check {
            subject: "posture".to_owned(),
            observed: "changing too often".to_owned(),
            needed: "at most 64 KiB of records in an hour".to_owned(),
            rule: RULE_CHANGES.to_owned(),
            remedy: Some(remedy.to_owned()),
        }];
        decision
    }

    /// The same, and neither blocked: what a certificate takes.
    pub(crate) fn certify(&self, device: DeviceId) -> Result<PassingAppraisal, Box<Decision>> {
        match self.world.state.device(device) {
            None => Err(self.certify_denial(device, Reason::Gone)),
            Some(record) if record.blocked => Err(self.certify_denial(device, Reason::Blocked)),
            Some(_) => self.appraise(device),
        }
    }

    /// How a device stands, whatever app it asks for.
    pub(crate) fn standing(&self, device: DeviceId) -> Standing<'a> {
        let Some(record) = self.world.state.device(device) else {
            return Standing {
                name: None,
                of: None,
                certified: Err(Barred::For(Reason::Gone)),
            };
        };
        let life = record
            .certificate
            .as_ref()
            .map_or(Duration::ZERO, |held| held.not_after.since(self.now.unix));
        let certified = if record.blocked {
            Err(Barred::For(Reason::Blocked))
        } else if life.is_zero() {
            Err(Barred::For(Reason::CertificateExpired))
        } else {
            match self.appraise(device) {
                Ok(_passing) => Ok(life),
                Err(denied) if denied.reason == Reason::StalePosture => {
                    Err(Barred::For(Reason::StalePosture))
                }
                Err(denied) => Err(Barred::Appraised(denied)),
            }
        };
        let facts = self.postures.facts(device);
        Standing {
            name: Some(&record.node.name),
            of: facts.map(|facts| (record, facts)),
            certified,
        }
    }

    /// May this user, on this device, open this app now?
    pub(crate) fn connect(
        &self,
        device: DeviceId,
        user: &Name,
        app: &Name,
    ) -> Result<Allowed, Box<Decision>> {
        self.connect_as(&self.standing(device), user, app)
    }

    /// The same for a device whose standing is at hand.
    pub(crate) fn connect_as(
        &self,
        standing: &Standing<'a>,
        user: &Name,
        app: &Name,
    ) -> Result<Allowed, Box<Decision>> {
        let barred = match &standing.certified {
            Err(Barred::For(reason)) => return Err(self.barred(standing, user, app, *reason)),
            Err(Barred::Appraised(denied)) => Err(denied),
            Ok(life) => Ok(*life),
        };
        let Some((record, facts)) = standing.of else {
            return Err(self.denial(user, app, Reason::StalePosture));
        };
        let Some(spec) = self.app(app) else {
            // Who may not know of an app learns nothing: the words of one without any rule.
            return Err(self.denial(user, app, Reason::NoRule));
        };
        let ask = self.connect_ask(record, facts, user, spec);
        let certificate_life = barred.map_err(|denied| Box::new(not_compliant(&ask, denied)))?;
        let decision = self.engine().decide_connect(&ask);
        if decision.allowed {
            Ok(Allowed {
                decision,
                certificate_life,
            })
        } else {
            Err(Box::new(decision))
        }
    }

    /// Whether some report of this device could let this user open this app: all that can be said
    /// while its report is late or, after a restart, has not come yet.
    pub(crate) fn may_ever(&self, device: DeviceId, user: &Name, app: &Name) -> bool {
        let known = self.world.state.device(device).zip(self.app(app));
        let Some((record, spec)) = known else {
            return false;
        };
        let nothing = Facts::nothing(self.now);
        let facts = self.postures.facts(device).unwrap_or(&nothing);
        let ask = self.connect_ask(record, facts, user, spec);
        let decision = self.engine().decide_connect(&ask);
        let is_forbidden = decision.reason == Reason::Forbidden && decision.checks.is_empty();
        decision.reason != Reason::NoRule && !is_forbidden
    }

    /// The apps that a device may know of, because a rule would permit them if its posture were
    /// right, each with why it may not be opened now.
    pub(crate) fn survey(&self, device: DeviceId) -> Vec<(&'a AppSpec, Option<Box<Decision>>)> {
        let standing = self.standing(device);
        let apps = self.world.state.apps().map(|app| &app.spec);
        apps.filter_map(|app| Some((app, self.known(&standing, app)?)))
            .collect()
    }

    /// Whether a device may know that an app exists.
    pub(crate) fn may_know(&self, device: DeviceId, app: &AppSpec) -> bool {
        self.known(&self.standing(device), app).is_some()
    }

    /// `None` for an app that the device may not know of, else why it may not be opened now.
    fn known(&self, standing: &Standing<'a>, app: &AppSpec) -> Option<Option<Box<Decision>>> {
        let (record, facts) = standing.of?;
        let user = record.node.user.as_ref()?;
        let ask = self.connect_ask(record, facts, user, app);
        let decision = self.engine().decide_connect(&ask);
        if !matches!(decision.reason, Reason::Permitted | Reason::CheckFailed) {
            return None;
        }
        Some(match &standing.certified {
            Err(Barred::For(reason)) => Some(self.barred(standing, user, &app.name, *reason)),
            Err(Barred::Appraised(denied)) => Some(Box::new(not_compliant(&ask, denied))),
            Ok(_) => (!decision.allowed).then(|| Box::new(decision)),
        })
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
        let record = self.world.state.device(device);
        denial(
            "certify",
            record.map_or_else(|| device.to_string(), |record| record.node.name.to_string()),
            self.world.domain().to_string(),
            reason,
            self.engine(),
        )
    }

    /// A denial because of how a device stands, whatever app it asks for.
    fn barred(
        &self,
        standing: &Standing<'_>,
        user: &Name,
        app: &Name,
        reason: Reason,
    ) -> Box<Decision> {
        let mut denied = self.denial(user, app, reason);
        if let (Reason::Blocked, Some(device)) = (reason, standing.name) {
            denied.remedy = Some(format!(
                "Ask an admin to run: cardeactl device unblock {device}"
            ));
        }
        denied
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
}

impl std::fmt::Debug for Judge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge")
            .field("now", &self.now)
            .field("foreseen", &self.foreseen)
            .finish_non_exhaustive()
    }
}

pub(crate) static NO_GROUPS: BTreeSet<Name> = BTreeSet::new();

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
        clock_skew_s: Some(facts.skew_s()),
    }
}
