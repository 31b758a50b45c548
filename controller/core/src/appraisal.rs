//! Reports become appraisals; an appraisal that changes becomes a record, and its effects follow.

use std::time::Duration;

use cardea_proto::{
    codec::encode,
    decision::Decision,
    id::{DeviceId, NodeId},
    ledger::{Actor, Change, EndReason, RecordKey},
    message::ToNode,
    posture::{PostureVerdict, Report},
    refusal::RefusalCode,
    time::Now,
};

use crate::{
    api::ChannelId,
    controller::{Controller, Turn},
    grants::{ENDS_PER_ENTRY, end_changes},
    judge::PassingAppraisal,
    posture::Facts,
    proposals::{Intent, Pending},
    refusals::Refused,
    state::{Committed, Happened},
    timers::Timer,
    verdict,
    world::Expects,
};

/// How long until an appraisal is proposed again that the store did not take.
const RETRY: Duration = Duration::from_secs(1);

/// The first moment at which a report is older than it may be.
const JUST_AFTER: Duration = Duration::from_millis(1);

impl Controller {
    /// A device reports its posture.
    pub(crate) fn on_report(
        &mut self,
        turn: &mut Turn<'_>,
        channel: ChannelId,
        device: DeviceId,
        report: Report,
    ) {
        let size = Facts::size(&report);
        if !self.channels.spend_for(channel, size, turn.now.instant) {
            let why = "it says too much at once: the report is not looked at";
            self.note_device(turn, device, RefusalCode::Busy, why.to_owned());
            return;
        }
        let nonce = self.channels.get(channel).and_then(|open| open.nonce);
        let last = self.postures.get(device).and_then(|known| known.last);
        let (counter, report_nonce) = (report.counter, report.nonce);
        let replayed = last.is_some_and(|(nonce, last)| nonce == report_nonce && counter <= last);
        let accepted = if nonce != Some(report_nonce) {
            Err("its nonce is another channel's".to_owned())
        } else if replayed {
            Err(format!("its counter {counter} did not grow"))
        } else {
            Facts::accept(report, turn.now).map_err(|refusal| refusal.message)
        };
        let facts = match accepted {
            Ok(facts) => facts,
            Err(why) => {
                let subject = format!("report: {why}");
                self.note_device(turn, device, RefusalCode::Invalid, subject);
                return;
            }
        };
        let posture = self.postures.entry(device);
        posture.last = Some((report_nonce, counter));
        let changed = posture.facts.replace(facts).is_none_or(|before| {
            posture
                .facts
                .as_ref()
                .is_none_or(|now| now.differs(&before))
        });
        self.watch_posture(turn, device);
        self.assess(turn, device, true);
        if changed {
            // What fails ends all grants with its record; what passes may still fail a rule of an app.
            let verdict = self.postures.get(device).and_then(|p| p.verdict.as_ref());
            if verdict.is_some_and(|verdict| verdict.compliant) {
                let grants = self.world.state.grants_of_device(device).collect();
                self.redecide(turn, grants);
            }
            self.review(turn, device);
        }
        self.extend_due(turn, device);
    }

    /// Tells a device that has just said hello what is known of its posture.
    pub(crate) fn welcome_device(
        &mut self,
        turn: &mut Turn<'_>,
        channel: ChannelId,
        device: DeviceId,
    ) {
        if let Some(verdict) = self.postures.get(device).and_then(|p| p.verdict.clone()) {
            self.send_verdict(turn, channel, device, verdict);
        }
        self.reviews.forget(device);
        self.review(turn, device);
    }

    /// Appraises a device and records the outcome where it differs; the verdict is pushed after the
    /// record, or at once when there is nothing to record and `report` asks for an answer.
    ///
    /// A stale report says nothing about the device, so nothing is recorded for it.
    pub(crate) fn assess(&mut self, turn: &mut Turn<'_>, device: DeviceId, report: bool) {
        let Some(facts) = self.fresh_facts(turn.now, device) else {
            return;
        };
        let appraisal = self.judge(turn.now).appraise(device);
        let verdict = verdict::verdict_of(&appraisal, facts);
        let recorded = self.recorded(device);
        let posture = self.postures.entry(device);
        let told = posture.verdict.replace(verdict.clone());
        if recorded != Some(appraisal.is_ok()) {
            if !posture.recording {
                self.plan_appraisal(turn, device, 0);
            }
        } else if report || told.is_none_or(|told| told.reasons() != verdict.reasons()) {
            self.push_verdict(turn, device, verdict);
        }
        self.heed_allowance(turn, device);
    }

