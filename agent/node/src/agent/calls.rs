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

/// How long the controller may take to judge; one that has too much to do drops reports.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// The shell collects, under this number.
    Collecting { number: u64, until: Instant },
    /// The controller judges the report with this counter.
    Judging { counter: u64, until: Instant },
}

impl PostureCall {
    const fn until(self) -> Instant {
        match self {
            Self::Collecting { until, .. } | Self::Judging { until, .. } => until,
        }
    }

    const fn takes_facts(self, collected: u64) -> bool {
        matches!(self, Self::Collecting { number, .. } if number <= collected)
    }
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

    /// A call for posture, which waits for facts that are collected under `number` or later.
    pub(super) fn posture(&mut self, now: Instant, call: u64, number: u64) {
        let until = now + COLLECT_TIMEOUT;
        self.postures
            .insert(call, PostureCall::Collecting { number, until });
    }

    /// Whether somebody waits for facts that were collected under `number`.
    pub(super) fn waits_for(&self, number: u64) -> bool {
        self.postures.values().any(|call| call.takes_facts(number))
    }

    /// Who waited for these facts waits for the verdict on the report that carries them.
    pub(super) fn reported(&mut self, now: Instant, number: u64, counter: u64) {
        let until = now + VERDICT_TIMEOUT;
        for call in self.postures.values_mut() {
            if call.takes_facts(number) {
                *call = PostureCall::Judging { counter, until };
            }
        }
    }

    /// Calls that waited for these facts, when nobody will judge them.
    pub(super) fn collected(&mut self, number: u64) -> Vec<u64> {
        self.take_postures(|call| call.takes_facts(number))
    }

    /// Calls that waited for the verdict on this report, or an earlier one.
    pub(super) fn judged(&mut self, report: u64) -> Vec<u64> {
        self.take_postures(
            |call| matches!(call, PostureCall::Judging { counter, .. } if counter <= report),
        )
    }

    /// Calls for posture that have waited long enough, and are answered with what is known.
    pub(super) fn due_postures(&mut self, now: Instant) -> Vec<u64> {
        self.take_postures(|call| call.until() <= now)
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
        let postures = self.postures.values().map(|call| call.until());
        self.explains
            .values()
            .map(|(_, until)| *until)
            .chain(postures)
            .min()
    }

    fn take_postures(&mut self, is_taken: impl Fn(PostureCall) -> bool) -> Vec<u64> {
        let taken = self.postures.extract_if(.., |_, call| is_taken(*call));
        taken.map(|(call, _)| call).collect()
    }
}
