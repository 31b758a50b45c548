//! Local requests that wait for something.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cardea_proto::refusal::{Refusal, RefusalCode};

/// Most local requests that wait at a time.
const CALLS_MAX: usize = 64;

/// How long collectors may take; each has its own, shorter limit.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a person waits for a verdict that may not come: an unchanged one is not sent again.
const VERDICT_TIMEOUT: Duration = Duration::from_millis(400);

/// How long the controller may take to explain.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Local requests that wait.
#[derive(Debug, Default)]
pub(super) struct Calls {
    explains: BTreeMap<u64, (u64, Instant)>,
    postures: BTreeMap<u64, PostureCall>,
}

/// A request for posture, on its way.
#[derive(Clone, Copy, Debug)]
enum PostureCall {
    /// The shell collects.
    Collecting { until: Instant },
    /// The controller judges.
    Judging { until: Instant },
}

/// The daemon has no room for another request.
pub(super) fn busy() -> Refusal {
    Refusal::new(RefusalCode::Busy, "too many requests wait at this agent")
}

impl Calls {
    pub(super) fn has_room(&self) -> bool {
        self.explains.len() + self.postures.len() < CALLS_MAX
    }

    pub(super) fn explain(&mut self, now: Instant, request: u64, call: u64) {
        self.explains.insert(request, (call, now + EXPLAIN_TIMEOUT));
    }

    /// The call that this answer is for.
    pub(super) fn explained(&mut self, request: u64) -> Option<u64> {
        self.explains.remove(&request).map(|(call, _)| call)
    }

    pub(super) fn posture(&mut self, now: Instant, call: u64) {
        let until = now + COLLECT_TIMEOUT;
        self.postures
            .insert(call, PostureCall::Collecting { until });
    }

    /// Whether somebody waits for facts.
    pub(super) fn is_collecting(&self) -> bool {
        self.postures
            .values()
            .any(|call| matches!(call, PostureCall::Collecting { .. }))
    }

    /// Facts are here: the calls that can be answered come back, the others wait for the verdict.
    pub(super) fn collected(&mut self, now: Instant, is_verdict_due: bool) -> Vec<u64> {
        if !is_verdict_due {
            return self.judged();
        }
        let until = now + VERDICT_TIMEOUT;
        for call in self.postures.values_mut() {
            if matches!(call, PostureCall::Collecting { .. }) {
                *call = PostureCall::Judging { until };
            }
        }
        Vec::new()
    }

    /// The verdict is here: every call that does not wait for facts can be answered.
    pub(super) fn verdict(&mut self) -> Vec<u64> {
        let judging = |call: &PostureCall| matches!(call, PostureCall::Judging { .. });
        let ready: Vec<u64> = self
            .postures
            .iter()
            .filter(|(_, call)| judging(call))
            .map(|(call, _)| *call)
            .collect();
        self.postures.retain(|_, call| !judging(call));
        ready
    }

    /// Calls for posture that have waited long enough, and are answered with what is known.
    pub(super) fn due_postures(&mut self, now: Instant) -> Vec<u64> {
        let is_due = |call: &PostureCall| match call {
            PostureCall::Collecting { until } | PostureCall::Judging { until } => *until <= now,
        };
        let due: Vec<u64> = self
            .postures
            .iter()
            .filter(|(_, call)| is_due(call))
            .map(|(call, _)| *call)
            .collect();
        self.postures.retain(|_, call| !is_due(call));
        due
    }

    /// Calls for an explanation that nobody answered in time.
    pub(super) fn due_explains(&mut self, now: Instant) -> Vec<u64> {
        let due: Vec<u64> = self
            .explains
            .values()
            .filter(|(_, until)| *until <= now)
            .map(|(call, _)| *call)
            .collect();
        self.explains.retain(|_, (_, until)| *until > now);
        due
    }

    /// The channel is gone: nobody will explain.
    pub(super) fn lost(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.explains)
            .into_values()
            .map(|(call, _)| call)
            .collect()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let postures = self.postures.values().map(|call| match call {
            PostureCall::Collecting { until } | PostureCall::Judging { until } => *until,
        });
        self.explains
            .values()
            .map(|(_, until)| *until)
            .chain(postures)
            .min()
    }

    fn judged(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.postures).into_keys().collect()
    }
}