    /// A device whose appraisal changes too often is looked at again when it may pass once more; that
    /// it may not is recorded once.
    fn heed_allowance(&mut self, turn: &mut Turn<'_>, device: DeviceId) {
        let now = turn.now.instant;
        let wait = self.channels.pass_waits(device, now);
        if wait.is_zero() || self.recorded(device) != Some(false) {
            return;
        }
        let at = now + wait;
        self.timers.set_no_later(Timer::Posture(device), at);
        if self.channels.allowance(device, now).note(now) {
            let why = "its appraisal changes too often: it does not pass for some minutes";
            self.note_device(turn, device, RefusalCode::Busy, why.to_owned());
        }
    }

    /// Records what a device did that is not taken.
    fn note_device(
        &mut self,
        turn: &mut Turn<'_>,
        device: DeviceId,
        code: RefusalCode,
        subject: String,
    ) {
        let refused = Refused {
            actor: Actor::Node(NodeId::Device(device)),
            attempt: "certify",
            code,
            subject,
            decision: None,
        };
        self.note_refusal(turn, &refused);
    }

    /// Proposes to record a device's appraisal as it is now, with the end of its grants if it fails.
    pub(crate) fn plan_appraisal(&mut self, turn: &mut Turn<'_>, device: DeviceId, tries: u8) {
        self.postures.entry(device).recording = false;
        if self.fresh_facts(turn.now, device).is_none() {
            return;
        }
        let appraisal = self.judge(turn.now).appraise(device);
        let compliant = appraisal.is_ok();
        if !self.is_enrolled(device) || self.recorded(device) == Some(compliant) {
            return;
        }
        let mut draft = self.world.draft(turn.now);
        draft.decision = Some(decision_of(appraisal));
        draft.changes.push(Change::Appraised { device, compliant });
        if !compliant {
            let grants = self.world.state.grants_of_device(device);
            let ends: Vec<_> = grants
                .map(|grant| (grant, EndReason::PostureFailed))
                .take(ENDS_PER_ENTRY)
                .collect();
            draft.changes.extend(end_changes(&ends));
        }
        let expects = Expects::of([
            RecordKey::Node(NodeId::Device(device)),
            RecordKey::Appraisal(device),
            RecordKey::Policy,
        ]);
        let posture = self.postures.entry(device);
        posture.recording = true;
        posture.recording_bytes = u64::try_from(encode(&draft).len()).unwrap_or(u64::MAX);
        let intent = Intent::Appraise(device);
        self.propose(turn, expects, draft, Pending { intent, tries });
    }

    /// An appraisal is on record, whoever planned it.
    pub(crate) fn appraisal_recorded(
        &mut self,
        turn: &mut Turn<'_>,
        committed: &Committed<(DeviceId, bool)>,
    ) {
        let (device, compliant) = *committed.fact();
        tracing::info!(device.id = %device, compliant, revision = %committed.revision(), "appraised");
        let verdict = self.postures.get(device).and_then(|p| p.verdict.clone());
        if let Some(verdict) = verdict.filter(|verdict| verdict.compliant == compliant) {
            self.push_verdict(turn, device, verdict);
        }
        if !compliant {
            self.end_device(turn, device, EndReason::PostureFailed);
        }
        self.review(turn, device);
    }

    /// Forgets reports that another controller's appraisals contradict: theirs rest on later ones,
    /// which only they have.
    pub(crate) fn heed_appraisals(&mut self, happened: &[Happened]) {
        for (device, compliant) in happened.iter().filter_map(Happened::appraised) {
            let verdict = self.postures.get(device).and_then(|p| p.verdict.as_ref());
            if verdict.is_some_and(|verdict| verdict.compliant != compliant) {
                self.postures.forget(device);
            }
        }
    }

