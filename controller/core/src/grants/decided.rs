//! A decision, kept with what it looked at, so that it is not taken four times for one grant.
//!
//! A grant is decided before it is proposed, and again at each step until its tunnel is open: a
//! report, a policy or a block may have come between. Where nothing that the decision looked at has
//! moved, it would come out the same.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use cardea_proto::{
    codec::Bytes,
    decision::Decision,
    id::{DeviceId, NodeId},
    ledger::{Grant, RecordKey, Revision},
    name::Name,
    time::Now,
};

use crate::{controller::Controller, judge::Allowed, world::Expects};

/// How long a decision stands when nothing but time has passed: rules read time in seconds.
const STANDS: Duration = Duration::from_secs(1);

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) device: DeviceId,
    pub(super) user: &'a Name,
    pub(super) app: &'a Name,
}

/// A decision that allows, and what it looked at.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    allowed: Allowed,
    at: Instant,
    looked_at: LookedAt,
}

/// Everything that a decision about one device and one app looks at, but for the time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LookedAt {
    records: Vec<(RecordKey, Revision)>,
    /// The latest report, by the nonce of its channel and its counter.
    report: Option<(Bytes<16>, u64)>,
    address: Option<IpAddr>,
}

impl<'a> Subject<'a> {
    pub(super) const fn of(grant: &'a Grant) -> Self {
        Self {
            device: grant.device,
            user: &grant.user,
            app: &grant.app,
        }
    }

    /// The records on which a grant rests, besides itself and its connector.
    pub(super) fn records(self) -> [RecordKey; 6] {
        [
            RecordKey::Node(NodeId::Device(self.device)),
            RecordKey::Appraisal(self.device),
            RecordKey::User(self.user.clone()),
            RecordKey::App(self.app.clone()),
            RecordKey::Policy,
            RecordKey::Links(self.app.clone()),
        ]
    }
}

impl Decided {
    pub(super) const fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    fn stands_on(&self, looked_at: &LookedAt, now: Now) -> bool {
        let passed = now.instant.saturating_duration_since(self.at);
        self.looked_at == *looked_at && passed < STANDS.min(self.allowed.certificate_life())
    }
}

impl Controller {
    /// Decides whether a grant may be: by the decision `before`, when all that it looked at is as it
    /// was, else anew.
    pub(super) fn decide_grant(
        &self,
        now: Now,
        subject: Subject<'_>,
        before: Option<&Decided>,
    ) -> Result<Decided, Box<Decision>> {
        let looked_at = self.looks_at(subject);
        if let Some(before) = before.filter(|before| before.stands_on(&looked_at, now)) {
            return Ok(before.clone());
        }
        let Subject { device, user, app } = subject;
        let allowed = self.judge(now).connect(device, user, app)?;
        Ok(Decided {
            allowed,
            at: now.instant,
            looked_at,
        })
    }

    fn looks_at(&self, subject: Subject<'_>) -> LookedAt {
        let device = subject.device;
        let certificate = RecordKey::Certificate(NodeId::Device(device));
        LookedAt {
            records: Expects::of(subject.records())
                .and(certificate)
                .at(&self.world.state),
            report: self.postures.get(device).and_then(|posture| posture.last),
            address: self.channels.address(device),
        }
    }
}
