//! What reaches an app: only under a live grant for that device, app and port (1), and not for
//! longer after its end than one push, or than its ttl where the connector was cut off (2).

use std::time::Duration;

use cardea_proto::{
    app::Target,
    id::{ConnectorId, DeviceId, GrantId},
    ledger::Revision,
    name::Name,
    time::Now,
};

use super::{Known, Model};

/// How long a controller waits before it proposes again what the store did not take.
const RETRY: Duration = Duration::from_secs(1);

/// Commits that an end may need when others are faster, each time.
const TRIES: u32 = 8;

/// What arrives at an app.
#[derive(Clone, Debug)]
pub(crate) struct Arrival<'a> {
    /// The connector that lets it through.
    pub(crate) connector: ConnectorId,
    /// The grant under which it does.
    pub(crate) grant: GrantId,
    /// Where it arrives.
    pub(crate) target: &'a Target,
    /// Who sent it and which app they meant; `None` while a flow only begins.
    pub(crate) sender: Option<(DeviceId, Name)>,
}

impl Known {
    /// Whether it has not ended, for whoever has seen the entries up to `seen`.
    pub(super) fn lives_at(&self, seen: Revision) -> bool {
        self.ended.is_none_or(|ended| ended.revision > seen)
    }
}

impl Model {
    /// A flow or a packet reaches an app.
    pub(crate) fn reached(&mut self, now: Now, arrival: &Arrival<'_>) {
        if let Some((property, why)) = self.objection(now, arrival) {
            let what = format!(
                "{} reached under {} at {}: {why}",
                arrival.target, arrival.grant, arrival.connector
            );
            self.violate(property, what);
        }
    }

    fn objection(&self, now: Now, arrival: &Arrival<'_>) -> Option<(u8, String)> {
        let Some(known) = self.grants.get(&arrival.grant) else {
            return Some((1, "no such grant".to_owned()));
        };
        let grant = &known.grant;
        if grant.connector != arrival.connector {
            return Some((1, "the grant is another connector's".to_owned()));
        }
        if !known.is_admitted {
            return Some((1, "the grant was never admitted".to_owned()));
        }
        if !known.spec.targets.contains(arrival.target) {
            return Some((1, format!("{} does not lead there", grant.app)));
        }
        if let Some((device, app)) = &arrival.sender
            && (*device != grant.device || *app != grant.app)
        {
            return Some((1, format!("sent by {device} for {app}")));
        }
        if self.liar == Some(arrival.connector) {
            return self.lied(now, arrival, known);
        }
        match known.until {
            None => return Some((2, "the connector was never told".to_owned())),
            Some(until) if until <= now.instant => {
                return Some((2, "its ttl has ended or it was withdrawn".to_owned()));
            }
            Some(_) => {}
        }
        self.overdue(now, known)
    }

    /// What must hold at a connector that lies.
    ///
    /// It opens what it was given keys for, for as long as somebody sends to it: the controller can
    /// only tell the other end. So the bound is that of the device's own clock, and there is none for
    /// a device that is a villain too: those two need no tunnel of ours to converse.
    fn lied(&self, now: Now, arrival: &Arrival<'_>, known: &Known) -> Option<(u8, String)> {
        let (sender, _) = arrival.sender.as_ref()?;
        let last = known.ended?.at + self.bounds.ttl + self.bounds.lag + self.bounds.push * 2;
        let is_honest = self.villain != Some(*sender);
        (is_honest && now.instant > last).then(|| {
            let why = "a device goes on sending to a connector that lies";
            (2, why.to_owned())
        })
    }

    /// Whether the connector should have been told by now that the grant is over.
    fn overdue(&self, now: Now, known: &Known) -> Option<(u8, String)> {
        let push = self.bounds.push + self.bounds.lag;
        if let Some(ended) = known.ended
            && now.instant > ended.at + self.bounds.ttl + push
        {
            return Some((2, "its end was committed longer than a ttl ago".to_owned()));
        }
        let up_since = self.sites.get(&known.grant.connector)?.up_since?;
        if let Some(ended) = known.ended
            && now.instant > ended.at.max(up_since) + push
        {
            return Some((2, "its end was committed longer than a push ago".to_owned()));
        }
        let ended = || self.certificate_ended(now, known);
        let (since, why) = known
            .unlawful
            .or_else(|| Some((ended()?, "the certificate has ended")))?;
        let since = since.max(self.store_failed.map_or(since, |at| at + RETRY));
        let patience = (self.bounds.commit + self.bounds.lag) * TRIES + push;
        (now.instant > since.max(up_since) + patience).then(|| {
            let ago = now.instant - since;
            let why = format!("{why} since {} ms, and it was not ended", ago.as_millis());
            (2, why)
        })
    }

    /// When the device's certificate ended, if it has, by the clock of the controller that is the
    /// furthest behind.
    ///
    /// A controller looks at its clock when it extends, which is within every ttl: a clock that
    /// stepped ends nothing before.
    fn certificate_ended(&self, now: Now, known: &Known) -> Option<std::time::Instant> {
        let not_after = self.devices.get(&known.grant.device)?.not_after;
        let past = now.unix.since(not_after);
        let ended = (!past.is_zero()).then(|| now.instant.checked_sub(past))??;
        let looked = self.clock_moved.map(|at| at + self.bounds.ttl);
        Some(looked.map_or(ended, |looked| looked.max(ended)))
    }
}