    /// The appraisal that this controller planned is on record; the device may have reported since.
    pub(crate) fn appraised(&mut self, turn: &mut Turn<'_>, device: DeviceId) {
        let posture = self.postures.entry(device);
        posture.recording = false;
        let bytes = std::mem::take(&mut posture.recording_bytes);
        let now = turn.now.instant;
        let passes = self.recorded(device) == Some(true);
        let allowance = self.channels.allowance(device, now);
        allowance.spend(bytes, now);
        if passes {
            allowance.clear_note();
        }
        self.assess(turn, device, false);
    }

    /// The store did not take an appraisal: it is tried again.
    pub(crate) fn appraisal_failed(&mut self, turn: &mut Turn<'_>, device: DeviceId) {
        self.postures.entry(device).recording = false;
        let at = turn.now.instant + RETRY;
        self.timers.set_no_later(Timer::Posture(device), at);
    }

    /// A device's report may have become stale, or its appraisal waits to be recorded.
    pub(crate) fn posture_due(&mut self, turn: &mut Turn<'_>, device: DeviceId) {
        if self.fresh_facts(turn.now, device).is_some() {
            self.watch_posture(turn, device);
            self.assess(turn, device, false);
        } else if self.hears(device) {
            self.end_device(turn, device, EndReason::PostureStale);
            self.review(turn, device);
        }
    }

    /// The change that records a pass which is known but not on record yet.
    pub(crate) fn unrecorded_pass(&self, device: DeviceId) -> Option<Change> {
        let compliant = true;
        (self.recorded(device) != Some(compliant))
            .then_some(Change::Appraised { device, compliant })
    }

    /// Whether a device that reports would report here: another controller may hear from it.
    fn hears(&self, device: DeviceId) -> bool {
        !self.world.settings.shared || self.channels.of_device(device).is_some()
    }

    fn recorded(&self, device: DeviceId) -> Option<bool> {
        self.world.state.device(device)?.compliant
    }

    fn is_enrolled(&self, device: DeviceId) -> bool {
        self.world.state.device(device).is_some()
    }

    fn fresh_facts(&self, now: Now, device: DeviceId) -> Option<&Facts> {
        let stale_after = self.world.settings.posture_stale_after();
        let facts = self.postures.facts(device)?;
        (facts.age(now) <= stale_after).then_some(facts)
    }

    pub(crate) fn watch_posture(&mut self, turn: &Turn<'_>, device: DeviceId) {
        if let Some(facts) = self.postures.facts(device) {
            let at = facts.received() + self.world.settings.posture_stale_after() + JUST_AFTER;
            self.timers
                .set(Timer::Posture(device), at.max(turn.now.instant));
        }
    }

    /// Tells a device that it was blocked, or no longer is, with what is known of its posture.
    pub(crate) fn tell_of_block(&self, turn: &mut Turn<'_>, device: DeviceId) {
        if let Some(verdict) = self.postures.get(device).and_then(|p| p.verdict.clone()) {
            self.push_verdict(turn, device, verdict);
        }
    }

    fn push_verdict(&self, turn: &mut Turn<'_>, device: DeviceId, verdict: PostureVerdict) {
        let node = NodeId::Device(device);
        let channels = [self.channels.renewal_of(node), self.channels.of(node)];
        for channel in channels.into_iter().flatten() {
            self.send_verdict(turn, channel, device, verdict.clone());
        }
    }

    /// Sends a verdict, and which of the channel's reports it answers.
    fn send_verdict(
        &self,
        turn: &mut Turn<'_>,
        channel: ChannelId,
        device: DeviceId,
        mut verdict: PostureVerdict,
    ) {
        let nonce = self.channels.get(channel).and_then(|open| open.nonce);
        let last = self.postures.get(device).and_then(|known| known.last);
        verdict.report = last
            .filter(|(reported, _)| Some(*reported) == nonce)
            .map(|(_, counter)| counter);
        let record = self.world.state.device(device);
        verdict.blocked = record.is_some_and(|record| record.blocked);
        turn.send(channel, ToNode::Posture(verdict));
    }
}

fn decision_of(appraisal: Result<PassingAppraisal, Box<Decision>>) -> Decision {
    match appraisal {
        Ok(passing) => passing.decision().clone(),
        Err(decision) => *decision,
    }
}

#[cfg(test)]
mod tests;
